"""What one broker was told, checked and frozen; and what follows from it for a topic.

Owns: the merge of defaults and given settings, defaults that depend on other settings, effective topic configs.
Does not own: which settings exist (`config_def`), files, flags and variables (`cli/sources.py`), dynamic
changes (they lie in the cluster image; `dynamic_config.py` lays them over this).
Invariant: a BrokerConfig that exists is valid.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from brokers.config_def import BROKER_CONFIGS, TOPIC_CONFIGS, ConfigError, Table, Value, validate_broker_groups
from brokers.config_def.broker import RACK_AWARE
from brokers.config_def.ponor import HEARTBEATS_PER_LEASE_MIN, MEMORY_BYTES_DEFAULT_MAX, MEMORY_BYTES_MIN
from brokers.partitions.log_config import LogConfig
from s3stream.errors import BadSetting
from s3stream.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One listener. `port` 0 asks the system for a free one."""

    name: str
    host: str
    port: int

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.name}://{self.address}"


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Fields are settings by their Kafka names, dots as underscores; `ponor.` is left out."""

    values: Mapping[str, Value]
    """Every setting, parsed, defaults filled in."""
    given: Mapping[str, str]
    """Only what the operator set, as text (STATIC_BROKER_CONFIG in DescribeConfigs)."""

    node_id: int
    broker_rack: str | None
    replica_selector_class: str | None
    listener: Endpoint
    advertised: Endpoint
    http_host: str
    http_port: int
    peers_port: int

    data_dir: Path
    object_store_url: str
    wal_url: str
    metadata_url: str
    memory_bytes: int
    wal_bytes_max: int
    wal_linger_ms: int
    wal_puts_per_second_max: int
    lease_ms: int
    heartbeat_ms: int
    balancer_enable: bool
    balancer_moves_max: int
    read_replica_lag_bytes: int
    drain_timeout_ms: int
    log_level: str
    log_format: str
    engine: EngineSettings

    auto_create_topics_enable: bool
    num_partitions: int
    default_replication_factor: int
    delete_topic_enable: bool
    max_request_partition_size_limit: int
    log_retention_check_interval_ms: int
    producer_id_expiration_ms: int

    socket_request_max_bytes: int
    socket_listen_backlog_size: int
    max_connections: int
    connections_max_idle_ms: int
    fetch_max_bytes: int
    max_incremental_fetch_session_cache_slots: int

    group_initial_rebalance_delay_ms: int
    group_max_session_timeout_ms: int
    group_min_session_timeout_ms: int
    group_max_size: int
    group_coordinator_rebalance_protocols: tuple[str, ...]
    group_consumer_session_timeout_ms: int
    group_consumer_heartbeat_interval_ms: int
    group_consumer_assignment_interval_ms: int
    group_consumer_max_size: int
    group_consumer_assignors: tuple[str, ...]
    group_consumer_migration_policy: str
    group_consumer_regex_refresh_interval_ms: int
    offset_metadata_max_bytes: int
    offsets_commit_timeout_ms: int
    offsets_retention_minutes: int
    offsets_retention_check_interval_ms: int
    offsets_topic_num_partitions: int
    offsets_topic_replication_factor: int

    transaction_state_log_num_partitions: int
    transaction_state_log_replication_factor: int
    transaction_max_timeout_ms: int
    transactional_id_expiration_ms: int
    transaction_abort_timed_out_transaction_cleanup_interval_ms: int
    transaction_remove_expired_transaction_cleanup_interval_ms: int
    add_partitions_to_txn_retry_backoff_ms: int
    add_partitions_to_txn_retry_backoff_max_ms: int

    share_coordinator_state_topic_num_partitions: int
    share_coordinator_state_topic_replication_factor: int
    share_coordinator_snapshot_update_records_per_snapshot: int
    share_coordinator_write_timeout_ms: int
    group_share_delivery_count_limit: int
    group_share_session_timeout_ms: int
    group_share_heartbeat_interval_ms: int
    group_share_assignment_interval_ms: int
    group_share_max_size: int
    group_share_initialize_retry_interval_ms: int
    group_share_partition_max_record_locks: int
    group_share_record_lock_duration_ms: int
    group_share_max_share_sessions: int

    group_streams_session_timeout_ms: int
    group_streams_heartbeat_interval_ms: int
    group_streams_assignment_interval_ms: int
    group_streams_max_size: int
    group_streams_num_standby_replicas: int
    group_streams_initial_rebalance_delay_ms: int

    @property
    def rack_aware(self) -> bool:
        """Whether consumers are sent to brokers of their racks."""
        return self.replica_selector_class == RACK_AWARE

    @property
    def broker_dir(self) -> Path:
        """This broker's own folder: identity, pid, and the WAL when it is left at its default."""
        return self.data_dir / f"broker-{self.node_id}"


def broker_config(settings: Mapping[str, str] | None = None) -> BrokerConfig:
    """The configuration that `settings` (names and texts) make. Raises BadSetting, naming the setting."""
    given = dict(settings or {})
    values = _parse(given, BROKER_CONFIGS)
    node_id = values["broker.id"] if "node.id" not in given and "broker.id" in given else values["node.id"]
    assert isinstance(node_id, int)
    values["node.id"] = values["broker.id"] = node_id
    data_dir = Path(str(values["ponor.data.dir"])).absolute()
    broker_dir = data_dir / f"broker-{node_id}"
    values["ponor.data.dir"] = str(data_dir)
    _default(values, "ponor.object.store.url", f"file://{data_dir}/objects")
    _default(values, "ponor.wal.url", f"file://{broker_dir}/wal")
    _default(values, "ponor.metadata.url", f"sqlite:///{data_dir}/metadata.db")
    _default(values, "ponor.memory.bytes", default_memory_bytes())
    _check_lease(values)
    _check_groups(values)
    listener, advertised = _endpoints(values)
    return BrokerConfig(
        values=MappingProxyType(values),
        given=MappingProxyType(given),
        listener=listener,
        advertised=advertised,
        data_dir=data_dir,
        engine=_engine_settings(values),
        **{field: values[name] for field, name in _PLAIN.items()},  # type: ignore[arg-type]
    )


_COMPUTED = {"values", "given", "listener", "advertised", "data_dir", "engine"}
_PLAIN: Mapping[str, str] = {
    field: name
    for field in BrokerConfig.__dataclass_fields__
    if field not in _COMPUTED
    for name in (field.replace("_", "."), "ponor." + field.replace("_", "."))
    if name in BROKER_CONFIGS
}
"""Field → setting, for fields that are one setting's value."""
assert len(_PLAIN) + len(_COMPUTED) == len(BrokerConfig.__dataclass_fields__)


def _parse(given: Mapping[str, str], table: Table) -> dict[str, Value]:
    values = {name: key.default for name, key in table.items()}
    for name, text in given.items():
        if name not in table:
            raise BadSetting(unknown_setting(name, table))
        try:
            values[name] = table[name].parse(text)
        except ConfigError as error:
            raise BadSetting(f"{error}. {table[name].doc}") from None
    return values


def unknown_setting(name: str, table: Table) -> str:
    """The line for a setting that does not exist, with the nearest that does."""
    from difflib import get_close_matches  # only on this path: importing it costs start-up time

    near = get_close_matches(name, table, n=1, cutoff=0.0)
    return f"unknown setting {name!r}: the nearest is {near[0]!r}; docs/CONFIGURATION.md lists them all"


def _default(values: dict[str, Value], name: str, value: Value) -> None:
    if values[name] is None:
        values[name] = value


def _check_lease(values: Mapping[str, Any]) -> None:
    lease_ms, heartbeat_ms = values["ponor.lease.ms"], values["ponor.heartbeat.ms"]
    if lease_ms < HEARTBEATS_PER_LEASE_MIN * heartbeat_ms:
        raise BadSetting(
            f"ponor.lease.ms ({lease_ms}) must be at least {HEARTBEATS_PER_LEASE_MIN} times ponor.heartbeat.ms "
            f"({heartbeat_ms}): one late heartbeat must not be a death"
        )


def _check_groups(values: Mapping[str, Any]) -> None:
    try:
        validate_broker_groups(values)
    except ConfigError as error:
        raise BadSetting(str(error)) from None


def default_memory_bytes(brokers: int = 1) -> int:
    """`brokers`: how many share this machine."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(MEMORY_BYTES_MIN, min(machine // 4, MEMORY_BYTES_DEFAULT_MAX) // brokers)


def _endpoints(values: dict[str, Value]) -> tuple[Endpoint, Endpoint]:
    listener = _endpoint("listeners", values["listeners"])
    if values["advertised.listeners"] is not None:
        return listener, _endpoint("advertised.listeners", values["advertised.listeners"])
    if listener.host in ("", "0.0.0.0", "::"):
        import socket

        return listener, Endpoint(listener.name, socket.gethostname(), listener.port)
    return listener, listener


def _endpoint(setting: str, value: Value) -> Endpoint:
    assert isinstance(value, tuple)
    if len(value) != 1:
        raise BadSetting(f"{setting}: give exactly one listener, not {len(value)} ({', '.join(value)})")
    name, separator, address = value[0].partition("://")
    host, colon, port = address.rpartition(":")
    if not separator or not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise BadSetting(f"{setting}: {value[0]!r} is not of the form PLAINTEXT://host:port")
    if name != "PLAINTEXT":
        raise BadSetting(f"{setting}: listener {name!r} is not PLAINTEXT; this release serves no other protocol")
    return Endpoint(name, host.removeprefix("[").removesuffix("]"), int(port))


def _engine_settings(values: Mapping[str, Any]) -> EngineSettings:
    object_bytes_max = values["ponor.object.bytes.max"]
    stream_object_bytes = values["ponor.stream.object.bytes"]
    if stream_object_bytes > object_bytes_max:
        raise BadSetting(
            f"ponor.stream.object.bytes ({stream_object_bytes}) must not be above ponor.object.bytes.max "
            f"({object_bytes_max})"
        )
    return EngineSettings(
        flush_bytes=values["ponor.flush.bytes"],
        flush_interval_ms=values["ponor.flush.interval.ms"],
        stream_object_bytes=stream_object_bytes,
        object_bytes_max=object_bytes_max,
        block_bytes=values["ponor.block.bytes"],
        block_compression=values["ponor.block.compression"] == "zstd",
        object_delete_grace_ms=values["ponor.object.delete.grace.ms"],
        collect_interval_ms=values["ponor.collect.interval.ms"],
    )


def topic_defaults(values: Mapping[str, Value]) -> dict[str, Value]:
    """What a topic without configs of its own gets from these broker settings, by topic config name."""
    return {name: _topic_default(name, values) for name in TOPIC_CONFIGS}


def _topic_default(name: str, values: Mapping[str, Value]) -> Value:
    key = TOPIC_CONFIGS[name]
    for synonym, factor in key.synonyms:
        value = values[synonym]
        if value is None:
            continue
        if factor != 1 and isinstance(value, int):
            # log.retention.hours=-1 means for ever, not minus an hour.
            return value * factor if value >= 0 else -1
        return value
    return key.default


def log_config(configs: Mapping[str, str], defaults: Mapping[str, Value]) -> LogConfig:
    """The effective configuration of a topic with these configs of its own.

    `defaults` is what `topic_defaults` returned. A stored value that no longer parses (an older release took
    it) falls back to the default: one bad topic must not keep a broker from starting.
    """
    effective = dict(defaults)
    for name, text in configs.items():
        key = TOPIC_CONFIGS.get(name)
        if key is None:
            continue
        try:
            effective[name] = key.parse(text)
        except ConfigError:
            continue
    return LogConfig(**{field: effective[name] for field, name in _LOG_FIELDS.items()})  # type: ignore[arg-type]


_LOG_FIELDS: Mapping[str, str] = {
    field: field.replace("_", ".") for field, spec in LogConfig.__dataclass_fields__.items() if spec.init
}
assert all(name in TOPIC_CONFIGS for name in _LOG_FIELDS.values())
