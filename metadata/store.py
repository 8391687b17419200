"""The metadata store that brokers use: every method is one transaction, run outside the event loop.

Owns: which transaction a call is. Does not own: what the transaction does (the module named after its tables), its
course (`transactions.py`), nor the database (`engine.py`).
"""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ParamSpec, TypeVar
from uuid import UUID

import structlog

from metadata import (
    assignments,
    cleanup,
    commits,
    configs,
    forgetting,
    ids,
    image_loader,
    leases,
    loads,
    nodes,
    objects,
    ranges,
    replacements,
    replicas,
    restoring,
    streams,
    takeovers,
    topics,
)
from metadata import seen_file as seen
from metadata.cluster_types import Lease, LoadReport, Loss, NewTopic, NodeBeat, Placement
from metadata.forgetting import GivingUp, Holdings
from metadata.held_ids import HeldIds
from metadata.image import ClusterImage, TopicImage
from metadata.restoring import Found, Known
from metadata.transactions import Transactions
from metadata.urls import engine_of
from s3stream.metrics import Metrics
from s3stream.seams import Clock, RunBlocking
from s3stream.tasks import Tasks
from s3stream.types import (
    CommitResult,
    FencedWal,
    FlushCommit,
    NodeId,
    NodeIdentity,
    NodeRegistration,
    ObjectId,
    ObjectRange,
    ObjectRef,
    OpenRequest,
    Replacement,
    StreamId,
    StreamSnapshot,
    TailRow,
    WalPosition,
    WalState,
)

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def check_url(url: str) -> None:
    """Raises BadSetting when the URL names no database that could be opened. Touches nothing."""
    engine_of(url)


def connections(url: str) -> int:
    """How many transactions may run at a time: what `run_blocking` should have threads for."""
    return engine_of(url).connections


async def open_metadata(
    url: str,
    *,
    clock: Clock,
    metrics: Metrics,
    run_blocking: RunBlocking,
    chance: random.Random | None = None,
    tasks: Tasks | None = None,
    seen_file: Path | None = None,
) -> Metadata:
    """Connect; give an empty database its tables, bring an older one up to date.

    `chance` makes cluster ids and incarnations: the operating system's randomness unless a simulation gives its
    own. `tasks` run what hears pushes and keeps `seen_file`, the broker's durable memory of the database, in which
    a rolled-back one is recognised after a restart; without them changes are polled for, and memory is the process's.
    Raises BadSetting when the URL names no usable database, one that is not Ponor's, one of a newer Ponor, or one
    that has rolled back (nothing is touched); Unavailable when it does not answer.
    """
    engine = engine_of(url)
    store = Metadata(engine, clock, metrics, run_blocking, chance or secrets.SystemRandom(), seen_file)
    try:
        if seen_file is not None:
            engine.history.recall(await run_blocking(seen.load, seen_file))
        await run_blocking(engine.make_place)
        await store.prepare()
    except BaseException:
        await run_blocking(engine.close)
        raise
    if tasks is not None:
        store.start(tasks)
    return store


class Metadata(Transactions):
    """`seams.MetadataStore`, and what brokers need beyond it. Raises as said there."""

    @cached_property
    def _object_ids(self) -> HeldIds:
        return HeldIds(self._object_id_block)

    # --- nodes ---------------------------------------------------------------------------------

    async def register_node(
        self, node_id: NodeId, wal_uri: str, addresses: dict[str, str], rack: str | None = None, take_back: bool = False
    ) -> NodeRegistration:
        return await self._write("register_node", nodes.register, node_id, wal_uri, addresses, rack, take_back)

    async def heartbeat(self, node: NodeIdentity) -> None:
        await self._write("heartbeat", nodes.heartbeat, node)

    async def unregister_node(self, node: NodeIdentity) -> None:
        """An orderly stop: the node is shown as not alive. It may register again at any time."""
        await self._write("unregister_node", nodes.unregister, node)

    async def set_draining(self, node_id: NodeId, draining: bool) -> None:
        """Whether its partitions are to leave the node; registering ends it. Raises NotFound."""
        await self._write("set_draining", nodes.set_draining, node_id, draining)

    async def node_beats(self) -> list[NodeBeat]:
        """Every node that was ever registered, by id."""
        return await self._read("node_beats", nodes.beats)

    # --- leases and takeovers ------------------------------------------------------------------

    async def lease(self, name: str) -> Lease | None:
        """None while nobody holds it."""
        return await self._read("lease", leases.read, name)

    async def acquire_lease(self, name: str, node: NodeIdentity, seen: Lease | None) -> Lease | None:
        """Take the lease when nobody holds it, when its holder's incarnation has been replaced, or when it is still
        as `seen`, which the caller has watched unchanged for a lease period by its own monotonic clock. None: somebody
        else has it. The same registration again is a success."""
        return await self._write("acquire_lease", leases.acquire, name, node, seen)

    async def renew_lease(self, lease: Lease) -> Lease:
        """Raises Fenced when it was taken or released."""
        return await self._write("renew_lease", leases.renew, lease)

    async def release_lease(self, lease: Lease) -> None:
        """Nobody holds it then, unless somebody else had taken it."""
        await self._write("release_lease", leases.release, lease)

    async def fence_node(
        self,
        lease: Lease,
        node_id: NodeId,
        node_epoch: int,
        heartbeat: int,
        earlier: tuple[int, int] | None = None,
    ) -> FencedWal | None:
        """Raise the node's epoch, so that this incarnation is Fenced, and mark its WAL SEALING, if its heartbeat still
        has that value. None: it has beaten, or registered anew. A repeat returns the row as it is by then. Raises
        Fenced when the lease is lost. Of a file WAL the caller holds the lock (CORRECTNESS 10).

        `earlier`: (node epoch, incarnation) of the node's life that the WAL's directory names, (0, 0) for none. The row
        returned is that life's then; or the newer one's, RETIRED, where nobody needs anything of either. Raises
        Unavailable where the newer one may have written anything."""
        return await self._write("fence_node", takeovers.fence_node, lease, node_id, node_epoch, heartbeat, earlier)

    async def wal_sealed(self, lease: Lease, node_id: NodeId, node_epoch: int, seal_number: int) -> None:
        """SEALING → SEALED, for ever; from here on any node may commit what the WAL holds. A repeat is a success.
        Raises Fenced when the lease is lost, the node was not fenced, or the WAL was sealed elsewhere."""
        await self._write("wal_sealed", takeovers.wal_sealed, lease, node_id, node_epoch, seal_number)

    async def fenced_wals(self) -> list[FencedWal]:
        """SEALING and SEALED ones that open streams still name: unfinished takeovers."""
        return await self._read("fenced_wals", takeovers.fenced_wals)

    async def owned_streams(self, node_id: NodeId, node_epoch: int) -> list[StreamSnapshot]:
        return await self._read("owned_streams", streams.owned_streams, node_id, node_epoch)

    async def assign(self, moves: Mapping[StreamId, NodeId], lease: Lease | None = None) -> None:
        """Say which node is to have each stream open. Streams that do not exist are passed over. Raises Fenced when
        `lease` is given and was lost."""
        await self._write("assign", assignments.assign, moves, lease)

    async def place(self, placements: Mapping[StreamId, Placement]) -> None:
        """Store what the user asks for: replica lists, and who is to have each stream open now. Streams that do not
        exist are passed over."""
        await self._write("place", replicas.place, placements)

    async def finished_wals(self, state: WalState, limit: int) -> list[FencedWal]:
        """SEALED, or RETIRED, ones of which everything is committed, at most `limit`."""
        return await self._read("finished_wals", cleanup.finished_wals, state, limit)

    async def trim_finished(self, lease: Lease, node_id: NodeId, node_epoch: int, end: WalPosition) -> bool:
        """Raise a finished WAL's trim to its end, before any of it is deleted. False: it is no longer there, or not
        finished. Raises Fenced when the lease is lost."""
        return await self._write("trim_finished", cleanup.trim_finished, lease, node_id, node_epoch, end)

    async def retire_wal(self, lease: Lease, node_id: NodeId, node_epoch: int) -> None:
        """SEALED → RETIRED, when nothing of it is left to be deleted. Raises Fenced when the lease is lost."""
        await self._write("retire_wal", cleanup.retire, lease, node_id, node_epoch)

    async def holdings(self, node_id: NodeId) -> Holdings:
        """What a node has open, and over which WALs. Raises NotFound for one that was never registered."""
        return await self._read("holdings", forgetting.holdings, node_id)

    async def prepare_hole(self) -> tuple[ObjectId, int]:
        """(id, incarnation) of an object to be uploaded in nobody's name, for `give_up`."""
        return await self._write("prepare_hole", forgetting.prepare_hole)

    async def give_up(self, what: GivingUp) -> list[Loss]:
        """Close streams of a dead node behind a gap, what its lost WAL held of them given up (CORRECTNESS 10). All or
        nothing: raises Unavailable when anything is not as the caller saw it."""
        return await self._write("give_up", forgetting.give_up, what)

    # --- after a restored backup ---------------------------------------------------------------

    async def known(self) -> Known:
        """What the database says of objects, WALs and streams; all of it at once, for a command."""
        return await self._read("known", restoring.known)

    async def lift(self, found: Found) -> None:
        """Ids, epochs and the image's version past what was given out since the backup (CORRECTNESS 8)."""
        await self._write("lift", restoring.lift, found)

    async def open_behind_gaps(self, found: Found, gap: int, hole: ObjectRef) -> list[Loss]:
        """Every stream closed behind a gap. Raises Unavailable when the object's preparation ran out."""
        return await self._write("open_behind_gaps", restoring.open_behind_gaps, found, gap, hole)

    # --- load ----------------------------------------------------------------------------------

    async def report_load(self, node: NodeIdentity, report: str) -> None:
        """Replace what the node said of its load before. Raises Fenced."""
        await self._write("report_load", loads.report, node, report)

    async def load_reports(self) -> list[LoadReport]:
        """The last of each node, by id; of nodes that are gone too."""
        return await self._read("load_reports", loads.read)

    # --- streams -------------------------------------------------------------------------------

    async def open_streams(self, node: NodeIdentity, requests: Sequence[OpenRequest]) -> list[StreamSnapshot]:
        """In the order asked for. The last of `epochs` is the opening just made: its start is the log's end.
        The same opening again, by the same registration, is a success."""
        return await self._write("open_streams", streams.open_streams, node, requests)

    async def close_streams(
        self,
        node: NodeIdentity,
        ends: dict[StreamId, int],
        epochs: Mapping[StreamId, int] | None = None,
        with_tails: bool = False,
    ) -> list[TailRow]:
        """Raises Unavailable when a stream is not committed to its end , unless `with_tails`: flush, then again."""
        return await self._write("close_streams", streams.close_streams, node, ends, epochs, with_tails)

    async def streams(self, stream_ids: Sequence[StreamId]) -> list[StreamSnapshot]:
        return await self._read("streams", streams.read, stream_ids)

    async def trim_stream(self, node: NodeIdentity, stream_id: StreamId, stream_epoch: int, start: int) -> int:
        """Raises NotFound when the stream does not exist. The start is stored by the first transaction; dead
        ranges beyond a bound are dropped by further ones."""
        while True:
            stored, more = await self._write("trim_stream", ranges.trim_stream, node, stream_id, stream_epoch, start)
            if not more:
                return stored

    # --- objects -------------------------------------------------------------------------------

    async def prepare_objects(self, node: NodeIdentity, count: int, expires_ms: int) -> list[ObjectId]:
        # Two transactions: brokers that prepare at the same time do not wait for each other's rows.
        object_ids = await self._object_ids.take(node, count)
        await self._write("prepare_objects", objects.prepare, node, object_ids, expires_ms)
        return object_ids

    async def commit(self, commit: FlushCommit) -> CommitResult:
        return await self._write("commit", commits.commit, commit)

    async def object_ranges(self, stream_id: StreamId, start: int, limit: int) -> list[ObjectRange]:
        """Raises NotFound when the stream does not exist."""
        return await self._read("object_ranges", ranges.object_ranges, stream_id, start, limit)

    async def replace_ranges(self, node: NodeIdentity, what: Replacement) -> bool:
        return await self._write("replace_ranges", replacements.replace_ranges, node, what)

    async def expire_prepared(self, now_ms: int, limit: int) -> int:
        """Also goes on with what an interrupted deletion of a topic has left."""
        await self._drop_deleted()
        return await self._write("expire_prepared", objects.expire_prepared, now_ms, limit)

    async def deletable_objects(self, marked_before_ms: int, limit: int) -> list[ObjectRef]:
        return await self._read("deletable_objects", objects.deletable, marked_before_ms, limit)

    async def forget_objects(self, object_ids: Sequence[ObjectId]) -> None:
        await self._write("forget_objects", objects.forget, object_ids)

    # --- topics and configs --------------------------------------------------------------------

    async def create_topic(
        self, name: str, topic_id: UUID, assignment: Sequence[Sequence[NodeId]],
        configs: Mapping[str, str] | None = None, internal: bool = False,
    ) -> TopicImage:  # fmt: skip
        """One partition for each entry of `assignment`, its replicas. Raises AlreadyExists."""
        wanted = NewTopic(name, topic_id, assignment, configs or {}, internal)
        return await self._write("create_topic", topics.create, wanted)

    async def create_topics(self, wanted: Sequence[NewTopic]) -> list[TopicImage | None]:
        """Topics with different names, all or none; None in the place of one whose name another topic has."""
        return await self._write("create_topics", topics.create_many, wanted)

    async def delete_topic(self, topic_id: UUID) -> None:
        """Gone from the image when the first transaction is done. Raises NotFound."""
        await self._write("delete_topic", topics.delete_topic, topic_id)
        await self._drop_deleted()

    async def create_partitions(self, topic_id: UUID, assignment: Sequence[Sequence[NodeId]]) -> TopicImage:
        """Add partitions. Raises NotFound."""
        return await self._write("create_partitions", topics.create_partitions, topic_id, assignment)

    async def alter_configs(self, kind: str, name: str, changes: Mapping[str, str | None]) -> None:
        """`kind` is one of `configs.KINDS`. None removes a key. Raises NotFound for an unknown topic."""
        await self._write("alter_configs", configs.alter, kind, name, changes)

    async def configs(self, kind: str, name: str) -> dict[str, str]:
        """What was set on anything but a topic, whose configs are in its image."""
        return await self._read("configs", configs.read, kind, name)

    async def configs_by_name(self, kind: str) -> dict[str, dict[str, str]]:
        """As `configs`, of every resource of a kind that has any."""
        return await self._read("configs_by_name", configs.by_name, kind)

    async def update_features(self, changes: Mapping[str, int | None]) -> None:
        await self._write("update_features", configs.update_features, changes)

    async def allocate_producer_ids(self, node: NodeIdentity, count: int) -> tuple[int, int]:
        """Producer ids [start, end), never given before and never again."""
        block = await self._write("allocate_producer_ids", ids.allocate, node, "producer", count)
        return block.start, block.stop

    # --- the image -----------------------------------------------------------------------------

    async def load_image(self, seen: ClusterImage | None = None) -> ClusterImage:
        """The image now: `seen` itself when nothing changed, unchanged topics the same objects as there."""
        image = await self._read("load_image", image_loader.load, seen)
        self._watch.announce(image.version)
        return image

    async def changed(self, version: int) -> int:
        """Wait until the image is newer than `version`; returns a version it has reached."""
        return await self._watch.changed(version)

    async def watch(self, seen: ClusterImage | None = None) -> AsyncIterator[ClusterImage]:
        """Images newer than `seen`, for ever; one that was overtaken may be left out."""
        image = seen
        while True:
            if image is not None:
                await self._watch.changed(image.version)
            newer = await self.load_image(image)
            if newer is not image:
                image = newer
                yield image

    async def _object_id_block(self, node: NodeIdentity, count: int) -> range:
        return await self._write("allocate_object_ids", ids.allocate, node, "object", count)

    async def _drop_deleted(self) -> None:
        while not await self._write("drop_deleted", topics.drop_deleted):
            pass
