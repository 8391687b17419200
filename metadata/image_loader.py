"""Builds the cluster image from the tables: whole once, then only the partitions that changed.

Runs in one snapshot of the database, so that an image is the state at exactly its version. Topics and partitions that
did not change keep their object: a reader may compare by identity (`image.changed_partitions`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from uuid import UUID

from sqlalchemy import bindparam, select

from metadata import forgetting, proof, takeovers
from metadata.configs import BROKER, GROUP, TOPIC
from metadata.engine import AnyRow, Transaction
from metadata.image import NO_LEADER, PEERS, ClusterImage, NodeImage, PartitionImage, TopicImage
from metadata.schema import (
    TopicState,
    cluster,
    configs,
    features,
    leases,
    nodes,
    partitions,
    streams,
    tail_rows,
    topics,
)
from metadata.statements import parts
from s3stream.types import NodeId, StreamId, StreamState

REPLICA_LISTS_KEPT = 1_024
"""Few lists differ: partitions share theirs."""

CONTROLLER_LEASE = "controller"

_CLUSTER = select(cluster.c.cluster_id, cluster.c.image_version, cluster.c.image_floor)
_CHANGED_TOPICS = select(
    topics.c.topic_id, topics.c.name, topics.c.internal, topics.c.state,
    topics.c.version, topics.c.marked_version, topics.c.whole_version,
).where(topics.c.version > bindparam("seen"))  # fmt: skip
_SOME_TOPICS = select(topics.c.topic_id, topics.c.name, topics.c.internal).where(
    topics.c.topic_id.in_(bindparam("ids", expanding=True))
)
_PARTITION_ROWS = select(
    partitions.c.topic_id, partitions.c.partition, partitions.c.stream_id, partitions.c.replicas,
    partitions.c.assigned, streams.c.state, streams.c.epoch, streams.c.owner_node, streams.c.owner_node_epoch,
    tail_rows.c.node_id.label("tail_node"), tail_rows.c.node_epoch.label("tail_node_epoch"),
).select_from(
    partitions.join(streams, streams.c.stream_id == partitions.c.stream_id)
    .outerjoin(tail_rows, tail_rows.c.stream_id == partitions.c.stream_id)
).order_by(partitions.c.topic_id, partitions.c.partition)  # fmt: skip
_PARTITIONS = _PARTITION_ROWS.where(partitions.c.topic_id.in_(bindparam("ids", expanding=True)))
_CHANGED_PARTITIONS = _PARTITION_ROWS.where(partitions.c.version > bindparam("seen"))
_TOPIC_CONFIGS = select(configs.c.name, configs.c.key, configs.c.value).where(
    configs.c.kind == TOPIC, configs.c.name.in_(bindparam("names", expanding=True))
)
_CONFIGS_OF = select(configs.c.name, configs.c.key, configs.c.value).where(configs.c.kind == bindparam("of_kind"))
_NODES = select(nodes).order_by(nodes.c.node_id)
_FEATURES = select(features.c.name, features.c.level)
_CONTROLLER = select(leases.c.holder).where(leases.c.name == CONTROLLER_LEASE)


def load(tx: Transaction, seen: ClusterImage | None) -> ClusterImage:
    """The image now; `seen` itself when nothing changed since. Raises RolledBack when it is none that follows on what
    was seen."""
    proof.image(tx)
    row = tx.connection.execute(_CLUSTER).one()
    if seen is not None and (seen.cluster_id, seen.version) == (row.cluster_id, row.image_version):
        return seen
    if seen is not None and (seen.cluster_id != row.cluster_id or not row.image_floor <= seen.version):
        seen = None
    by_name = {} if seen is None else dict(seen.topics)
    by_id = {} if seen is None else dict(seen.topics_by_id)
    changed = tx.connection.execute(_CHANGED_TOPICS, {"seen": 0 if seen is None else seen.version}).all()
    for image in _changed_topics(tx, seen, changed):
        by_name[image.name] = by_id[image.topic_id] = image
    for topic_row in changed:
        if topic_row.state != TopicState.ACTIVE:
            gone = by_id.pop(topic_row.topic_id, None)
            # The name may be another topic's by now.
            if gone is not None and by_name.get(gone.name) is gone:
                del by_name[gone.name]
    controller = tx.connection.execute(_CONTROLLER).scalar_one_or_none()
    return ClusterImage(
        version=row.image_version,
        cluster_id=row.cluster_id,
        topics=MappingProxyType(by_name),
        topics_by_id=MappingProxyType(by_id),
        nodes=_nodes(tx),
        broker_configs=_grouped(tx.connection.execute(_CONFIGS_OF, {"of_kind": BROKER})),
        group_configs=_grouped(tx.connection.execute(_CONFIGS_OF, {"of_kind": GROUP})),
        controller=NO_LEADER if controller is None else controller,
        features=MappingProxyType(dict(tx.connection.execute(_FEATURES).all())),
        fenced_wals=tuple(takeovers.fenced_wals(tx)),
        losses=forgetting.losses(tx),
    )


def _changed_topics(tx: Transaction, seen: ClusterImage | None, rows: Sequence[AnyRow]) -> list[TopicImage]:
    """Those of `rows` that exist, as they are now: read whole where their changes are not all marked, or more than
    partitions changed."""
    active = [row for row in rows if row.state == TopicState.ACTIVE]
    if seen is None:
        return _topics(tx, active)
    known, version = seen.topics_by_id, seen.version
    marked = {
        row.topic_id
        for row in active
        if row.topic_id in known and row.version == row.marked_version and row.whole_version <= version
    }
    whole = _topics(tx, [row for row in active if row.topic_id not in marked])
    images = [_sharing(known.get(image.topic_id), image) for image in whole]
    if marked:
        of_topic: dict[UUID, dict[int, PartitionImage]] = defaultdict(dict)
        for topic_id, *row in tx.connection.execute(_CHANGED_PARTITIONS, {"seen": version}):
            if topic_id in marked:
                of_topic[topic_id][row[0]] = _partition(*row)
        images += [known[topic_id].with_partitions(changes) for topic_id, changes in of_topic.items()]
    return images


def _sharing(before: TopicImage | None, after: TopicImage) -> TopicImage:
    """`after`, with the partitions that did not change the same objects as in `before`."""
    if before is None:
        return after
    old = before.partitions
    pairs = enumerate(after.partitions)
    kept = tuple(old[number] if number < len(old) and old[number] == part else part for number, part in pairs)
    return replace(after, partitions=kept)


def topics_by_id(tx: Transaction, topic_ids: Sequence[UUID]) -> dict[UUID, TopicImage]:
    """Those that exist."""
    found: dict[UUID, TopicImage] = {}
    for some in parts(topic_ids):
        rows = tx.connection.execute(_SOME_TOPICS, {"ids": some}).all()
        found.update((image.topic_id, image) for image in _topics(tx, rows))
    return found


def _topics(tx: Transaction, rows: Iterable[AnyRow]) -> list[TopicImage]:
    images = []
    for some in parts(rows):
        of_topic: dict[UUID, list[PartitionImage]] = defaultdict(list)
        for topic_id, *row in tx.connection.execute(_PARTITIONS, {"ids": [one.topic_id for one in some]}):
            of_topic[topic_id].append(_partition(*row))
        names = [one.topic_id.hex for one in some]
        overrides = _grouped(tx.connection.execute(_TOPIC_CONFIGS, {"names": names}))
        images += [
            TopicImage(
                name=one.name,
                topic_id=one.topic_id,
                internal=one.internal,
                partitions=tuple(of_topic[one.topic_id]),
                configs=overrides.get(one.topic_id.hex, MappingProxyType({})),
            )
            for one in some
        ]
    return images


def _partition(
    partition: int,
    stream_id: StreamId,
    replicas: str,
    assigned: NodeId,
    state: int,
    epoch: int,
    owner: NodeId,
    owner_epoch: int,
    tail_node: NodeId | None,
    tail_node_epoch: int,
) -> PartitionImage:
    """In the order of the columns: read by position, a row of many costs half of what it costs by name. What belongs to
    an owner or a tail is NULL where there is none."""
    is_open = state == StreamState.OPEN
    return PartitionImage(
        partition,
        stream_id,
        owner if is_open else NO_LEADER,
        epoch,
        _replicas(replicas),
        assigned,
        owner_epoch if is_open else -1,
        None if tail_node is None else (tail_node, tail_node_epoch),
    )


@lru_cache(REPLICA_LISTS_KEPT)
def _replicas(listed: str) -> tuple[NodeId, ...]:
    return tuple(map(int, listed.split(","))) if listed else ()


def _grouped(rows: Iterable[AnyRow]) -> Mapping[str, Mapping[str, str]]:
    of_name: dict[str, dict[str, str]] = defaultdict(dict)
    for name, key, value in rows:
        of_name[name][key] = value
    return MappingProxyType({name: MappingProxyType(values) for name, values in of_name.items()})


def _nodes(tx: Transaction) -> Mapping[NodeId, NodeImage]:
    images = {}
    for row in tx.connection.execute(_NODES):
        addresses = json.loads(row.addresses)
        host, port = main_address(addresses)
        peers = _split(addresses[PEERS]) if PEERS in addresses else None
        images[row.node_id] = NodeImage(
            row.node_id, row.node_epoch, host, port, row.rack, row.alive, row.draining, peers
        )
    return MappingProxyType(images)


def main_address(addresses: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of the PLAINTEXT listener, else of the first one. Values are `host:port`."""
    return _split(addresses.get("PLAINTEXT") or next(iter(addresses.values()), ":0"))


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
