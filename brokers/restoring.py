"""A database restored from a backup, compared with the stores, and brought past them (CORRECTNESS 8).

Owns: what the stores show (objects, their streams' ends, WALs on objects), sealing those WALs, the order of the steps.
Does not own: what is lifted, how far (metadata.restoring); talking to people (brokers.cli.restore).
Invariants: nothing is written before everything was looked at; nothing of the stores is deleted or overwritten: an
object goes under a key of its own, and of a WAL only the number that was never written is sealed; a step that failed is
mended by running the whole again.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from brokers.forgetting import gap_beyond, upload_hole
from metadata.cluster_types import Loss
from metadata.restoring import Found, Known
from metadata.store import Metadata
from s3stream.errors import BadSetting, NotFound, PonorError, Unavailable
from s3stream.object_format import parse_object_key
from s3stream.object_reader import ObjectReader
from s3stream.objectstore.faults import listing
from s3stream.seams import Clock, ObjectStore
from s3stream.types import NodeId, ObjectRef, StreamId, WalPosition
from wal import WalAccess, is_on_objects, seal_everything

_WAL_KEY: Final = re.compile(r"[0-9a-f]{2}/wal/([^/]+)/(\d+)/([0-9a-f]{16})/[^/]+\.wal")


class Unreadable(NamedTuple):
    topic: str
    partition: int
    start: int
    end: int
    key: str


@dataclass
class Survey:
    known: Known
    unknown: list[str] = field(default_factory=list)
    """Keys of objects that the database does not know: written since the backup. They stay."""
    damaged: list[str] = field(default_factory=list)
    """Those of them whose streams could not be read."""
    unreadable: list[Unreadable] = field(default_factory=list)
    """Committed ranges whose object is gone: freed and deleted since the backup."""
    object_id_max: int = 0
    stream_ends: dict[StreamId, int] = field(default_factory=dict)
    node_epochs: dict[NodeId, int] = field(default_factory=dict)
    wal_uris: dict[NodeId, str] = field(default_factory=dict)
    """Of nodes whose log on objects is there."""


async def survey(metadata: Metadata, objects: ObjectStore, wal_url: str, access: WalAccess) -> Survey:
    """Looks at everything and changes nothing. Raises Unavailable."""
    found = Survey(await metadata.known())
    there = await _look_at_objects(found, objects)
    for known in found.known.objects.values():
        if known.committed and (known.ref.object_id, known.ref.incarnation) not in there:
            for one in known.ranges:
                topic, partition = found.known.names.get(one.stream_id, ("", -1))
                if topic and one.size:
                    key = f"{known.ref.object_id:016x}"
                    found.unreadable.append(Unreadable(topic, partition, one.start, one.end, key))
    uris = {uri for uri in found.known.wal_uris.values() if is_on_objects(uri)}
    for uri in sorted(uris | ({wal_url} if is_on_objects(wal_url) else set())):
        await _look_at_wals(found, uri, access)
    return found


async def restore(
    found: Survey, metadata: Metadata, objects: ObjectStore, access: WalAccess, wal_bytes_max: int
) -> Sequence[Loss]:
    """Raises BadSetting, Unavailable: run it again."""
    ends: dict[NodeId, tuple[str, WalPosition]] = {}
    for node_id, uri in found.wal_uris.items():
        ends[node_id] = (uri, await seal_everything(uri, node_id=node_id, access=access))
    lifted = Found(found.object_id_max, found.stream_ends, found.node_epochs, ends)
    await metadata.lift(lifted)
    hole = await upload_hole(metadata, objects)
    return await metadata.open_behind_gaps(lifted, gap_beyond(wal_bytes_max), hole)


async def refuse_if_used(metadata: Metadata, clock: Clock, lease_seconds: float) -> None:
    """Raises BadSetting while a broker writes heartbeats to this database."""
    before = {beat.node_id: (beat.node_epoch, beat.heartbeat) for beat in await metadata.node_beats()}
    await clock.sleep(lease_seconds)
    for beat in await metadata.node_beats():
        if before.get(beat.node_id) != (beat.node_epoch, beat.heartbeat):
            raise BadSetting(f"node {beat.node_id} uses this database: stop all brokers first. Nothing was changed")


async def _look_at_objects(found: Survey, objects: ObjectStore) -> Collection[tuple[int, int]]:
    there: set[tuple[int, int]] = set()
    ends: dict[StreamId, int] = defaultdict(int)
    async with listing(objects, "", "") as infos:
        async for info in infos:
            name = parse_object_key(info.key)
            if name is None:
                continue
            there.add(name)
            found.object_id_max = max(found.object_id_max, name[0])
            known = found.known.objects.get(name)
            if known is not None and known.committed:
                continue  # What it holds is in the database, or was trimmed.
            found.unknown.append(info.key)
            try:
                index = await ObjectReader(objects, ObjectRef(*name, info.size)).index()
            except (NotFound, Unavailable):
                raise
            except PonorError:
                found.damaged.append(info.key)
                continue
            for entry in index.entries():
                ends[entry.stream_id] = max(ends[entry.stream_id], entry.end)
    found.stream_ends = dict(ends)
    return there


async def _look_at_wals(found: Survey, uri: str, access: WalAccess) -> None:
    async with listing(access.open_store(uri), "", "") as infos:
        async for info in infos:
            match = _WAL_KEY.fullmatch(info.key)
            if match is None or match[1] != access.cluster_id:
                continue
            node_id = int(match[2])
            found.node_epochs[node_id] = max(found.node_epochs.get(node_id, 0), int(match[3], 16))
            # A node writes to one place at a time; where it wrote to two, the database says which was the last.
            if found.known.wal_uris.get(node_id, uri) == uri:
                found.wal_uris[node_id] = uri
