"""The controller on virtual time, over the real metadata store: who holds the lease, who is judged when, what is done
about the dead, in which order, and that another goes on with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from brokers.heartbeat import Heartbeat
from s3stream.metrics import Metrics
from s3stream.types import WalState
from tests.support.controllers import HEARTBEAT_S, LEASE_S, World, a_world
from tests.support.virtual_time import VirtualClock, virtual
from wal.owner import WalOwner

FILES = "file:///wal-N"


async def elected(world: World) -> int:
    await world.until(lambda: world.actives(), 1.0)
    await asyncio.sleep(3)
    assert len(world.actives()) == 1
    return world.actives()[0]


@virtual
async def test_exactly_one_broker_takes_the_lease() -> None:
    world = await a_world(5)
    first = await elected(world)
    for _ in range(200):
        await asyncio.sleep(0.1)
        assert world.actives() == [first]
    assert world.crashes == [] and world.fenced() == []


@virtual
async def test_a_lease_given_back_is_taken_within_a_second() -> None:
    world = await a_world(3)
    first = await elected(world)
    for moment in (0.0, 0.13, 0.31):
        await asyncio.sleep(moment)
        holder = world.actives()[0]
        await world.nodes[holder].controller.stop()
        assert await world.until(lambda: world.actives(), 1.0) <= 1.0
        del world.nodes[holder]
        if len(world.nodes) == 1:
            break
    assert first not in world.nodes and world.fenced() == []


@virtual
async def test_a_lease_that_cannot_be_given_back_expires() -> None:
    world = await a_world(3)
    holder = world.nodes[await elected(world)]
    world.outage = True
    await holder.controller.stop()
    assert not holder.controller.active
    await world.end(holder)
    world.outage = False
    await world.until(lambda: [one for one in world.actives() if one != holder.node_id], 2 * LEASE_S + 1)


@pytest.mark.parametrize("moment", ["renewal", "decision", "fence"])
@virtual
async def test_a_lease_that_another_has_taken_ends_whoever_still_believes_to_hold_it(moment: str) -> None:
    """It was held up; what it was about to write is refused, and it steps down without an error."""
    world = await a_world(3)
    holder = world.nodes[await elected(world)]
    other = next(node for node in world.nodes.values() if node is not holder)
    gone = next(node for node in world.nodes.values() if node not in (holder, other))
    (stream,) = await world.topic("t", [gone.node_id])
    await asyncio.sleep(1)
    metadata, taken = world.metadata, list[int]()

    async def take() -> None:
        if not taken:
            lease = await world.metadata.lease("controller")
            assert lease is not None and lease.holder == holder.node_id
            assert await world.metadata.acquire_lease("controller", other.identity, lease) is not None
            taken.append(holder.node_id)

    def late(name: str) -> None:
        call = getattr(metadata, name)

        async def called(*args: Any) -> Any:
            await take()
            return await call(*args)

        setattr(metadata, name, called)

    if moment == "renewal":
        await take()
    elif moment == "decision":
        late("assign")
        await gone.controller.stop()
        await metadata.close_streams(gone.identity, {stream: 0})
        await metadata.unregister_node(gone.identity)
        await gone.tasks.close()
    else:
        late("fence_node")
        await world.end(gone)
    await world.until(lambda: taken, LEASE_S + 2)
    # A decision that is refused says it at once; for the rest the next renewal does.
    await world.until(lambda: not holder.controller.active, 0.1 if moment == "decision" else 1)
    said = [line["decision"] for line in holder.controller.decisions.last()]
    assert not [line for line in said if "cannot be taken over" in line], "it could be, only not by this one"
    await world.until(lambda: world.actives() == [other.node_id], LEASE_S)
    if moment != "renewal":
        await world.until(lambda: any(name == "assign" for name, _ in world.events), 2 * LEASE_S + 2)
        assert (await world.assigned())[stream] in (holder.node_id, other.node_id), "the new one decides"
    assert world.crashes == []


@virtual
async def test_the_lease_of_a_controller_that_was_killed_is_taken_at_once() -> None:
    world = await a_world(3)
    dead = world.nodes[await elected(world)]
    await world.end(dead)
    took = await world.until(lambda: [node for node in world.actives() if node != dead.node_id], 1.0)
    assert took < 0.2
    took = await world.until(lambda: world.fenced() == [dead.node_id], 1.0)
    assert took < 0.2, "and it is taken over at once: its end was seen before the new one was the controller"


@virtual
async def test_the_lease_of_a_controller_whose_machine_is_gone_is_taken_a_period_later() -> None:
    world = await a_world(3)
    dead = world.nodes[await elected(world)]
    await world.cut_off(dead)
    took = await world.until(lambda: [node for node in world.actives() if node != dead.node_id], LEASE_S + 1)
    assert took >= LEASE_S - HEARTBEAT_S, "its last renewal may be as old as a period"
    # Its heartbeats ended with its renewals, and whoever is the controller now has watched both.
    took = await world.until(lambda: world.fenced() == [dead.node_id], 2 * HEARTBEAT_S)
    assert world.crashes == []


@virtual
async def test_who_takes_the_lease_judges_nobody_whom_it_has_not_watched_for_a_whole_period() -> None:
    """19: a broker that begins to watch just before the controller dies."""
    world = await a_world(2)
    first = world.nodes[await elected(world)]
    (other,) = (node for node in world.nodes.values() if node is not first)
    await world.cut_off(other)
    await asyncio.sleep(LEASE_S / 2)
    late = await world.start(3)
    await asyncio.sleep(LEASE_S / 4)
    await first.controller.stop()
    await world.until(lambda: late.controller.active, 1.0)
    assert world.fenced() == []
    began = asyncio.get_running_loop().time()
    await world.until(lambda: other.node_id in world.fenced(), LEASE_S)
    assert asyncio.get_running_loop().time() - began >= LEASE_S * 3 / 4 - 2 * HEARTBEAT_S


@virtual
async def test_19_an_outage_that_a_broker_saw_before_it_took_the_lease_gives_everybody_a_full_period() -> None:
    world = await a_world(3)
    first = world.nodes[await elected(world)]
    world.outage = True
    await asyncio.sleep(LEASE_S * 3)
    dead = next(node for node in world.nodes.values() if node is not first)
    await world.cut_off(dead)
    world.outage = False
    await first.controller.stop()
    began = asyncio.get_running_loop().time()
    await world.until(lambda: world.fenced() == [dead.node_id], LEASE_S + 1)
    assert asyncio.get_running_loop().time() - began >= LEASE_S - HEARTBEAT_S
    assert world.crashes == []


@virtual
async def test_nobody_is_judged_before_a_lease_period_after_the_controller_first_saw_the_database() -> None:
    world = await a_world()
    for node_id in (1, 2):
        await world.metadata.register_node(node_id, "s3://bucket/wal", {"PLAINTEXT": f"h:{node_id}"})
    await asyncio.sleep(1000)
    await world.start(0)
    took = await world.until(lambda: sorted(world.fenced()) == [1, 2], LEASE_S + 2)
    assert took >= LEASE_S


@virtual
async def test_after_an_outage_those_that_live_are_not_judged_and_those_that_died_are() -> None:
    world = await a_world(4)
    await elected(world)
    victim = next(node for node in world.nodes.values() if not node.controller.active)
    world.outage = True
    await asyncio.sleep(10)
    await world.cut_off(victim)
    await asyncio.sleep(50)
    assert world.fenced() == []
    world.outage = False
    took = await world.until(lambda: world.fenced(), 2 * LEASE_S + 1)
    assert took >= LEASE_S
    await asyncio.sleep(20)
    assert world.fenced() == [victim.node_id] and world.crashes == []


@virtual
async def test_a_killed_broker_is_fenced_sealed_and_its_partitions_divided_at_once() -> None:
    world = await a_world(4)
    leader = await elected(world)
    victim = next(node for node in world.nodes.values() if node.node_id != leader)
    streams = await world.topic("t", [victim.node_id] * 6)
    await asyncio.sleep(1)
    await world.end(victim)
    await world.until(lambda: any(name == "assign" for name, _ in world.events), 0.5)
    assert [name for name, _ in world.events] == ["fence_node", "seal", "wal_sealed", "assign"]
    homes = await world.assigned()
    survivors = {node.node_id for node in world.nodes.values()} - {victim.node_id}
    assert {homes[stream] for stream in streams} == survivors
    fenced = await world.metadata.fenced_wals()
    assert [(wal.state, wal.seal_number) for wal in fenced] == [(WalState.SEALED, 7)]


@virtual
async def test_10_the_lock_of_a_file_wal_comes_before_the_fence_and_goes_when_all_is_recovered() -> None:
    world = await a_world(3, FILES)
    leader = await elected(world)
    victim = next(node for node in world.nodes.values() if node.node_id != leader)
    survivor = world.nodes[leader]
    streams = await world.topic("t", [victim.node_id] * 2)
    await asyncio.sleep(1)
    await world.end(victim)
    await world.until(lambda: any(name == "assign" for name, _ in world.events), 0.5)
    assert [name for name, _ in world.events][:4] == ["lock", "fence_node", "seal", "wal_sealed"]
    await asyncio.sleep(10)
    assert world.wals.locked == {f"file:///wal-{victim.node_id}"}
    homes = await world.assigned()
    await world.open_recovered(streams[0], world.nodes[homes[streams[0]]], victim.identity)
    await asyncio.sleep(10)
    assert world.wals.locked, "one is not recovered yet"
    await world.open_recovered(streams[1], world.nodes[homes[streams[1]]], victim.identity)
    await world.until(lambda: not world.wals.locked, 1.5)
    assert survivor.controller.decisions.last()[0]["decision"] == "takeover finished"


@virtual
async def test_10_a_broker_killed_before_its_wal_named_it_is_taken_over_under_one_lock() -> None:
    world = await a_world(3, FILES)
    leader = await elected(world)
    victim = next(node for node in world.nodes.values() if node.node_id != leader)
    uri = f"file:///wal-{victim.node_id}"
    [stream] = await world.topic("t", [victim.node_id])
    first = victim.identity
    world.wals.named[uri] = WalOwner(*first)
    await world.end(victim)
    again = await world.metadata.register_node(victim.node_id, uri, {"PLAINTEXT": f"h:{victim.node_id}"})
    await world.until(lambda: any(name == "assign" for name, _ in world.events), LEASE_S + 2)
    assert [name for name, _ in world.events][:4] == ["lock", "fence_node", "seal", "wal_sealed"]
    assert world.events[1][1][:2] == first[:2] and again.identity.node_epoch == first.node_epoch + 1
    await asyncio.sleep(10)
    assert world.wals.locked == {uri}, "held until it is recovered"
    homes = await world.assigned()
    await world.open_recovered(stream, world.nodes[homes[stream]], first)
    await world.until(lambda: not world.wals.locked, 1.5)


@virtual
async def test_10_a_broker_that_has_nothing_is_fenced_and_its_lock_given_back() -> None:
    world = await a_world(3, FILES)
    leader = await elected(world)
    victim = next(node for node in world.nodes.values() if node.node_id != leader)
    uri = f"file:///wal-{victim.node_id}"
    world.wals.named[uri] = WalOwner(victim.node_id, 0, 0)
    await world.end(victim)
    await world.until(world.fenced, LEASE_S + 2)
    await world.until(lambda: not world.wals.locked, 1.5)
    assert [name for name, _ in world.events] == ["lock", "fence_node"]
    assert world.nodes[leader].controller.waiting() == {}


@virtual
async def test_10_a_paused_owner_of_a_file_wal_keeps_its_partitions_and_that_is_said() -> None:
    world = await a_world(3, FILES)
    leader = await elected(world)
    victim = next(node for node in world.nodes.values() if node.node_id != leader)
    await world.topic("t", [victim.node_id])
    world.wals.held.add(f"file:///wal-{victim.node_id}")
    await world.cut_off(victim)
    await asyncio.sleep(30)
    assert world.fenced() == []
    controller = world.nodes[leader].controller
    assert list(controller.waiting()) == [(victim.node_id, 1)]
    said = [line for line in controller.decisions.last() if "cannot be taken over" in line["decision"]]
    assert len(said) == 1 and said[0]["node_id"] == victim.node_id and "in use" in said[0]["reason"]
    waiting = world.nodes[leader].metrics.gauge("ponor_controller_takeovers_waiting", "")
    assert waiting.current() == 1
    # It wakes and beats: it is still the owner, at its epoch.
    for _ in range(10):
        await world.metadata.heartbeat(victim.identity)
        await asyncio.sleep(HEARTBEAT_S)
    assert controller.waiting() == {} and waiting.current() == 0
    # It is killed: the lock is free.
    world.wals.held.clear()
    await world.until(lambda: world.fenced() == [victim.node_id], LEASE_S + 1)


@pytest.mark.parametrize("uri", ["s3://bucket/wal", FILES])
@virtual
async def test_another_controller_goes_on_with_a_takeover(uri: str) -> None:
    world = await a_world(4, uri)
    first = world.nodes[await elected(world)]
    victim = next(node for node in world.nodes.values() if node is not first)
    streams = await world.topic("t", [victim.node_id])
    await asyncio.sleep(1)
    world.wals.may_seal.clear()
    await world.end(victim)
    await world.until(world.fenced, 0.5)
    await world.end(first)
    world.wals.locked.clear()  # with its process
    world.wals.may_seal.set()
    others = {node.node_id for node in world.nodes.values()} - {first.node_id, victim.node_id}
    await world.until(lambda: ("wal_sealed", victim.node_id) in world.events, LEASE_S + 2)
    await world.until(lambda: any(name == "assign" for name, _ in world.events), 1)
    assert (await world.assigned())[streams[0]] in others, "not to the one that died meanwhile"


@virtual
async def test_a_controller_cut_off_from_the_database_lets_go_of_locks_and_a_zombie_changes_nothing() -> None:
    world = await a_world(3, FILES)
    leader = world.nodes[await elected(world)]
    victim = next(node for node in world.nodes.values() if node is not leader)
    await world.topic("t", [victim.node_id])
    await asyncio.sleep(1)
    await world.end(victim)
    await world.until(lambda: world.wals.locked, 0.5)
    world.outage = True
    await world.until(lambda: not world.wals.locked, LEASE_S + 2)
    assert not leader.controller.active


@virtual
async def test_a_fenced_broker_hears_of_it_with_its_next_heartbeat() -> None:
    world = await a_world(3)
    leader = await elected(world)
    victim = next(node for node in world.nodes.values() if node.node_id != leader)
    victim.beating.cancel()  # its heartbeats are lost, it lives
    await world.until(lambda: world.fenced() == [victim.node_id], LEASE_S + 2)
    heard: list[str] = []
    heartbeat = Heartbeat(world.metadata, VirtualClock(), Metrics(), HEARTBEAT_S, lambda: False, heard.append)
    await heartbeat.run(victim.identity)
    assert len(heard) == 1 and "replaced by epoch" in heard[0]


@virtual
async def test_partitions_of_a_broker_that_signed_off_wait_a_period_for_it_to_come_back() -> None:
    world = await a_world(3)
    leader = await elected(world)
    away = next(node for node in world.nodes.values() if node.node_id != leader)
    made = await world.topic("t", [away.node_id])
    await world.metadata.close_streams(away.identity, {made[0]: 0})
    await world.metadata.unregister_node(away.identity)
    await world.cut_off(away)
    began = asyncio.get_running_loop().time()
    await world.until(lambda: any(name == "assign" for name, _ in world.events), LEASE_S + 1.5)
    assert asyncio.get_running_loop().time() - began >= LEASE_S
    assert (await world.assigned())[made[0]] != away.node_id and world.fenced() == []


@pytest.mark.parametrize(("uri", "heirs"), [("file:///wal", {2}), ("s3://bucket/wal", {1, 2})])
@virtual
async def test_a_directory_is_recovered_where_its_lock_was_taken(uri: str, heirs: set[int]) -> None:
    """On another host the same path is another disk."""
    world = await a_world()
    await world.start(2, uri, host="this")
    await elected(world)
    await world.start(1, uri, host="that")
    await world.start(0, uri, host="this")
    streams = await world.topic("t", [0] * 4)
    await asyncio.sleep(3)
    await world.end(world.nodes[0])
    await world.until(lambda: any(name == "assign" for name, _ in world.events), 1)
    homes = await world.assigned()
    assert {homes[stream] for stream in streams} == heirs


@virtual
async def test_a_stream_left_open_by_an_earlier_life_goes_back_to_the_node_that_alone_may_open_it() -> None:
    """The source of a movement was killed and came back before anybody fenced it."""
    world = await a_world(3)
    leader = await elected(world)
    source = next(node for node in world.nodes.values() if node.node_id != leader)
    streams = await world.topic("t", [source.node_id])
    await source.tasks.close()
    again = await world.start(source.node_id)
    assert again.identity.node_epoch == source.identity.node_epoch + 1
    await world.metadata.assign({streams[0]: leader}, None)
    await asyncio.sleep(2)
    assert (await world.assigned())[streams[0]] == source.node_id


@virtual
async def test_nothing_is_given_to_a_broker_taken_for_dead_that_cannot_be_fenced() -> None:
    world = await a_world(4, FILES)
    leader = await elected(world)
    paused, victim, other = (node for node in world.nodes.values() if node.node_id != leader)
    world.wals.held.add(f"file:///wal-{paused.node_id}")
    await world.cut_off(paused)
    await world.until(world.nodes[leader].controller.waiting, LEASE_S + 1)
    streams = await world.topic("t", [victim.node_id] * 6)
    await asyncio.sleep(1)
    await world.end(victim)
    await world.until(lambda: any(name == "assign" for name, _ in world.events), 1)
    homes = await world.assigned()
    assert {homes[stream] for stream in streams} == {leader, other.node_id}


@virtual
async def test_what_was_on_its_way_to_a_broker_taken_for_dead_that_cannot_be_fenced_goes_elsewhere() -> None:
    """Only what it has open is its own: nobody needs its WAL for the rest."""
    world = await a_world(3, FILES)
    leader = await elected(world)
    paused, other = (node for node in world.nodes.values() if node.node_id != leader)
    open_there, closed, open_here = await world.topic("t", [paused.node_id, other.node_id, other.node_id])
    world.wals.held.add(f"file:///wal-{paused.node_id}")
    await world.cut_off(paused)
    await world.until(world.nodes[leader].controller.waiting, LEASE_S + 1)
    await world.metadata.close_streams(other.identity, {closed: 0})
    await world.metadata.assign(dict.fromkeys((closed, open_here), paused.node_id))
    await asyncio.sleep(2)
    homes = await world.assigned()
    assert (homes[open_there], homes[open_here]) == (paused.node_id, other.node_id)
    assert homes[closed] in (leader, other.node_id)


@virtual
async def test_an_outage_shorter_than_any_pause_gives_everybody_a_full_period_too() -> None:
    """What did not reach the database from one broker may not have reached it from others."""
    world = await a_world(3)
    leader = await elected(world)
    victim = next(node for node in world.nodes.values() if node.node_id != leader)
    await world.cut_off(victim)
    await asyncio.sleep(1.5)
    world.outage = True
    await asyncio.sleep(HEARTBEAT_S)  # one look fails
    world.outage = False
    assert await world.until(world.fenced, LEASE_S + 2) >= LEASE_S
