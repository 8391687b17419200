"""A dead node's WAL as others reach it: whose it is, its lock, where it ends, what of it is read."""

from __future__ import annotations

import asyncio
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from s3stream.clock import SystemClock
from s3stream.errors import BadSetting, Corrupt, Unavailable
from s3stream.metrics import Metrics
from s3stream.objectstore.memory import MemoryStore
from s3stream.tasks import Tasks
from s3stream.types import FencedWal, NodeIdentity, StreamBatch, WalDamage, WalState
from tests.support.object_wal import SMALL_OBJECTS
from tests.support.sim_files import Crash, SimDisk, SimFiles
from tests.support.wal import SMALL, DiskPlace, Listener, Place, SimPlace, batch, fields, recover_all, run_in, started
from wal import LogName, WalAccess, file_takeover, lock_needed, read_sealed, seal_wal, take_lock
from wal.files import Files as AnyFiles
from wal.files import OsFiles
from wal.object_wal import ObjectWal
from wal.owner import OWNER_BYTES, WalOwner, decode_owner, encode_owner, read_owner, write_owner

OWNER = NodeIdentity(5, 3, 0x1234_5678_9ABC)


def fenced(uri: str, trim: int = 0, seal: int | None = None, owner: NodeIdentity = OWNER) -> FencedWal:
    state = WalState.SEALING if seal is None else WalState.SEALED
    return FencedWal(*owner, uri, trim, state, seal)


def reach(files: AnyFiles, objects: MemoryStore | None = None) -> WalAccess:
    def store(url: str) -> MemoryStore:
        assert objects is not None
        return objects

    async def at_once(call, *args):  # type: ignore[no-untyped-def]
        await asyncio.sleep(0)
        return call(*args)

    return WalAccess("cluster", SystemClock(), Tasks(), at_once, store, files, Random(1), object_settings=SMALL_OBJECTS)


async def dead(place: Place, batches: int = 40, trim: int = 0) -> list[StreamBatch]:
    """A log of batches of three streams, its process gone. Returns them."""
    wal = place.open(SMALL)
    await wal.lock()
    await wal.owned_by(OWNER)  # type: ignore[attr-defined]
    await recover_all(wal)
    listener = Listener()
    await wal.start(OWNER.node_epoch, listener)
    given = [batch(number, 300 + 37 * number % 900, 1 + number % 3) for number in range(batches)]
    for one in given:
        wal.append(one)
        if one.wal_position % 4 == 3:
            await listener.until_durable(one.wal_position + 1)
    await listener.until_durable(batches)
    if trim:
        await wal.trim(trim)
    await wal.close()
    return given


async def read(access: WalAccess, wal: FencedWal, streams: set[int]) -> list[StreamBatch]:
    damaged: dict[int, WalDamage] = {}
    found = read_sealed(wal.wal_uri, wal=wal, streams=streams, damaged=damaged, access=access)
    return [one async for group in found for one in group]


async def sealed(place: SimPlace, trim: int = 0) -> tuple[WalAccess, FencedWal]:
    access = reach(place.files)
    lock = await take_lock("file:///wal", node_id=5, node_epoch=3, access=access)
    wal = fenced("file:///wal", trim)
    number = await seal_wal(wal.wal_uri, wal=wal, access=access, lock=lock)
    await lock.release()
    return access, fenced("file:///wal", trim, number)


# --- files -------------------------------------------------------------------------------------------


async def test_10_survivors_read_what_is_theirs_of_what_was_durable() -> None:
    place = SimPlace()
    given = await dead(place)
    access, wal = await sealed(place)
    assert wal.seal_number == 40 and len(place.disk.entries) > 3, "over several segments"
    shares = [{1}, {2, 3}, {1, 2, 3}, {9}]
    found = await asyncio.gather(*(read(access, wal, share) for share in shares))
    for share, batches in zip(shares, found, strict=True):
        assert fields(batches) == fields([one for one in given if one.stream_id in share])
    assert place.files.open_handles == 0


async def test_many_small_groups_are_read_in_few_calls_and_a_call_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    place = SimPlace()
    given = await dead(place)
    access, wal = await sealed(place)
    calls: list[str] = []

    async def counting(call, *args):  # type: ignore[no-untyped-def]
        calls.append(call.__name__)
        return call(*args)

    counted = replace(access, run_blocking=counting)
    assert fields(await read(counted, wal, {1, 2, 3})) == fields(given)
    assert calls == ["begin", "next_groups", "close"]
    monkeypatch.setattr(file_takeover, "CALL_BYTES", sum(len(one.payload) for one in given) // 3)
    calls.clear()
    assert fields(await read(counted, wal, {1, 2, 3})) == fields(given)
    assert calls.count("next_groups") > 1


async def test_who_reads_up_to_the_seal_neither_syncs_nor_looks_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sealer did, for all: the rest of a segment is up to 128 MiB, on the way of a takeover for each survivor."""
    place = SimPlace()
    given = await dead(place, 12)
    calls: list[tuple[str, int]] = []
    for name in ("pread", "fdatasync", "drop_cache", "sync_directory"):
        original = getattr(SimFiles, name)

        def counted(self: SimFiles, *args: int, name: str = name, original: Any = original) -> Any:
            calls.append((name, args[1] if name == "pread" else 0))
            return original(self, *args)

        monkeypatch.setattr(SimFiles, name, counted)
    access, wal = await sealed(place)
    assert {name for name, _ in calls} == {"pread", "fdatasync", "drop_cache", "sync_directory"}
    sealing = len(calls)
    monkeypatch.setattr(file_takeover, "READ_BYTES", 8192)
    assert fields(await read(access, wal, {1, 2, 3})) == fields(given)
    segments = [place.disk.entries[path] for path in place.disk.entries if path.endswith(".wal")]
    used = sum(len(bytes(segment.cache).rstrip(b"\0")) for segment in segments)
    assert {name for name, _ in calls[sealing:]} == {"pread"}
    assert (
        sum(size for _, size in calls[sealing:])
        < used + 8192 * (len(segments) + 2)
        < sum(len(segment.cache) for segment in segments)
    )


async def test_what_lies_below_the_trim_is_not_read_again() -> None:
    place = SimPlace()
    given = await dead(place, trim=30)
    access, wal = await sealed(place, trim=30)
    assert fields(await read(access, wal, {1, 2, 3})) == fields(given[30:])
    assert await read(access, replace_seal(wal, 30), {1, 2, 3}) == [], "nothing lies between trim and seal"


def replace_seal(wal: FencedWal, number: int) -> FencedWal:
    return wal._replace(seal_number=number)


async def test_2_nothing_at_or_above_the_seal_is_read() -> None:
    """The node is back and appends while a slow survivor still reads: those records are no part of the takeover."""
    place = SimPlace()
    given = await dead(place)
    access, wal = await sealed(place)
    for seal in (1, 17, 39):
        assert fields(await read(access, replace_seal(wal, seal), {1, 2, 3})) == fields(given[:seal])


async def test_4_a_torn_tail_is_beyond_the_end_for_everybody() -> None:
    place = SimPlace()
    await dead(place)
    _, wal = await sealed(place)
    assert wal.seal_number is not None
    # The last record's payload never reached the disk whole.
    last = max(path for path in place.disk.entries if path.endswith(".wal") and any(place.disk.entries[path].cache))
    used = len(bytes(place.disk.entries[last].cache).rstrip(b"\0"))
    place.disk.flip_bit(last, used - 1)
    access, torn = await sealed(place)
    assert torn.seal_number == wal.seal_number - 1
    assert len(await read(access, torn, {1, 2, 3})) == 39
    with pytest.raises(Corrupt, match="ends at position 39, but it was sealed at 40"):
        await read(access, wal, {1, 2, 3})


async def test_a_damaged_record_below_the_end_is_corruption_for_all_its_readers() -> None:
    place = SimPlace()
    await dead(place)
    access, wal = await sealed(place)
    first = min(path for path in place.disk.entries if path.endswith(".wal"))
    place.disk.flip_bit(first, 4096 + 200)
    with pytest.raises(Corrupt, match=r"wal-corrupt\.md"):
        await read(access, wal, {1})
    assert place.files.open_handles == 0


async def test_10_the_lock_is_held_until_it_is_released() -> None:
    place = SimPlace()
    await dead(place)
    access = reach(place.files)
    assert lock_needed("file:///wal") and lock_needed("memory:") and not lock_needed("s3://bucket/prefix")
    lock = await take_lock("file:///wal", node_id=5, node_epoch=3, access=access)
    with pytest.raises(BadSetting, match="in use by process"):
        await place.open(SMALL).lock()
    with pytest.raises(Unavailable, match="another controller has its WAL"):
        await take_lock("file:///wal", node_id=5, node_epoch=3, access=access)
    await lock.release()
    await lock.release()
    assert not lock.held
    await place.open(SMALL).lock()


async def test_10_an_owner_that_holds_its_lock_is_not_dead(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        place = DiskPlace(tmp_path / "wal", pool)
        wal, _, _ = await started(place)
        await wal.owned_by(OWNER)  # type: ignore[attr-defined]
        access = replace(reach(OsFiles()), run_blocking=run_in(pool))
        with pytest.raises(Unavailable, match=f"process {os.getpid()}: node 5 epoch 3 is not dead"):
            await take_lock(wal.uri, node_id=5, node_epoch=3, access=access)
        await wal.close()
        lock = await take_lock(wal.uri, node_id=5, node_epoch=3, access=access)
        assert await seal_wal(wal.uri, wal=fenced(wal.uri), access=access, lock=lock) == 0
        await lock.release()


async def test_10_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    access = reach(OsFiles())
    with pytest.raises(Unavailable, match="not within reach"):
        await take_lock(f"file://{tmp_path}/wal", node_id=5, node_epoch=3, access=access)
    assert os.listdir(tmp_path) == []
    (tmp_path / "wal").mkdir()
    with pytest.raises(Unavailable, match="not within reach"):
        await take_lock(f"file://{tmp_path}/wal", node_id=5, node_epoch=3, access=access)
    assert os.listdir(tmp_path / "wal") == []


@pytest.mark.parametrize(
    ("node_id", "node_epoch"), [(6, 3), (5, 4), (5, 2)], ids=["another node", "a newer life elsewhere", "an older life"]
)
async def test_10_a_directory_of_the_same_path_on_another_machine_is_not_taken_for_it(
    node_id: int, node_epoch: int
) -> None:
    """Its lock is free there, and says nothing of the node that is to be taken over."""
    place = SimPlace()
    await dead(place)
    with pytest.raises(Unavailable, match="is of node 5 epoch 3"):
        await take_lock("file:///wal", node_id=node_id, node_epoch=node_epoch, access=reach(place.files))
    await place.open(SMALL).lock()


class Files(SimFiles):
    """Of another machine, or another moment."""

    table = ""
    keeps_locks = True

    def mounts(self) -> str:
        return self.table

    def lock(self, path: str) -> int:
        if not self.keeps_locks:
            return self.open(path)
        return super().lock(path)


async def test_10_a_place_that_keeps_no_locks_is_not_taken_over() -> None:
    place = SimPlace()
    await dead(place)
    files = Files(place.disk)
    files.table = "1 0 0:1 / / rw - cifs //server/share rw"
    with pytest.raises(Unavailable, match=r"cannot be taken over: .* cannot hold a WAL"):
        await take_lock("file:///wal", node_id=5, node_epoch=3, access=reach(files))
    files.table, files.keeps_locks = "", False
    with pytest.raises(Unavailable, match=r"cannot be taken over: .* does not keep locks"):
        await take_lock("file:///wal", node_id=5, node_epoch=3, access=reach(files))
    assert files.open_handles == 0


async def test_10_a_node_that_came_back_and_died_before_the_lock_was_taken_is_another_life() -> None:
    place = SimPlace()
    await dead(place)

    class Late(SimFiles):
        def lock(self, path: str) -> int:
            write_owner(place.files, "/wal", WalOwner(5, 4, 9))
            return super().lock(path)

    files = Late(place.disk)
    with pytest.raises(Unavailable, match="is of node 5 epoch 4"):
        await take_lock("file:///wal", node_id=5, node_epoch=3, access=reach(files))
    assert files.open_handles == 0
    await place.open(SMALL).lock()


async def earlier(files: AnyFiles, node_epoch: int, node_id: int = 5) -> WalOwner | None:
    lock = await take_lock("file:///wal", node_id=node_id, node_epoch=node_epoch, access=reach(files), or_earlier=True)
    await lock.release()
    return lock.earlier


async def test_10_a_directory_says_which_life_it_names_where_a_newer_one_had_not_named_it() -> None:
    place = SimPlace()
    await dead(place)
    assert await earlier(place.files, 3) is None
    assert await earlier(place.files, 4) == await earlier(place.files, 9) == WalOwner(*OWNER)
    for node_id, node_epoch in ((6, 9), (5, 2)):
        with pytest.raises(Unavailable, match="is of node 5 epoch 3"):
            await earlier(place.files, node_epoch, node_id)

    class Late(SimFiles):
        def lock(self, path: str) -> int:
            write_owner(place.files, "/wal", WalOwner(5, 4, 9))
            return super().lock(path)

    assert await earlier(Late(place.disk), 4) is None, "it was named just before the lock was free"
    place.disk.flip_bit("/wal/owner", 20)
    with pytest.raises(Unavailable, match="does not say whose"):
        await earlier(place.files, 9)
    assert place.files.open_handles == 0


async def test_10_a_directory_without_a_name_is_nobodys_only_where_it_was_locked_before(tmp_path: Path) -> None:
    access = reach(OsFiles())
    uri = f"file://{tmp_path}/wal"
    for make in (lambda: None, (tmp_path / "wal").mkdir):
        make()
        with pytest.raises(Unavailable, match="not within reach"):
            await take_lock(uri, node_id=5, node_epoch=1, access=access, or_earlier=True)
    assert os.listdir(tmp_path / "wal") == []
    (tmp_path / "wal" / "lock").touch()
    lock = await take_lock(uri, node_id=5, node_epoch=1, access=access, or_earlier=True)
    assert lock.earlier == WalOwner(5, 0, 0)
    await lock.release()


async def test_a_survivor_checks_the_incarnation_too() -> None:
    place = SimPlace()
    await dead(place)
    access, wal = await sealed(place)
    with pytest.raises(Unavailable, match="is of node 5 epoch 3"):
        await read(access, wal._replace(incarnation=1), {1})
    lock = await take_lock("file:///wal", node_id=5, node_epoch=3, access=access)
    with pytest.raises(Unavailable, match="is of node 5 epoch 3"):
        await seal_wal(wal.wal_uri, wal=wal._replace(incarnation=1), access=access, lock=lock)


async def test_an_empty_directory_under_the_owners_name_is_the_wrong_volume() -> None:
    place = SimPlace()
    write_owner(place.files, "/wal", WalOwner(*OWNER))
    access = reach(place.files)
    lock = await take_lock("file:///wal", node_id=5, node_epoch=3, access=access)
    with pytest.raises(Unavailable, match="right volume"):
        await seal_wal("file:///wal", wal=fenced("file:///wal"), access=access, lock=lock)
    with pytest.raises(Corrupt, match="right volume"):
        await seal_wal("file:///wal", wal=fenced("file:///wal", trim=7), access=access, lock=lock)


async def test_a_memory_wal_ends_with_its_process() -> None:
    with pytest.raises(Unavailable, match="nothing to take over"):
        await take_lock("memory:", node_id=5, node_epoch=3, access=reach(OsFiles()))


async def test_a_disk_that_cannot_be_read_is_unavailable_and_leaves_nothing_open() -> None:
    place = SimPlace()
    await dead(place)
    access, wal = await sealed(place)
    reading = place.files.pread

    def broken(handle: int, size: int, offset: int) -> bytes:
        if size > OWNER_BYTES:
            raise OSError(errno.EIO, "broken")
        return reading(handle, size, offset)

    place.files.pread = broken  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="cannot read"):
        await read(access, wal, {1})
    lock = await take_lock("file:///wal", node_id=5, node_epoch=3, access=access)
    with pytest.raises(Unavailable, match="cannot read"):
        await seal_wal(wal.wal_uri, wal=wal, access=access, lock=lock)
    await lock.release()
    assert place.files.open_handles == 0


async def test_a_reader_that_stops_early_leaves_nothing_open() -> None:
    place = SimPlace()
    await dead(place)
    access, wal = await sealed(place)
    groups = read_sealed(wal.wal_uri, wal=wal, streams={1}, damaged={}, access=access)
    async for _ in groups:
        break
    await groups.aclose()
    assert place.files.open_handles == 0


async def test_a_small_share_does_not_keep_alive_what_was_read_with_it() -> None:
    place = SimPlace()
    given = await dead(place)
    access, wal = await sealed(place)
    [*found] = await read(access, wal, {2})
    assert fields(found) == fields([one for one in given if one.stream_id == 2])
    assert all(isinstance(one.payload, bytes) for one in found)


# --- whose it is -------------------------------------------------------------------------------------


def test_the_owner_file_is_as_its_page_says() -> None:
    """docs/formats/wal.md. A change here is a new version of the format."""
    data = encode_owner(WalOwner(5, 3, 0x1234_5678_9ABC))
    assert data.hex(" ", 8) == "504f4e4f524f574e 010000003631a49f 0500000000000000 0300000000000000 bc9a785634120000"
    assert len(data) == OWNER_BYTES == 40
    assert decode_owner(data, "owner") == WalOwner(5, 3, 0x1234_5678_9ABC)


@pytest.mark.parametrize("at", [0, 8, 12, 16, 39])
def test_a_damaged_owner_file_is_corrupt(at: int) -> None:
    data = bytearray(encode_owner(WalOwner(5, 3, 7)))
    data[at] ^= 1
    with pytest.raises(Corrupt, match="owner"):
        decode_owner(bytes(data), "owner")
    with pytest.raises(Corrupt, match="truncated"):
        decode_owner(bytes(data[:39]), "owner")


async def test_10_a_damaged_owner_file_is_nobodys() -> None:
    place = SimPlace()
    await dead(place)
    place.disk.flip_bit("/wal/owner", 20)
    with pytest.raises(Unavailable, match="does not say whose it is"):
        await take_lock("file:///wal", node_id=5, node_epoch=3, access=reach(place.files))


def test_the_owner_changes_at_one_stroke_wherever_the_machine_stops() -> None:
    for crash_at in range(1, 8):
        disk = SimDisk(Random(crash_at))
        write_owner(SimFiles(disk), "/wal", WalOwner(5, 3, 7))
        disk.calls, disk.crash_at = 0, crash_at
        try:
            write_owner(SimFiles(disk), "/wal", WalOwner(5, 4, 8))
        except Crash:
            done = False
        else:
            done = True
        disk.crash_at = None
        disk.power_loss()
        found = read_owner(SimFiles(disk), "/wal")
        assert found == WalOwner(5, 4, 8) if done else found in (WalOwner(5, 3, 7), WalOwner(5, 4, 8))
    assert done, "there are more crash points"


@pytest.mark.parametrize("broken", ["create", "pwritev", "fdatasync", "rename"])
async def test_a_node_starts_though_it_cannot_say_whose_its_wal_is(broken: str) -> None:
    """A full disk. The old name stands, so nobody takes the log for this life's."""
    place = SimPlace()
    await dead(place)
    place.disk.fail = lambda call, path: (
        OSError(errno.ENOSPC, "full") if call == broken and path.endswith("owner.new") else None
    )
    wal = place.open(SMALL)
    await wal.lock()
    await wal.owned_by(NodeIdentity(5, 4, 9))
    await recover_all(wal)
    await wal.start(4, Listener())
    assert read_owner(place.files, "/wal") == WalOwner(*OWNER)
    await wal.close()


# --- objects -----------------------------------------------------------------------------------------


def object_wal(store: MemoryStore, node_id: int = 5) -> ObjectWal:
    return ObjectWal(
        "s3://bucket/wal", store, LogName("cluster", node_id), settings=SMALL_OBJECTS, clock=SystemClock(),
        metrics=Metrics(), chance=Random(3),
    )  # fmt: skip


async def test_2_a_log_in_objects_is_sealed_once_and_read_by_stream() -> None:
    store = MemoryStore(SystemClock())
    wal = object_wal(store)
    wal.registered(OWNER.node_epoch)
    await recover_all(wal)
    listener = Listener()
    await wal.start(OWNER.node_epoch, listener)
    given = [batch(number, 300, 1 + number % 3) for number in range(20)]
    for one in given:
        wal.append(one)
        await listener.until_durable(one.wal_position + 1)
    access, row = reach(OsFiles(), store), fenced("s3://bucket/wal", trim=4)
    with pytest.raises(Unavailable, match="not sealed"):
        await read(access, row._replace(seal_number=9), {1})
    numbers = [await seal_wal(row.wal_uri, wal=row, access=access) for _ in range(2)]
    assert numbers[0] == numbers[1]
    wal.append(batch(99))
    await listener.until(lambda: bool(listener.failures))
    row = fenced("s3://bucket/wal", trim=4, seal=numbers[0])
    assert fields(await read(access, row, {2})) == fields([one for one in given[4:] if one.stream_id == 2])
    await wal.close()
    await access.tasks.close()
