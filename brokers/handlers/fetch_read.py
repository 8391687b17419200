"""One partition's share of a Fetch: what Kafka checks before a read, and the batches read so far.

The partition is led here, or read here for a consumer of this broker's rack (KIP-392).

Owns: the error or the buffers of one partition. Does not own: limits of the request, waiting (`fetch.py`).
Invariant: buffers hold whole batches, in offset order, each at or above the fetch offset's batch and below the
high watermark (last stable offset) of the moment they were read.
"""

from __future__ import annotations

from typing import Final, Protocol
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers.services import Services
from brokers.handlers.topic_view import can_read, clients_replicas, racks_of, shown_replicas
from brokers.partitions.followed import FollowedLog
from brokers.partitions.partition_log import READ_COMMITTED, PartitionLog
from brokers.partitions.producer_state import AbortedTransaction
from brokers.partitions.successors import Place
from brokers.protocol.fetch_codec import FetchPartition, PartitionAnswer
from metadata.image import TopicImage
from s3stream.types import Buffer, ReadResult

UNDEFINED: Final = -1
CONSUMER: Final = -1
"""The replica id of who is no broker."""
FOLLOWERS: Final = 11
"""First version whose consumers may read from who does not lead."""


class HasEpochs(Protocol):
    leader_epoch: int


class PartitionRead:
    __slots__ = (
        "aborted", "asked", "buffers", "diverging_epoch", "error", "isolation", "log", "next_offset", "preferred",
        "size", "waiter",
    )  # fmt: skip

    def __init__(self, asked: FetchPartition, isolation: int) -> None:
        self.asked = asked
        self.isolation = isolation
        self.log: PartitionLog | FollowedLog | None = None
        self.preferred = UNDEFINED
        """The broker that the consumer is to read from instead."""
        self.aborted: list[AbortedTransaction] = []
        self.error = ErrorCode.none
        self.diverging_epoch: tuple[int, int] | None = None
        self.buffers: list[Buffer] = []
        self.size = 0
        self.next_offset = asked.fetch_offset
        self.waiter = 0
        """Handle at the log, 0: none."""

    @property
    def open(self) -> bool:
        """Neither failed, diverged nor sent elsewhere: more may be read."""
        return self.log is not None and not self.error and self.diverging_epoch is None and self.preferred < 0

    @property
    def followed(self) -> bool:
        """Read from shared storage, for another broker leads: nothing is appended that one could wait for."""
        return isinstance(self.log, FollowedLog)

    def find(self, services: Services, follows: bool) -> bool:
        """Look the log up. False where Kafka does not count the partition as fetched at all: an unknown topic.
        `follows`: who asks may read where another broker leads."""
        try:
            topic = self._topic(services)
            asked = self.asked
            if topic is None or not 0 <= asked.partition < len(topic.partitions):
                raise KafkaError(ErrorCode.unknown_topic_or_partition)
        except KafkaError as error:
            self.error = error.code
            return False
        try:
            if topic.topic_id != asked.topic and isinstance(asked.topic, UUID):
                raise KafkaError(ErrorCode.inconsistent_topic_id)
            self.log = services.partitions.log_by_id(topic.topic_id, asked.partition)
        except KafkaError as error:
            if follows and error.code is ErrorCode.not_leader_or_follower:
                self.log = followed_log(services, topic, asked.partition)
            if self.log is None:
                self.error = error.code
        return True

    def _topic(self, services: Services) -> TopicImage | None:
        """By id where the version has ids. A session remembers the name: then a topic that is gone, or made anew
        under its name, is told apart from an id never known here."""
        image, asked = services.partitions.image, self.asked
        if isinstance(asked.topic, UUID):
            found = image.topics_by_id.get(asked.topic)
            if found is not None:
                asked.name = found.name
                return found
            if asked.name is None:
                raise KafkaError(ErrorCode.unknown_topic_id)
        return None if asked.name is None else image.topics.get(asked.name)

    def check(self, replica_id: int, limit: int) -> None:
        """What is refused or answered before any record is read. `limit`: the request's max_bytes as it was sent."""
        log, asked = self.log, self.asked
        if log is None:
            return
        try:
            if limit < 0 or asked.max_bytes < 0:
                raise KafkaError(ErrorCode.unknown_server_error)
            check_leader_epoch(log, asked.current_leader_epoch)
            if replica_id > CONSUMER:  # nobody replicates from us: no replica is a valid one
                known = asked.current_leader_epoch != UNDEFINED
                raise KafkaError(ErrorCode.unknown_leader_epoch if known else ErrorCode.not_leader_or_follower)
            if asked.last_fetched_epoch != UNDEFINED:
                self._check_last_fetched_epoch(log)
        except KafkaError as error:
            self.error = error.code

    def refer(self, services: Services, connection_id: int, rack: str) -> None:
        """Send the consumer to a broker of its rack, where that is worth it."""
        log, readers = self.log, services.read_replicas
        if readers is not None and isinstance(log, PartitionLog):
            self.preferred = readers.choose(
                connection_id, rack, log, self.asked.fetch_offset, self.isolation, services.partitions.image
            )

    def _check_last_fetched_epoch(self, log: PartitionLog | FollowedLog) -> None:
        asked = self.asked
        epoch, end_offset = log.end_offset_for_epoch(asked.last_fetched_epoch)
        if epoch == UNDEFINED or end_offset == UNDEFINED or asked.fetch_offset < log.log_start_offset:
            raise KafkaError(ErrorCode.offset_out_of_range)
        if epoch < asked.last_fetched_epoch or end_offset < asked.fetch_offset:
            self.diverging_epoch = (epoch, end_offset)

    def read_recent(self, limit: int, at_least_one: bool) -> int | None:
        """Add what lies in memory, at most `limit` bytes; returns the bytes added, None when `read` is needed."""
        assert self.log is not None
        limit = max(0, min(limit, self.asked.max_bytes - self.size))
        try:
            result = self.log.read_recent(self.next_offset, limit, self.isolation, at_least_one)
        except KafkaError as error:
            self._failed(error.code)
            return 0
        if result is None:
            return 0 if limit == 0 and not at_least_one else None
        return self._add(result)

    async def read(self, limit: int, at_least_one: bool) -> int:
        """As `read_recent`, from wherever the batches are."""
        assert self.log is not None
        limit = max(0, min(limit, self.asked.max_bytes - self.size))
        try:
            return self._add(await self.log.read(self.next_offset, limit, self.isolation, at_least_one))
        except KafkaError as error:
            self._failed(error.code)
            return 0

    def _add(self, result: ReadResult) -> int:
        if result.size:
            assert self.log is not None
            self.log.traffic.went_out(result.size)
            if self.isolation == READ_COMMITTED:
                self._note_aborted(self.log.aborted_transactions(self.next_offset, result.end_offset))
            self.buffers += result.buffers
            self.size += result.size
            self.next_offset = result.end_offset
        return result.size

    def _note_aborted(self, found: list[AbortedTransaction]) -> None:
        """Now, with the records: the log may be trimmed before the answer leaves."""
        self.aborted += [entry for entry in found if entry not in self.aborted]

    def _failed(self, code: ErrorCode) -> None:
        """What was read before the log failed is still true; without it the client hears of the failure."""
        if not self.size:
            self.error = code

    def drop(self) -> None:
        """Leave out what was read: it passes the request's limit."""
        self.buffers = []
        self.size = 0
        self.aborted = []
        self.next_offset = self.asked.fetch_offset

    def answer(self) -> PartitionAnswer:
        asked, log = self.asked, self.log
        if self.error or log is None:
            refused = PartitionAnswer(asked.topic, asked.partition, int(self.error))
            if log is None or self.isolation == READ_COMMITTED:
                refused.aborted = ()
            return refused
        answer = PartitionAnswer(
            asked.topic,
            asked.partition,
            0,
            log.high_watermark,
            log.last_stable_offset,
            log.log_start_offset,
            self.buffers,
            self.size,
        )
        answer.diverging_epoch = self.diverging_epoch
        answer.preferred_read_replica = self.preferred
        if self.isolation == READ_COMMITTED and self.preferred < 0:
            answer.aborted = [(entry.producer_id, entry.first_offset) for entry in self.aborted]
        return answer


def followed_log(services: Services, topic: TopicImage, partition: int) -> FollowedLog | None:
    """The partition as this broker can read it though another leads it; None where it is no replica of it, as consumers
    are shown, is about to go, or led it a moment ago: then its consumers are about to hear who does now."""
    image, node_id, part = services.partitions.image, services.node_id, topic.partitions[partition]
    if services.followed is None or part.leader == node_id or not can_read(image, node_id):
        return None
    if services.partitions.successors.expects(Place(topic.topic_id, partition)):
        return None
    if services.read_replicas is None:
        listed = shown_replicas(image, part)
    else:
        listed = clients_replicas(image, part, racks_of(image))
    if node_id not in listed:
        return None
    return services.followed.log(f"{topic.name}-{partition}", part.stream_id, part.leader_epoch)


def check_leader_epoch(log: HasEpochs, epoch: int) -> None:
    """Raises FENCED_LEADER_EPOCH for an older epoch than the leader's, UNKNOWN_LEADER_EPOCH for a newer one."""
    if epoch == UNDEFINED or epoch == log.leader_epoch:
        return
    raise KafkaError(ErrorCode.fenced_leader_epoch if epoch < log.leader_epoch else ErrorCode.unknown_leader_epoch)
