"""The share coordinator of one partition: durability before answers, epochs that fence, loading, losses, deletions."""

from __future__ import annotations

from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.records.record import iter_records
from brokers.shares.config import ShareCoordinatorConfig
from brokers.shares.messages import DONE, Result, StateRead, StateSummary, StateWrite
from brokers.shares.records import SNAPSHOT_KEY, UPDATE_KEY, decode_key
from s3stream.errors import Overloaded
from tests.support.coordinator import cluster, errors_of
from tests.support.manual_clock import settle
from tests.support.shares import ACKNOWLEDGED, AVAILABLE, KEY, TOPIC_ID, ShareRig, batch, rig

__all__ = ["rig"]


async def begun(rig: ShareRig, start: int = 0, leader_epoch: int = 3) -> None:
    """A share-partition with a leader."""
    assert await rig.coordinator.initialize(KEY, 1, start) == DONE
    assert (await rig.coordinator.read(KEY, leader_epoch)).error is ErrorCode.none


def kinds(rig: ShareRig) -> list[int]:
    """Types of the records written so far."""
    found = [decode_key(bytes(r.key or b"")) for b in rig.stream.batches for r in iter_records(memoryview(b.payload))]
    return [known[0] for known in found if known is not None]


class TestDurability:
    """CORRECTNESS 6."""

    async def test_correctness_6_a_write_is_answered_when_it_is_durable(self, rig: ShareRig) -> None:
        await begun(rig)
        rig.stream.auto = False
        writing = rig.run(rig.coordinator.write(KEY, StateWrite(1, 3, 5, 0, (batch(6, 9),))))
        reading = rig.run(rig.coordinator.read(KEY, 3))
        summing = rig.run(rig.coordinator.summary(KEY))
        await settle()
        assert not writing.done() and not reading.done() and not summing.done(), "a read depends on it too"
        rig.stream.make_durable()
        assert await writing == DONE
        assert await reading == StateRead(ErrorCode.none, None, 1, 5, (batch(6, 9),))
        assert await summing == StateSummary(ErrorCode.none, None, 1, 3, 5, 0)

    async def test_correctness_6_a_lost_write_is_not_there_after_it(self, rig: ShareRig) -> None:
        await begun(rig)
        rig.stream.auto = False
        writing = rig.run(rig.coordinator.write(KEY, StateWrite(1, 3, 5)))
        await settle()
        rig.stream.lose()
        rig.stream.auto = True
        assert (await writing).error is ErrorCode.not_coordinator
        await settle()
        assert (await rig.coordinator.read(KEY, 3)).start_offset == 0

    async def test_a_refused_write_leaves_everything_as_it_was(self, rig: ShareRig) -> None:
        await begun(rig)
        rig.stream.refuse = Overloaded("full")
        assert (await rig.coordinator.write(KEY, StateWrite(1, 3, 5))).error is ErrorCode.coordinator_not_available
        assert (await rig.coordinator.delete(KEY)).error is ErrorCode.coordinator_not_available
        assert (await rig.coordinator.read(KEY, 4)).error is ErrorCode.coordinator_not_available
        rig.stream.refuse = None
        assert (await rig.coordinator.read(KEY, 3)).start_offset == 0

    async def test_a_client_hears_in_time_of_a_write_that_hangs(self, rig: ShareRig) -> None:
        await begun(rig)
        rig.stream.auto = False
        writing = rig.run(rig.coordinator.write(KEY, StateWrite(1, 3, 5)))
        summing = rig.run(rig.coordinator.summary(KEY))
        reading = rig.run(rig.coordinator.read(KEY, 3))
        await settle()
        await rig.clock.advance(6)
        assert (await writing).error is ErrorCode.coordinator_not_available
        assert (await summing).error is (await reading).error is ErrorCode.coordinator_not_available


class TestFencing:
    async def test_who_led_before_is_refused_once_another_has_read(self, rig: ShareRig) -> None:
        await begun(rig, leader_epoch=3)
        assert (await rig.coordinator.read(KEY, 4)).error is ErrorCode.none
        assert (await rig.coordinator.write(KEY, StateWrite(1, 3, 5))).error is ErrorCode.fenced_leader_epoch
        assert (await rig.coordinator.read(KEY, 3)).error is ErrorCode.fenced_leader_epoch
        assert await rig.coordinator.write(KEY, StateWrite(1, 4, 5)) == DONE
        assert await rig.coordinator.write(KEY, StateWrite(-1, -1, 6)) == DONE, "nothing compared"

    async def test_the_fence_outlives_a_restart_and_a_new_beginning(self, rig: ShareRig) -> None:
        await begun(rig, leader_epoch=4)
        await rig.restart()
        assert (await rig.coordinator.write(KEY, StateWrite(1, 3, 5))).error is ErrorCode.fenced_leader_epoch
        assert await rig.coordinator.initialize(KEY, 2, 50) == DONE
        assert (await rig.coordinator.write(KEY, StateWrite(2, 3, 55))).error is ErrorCode.fenced_leader_epoch

    async def test_a_state_epoch_that_is_over_is_refused(self, rig: ShareRig) -> None:
        await begun(rig)
        assert await rig.coordinator.initialize(KEY, 2, 50) == DONE
        assert (await rig.coordinator.write(KEY, StateWrite(1, 3, 5))).error is ErrorCode.fenced_state_epoch
        assert (await rig.coordinator.initialize(KEY, 1, 0)).error is ErrorCode.fenced_state_epoch
        assert await rig.coordinator.initialize(KEY, -1, 60) == DONE, "not compared"

    async def test_a_write_that_comes_late_takes_nothing_back(self, rig: ShareRig) -> None:
        await begun(rig)
        late = StateWrite(1, 3, 0, 4, (batch(2, 5, AVAILABLE),))
        await rig.coordinator.write(KEY, late)
        await rig.coordinator.write(KEY, StateWrite(1, 3, 4, 2, (batch(2, 5, ACKNOWLEDGED),)))
        await rig.coordinator.write(KEY, late)
        found = await rig.coordinator.read(KEY, 3)
        assert (found.start_offset, found.batches) == (4, (batch(4, 5, ACKNOWLEDGED),))


class TestRecords:
    async def test_updates_come_between_snapshots(self) -> None:
        rig = ShareRig(ShareCoordinatorConfig(topic_partitions=1, updates_per_snapshot=2))
        await rig.start()
        await begun(rig)
        for start in range(1, 5):
            assert await rig.coordinator.write(KEY, StateWrite(1, 3, start, 0, (batch(start + 4, start + 4),))) == DONE
        assert kinds(rig) == [SNAPSHOT_KEY, UPDATE_KEY, UPDATE_KEY, SNAPSHOT_KEY, UPDATE_KEY, UPDATE_KEY]
        before = await rig.coordinator.read(KEY, 3)
        assert (before.start_offset, before.batches) == (4, (batch(5, 8),))
        await rig.restart()
        assert await rig.coordinator.read(KEY, 3) == before
        await rig.close()

    async def test_loading_from_a_snapshot_of_the_log_and_what_came_after(self) -> None:
        rig = ShareRig()
        await rig.start()
        await begun(rig)
        for start in range(1, 1_005):
            await rig.coordinator.write(KEY, StateWrite(1, 3, start))
        blob = rig.log.checkpoint(rig.log.high_watermark)
        assert blob is not None
        await rig.coordinator.write(KEY, StateWrite(1, 3, 2_000))
        rig.stream.batches = rig.stream.batches[-1:]
        rig.stream.start_offset = rig.stream.batches[0].base_offset
        await rig.restart(blob)
        assert (await rig.coordinator.read(KEY, 3)).start_offset == 2_000
        await rig.close()

    async def test_beginning_anew_forgets_deliveries(self, rig: ShareRig) -> None:
        await begun(rig)
        await rig.coordinator.write(KEY, StateWrite(1, 3, 5, 3, (batch(6, 9),)))
        await rig.coordinator.initialize(KEY, 2, -1)
        assert await rig.coordinator.summary(KEY) == StateSummary(ErrorCode.none, None, 2, 3, -1, -1)
        assert (await rig.coordinator.read(KEY, 3)).batches == ()


class TestWhatIsNotThere:
    async def test_of_a_share_partition_that_never_began(self, rig: ShareRig) -> None:
        write = await rig.coordinator.write(KEY, StateWrite(1, 3, 5))
        assert write == Result(
            ErrorCode.invalid_request, "Write operation on uninitialized share partition not allowed."
        )
        assert (await rig.coordinator.read(KEY, 3)).error is ErrorCode.invalid_request
        assert await rig.coordinator.summary(KEY) == StateSummary(ErrorCode.none)
        assert await rig.coordinator.delete(KEY) == DONE

    async def test_of_topics_and_partitions_that_do_not_exist(self, rig: ShareRig) -> None:
        for key in (KEY._replace(topic_id=UUID(int=9)), KEY._replace(partition=2)):
            assert await errors_of(rig.coordinator.initialize(key, 1, 0)) is ErrorCode.unknown_topic_or_partition
            assert await errors_of(rig.coordinator.summary(key)) is ErrorCode.unknown_topic_or_partition
            assert await errors_of(rig.coordinator.delete(key)) is ErrorCode.unknown_topic_or_partition
        assert (
            await errors_of(rig.coordinator.initialize(KEY._replace(partition=-1), 1, 0)) is ErrorCode.invalid_request
        )
        assert await errors_of(rig.coordinator.initialize(KEY._replace(group="x" * 40_000), 1, 0)) is (
            ErrorCode.invalid_request
        )

    async def test_what_is_deleted_is_gone_for_good(self, rig: ShareRig) -> None:
        await begun(rig)
        await rig.coordinator.write(KEY, StateWrite(1, 3, 5))
        assert await rig.coordinator.delete(KEY) == DONE
        await rig.restart()
        assert (await rig.coordinator.read(KEY, 3)).error is ErrorCode.invalid_request

    async def test_states_go_with_their_topics(self, rig: ShareRig) -> None:
        await begun(rig)
        before = rig.view.image
        rig.view.image = cluster(*(t for t in before.topics.values() if t.topic_id != TOPIC_ID))
        rig.coordinator.image_changed(before, rig.view.image)
        await settle()
        assert not rig.shard.state.partitions and not rig.shard.state.by_topic
        await rig.restart()
        assert not rig.shard.state.durable.entries

    async def test_other_brokers_are_named_and_the_topic_is_created_when_asked_for(self, rig: ShareRig) -> None:
        assert rig.coordinator.find(str(KEY)).node_id == 1
        rig.coordinator.resign(0)
        assert await errors_of(rig.coordinator.read(KEY, 3)) is ErrorCode.not_coordinator
        rig.view.image = cluster()
        with pytest.raises(Exception, match="coordinator_not_available"):
            rig.coordinator.find(str(KEY))
        await settle()
        assert rig.created == 1
        rig.coordinator.stop()
        assert await errors_of(rig.coordinator.read(KEY, 3)) is ErrorCode.coordinator_not_available
