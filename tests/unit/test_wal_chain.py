"""CORRECTNESS 4, the chain: records with good checksums that do not belong where they lie.

Each test puts a forged segment on the disk: what a lost or misdirected write, or a mixed-up restore, would leave.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence

import pytest

from s3stream.errors import Corrupt
from s3stream.types import StreamBatch
from tests.support.sim_files import Crash, Inode
from tests.support.wal import SMALL, SimPlace, batch, fields, recovered, started
from wal.framing import (
    GROUP_ALIGN_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    aligned,
    encode_records,
    encode_segment_header,
)
from wal.segments import segment_name


def header(ordinal: int, first_position: int, previous: int, salt: int = 11) -> SegmentHeader:
    return SegmentHeader(42, ordinal, 1, first_position, SMALL.segment_bytes, 0, previous, salt)


def positioned(first: int, count: int) -> list[StreamBatch]:
    batches = [batch(first + n) for n in range(count)]
    for position, item in enumerate(batches, first):
        item.wal_position = position
    return batches


class Segment:
    """Builds a segment's bytes group by group."""

    def __init__(self, head: SegmentHeader) -> None:
        self.header = head
        self.data = bytearray(encode_segment_header(head))
        self.chain = head.previous

    def group(self, batches: list[StreamBatch], chain: int | None = None) -> Segment:
        synced = batches[0].wal_position
        vectors, self.chain = encode_records(
            batches, 1, synced, self.chain if chain is None else chain, self.header.salt
        )
        self.data += b"".join(vectors)
        self.data += bytes(aligned(len(self.data)) - len(self.data))
        return self


def put(place: SimPlace, segments: Sequence[Segment]) -> None:
    for segment in segments:
        inode = Inode()
        inode.durable = segment.data + bytes(SMALL.segment_bytes - len(segment.data))
        inode.cache = bytearray(inode.durable)
        path = f"{place.path}/{segment_name(segment.header.ordinal)}"
        place.disk.entries[path] = place.disk.durable_entries[path] = inode


async def test_4_a_hand_made_log_of_two_segments_is_read() -> None:
    place = SimPlace()
    first = Segment(header(0, 0, 7)).group(positioned(0, 3)).group(positioned(3, 2))
    second = Segment(header(1, 5, first.chain)).group(positioned(5, 2))
    put(place, [first, second])
    assert fields(await recovered(place)) == fields(positioned(0, 7))


async def test_4_a_record_chained_to_another_predecessor_ends_the_log() -> None:
    place = SimPlace()
    put(place, [Segment(header(0, 0, 7)).group(positioned(0, 3)).group(positioned(3, 2), chain=12345)])
    # Its own `synced` says 3: nothing at or above the break was known durable.
    assert fields(await recovered(place)) == fields(positioned(0, 3))


async def test_4_a_record_chained_to_another_predecessor_below_a_synced_position_is_corruption() -> None:
    place = SimPlace()
    segment = Segment(header(0, 0, 7)).group(positioned(0, 3)).group(positioned(3, 2), chain=12345)
    put(place, [segment.group(positioned(5, 2))])
    with pytest.raises(Corrupt, match=r"position 3.*below 5 was synced"):
        await recovered(place)


async def test_4_a_record_of_a_later_position_is_not_taken_for_the_next() -> None:
    place = SimPlace()
    put(place, [Segment(header(0, 0, 7)).group(positioned(0, 3)).group(positioned(9, 2))])
    with pytest.raises(Corrupt, match=r"position 3.*below 9 was synced"):
        await recovered(place)


async def test_4_a_segment_that_follows_other_records_is_corruption() -> None:
    place = SimPlace()
    first = Segment(header(0, 0, 7)).group(positioned(0, 3))
    put(place, [first, Segment(header(1, 3, first.chain ^ 1)).group(positioned(3, 1))])
    with pytest.raises(Corrupt, match="follows other records"):
        await recovered(place)


async def test_4_segments_whose_positions_go_back_are_corruption() -> None:
    place = SimPlace()
    put(place, [Segment(header(0, 0, 7)), Segment(header(1, 9, 7)), Segment(header(2, 5, 7))])
    with pytest.raises(Corrupt, match="does not follow"):
        await recovered(place)


async def test_4_an_unreadable_header_before_the_trim_does_no_harm_and_above_it_is_corruption() -> None:
    for trim, harmless in ((3, True), (2, False)):
        place = SimPlace()
        first = Segment(header(0, 0, 7)).group(positioned(0, 3))
        second = Segment(header(1, 3, first.chain)).group(positioned(3, 2))
        put(place, [first, second])
        place.disk.flip_bit(f"{place.path}/{segment_name(0)}", 60)
        if harmless:
            assert fields(await recovered(place, trim)) == fields(positioned(3, 2))
        else:
            with pytest.raises(Corrupt, match="checksum"):
                await recovered(place, trim)


async def test_4_an_unreadable_header_of_the_last_segment_is_a_torn_roll_only_without_records() -> None:
    for records in (0, 1):
        place = SimPlace()
        first = Segment(header(0, 0, 7)).group(positioned(0, 3))
        second = Segment(header(1, 3, first.chain))
        if records:
            second.group(positioned(3, records))
        put(place, [first, second])
        place.disk.flip_bit(f"{place.path}/{segment_name(1)}", 60)
        if records:
            with pytest.raises(Corrupt, match="checksum"):
                await recovered(place)
        else:
            assert fields(await recovered(place)) == fields(positioned(0, 3))


async def test_4_a_cut_that_recovery_relied_on_outlives_the_next_power_loss() -> None:
    """The repair renames the new segment into place and dies before the directory is synced; the machine lives.
    Recovery sees the cut. Then the power fails: the cut must still be there."""
    place = SimPlace()
    wal, listener, _ = await started(place)
    wal.append(batch(0))
    await listener.until_durable(1)
    place.disk.persist_some = _persist_all(place)  # type: ignore[method-assign]
    place.disk.fail = lambda call, path: OSError(errno.EIO, "sync fails") if call == "fdatasync" else None
    wal.append(batch(1))
    await listener.until(lambda: bool(listener.failures))
    place.disk.fail = _die_after_rename(place)
    repair = asyncio.create_task(wal.repair())
    await place.files.crashed.wait()
    repair.cancel()
    place.mend()
    place.disk.kill()
    assert [b.wal_position for b in await recovered(place)] == [0]
    place.disk.pending.clear()  # Of what is not synced nothing survives.
    place.disk.power_loss()
    assert [b.wal_position for b in await recovered(place)] == [0]


def _die_after_rename(place: SimPlace) -> Callable[[str, str], None]:
    def fail(call: str, path: str) -> None:
        if call == "sync_directory" and any(change[0] == "rename" for change in place.disk.pending):
            raise Crash(path)

    return fail


def _persist_all(place: SimPlace) -> Callable[[Inode], None]:
    def persist(inode: Inode) -> None:
        for sector, versions in inode.unsynced.items():
            start = sector * place.disk.sector_bytes
            inode.durable[start : start + len(versions[-1])] = versions[-1]

    return persist


def test_groups_begin_on_pages_of_their_own() -> None:
    assert aligned(SEGMENT_HEADER_BYTES) == SEGMENT_HEADER_BYTES
    assert aligned(SEGMENT_HEADER_BYTES + 1) == SEGMENT_HEADER_BYTES + GROUP_ALIGN_BYTES
