"""What the transaction coordinator and its handlers say to each other."""

from __future__ import annotations

from typing import NamedTuple

from kio.schema.errors import ErrorCode

from brokers.transactions.records import TopicPartition


class Marker(NamedTuple):
    """The end of one transaction, for the partitions that one broker leads."""

    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    commit: bool
    transaction_version: int
    partitions: tuple[TopicPartition, ...]


class ProducerAnswer(NamedTuple):
    """Who the producer is from now on."""

    producer_id: int
    producer_epoch: int


class TransactionDescription(NamedTuple):
    transactional_id: str
    error: ErrorCode
    state: str = ""
    timeout_ms: int = 0
    start_ms: int = 0
    producer_id: int = 0
    producer_epoch: int = 0
    partitions: tuple[TopicPartition, ...] = ()


class TransactionListing(NamedTuple):
    transactional_id: str
    producer_id: int
    state: str


class ListFilter(NamedTuple):
    """What ListTransactions asks for; an empty part asks for everything."""

    states: frozenset[str] = frozenset()
    producer_ids: frozenset[int] = frozenset()
    duration_ms: int = -1
    """At least so long since the start; negative: however long."""
    pattern: str | None = None
    """A regular expression for the whole transactional id."""
