"""CORRECTNESS 4: the file WAL's records prove their neighbours. Torn tail or corruption, named case by case."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Sequence
from random import Random

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from s3stream.errors import BadSetting, Corrupt, Unavailable
from s3stream.types import Buffer, StreamBatch
from tests.support.sim_files import Crash, Inode
from tests.support.wal import SMALL, Listener, SimPlace, batch, fields, recover_all, recovered, started
from wal.framing import GROUP_ALIGN_BYTES, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES

FIRST = "/wal/00000000000000000000.wal"
SECOND = "/wal/00000000000000000001.wal"


async def written(place: SimPlace, groups: list[list[StreamBatch]], node_epoch: int = 1) -> None:
    """A log of these groups, killed without a goodbye."""
    wal, listener, recovered = await started(place, node_epoch)
    end = len(recovered)
    for group in groups:
        for item in group:
            wal.append(item)
        end += len(group)
        await listener.until_durable(end)
    await wal.close()


def three_groups() -> list[list[StreamBatch]]:
    return [[batch(3 * g + n) for n in range(3)] for g in range(3)]


def offset_of(group: int, record: int = 0) -> int:
    return SEGMENT_HEADER_BYTES + group * GROUP_ALIGN_BYTES + record * (RECORD_HEADER_BYTES + 100)


async def test_4_a_broken_record_in_the_last_group_ends_the_log() -> None:
    place = SimPlace()
    await written(place, three_groups())
    place.disk.flip_bit(FIRST, offset_of(2, 1) + 5)
    assert [b.wal_position for b in await recovered(place)] == list(range(7))


@pytest.mark.parametrize("where", [0, 4, 50, RECORD_HEADER_BYTES + 3])
async def test_4_a_broken_record_below_the_synced_position_is_corruption(where: int) -> None:
    place = SimPlace()
    await written(place, three_groups())
    place.disk.flip_bit(FIRST, offset_of(1, 2) + where)
    with pytest.raises(Corrupt, match=r"000\.wal.*position 5.*synced"):
        await recovered(place)


async def test_4_a_broken_record_in_an_earlier_segment_is_corruption_even_in_its_last_group() -> None:
    place = SimPlace()
    await written(place, three_groups())
    await written(place, [], node_epoch=2)
    place.disk.flip_bit(FIRST, offset_of(2, 2) + 5)
    with pytest.raises(Corrupt, match="begins at 9"):
        await recovered(place)


async def test_4_a_break_below_the_stored_trim_is_corruption() -> None:
    place = SimPlace()
    await written(place, three_groups())
    place.disk.flip_bit(FIRST, offset_of(2, 1) + 5)
    with pytest.raises(Corrupt, match="below 8"):
        await recovered(place, trim=8)


async def test_4_nothing_bad_is_handed_out_on_the_way_to_a_corruption() -> None:
    place = SimPlace()
    await written(place, [[batch(n)] for n in range(20)])
    place.disk.flip_bit(FIRST, offset_of(0) + SEGMENT_HEADER_BYTES // 2)  # in the gap between groups: harmless
    place.disk.flip_bit(SECOND, offset_of(2) + 5)
    wal = place.open()
    await wal.lock()
    seen: list[StreamBatch] = []
    with pytest.raises(Corrupt):
        async for group in wal.recover(0):
            seen += group
    await wal.close()
    assert fields(seen) == [(n, *fields([batch(n)])[0][1:]) for n in range(len(seen))]
    assert len(seen) < 20


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32))
async def test_4_any_flipped_bit_is_harmless_or_torn_tail_or_corrupt(seed: int) -> None:
    """Below the last group nothing may be missing silently; no bit anywhere yields other bytes."""
    random = Random(seed)
    place = SimPlace(seed)
    groups = [[batch(100 * g + n, random.choice([0, 30, 900])) for n in range(random.randint(1, 5))] for g in range(9)]
    with structlog.testing.capture_logs():
        await written(place, groups)
        path = random.choice([path for path in place.disk.entries if path.endswith(".wal")])
        place.disk.flip_bit(path, random.randrange(len(place.disk.entries[path].cache)), random.randrange(8))
        everything = [item for group in groups for item in group]
        try:
            found = await recovered(place)
        except Corrupt:
            return
    assert fields(found) == fields(everything[: len(found)])
    assert len(found) >= len(everything) - len(groups[-1])


async def test_4_stale_records_behind_a_torn_tail_do_not_come_back() -> None:
    """A group's second record is torn, its third is whole. A new incarnation writes; the third stays gone."""
    place = SimPlace()
    await written(place, three_groups())
    place.disk.flip_bit(FIRST, offset_of(2, 1) + 5)
    await written(place, [[batch(50)], [batch(51)]], node_epoch=2)
    found = await recovered(place)
    assert [b.wal_position for b in found] == list(range(9))
    assert [b.base_offset for b in found[7:]] == [500, 510]


async def test_4_a_recovered_segment_is_never_written_again() -> None:
    place = SimPlace()
    await written(place, three_groups())
    before = bytes(place.disk.entries[FIRST].cache)
    await written(place, [[batch(9)]], node_epoch=2)
    after = bytes(place.disk.entries[FIRST].cache)
    assert after == before[: len(after)]
    assert len(after) >= offset_of(2, 3)


async def test_4_what_only_the_page_cache_holds_is_synced_before_it_is_handed_out() -> None:
    """kill -9 between the write and its sync; the record is read and handed out, then the power fails."""
    place = SimPlace()
    wal, listener, _ = await started(place)
    wal.append(batch(0))
    await listener.until_durable(1)
    for _ in range(50):
        await asyncio.sleep(0)
    assert SECOND in place.disk.entries, "the next segment is prepared: what is written now is the record"
    place.disk.fail = _crash_between_write_and_sync()
    wal.append(batch(1))
    await place.files.crashed.wait()
    place.mend()
    place.disk.kill()
    place.disk.persist_some = _nothing  # type: ignore[method-assign]
    found = await recovered(place)
    assert fields(found) == fields([batch_at(0), batch_at(1)])
    place.disk.power_loss()
    assert fields(await recovered(place)) == fields(found)


def _crash_between_write_and_sync() -> Callable[[str, str], None]:
    calls: list[str] = []

    def fail(call: str, path: str) -> None:
        calls.append(call)
        if call == "fdatasync" and "pwritev" in calls:
            raise Crash(path)

    return fail


async def test_4_records_of_a_failed_sync_are_not_believed_from_the_page_cache() -> None:
    """The cache shows them, the medium lacks them, a second sync succeeds without them."""
    place = SimPlace()
    wal, listener, _ = await started(place)
    wal.append(batch(0))
    await listener.until_durable(1)
    place.disk.persist_some = _nothing  # type: ignore[method-assign]
    place.disk.fail = lambda call, path: OSError(errno.EIO, "sync fails") if call == "fdatasync" else None
    wal.append(batch(1))
    await listener.until(lambda: bool(listener.failures))
    place.mend()
    place.disk.kill()
    found = await recovered(place)
    place.disk.power_loss()
    assert fields(found) == fields(await recovered(place)) == fields([batch_at(0)])


def _nothing(inode: Inode) -> None:
    """No unsynced sector reaches the medium."""


def batch_at(number: int) -> StreamBatch:
    item = batch(number)
    item.wal_position = number
    return item


async def test_4_a_failed_sync_is_never_repeated_on_its_segment() -> None:
    place = SimPlace()
    wal, listener, _ = await started(place)
    calls: list[str] = []

    def fail(call: str, path: str) -> OSError | None:
        calls.append(call)
        return OSError(errno.EIO, "sync fails") if call == "fdatasync" else None

    place.disk.fail = fail
    wal.append(batch(0))
    await listener.until(lambda: bool(listener.failures))
    assert calls.count("fdatasync") == 1
    with pytest.raises(Unavailable):
        wal.append(batch(1))
    assert listener.durable == []
    await wal.close()


async def test_4_cut_records_never_return_and_their_positions_are_given_again() -> None:
    """The failed group reached the medium whole. After the repair it is gone, also for a crash right behind it."""
    place = SimPlace()
    wal, listener, _ = await started(place)
    wal.append(batch(0))
    await listener.until_durable(1)
    place.disk.persist_some = _everything(place)  # type: ignore[method-assign]
    place.disk.fail = lambda call, path: OSError(errno.EIO, "sync fails") if call == "fdatasync" else None
    for n in (1, 2, 3):
        wal.append(batch(n))
    await listener.until(lambda: bool(listener.failures))
    # Even when the cut's own truncation does not happen.
    place.disk.fail = lambda call, path: OSError(errno.EIO, "no") if call == "truncate" else None
    await wal.repair()
    place.disk.power_loss()
    assert fields(await recovered(place)) == fields([batch_at(0)])
    wal, listener, _ = await started(place, node_epoch=2)
    assert wal.append(batch(9)) == 1
    await listener.until_durable(2)
    await wal.close()
    assert [b.base_offset for b in await recovered(place)] == [0, 90]


def _everything(place: SimPlace) -> Callable[[Inode], None]:
    def persist(inode: Inode) -> None:
        for sector, versions in inode.unsynced.items():
            start = sector * place.disk.sector_bytes
            inode.durable[start : start + len(versions[-1])] = versions[-1]

    return persist


async def test_4_a_missing_segment_is_corruption_wherever_it_was() -> None:
    for missing in range(4):
        place = SimPlace()
        with structlog.testing.capture_logs():
            await written(place, [[batch(n, 3000)] for n in range(20)])
        names = sorted(path for path in place.disk.entries if path.endswith(".wal"))
        assert len(names) >= 4, "and the last is prepared, not used"
        del place.disk.entries[names[missing if missing < 3 else len(names) - 2]]
        with pytest.raises(Corrupt, match=r"missing|not there"):
            await recovered(place)


async def test_an_empty_directory_is_a_new_log_only_when_nothing_was_trimmed() -> None:
    assert await recovered(SimPlace()) == []
    with pytest.raises(Corrupt, match="right volume"):
        await recovered(SimPlace(), trim=1)


@pytest.mark.parametrize("size", [0, 10, SEGMENT_HEADER_BYTES, offset_of(1) + 7, SMALL.segment_bytes - 1])
async def test_a_truncated_active_segment_is_corruption(size: int) -> None:
    place = SimPlace()
    await written(place, three_groups())
    for path, inode in place.disk.entries.items():
        if path == SECOND:  # The prepared one; without it the truncated one is the last.
            continue
        for data in (inode.cache, inode.durable):
            del data[size:]
    with pytest.raises(Corrupt, match=r"truncated|not there"):
        await recovered(place)


async def test_segments_of_two_logs_do_not_mix() -> None:
    place, other = SimPlace(1), SimPlace(2)
    await written(place, three_groups())
    await written(other, three_groups())
    await written(other, [[batch(9)]], node_epoch=2)
    place.disk.entries[SECOND] = other.disk.entries[SECOND]
    with pytest.raises(Corrupt, match="another log"):
        await recovered(place)


async def test_a_node_epoch_that_went_back_is_refused() -> None:
    """CORRECTNESS 8: the metadata was restored from a backup, or the WAL is another node's."""
    place = SimPlace()
    await written(place, three_groups(), node_epoch=5)
    with pytest.raises(BadSetting, match="node epoch 5"):
        await started(place, node_epoch=5)


async def test_a_recycled_file_shows_nothing_of_its_earlier_use() -> None:
    place = SimPlace()
    with structlog.testing.capture_logs():
        wal, listener, _ = await started(place)
        for n in range(80):
            wal.append(batch(n, 3000))
            await listener.until_durable(n + 1)
            await wal.trim(n + 1)
        names = [path for path in place.disk.entries if path.endswith(".wal")]
        assert len(names) <= 3, "active, prepared, one kept for reuse"
        stale = [path for path in names if any(place.disk.entries[path].cache[SEGMENT_HEADER_BYTES:])]
        assert len(stale) == len(names), "the prepared one was used before"
        place.disk.kill()
        assert await recovered(place, trim=80) == []
        assert [b.wal_position for b in await recovered(place, trim=79)] == [79]


async def test_restarts_do_not_fill_the_disk() -> None:
    place = SimPlace()
    with structlog.testing.capture_logs():
        await written(place, [[batch(0)]])
        for epoch in range(2, 30):
            await written(place, [], node_epoch=epoch)
    assert place.disk.used() <= 3 * SMALL.segment_bytes + 30 * SEGMENT_HEADER_BYTES


async def test_recovery_and_close_leave_no_handle_open() -> None:
    place = SimPlace()
    with structlog.testing.capture_logs():
        await written(place, [[batch(n, 3000)] for n in range(20)])
        assert place.files.open_handles == 0
        wal = place.open()
        await wal.lock()
        async with contextlib.aclosing(wal.recover(0)) as groups:
            await anext(groups)
        await wal.close()
    assert place.files.open_handles == 0


async def test_4_a_segments_header_is_durable_before_its_first_record_is_written() -> None:
    """Else a torn header, with a record behind it, would look like a damaged one."""
    place = SimPlace()
    with structlog.testing.capture_logs():
        wal, listener, _ = await started(place)
        write = place.files.write_durably
        headers: set[bytes] = set()

        def write_durably(handle: int, vectors: Sequence[Buffer], offset: int) -> int:
            inode = place.files.inode(handle)
            headers.add(bytes(inode.durable[:SEGMENT_HEADER_BYTES]))
            assert inode.durable[:SEGMENT_HEADER_BYTES] == inode.cache[:SEGMENT_HEADER_BYTES]
            return write(handle, vectors, offset)

        place.files.write_durably = write_durably  # type: ignore[method-assign]
        for n in range(30):
            wal.append(batch(n, 3000))
        await listener.until_durable(30)
        await wal.close()
    assert len(headers) >= 3, "the log has rolled"


async def test_a_disk_that_fails_while_a_log_is_recovered_or_begun_is_unavailable_and_nothing_is_lost() -> None:
    def fails(call: str, path: str) -> OSError:
        return OSError(errno.EIO, "input/output error")

    place = SimPlace()
    await written(place, three_groups())
    works = place.disk.fail
    wal = place.open()
    await wal.lock()
    place.disk.fail = fails
    with pytest.raises(Unavailable, match="cannot read /wal"):
        await recover_all(wal, 0)
    place.disk.fail = works
    assert len(await recover_all(wal, 0)) == 9
    place.disk.fail = fails
    with pytest.raises(Unavailable, match="cannot create a segment in /wal"):
        await wal.start(2, Listener())
    place.disk.fail = works
    await wal.close()
    assert len(await recovered(place)) == 9
