"""What a dead node's WAL holds that nobody can read any more, and giving it up (CORRECTNESS 10).

Owns: the evidence that it is lost, the size of the gap, the order (object first, then the transaction). Does not own:
the transaction (metadata.forgetting), talking to people (brokers.cli.forget).
Invariant: nothing is given up that a broker could still recover from here: a node that lives, a lock that is held and
a WAL that can be read are refusals, and of a WAL with a hole only the streams that the hole concerns are given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from metadata.cluster_types import Loss
from metadata.forgetting import GivingUp, Holdings, OwnedStream
from metadata.store import Metadata
from s3stream.errors import BadSetting, Corrupt, Unavailable
from s3stream.limits import BATCH_BYTES_MAX, OFFSETS_PER_BATCH_MAX, WAL_GROUP_BYTES_MAX, WAL_RECORD_BYTES_MIN
from s3stream.object_writer import ObjectWriter
from s3stream.objectstore.exists import create_or_confirm
from s3stream.objectstore.faults import Refused, listing
from s3stream.recovery import Tail
from s3stream.seams import Clock, ObjectStore
from s3stream.settings import EngineSettings
from s3stream.types import FencedWal, NodeId, ObjectKind, ObjectRef, WalDamage, WalState
from wal import WalAccess, WalLock, lock_needed, owner_of, read_sealed, seal_wal, take_lock
from wal.lock import Held

OFFSET_MAX: Final = 1 << 62
"""No partition is brought beyond it: Kafka's offsets have 63 bits."""


class Lost(NamedTuple):
    stream: OwnedStream
    node_epoch: int
    reason: str

    @property
    def start(self) -> int:
        """Where its records end."""
        return max(self.stream.snapshot.committed_end, self.stream.snapshot.start_offset)


class Plan(NamedTuple):
    holdings: Holdings
    lost: Sequence[Lost]
    gap: int


def gap_beyond(wal_bytes_max: int) -> int:
    """More offsets than a WAL of that bound can have given out and not committed: as many of the smallest records as
    fit, of as many offsets as a record can claim. 4 GiB: 8.7e16 of the 9.2e18 that there are."""
    records = (wal_bytes_max + WAL_GROUP_BYTES_MAX + BATCH_BYTES_MAX) // WAL_RECORD_BYTES_MIN + 1
    return records * OFFSETS_PER_BATCH_MAX


async def plan(
    metadata: Metadata, node_id: NodeId, access: WalAccess, clock: Clock, lease_seconds: float, wal_bytes_max: int
) -> Plan:
    """What would be given up. Raises BadSetting: it lives, or can still be recovered; Unavailable: nobody can say."""
    found = await metadata.holdings(node_id)
    if any(wal.state < WalState.SEALED for wal in found.wals.values()):
        await clock.sleep(lease_seconds)
        again = await metadata.holdings(node_id)
        if again.alive and (again.node_epoch, again.heartbeat) != (found.node_epoch, found.heartbeat):
            raise BadSetting(f"node {node_id} lives: its heartbeat goes on. Nothing was changed")
        found = again
    lost: list[Lost] = []
    for node_epoch in sorted({one.snapshot.owner_epoch or 0 for one in found.streams}):
        wal = found.wals.get(node_epoch)
        if wal is None:
            raise Corrupt(f"metadata: streams name node {node_id} epoch {node_epoch}, which has no WAL row")
        streams = [one for one in found.streams if one.snapshot.owner_epoch == node_epoch]
        lost += await _lost_of(wal, streams, access)
    gap = gap_beyond(wal_bytes_max)
    for one in lost:
        if one.start + gap > OFFSET_MAX:
            raise BadSetting(
                f"{one.stream.topic}-{one.stream.partition}: there are not enough offsets left behind {one.start} "
                "for another gap; delete the topic"
            )
    return Plan(found, lost, gap)


async def give_up(plan: Plan, metadata: Metadata, objects: ObjectStore) -> list[Loss]:
    """Raises Unavailable, and changes nothing, when anything has changed since the plan was made."""
    hole = await upload_hole(metadata, objects)
    found = plan.holdings
    streams = {one.stream.snapshot.stream_id: one.node_epoch for one in plan.lost}
    return await metadata.give_up(GivingUp(found.node_id, found.node_epoch, found.heartbeat, streams, plan.gap, hole))


async def upload_hole(metadata: Metadata, objects: ObjectStore) -> ObjectRef:
    """The object without blocks that stands for gaps: to be committed within the hour, or it is collected."""
    object_id, incarnation = await metadata.prepare_hole()
    built = ObjectWriter(ObjectKind.STREAM_SET, object_id, incarnation, EngineSettings()).finish()
    await create_or_confirm(objects, built.key, built.buffers)
    return built.ref


# --- what is lost ------------------------------------------------------------------------------------


async def _lost_of(wal: FencedWal, streams: Sequence[OwnedStream], access: WalAccess) -> list[Lost]:
    """Of one incarnation's streams, those that cannot be recovered."""
    try:
        if wal.state < WalState.SEALED:
            await _refuse_if_sealable(wal, access)
        reasons = await _broken(wal, streams, access)
    except (_Lost, Corrupt, Refused) as error:
        reasons = dict.fromkeys((one.snapshot.stream_id for one in streams), str(error))
    except Unavailable as error:
        if not lock_needed(wal.wal_uri):
            raise  # The store may answer again, and then nothing is lost.
        reasons = dict.fromkeys((one.snapshot.stream_id for one in streams), str(error))
    return [
        Lost(one, wal.node_epoch, reasons[one.snapshot.stream_id])
        for one in streams
        if one.snapshot.stream_id in reasons
    ]


async def _refuse_if_sealable(wal: FencedWal, access: WalAccess) -> None:
    """A log whose end can be found is a takeover's first: even where some streams of it are broken, that saves the
    others. Raises BadSetting then; _Lost, Corrupt or Unavailable when it cannot be read."""
    lock = None
    try:
        if lock_needed(wal.wal_uri):
            lock = await _locked(wal, access)
        elif wal.state == WalState.OPEN:
            async with listing(access.open_store(wal.wal_uri), "", "") as infos:
                async for _ in infos:
                    break
        if lock is not None or wal.state == WalState.SEALING:
            await seal_wal(wal.wal_uri, wal=wal, access=access, lock=lock)
    finally:
        if lock is not None:
            await lock.release()
    raise BadSetting(
        f"the WAL {wal.wal_uri} of node {wal.node_id} epoch {wal.node_epoch} can be read from here: start a broker "
        f"here, and it is taken over, or node {wal.node_id} itself. Nothing was changed"
    )


class _Lost(Exception):
    """Not there, or not to be read."""


async def _locked(wal: FencedWal, access: WalAccess) -> WalLock:
    try:
        return await take_lock(wal.wal_uri, node_id=wal.node_id, node_epoch=wal.node_epoch, access=access)
    except Unavailable as error:
        if isinstance(error.__cause__, Held):
            raise BadSetting(f"{error}. Nothing was changed") from error
        owner = await owner_of(wal.wal_uri, access)
        if owner is not None and owner.node_id == wal.node_id:
            raise BadSetting(
                f"{error}. But it is an earlier life's of the same node: start node {wal.node_id} with it. Nothing was "
                "changed"
            ) from error
        raise _Lost(str(error)) from error


async def _broken(wal: FencedWal, streams: Sequence[OwnedStream], access: WalAccess) -> dict[int, str]:
    """Streams of which the sealed WAL lacks records, and why; as a takeover judges it."""
    tails = {one.snapshot.stream_id: Tail(one.snapshot) for one in streams}
    damaged: dict[int, WalDamage] = {}
    records = read_sealed(wal.wal_uri, wal=wal, streams=set(tails), damaged=damaged, access=access)
    async with aclosing(records) as groups:
        async for group in groups:
            for batch in group:
                if batch.stream_id in tails:
                    batch.payload = b""  # Only offsets count here: a WAL's worth of early batches fits in memory.
                    tails[batch.stream_id].place(batch)
    found = {stream_id: f"damaged: {damage.error}" for stream_id, damage in damaged.items() if stream_id in tails}
    for tail in tails.values():
        if tail.early:
            missing = f"offsets from {tail.end} to {tail.early[0].base_offset} are missing in {wal.wal_uri}"
            found.setdefault(tail.stream_id, missing)
    return found
