"""Topic configs: all that Kafka 4.3 knows, with what each does here.

A topic config that is not set on the topic takes the broker's value (`synonyms`), dynamic ones included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from brokers.config_def.types import (
    INT_MAX,
    LONG_MAX,
    Between,
    ConfigError,
    ConfigKey,
    ConfigType,
    ListOf,
    OneOf,
    Table,
    Value,
    at_least,
    invalid,
    table,
)

BOOLEAN, STRING, INT = ConfigType.BOOLEAN, ConfigType.STRING, ConfigType.INT
LONG, DOUBLE, LIST = ConfigType.LONG, ConfigType.DOUBLE, ConfigType.LIST

HOUR_MS: Final = 60 * 60 * 1000
MINUTE_MS: Final = 60 * 1000
MAX_MESSAGE_BYTES: Final = 1024 * 1024 + 12
"""1 MiB and the log overhead (offset and size) of one batch."""

NO_SEGMENTS: Final = "there are no segment files; objects are cut by the flusher's own sizes."
NO_REPLICATION: Final = "durability comes from the write-ahead log and object storage, not from copies on brokers."
NO_TIERING: Final = "every record lies in object storage from the start."

COMPRESSIONS: Final = ("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer")
POLICIES: Final = ("compact", "delete")
TIMESTAMP_TYPES: Final = ("CreateTime", "LogAppendTime")


class GzipLevel:
    """1 to 9, or -1 for zlib's own choice."""

    def __call__(self, name: str, value: Value) -> None:
        if not isinstance(value, int) or not (value == -1 or 1 <= value <= 9):
            raise invalid(name, value, "Value must be between 1 and 9 or equal to -1")

    def __str__(self) -> str:
        return "[1,...,9] or -1"


class ThrottledReplicas:
    def __call__(self, name: str, value: Value) -> None:
        assert isinstance(value, tuple)
        pairs = all(re.fullmatch(r"([0-9]+:[0-9]+)?", entry, re.ASCII) for entry in value)
        if not pairs and "".join(value) != "*":
            raise invalid(
                name,
                f"[{', '.join(value)}]",
                f"{name} must be the literal '*' or a list of replicas in the following format: {self}",
            )

    def __str__(self) -> str:
        return "[partitionId]:[brokerId],[partitionId]:[brokerId],..."


def _log(name: str) -> tuple[tuple[str, int], ...]:
    return ((f"log.{name}", 1),)


def _same(name: str) -> tuple[tuple[str, int], ...]:
    return ((name, 1),)


TOPIC_CONFIGS: Final[Table] = table(
    ConfigKey("cleanup.policy", LIST, ("delete",),
              "What happens to old records: `delete` drops them by retention time and size, `compact` demands a key in "
              "every record and keeps the newest one of each key. Empty: nothing is ever removed.",
              ListOf(POLICIES), synonyms=_log("cleanup.policy")),
    ConfigKey("compression.type", STRING, "producer",
              "Compression of this topic's record batches. `producer` keeps what the producer chose; anything else "
              "makes the broker recompress every batch that differs.",
              OneOf(COMPRESSIONS), synonyms=_same("compression.type")),
    ConfigKey("compression.gzip.level", INT, -1, "Level when compression.type is gzip; -1 is the library's own.",
              GzipLevel(), synonyms=_same("compression.gzip.level")),
    ConfigKey("compression.lz4.level", INT, 9, "Level when compression.type is lz4.",
              Between(1, 17), synonyms=_same("compression.lz4.level")),
    ConfigKey("compression.zstd.level", INT, 3, "Level when compression.type is zstd.",
              Between(-131072, 22), synonyms=_same("compression.zstd.level")),
    ConfigKey("delete.retention.ms", LONG, 24 * HOUR_MS,
              "How long a tombstone of a compacted topic stays readable.",
              at_least(0), synonyms=(("log.cleaner.delete.retention.ms", 1),)),
    ConfigKey("file.delete.delay.ms", LONG, MINUTE_MS, "Delay between dropping a segment and deleting its file.",
              at_least(0), synonyms=_log("segment.delete.delay.ms"),
              inert="freed objects are deleted after ponor.object.delete.grace.ms."),
    ConfigKey("flush.messages", LONG, LONG_MAX, "Records after which a log is forced to disk.",
              at_least(1), synonyms=_log("flush.interval.messages"),
              inert="every acknowledged batch is on stable storage already."),
    ConfigKey("flush.ms", LONG, LONG_MAX, "Time after which a log is forced to disk.",
              at_least(0), synonyms=(("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)),
              inert="every acknowledged batch is on stable storage already."),
    ConfigKey("follower.replication.throttled.replicas", LIST, (),
              "Replicas whose follower side is throttled during reassignment.",
              ThrottledReplicas(), inert=NO_REPLICATION),
    ConfigKey("index.interval.bytes", INT, 4096, "Bytes between two entries of the offset index.",
              at_least(0), synonyms=_log("index.interval.bytes"), inert=NO_SEGMENTS),
    ConfigKey("leader.replication.throttled.replicas", LIST, (),
              "Replicas whose leader side is throttled during reassignment.",
              ThrottledReplicas(), inert=NO_REPLICATION),
    ConfigKey("local.retention.bytes", LONG, -2, "Bytes kept locally with tiered storage; -2: as retention.bytes.",
              at_least(-2), synonyms=_log("local.retention.bytes"), inert=NO_TIERING),
    ConfigKey("local.retention.ms", LONG, -2, "Time records are kept locally with tiered storage; -2: as retention.ms.",
              at_least(-2), synonyms=_log("local.retention.ms"), inert=NO_TIERING),
    ConfigKey("max.compaction.lag.ms", LONG, LONG_MAX, "Longest time a record may escape compaction.",
              at_least(1), synonyms=(("log.cleaner.max.compaction.lag.ms", 1),)),
    ConfigKey("max.message.bytes", INT, MAX_MESSAGE_BYTES,
              "Largest record batch that is accepted, after compression, in bytes.",
              at_least(0), synonyms=_same("message.max.bytes")),
    ConfigKey("message.timestamp.after.max.ms", LONG, HOUR_MS,
              "How far a record's CreateTime may lie ahead of the broker's clock.",
              at_least(0), synonyms=_log("message.timestamp.after.max.ms")),
    ConfigKey("message.timestamp.before.max.ms", LONG, LONG_MAX,
              "How far a record's CreateTime may lie behind the broker's clock.",
              at_least(0), synonyms=_log("message.timestamp.before.max.ms")),
    ConfigKey("message.timestamp.type", STRING, "CreateTime",
              "Whether a record carries its producer's time or the time of its append.",
              OneOf(TIMESTAMP_TYPES), synonyms=_log("message.timestamp.type")),
    ConfigKey("min.cleanable.dirty.ratio", DOUBLE, 0.5, "Share of uncompacted bytes from which a log is compacted.",
              Between(0, 1), synonyms=(("log.cleaner.min.cleanable.ratio", 1),)),
    ConfigKey("min.compaction.lag.ms", LONG, 0, "Shortest time a record escapes compaction.",
              at_least(0), synonyms=(("log.cleaner.min.compaction.lag.ms", 1),)),
    ConfigKey("min.insync.replicas", INT, 1, "In-sync replicas that acks=all asks for.",
              at_least(1), synonyms=_same("min.insync.replicas"), inert=NO_REPLICATION),
    ConfigKey("preallocate", BOOLEAN, False, "Preallocate segment files.",
              synonyms=_log("preallocate"), inert=NO_SEGMENTS),
    ConfigKey("remote.log.copy.disable", BOOLEAN, False, "Stop copying to tiered storage.", inert=NO_TIERING),
    ConfigKey("remote.log.delete.on.disable", BOOLEAN, False,
              "Delete tiered records when tiering is turned off.", inert=NO_TIERING),
    ConfigKey("remote.storage.enable", BOOLEAN, False, "Tiered storage. Cannot be turned on.", inert=NO_TIERING),
    ConfigKey("retention.bytes", LONG, -1, "Bytes a partition keeps before its oldest records go; -1: no limit.",
              synonyms=_log("retention.bytes")),
    ConfigKey("retention.ms", LONG, 7 * 24 * HOUR_MS, "How long records are kept; -1: for ever.",
              at_least(-1), synonyms=(("log.retention.ms", 1), ("log.retention.minutes", MINUTE_MS),
                                      ("log.retention.hours", HOUR_MS))),
    ConfigKey("segment.bytes", INT, 1024 * 1024 * 1024, "Size of a segment file.",
              at_least(1024 * 1024), synonyms=_log("segment.bytes"), inert=NO_SEGMENTS),
    ConfigKey("segment.index.bytes", INT, 10 * 1024 * 1024, "Size of a segment's offset index.",
              at_least(4), synonyms=_log("index.size.max.bytes"), inert=NO_SEGMENTS),
    ConfigKey("segment.jitter.ms", LONG, 0, "Random delay of rolling a segment.",
              at_least(0), synonyms=(("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR_MS)),
              inert=NO_SEGMENTS),
    ConfigKey("segment.ms", LONG, 7 * 24 * HOUR_MS, "Age at which a segment is rolled.",
              at_least(1), synonyms=(("log.roll.ms", 1), ("log.roll.hours", HOUR_MS)), inert=NO_SEGMENTS),
    ConfigKey("unclean.leader.election.enable", BOOLEAN, False,
              "Whether a replica that may have lost records can lead.",
              synonyms=_same("unclean.leader.election.enable"), inert=NO_REPLICATION),
)  # fmt: skip
assert MAX_MESSAGE_BYTES < INT_MAX


def validate_topic_configs(configs: Mapping[str, str], defaults: Mapping[str, Value]) -> None:
    """Check the configs set on one topic, alone and together with the broker's `defaults` (topic config names).

    Raises ConfigError in Kafka's words.
    """
    effective = dict(defaults)
    for name in configs:
        if name not in TOPIC_CONFIGS:
            raise ConfigError(f"Unknown topic config name: {name}")
    for name, text in configs.items():
        effective[name] = TOPIC_CONFIGS[name].parse(text)
    low, high = effective["min.compaction.lag.ms"], effective["max.compaction.lag.ms"]
    assert isinstance(low, int) and isinstance(high, int)
    if low > high:
        raise ConfigError(
            f"conflict topic config setting min.compaction.lag.ms ({low}) > max.compaction.lag.ms ({high})"
        )
    if effective["remote.storage.enable"]:
        raise ConfigError(
            "Tiered Storage functionality is disabled in the broker. "
            "Topic cannot be configured with remote log storage."
        )
