"""What brokers tell each other of partitions on their way, so that neither waits for the database to tell it.

A source that has closed partitions tells their next broker, and what it has of them; that one, when it has opened them,
tells the source, which names it to the clients that wait (decision 0127).
Owns: the words, and what an image becomes by them. Does not own: the channel (peers/), closing and opening
(manager.py).
Invariant: a word is a hint. Lost, late, doubled or wrong it costs time and nothing else: an image takes it only where
it is the next thing to happen to that very opening, and each opening is checked by the database, whoever spoke of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeVar
from uuid import UUID

from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.successors import Place
from metadata.image import NO_LEADER, ClusterImage, PartitionImage, with_partitions
from s3stream.limits import BATCH_OVERHEAD_BYTES, KIB
from s3stream.tasks import Tasks
from s3stream.types import NodeId, StreamBatch, StreamId, StreamSnapshot, StreamState, TailRow

T = TypeVar("T", "Closed", "Opened")


TailBatches: TypeAlias = Callable[[StreamId, int, int, int], Sequence[StreamBatch]]
"""(stream id, start, end, bytes_max): as `Storage.tail_batches`."""
WORD_BYTES_MAX: Final = 512 * KIB
"""Of tails and states told at once: what a few busy partitions have, or a thousand quiet ones."""


class Teller(NamedTuple):
    """The incarnation that speaks."""

    node_id: NodeId
    node_epoch: int


class Closed(NamedTuple):
    """Who tells it has closed the stream under `epoch`."""

    place: Place
    stream_id: StreamId
    epoch: int
    start_offset: int
    committed_end: int
    end: int
    """Of the log; above `committed_end` a tail is left with who tells it."""
    state: bytes = b""
    """The log's at `end`, as a checkpoint; empty: to be had by replay."""
    tail: Sequence[StreamBatch] = ()
    """Its batches; none: to be asked for."""

    @classmethod
    def of(cls, log: PartitionLog) -> Closed:
        """To be called when the stream is closed."""
        stream = log.stream
        start = stream.start_offset
        committed, end = max(start, stream.committed_end), max(start, stream.durable_end)
        return cls(place_of(log), stream.stream_id, stream.epoch, start, committed, end)

    @property
    def extra_bytes(self) -> int:
        """Of what is told beside the row."""
        return len(self.state) + sum(len(batch.payload) + BATCH_OVERHEAD_BYTES for batch in self.tail)

    def row(self, teller: Teller) -> StreamSnapshot:
        """The stream's row, as far as opening it asks for it."""
        tail = TailRow(self.stream_id, self.committed_end, self.end, *teller, self.epoch)
        return StreamSnapshot(
            self.stream_id, self.epoch, StreamState.CLOSED, self.start_offset, self.committed_end,
            tail=tail if tail.start < tail.end else None,
        )  # fmt: skip


class Opened(NamedTuple):
    """Who tells it has opened the stream under `epoch`, and serves it."""

    place: Place
    stream_id: StreamId
    epoch: int


class Others(Protocol):
    """The other brokers, on the channel between brokers (brokers/peers). What they do not hear is lost."""

    async def reachable(self, node_id: NodeId) -> bool:
        """Whether that broker answers at once, and so can ask this one for tails."""

    async def tell_closed(self, node_id: NodeId, told: Sequence[Closed]) -> None: ...

    async def tell_opened(self, node_id: NodeId, told: Sequence[Opened]) -> None: ...


class Words:
    """Who has told what, and is to be told what became of it."""

    def __init__(self, others: Others, batches: TailBatches, tasks: Tasks) -> None:
        self._others = others
        self.reachable = others.reachable
        self._batches = batches
        self._tasks = tasks
        self._tellers: dict[Place, NodeId] = {}
        """From whom partitions come that are not open here yet."""
        self._opened: dict[NodeId, list[Opened]] = defaultdict(list)

    def say_closed(self, closed: Sequence[PartitionLog], target: Callable[[PartitionLog], NodeId]) -> None:
        of_node: dict[NodeId, list[PartitionLog]] = defaultdict(list)
        for log in closed:
            of_node[target(log)].append(log)
        for node_id, logs in of_node.items():
            if node_id != NO_LEADER:
                told = self._with_extras(logs)
                self._tasks.spawn(self._others.tell_closed(node_id, told), "tell who opens partitions")

    def _with_extras(self, logs: Sequence[PartitionLog]) -> list[Closed]:
        """As far as there is room: the rest is read, and asked for."""
        told = []
        room = WORD_BYTES_MAX
        for log in logs:
            one = Closed.of(log)
            tail = self._batches(one.stream_id, one.committed_end, one.end, room) if one.committed_end < one.end else []
            whole = one._replace(state=log.final_state() or b"", tail=tail)
            if whole.extra_bytes <= room:
                room -= whole.extra_bytes
                one = whole
            told.append(one)
        return told

    def expect(self, teller: Teller, told: Sequence[Closed]) -> None:
        """Partitions that are about to be opened here."""
        self._tellers.update((one.place, teller.node_id) for one in told)

    def opened(self, log: PartitionLog) -> None:
        """It serves here: whoever told of it is to know."""
        teller = self._tellers.pop(place_of(log), None)
        if teller is None:
            return
        self._opened[teller].append(Opened(place_of(log), log.stream.stream_id, log.leader_epoch))
        if len(self._opened[teller]) == 1:
            self._tasks.spawn(self._say_opened(teller), "tell who had partitions")

    async def _say_opened(self, teller: NodeId) -> None:
        """A turn of the loop later than the first of them: many are opened at once."""
        await self._others.tell_opened(teller, self._opened.pop(teller))


def place_of(log: PartitionLog) -> Place:
    return Place(log.topic_id, log.partition)


def with_closed(
    image: ClusterImage, node_id: NodeId, teller: Teller, told: Sequence[Closed]
) -> tuple[ClusterImage, list[Closed]]:
    """`image` with these streams closed, and those of them that are `node_id`'s to open now: assigned to it, and open
    with the teller, under that epoch, as far as the image knew."""

    def is_news(part: PartitionImage, one: Closed) -> bool:
        known = (part.assigned, part.leader, part.owner_epoch, part.leader_epoch)
        return known == (node_id, *teller, one.epoch)

    news = _of_known(image, told, is_news)
    changes = {
        one.place: replace(
            part, leader=NO_LEADER, owner_epoch=-1, tail_owner=teller if one.committed_end < one.end else None
        )
        for part, one in news
    }
    return _changed(image, changes), [one for _, one in news]


def with_opened(image: ClusterImage, teller: Teller, told: Sequence[Opened]) -> ClusterImage:
    """`image` with these streams open with the teller, where it knew of no such opening."""
    news = _of_known(image, told, lambda part, one: part.leader_epoch < one.epoch)
    changes = {
        one.place: replace(part, leader=teller.node_id, owner_epoch=teller.node_epoch, leader_epoch=one.epoch)
        for part, one in news
    }
    return _changed(image, changes)


def _of_known(
    image: ClusterImage, told: Sequence[T], is_news: Callable[[PartitionImage, T], bool]
) -> list[tuple[PartitionImage, T]]:
    found = []
    for one in told:
        topic = image.topics_by_id.get(one.place.topic_id)
        if topic is None or not 0 <= one.place.partition < len(topic.partitions):
            continue
        part = topic.partitions[one.place.partition]
        if part.stream_id == one.stream_id and is_news(part, one):
            found.append((part, one))
    return found


def _changed(image: ClusterImage, changes: Mapping[Place, PartitionImage]) -> ClusterImage:
    of_topic: dict[UUID, dict[int, PartitionImage]] = defaultdict(dict)
    for place, part in changes.items():
        of_topic[place.topic_id][place.partition] = part
    return with_partitions(image, of_topic)
