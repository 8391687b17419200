"""What the partitions of a broker can be told, besides each topic's configs. Kafka's broker configs, its defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PartitionSettings:
    retention_check_interval_ms: int = 300_000
    """log.retention.check.interval.ms"""
    producer_id_expiration_ms: int = 86_400_000
    """producer.id.expiration.ms"""
    producer_id_expiration_check_interval_ms: int = 600_000
    """producer.id.expiration.check.interval.ms"""
    open_retry_ms: int = 1_000
    """Between attempts at partitions that could not be opened."""
