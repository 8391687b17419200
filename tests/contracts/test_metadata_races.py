"""Two brokers act at the same moment, on the engines that several processes share: row locks, not plain reads, decide.

One transaction is held in its middle, with what it has locked by then, while the other is begun.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeAlias

import pytest

from metadata import cluster, commits, fencing, leases, nodes, tails, takeovers
from metadata.cluster_types import Lease
from metadata.image_loader import CONTROLLER_LEASE
from metadata.store import Metadata
from s3stream.errors import Fenced
from s3stream.types import (
    CommitResult,
    CommittedRange,
    FencedWal,
    NodeRegistration,
    OpenRequest,
    RangeOutcome,
    WalState,
)
from tests.support.interleave import held, stores
from tests.support.metadata import Node, make_streams, marked
from tests.support.takeover import controller, heartbeat_of, open_from, seal

__all__ = ["stores"]

Stores: TypeAlias = tuple[Metadata, Metadata]
COMMITTED, ALREADY = RangeOutcome.COMMITTED, RangeOutcome.ALREADY


@pytest.mark.parametrize("taken_before", [False, True])
@pytest.mark.parametrize("point", [(cluster, "bump_version"), (fencing, "check")], ids=lambda point: point[1])
async def test_of_two_who_want_the_lease_one_gets_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, point: tuple[object, str], taken_before: bool
) -> None:
    one, two = await Node.register(stores[0], 1), await Node.register(stores[1], 2)
    seen = await controller(stores[0], await Node.register(stores[0], 3)) if taken_before else None
    got = await held(
        monkeypatch, point[0], point[1],  # type: ignore[arg-type]
        lambda: stores[0].acquire_lease(CONTROLLER_LEASE, one.identity, seen),
        lambda: stores[1].acquire_lease(CONTROLLER_LEASE, two.identity, seen),
    )  # fmt: skip
    [lease] = [found for found in got if found is not None]
    assert isinstance(lease, Lease)
    assert lease == await stores[0].lease(CONTROLLER_LEASE)
    assert lease.lease_epoch == (2 if taken_before else 1)


async def test_of_two_who_want_the_lease_the_slower_looks_again(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw the lease free, and then waited for the one who took it."""
    one, two = await Node.register(stores[0], 1), await Node.register(stores[1], 2)
    got = await held(
        monkeypatch, leases, "_is_free",
        lambda: stores[0].acquire_lease(CONTROLLER_LEASE, one.identity, None),
        lambda: stores[1].acquire_lease(CONTROLLER_LEASE, two.identity, None),
    )  # fmt: skip
    [lease] = [found for found in got if found is not None]
    assert lease == await stores[0].lease(CONTROLLER_LEASE)


async def test_a_renewal_under_way_keeps_the_lease(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await Node.register(stores[0], 1), await Node.register(stores[1], 2)
    lease = await controller(stores[0], one)
    renewed, taken = await held(
        monkeypatch, leases, "renew",
        lambda: stores[0].renew_lease(lease),
        lambda: stores[1].acquire_lease(CONTROLLER_LEASE, two.identity, lease),
    )  # fmt: skip
    assert taken is None
    assert renewed == lease._replace(renewals=1) == await stores[1].lease(CONTROLLER_LEASE)


async def test_a_controller_that_loses_its_lease_meanwhile_fences_nobody(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = await Node.register(stores[0], 1), await Node.register(stores[1], 2)
    victim = await Node.register(stores[0], 0)
    lease = await controller(stores[0], slow)
    taken, fenced = await held(
        monkeypatch, fencing, "check",
        lambda: stores[1].acquire_lease(CONTROLLER_LEASE, quick.identity, lease),
        lambda: stores[0].fence_node(lease, *victim.identity[:2], 0),
    )  # fmt: skip
    assert taken is not None
    assert isinstance(fenced, Fenced)
    await stores[0].heartbeat(victim.identity)


async def test_19_a_heartbeat_under_way_saves_the_node(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    [stream] = await make_streams(stores[0], 1)
    slow, other = await Node.register(stores[0], 0), await Node.register(stores[1], 1)
    await slow.open(stream)
    lease = await controller(stores[1], other)
    beat, fenced = await held(
        monkeypatch, fencing, "check_to_change",
        lambda: stores[0].heartbeat(slow.identity),
        lambda: stores[1].fence_node(lease, *slow.identity[:2], 0),
    )  # fmt: skip
    assert (beat, fenced) == (None, None)
    await stores[0].heartbeat(slow.identity)
    assert await heartbeat_of(stores[0], 0) == 2


async def test_19_a_heartbeat_behind_the_fence_is_told(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    [stream] = await make_streams(stores[0], 1)
    slow, other = await Node.register(stores[0], 0), await Node.register(stores[1], 1)
    await slow.open(stream)
    lease = await controller(stores[1], other)
    wal, beat = await held(
        monkeypatch, takeovers, "_take_along",
        lambda: stores[1].fence_node(lease, *slow.identity[:2], 0),
        lambda: stores[0].heartbeat(slow.identity),
    )  # fmt: skip
    assert isinstance(wal, FencedWal)
    assert isinstance(beat, Fenced)
    assert await heartbeat_of(stores[0], 0) == 0


async def test_2_a_commit_under_way_is_in_the_trim_that_the_fence_returns(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the seal would be sought below numbers that the owner has trimmed."""
    [stream] = await make_streams(stores[0], 1)
    slow, other = await Node.register(stores[0], 0), await Node.register(stores[1], 1)
    await slow.open(stream)
    lease = await controller(stores[1], other)
    flush = slow.flush({await slow.prepare(): [CommittedRange(stream, 0, 0, 10, 1)]}, trim=7)
    committed, wal = await held(
        monkeypatch, fencing, "check",
        lambda: stores[0].commit(flush),
        lambda: stores[1].fence_node(lease, *slow.identity[:2], 0),
    )  # fmt: skip
    assert isinstance(committed, CommitResult)
    assert isinstance(wal, FencedWal)
    assert (committed.outcomes, committed.wal_trim) == ({stream: COMMITTED}, 7)
    assert (wal.trim, wal.state) == (7, WalState.SEALING)
    assert await stores[0].fenced_wals() == [wal]


async def test_a_commit_behind_the_fence_is_refused(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    [stream] = await make_streams(stores[0], 1)
    slow, other = await Node.register(stores[0], 0), await Node.register(stores[1], 1)
    await slow.open(stream)
    lease = await controller(stores[1], other)
    flush = slow.flush({await slow.prepare(): [CommittedRange(stream, 0, 0, 10, 1)]}, trim=7)
    wal, committed = await held(
        monkeypatch, takeovers, "_take_along",
        lambda: stores[1].fence_node(lease, *slow.identity[:2], 0),
        lambda: stores[0].commit(flush),
    )  # fmt: skip
    assert isinstance(wal, FencedWal)
    assert isinstance(committed, Fenced)
    [row] = await stores[0].streams([stream])
    assert (wal.trim, row.committed_end) == (0, 0)


async def test_a_node_that_registers_while_it_is_fenced_is_one_or_the_other(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    [stream] = await make_streams(stores[0], 1)
    old, other = await Node.register(stores[0], 0), await Node.register(stores[1], 1)
    await old.open(stream)
    lease = await controller(stores[1], other)
    registered, fenced = await held(
        monkeypatch, nodes, "_refuse_while_read",
        lambda: Node.register(stores[0], 0),
        lambda: stores[1].fence_node(lease, *old.identity[:2], 0),
    )  # fmt: skip
    assert isinstance(registered, Node)
    assert fenced is None
    assert (await registered.open(stream, 0)).owner == 0
    assert await stores[0].fenced_wals() == []


async def test_two_survivors_commit_the_same_tail_and_one_finds_it_done(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    [stream] = await make_streams(stores[0], 1)
    dead, one, two = [await Node.register(stores[number % 2], number) for number in range(3)]
    await dead.open(stream)
    await seal(stores[0], await controller(stores[0], one), dead)
    ranges = [CommittedRange(stream, 0, 0, 20, 20)]
    mine, theirs = await one.prepare(), await two.prepare()
    results = await held(
        monkeypatch, commits, "_name_owners",
        lambda: one.metadata.commit(one.flush({mine: ranges})),
        lambda: two.metadata.commit(two.flush({theirs: ranges})),
    )  # fmt: skip
    assert [result.outcomes[stream] for result in results if isinstance(result, CommitResult)] == [COMMITTED, ALREADY]
    [part] = await stores[0].object_ranges(stream, 0, 10)
    assert (part.end, part.ref.object_id) == (20, mine)
    assert await marked(stores[0]) == [theirs]


@pytest.mark.parametrize("point", ["bump_version", "check"])
async def test_of_two_nodes_that_open_one_stream_exactly_one_has_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """It is assigned to the first, and to the second before the first has opened it."""
    [stream] = await make_streams(stores[0], 1)
    one, two = await Node.register(stores[0], 0), await Node.register(stores[1], 1)

    async def move_and_open() -> object:
        await two.assign(stream)
        return await two.open(stream)

    module = cluster if point == "bump_version" else fencing
    results = await held(monkeypatch, module, point, lambda: one.open(stream), move_and_open)
    assert sorted(isinstance(result, Fenced) for result in results) == [False, True]
    [row] = await stores[0].streams([stream])
    assert (row.epoch, row in results) == (0, True)


async def test_of_two_survivors_that_open_one_stream_exactly_one_has_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    [stream] = await make_streams(stores[0], 1)
    dead, one, two = [await Node.register(stores[number % 2], number) for number in range(3)]
    await dead.open(stream)
    await seal(stores[0], await controller(stores[0], one), dead)
    await one.assign(stream)
    request = OpenRequest(stream, 0, 0, recovered_from=dead.identity[:2])
    results = await held(
        monkeypatch, fencing, "check",
        lambda: one.metadata.open_streams(one.identity, [request]),
        lambda: open_from(two, dead, stream, 0, 0),
    )  # fmt: skip
    assert [isinstance(result, Fenced) for result in results] == [False, True]
    [row] = await stores[0].streams([stream])
    assert (row.owner, row.epoch) == (1, 1)


async def test_two_controllers_fence_a_node_once(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second has taken the lease while the first was fencing: it finds the same WAL, with the same trim."""
    [stream] = await make_streams(stores[0], 1)
    victim = await Node.register(stores[0], 0)
    one, two = await Node.register(stores[0], 1), await Node.register(stores[1], 2)
    await victim.open(stream)
    lease = await controller(stores[0], one)

    async def take_and_fence() -> FencedWal:
        newer = await stores[1].acquire_lease(CONTROLLER_LEASE, two.identity, lease)
        assert newer is not None
        return await fence_again(stores[1], newer, victim)

    first, second = await held(
        monkeypatch, takeovers, "_take_along",
        lambda: stores[0].fence_node(lease, *victim.identity[:2], 0),
        take_and_fence,
    )  # fmt: skip
    assert first == second
    assert (await stores[0].load_image()).nodes[0].node_epoch == victim.identity.node_epoch + 1
    with pytest.raises(Fenced):
        await stores[0].wal_sealed(lease, *victim.identity[:2], 5)


async def fence_again(metadata: Metadata, lease: Lease, victim: Node) -> FencedWal:
    wal = await metadata.fence_node(lease, *victim.identity[:2], 0)
    assert wal is not None
    return wal


@pytest.mark.parametrize("back_first", [False, True])
async def test_1_a_survivors_commit_beside_a_taking_back_is_known_to_the_node_or_refused(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, back_first: bool
) -> None:
    [stream] = await make_streams(stores[0], 1)
    dead, other = await Node.register(stores[0], 0), await Node.register(stores[1], 1)
    await dead.open(stream)
    await seal(stores[1], await controller(stores[1], other), dead)
    flush = other.flush({await other.prepare(): [CommittedRange(stream, 0, 0, 10, 1)]})

    def back() -> Awaitable[NodeRegistration]:
        return stores[0].register_node(0, "file:///wal-0", {}, None, take_back=True)

    def commit() -> Awaitable[CommitResult]:
        return stores[1].commit(flush)

    if back_first:
        registration, committed = await held(monkeypatch, tails, "give", back, commit)
    else:
        committed, registration = await held(monkeypatch, commits, "decide", commit, back)
    assert isinstance(registration, NodeRegistration) and isinstance(committed, CommitResult)
    assert committed.outcomes == {stream: RangeOutcome.FENCED if back_first else COMMITTED}
    assert [one.committed_end for one in registration.owned] == [0 if back_first else 10]
