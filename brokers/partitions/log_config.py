"""What a partition log may be told: a topic's effective configuration, parsed and frozen."""

from __future__ import annotations

from dataclasses import dataclass


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
    message_timestamp_before_max_ms: int = 9_223_372_036_854_775_807
    message_timestamp_after_max_ms: int = 3_600_000
    retention_ms: int = 604_800_000
    """-1: no limit."""
    retention_bytes: int = -1
    delete_retention_ms: int = 86_400_000
    min_compaction_lag_ms: int = 0
    min_insync_replicas: int = 1
    segment_bytes: int = 1_073_741_824
    segment_ms: int = 604_800_000

    @property
    def compacted(self) -> bool:
        return "compact" in self.cleanup_policy

    @property
    def deletes(self) -> bool:
        return "delete" in self.cleanup_policy
