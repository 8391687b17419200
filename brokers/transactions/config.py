"""What the transaction coordinator can be told. Frozen; made from Kafka's broker configs (named beside each)."""

from __future__ import annotations

from dataclasses import dataclass

TRANSACTIONS_TOPIC = "__transaction_state"


@dataclass(frozen=True, slots=True)
class TransactionConfig:
    topic_partitions: int = 50
    """transaction.state.log.num.partitions: counts only until the topic exists."""
    timeout_max_ms: int = 900_000
    """transaction.max.timeout.ms"""
    id_expiration_ms: int = 7 * 24 * 60 * 60_000
    """transactional.id.expiration.ms"""
    abort_interval_ms: int = 10_000
    """transaction.abort.timed.out.transaction.cleanup.interval.ms"""
    expire_interval_ms: int = 3_600_000
    """transaction.remove.expired.transaction.cleanup.interval.ms"""
    write_timeout_ms: int = 30_000
    """As long as producers wait for an answer: a client hears of a write that is not durable by then as failed."""
