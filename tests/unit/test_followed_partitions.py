"""Partitions of other brokers, read here (CORRECTNESS 17): what is served, and what a consumer hears where knowledge
ends. On fake streams, whose rows say what the test wants, and virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.limits import FOLLOWED_AGE_S, FOLLOWED_LOOKS_APART_S, FOLLOWED_PATIENCE_S
from brokers.partitions.followed import FollowedLog
from brokers.partitions.partition_log import READ_COMMITTED, READ_UNCOMMITTED, PartitionLog
from brokers.partitions.pending import AppendOrigin
from brokers.records.builder import marker_batch
from brokers.records.record import EndMarker
from s3stream.errors import Corrupt, NotFound, Unavailable
from s3stream.metrics import Metrics
from s3stream.types import Checkpoint
from tests.support.fake_stream import FakeStream
from tests.support.followers import FakeViews, commit, make_followed
from tests.support.partitions import Answers, append, batch, fake, idempotent, make_log
from tests.support.virtual_time import VirtualClock, virtual

COORDINATOR = AppendOrigin.COORDINATOR


class Both:
    """A leader's log, and the same partition as another broker follows it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.leader: PartitionLog = make_log()
        self.stream: FakeStream = fake(self.leader)
        self.views = FakeViews()
        self.views.leaders[1] = self.stream
        self.metrics = Metrics()
        self.followed = make_followed(self.views, self.clock, 2, self.metrics)
        self.log: FollowedLog = self.followed.log("t-0", 1, 0)

    def produce(self, records: memoryview, origin: AppendOrigin = AppendOrigin.CLIENT) -> None:
        answers = append(self.leader, records, origin)
        self.stream.make_durable()
        assert answers.errors == [ErrorCode.none]

    def decide(self, commit: bool, producer_id: int = 9) -> None:
        marker = marker_batch(producer_id, 0, EndMarker(commit, 0), 0)
        self.leader.append(memoryview(marker), COORDINATOR, Answers())
        self.stream.make_durable()

    async def read(self, offset: int, isolation: int = READ_UNCOMMITTED) -> int:
        return (await self.log.read(offset, 1 << 20, isolation)).end_offset

    async def refused(self, offset: int, isolation: int = READ_UNCOMMITTED) -> str:
        with pytest.raises(KafkaError) as caught:
            await self.read(offset, isolation)
        return caught.value.code.name


async def pause(seconds: float = FOLLOWED_LOOKS_APART_S) -> None:
    await asyncio.sleep(seconds + 0.01)


@virtual
async def test_17_what_is_committed_is_served_and_nothing_above_it() -> None:
    both = Both()
    both.produce(batch(3))
    commit(both.stream)
    both.produce(batch(2))
    assert both.log.read_recent(0, 1 << 20) is None, "nothing is known before the row was read"
    assert await both.read(0) == 3
    assert (both.log.log_start_offset, both.log.high_watermark) == (0, 3)
    known = both.log.read_recent(1, 1 << 20)
    assert known is not None and known.end_offset == 3
    assert both.views.looks == 1
    assert both.log.read_recent(3, 1 << 20) is None


@virtual
async def test_17_at_its_known_end_the_row_is_read_again_and_then_the_consumer_goes_back_to_the_leader() -> None:
    both = Both()
    both.produce(batch(3))
    commit(both.stream)
    assert await both.read(0) == 3
    await pause()
    both.produce(batch(2))
    assert await both.refused(3) == "offset_not_available"
    await pause()
    commit(both.stream)
    assert await both.read(3) == 5
    await pause()
    assert await both.refused(5_000) == "offset_not_available", "the leader may have it: never out of range"
    assert both.views.looks == 4


@virtual
async def test_17_however_many_consumers_get_to_the_end_the_row_is_read_once_at_a_time_and_not_too_often() -> None:
    both = Both()
    both.produce(batch(3))
    commit(both.stream)
    await both.read(0)
    looks = both.views.looks
    for _ in range(20):
        found = await asyncio.gather(*(both.refused(3) for _ in range(50)))
        assert set(found) == {"offset_not_available"}
        await asyncio.sleep(FOLLOWED_LOOKS_APART_S / 4)
    assert 4 <= both.views.looks - looks <= 6, "20 rounds in half a second"


@virtual
async def test_17_a_database_that_is_silent_holds_up_nobody_for_long_and_what_is_known_is_served() -> None:
    both = Both()
    both.produce(batch(3))
    commit(both.stream)
    await both.read(0)
    both.views.silent = True
    await pause()
    began = both.clock.monotonic()
    assert await both.refused(3) == "offset_not_available"
    assert both.clock.monotonic() - began <= FOLLOWED_PATIENCE_S + 0.1
    await pause(FOLLOWED_AGE_S)
    assert both.log.read_recent(0, 1 << 20) is None, "old: the row is to be read again first"
    began = both.clock.monotonic()
    assert await both.read(0) == 3
    assert await both.refused(3) == "offset_not_available"
    assert both.clock.monotonic() == began, "others have waited for it"


@virtual
async def test_17_a_log_start_is_claimed_only_of_a_row_that_was_just_read() -> None:
    both = Both()
    for _ in range(3):
        both.produce(batch(2))
    commit(both.stream)
    await both.read(0)
    await both.stream.trim(4)
    await pause()
    assert await both.read(0) == 6, "deleted records stay readable for a while"
    await pause(FOLLOWED_AGE_S)
    assert await both.refused(0) == "offset_out_of_range"
    assert both.log.log_start_offset == 4
    both.views.error = Unavailable("no database")
    await pause(FOLLOWED_PATIENCE_S + FOLLOWED_LOOKS_APART_S)
    assert await both.refused(0) == "offset_not_available", "the leader knows"


@virtual
async def test_17_a_read_that_fails_reads_the_row_again_before_it_says_why() -> None:
    both = Both()
    both.produce(batch(3))
    commit(both.stream)
    await both.read(0)
    (view,) = both.views.views
    view.read_error = Corrupt("no object holds it")
    await pause()
    assert await both.refused(0) == "kafka_storage_error"
    await both.stream.trim(3)
    await pause()
    assert await both.refused(0) == "offset_out_of_range", "trimmed meanwhile"
    del both.views.leaders[1]
    await pause()
    assert await both.refused(0) == "unknown_topic_or_partition", "deleted meanwhile"


@virtual
async def test_17_what_was_never_seen_is_the_leaders() -> None:
    both = Both()
    both.views.error = Unavailable("no database")
    assert await both.refused(0) == "offset_not_available"
    with pytest.raises(KafkaError, match="offset_not_available"):
        both.log.end_offset_for_epoch(0)
    assert (both.log.high_watermark, both.log.log_start_offset, both.log.last_stable_offset) == (-1, -1, -1)
    both.views.error = NotFound("deleted")
    await pause()
    assert await both.refused(0) == "unknown_topic_or_partition"


@virtual
async def test_epochs_end_where_the_row_says() -> None:
    both = Both()
    both.produce(batch(3))
    commit(both.stream)
    await both.read(0)
    assert both.log.end_offset_for_epoch(0) == (0, 3)
    assert both.log.end_offset_for_epoch(7) == (-1, -1)


# --- committed records only ----------------------------------------------------------------------


@virtual
async def test_17_committed_reads_stop_where_a_checkpoint_stops_proving_and_name_what_was_aborted() -> None:
    both = Both()
    both.produce(batch(1))
    both.produce(idempotent(0, transactional=True), COORDINATOR)
    both.decide(commit=False)
    both.produce(idempotent(0, producer_id=8, transactional=True), COORDINATOR)
    both.produce(batch(1))
    commit(both.stream)
    assert await both.read(0, READ_COMMITTED) == 3, "the transaction at 3 is open"
    assert (both.log.last_stable_offset, both.log.high_watermark) == (3, 5)
    assert [(a.producer_id, a.first_offset) for a in both.log.aborted_transactions(0, 3)] == [(9, 1)]
    assert both.log.aborted_transactions(0, 1) == both.log.aborted_transactions(3, 5) == []
    await pause()
    assert await both.refused(3, READ_COMMITTED) == "offset_not_available"
    assert await both.read(0) == 5, "uncommitted reads go on"
    both.decide(commit=False, producer_id=8)
    both.stream.committed_end = both.stream.durable_end  # committed by a takeover, which makes no checkpoint
    await pause()
    assert await both.refused(3, READ_COMMITTED) == "offset_not_available", "who knows what became of it?"
    assert await both.read(3) == 6
    commit(both.stream)
    await pause()
    assert await both.read(3, READ_COMMITTED) == 6
    assert [(a.producer_id, a.first_offset) for a in both.log.aborted_transactions(3, 6)] == [(8, 3)]


@virtual
async def test_17_a_checkpoint_that_cannot_be_read_proves_nothing() -> None:
    both = Both()
    both.produce(batch(2))
    commit(both.stream)
    both.stream.checkpoint = Checkpoint(2, b"not a checkpoint")
    assert await both.refused(0, READ_COMMITTED) == "offset_not_available"
    both.stream.checkpoint = None
    await pause()
    assert await both.refused(0, READ_COMMITTED) == "offset_not_available"
    assert await both.read(0) == 2
    commit(both.stream)
    await pause()
    assert await both.read(0, READ_COMMITTED) == 2


@virtual
async def test_checkpoints_are_neither_read_for_nor_kept_of_who_reads_everything() -> None:
    both = Both()
    both.produce(idempotent(0))
    commit(both.stream)
    await both.read(0)
    (view,) = both.views.views
    assert view.checkpoint is None and both.log.last_stable_offset == -1
    assert await both.read(0, READ_COMMITTED) == 1, "the first who wants committed records has the row read at once"
    assert view.checkpoint is None


@virtual
async def test_17_what_was_trimmed_while_a_committed_read_went_on_is_not_answered_without_its_aborted() -> None:
    both = Both()
    both.produce(idempotent(0, transactional=True), COORDINATOR)
    both.decide(commit=False)
    both.produce(batch(1))
    commit(both.stream)
    await both.read(0, READ_COMMITTED)
    (view,) = both.views.views
    read = view.read

    async def slow(*args: Any) -> Any:
        result = await read(*args)
        await both.leader.trim(2)
        commit(both.stream)
        await pause()
        await asyncio.gather(both.log._look())
        return result

    view.read = slow  # type: ignore[method-assign]
    assert await both.refused(0, READ_COMMITTED) == "offset_out_of_range"


# --- how many ------------------------------------------------------------------------------------


@virtual
async def test_who_is_not_read_is_forgotten_and_what_is_served_is_counted() -> None:
    both = Both()
    assert both.followed.log("t-0", 1, 4) is both.log and both.log.leader_epoch == 4
    second = both.followed.log("t-1", 2, 0)
    assert both.followed.log("t-0", 1, 0) is both.log
    both.followed.log("t-2", 3, 0)
    assert both.followed.log("t-0", 1, 0) is both.log
    assert both.followed.log("t-1", 2, 0) is not second, "asked for longest ago"
    gauges = {family.name: family for family in both.metrics.families()}
    assert gauges["ponor_followed_partitions"].child(()).current() == 2  # type: ignore[union-attr]
    both.log.traffic.went_out(5)
    second.traffic.went_out(6)
    assert gauges["ponor_follower_read_bytes_total"].child(()).value == 11  # type: ignore[union-attr]
