"""Would the simulation notice? Each test breaks one rule of the engine on purpose and runs seeds until one fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import metadata.commits
from metadata.commits import Decision, decide
from s3stream.flush import Flush
from s3stream.flusher import Flusher
from s3stream.opening import Opening
from s3stream.outcomes import Outcomes
from s3stream.stream import Stream
from s3stream.types import CommitResult, FlushCommit, RangeOutcome
from tests.simulation.mutations import Break, found_out
from tests.support.sim_engine import simulate
from tests.support.virtual_time import run_virtual

SEEDS = 40


class Never(set[Any]):
    """A set that nothing enters."""

    def add(self, item: Any) -> None:
        pass


def flushes_do_not_wait_for_earlier_ones(patch: pytest.MonkeyPatch) -> None:
    begin = Flush.__init__

    def unordered(self: Flush, *args: Any) -> None:
        begin(self, *args)
        self.waits = Never()

    patch.setattr(Flush, "__init__", unordered)


def an_opening_does_not_wait_for_flushes(patch: pytest.MonkeyPatch) -> None:
    async def at_once(self: Opening, streams: Any, release: Any) -> None:
        pass

    patch.setattr(Opening, "_take_turn", at_once)


def a_commit_names_the_epochs_of_its_batches(patch: pytest.MonkeyPatch) -> None:
    described = Flusher._described

    def as_appended(self: Flusher, flush: Flush, node: Any) -> FlushCommit:
        commit = described(self, flush, node)
        for one, built in zip(commit.objects, flush.objects or [], strict=True):
            one.ranges[:] = built.ranges  # type: ignore[index]
        return commit

    patch.setattr(Flusher, "_described", as_appended)


def _decide_with(patch: pytest.MonkeyPatch, broken: Callable[..., Decision]) -> None:
    patch.setattr(metadata.commits, "decide", broken)


def a_commit_under_an_old_stream_epoch_counts(patch: pytest.MonkeyPatch) -> None:
    def broken(one: Any, node: Any, state: Any, epoch: Any, owner: Any, start: int, end: int) -> Decision:
        return decide(one._replace(stream_epoch=epoch), node, state, epoch, node, start, end)

    _decide_with(patch, broken)


def what_is_committed_is_committed_again(patch: pytest.MonkeyPatch) -> None:
    def broken(one: Any, node: Any, state: Any, epoch: Any, owner: Any, start: int, end: int) -> Decision:
        decision = decide(one, node, state, epoch, owner, start, min(end, one.end - 1))
        return decision._replace(live_start=one.start)

    _decide_with(patch, broken)


def a_hole_is_not_seen(patch: pytest.MonkeyPatch) -> None:
    flushes_do_not_wait_for_earlier_ones(patch)

    def broken(one: Any, node: Any, state: Any, epoch: Any, owner: Any, start: int, end: int) -> Decision:
        decision = decide(one, node, state, epoch, owner, start, end)
        return Decision(RangeOutcome.COMMITTED, one.start) if decision.outcome is RangeOutcome.GAP else decision

    _decide_with(patch, broken)


def memory_is_dropped_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    commit, apply = Flusher._commit, Outcomes._apply

    async def hasty(self: Flusher, flush: Flush) -> CommitResult:
        for share in flush.shares:
            for segment in share.segments:
                if segment in share.stream.table.segments:
                    self._appender.forget(share.stream, segment)
        return await commit(self, flush)

    def put_back(self: Outcomes, stream: Stream, share: Any, *args: Any) -> None:
        """What the engine itself drops now has to be there."""
        for segment in share.segments:
            if segment not in stream.table.segments:
                stream.table.segments.append(segment)
                self._appender._account.take(segment.counted_bytes)
        apply(self, stream, share, *args)

    patch.setattr(Flusher, "_commit", hasty)
    patch.setattr(Outcomes, "_apply", put_back)


MUTATIONS: list[tuple[Break, int]] = [
    (flushes_do_not_wait_for_earlier_ones, 0),
    (an_opening_does_not_wait_for_flushes, 15),
    (a_commit_names_the_epochs_of_its_batches, 0),
    (a_commit_under_an_old_stream_epoch_counts, 2),
    (what_is_committed_is_committed_again, 5),
    (a_hole_is_not_seen, 0),
    (memory_is_dropped_before_the_commit, 0),
]
"""And where the search begins: the first seed that found it when the table was made."""


@pytest.mark.parametrize(("broken", "first"), MUTATIONS, ids=[broken.__name__ for broken, _ in MUTATIONS])
def test_a_broken_engine_is_found_out(broken: Break, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    found_out(lambda seed: run_virtual(simulate(seed)), [*range(first, SEEDS), *range(first)])
