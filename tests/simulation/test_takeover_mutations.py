"""Would the cluster's simulation notice? Each test takes one rule of takeover and movement out and runs seeds until one
fails.

The seed in the table is where the search begins: the first that found it when the table was made.
"""

from __future__ import annotations

from typing import Any

import pytest

import metadata.commits
import metadata.fencing
import metadata.streams
import wal.file_takeover
from metadata.commits import Decision, decide
from s3stream.takeover_chunks import ChunkPipeline
from s3stream.types import CommitResult, OpenRequest
from tests.simulation.broken_rules import (
    a_stream_is_closed_and_its_tail_not_written_down,
    streams_are_opened_before_what_was_read_is_committed,
    the_end_is_looked_for_and_no_seal_written,
    what_is_committed_is_committed_again,
)
from tests.simulation.mutations import Break, found_out
from tests.support.sim_takeover import simulate
from tests.support.virtual_time import run_virtual
from wal.files import Files

SEEDS = 12


def a_fenced_owner_still_commits(patch: pytest.MonkeyPatch) -> None:
    def anybody(committed: Any, node: Any, state: Any, epoch: Any, owner: Any, start: int, end: int) -> Decision:
        return decide(committed._replace(stream_epoch=epoch), node, state, epoch, node, start, end)

    patch.setattr(metadata.commits, "decide", anybody)
    patch.setattr(metadata.fencing, "check", lambda tx, node: None)


def a_lock_that_is_held_does_not_count(patch: pytest.MonkeyPatch) -> None:
    def acquire(files: Files, path: str) -> int:
        return files.open(f"{path}/owner")

    patch.setattr(wal.file_takeover, "acquire", acquire)


def streams_are_opened_without_reading_the_sealed_wal(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: ChunkPipeline, objects: Any) -> CommitResult:
        return CommitResult()

    patch.setattr(ChunkPipeline, "_commit", nothing)


def a_stream_that_is_open_elsewhere_is_opened(patch: pytest.MonkeyPatch) -> None:
    def openable(row: Any, node: Any, request: OpenRequest, known: Any) -> None:
        pass

    patch.setattr(metadata.streams, "_check_openable", openable)


MUTATIONS: list[tuple[Break, str, int]] = [
    (the_end_is_looked_for_and_no_seal_written, "objects", 0),
    (a_fenced_owner_still_commits, "objects", 8),
    (a_lock_that_is_held_does_not_count, "files", 0),
    (streams_are_opened_before_what_was_read_is_committed, "files", 0),
    (streams_are_opened_without_reading_the_sealed_wal, "objects", 0),
    (a_stream_that_is_open_elsewhere_is_opened, "objects", 4),
    (what_is_committed_is_committed_again, "objects", 0),
    (a_stream_is_closed_and_its_tail_not_written_down, "files", 0),
]


@pytest.mark.parametrize(("broken", "kind", "first"), MUTATIONS, ids=[broken.__name__ for broken, _, _ in MUTATIONS])
def test_a_broken_takeover_is_found_out(broken: Break, kind: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    found_out(lambda seed: run_virtual(simulate(seed, kind)), [*range(first, SEEDS), *range(first)])
