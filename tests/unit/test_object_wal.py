"""The object WAL's pipeline: numbers, order, batching, hedges, and what a store's answers mean (CORRECTNESS 5)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from s3stream.errors import AlreadyExists, BadSetting, Corrupt, Fenced, Unavailable
from s3stream.objectstore.memory import MemoryStore
from tests.support.object_wal import SMALL_OBJECTS, ObjectPlace
from tests.support.virtual_time import VirtualClock, virtual
from tests.support.wal import Listener, batch, fields, recover_all
from wal.object_format import HEADER_BYTES, Kind, Writer, decode_header, encode_mark
from wal.object_pace import HedgePolicy
from wal.object_settings import ObjectWalSettings
from wal.object_wal import ObjectWal

PUT_S = 0.05
STEADY = replace(SMALL_OBJECTS, linger_ms=1000, hedge_share=0)
"""No timer but those that a test is about."""


class World:
    """A started log over a store whose creates take PUT_S, or what `delays` says for a number."""

    def __init__(self, settings: ObjectWalSettings = STEADY) -> None:
        self.settings = settings
        self.clock = VirtualClock()
        self.objects = MemoryStore(self.clock)
        self.place = ObjectPlace(self.objects, clock=self.clock)
        self.store = self.place.store
        self.listener = Listener()
        self.delays: dict[int, list[float]] = {}
        """Seconds of each attempt at a number, in turn."""
        self.sent: list[tuple[float, int]] = []
        """(when, number) of each create."""
        self.in_flight = self.most_in_flight = 0
        self.wal: ObjectWal

    async def start(self, node_epoch: int = 1) -> None:
        self.wal = self.place.open(self.settings)
        await self.wal.lock()
        assert await recover_all(self.wal) == []
        await self.wal.start(node_epoch, self.listener)
        self.store.on_create = self.create
        self.store.requests.clear()

    async def create(self, key: str) -> None:
        number = self.number(key)
        self.sent.append((self.clock.monotonic(), number))
        delays = self.delays.get(number)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(delays.pop(0) if delays else PUT_S)
        finally:
            self.in_flight -= 1

    def number(self, key: str) -> int:
        found = self.place.log_name.parse(key)
        assert found is not None
        return -1 if found[1] is None else found[1]

    def key(self, number: int, node_epoch: int = 1) -> str:
        return self.place.log_name.key(node_epoch, number)

    def metric(self, name: str, **labels: str) -> Any:
        (family,) = [family for family in self.place.metrics.families() if family.name == name]
        return family.children[tuple(labels.values())]


async def started(settings: ObjectWalSettings = STEADY) -> World:
    world = World(settings)
    await world.start()
    return world


# --- the acknowledgement path --------------------------------------------------------------------


@virtual
async def test_a_group_costs_one_put_and_no_other_request() -> None:
    world = await started()
    for n in range(20):
        world.wal.append(batch(n))
        await world.listener.until_durable(n + 1)
    assert dict(world.store.requests) == {"create": 20}
    assert world.metric("ponor_wal_puts_total", reason="first").value == 20
    assert world.metric("ponor_wal_requests_usd_total").value == pytest.approx(20 * 5e-6)
    await world.wal.close()


@virtual
async def test_an_idle_log_sends_at_once_and_a_busy_one_gathers() -> None:
    world = await started()
    world.wal.append(batch(0))
    await asyncio.sleep(0.01)
    for n in range(1, 6):
        world.wal.append(batch(n))
    await world.listener.until_durable(6)
    # The second group leaves when the first has ended: nothing is in flight then.
    assert world.sent == [(0.0, 1), (PUT_S, 2)]
    assert world.listener.durable == [1, 6]
    await world.wal.close()


@virtual
async def test_a_busy_log_sends_what_has_waited_for_the_linger() -> None:
    world = await started(replace(STEADY, linger_ms=20))
    world.wal.append(batch(0))
    await asyncio.sleep(0.01)
    world.wal.append(batch(1))
    await asyncio.sleep(0.01)
    world.wal.append(batch(2))
    await world.listener.until_durable(3)
    assert [number for _, number in world.sent] == [1, 2]
    assert world.sent[1][0] == pytest.approx(0.03)
    await world.wal.close()


@virtual
async def test_a_busy_log_sends_what_has_grown_to_a_group() -> None:
    world = await started()
    world.wal.append(batch(0))
    await asyncio.sleep(0.01)
    for n in range(1, 6):
        world.wal.append(batch(n, 1000))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.sent == [(0.0, 1), (0.01, 2)]
    await world.wal.close()


@virtual
async def test_what_is_in_flight_is_bounded_by_count() -> None:
    world = await started(replace(STEADY, puts_in_flight_max=3))
    for n in range(100):
        world.wal.append(batch(n, 1000))
    await world.listener.until_durable(100)
    assert world.most_in_flight == 3
    await world.wal.close()


@virtual
async def test_what_is_in_flight_is_bounded_by_bytes() -> None:
    world = await started(replace(STEADY, bytes_in_flight_max=9 * 1024))
    for n in range(100):
        world.wal.append(batch(n, 1000))
    await world.listener.until_durable(100)
    assert world.most_in_flight == 2
    await world.wal.close()


@virtual
async def test_small_groups_keep_to_the_request_budget_and_full_ones_do_not() -> None:
    world = await started(replace(STEADY, linger_ms=0, puts_per_second_max=4, bytes_max=1 << 20))
    for n in range(200):
        world.wal.append(batch(n))
        await asyncio.sleep(0.05)
    await world.listener.until_durable(200)
    assert len(world.sent) <= 4 * 10 + 4
    sent = len(world.sent)
    start = world.clock.monotonic()
    for n in range(200, 240):
        world.wal.append(batch(n, 4090))
    await world.listener.until_durable(240)
    assert len(world.sent) - sent == 40
    assert world.clock.monotonic() - start < 1.0
    await world.wal.close()


@virtual
async def test_acknowledgements_are_in_the_order_of_numbers() -> None:
    world = await started()
    world.delays = {1: [0.5], 2: [0.1], 3: [0.3]}
    for n in range(3):
        world.wal.append(batch(n, 4090))
    await asyncio.sleep(0.4)
    assert len(world.sent) == 3 and world.listener.durable == [], "2 and 3 are there, 1 is not"
    await world.listener.until_durable(3)
    assert world.listener.durable == [3]
    await world.wal.close()


@virtual
async def test_payloads_reach_the_store_as_they_are() -> None:
    world = await started()
    seen: list[object] = []
    create = world.objects.create

    async def spy(key: str, data: Any) -> None:
        seen.extend(data)
        await create(key, data)

    world.objects.create = spy  # type: ignore[method-assign]
    big = batch(0, 40_000)
    world.wal.append(big)
    await world.listener.until_durable(1)
    assert any(buffer is big.payload for buffer in seen)
    await world.wal.close()


# --- what the store's answers mean ---------------------------------------------------------------


@virtual
async def test_5_a_number_is_tried_until_the_store_answers_and_nothing_after_it_is_acknowledged() -> None:
    world = await started()
    bytes_of: dict[int, set[bytes]] = {}
    create = world.objects.create
    fail = {"on": True}

    async def failing(key: str, data: Any) -> None:
        bytes_of.setdefault(world.number(key), set()).add(b"".join(data))
        if fail["on"] and world.number(key) == 2:
            raise Unavailable("503")
        await create(key, data)

    world.objects.create = failing  # type: ignore[method-assign]
    for n in range(4):
        world.wal.append(batch(n, 4090))
    await asyncio.sleep(600)
    assert world.listener.durable == [1] and world.listener.failures == []
    assert world.wal.next_position == 4 and world.wal.bytes_retained > 4 * 4000
    assert world.metric("ponor_wal_oldest_put_seconds").current() > 500
    fail["on"] = False
    await world.listener.until_durable(4)
    assert all(len(found) == 1 for found in bytes_of.values()), "every attempt carries the same bytes"
    assert world.metric("ponor_wal_puts_total", reason="repeat").value > 10
    await world.wal.close()


@virtual
async def test_5_an_attempt_that_landed_unheard_is_recognised_as_ones_own() -> None:
    world = await started()
    create = world.objects.create
    lost: list[str] = []

    async def lossy(key: str, data: Any) -> None:
        await create(key, data)
        if not lost:
            lost.append(key)
            raise Unavailable("reset before the answer")

    world.objects.create = lossy  # type: ignore[method-assign]
    world.wal.append(batch(0))
    await world.listener.until_durable(1)
    assert lost and world.store.requests["get"] == 1
    await world.wal.close()


@virtual
async def test_5_exists_already_is_not_believed_where_nothing_is_there() -> None:
    world = await started()
    create = world.objects.create
    conflicts = [1, 2, 3]

    async def conflicted(key: str, data: Any) -> None:
        if conflicts:
            conflicts.pop()
            raise AlreadyExists("409")
        await create(key, data)

    world.objects.create = conflicted  # type: ignore[method-assign]
    world.wal.append(batch(0))
    await world.listener.until_durable(1)
    assert world.listener.failures == [] and conflicts == []
    await world.wal.close()


@pytest.mark.parametrize("kind", [Kind.SEAL, Kind.OPEN])
def test_5_anothers_object_under_the_next_number_fences_the_log(kind: Kind) -> None:
    @virtual
    async def run() -> None:
        world = await started()
        world.wal.append(batch(0))
        await world.listener.until_durable(1)
        foreign = encode_mark(kind, Writer(3, 1, 0xF0E1), 2, 1)
        await world.objects.create(world.key(2), foreign.buffers)
        for n in range(1, 4):
            world.wal.append(batch(n, 4090))
        await world.listener.until(lambda: bool(world.listener.failures))
        ((durable_end, error),) = world.listener.failures
        assert durable_end == 1 and isinstance(error, Fenced)
        assert ("sealed" if kind is Kind.SEAL else "another process") in str(error)
        await asyncio.sleep(10)
        # 3 and 4 landed in the store; nobody is told so.
        assert world.listener.durable == [1] and len(world.listener.failures) == 1
        assert world.wal.next_position == 1
        with pytest.raises(Fenced):
            world.wal.append(batch(9))
        with pytest.raises(Fenced):
            await world.wal.repair()
        await world.wal.close()

    run()


@virtual
async def test_a_bug_fences_the_log_until_a_restart_and_leaves_no_client_waiting() -> None:
    world = await started()

    async def broken(key: str, data: Any) -> None:
        raise ZeroDivisionError

    world.objects.create = broken  # type: ignore[method-assign]
    world.wal.append(batch(0))
    await world.listener.until(lambda: bool(world.listener.failures))
    assert isinstance(world.listener.failures[0][1], Unavailable)
    with pytest.raises(Unavailable):
        await world.wal.repair()
    await world.wal.close()


# --- hedges --------------------------------------------------------------------------------------

HEDGED = replace(SMALL_OBJECTS, hedge_share=0.05)


@virtual
async def test_a_slow_put_gets_a_second_one_and_the_first_to_end_counts() -> None:
    world = await started(HEDGED)
    for n in range(40):
        world.wal.append(batch(n))
        await world.listener.until_durable(n + 1)
    world.delays = {41: [30.0]}
    begun = world.clock.monotonic()
    world.wal.append(batch(40))
    await world.listener.until_durable(41)
    assert world.clock.monotonic() - begun < 4 * PUT_S
    assert [number for _, number in world.sent[-2:]] == [41, 41]
    assert world.metric("ponor_wal_puts_total", reason="hedge").value == 1
    assert world.metric("ponor_wal_hedges_won_total").value == 1
    # The first PUT lands all the same, later, on a key that is taken by its own bytes.
    await asyncio.sleep(60)
    assert world.listener.failures == []
    await world.wal.close()


def test_hedges_stay_within_their_share() -> None:
    policy = HedgePolicy(0.05)
    taken = 0
    for _ in range(400):
        assert policy.delay(4096) is not None
        taken += policy.take()
    assert 20 <= taken <= 21
    for _ in range(1000):
        policy.delay(4096)
    assert [policy.take() for _ in range(6)] == [True] * 4 + [False] * 2, "what is saved up is bounded"
    assert HedgePolicy(0).delay(4096) is None


@virtual
async def test_when_all_is_slow_few_hedges_are_sent() -> None:
    world = await started(HEDGED)
    for n in range(40):
        world.wal.append(batch(n))
        await world.listener.until_durable(n + 1)
    world.delays = {number: [1.0, 1.0] for number in range(41, 241)}
    for n in range(40, 240):
        world.wal.append(batch(n))
        await world.listener.until_durable(n + 1)
    assert 1 <= world.metric("ponor_wal_puts_total", reason="hedge").value <= 0.05 * 240 + 1
    await world.wal.close()


@virtual
async def test_no_hedge_is_sent_while_puts_take_what_they_always_take() -> None:
    world = await started(HEDGED)
    for n in range(100):
        world.delays[n + 1] = [PUT_S * (1 + n % 3 / 10)]
        world.wal.append(batch(n))
        await world.listener.until_durable(n + 1)
    assert world.store.requests["create"] == 100
    await world.wal.close()


# --- trim ----------------------------------------------------------------------------------------


async def numbers(world: World, node_epoch: int = 1) -> list[int]:
    await asyncio.sleep(0.01)
    listed = [world.place.log_name.parse(info.key) async for info in world.objects.list("")]
    return [found[1] for found in listed if found is not None and found[0] == node_epoch and found[1] is not None]


@virtual
async def test_2_trim_deletes_whole_objects_below_it_by_number_and_never_the_newest() -> None:
    world = await started()
    for n in range(5):
        world.wal.append(batch(2 * n, 1900))
        world.wal.append(batch(2 * n + 1, 1900))
        await world.listener.until_durable(2 * n + 2)
    assert await numbers(world) == [0, 1, 2, 3, 4, 5]
    await world.wal.trim(5)
    assert await numbers(world) == [3, 4, 5], "3 holds position 5"
    await world.wal.trim(10)
    assert await numbers(world) == [5], "whoever seals the log must find where it is"
    assert world.wal.bytes_retained < 2 * 2000 + 500
    await world.wal.close()


@virtual
async def test_deletions_that_fail_are_made_with_the_next() -> None:
    world = await started()
    for n in range(4):
        world.wal.append(batch(n, 4090))
    await world.listener.until_durable(4)
    delete = world.objects.delete

    async def failing(keys: Any) -> None:
        raise Unavailable("503")

    world.objects.delete = failing  # type: ignore[method-assign]
    await world.wal.trim(2)
    assert await numbers(world) == [0, 1, 2, 3, 4]
    world.objects.delete = delete  # type: ignore[method-assign]
    await world.wal.trim(3)
    assert await numbers(world) == [4]
    await world.wal.close()


@virtual
async def test_the_next_start_deletes_what_was_trimmed_and_never_a_seal() -> None:
    world = await started()
    for n in range(4):
        world.wal.append(batch(n, 4090))
    await world.listener.until_durable(4)
    await world.wal.close()
    wal = world.place.open(STEADY)
    await wal.lock()
    assert [one.wal_position for one in await recover_all(wal, trim=2)] == [2, 3]
    await wal.start(2, Listener())
    assert await numbers(world) == [0, 3, 4, 5]
    await wal.trim(4)
    assert await numbers(world) == [0, 5], "marks stay"
    assert decode_header(await world.objects.get(world.key(5)), "seal").kind is Kind.SEAL
    assert await numbers(world, 2) == [0]
    await wal.close()


# --- lifecycle -----------------------------------------------------------------------------------


@virtual
async def test_a_newer_process_of_the_node_ends_the_older_one() -> None:
    world = await started()
    for n in range(3):
        world.wal.append(batch(n, 4090))
    await world.listener.until_durable(3)
    newer, listener = world.place.open(STEADY), Listener()
    newer.registered(2)
    await newer.lock()
    assert len(await recover_all(newer)) == 3
    await newer.start(2, listener)
    world.wal.append(batch(3))
    newer.append(batch(100))
    await listener.until_durable(4)
    await world.listener.until(lambda: bool(world.listener.failures))
    assert isinstance(world.listener.failures[0][1], Fenced) and world.listener.durable_end == 3
    await newer.close()
    await world.wal.close()


@virtual
async def test_an_older_process_that_starts_late_leaves_the_newer_one_alone() -> None:
    world = World()
    await world.start(node_epoch=2)
    late = world.place.open(STEADY)
    late.registered(1)
    await late.lock()
    with pytest.raises(BadSetting, match="node epoch 2, the metadata granted 1"):
        await recover_all(late)
    world.wal.append(batch(0))
    await world.listener.until_durable(1)
    await world.wal.close()
    await late.close()


@virtual
async def test_a_log_is_not_gone_on_with_under_an_epoch_that_has_written_it() -> None:
    """The metadata forgot: it grants what it granted before."""
    world = await started()
    world.wal.append(batch(0))
    await world.listener.until_durable(1)
    await world.wal.close()
    again = world.place.open(STEADY)
    await again.lock()
    assert len(await recover_all(again)) == 1
    with pytest.raises(BadSetting, match="written under node epoch 1, the metadata granted 1"):
        await again.start(1, Listener())
    await again.close()


@virtual
async def test_20_a_log_with_a_damaged_table_of_streams_is_not_recovered_and_left_as_it_is() -> None:
    world = await started()
    for n in range(3):
        world.wal.append(batch(n, 4090))
    await world.listener.until_durable(3)
    await world.wal.close()
    whole = bytes(await world.objects.get(world.key(2)))
    world.objects.damage(world.key(2), whole[:HEADER_BYTES] + b"\xff" + whole[HEADER_BYTES + 1 :])
    again = world.place.open(STEADY)
    await again.lock()
    with pytest.raises(Corrupt, match=r"The WAL is left as it is and nothing is served: .*wal-corrupt\.md"):
        await recover_all(again)
    world.objects.damage(world.key(2), whole)
    third = world.place.open(STEADY)
    await third.lock()
    assert len(await recover_all(third)) == 3, "its objects are restored, and nothing was deleted"


@virtual
async def test_a_damaged_header_that_the_sealer_reads_first_names_the_runbook_too() -> None:
    world = await started()
    world.wal.append(batch(0))
    await world.listener.until_durable(1)
    await world.wal.close()
    # The last object of a log: where it ends is read of it before any record is.
    whole = bytes(await world.objects.get(world.key(1)))
    world.objects.damage(world.key(1), b"\xff" + whole[1:])
    again = world.place.open(STEADY)
    await again.lock()
    with pytest.raises(Corrupt, match=r"The WAL is left as it is and nothing is served: .*wal-corrupt\.md"):
        await recover_all(again)


@virtual
async def test_8_one_node_epoch_has_one_writer_though_the_metadata_gave_it_twice() -> None:
    world = World()
    twin = World()
    twin.objects = world.objects
    twin.place.store.inner = world.objects
    for each in (world, twin):
        each.wal = each.place.open(STEADY)
        await each.wal.lock()
        await recover_all(each.wal)
    twin.wal._chance.seed(99)
    await world.wal.start(1, world.listener)
    with pytest.raises(Fenced, match="metadata restored"):
        await twin.wal.start(1, twin.listener)
    await world.wal.close()
    await twin.wal.close()


@virtual
async def test_a_closed_log_has_sent_what_was_queued_without_waiting() -> None:
    world = await started(replace(STEADY, linger_ms=60_000, puts_per_second_max=0.001))
    for n in range(3):
        world.wal.append(batch(n))
        await asyncio.sleep(0.001)
    await world.wal.close()
    assert world.listener.durable_end == 3 and world.clock.monotonic() < 1


@virtual
async def test_a_close_that_is_given_up_leaves_nothing_running() -> None:
    world = await started()
    world.store.broken = True
    world.wal.append(batch(0))
    closing = asyncio.ensure_future(world.wal.close())
    await asyncio.sleep(30)
    assert not closing.done()
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    sent = len(world.store.created)
    await asyncio.sleep(60)
    assert len(world.store.created) == sent


@virtual
async def test_positions_go_on_where_an_older_log_was_trimmed() -> None:
    world = World()
    wal = world.place.open(STEADY)
    await wal.lock()
    assert await recover_all(wal, trim=77) == [] and wal.never_started
    await wal.start(1, world.listener)
    assert wal.append(batch(0)) == 77
    await wal.close()


@virtual
async def test_records_come_back_in_the_order_of_positions_whatever_their_stream() -> None:
    world = await started()
    given = [batch(n, 50 + n, stream_id=n % 3) for n in range(30)]
    for one in given:
        world.wal.append(one)
    await world.listener.until_durable(30)
    await world.wal.close()
    assert fields(await recover_all(world.place.open())) == fields(given)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"x", "it is too short for one"), (bytes(HEADER_BYTES), "is taken: .* fails its checksum")],
    ids=("short", "not of a WAL"),
)
def test_5_something_else_under_the_next_number_fences_the_log(data: bytes, words: str) -> None:
    """Nobody knows whose it is: what is certain is that this log does not go on there."""

    @virtual
    async def run() -> None:
        world = await started()
        await world.objects.create(world.key(1), [data])
        world.wal.append(batch(0))
        await world.listener.until(lambda: bool(world.listener.failures))
        assert world.listener.durable == []
        with pytest.raises(Fenced, match=words):
            await world.wal.repair()
        assert bytes(await world.objects.get(world.key(1))) == data
        await world.wal.close()

    run()


@virtual
async def test_5_a_log_is_not_begun_under_a_number_that_cannot_be_read() -> None:
    world = World()
    world.wal = world.place.open(STEADY)
    await world.wal.lock()
    await recover_all(world.wal)

    def conflict(key: str) -> None:
        raise AlreadyExists("409: a conflicting operation is in progress")

    world.store.on_create = conflict
    with pytest.raises(Unavailable, match="is said to exist, and cannot be read"):
        await world.wal.start(1, world.listener)
    await world.wal.close()
    assert [info.key async for info in world.objects.list("")] == []


def test_marks_have_a_size_that_no_group_has() -> None:
    assert encode_mark(Kind.SEAL, Writer(1, 1, 1), 0, 0).size == HEADER_BYTES


@pytest.mark.parametrize("wrong", [{"linger_ms": -1}, {"puts_per_second_max": -1}, {"bytes_max": 1024}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSetting):
        replace(SMALL_OBJECTS, **wrong)
