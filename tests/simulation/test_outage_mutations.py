"""Would the outage simulation notice? Each test breaks one rule of CORRECTNESS 13 and runs seeds until one fails."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from s3stream.appender import Appender
from s3stream.commit_queue import CommitQueue
from s3stream.flush import Flush
from s3stream.flush_plan import StreamShare
from s3stream.flusher import Flusher
from s3stream.stream import Stream
from s3stream.stream_ranges import UploadedRanges
from s3stream.types import ObjectRange
from tests.simulation.mutations import Break, found_out
from tests.support.sim_outage import simulate_outages
from tests.support.virtual_time import run_virtual

SEEDS = (1, 2, 4, 3, 5, 6)


def memory_is_dropped_before_the_upload(patch: pytest.MonkeyPatch) -> None:
    upload = Flusher._upload

    async def hasty(self: Flusher, flush: Flush) -> Any:
        batches = {id(segment): segment.batches for share in flush.shares for segment in share.segments}
        for share in flush.shares:
            for segment in share.segments:
                if self._gate.away and not segment.released and share.stream.table.segments[0] is segment:
                    self._appender.release(share.stream, segment)
                    segment.refill(batches[id(segment)])
        return await upload(self, flush)

    patch.setattr(Flusher, "_upload", hasty)


def commits_of_a_stream_are_not_in_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flush, "turns_left", property(lambda self: set()))


def what_left_memory_is_not_in_order(patch: pytest.MonkeyPatch) -> None:
    """The newest range leaves first, and what is before it in memory is not."""

    def any_share(self: CommitQueue, share: StreamShare, ranges: list[ObjectRange]) -> None:
        stream = share.stream
        held = [segment for segment in share.segments if not segment.released]
        if not held or held[0] is stream.table.segments[0]:
            return
        stream.uploaded.put(ranges)
        for segment in held:
            self._appender.forget(stream, segment)
            segment.released = True
            segment.empty()

    patch.setattr(CommitQueue, "_release_share", any_share)


def readers_are_not_told_where_it_is(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(UploadedRanges, "find", lambda self, offset: None)


def memory_is_never_let_go(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CommitQueue, "make_room", lambda self: None)


def what_left_memory_still_counts(patch: pytest.MonkeyPatch) -> None:
    forget = Appender.forget

    def without_giving(self: Appender, stream: Stream, segment: Any) -> None:
        used = segment.counted_bytes
        released = segment.released
        forget(self, stream, segment)
        if not released and sys._getframe(1).f_code.co_name == "release":
            self._account.take(used)

    patch.setattr(Appender, "forget", without_giving)


def the_trim_does_not_wait_for_queued_commits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flusher, "_trim_after", lambda self, flush: self._appender.lowest_position())


def a_queued_commit_counts_as_done(patch: pytest.MonkeyPatch) -> None:
    """Where its outcome is not known."""
    join = CommitQueue.join

    async def done(self: CommitQueue, flush: Flush) -> None:
        await join(self, flush)
        for share in flush.shares:
            share.stream.committed_end = max(share.stream.committed_end, share.end)
            share.stream.uploaded.committed(share.end)

    patch.setattr(CommitQueue, "join", done)


MUTATIONS: list[Break] = [
    memory_is_dropped_before_the_upload,
    commits_of_a_stream_are_not_in_order,
    what_left_memory_is_not_in_order,
    readers_are_not_told_where_it_is,
    memory_is_never_let_go,
    what_left_memory_still_counts,
    the_trim_does_not_wait_for_queued_commits,
    a_queued_commit_counts_as_done,
]


@pytest.mark.parametrize("broken", MUTATIONS, ids=lambda broken: broken.__name__)
def test_a_broken_engine_is_found_out(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    found_out(lambda seed: run_virtual(simulate_outages(seed)), SEEDS)
