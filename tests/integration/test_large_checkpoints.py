"""Partition state too large for a metadata row, over the real engine, metadata and objects (CORRECTNESS 12, 18)."""

from __future__ import annotations

import asyncio
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.groups.coordinator import GroupCoordinator
from brokers.limits import PARTITION_OPENS_IN_FLIGHT_MAX
from brokers.partitions import checkpoint
from brokers.partitions.partition_log import PartitionLog
from s3stream.errors import Unavailable
from s3stream.limits import CHECKPOINT_ROW_BYTES_MAX
from s3stream.object_format import object_key
from s3stream.types import CheckpointPointer
from tests.support.coordinator import CoordinatorRig
from tests.support.engine import World
from tests.support.holding_store import HoldingStore
from tests.support.partition_life import Life, turns
from tests.support.partitions import append, idempotent
from tests.support.virtual_time import run_virtual, virtual

PRODUCERS = 2_000
ENOUGH = 1_200
"""Producers of one batch each whose state does not fit a row (55 bytes each)."""


def described(log: PartitionLog) -> bytes:
    """Everything that is remembered of producers, as bytes: order included."""
    return checkpoint.encode(log.high_watermark, log.producers, [], None)


@cache
def batch_of(producer: int, sequence: int) -> bytes:
    return bytes(idempotent(sequence, producer_id=producer))


async def produce(life: Life, producers: range, sequence: int, partition: int = 0) -> None:
    log = life.log(partition)
    answers = [append(log, memoryview(bytearray(batch_of(producer, sequence)))) for producer in producers]
    await turns()
    assert all(not one.errors[0] for one in answers)


async def pointer_of(life: Life, partition: int = 0) -> CheckpointPointer:
    [row] = await life.world.metadata.streams([life.log(partition).stream.stream_id])
    assert isinstance(row.checkpoint, CheckpointPointer), row.checkpoint
    return row.checkpoint


@given(st.lists(st.integers(ENOUGH, 2 * PRODUCERS), min_size=1, max_size=2), st.integers(0, 2 * PRODUCERS))
@settings(max_examples=6, deadline=None)
def test_checkpoint_and_replay_is_full_replay_for_thousands_of_producers(flushed: list[int], trimmed: int) -> None:
    """Two batches of each of 2,000 producers, flushed after some of them; the log may be trimmed up to the last flush:
    what described it is in the checkpoint alone then."""

    async def run() -> None:
        world = await World.create(1)
        life = await Life(world).start()
        done = 0
        for cut in [*sorted(flushed), 2 * PRODUCERS]:
            for sequence in (0, 1):
                first, last = max(done, sequence * PRODUCERS), min(cut, (sequence + 1) * PRODUCERS)
                await produce(life, range(first - sequence * PRODUCERS, last - sequence * PRODUCERS), sequence)
            done = max(done, cut)
            if cut < 2 * PRODUCERS or cut in flushed:
                await life.engine.storage.flush()
        boundary = (await pointer_of(life)).offset
        assert boundary == max(flushed)
        live = described(life.log())
        await life.crash()
        life = await Life(world).start()
        assert described(life.log()) == live
        await life.log().delete_records(min(trimmed, boundary))
        await life.crash()
        life = await Life(world).start()
        log = life.log()
        assert described(log) == live and log.log_start_offset == min(trimmed, boundary)
        assert (await life.produce(idempotent(1, producer_id=7))).offsets == [PRODUCERS + 7]
        assert (await life.produce(idempotent(2, producer_id=7))).offsets == [2 * PRODUCERS]

    run_virtual(run())


# --- opening ---------------------------------------------------------------------------------------------


async def with_state(partitions: int, trim: bool = False) -> tuple[World, list[CheckpointPointer], list[bytes]]:
    """A crashed life whose partitions all have a large checkpoint at their end."""
    world = await World.create(partitions)
    life = await Life(world).start()
    for partition in range(partitions):
        await produce(life, range(ENOUGH), 0, partition)
    await life.engine.storage.flush()
    if trim:
        for partition in range(partitions):
            await life.log(partition).delete_records(ENOUGH)
    pointers = [await pointer_of(life, partition) for partition in range(partitions)]
    assert min(pointer.size for pointer in pointers) > CHECKPOINT_ROW_BYTES_MAX
    states = [described(life.log(partition)) for partition in range(partitions)]
    await life.crash()
    return world, pointers, states


class Counting(HoldingStore):
    """Counts reads that run at the same time."""

    running = most = 0

    async def get_ranges(self, key: str, ranges: Any) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await super().get_ranges(key, ranges)
        finally:
            self.running -= 1


@virtual
async def test_many_partitions_open_side_by_side_with_one_request_each() -> None:
    world, pointers, states = await with_state(PARTITION_OPENS_IN_FLIGHT_MAX + 4)
    store = Counting(world.objects)
    life = await Life(world, objects=store).start()
    assert [described(life.log(partition)) for partition in range(len(states))] == states
    wanted = [(object_key(one.ref), one.position, one.position + one.size) for one in pointers]
    assert sorted(store.reads) == sorted(wanted), "nothing else is read: the checkpoint is at the log's end"
    assert store.most == PARTITION_OPENS_IN_FLIGHT_MAX


def damage(world: World, pointer: CheckpointPointer) -> None:
    key = object_key(pointer.ref)
    data = bytearray(world.objects._objects[key][0])
    data[pointer.position + 5_000] ^= 1
    world.objects.damage(key, bytes(data))


@virtual
async def test_a_damaged_one_of_a_whole_log_is_replaced_by_replay() -> None:
    """Decision 0064."""
    world, pointers, states = await with_state(2)
    damage(world, pointers[0])
    life = await Life(world).start()
    assert [described(life.log(partition)) for partition in range(2)] == states
    assert (await life.produce(idempotent(0, producer_id=5))).offsets == [5]


@virtual
async def test_a_damaged_one_of_a_trimmed_log_takes_that_partition_offline_and_no_other() -> None:
    """Decision 0064."""
    world, pointers, states = await with_state(2, trim=True)
    damage(world, pointers[0])
    life = await Life(world).start()
    with pytest.raises(KafkaError) as caught:
        life.log(0)
    assert caught.value.code is ErrorCode.kafka_storage_error
    assert described(life.log(1)) == states[1]


@virtual
async def test_a_store_that_is_away_delays_the_opening_and_raises_the_epoch_once() -> None:
    world, _, states = await with_state(1, trim=True)
    store = HoldingStore(world.objects)
    works = store.get_ranges

    async def down(*args: Any) -> Any:
        raise Unavailable("503 (injected)")

    store.get_ranges = down  # type: ignore[method-assign]
    life = await Life(world, objects=store).start()
    with pytest.raises(KafkaError):
        life.log()
    store.get_ranges = works  # type: ignore[method-assign]
    await life.follow()
    assert described(life.log()) == states[0] and life.log().leader_epoch == 1


# --- coordinators ----------------------------------------------------------------------------------------

GROUPS = 3_000


class EngineRig(CoordinatorRig):
    """The rig's clients, over a partition of the real engine."""

    async def lead(self, life: Life) -> None:
        async def never() -> None:
            raise AssertionError("the topic is there")

        self.log = life.log()
        self.coordinator = GroupCoordinator(
            self.view, self.config, life.world.clock, life.engine.tasks, self.metrics, Random(1), never, self.states
        )
        self.coordinator.start()
        self.coordinator.lead(0, self.log)
        await asyncio.sleep(1)

    async def commit_all(self, groups: range, offset: int) -> None:
        found = await asyncio.gather(*(self.committed(f"group-{group}", offset + group) for group in groups))
        assert {result.error for (result,) in found} == {ErrorCode.none}

    async def offsets(self, groups: range) -> list[int | None]:
        return [await self.offset(f"group-{group}") for group in groups]


@virtual
async def test_correctness_18_a_snapshot_of_thousands_of_groups_lies_in_an_object_and_loads_with_its_tail() -> None:
    world = await World.create(1)
    life = await Life(world).start()
    rig = EngineRig()
    await rig.lead(life)
    await rig.commit_all(range(GROUPS), 100)
    await life.engine.storage.flush()
    await asyncio.sleep(1)
    pointer = await pointer_of(life)
    assert pointer.size > GROUPS * 50
    assert life.log().log_start_offset == pointer.offset, "what the snapshot holds is trimmed"
    await rig.commit_all(range(10), 500)
    await life.crash()

    # The snapshot's object has no readable record left; it is collected all the same only after a newer snapshot.
    store = HoldingStore(world.objects)
    life = await Life(world, objects=store).start()
    world.clock.skew_ms += 10**10
    assert await life.engine.storage._collector.collect() == 0
    rig = EngineRig()
    await rig.lead(life)
    expected = [500 + group for group in range(10)] + [100 + group for group in range(10, GROUPS)]
    assert await rig.offsets(range(GROUPS)) == expected
    assert store.reads == [(object_key(pointer.ref), pointer.position, pointer.position + pointer.size)]

    for offset in (1_000, 2_000):
        await rig.commit_all(range(GROUPS), offset)
        await life.engine.storage.flush()
        await asyncio.sleep(1)
    newer = await pointer_of(life)
    world.clock.skew_ms += 10**10
    assert await life.engine.storage._collector.collect() > 0
    assert object_key(pointer.ref) not in world.objects._objects and object_key(newer.ref) in world.objects._objects
    await life.crash()
    life = await Life(world).start()
    rig = EngineRig()
    await rig.lead(life)
    assert await rig.offsets(range(GROUPS)) == [2_000 + group for group in range(GROUPS)]
