"""Log compaction, wired: what the cleaner and its worker are told of a broker's settings, which may change any time."""

from __future__ import annotations

from collections.abc import Callable

from brokers.compaction.log_cleaner import CleanerSettings, LogCleaner
from brokers.compaction.messages import Hello
from brokers.config import BrokerConfig
from brokers.dynamic_config import ConfigSource
from brokers.outside import Outside
from brokers.partitions.manager import PartitionManager
from s3stream.metrics import Metrics
from s3stream.seams import Clock, ObjectStore
from s3stream.storage import Storage
from s3stream.tasks import Tasks
from s3stream.types import NodeIdentity


def make_log_cleaner(
    configs: ConfigSource,
    outside: Outside,
    objects: ObjectStore,
    partitions: PartitionManager,
    storage: Storage,
    identity: Callable[[], NodeIdentity],
    clock: Clock,
    tasks: Tasks,
    metrics: Metrics,
) -> LogCleaner:
    config = configs.static
    return LogCleaner(
        partitions.logs,
        storage,
        lambda: identity().incarnation,
        outside.compaction_worker(_hello(config), objects, config.engine),
        lambda: _settings(configs),
        clock,
        tasks,
        metrics,
    )


def _hello(config: BrokerConfig) -> Hello:
    engine = config.engine
    return Hello(
        config.object_store_url, engine.block_bytes, engine.block_compression, config.log_level, config.log_format
    )


def _settings(configs: ConfigSource) -> CleanerSettings:
    values = configs.broker_values()
    threads, map_bytes, backoff_ms = (
        values["log.cleaner.threads"], values["log.cleaner.dedupe.buffer.size"], values["log.cleaner.backoff.ms"],
    )  # fmt: skip
    load_factor, bytes_per_second = (
        values["log.cleaner.io.buffer.load.factor"], values["log.cleaner.io.max.bytes.per.second"],
    )  # fmt: skip
    assert isinstance(threads, int) and isinstance(map_bytes, int) and isinstance(backoff_ms, int)
    assert isinstance(load_factor, float | int) and isinstance(bytes_per_second, float | int)
    enabled = bool(values["log.cleaner.enable"]) and threads > 0
    return CleanerSettings(enabled, map_bytes, float(load_factor), float(bytes_per_second), backoff_ms)
