"""What a partition log may be told: a topic's effective configuration, parsed and frozen.

Owns: what the configs mean for an append (`plain`, `codec`). Does not own: parsing and defaults of the broker.
Instances are equal when their configs are, so that topics with the same configs can share one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from brokers.records.batch import Compression

NO_BOUND = 9_223_372_036_854_775_807
_CODECS = {
    "producer": None,
    "uncompressed": Compression.NONE,
    "gzip": Compression.GZIP,
    "snappy": Compression.SNAPPY,
    "lz4": Compression.LZ4,
    "zstd": Compression.ZSTD,
}


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Effective topic configs (topic override, else broker default). Names are Kafka's, dots as underscores.

    Defaults are Kafka 4.3's.
    """

    cleanup_policy: tuple[str, ...] = ("delete",)
    compression_type: str = "producer"
    compression_gzip_level: int = -1
    compression_lz4_level: int = 9
    compression_zstd_level: int = 3
    max_message_bytes: int = 1_048_588
    message_timestamp_type: str = "CreateTime"
    """CreateTime or LogAppendTime."""
    message_timestamp_before_max_ms: int = NO_BOUND
    message_timestamp_after_max_ms: int = 3_600_000
    retention_ms: int = 604_800_000
    """-1: no limit."""
    retention_bytes: int = -1
    delete_retention_ms: int = 86_400_000
    min_compaction_lag_ms: int = 0
    max_compaction_lag_ms: int = NO_BOUND
    min_cleanable_dirty_ratio: float = 0.5
    min_insync_replicas: int = 1
    segment_bytes: int = 1_073_741_824
    segment_ms: int = 604_800_000

    codec: Compression | None = field(init=False, compare=False, repr=False)
    """The codec batches are stored in; None: the producer's."""
    log_append_time: bool = field(init=False, compare=False, repr=False)
    plain: bool = field(init=False, compare=False, repr=False)
    """A batch's header alone decides about it: no record is looked at, no byte inside its checksum changes."""

    plain_bytes_max: int = field(init=False, compare=False, repr=False)
    """Largest batch that may be stored as it is; 0 when none may."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "codec", _CODECS[self.compression_type])
        object.__setattr__(self, "log_append_time", self.message_timestamp_type == "LogAppendTime")
        plain = (
            not self.compacted
            and not self.log_append_time
            and self.codec is None
            and self.message_timestamp_before_max_ms == NO_BOUND
        )
        object.__setattr__(self, "plain", plain)
        bound = min(self.max_message_bytes, self.segment_bytes)
        object.__setattr__(self, "plain_bytes_max", bound if plain else 0)

    @property
    def compacted(self) -> bool:
        return "compact" in self.cleanup_policy

    @property
    def deletes(self) -> bool:
        return "delete" in self.cleanup_policy

    def compression_level(self) -> int | None:
        """Of `codec`; None where the codec has no levels."""
        if self.codec is Compression.GZIP:
            return self.compression_gzip_level
        if self.codec is Compression.LZ4:
            return self.compression_lz4_level
        if self.codec is Compression.ZSTD:
            return self.compression_zstd_level
        return None
