"""The controller's upkeep of balance over a real metadata store: moves, limits, reasons, whose lease it is."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from brokers.controller.balancer import Bounds
from brokers.controller.balancing import COALESCE_SECONDS, PERIOD_SECONDS, Balancing, BalancingSettings
from brokers.controller.decisions import Decisions
from brokers.controller.load import Rates, encode_report, report_of
from brokers.controller.load_reporter import REPORT_SECONDS, LoadReporter
from brokers.partitions.traffic import Traffic
from metadata.cluster_types import Lease
from s3stream.errors import Fenced, Unavailable
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks
from s3stream.types import NodeIdentity
from tests.support.admin_world import AdminWorld
from tests.support.manual_clock import ManualClock, settle
from tests.unit.test_topic_handlers import create, topic_of

QUARTER_CORE = Rates(100e6, 0.0, 0.0)


class Rig:
    """A cluster in which the brokers open at once what is assigned to them, unless told otherwise."""

    def __init__(self, world: AdminWorld, settings: BalancingSettings) -> None:
        self.world = world
        self.clock = ManualClock()
        self.decisions = Decisions(self.clock)
        self.balancing = Balancing(
            world.metadata, lambda: world.image, self.decisions, self.clock, Tasks(), Metrics(), settings
        )

    async def lease(self) -> Lease:
        lease = await self.world.metadata.acquire_lease("controller", self.world.node, None)
        assert lease is not None
        return lease

    async def topic(self, name: str, *homes: int) -> None:
        await create(self.world, topic_of(7, name, -1, -1, assignments=[(n, [home]) for n, home in enumerate(homes)]))
        await self.world.open_where_assigned(name)

    async def report(self, node_id: int, **hot: Rates) -> None:
        """`hot`: by partition, as `topic__0`."""
        world = self.world
        rates = {}
        for key, rate in hot.items():
            name, _, number = key.partition("__")
            rates[world.image.topics[name].partitions[int(number)].stream_id] = rate
        identity = world.identities[node_id]
        load = report_of(node_id, identity.node_epoch, 0.0, 10, rates)
        await world.metadata.report_load(identity, encode_report(load))

    def held(self) -> dict[int, int]:
        found = dict.fromkeys(self.world.identities, 0)
        for topic in self.world.image.topics.values():
            for part in topic.partitions:
                found[part.assigned] += 1
        return found

    async def settle(self, lease: Lease, seconds: float = 60) -> int:
        """Steps until nothing moves; returns how many partitions moved."""
        moved = 0
        for _ in range(100):
            moves = await self.balancing.step(lease)
            moved += len(moves)
            await self.world.refresh()
            for name in self.world.image.topics:
                await self.world.open_where_assigned(name)
            await self.clock.advance(seconds)
            if not moves:
                return moved
        raise AssertionError("never comes to rest")


def rig(world: AdminWorld, **settings: Any) -> Rig:
    return Rig(world, BalancingSettings(**settings))


async def test_a_new_broker_takes_its_share_within_the_limits_and_then_all_stays() -> None:
    async with AdminWorld(nodes=3) as world:
        cluster = rig(world, bounds=Bounds(moves_max=4, moves_per_node_max=4))
        await cluster.topic("t", *([1, 2] * 12))
        lease = await cluster.lease()
        first = await cluster.balancing.step(lease)
        assert len(first) == 4 and {move.target for move in first} == {3}
        assert await cluster.balancing.step(lease) == [], "not before those have arrived"
        await world.refresh()
        await world.open_where_assigned("t")
        assert len(await cluster.balancing.step(lease)) == 4
        await world.refresh()
        await world.open_where_assigned("t")
        assert cluster.held() == {1: 8, 2: 8, 3: 8}
        assert await cluster.settle(lease) == 0
        told = cluster.decisions.last()
        assert len(told) == 8
        assert told[0]["decision"] == "partition moves" and told[0]["to_node"] == 3
        assert told[0]["partition"].startswith("t-") and "partitions" in told[0]["reason"]


async def test_hot_partitions_move_and_the_reason_says_why() -> None:
    async with AdminWorld(nodes=2) as world:
        cluster = rig(world)
        await cluster.topic("t", 1, 1, 2, 2)
        await cluster.report(1, t__0=QUARTER_CORE, t__1=QUARTER_CORE)
        await cluster.report(2)
        lease = await cluster.lease()
        (move,) = await cluster.balancing.step(lease)
        assert (move.source, move.target) == (1, 2)
        assert "load of broker 1 is 0.50 cores, of broker 2 0.00" in move.reason
        await world.refresh()
        await world.open_where_assigned("t")
        assert await cluster.balancing.step(lease) == [], "it counts where it is, before its new owner has measured it"


async def test_what_was_moved_stays_for_a_while() -> None:
    async with AdminWorld(nodes=2) as world:
        cluster = rig(world, settle_s=10.0)
        await cluster.topic("t", 1, 1, 2, 2)
        await cluster.report(1, t__0=QUARTER_CORE, t__1=QUARTER_CORE)
        await cluster.report(2)
        lease = await cluster.lease()
        (move,) = await cluster.balancing.step(lease)
        await world.refresh()
        await world.open_where_assigned("t")
        left = next(n for n in (0, 1) if world.image.topics["t"].partitions[n].stream_id != move.stream_id)
        gone = 1 - left
        # The load turns round at once: the other broker would be the one to relieve.
        load = {f"t__{gone}": Rates(120e6, 0.0, 0.0), "t__2": Rates(120e6, 0.0, 0.0)}
        await cluster.report(1, **{f"t__{left}": Rates(1.0, 0.0, 1.0)})
        await cluster.report(2, **load)
        await cluster.clock.advance(2)
        moves = await cluster.balancing.step(lease)
        assert [one.stream_id for one in moves] == [world.image.topics["t"].partitions[2].stream_id]


async def test_a_draining_broker_empties_also_where_balancing_is_off() -> None:
    async with AdminWorld(nodes=3) as world:
        cluster = rig(world, enabled=False, drain_moves_max=2)
        await cluster.topic("t", 1, 1, 1, 1, 1, 1)
        lease = await cluster.lease()
        assert await cluster.balancing.step(lease) == []
        await world.metadata.set_draining(1, True)
        await world.refresh()
        first = await cluster.balancing.step(lease)
        assert len(first) == 2 and await cluster.balancing.step(lease) == [], "a few at a time"
        await world.refresh()
        await world.open_where_assigned("t")
        assert await cluster.settle(lease) == 4
        assert cluster.held() == {1: 0, 2: 3, 3: 3}
        assert {told["reason"] for told in cluster.decisions.last()} == {"broker 1 is draining"}


async def test_partitions_of_a_topic_that_go_the_same_way_share_a_line() -> None:
    async with AdminWorld(nodes=3) as world:
        cluster = rig(world)
        await cluster.topic("t", 1, 1, 1, 1)
        await cluster.topic("u", 1)
        await world.metadata.set_draining(1, True)
        await world.refresh()
        with structlog.testing.capture_logs() as said:
            await cluster.balancing.step(await cluster.lease())
        lines = [line for line in said if line["event"] == "partition moves"]
        assert {line["to_node"]: line["partitions"] for line in lines if "partitions" in line} == {
            2: ["t-0", "t-2"],
            3: ["t-1", "t-3"],
        }
        assert [line["partition"] for line in lines if "partition" in line] == ["u-0"]
        assert {line["reason"] for line in lines} == {"broker 1 is draining"}
        shown = [told["partition"] for told in cluster.decisions.last() if told["decision"] == "partition moves"]
        assert sorted(shown) == ["t-0", "t-1", "t-2", "t-3", "u-0"], "each by itself"


async def test_a_move_that_does_not_arrive_keeps_the_others_waiting_only_so_long() -> None:
    async with AdminWorld(nodes=2) as world:
        cluster = rig(world, bounds=Bounds(moves_max=2, moves_per_node_max=2), patience_s=30.0)
        await cluster.topic("t", *[1] * 8)
        lease = await cluster.lease()
        assert len(await cluster.balancing.step(lease)) == 2
        await world.refresh()
        await cluster.clock.advance(29)
        assert await cluster.balancing.step(lease) == []
        await cluster.clock.advance(30)
        moves = await cluster.balancing.step(lease)
        assert len(moves) == 2 and cluster.held() == {1: 6, 2: 2}
        parts = world.image.topics["t"].partitions
        assert not {move.stream_id for move in moves} & {one.stream_id for one in parts if one.assigned == 2}


async def test_a_partition_that_does_not_open_is_not_sent_from_broker_to_broker() -> None:
    async with AdminWorld(nodes=3) as world:
        cluster = rig(world)
        await create(world, topic_of(7, "t", -1, -1, assignments=[(n, [2]) for n in range(8)]))
        lease = await cluster.lease()
        for _ in range(3):
            assert await cluster.balancing.step(lease) == []
            await cluster.clock.advance(40)


async def test_whoever_has_lost_the_lease_moves_nothing() -> None:
    async with AdminWorld(nodes=2) as world:
        cluster = rig(world)
        await cluster.topic("t", *[1] * 8)
        lease = await cluster.lease()
        assert await world.metadata.acquire_lease("controller", world.identities[2], lease) is not None
        with pytest.raises(Fenced):
            await cluster.balancing.step(lease)
        await world.refresh()
        assert cluster.held() == {1: 8, 2: 0}


async def test_it_ends_with_the_lease_and_waits_out_an_outage() -> None:
    async with AdminWorld(nodes=2) as world:
        cluster = rig(world, bounds=Bounds(moves_max=2, moves_per_node_max=2))
        await cluster.topic("t", *[1] * 8)
        lease = await cluster.lease()
        load_image, away = world.metadata.load_image, True

        async def load(known: Any = None) -> Any:
            if away:
                raise Unavailable("the database is away")
            return await load_image(known)

        world.metadata.load_image = load  # type: ignore[method-assign]
        cluster.balancing.start(lease)
        await settle()
        away = False
        await world.refresh()
        assert cluster.held()[2] == 0, "nothing is concluded from what cannot be read"
        await cluster.clock.advance(PERIOD_SECONDS)
        await cluster.clock.advance(COALESCE_SECONDS + PERIOD_SECONDS)
        await world.refresh()
        assert cluster.held()[2] == 2
        await world.open_where_assigned("t")
        assert await world.metadata.acquire_lease("controller", world.identities[2], lease) is not None
        for _ in range(3):
            await cluster.clock.advance(COALESCE_SECONDS + PERIOD_SECONDS)
        assert cluster.balancing._task is not None and cluster.balancing._task.done()
        await world.refresh()
        assert cluster.held()[2] == 2, "another decides now"
        await cluster.balancing.stop()


async def test_it_runs_from_start_to_stop_and_looks_again_when_the_image_changes() -> None:
    async with AdminWorld(nodes=2) as world:
        cluster = rig(world, bounds=Bounds(moves_max=2, moves_per_node_max=2))
        await cluster.topic("t", *[1] * 8)
        cluster.balancing.start(await cluster.lease())
        for expected in (2, 4, 4):
            await settle()
            await world.refresh()
            await world.open_where_assigned("t")
            assert cluster.held()[2] == expected
            cluster.balancing.image_changed()
            await cluster.clock.advance(0.02)
        await cluster.balancing.stop()
        await cluster.balancing.stop()


# --- reports -------------------------------------------------------------------------------------


class Told:
    def __init__(self) -> None:
        self.reports: list[str] = []
        self.failure: Exception | None = None

    async def report_load(self, node: NodeIdentity, report: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.reports.append(report)


def logs(*served: tuple[int, int]) -> list[Any]:
    """(stream id, bytes that came in)."""
    found = []
    for stream_id, size in served:
        traffic = Traffic()
        traffic.came_in(size)
        found.append(SimpleNamespace(stream=SimpleNamespace(stream_id=stream_id), traffic=traffic))
    return found


async def test_a_broker_reports_at_once_then_what_is_new_and_now_and_then_that_nothing_is() -> None:
    told, clock, served = Told(), ManualClock(), logs((1, 100), (2, 100))
    reporter = LoadReporter(told, lambda: served, clock, lambda: 0.0)
    node = NodeIdentity(1, 1, 1)
    await reporter.report(node)
    assert len(told.reports) == 1
    for _ in range(8):
        await clock.advance(REPORT_SECONDS)
        await reporter.report(node)
    assert len(told.reports) == 3, "one look in four when there is nothing to tell"
    served[1].traffic.came_in(int(300e6 * REPORT_SECONDS))
    await clock.advance(REPORT_SECONDS)
    await reporter.report(node)
    assert len(told.reports) == 4
    served.pop()
    await clock.advance(REPORT_SECONDS)
    await reporter.report(node)
    assert len(told.reports) == 5


async def test_reports_go_on_after_an_outage_and_end_when_fenced() -> None:
    told, clock = Told(), ManualClock()
    reporter = LoadReporter(told, list, clock, lambda: 0.0)
    told.failure = Unavailable("the database is away")
    task = asyncio.ensure_future(reporter.run(NodeIdentity(1, 1, 1)))
    await settle()
    assert not task.done()
    told.failure = None
    await clock.advance(REPORT_SECONDS)
    await settle()
    assert len(told.reports) == 1
    told.failure = Fenced("replaced")
    await clock.advance(REPORT_SECONDS * 5)
    await asyncio.wait_for(task, 5)
