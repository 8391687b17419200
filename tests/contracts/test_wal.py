"""The `WriteAheadLog` contract, held by every implementation."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from s3stream.clock import SystemClock
from s3stream.errors import BadSetting, Overloaded, Unavailable
from s3stream.objectstore.memory import MemoryStore
from tests.support.object_stores import open_contract_store
from tests.support.object_wal import ObjectPlace
from tests.support.servers import minio  # noqa: F401 - fixture
from tests.support.wal import SMALL, DiskPlace, MemoryPlace, Place, SimPlace, batch, fields, recover_all, started
from wal.framing import GROUP_ALIGN_BYTES, RECORD_HEADER_BYTES
from wal.object_format import RECORD_BYTES

LOCKED = ("memory", "simulated", "disk", "disk, inline")
"""One process holds them; a medium that fails is given up until it is repaired."""
SEALED = ("objects in memory", "objects in minio")
"""A newer node epoch ends an older one; a PUT is repeated for as long as it takes (tests/unit/test_object_wal.py)."""


@pytest.fixture(params=[*LOCKED, *SEALED])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "memory":
        yield MemoryPlace()
    elif request.param == "simulated":
        yield SimPlace()
    elif request.param == "objects in memory":
        yield ObjectPlace(MemoryStore(SystemClock()))
    elif request.param == "objects in minio":
        async with open_contract_store("obstore-minio", request, tmp_path) as store:
            yield ObjectPlace(store, secrets.token_hex(4))
    else:
        with ThreadPoolExecutor(2) as pool:
            yield DiskPlace(tmp_path / "deep" / "wal", pool, inline=request.param == "disk, inline")


async def test_a_new_log_is_empty_and_begins_at_zero(place: Place) -> None:
    wal, _, recovered = await started(place)
    assert recovered == []
    assert wal.next_position == 0
    await wal.close()


async def test_a_place_that_keeps_nothing_else_keeps_that_a_log_was_started(place: Place) -> None:
    wal = place.open()
    await wal.lock()
    assert [group async for group in wal.recover(0)] == []
    assert wal.never_started is (place.name != "memory")
    await wal.close()
    wal, _, _ = await started(place)
    await wal.close()
    wal, _, found = await started(place, node_epoch=2)
    assert found == [] and not wal.never_started
    await wal.close()


async def test_durable_records_come_back_in_order_with_every_field(place: Place) -> None:
    wal, listener, _ = await started(place)
    batches = [batch(n, size=n * 37 % 3000) for n in range(60)]
    assert [wal.append(b) for b in batches] == list(range(60))
    await listener.until_durable(60)
    await wal.close()
    wal, _, recovered = await started(place, node_epoch=2)
    assert fields(recovered) == fields(batches)
    assert wal.next_position == 60
    await wal.close()


async def test_every_kind_of_buffer_is_taken(place: Place) -> None:
    wal, listener, _ = await started(place)
    data = bytes(range(200))
    for payload in (data, bytearray(data), memoryview(data), memoryview(bytearray(data))[50:150], b""):
        wal.append(batch(0))
        item = batch(1)
        item.payload = payload
        wal.append(item)
    await listener.until_durable(10)
    await wal.close()
    wal, _, recovered = await started(place, node_epoch=2)
    assert [bytes(b.payload) for b in recovered[1::2]] == [data, data, data, data[50:150], b""]
    await wal.close()


async def test_the_listener_hears_of_groups_and_not_of_records(place: Place) -> None:
    wal, listener, _ = await started(place)
    for n in range(30):
        wal.append(batch(n, size=10))
    assert listener.durable == [], "nothing is durable inside append"
    await listener.until_durable(30)
    assert len(listener.durable) < 30
    assert listener.durable == sorted(listener.durable)
    await wal.close()


async def test_what_arrives_during_a_group_goes_into_the_next(place: Place) -> None:
    wal, listener, _ = await started(place)
    wal.append(batch(0))
    heard: list[int] = []

    def wal_durable(end: int) -> None:
        heard.append(end)
        if end == 1:
            for n in range(1, 6):
                wal.append(batch(n))
        type(listener).wal_durable(listener, end)

    listener.wal_durable = wal_durable  # type: ignore[method-assign]
    await listener.until_durable(6)
    assert heard == [1, 6]
    await wal.close()


async def test_recovery_begins_at_the_trim_it_is_given(place: Place) -> None:
    wal, listener, _ = await started(place)
    batches = [batch(n, 700) for n in range(60)]
    for b in batches:
        wal.append(b)
    await listener.until_durable(60)
    await wal.close()
    wal = place.open()
    await wal.lock()
    assert fields(await recover_all(wal, trim=41)) == fields(batches[41:])
    await wal.close()


async def test_recovery_hands_out_groups_of_bounded_bytes(place: Place) -> None:
    wal, listener, _ = await started(place)
    for n in range(60):
        wal.append(batch(n, 700))
    await listener.until_durable(60)
    await wal.close()
    wal = place.open()
    await wal.lock()
    sizes = [sum(len(b.payload) for b in group) async for group in wal.recover(0)]
    assert sum(sizes) == 60 * 700
    assert max(sizes) <= SMALL.recovery_read_bytes + 700
    await wal.close()


async def test_positions_go_on_over_restarts_and_trims(place: Place) -> None:
    expected: list[int] = []
    for epoch in range(1, 6):
        wal, listener, recovered = await started(place, node_epoch=epoch, trim=max(0, len(expected) - 3))
        assert [b.wal_position for b in recovered] == expected[-3:]
        expected.extend([wal.append(batch(n)) for n in range(7)])
        await listener.until_durable(len(expected))
        await wal.trim(len(expected) - 3)
        await wal.close()
    assert expected == list(range(35))


async def test_trim_frees_space_and_keeps_what_is_above(place: Place) -> None:
    wal, listener, _ = await started(place)
    batches = [batch(n, 1000) for n in range(50)]
    for b in batches:
        wal.append(b)
    await listener.until_durable(50)
    before = wal.bytes_retained
    await wal.trim(40)
    assert wal.bytes_retained <= before - 25_000
    await wal.close()
    wal, _, recovered = await started(place, node_epoch=2, trim=40)
    assert fields(recovered) == fields(batches[40:])
    await wal.close()


async def test_appends_are_overloaded_at_the_bound_until_a_trim(place: Place) -> None:
    wal, listener, _ = await started(place)
    taken = 0
    with pytest.raises(Overloaded):
        for n in range(1000):
            wal.append(batch(n, 1000))
            taken = n + 1
    overhead = RECORD_BYTES if isinstance(place, ObjectPlace) else RECORD_HEADER_BYTES
    assert taken == SMALL.bytes_max // (1000 + overhead)
    assert wal.next_position == taken, "a refused record takes no position"
    await listener.until_durable(taken)
    groups = len(listener.durable)
    assert wal.bytes_retained <= wal.bytes_max + groups * GROUP_ALIGN_BYTES
    await wal.trim(taken)
    assert wal.append(batch(taken, 1000)) == taken
    await listener.until_durable(taken + 1)
    await wal.close()


@pytest.mark.parametrize("place", LOCKED, indirect=True)
async def test_a_failure_fails_everything_unanswered_and_refuses_until_repair(place: Place) -> None:
    wal, listener, _ = await started(place)
    for n in range(3):
        wal.append(batch(n))
    await listener.until_durable(3)
    retained = wal.bytes_retained
    place.break_writes()
    for n in range(3, 8):
        wal.append(batch(n))
    await listener.until(lambda: bool(listener.failures))
    ((durable_end, error),) = listener.failures
    assert durable_end == 3 and isinstance(error, Unavailable)
    assert wal.next_position == 3
    assert wal.bytes_retained <= retained
    with pytest.raises(Unavailable):
        wal.append(batch(8))
    with pytest.raises(Unavailable):
        await wal.repair()
    with pytest.raises(Unavailable):
        wal.append(batch(8))
    place.mend()
    await wal.repair()
    assert wal.append(batch(100)) == 3, "positions that were cut off are given again"
    await listener.until_durable(4)
    await wal.close()
    wal, _, recovered = await started(place, node_epoch=2)
    assert [b.base_offset for b in recovered] == [0, 10, 20, 1000]
    await wal.close()


async def test_repair_of_a_sound_log_changes_nothing(place: Place) -> None:
    wal, listener, _ = await started(place)
    await wal.repair()
    assert wal.append(batch(0)) == 0
    await listener.until_durable(1)
    await wal.close()


async def test_close_writes_what_is_queued_and_refuses_more(place: Place) -> None:
    wal, listener, _ = await started(place)
    for n in range(20):
        wal.append(batch(n, 1000))
    await wal.close()
    assert listener.durable_end == 20
    with pytest.raises(Unavailable):
        wal.append(batch(20))


@pytest.mark.parametrize("place", LOCKED, indirect=True)
async def test_only_one_can_hold_the_lock(place: Place) -> None:
    first, second = place.open(), place.open()
    await first.lock()
    with pytest.raises(BadSetting, match="in use"):
        await second.lock()
    await first.close()
    await second.lock()
    await second.close()


async def test_a_log_that_was_locked_and_never_started_can_be_closed(place: Place) -> None:
    wal = place.open()
    await wal.close()
    await wal.lock()
    assert await recover_all(wal) == []
    await wal.close()
