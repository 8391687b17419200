"""What is left of a dead node's WAL once all of it is committed, and who may come back to it (CORRECTNESS 2, 7)."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from brokers.controller.janitor import WALS_PER_ROUND, Janitor
from brokers.controller.wals import ReachableWals
from metadata.cluster_types import Lease
from metadata.engine import Transaction
from metadata.image_loader import CONTROLLER_LEASE
from metadata.schema import tail_rows
from s3stream.errors import Corrupt, Fenced, Unavailable
from s3stream.metrics import Metrics
from s3stream.types import FencedWal, StreamState, WalState
from tests.support.engine import append
from tests.support.survivors import KINDS, Cluster, Node, durable
from tests.support.virtual_time import virtual
from wal import cleanup
from wal.object_format import HEADER_BYTES
from wal.object_names import LogName, list_log


class Dead:
    """Node 0 has died; node 1 has taken over its stream, and is the controller."""

    def __init__(self, cluster: Cluster, survivor: Node, wal: FencedWal) -> None:
        self.cluster, self.survivor, self.wal = cluster, survivor, wal
        self.wals = Faulty(cluster.access(cluster.store, cluster.process_files(), cluster._tasks))
        self.janitor = Janitor(cluster.world.metadata, self.wals, cluster.world.clock, cluster._tasks, Metrics())

    @classmethod
    async def create(cls, kind: str, opened: bool = True) -> Dead:
        cluster = await Cluster.create(kind, 1)
        owner, survivor = await cluster.start(0), await cluster.start(1)
        [stream] = await owner.open([1])
        for _ in range(20):
            append(stream, payload=bytes(400))
            await durable(stream)
        await owner.kill()
        wal = await cluster.bury(owner, survivor)
        if opened:
            await survivor.storage.take_over(wal, [1])
            await survivor.open([1])
        await cluster.release(wal)
        return cls(cluster, survivor, wal)

    async def lease(self) -> Lease:
        lease = await self.cluster.world.metadata.lease(CONTROLLER_LEASE)
        assert lease is not None
        return lease

    async def step(self) -> None:
        await self.janitor.step(await self.lease())

    async def state(self) -> tuple[WalState, bool]:
        """(of the row, whether its trim is the log's end)."""
        [wal] = (await self.cluster.world.metadata.holdings(0)).wals.values()
        return wal.state, wal.trim == 20

    async def records(self, node_id: int = 0) -> list[int]:
        """Numbers, or ordinals, of what holds records."""
        if self.cluster.kind == "files":
            disk = self.cluster.disk.entries
            return sorted(
                int(path.split("/")[-1][:20]) for path, inode in disk.items()
                if path.startswith(f"/wal-{node_id}/0") and len(inode.cache) > 4096
            )  # fmt: skip
        logs = await list_log(self.cluster.store, LogName("survivors", node_id))
        return [number for log in logs for number, size in log.sizes.items() if size != HEADER_BYTES]

    async def marks(self) -> list[tuple[int, list[int], bool]]:
        logs = await list_log(self.cluster.store, LogName("survivors", 0))
        return [
            (log.node_epoch, [number for number, size in log.sizes.items() if size == HEADER_BYTES], log.ended)
            for log in logs
        ]

    async def node_comes_back(self) -> None:
        """It starts over what is left, appends, and another finds all of that after its next death."""
        back = await self.cluster.start(0)
        metadata = self.cluster.world.metadata
        _, [stream] = await self.cluster.world.add_topic("u")
        [opened] = await back.open([stream])
        assert back.wal.next_position == 20
        for _ in range(5):
            append(opened, payload=bytes(400))
            await durable(opened)
        await back.kill()
        wal = await self.cluster.bury(back, self.survivor)
        done, broken = await self.survivor.storage.take_over(wal, [stream])
        assert (done, broken) == ([stream], {})
        [row] = await metadata.streams([stream])
        assert (row.committed_end, row.state) == (opened.durable_end, StreamState.OPEN)
        await self.cluster.release(wal)


class Faulty(ReachableWals):
    """`fails`: the next so many clearings do their work, and their process dies before it hears of it."""

    fails = 0

    async def clear(self, wal: FencedWal) -> bool:
        done = await super().clear(wal)
        if self.fails:
            self.fails -= 1
            raise Unavailable("killed")
        return done


@pytest.mark.parametrize("kind", KINDS)
@virtual
async def test_2_7_a_log_of_which_all_is_committed_is_deleted_but_for_its_marks(kind: str) -> None:
    dead = await Dead.create(kind)
    marks = await dead.marks()
    assert await dead.records()
    for _ in range(2):
        await dead.step()
    assert await dead.state() == (WalState.RETIRED, True)
    assert await dead.records() == []
    assert await dead.marks() == marks and (kind == "files" or marks[0][2]), "seals and ENDs live for ever"
    assert (await dead.cluster.world.metadata.load_image()).fenced_wals == ()
    await dead.node_comes_back()


@pytest.mark.parametrize("kind", KINDS)
@virtual
async def test_2_a_log_that_an_open_stream_or_a_tail_still_names_is_not_touched(kind: str) -> None:
    dead = await Dead.create(kind, opened=False)
    before = await dead.records()
    await dead.step()
    assert (await dead.state(), await dead.records()) == ((WalState.SEALED, False), before)
    await dead.survivor.storage.take_over(dead.wal, [1])
    await dead.step()
    assert await dead.records() == before, "committed, but not opened yet: its opening asks what was recovered"
    await dead.survivor.open([1])
    await add_tail(dead)
    await dead.step()
    assert (await dead.state(), await dead.records()) == ((WalState.SEALED, False), before)


async def add_tail(dead: Dead) -> None:
    def write(tx: Transaction) -> None:
        tx.connection.execute(
            insert(tail_rows),
            {"stream_id": 9, "start_offset": 0, "end_offset": 5, "node_id": 0, "node_epoch": 1, "stream_epoch": 0},
        )

    await dead.cluster.world.metadata._write("tail", write)


@virtual
async def test_7_a_zombies_late_puts_above_the_seal_are_deleted_also_when_they_come_after_the_cleanup() -> None:
    dead = await Dead.create("objects")
    store, name = dead.cluster.store, LogName("survivors", 0)
    number = dead.wal.seal_number
    assert number is not None
    some = bytes(await store.get(name.key(1, 1)))
    await store.create(name.key(1, number + 1), [some])
    await store.create(name.key(2, 1), [some])
    for _ in range(2):
        await dead.step()
    assert await dead.records() == [1], "of a newer node epoch, which is not ours to judge"
    assert await dead.state() == (WalState.RETIRED, True)
    await store.create(name.key(1, number + 2), [some])
    await dead.step()
    assert await dead.records() == [1]
    assert (await dead.marks())[0][1][-1] == number


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fails", [1, 2, 3])
@virtual
async def test_a_controller_that_dies_in_between_leaves_what_another_goes_on_with(kind: str, fails: int) -> None:
    dead = await Dead.create(kind)
    dead.wals.fails = fails
    for _ in range(fails):
        await dead.step()
        assert await dead.state() == (WalState.SEALED, True)
    await dead.node_comes_back()


@pytest.mark.parametrize("kind", KINDS)
@virtual
async def test_the_trim_is_at_the_end_before_anything_is_deleted(kind: str) -> None:
    """Or a node that comes back in between would ask for records that are gone."""
    dead = await Dead.create(kind)

    async def look(wal: FencedWal) -> bool:
        assert (await dead.state())[1]
        raise Unavailable("enough")

    dead.wals.clear = look  # type: ignore[method-assign]
    await dead.step()
    assert await dead.state() == (WalState.SEALED, True)
    await dead.node_comes_back()


@virtual
async def test_10_a_directory_is_left_alone_without_its_lock_and_when_it_is_not_that_nodes_any_more() -> None:
    dead = await Dead.create("files")
    before = await dead.records()
    held = await dead.wals.take_lock(dead.wal.wal_uri, 0, 1, or_earlier=False)
    await dead.step()
    assert (await dead.state(), await dead.records()) == ((WalState.SEALED, True), before)
    await held.release()
    # The node is back, under a newer epoch: what is there is its own.
    back = await dead.cluster.start(0)
    await back.kill()
    await dead.step()
    with pytest.raises(Unavailable, match="epoch"):
        await dead.wals.clear(dead.wal._replace(trim=20))


@virtual
async def test_a_clearing_of_objects_is_bounded_and_done_when_a_listing_shows_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead = await Dead.create("objects")
    monkeypatch.setattr(cleanup, "KEYS_PER_ROUND", 2)
    monkeypatch.setattr(cleanup, "KEYS_PER_REQUEST", 2)
    left = len(await dead.records())
    assert left > 4
    while left:
        assert not await dead.wals.clear(dead.wal)
        left = max(0, left - 2)
        assert len(await dead.records()) == left
    assert await dead.wals.clear(dead.wal)


@virtual
async def test_10_a_directory_of_another_incarnation_under_the_same_epoch_is_left_alone() -> None:
    """The metadata gave the epoch twice."""
    dead = await Dead.create("files")
    before = await dead.records()
    with pytest.raises(Unavailable, match="not of node 0"):
        await dead.wals.clear(dead.wal._replace(trim=20, incarnation=dead.wal.incarnation ^ 1))
    assert await dead.records() == before


@virtual
async def test_a_directory_that_does_not_end_where_it_was_sealed_is_left_alone() -> None:
    dead = await Dead.create("files")
    before = await dead.records()
    with pytest.raises(Corrupt, match="sealed at"):
        await dead.wals.clear(dead.wal._replace(trim=20, seal_number=21))
    assert await dead.records() == before


@pytest.mark.parametrize("kind", KINDS)
@virtual
async def test_cleaning_up_is_the_controllers_alone(kind: str) -> None:
    dead = await Dead.create(kind)
    metadata, lease = dead.cluster.world.metadata, await dead.lease()
    await metadata.acquire_lease(CONTROLLER_LEASE, dead.survivor.identity, None)
    await metadata.release_lease(lease)
    before = await dead.records()
    with pytest.raises(Fenced):
        await dead.janitor.step(lease)
    with pytest.raises(Fenced):
        await metadata.retire_wal(lease, 0, 1)
    assert (await dead.state(), await dead.records()) == ((WalState.SEALED, False), before)


@virtual
async def test_a_row_that_is_gone_and_a_wal_that_is_open_are_nobodys_to_retire() -> None:
    dead = await Dead.create("objects")
    metadata, lease = dead.cluster.world.metadata, await dead.lease()
    assert not await metadata.trim_finished(lease, 7, 1, 5)
    assert not await metadata.trim_finished(lease, 1, 1, 5), "node 1 lives"
    await metadata.retire_wal(lease, 1, 1)
    [wal] = (await metadata.holdings(1)).wals.values()
    assert wal.state == WalState.OPEN


class Stuck:
    """Many finished WALs, none within reach."""

    def __init__(self, count: int) -> None:
        self.wals = [FencedWal(node, 1, 0, "file:///wal", 0, WalState.SEALED, 5) for node in range(count)]
        self.tried: list[int] = []

    def lock_needed(self, uri: str) -> bool:
        return True

    async def end_of(self, wal: FencedWal) -> int:
        return 5

    async def clear(self, wal: FencedWal) -> bool:
        self.tried.append(wal.node_id)
        raise Unavailable("not within reach here")

    async def finished_wals(self, state: WalState, limit: int) -> list[FencedWal]:
        return self.wals if state == WalState.SEALED else []

    async def trim_finished(self, lease: Lease, node_id: int, node_epoch: int, end: int) -> bool:
        return True

    async def retire_wal(self, lease: Lease, node_id: int, node_epoch: int) -> None:
        raise AssertionError


@virtual
async def test_a_round_is_bounded_and_what_cannot_be_cleaned_up_keeps_no_other_waiting() -> None:
    stuck = Stuck(2 * WALS_PER_ROUND + 1)
    cluster = await Cluster.create("files", 1)
    janitor = Janitor(stuck, stuck, cluster.world.clock, cluster._tasks, Metrics())
    lease = Lease(CONTROLLER_LEASE, 1, 1, 0)
    await janitor.step(lease)
    assert len(stuck.tried) == WALS_PER_ROUND
    for _ in range(2):
        await janitor.step(lease)
    assert set(stuck.tried) == set(range(len(stuck.wals)))
