"""Builds the cluster image from the tables: whole once, then only the topics that changed.

Runs in one snapshot of the database, so that an image is the state at exactly its version. Topics that did not
change keep their object: a reader may compare by identity.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from uuid import UUID

from sqlalchemy import bindparam, select

from metadata import forgetting, proof, takeovers
from metadata.configs import BROKER, TOPIC
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
from s3stream.types import NodeId, StreamState

CONTROLLER_LEASE = "controller"

_CLUSTER = select(cluster.c.cluster_id, cluster.c.image_version, cluster.c.image_floor)
_CHANGED_TOPICS = select(topics.c.topic_id, topics.c.name, topics.c.internal, topics.c.state).where(
    topics.c.version > bindparam("seen")
)
_SOME_TOPICS = select(topics.c.topic_id, topics.c.name, topics.c.internal).where(
    topics.c.topic_id.in_(bindparam("ids", expanding=True))
)
_PARTITIONS = select(
    partitions.c.topic_id, partitions.c.partition, partitions.c.stream_id, partitions.c.replicas,
    partitions.c.assigned, streams.c.state, streams.c.epoch, streams.c.owner_node, streams.c.owner_node_epoch,
    tail_rows.c.node_id.label("tail_node"), tail_rows.c.node_epoch.label("tail_node_epoch"),
).select_from(
    partitions.join(streams, streams.c.stream_id == partitions.c.stream_id)
    .outerjoin(tail_rows, tail_rows.c.stream_id == partitions.c.stream_id)
).where(
    partitions.c.topic_id.in_(bindparam("ids", expanding=True))
).order_by(partitions.c.topic_id, partitions.c.partition)  # fmt: skip
_TOPIC_CONFIGS = select(configs.c.name, configs.c.key, configs.c.value).where(
    configs.c.kind == TOPIC, configs.c.name.in_(bindparam("names", expanding=True))
)
_BROKER_CONFIGS = select(configs.c.name, configs.c.key, configs.c.value).where(configs.c.kind == BROKER)
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
    for topic_row in changed:
        before = by_id.pop(topic_row.topic_id, None)
        if before is not None and by_name.get(before.name) is before:
            del by_name[before.name]
    for image in _topics(tx, [topic_row for topic_row in changed if topic_row.state == TopicState.ACTIVE]):
        by_name[image.name] = by_id[image.topic_id] = image
    controller = tx.connection.execute(_CONTROLLER).scalar_one_or_none()
    return ClusterImage(
        version=row.image_version,
        cluster_id=row.cluster_id,
        topics=MappingProxyType(by_name),
        topics_by_id=MappingProxyType(by_id),
        nodes=_nodes(tx),
        broker_configs=_grouped(tx.connection.execute(_BROKER_CONFIGS)),
        controller=NO_LEADER if controller is None else controller,
        features=MappingProxyType(dict(tx.connection.execute(_FEATURES).all())),
        fenced_wals=tuple(takeovers.fenced_wals(tx)),
        losses=forgetting.losses(tx),
    )


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
        for row in tx.connection.execute(_PARTITIONS, {"ids": [one.topic_id for one in some]}):
            of_topic[row.topic_id].append(_partition(row))
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


def _partition(row: AnyRow) -> PartitionImage:
    is_open = row.state == StreamState.OPEN
    return PartitionImage(
        partition=row.partition,
        stream_id=row.stream_id,
        leader=row.owner_node if is_open else NO_LEADER,
        leader_epoch=row.epoch,
        replicas=tuple(map(int, row.replicas.split(","))) if row.replicas else (),
        assigned=row.assigned,
        owner_epoch=row.owner_node_epoch if is_open else -1,
        tail_owner=None if row.tail_node is None else (row.tail_node, row.tail_node_epoch),
    )


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
