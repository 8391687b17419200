"""The controller's lease: one holder for a lease epoch, and nobody's clock but the caller's own (CORRECTNESS 19)."""

from __future__ import annotations

import pytest

from metadata.cluster_types import Lease
from metadata.image import NO_LEADER
from metadata.store import Metadata
from s3stream.errors import Fenced, RolledBack
from tests.support.metadata import Node, clock, metadata
from tests.support.takeover import fence

__all__ = ["clock", "metadata"]

NAME = "controller"


async def test_a_lease_that_nobody_holds_is_taken_once(metadata: Metadata) -> None:
    one, two = await Node.register(metadata, 1), await Node.register(metadata, 2)
    assert await metadata.lease(NAME) is None
    lease = await metadata.acquire_lease(NAME, one.identity, None)
    assert lease == Lease(NAME, 1, 1, 0) == await metadata.lease(NAME)
    assert await metadata.acquire_lease(NAME, two.identity, None) is None
    assert await metadata.acquire_lease("another", two.identity, None) == Lease("another", 2, 1, 0)
    assert (await metadata.load_image()).controller == 1


async def test_taking_it_again_after_an_unknown_outcome_is_a_success(metadata: Metadata) -> None:
    one, two = await Node.register(metadata, 1), await Node.register(metadata, 2)
    lease = await metadata.acquire_lease(NAME, one.identity, None)
    assert await metadata.acquire_lease(NAME, one.identity, None) == lease
    taken = await metadata.acquire_lease(NAME, two.identity, lease)
    assert await metadata.acquire_lease(NAME, two.identity, lease) == taken == Lease(NAME, 2, 2, 0)


async def test_it_is_taken_only_while_it_is_as_the_taker_saw_it(metadata: Metadata) -> None:
    one, two, three = [await Node.register(metadata, number) for number in (1, 2, 3)]
    lease = await metadata.acquire_lease(NAME, one.identity, None)
    assert lease is not None
    image = await metadata.load_image()
    renewed = await metadata.renew_lease(lease)
    assert renewed == lease._replace(renewals=1) == await metadata.lease(NAME)
    assert await metadata.acquire_lease(NAME, two.identity, lease) is None
    taken = await metadata.acquire_lease(NAME, two.identity, renewed)
    assert taken == Lease(NAME, 2, 2, 0)
    # Another had watched it just as long.
    assert await metadata.acquire_lease(NAME, three.identity, renewed) is None
    assert (await metadata.load_image(image)).controller == 2


async def test_a_lease_that_was_taken_is_neither_renewed_nor_used_nor_released(metadata: Metadata) -> None:
    one, two = await Node.register(metadata, 1), await Node.register(metadata, 2)
    lost = await metadata.acquire_lease(NAME, one.identity, None)
    assert lost is not None
    taken = await metadata.acquire_lease(NAME, two.identity, lost)
    calls = [
        metadata.renew_lease(lost),
        metadata.assign({1: 1}, lost),
        metadata.fence_node(lost, 2, two.identity.node_epoch, 0),
        metadata.wal_sealed(lost, 2, two.identity.node_epoch, 7),
    ]
    for call in calls:
        with pytest.raises(Fenced, match="lease 'controller' epoch 1: node 1"):
            await call
    await metadata.release_lease(lost)
    assert await metadata.lease(NAME) == taken
    # Not by its epoch alone either.
    assert taken is not None
    with pytest.raises(Fenced):
        await metadata.renew_lease(taken._replace(holder=1))


async def test_a_released_lease_is_free_at_once_and_its_epoch_goes_on(metadata: Metadata) -> None:
    one, two = await Node.register(metadata, 1), await Node.register(metadata, 2)
    lease = await metadata.acquire_lease(NAME, one.identity, None)
    assert lease is not None
    image = await metadata.load_image()
    for _ in range(2):
        await metadata.release_lease(lease)
        assert await metadata.lease(NAME) is None
    assert (await metadata.load_image(image)).controller == NO_LEADER
    with pytest.raises(Fenced):
        await metadata.renew_lease(lease)
    assert await metadata.acquire_lease(NAME, two.identity, None) == Lease(NAME, 2, 2, 0)


async def test_a_holder_whose_incarnation_was_replaced_is_not_waited_for(metadata: Metadata) -> None:
    """It restarted: nobody has to watch the lease of a process that is known to be gone."""
    one, two = await Node.register(metadata, 1), await Node.register(metadata, 2)
    lease = await metadata.acquire_lease(NAME, one.identity, None)
    assert lease is not None
    again = await Node.register(metadata, 1)
    taken = await metadata.acquire_lease(NAME, again.identity, None)
    assert taken == Lease(NAME, 1, 2, 0)  # its own, and yet another: the older process is told
    with pytest.raises(Fenced):
        await metadata.renew_lease(lease)
    await Node.register(metadata, 1)
    assert await metadata.acquire_lease(NAME, two.identity, None) == Lease(NAME, 2, 3, 0)


async def test_a_fenced_node_takes_no_lease(metadata: Metadata) -> None:
    one, two = await Node.register(metadata, 1), await Node.register(metadata, 2)
    lease = await metadata.acquire_lease(NAME, one.identity, None)
    assert lease is not None
    await fence(metadata, lease, two)
    with pytest.raises(Fenced):
        await metadata.acquire_lease(NAME, two.identity, lease)
    await metadata.release_lease(lease)
    with pytest.raises(Fenced):
        await metadata.acquire_lease(NAME, two.identity, None)
    ahead = one.identity._replace(node_epoch=9)
    with pytest.raises(RolledBack):
        await metadata.acquire_lease(NAME, ahead, None)
    assert await metadata.lease(NAME) is None


async def test_renewing_and_trying_in_vain_make_no_new_image(metadata: Metadata) -> None:
    """Every broker does one of them twice a second."""
    one, two = await Node.register(metadata, 1), await Node.register(metadata, 2)
    lease = await metadata.acquire_lease(NAME, one.identity, None)
    assert lease is not None
    image = await metadata.load_image()
    await metadata.renew_lease(lease)
    assert await metadata.acquire_lease(NAME, two.identity, None) is None
    assert await metadata.acquire_lease(NAME, two.identity, lease) is None
    await metadata.node_beats()
    assert await metadata.load_image(image) is image
