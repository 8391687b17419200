"""The rules of a cluster, each broken on purpose: what `test_cluster_mutations.py` takes out, one at a time."""

from __future__ import annotations

from typing import Any

import pytest

import brokers.coordinators.shard
import brokers.partitions.manager
import metadata.commits
import metadata.streams
import metadata.tails
import s3stream.objectstore.exists
import wal.object_put
from metadata.commits import Decision, decide
from s3stream.flusher import Flush, Flusher
from s3stream.recovery import Recovery
from s3stream.tails import Tails
from s3stream.takeover_chunks import ChunkPipeline
from s3stream.types import OpenRequest, RangeOutcome
from tests.support.sim_files import SimFiles
from wal.object_put import Put
from wal.object_seal import Sealer
from wal.object_sequencer import Sequencer

# --- fencing -----------------------------------------------------------------------------------------


def the_end_is_looked_for_and_no_seal_written(patch: pytest.MonkeyPatch) -> None:
    async def pretend(self: Sealer, *args: Any) -> bool:
        return True

    patch.setattr(Sealer, "_bar", pretend)


def exists_already_is_taken_for_ones_own(patch: pytest.MonkeyPatch) -> None:
    async def believe(*args: Any) -> bool:
        return True

    patch.setattr(wal.object_put, "is_own", believe)
    patch.setattr(s3stream.objectstore.exists, "_holds", believe)


# --- opening and taking over -------------------------------------------------------------------------


def a_stream_that_is_open_elsewhere_is_opened(patch: pytest.MonkeyPatch) -> None:
    """From a state that is neither closed nor sealed, and by whoever is told so."""

    def openable(row: Any, node: Any, request: OpenRequest, known: Any) -> None:
        pass

    patch.setattr(metadata.streams, "_check_openable", openable)
    patch.setattr(brokers.partitions.manager.PartitionManager, "_openable", lambda self, part, fenced: True)


def streams_are_opened_before_what_was_read_is_committed(patch: pytest.MonkeyPatch) -> None:
    async def at_once(self: ChunkPipeline) -> None:
        pass

    patch.setattr(ChunkPipeline, "settle", at_once)


def a_restart_does_not_read_its_wal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "_take_in", lambda self, group, owned: None)


# --- handing over ------------------------------------------------------------------------------------


def a_stream_is_closed_and_its_tail_not_written_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(metadata.tails, "add", lambda tx, tails: None)


def a_source_forgets_the_tails_that_it_closed_with(patch: pytest.MonkeyPatch) -> None:
    def forget(self: Tails, streams: Any) -> None:
        for stream in streams:
            self._appender.streams.pop(stream.stream_id, None)

    patch.setattr(Tails, "keep", forget)


# --- committing --------------------------------------------------------------------------------------


class Never(set[Any]):
    """A set that nothing enters."""

    def add(self, item: Any) -> None:
        pass


def flushes_commit_in_any_order(patch: pytest.MonkeyPatch) -> None:
    """And a range above the committed end counts."""
    begin = Flush.__init__

    def unordered(self: Flush, *args: Any) -> None:
        begin(self, *args)
        self.waits = Never()

    def hole(one: Any, node: Any, state: Any, epoch: Any, owner: Any, start: int, end: int) -> Decision:
        decision = decide(one, node, state, epoch, owner, start, end)
        return Decision(RangeOutcome.COMMITTED, one.start) if decision.outcome is RangeOutcome.GAP else decision

    patch.setattr(Flush, "__init__", unordered)
    patch.setattr(metadata.commits, "decide", hole)


def what_is_committed_is_committed_again(patch: pytest.MonkeyPatch) -> None:
    def broken(one: Any, node: Any, state: Any, epoch: Any, owner: Any, start: int, end: int) -> Decision:
        decision = decide(one, node, state, epoch, owner, start, min(end, one.end - 1))
        return decision._replace(live_start=one.start) if decision.outcome is RangeOutcome.COMMITTED else decision

    patch.setattr(metadata.commits, "decide", broken)


def the_wal_is_trimmed_past_what_waits_for_its_commit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flusher, "_trim_after", lambda self, flush: self._appender.durable_position)


# --- what is durable ---------------------------------------------------------------------------------


def groups_are_acknowledged_as_their_puts_end(patch: pytest.MonkeyPatch) -> None:
    ended = Sequencer._ended

    def out_of_order(self: Sequencer, group: Any, error: Exception | None) -> None:
        if error is None:
            for one in self._in_flight:
                if one is group:
                    break
                one.durable = True
                one.put.stop()
            ended(self, self._in_flight[0], None)
        ended(self, group, error) if group in self._in_flight else None

    patch.setattr(Sequencer, "_ended", out_of_order)


def a_put_is_durable_when_it_is_sent(patch: pytest.MonkeyPatch) -> None:
    async def no_answer_needed(self: Put, which: int) -> None:
        assert self._encoded is not None
        key, buffers = self.key, self._encoded.buffers
        self._tools.tasks.spawn(self._tools.store.create(key, buffers), "WAL put, unwatched")

    patch.setattr(Put, "_until_known", no_answer_needed)


def groups_are_written_and_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimFiles, "fdatasync", lambda self, handle: None)


# --- partitions and coordinators ---------------------------------------------------------------------


def a_coordinator_loads_without_its_log(patch: pytest.MonkeyPatch) -> None:
    async def nothing(source: Any, durable: Any) -> int:
        durable.end = source.high_watermark
        return 0

    patch.setattr(brokers.coordinators.shard, "replay", nothing)
