"""The seal: where a log ends for good, whoever looks and whenever (CORRECTNESS 2, 5, 7); and what is read up to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from s3stream.errors import AlreadyExists, Corrupt, Fenced, Unavailable
from s3stream.objectstore.memory import MemoryStore
from s3stream.seams import ObjectStore
from s3stream.tasks import Tasks
from s3stream.types import StreamBatch, WalDamage
from tests.support.object_wal import NAME, SMALL_OBJECTS, ScriptedStore
from tests.support.virtual_time import VirtualClock, virtual
from tests.support.wal import batch, fields
from wal.object_format import HEADER_BYTES, Kind, Writer, decode_header, decode_slices, encode_mark, encode_records
from wal.object_names import Seal
from wal.object_reader import LogReader
from wal.object_seal import Sealer
from wal.object_wal import read_streams

OWNER = Writer(NAME.node_id, 4, 0xA)


class Bucket:
    """A store with objects that an owner has written, one record each unless said otherwise."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.objects = MemoryStore(self.clock)
        self.store = ScriptedStore(self.objects)
        self._seed = 0

    async def open(self, position: int = 0, writer: Writer = OWNER) -> None:
        await self.put(0, encode_mark(Kind.OPEN, writer, 0, position).buffers, writer)

    async def put(self, number: int, buffers: Any, writer: Writer = OWNER) -> None:
        await self.objects.create(NAME.key(writer.node_epoch, number), buffers)

    async def write(self, numbers: range, first_position: int | None = None, writer: Writer = OWNER) -> None:
        """Number n holds position n - 1 (+ `first_position`), of stream n % 3."""
        for number in numbers:
            position = number - 1 + (first_position or 0)
            await self.put(number, encode_records(writer, number, [record(position)]).buffers, writer)

    async def delete(self, *numbers: int) -> None:
        await self.objects.delete([NAME.key(OWNER.node_epoch, number) for number in numbers])

    def sealer(self, store: ObjectStore | None = None) -> Sealer:
        self._seed += 1
        return Sealer(store or self.store, NAME, self.clock, Random(self._seed))

    async def seal(self, trim: int = 0, node_epoch: int = OWNER.node_epoch) -> Seal:
        return await self.sealer().seal(node_epoch, trim)

    async def kinds(self, node_epoch: int = OWNER.node_epoch) -> dict[int, Kind]:
        found = {}
        async for info in self.objects.list(NAME.prefix):
            epoch, number = NAME.parse(info.key) or (0, 0)
            if epoch == node_epoch and number is not None:
                found[number] = decode_header(await self.objects.get(info.key), info.key).kind
        return found

    async def read(self, trim: int = 0, streams: set[int] | None = None) -> tuple[list[StreamBatch], LogReader]:
        logs = await self.sealer(self.objects).seal_listed(trim)
        reader = LogReader(self.store, NAME, logs, trim, SMALL_OBJECTS, self.clock, Random(1), Tasks(), streams)
        return [one async for found in reader.objects() for one in found.batches], reader


def record(position: int, size: int = 50) -> StreamBatch:
    one = batch(position, size, stream_id=position % 3)
    one.wal_position = position
    return one


async def written(count: int) -> Bucket:
    bucket = Bucket()
    await bucket.open()
    await bucket.write(range(1, count + 1))
    return bucket


# --- where the seal is ---------------------------------------------------------------------------


@virtual
async def test_7_the_seal_is_at_the_first_missing_number_and_is_found_again_by_anybody() -> None:
    bucket = await written(5)
    first = await bucket.seal()
    assert first == Seal(4, 6, 5)
    assert (await bucket.kinds())[6] is Kind.SEAL
    before = await bucket.kinds()
    assert await bucket.seal() == first and await bucket.seal(trim=3) == first
    assert await bucket.kinds() == before


@virtual
async def test_2_a_hole_ends_the_log_whatever_landed_above_it() -> None:
    bucket = await written(3)
    await bucket.write(range(5, 8))
    assert await bucket.seal() == Seal(4, 4, 3)
    found, _ = await bucket.read()
    assert [one.wal_position for one in found] == [0, 1, 2]


@virtual
async def test_5_a_record_that_is_written_before_the_seal_is_part_of_the_log() -> None:
    bucket = await written(3)
    late = [4, 5]

    async def owner_was_first(key: str) -> None:
        if late:
            await bucket.write(range(late[0], late.pop(0) + 1))

    bucket.store.on_create = owner_was_first
    assert await bucket.seal() == Seal(4, 6, 5)


@virtual
async def test_5_the_sealer_does_not_skip_a_number_of_which_it_was_only_told_that_it_exists() -> None:
    bucket = await written(3)
    conflicts = [1, 2]

    def conflict(key: str) -> None:
        if conflicts:
            conflicts.pop()
            raise AlreadyExists("409: a conflicting operation is in progress")

    bucket.store.on_create = conflict
    assert (await bucket.seal()).number == 4


@virtual
async def test_a_seal_whose_answer_was_lost_is_found() -> None:
    bucket = await written(3)
    create = bucket.objects.create
    lost: list[str] = []

    async def lossy(key: str, data: Any) -> None:
        await create(key, data)
        if not lost:
            lost.append(key)
            raise Unavailable("reset")

    bucket.objects.create = lossy  # type: ignore[method-assign]
    assert await bucket.seal() == Seal(4, 4, 3)
    assert sum(kind is Kind.SEAL for kind in (await bucket.kinds()).values()) == 1


@virtual
async def test_a_sealer_that_died_before_it_wrote_the_end_down_is_followed_by_another() -> None:
    for written_seals in (0, 5):
        bucket = await written(4) if written_seals else Bucket()
        mark = encode_mark(Kind.SEAL, Writer(NAME.node_id, 4, 0x5EA1), written_seals, max(0, written_seals - 1))
        await bucket.put(written_seals, mark.buffers)
        assert await bucket.seal() == Seal(4, written_seals, max(0, written_seals - 1))


@virtual
async def test_an_owner_that_lives_is_not_chased_for_ever() -> None:
    """It writes more while the sealer looks; it is barred further on, and the seal is where it has got to."""
    bucket = await written(3)
    owner = iter(range(4, 10_000))
    stopped: list[int] = []

    async def faster(key: str) -> None:
        for _ in range(3):
            if stopped:
                return
            try:
                await bucket.write(range(number := next(owner), number + 1))
            except AlreadyExists:
                stopped.append(number)

    bucket.store.on_create = faster
    seal = await bucket.seal()
    assert seal.number <= 200 and seal.end_position == seal.number - 1
    found, _ = await bucket.read()
    assert [one.wal_position for one in found] == list(range(seal.end_position))
    assert await bucket.seal() == seal


@virtual
async def test_any_number_of_sealers_agree() -> None:
    bucket = await written(3)
    bucket.store.on_create = lambda key: asyncio.sleep(0.01)
    seals = await asyncio.gather(*(bucket.seal() for _ in range(8)))
    assert set(seals) == {Seal(4, 4, 3)}


@virtual
async def test_an_epoch_that_nobody_began_is_sealed_so_that_nobody_will() -> None:
    bucket = await written(3)
    assert await bucket.seal(node_epoch=6) == Seal(6, 0, 3)
    assert await bucket.seal(node_epoch=6) == Seal(6, 0, 3)
    assert (await bucket.kinds(4))[4] is Kind.SEAL, "older epochs are sealed first"
    with pytest.raises(AlreadyExists):
        await bucket.open(3, Writer(NAME.node_id, 6, 0xB))


@virtual
async def test_a_newer_epoch_is_left_alone() -> None:
    bucket = await written(3)
    newer = Writer(NAME.node_id, 9, 0xB)
    await bucket.open(3, newer)
    assert await bucket.seal() == Seal(4, 4, 3)
    assert await bucket.kinds(9) == {0: Kind.OPEN}


# --- trimmed logs --------------------------------------------------------------------------------


@virtual
async def test_2_the_search_begins_at_the_trim_and_not_at_what_deletion_left_over() -> None:
    bucket = await written(9)
    await bucket.delete(0, 1, 2, 4, 5, 6)  # 3 is left: deletions end in any order
    assert await bucket.seal(trim=7) == Seal(4, 10, 9)


@virtual
async def test_2_a_log_that_is_trimmed_whole_is_sealed_behind_its_last_object() -> None:
    bucket = await written(9)
    await bucket.delete(*range(9))
    assert await bucket.seal(trim=9) == Seal(4, 10, 9)


@virtual
async def test_2_a_seal_is_never_put_below_the_trim() -> None:
    bucket = await written(9)
    await bucket.delete(*range(1, 10))
    with pytest.raises(Corrupt, match="trimmed to 9"):
        await bucket.seal(trim=9)
    bucket = await written(9)
    await bucket.delete(*range(5))
    with pytest.raises(Corrupt, match="records from position 2 on are not there"):
        await bucket.seal(trim=2)


@virtual
async def test_the_owner_deletes_while_the_sealer_looks() -> None:
    """It went on writing, committing and trimming between the sealer's listing and its first look at an object."""
    bucket = await written(3)
    get_ranges = bucket.objects.get_ranges
    moved: list[int] = []

    async def meanwhile(key: str, ranges: Any) -> Any:
        if not moved:
            moved.append(1)
            await bucket.write(range(4, 6))
            await bucket.delete(0, 1, 2, 3)
        return await get_ranges(key, ranges)

    bucket.objects.get_ranges = meanwhile  # type: ignore[method-assign]
    assert await bucket.seal(trim=3) == Seal(4, 6, 5)


@virtual
async def test_a_sealer_that_slept_through_another_ones_seal_returns_that_one() -> None:
    """It looked; the log grew, was sealed, recovered, and deleted below and above; now it finds its number free."""
    bucket = await written(3)
    slept: list[int] = []

    async def sleep(key: str) -> None:
        if not slept:
            slept.append(1)
            await bucket.write(range(4, 8))
            assert await bucket.sealer(bucket.objects).seal(4, 0) == Seal(4, 8, 7)
            await bucket.delete(*range(8))

    bucket.store.on_create = sleep
    assert await bucket.seal() == Seal(4, 8, 7)
    assert await bucket.seal() == Seal(4, 8, 7), "also with the sleeper's own seal in the way"


# --- reading -------------------------------------------------------------------------------------


@virtual
async def test_7_what_lands_after_the_seal_is_not_read() -> None:
    bucket = await written(4)
    seal = await bucket.seal()
    await bucket.write(range(seal.number + 1, seal.number + 4))
    found, reader = await bucket.read()
    assert [one.wal_position for one in found] == [0, 1, 2, 3]
    assert [number for _, number in reader.obsolete] == [6, 7, 8], "may be deleted; the seal not"


@virtual
async def test_positions_go_on_over_node_epochs() -> None:
    bucket = await written(3)
    await bucket.seal()
    second = Writer(NAME.node_id, 5, 0xB)
    await bucket.open(3, second)
    await bucket.write(range(1, 4), 3, second)
    for trim in range(7):
        found, _ = await bucket.read(trim)
        assert [one.wal_position for one in found] == list(range(trim, 6))


@virtual
async def test_a_durable_object_that_is_gone_or_replaced_is_corruption() -> None:
    bucket = await written(5)
    await bucket.seal()
    await bucket.delete(3)
    with pytest.raises(Corrupt, match="is not there"):
        await bucket.read()
    await bucket.put(3, encode_records(OWNER, 3, [record(7)]).buffers)
    with pytest.raises(Corrupt, match="begins at position 7, not at 2"):
        await bucket.read()
    bucket.objects.damage(NAME.key(4, 3), b"".join(encode_records(OWNER, 2, [record(2)]).buffers))
    with pytest.raises(Corrupt, match="holds RECORDS 2"):
        await bucket.read()


@virtual
async def test_20_a_corrupt_object_costs_only_the_streams_whose_slices_are_damaged() -> None:
    bucket = Bucket()
    await bucket.open()
    encoded = encode_records(OWNER, 1, [record(position, 300) for position in range(9)])
    data = bytearray(b"".join(encoded.buffers))
    header = decode_header(data, "k")
    (one,) = [found for found in slices_of(data) if found.stream_id == 1]
    data[one.end - 1] ^= 1
    await bucket.put(1, [bytes(data)])
    await bucket.write(range(2, 4), 8)
    found, reader = await bucket.read()
    assert {each.stream_id for each in found if each.wal_position < 9} == {0, 2}
    assert set(reader.damaged) == {1} and reader.damaged[1].position == header.first_position
    assert isinstance(reader.damaged[1].error, Corrupt)
    whole, reader = await bucket.read(streams={0, 2})
    assert reader.damaged == {} and len(whole) == 7


@virtual
async def test_20_a_damaged_header_costs_the_log() -> None:
    bucket = await written(3)
    await bucket.seal()
    key = NAME.key(4, 2)
    data = bytearray(await bucket.objects.get(key))
    for at in (0, 30, HEADER_BYTES - 1, HEADER_BYTES + 3):
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        bucket.objects.damage(key, bytes(damaged))
        with pytest.raises(Corrupt):
            await bucket.read()


def slices_of(data: bytes | bytearray) -> list[Any]:
    header = decode_header(data, "k")
    return list(decode_slices(memoryview(data)[HEADER_BYTES : HEADER_BYTES + header.table_bytes], header, "k"))


@virtual
async def test_a_survivor_reads_its_streams_slices_and_no_others() -> None:
    bucket = Bucket()
    await bucket.open()
    batches = [record(position, 400_000 if position % 3 else 500) for position in range(12)]
    await bucket.put(1, encode_records(OWNER, 1, batches).buffers)
    await bucket.seal()
    read = 0
    get_ranges = bucket.objects.get_ranges

    async def counted(key: str, ranges: Any) -> Any:
        nonlocal read
        found = await get_ranges(key, ranges)
        read += sum(map(len, found))
        return found

    bucket.objects.get_ranges = counted  # type: ignore[method-assign]
    for streams in ({0}, {1}, {0, 2}, {0, 1, 2}):
        read = 0
        damaged: dict[int, WalDamage] = {}
        found = [
            one
            async for group in read_streams(
                bucket.store, NAME, 4, 1, streams, settings=SMALL_OBJECTS, clock=bucket.clock, chance=Random(1),
                tasks=Tasks(), damaged=damaged,
            )
            for one in group
        ]  # fmt: skip
        wanted = [one for one in batches if one.stream_id in streams and one.wal_position >= 1]
        assert fields(found) == fields(wanted) and damaged == {}
        of_streams = sum(len(one.payload) for one in batches if one.stream_id in streams)
        assert read < of_streams + 40_000
    assert bucket.store.requests["get"] < 40 and bucket.objects is not bucket.store


@virtual
async def test_nothing_is_read_for_a_survivor_before_the_seal() -> None:
    bucket = await written(3)
    with pytest.raises(Unavailable, match="not sealed"):
        async for _ in read_streams(
            bucket.store, NAME, 4, 0, {1}, settings=SMALL_OBJECTS, clock=bucket.clock, chance=Random(1),
            tasks=Tasks(), damaged={},
        ):  # fmt: skip
            pass


@virtual
async def test_recovery_reads_ahead_within_its_bound() -> None:
    bucket = Bucket()
    await bucket.open()
    for number in range(1, 40):
        await bucket.put(number, encode_records(OWNER, number, [record(number - 1, 2000)]).buffers)
    await bucket.seal()
    get = bucket.objects.get
    now = most = 0

    async def slow(key: str) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.1)
        now -= 1
        return await get(key)

    bucket.objects.get = slow  # type: ignore[method-assign]
    found, _ = await bucket.read()
    assert len(found) == 39
    assert 2 <= most <= SMALL_OBJECTS.recovery_read_bytes // 2000


@virtual
async def test_a_reader_that_stops_early_leaves_no_request_behind() -> None:
    bucket = await written(20)
    tasks = Tasks()
    logs = await bucket.sealer().seal_listed(0)
    reader = LogReader(bucket.store, NAME, logs, 0, SMALL_OBJECTS, bucket.clock, Random(1), tasks)
    objects = reader.objects()
    await anext(objects)
    await objects.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not tasks._tasks


# --- what is under a key that is none of it --------------------------------------------------------


@virtual
async def test_5_a_number_that_exists_and_is_never_there_is_not_concluded_from() -> None:
    """Neither the end of the records nor END: what cannot be read says nothing, for as long as anybody looks."""
    for key, what in ((NAME.key(4, 4), "WAL object .* is said to exist"), (NAME.end_key(4), "the end of the WAL")):
        bucket = await written(3)

        def conflict(tried: str, key: str = key) -> None:
            if tried == key:
                raise AlreadyExists("409: a conflicting operation is in progress")

        bucket.store.on_create = conflict
        with pytest.raises(Unavailable, match=f"{what}.* cannot be read"):
            await bucket.seal()
        bucket.store.on_create = lambda key: None
        assert await bucket.seal() == Seal(4, 4, 3)


@virtual
async def test_7_an_end_that_was_deleted_is_corruption() -> None:
    """It was listed, and is not there: what lies below it may have been deleted on its account."""
    bucket = await written(3)
    await bucket.seal()
    get_ranges = bucket.objects.get_ranges

    async def gone(key: str, ranges: Any) -> Any:
        if key == NAME.end_key(4):
            await bucket.objects.delete([key])
        return await get_ranges(key, ranges)

    bucket.objects.get_ranges = gone  # type: ignore[method-assign]
    with pytest.raises(Corrupt, match="is gone: nobody may delete it"):
        await bucket.sealer().sealed(4)


@virtual
async def test_an_object_too_short_for_one_ends_nothing() -> None:
    bucket = await written(3)
    await bucket.put(4, [b"x"])
    before = await bucket.objects.get(NAME.key(4, 4))
    with pytest.raises(Corrupt, match="too short for one"):
        await bucket.seal()
    assert await bucket.objects.get(NAME.key(4, 4)) == before


@virtual
async def test_a_log_that_changes_faster_than_it_can_be_sealed_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The owner is first at every number that is tried, the ones further on included."""
    monkeypatch.setattr("wal.object_seal.LOOKS_MAX", 4)
    bucket = await written(3)

    async def faster(key: str) -> None:
        found = NAME.parse(key)
        assert found is not None and found[1] is not None, "no END is written"
        await bucket.write(range(found[1], found[1] + 1))

    bucket.store.on_create = faster
    with pytest.raises(Unavailable, match="changes faster than it can be sealed"):
        await bucket.seal()
    bucket.store.on_create = lambda key: None
    assert (await bucket.seal()).number == 20, "sixteen numbers were the owner's"


@virtual
async def test_an_object_that_was_cut_off_since_it_was_listed_costs_the_log_to_its_reader() -> None:
    bucket = Bucket()
    await bucket.open()
    await bucket.put(1, encode_records(OWNER, 1, [record(position, 2_000) for position in range(3)]).buffers)
    await bucket.seal()
    key = NAME.key(4, 1)
    logs = await bucket.sealer(bucket.objects).seal_listed(0)
    bucket.objects.damage(key, bytes(await bucket.objects.get(key))[:HEADER_BYTES])
    reader = LogReader(bucket.store, NAME, logs, 0, SMALL_OBJECTS, bucket.clock, Random(1), Tasks(), {1})
    with pytest.raises(Corrupt, match="is shorter than it was when it was listed"):
        async for _ in reader.objects():
            pass


# --- the store does not answer -------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["create", "get_ranges", "list"])
def test_a_seal_is_unavailable_while_the_store_is_and_done_when_it_is_back(operation: str) -> None:
    @virtual
    async def run() -> None:
        bucket = await written(3)
        working = getattr(bucket.objects, operation)

        async def broken(*_: Any) -> Any:
            raise Unavailable("503")

        async def broken_list(*_: Any) -> Any:
            raise Unavailable("503")
            yield

        fault: Callable[..., Coroutine[Any, Any, Any]] = broken_list if operation == "list" else broken  # type: ignore[assignment]
        setattr(bucket.objects, operation, fault)
        with pytest.raises(Unavailable):
            await bucket.seal()
        setattr(bucket.objects, operation, working)
        assert await bucket.seal() == Seal(4, 4, 3)

    run()


def test_fenced_is_not_unavailable() -> None:
    """The appender repairs after the one and stops after the other."""
    assert not issubclass(Fenced, Unavailable)
