"""Log compaction of partitions over the real engine: rounds, faults at every step, readers beside them (rule 14)."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from brokers.compaction import log_cleaner, rounds
from brokers.compaction.messages import Begin, Hello, Rewrite
from brokers.compaction.offset_map import ENTRY_BYTES
from brokers.compaction.process import RoundFailed, WorkerDied
from brokers.compaction.worker import _Worker
from brokers.limits import COMPACTED_ABORTS_S, COMPACTION_DEATHS_MAX, COMPACTION_IDLE_S, COMPACTION_SILENCE_S
from brokers.partitions.log_config import LogConfig
from brokers.partitions.opening import open_log
from brokers.partitions.partition_log import READ_COMMITTED
from brokers.records.builder import marker_batch
from brokers.records.record import EndMarker
from s3stream.errors import Corrupt, Unavailable
from tests.support.cleaner import SETTINGS, Cleaned, records_in
from tests.support.engine import World
from tests.support.faulty_metadata import FaultyMetadata, answer_lost, refused
from tests.support.partition_life import turns
from tests.support.partitions import Answers, append_first, batch
from tests.support.virtual_time import virtual

COMPACT = LogConfig(cleanup_policy=("compact",), min_cleanable_dirty_ratio=0.0)


async def overwritten(rig: Cleaned, rounds: int = 5, keys: int = 10) -> None:
    for number in range(rounds):
        await rig.put(*[(b"k%d" % key, b"%d" % number) for key in range(keys)])
        await rig.flush()


async def in_transaction(rig: Cleaned, producer_id: int, *keys: bytes, sequence: int = 0) -> None:
    records = batch(len(keys), producer_id=producer_id, producer_epoch=0, base_sequence=sequence, transactional=True,
                    key=keys[0])  # fmt: skip
    assert append_first(rig.life.log(), records) is not None
    await turns()


async def end_transaction(rig: Cleaned, producer_id: int, commit: bool) -> None:
    answers = Answers()
    marker = marker_batch(producer_id, 0, EndMarker(commit, 1), rig.life.world.clock.now_ms())
    rig.life.log().append_records(marker, answers)
    await turns()
    assert answers.errors == [ErrorCode.none]


async def aborted_then_committed(rig: Cleaned) -> None:
    """A producer's transaction that was aborted, its marker at 1, and one that was not, at 3: with its last record."""
    await in_transaction(rig, 5, b"a")
    await end_transaction(rig, 5, False)
    await in_transaction(rig, 5, b"b", sequence=1)
    await end_transaction(rig, 5, True)


@virtual
async def test_a_round_leaves_the_last_value_of_each_key_at_its_offset() -> None:
    rig = await Cleaned.start()
    await overwritten(rig)
    before = rig.life.log().stream.size_bytes
    assert await rig.clean() == 1
    assert [(record.offset, record.key, record.value) for record in await rig.records()] == [
        (40 + key, b"k%d" % key, b"4") for key in range(10)
    ]
    log = rig.life.log()
    assert (log.log_start_offset, log.high_watermark) == (0, 50)
    assert log.stream.size_bytes < before / 4 and log.stream.clean_end == 50
    assert [record.offset for record in await rig.records(start=17)] == list(range(40, 50))
    assert await rig.clean() == 0, "nothing new, nothing to do"
    assert await rig.orphans() == []


@virtual
async def test_what_was_compacted_is_still_so_after_a_restart_and_for_who_follows_the_partition() -> None:
    world = await World.create(1)
    rig = await Cleaned.start(world)
    await overwritten(rig)
    await rig.clean()
    followed = await rig.life.engine.storage.view(1)
    assert followed.clean_end == 50
    await overwritten(rig, 1)
    await rig.life.crash()
    rig = await Cleaned.start(world)
    assert rig.life.log().stream.clean_end == 50
    assert await rig.clean() == 1
    assert len(await rig.records()) == 10 and rig.life.log().stream.clean_end == 60


@virtual
async def test_14_a_reader_beside_rounds_meets_old_or_new_and_never_a_gap() -> None:
    """Rounds, the deletion of what they free, and new records come at every step of the reader's way."""
    rig = await Cleaned.start()
    await overwritten(rig, 4, 5)
    log = rig.life.log()
    clock = rig.life.world.clock

    async def compacting() -> None:
        while log.stream.clean_end < 75:
            await overwritten(rig, 1, 5)
            await rig.clean()
            await clock.sleep(0.002)
            assert await rig.life.engine.storage._collector.collect() > 0

    rounds = asyncio.ensure_future(compacting())
    while not rounds.done():
        last: dict[bytes | None, int] = {}
        position = 0
        end = log.high_watermark
        while position < end:
            rig.life.engine.drop_cache()
            result = await log.read(position, 120)
            assert result.buffers and result.end_offset > position
            for record in records_in(result.buffers):
                if record.offset >= position:
                    assert last.get(record.key, -1) < record.offset
                    last[record.key] = record.offset
            position = result.end_offset
            await clock.sleep(0.001)
        assert len(last) == 5
    await rounds


FAULTS: dict[str, Callable[[Cleaned, FaultyMetadata], Any]] = {
    "the map cannot be read": lambda rig, metadata: _raise_once(rig, Begin, Unavailable("no answer (injected)")),
    "the worker dies with its map": lambda rig, metadata: _raise_once(rig, Begin, WorkerDied("killed (injected)")),
    "the worker dies after an upload": lambda rig, metadata: _raise_once(rig, Rewrite, WorkerDied("killed (injected)")),
    "an object is gone": lambda rig, metadata: _raise_once(rig, Rewrite, Unavailable("gone (injected)")),
    "the swap is not done": lambda rig, metadata: metadata.faults.update(replace_ranges=[refused]),
    "the swap's answer is lost": lambda rig, metadata: metadata.faults.update(replace_ranges=[answer_lost]),
    "the second swap is not done": lambda rig, metadata: metadata.faults.update(replace_ranges=[_passed, refused]),
    "no ids": lambda rig, metadata: metadata.faults.update(prepare_objects=[refused]),
    "ranges are not told": lambda rig, metadata: metadata.faults.update(object_ranges=[refused]),
}


async def _passed(method: Any, *args: Any) -> Any:
    return await method(*args)


def _raise_once(rig: Cleaned, kind: type, error: Exception) -> None:
    def before(question: Any) -> None:
        if isinstance(question, kind):
            rig.worker.before = lambda _: None
            raise error

    rig.worker.before = before


@pytest.mark.parametrize("fault", FAULTS)
@virtual
async def test_14_a_round_that_breaks_off_anywhere_loses_nothing_and_leaves_no_orphan(fault: str) -> None:
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    rig = await Cleaned.start(world, metadata=metadata)
    await overwritten(rig)
    await rig.flush()
    FAULTS[fault](rig, metadata)
    assert not await rig.cleaner.clean_dirtiest()
    assert await rig.values() == {b"k%d" % key: b"4" for key in range(10)}
    assert await rig.clean() == 1
    assert len(await rig.records()) == 10
    assert await rig.orphans() == []


@virtual
async def test_14_a_crash_in_the_middle_of_a_round_leaves_what_the_next_broker_needs() -> None:
    for step in range(1, 12):
        world = await World.create(1)
        rig = await Cleaned.start(world)
        await overwritten(rig)
        round_ = asyncio.ensure_future(rig.cleaner.clean_dirtiest())
        for _ in range(step):
            await asyncio.sleep(0)
        await rig.life.crash()
        round_.cancel()
        await asyncio.gather(round_, return_exceptions=True)
        rig = await Cleaned.start(world)
        assert await rig.values() == {b"k%d" % key: b"4" for key in range(10)}
        await rig.clean()
        assert len(await rig.records()) == 10
        assert await rig.orphans() == []


@virtual
async def test_14_who_lost_the_stream_in_the_middle_of_a_round_swaps_nothing() -> None:
    world = await World.create(1)
    old = await Cleaned.start(world)
    await overwritten(old)
    await old.flush()
    moved: list[Any] = []

    async def after_moving(method: Any, *args: Any) -> Any:
        moved.append(args)
        await old.life.crash()
        await Cleaned.start(world)
        return await method(*args)

    metadata = FaultyMetadata(world.metadata)
    old.life.engine.storage._metadata = metadata  # type: ignore[assignment]
    metadata.faults["replace_ranges"] = [after_moving]
    before = await world.metadata.object_ranges(1, 0, 100)
    assert not await old.cleaner.clean_dirtiest()
    assert moved and await world.metadata.object_ranges(1, 0, 100) == before


@virtual
async def test_14_ranges_that_others_replaced_meanwhile_end_the_round() -> None:
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    rig = await Cleaned.start(world, metadata=metadata)
    await overwritten(rig)
    await rig.flush()

    async def replaced(method: Any, *args: Any) -> bool:
        return False

    metadata.faults["replace_ranges"] = [replaced]
    assert not await rig.cleaner.clean_dirtiest()
    assert rig.life.log().stream.clean_end == 0 and len(await rig.records()) == 50
    assert await rig.clean() == 1


@virtual
async def test_correctness_14_sequences_of_producers_survive_a_replay_of_the_compacted_log() -> None:
    """Also where no checkpoint helps: the log is all there is."""
    world = await World.create(1)
    rig = await Cleaned.start(world)
    for sequence in range(4):
        await rig.put((b"k", b"%d" % sequence), producer_id=9, producer_epoch=0, base_sequence=sequence)
    await rig.put((b"k", b"newest"))
    await rig.flush()
    await rig.clean()
    assert len(await rig.records()) == 1
    await rig.life.crash()
    await world.metadata._run(_drop_checkpoints, world.metadata)
    rig = await Cleaned.start(world)
    again = await rig.put((b"k", b"3"), producer_id=9, producer_epoch=0, base_sequence=3)
    assert (again.errors, again.offsets) == ([ErrorCode.none], [3])
    wrong = await rig.put((b"k", b"x"), producer_id=9, producer_epoch=0, base_sequence=6)
    assert wrong.errors == [ErrorCode.out_of_order_sequence_number]


def _drop_checkpoints(metadata: Any) -> None:
    from metadata.schema import checkpoints

    metadata._engine.write(0, None, lambda tx: tx.connection.execute(checkpoints.delete()))


@virtual
async def test_nothing_at_or_above_the_last_stable_offset_is_compacted() -> None:
    rig = await Cleaned.start()
    await overwritten(rig, 2, 3)
    await in_transaction(rig, 5, b"k0")
    await overwritten(rig, 2, 3)
    await rig.clean()
    log = rig.life.log()
    assert log.last_stable_offset == 6 and log.stream.clean_end == 6
    assert [record.offset for record in await rig.records()] == [3, 4, 5, 6, *range(7, 13)]
    await end_transaction(rig, 5, False)
    await overwritten(rig, 1, 3)
    await rig.clean()
    assert [record.offset for record in await rig.records()] == [14, 15, 16]
    assert [record.offset for record in await rig.records(isolation=READ_COMMITTED)] == [14, 15, 16]


@virtual
async def test_an_aborted_transaction_is_forgotten_before_its_marker_goes() -> None:
    rig = await Cleaned.start(config=replace(COMPACT, delete_retention_ms=0))
    log = rig.life.log()
    await aborted_then_committed(rig)
    clock = rig.life.world.clock
    markers: list[int] = []

    async def round_() -> None:
        await overwritten(rig, 1, 2)
        await rig.clean()
        markers.append(sum(header.control for header in await headers(rig)))

    await round_()
    await round_()
    assert len(log.aborted_transactions(0, 100)) == 1, "its records are gone, readers of older objects may meet them"
    await clock.sleep(COMPACTED_ABORTS_S + 1)
    await round_()
    assert log.aborted_transactions(0, 100) == [] and len(log.all_aborted()) == 1
    await round_()
    await clock.sleep(COMPACTED_ABORTS_S + 1)
    await round_()
    assert log.all_aborted() == [], "every checkpoint that somebody may know is without it"
    await round_()
    await round_()
    assert markers == [2, 2, 2, 2, 2, 1, 1]


@virtual
async def test_14_a_log_handed_over_by_word_keeps_the_markers_that_stored_checkpoints_need() -> None:
    """Who opens it compacts on, and dies before it has stored a checkpoint of its own."""
    world = await World.create(1)
    compact = replace(COMPACT, delete_retention_ms=0)
    rig = await Cleaned.start(world, config=compact)
    await aborted_then_committed(rig)
    for _ in range(2):
        await overwritten(rig, 1, 2)
        await rig.clean()
    await world.clock.sleep(COMPACTED_ABORTS_S + 1)
    for number in range(4):
        await rig.put(*[(b"%d-%d" % (number, key), b"v") for key in range(3)])
    await rig.flush()
    rig.settings = SETTINGS._replace(map_bytes=5 * ENTRY_BYTES)  # a round for each batch
    assert await rig.cleaner.clean_dirtiest()
    source = rig.life.log()
    aborted = source.all_aborted()
    assert len(aborted) == 1 and source.aborted_transactions(0, 100) == [], "forgotten, and still stored"

    stream, clock = source.stream, world.clock
    stream.checkpoint = (await rig.life.engine.storage.view(1)).checkpoint  # as an opening finds it
    target = await open_log("t", source.topic_id, 0, stream, compact, clock, 10**9, source.final_state())
    rig.cleaner._logs = lambda: [target]
    rounds = 0
    while await rig.cleaner.clean_dirtiest():
        rounds += 1
    assert rounds >= 2, "one to write when the marker may go, one to remove it"
    await rig.life.crash()
    rig = await Cleaned.start(world, config=compact)
    assert rig.life.log().aborted_transactions(0, 100) == aborted
    assert [one.base_offset for one in await headers(rig) if one.control] == [1, 3]


@virtual
async def test_14_who_opens_a_log_anew_keeps_the_markers_that_followers_may_still_need() -> None:
    """They know of an aborted transaction from a checkpoint that was replaced just before the owner died."""
    world = await World.create(1)
    compact = replace(COMPACT, delete_retention_ms=0)
    rig = await Cleaned.start(world, config=compact)
    await aborted_then_committed(rig)
    for pause in (0, 0, COMPACTED_ABORTS_S + 1):
        await world.clock.sleep(pause)
        await overwritten(rig, 1, 2)
        await rig.clean()
    log = rig.life.log()
    assert log.all_aborted() != [] and log.aborted_transactions(0, 100) == []
    await overwritten(rig, 1, 2)
    await rig.flush()
    await rig.life.crash()
    rig = await Cleaned.start(world, config=compact)
    assert rig.life.log().all_aborted() == [], "nobody has told it"

    async def markers() -> list[int]:
        await overwritten(rig, 1, 2)
        await rig.clean()
        return [one.base_offset for one in await headers(rig) if one.control]

    assert await markers() == await markers() == [1, 3]
    await world.clock.sleep(COMPACTED_ABORTS_S)
    assert await markers() == [3]


@virtual
async def test_an_aborted_transaction_of_which_a_batch_is_left_is_told_for_as_long() -> None:
    """Its last batch stays, without records, for the producer's sequence."""
    rig = await Cleaned.start()
    await in_transaction(rig, 5, b"a")
    await end_transaction(rig, 5, False)
    for _ in range(4):
        await overwritten(rig, 1, 2)
        await rig.clean()
        await rig.life.world.clock.sleep(COMPACTED_ABORTS_S + 1)
    assert len(rig.life.log().aborted_transactions(0, 100)) == 1


@virtual
async def test_a_list_of_ranges_that_was_read_before_a_swap_is_not_gone_by_after_it() -> None:
    world = await World.create(1)
    metadata = FaultyMetadata(world.metadata)
    rig = await Cleaned.start(world, metadata=metadata)
    await overwritten(rig)
    await rig.flush()
    stream = rig.life.log().stream
    followed = await rig.life.engine.storage.view(1)
    await followed.read(0, 50, 100)
    assert len(followed.ranges) > 0

    async def swapped_meanwhile(method: Any, *args: Any) -> Any:
        page = await method(*args)
        assert await rig.cleaner.clean_dirtiest()
        return page

    stream.ranges.clear()
    metadata.faults["object_ranges"] = [swapped_meanwhile]
    assert len(await rig.records()) == 10
    new = {found.ref.object_id for found in await world.metadata.object_ranges(1, 0, 100)}
    assert stream.ranges.objects() == new
    await rig.life.engine.storage.view(1, followed)
    assert len(followed.ranges) == 0, "who follows the partition forgets its list too"


async def headers(rig: Cleaned) -> list[Any]:
    from brokers.records.batch import iter_headers

    log, found, position = rig.life.log(), [], 0
    while position < log.high_watermark:
        result = await log.read(position, 1 << 20)
        for buffer in result.buffers:
            found += [header for _, header in iter_headers(buffer)]
        position = result.end_offset
    return found


@virtual
async def test_records_younger_than_the_least_lag_are_not_compacted() -> None:
    rig = await Cleaned.start(config=replace(COMPACT, min_compaction_lag_ms=10_000))
    await overwritten(rig, 2, 2)
    assert await rig.clean() == 0
    await rig.life.world.clock.sleep(9)
    await overwritten(rig, 1, 2)
    await rig.life.world.clock.sleep(2)
    assert await rig.clean() == 1
    assert [record.offset for record in await rig.records()] == [2, 3, 4, 5]
    assert rig.life.log().stream.clean_end == 4
    await rig.life.world.clock.sleep(9)
    assert await rig.clean() == 1
    assert [record.offset for record in await rig.records()] == [4, 5]


@virtual
async def test_a_log_is_compacted_when_it_is_dirty_enough_or_overdue() -> None:
    config = replace(COMPACT, min_cleanable_dirty_ratio=0.6, max_compaction_lag_ms=60_000)
    rig = await Cleaned.start(config=config)
    await overwritten(rig, 4)
    assert await rig.clean() == 1
    await overwritten(rig, 1)
    assert await rig.clean() == 0, "half of it is dirty"
    await rig.life.world.clock.sleep(61)
    assert await rig.clean() == 1 and len(await rig.records()) == 10
    await overwritten(rig, 1)
    rig.life.log().configure(replace(config, min_cleanable_dirty_ratio=0.4))
    assert await rig.clean() == 1, "a change of the topic's configs has effect at once"
    rig.life.log().configure(replace(config, cleanup_policy=("delete",)))
    await overwritten(rig, 9)
    assert await rig.clean() == 0


@virtual
async def test_tombstones_are_kept_for_their_time() -> None:
    rig = await Cleaned.start(config=replace(COMPACT, delete_retention_ms=60_000))
    await overwritten(rig, 1, 2)
    await rig.put((b"k0", None))
    await rig.clean()
    assert await rig.values() == {b"k1": b"0", b"k0": None}
    await rig.put((b"x", b"1"))
    await rig.clean()
    assert b"k0" in await rig.values()
    await rig.life.world.clock.sleep(60)
    await rig.put((b"x", b"2"))
    await rig.clean()
    assert await rig.values() == {b"k1": b"0", b"x": b"2"}


@virtual
async def test_the_last_offset_is_found_though_its_record_is_gone() -> None:
    """Nothing would ever come for a consumer that waits in a hole at the end of the log."""
    rig = await Cleaned.start()
    await overwritten(rig, 2, 2)
    await in_transaction(rig, 5, b"a")
    await end_transaction(rig, 5, False)
    await rig.clean()
    log = rig.life.log()
    for offset in range(6):
        result = await log.read(offset, 1_000)
        assert result.buffers and result.end_offset == 6 == log.high_watermark


@virtual
async def test_lookups_by_time_pass_what_was_emptied() -> None:
    rig = await Cleaned.start()
    clock = rig.life.world.clock
    await rig.put((b"a", b"1"))
    await clock.sleep(1)
    second = clock.now_ms()
    await rig.put((b"b", b"1"), producer_id=3, producer_epoch=0, base_sequence=0)
    await clock.sleep(1)
    third = clock.now_ms()
    await rig.put((b"b", b"2"))
    await rig.clean()
    log = rig.life.log()
    found = await log.offset_for_timestamp(second)
    assert found is not None and (found.offset, found.timestamp) == (2, third)
    newest = await log.max_timestamp()
    assert newest is not None and (newest.offset, newest.timestamp) == (2, third)
    await in_transaction(rig, 7, b"c")
    await end_transaction(rig, 7, False)
    await rig.clean()
    newest = await log.max_timestamp()
    assert newest is not None and newest.offset in (2, 4)


@pytest.mark.parametrize("object_bytes", [1, 100, 700, 100_000])
@virtual
async def test_what_is_more_than_one_object_becomes_several_that_cover_the_same_offsets(object_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "COMPACTED_OBJECT_BYTES", object_bytes)
        patch.setattr(log_cleaner, "COMPACTED_OBJECT_BYTES", 2_000)
        rig = await Cleaned.start()
        await overwritten(rig, 3, 30)
        for number in range(10):
            await rig.put((b"n%d" % number, b"x" * 100))
        assert await rig.clean() == 1
    ranges = await rig.life.world.metadata.object_ranges(1, 0, 100)
    assert [found.start for found in ranges] == [0, *[found.end for found in ranges[:-1]]]
    assert all(found.start < found.end for found in ranges) and ranges[-1].end == 100
    assert len(ranges) > 10 or object_bytes > 1
    assert len(await rig.records()) == 40
    assert await rig.orphans() == []


@virtual
async def test_a_log_with_more_keys_than_the_map_takes_several_rounds() -> None:
    rig = await Cleaned.start()
    rig.settings = SETTINGS._replace(map_bytes=24 * 40)
    for number in range(3):
        for key in range(0, 100, 5):
            await rig.put(*[(b"k%d" % one, b"%d" % number) for one in range(key, key + 5)])
        await rig.flush()
    rounds = await rig.clean()
    assert rounds > 5
    assert {record.key: record.value for record in await rig.records()} == {b"k%d" % key: b"2" for key in range(100)}
    assert len(await rig.records()) == 100


@virtual
async def test_a_batch_that_does_not_fit_the_map_leaves_its_log_alone_and_no_other() -> None:
    rig = await Cleaned.start(streams=2)
    rig.settings = SETTINGS._replace(map_bytes=24 * 20)
    await rig.put(*[(b"k%d" % key, b"1") for key in range(50)])
    for _ in range(3):
        await rig.put((b"k", b"1"), partition=1)
    assert await rig.clean() == 2
    assert len(await rig.records(1)) == 1 and len(await rig.records()) == 50
    assert rig.metrics.gauge("ponor_log_cleaner_uncleanable_partitions", "").value == 1
    dirty = rig.life.log().stream.committed_bytes
    assert rig.metrics.gauge("ponor_log_cleaner_uncleanable_bytes", "").value == dirty > 0


@pytest.mark.parametrize("error", [Corrupt("a block's checksum (injected)"), RoundFailed("a fault (injected)")])
@virtual
async def test_a_log_that_cannot_be_compacted_costs_no_other(error: Exception) -> None:
    rig = await Cleaned.start(streams=2)
    await overwritten(rig)
    for _ in range(2):
        await rig.put((b"k", b"1"), partition=1)

    def before(question: Any) -> None:
        if isinstance(question, Begin) and question.stream_id == 1:
            raise error

    rig.worker.before = before
    await rig.clean()
    assert len(await rig.records()) == 50 and len(await rig.records(1)) == 1


@virtual
async def test_a_log_at_which_workers_die_again_and_again_is_left_alone() -> None:
    rig = await Cleaned.start()
    await overwritten(rig)
    await rig.flush()

    def before(question: Any) -> None:
        raise WorkerDied("out of memory (injected)")

    rig.worker.before = before
    for _ in range(COMPACTION_DEATHS_MAX):
        assert not await rig.cleaner.clean_dirtiest()
    rig.worker.before = lambda _: None
    assert await rig.clean() == 0
    assert rig.metrics.counter("ponor_log_cleaner_worker_deaths_total", "").value == COMPACTION_DEATHS_MAX


@virtual
async def test_records_below_the_log_start_go_and_what_lies_above_is_compacted() -> None:
    """compact,delete: retention trims while rounds run."""
    rig = await Cleaned.start(config=replace(COMPACT, cleanup_policy=("compact", "delete")))
    await overwritten(rig, 4)
    await rig.life.log().trim(33)
    await rig.clean()
    assert [record.offset for record in await rig.records(start=33)] == list(range(33, 40))
    await overwritten(rig, 1, 5)
    await rig.flush()

    trims: list[asyncio.Future[None]] = []

    def before(question: Any) -> None:
        rig.worker.before = lambda _: None
        trims.append(asyncio.ensure_future(rig.life.log().trim(42)))

    rig.worker.before = before
    await rig.clean()
    await trims[0]
    await rig.clean()
    assert [record.offset for record in await rig.records(start=42)] == [42, 43, 44]
    assert rig.life.log().log_start_offset == 42
    assert await rig.orphans() == []


@virtual
async def test_records_without_a_key_go_as_in_kafka() -> None:
    rig = await Cleaned.start(config=LogConfig())
    await rig.put((None, b"from before the topic was compacted"))
    await overwritten(rig, 2, 2)
    rig.life.log().configure(COMPACT)
    await rig.clean()
    assert [record.key for record in await rig.records()] == [b"k0", b"k1"]


@virtual
async def test_the_cleaner_looks_at_intervals_and_ends_a_worker_without_work() -> None:
    rig = await Cleaned.start()
    await overwritten(rig)
    await rig.flush()
    rig.cleaner.start()
    clock = rig.life.world.clock
    await clock.sleep(14)
    assert len(await rig.records()) == 50
    await clock.sleep(2)
    assert len(await rig.records()) == 10 and rig.worker.stops == 0
    await clock.sleep(COMPACTION_IDLE_S + 31)
    assert rig.worker.stops >= 1
    rig.settings = SETTINGS._replace(enabled=False)
    await overwritten(rig)
    await clock.sleep(60)
    assert len(await rig.records()) == 60, "switched off, while it runs"
    await rig.cleaner.stop()


@virtual
async def test_a_cleaner_that_was_never_started_can_be_stopped() -> None:
    rig = await Cleaned.start()
    await rig.cleaner.stop()
    assert rig.worker.stops == 0


@virtual
async def test_bytes_a_second_are_bounded() -> None:
    rig = await Cleaned.start()
    await overwritten(rig)
    await rig.flush()
    rig.settings = SETTINGS._replace(bytes_per_second=100.0)
    began = rig.life.world.clock.monotonic()
    await rig.clean()
    size = rig.metrics.counter("ponor_log_cleaner_read_bytes_total", "").value
    assert rig.life.world.clock.monotonic() - began >= 2 * size / 100


@virtual
async def test_a_log_that_cannot_be_looked_at_costs_no_other() -> None:
    world = await World.create(2)
    metadata = FaultyMetadata(world.metadata)
    rig = await Cleaned.start(world, metadata=metadata)
    await overwritten(rig)
    for _ in range(2):
        await rig.put((b"k", b"1"), partition=1)
    await rig.flush()
    metadata.faults["object_ranges"] = [refused]
    assert await rig.cleaner.clean_dirtiest()
    assert len(await rig.records(1)) == 1 and len(await rig.records(0)) == 50


@virtual
async def test_18_a_tombstone_above_a_coordinators_snapshot_stays_however_old() -> None:
    """Loading is the snapshot and the log above it: without the tombstone, what it deleted would be back."""
    rig = await Cleaned.start(config=replace(COMPACT, delete_retention_ms=0))
    log = rig.life.log()
    safe: list[int] = []
    log.attach(lambda offset: b"has k0" if offset == 2 else None, safe.append)
    await overwritten(rig, 1, 2)
    assert safe == [2] and log.replayed_from == 2
    # A producer's state is in each checkpoint: they go on, the snapshot stays.
    await rig.put((b"p", b"1"), producer_id=3, producer_epoch=0, base_sequence=0)
    await rig.put((b"k0", None))
    for _ in range(4):
        await overwritten(rig, 1, 1 + 1)
        await rig.put((b"k0", None))
        await rig.clean()
        await rig.life.world.clock.sleep(1)
    tombstones = [record.offset for record in await rig.records(start=2) if record.value is None]
    assert tombstones == [3, 6, 9, 12, 15]
    # Without a snapshot all of it is replayed from what is left, and that is right.
    other = await Cleaned.start(config=replace(COMPACT, delete_retention_ms=0))
    other.life.log().attach(lambda offset: None)
    await overwritten(other, 3, 2)
    await other.clean()
    assert len(await other.records()) == 2


@virtual
async def test_a_worker_that_works_slowly_is_heard_of_all_the_time() -> None:
    """Or the broker would take it for one that hangs."""
    rig = await Cleaned.start()
    await overwritten(rig)
    await rig.flush()
    clock = rig.life.world.clock
    pipe = io.BytesIO()
    worker = _Worker(Hello("memory:", 400, False, "info", "json"), pipe, clock, Random(1))
    heard: list[float] = []

    def progress(bytes_done: int) -> None:
        before = pipe.tell()
        worker._progress(bytes_done)
        if pipe.tell() > before:
            heard.append(clock.monotonic())

    rig.worker.rounds._progress = progress
    rig.settings = SETTINGS._replace(bytes_per_second=100.0)
    await rig.clean()
    assert clock.monotonic() > 20 and len(heard) > 15
    assert max(later - earlier for earlier, later in pairwise([0.0, *heard])) < COMPACTION_SILENCE_S / 10
