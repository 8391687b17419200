"""Dynamic configs: what was set on a topic, a broker, all brokers, a group or a client metrics subscription.

Values are text, not judged here.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import bindparam, delete, insert, select

from metadata import cluster, touch
from metadata.engine import Transaction
from metadata.schema import configs, features, topics
from s3stream.errors import NotFound

TOPIC, BROKER, GROUP, CLIENT_METRICS = "topic", "broker", "group", "client-metrics"
KINDS = (TOPIC, BROKER, GROUP, CLIENT_METRICS)

_OF = (configs.c.kind == bindparam("of_kind")) & (configs.c.name == bindparam("of_name"))
_READ = select(configs.c.key, configs.c.value).where(_OF)
_ALL = select(configs.c.name, configs.c.key, configs.c.value).where(configs.c.kind == bindparam("of_kind"))
_DROP = delete(configs).where(_OF, configs.c.key.in_(bindparam("keys", expanding=True)))
_TOPIC_BY_NAME = select(topics.c.topic_id).where(topics.c.name == bindparam("name"))


def alter(tx: Transaction, kind: str, name: str, changes: Mapping[str, str | None]) -> None:
    """Set each key, or remove it where the value is None. Raises NotFound for a topic that does not exist.

    `name` is a topic's name, a node id as text (or CLUSTER_DEFAULT), a group id or a subscription's name.
    """
    assert kind in KINDS, kind
    version = cluster.bump_version(tx)
    if kind == TOPIC:
        topic_id = tx.connection.execute(_TOPIC_BY_NAME, {"name": name}).scalar_one_or_none()
        if topic_id is None:
            raise NotFound(f"topic {name!r} does not exist")
        touch.topics(tx, [topic_id], version)
        # By id: a topic of the same name, made later, inherits nothing.
        name = topic_id.hex
    if changes:
        tx.connection.execute(_DROP, {"of_kind": kind, "of_name": name, "keys": list(changes)})
    rows = [
        {"kind": kind, "name": name, "key": key, "value": value} for key, value in changes.items() if value is not None
    ]
    if rows:
        tx.connection.execute(insert(configs), rows)


def read(tx: Transaction, kind: str, name: str) -> dict[str, str]:
    """What was set on a resource that is no topic (a topic's configs are in its image)."""
    assert kind in KINDS and kind != TOPIC, kind
    return dict(tx.connection.execute(_READ, {"of_kind": kind, "of_name": name}).all())


def by_name(tx: Transaction, kind: str) -> dict[str, dict[str, str]]:
    """What was set on every resource of a kind that is not topic, by its name."""
    assert kind in KINDS and kind != TOPIC, kind
    found: dict[str, dict[str, str]] = {}
    for name, key, value in tx.connection.execute(_ALL, {"of_kind": kind}):
        found.setdefault(name, {})[key] = value
    return found


def update_features(tx: Transaction, changes: Mapping[str, int | None]) -> None:
    """Finalize each feature at its level, or remove it where the level is None."""
    cluster.bump_version(tx)
    tx.connection.execute(delete(features).where(features.c.name.in_(list(changes))))
    rows = [{"name": name, "level": level} for name, level in changes.items() if level is not None]
    if rows:
        tx.connection.execute(insert(features), rows)
