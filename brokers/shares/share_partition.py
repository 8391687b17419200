"""The records of one share-partition: who has acquired which, what is done, what is to be delivered (again). Pure.

Owns: states by offset, acquisition, acknowledgement, locks' deadlines, where the share-partition starts and ends.
Does not own: reading records, time, storing (leader.py), sessions (sessions.py).
Invariants: segments are in offset order, touch each other, and fill [start, end). A record is acquired by one member at
a time. The start moves only over records that are done, and only when that is settled: what was not stored is not done.

Source: KIP-932, KIP-1206 (exact record limits), KIP-1222 (renewal); Kafka's SharePartition. Unlike there, one kind of
segment stands for batches and single records: it is split where its records part ways, and joined again after.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import Final, NamedTuple, TypeAlias

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.shares.batches import StateBatch

NOBODY: Final = ""


class RecordState(enum.IntEnum):
    """As stored; ACQUIRED never is."""

    AVAILABLE = 0
    ACQUIRED = 1
    ACKNOWLEDGED = 2
    ARCHIVED = 4


DONE: Final = frozenset((RecordState.ACKNOWLEDGED, RecordState.ARCHIVED))


class Ack(enum.IntEnum):
    """As on the wire."""

    GAP = 0
    ACCEPT = 1
    RELEASE = 2
    REJECT = 3
    RENEW = 4


_OUTCOME: Final = {
    Ack.GAP: RecordState.ARCHIVED,
    Ack.ACCEPT: RecordState.ACKNOWLEDGED,
    Ack.RELEASE: RecordState.AVAILABLE,
    Ack.REJECT: RecordState.ARCHIVED,
}

_UNSETTLED: Final = "The record state is invalid. The acknowledgement of delivery could not be completed."

Range: TypeAlias = tuple[int, int]
"""First and last offset, both included, as the protocol has them."""


class Acknowledgement(NamedTuple):
    first: int
    last: int
    types: Sequence[int]
    """One for all, or one for each offset."""


class Acquired(NamedTuple):
    first: int
    last: int
    deliveries: int
    """This one included."""


class Limits(NamedTuple):
    """What the group's configs say."""

    deliveries: int
    records: int
    """In flight at once."""
    lock_ms: int
    renewal: bool


class Wanted(NamedTuple):
    """What a fetch asks for."""

    member: str
    records: int
    exact: bool
    """Never more than `records`; else as much as the log's batch that holds the last of them."""
    batch_size: int
    """Into pieces of about so many, where it is not exact."""


class Segment:
    __slots__ = ("deadline", "deliveries", "first", "last", "member", "state", "target")

    def __init__(
        self, first: int, last: int, state: RecordState, deliveries: int, member: str = NOBODY, deadline: float = 0.0
    ) -> None:
        self.first = first
        self.last = last
        self.state = state
        self.deliveries = deliveries
        self.member = member
        self.deadline = deadline
        self.target: RecordState | None = None
        """What it becomes when that is stored; until then it counts as acquired."""

    def __len__(self) -> int:
        return self.last - self.first + 1

    @property
    def done(self) -> bool:
        """Or about to be."""
        return (self.state if self.target is None else self.target) in DONE

    @property
    def held(self) -> bool:
        """By a member whose word on it is still to come."""
        return self.state is RecordState.ACQUIRED and self.target is None

    def become(self, state: RecordState) -> None:
        self.state = state
        self.member = NOBODY
        self.target = None

    def joins(self, after: Segment) -> bool:
        return (
            self.state is after.state and self.state is not RecordState.ACQUIRED and self.deliveries == after.deliveries
        )

    def stored(self, state: RecordState) -> StateBatch:
        return StateBatch(self.first, self.last, int(state), self.deliveries)


class Change(NamedTuple):
    """Records whose outcome is to be stored, then settled."""

    segments: Sequence[Segment]

    @property
    def batches(self) -> list[StateBatch]:
        return [segment.stored(segment.target) for segment in self.segments if segment.target is not None]


class SharePartition:
    def __init__(self, start: int, stored: Iterable[StateBatch] = ()) -> None:
        """`stored`: in order. What is missing between them was acquired at most, and is to be delivered again."""
        self.start = start
        self.end = start
        """The next offset that was never acquired."""
        self._segments: list[Segment] = []
        for batch in stored:
            if batch.last < self.end:
                continue
            first = max(batch.first, self.end)
            if first > self.end:
                self._segments.append(Segment(self.end, first - 1, RecordState.AVAILABLE, 0))
            self._segments.append(Segment(first, batch.last, RecordState(batch.state), batch.deliveries))
            self.end = batch.last + 1
        self._advance()

    # --- what there is -------------------------------------------------------------------------

    @property
    def segments(self) -> Sequence[Segment]:
        return self._segments

    @property
    def in_flight(self) -> int:
        return self.end - self.start

    @property
    def next_offset(self) -> int:
        """Where a fetch begins to read: the first record that may be delivered."""
        for segment in self._segments:
            if segment.state is RecordState.AVAILABLE:
                return segment.first
        return self.end

    def can_acquire(self, limits: Limits) -> bool:
        return self.in_flight < limits.records or self.next_offset < self.end

    @property
    def complete_count(self) -> int:
        """Records at or above the start that are done or about to be."""
        return sum(len(segment) for segment in self._segments if segment.done)

    @property
    def next_deadline(self) -> float | None:
        """When the first lock ends."""
        return min((segment.deadline for segment in self._segments if segment.held), default=None)

    # --- acquisition ---------------------------------------------------------------------------

    def acquire(
        self, wanted: Wanted, fetch_offset: int, batches: Sequence[Range], limits: Limits, now: float
    ) -> list[Acquired]:
        """Give the member what may be delivered of `batches`: those that the log has from `fetch_offset` on, in order,
        at least one. Offsets below the first that the log lacks are done."""
        last = batches[-1][1]
        if last < self.start or wanted.records <= 0:
            return []
        self._pass_over(fetch_offset, batches[0][0])
        room = min(wanted.records, limits.records - self.in_flight)
        if room <= 0:  # full: but what lies in flight may be delivered
            room = min(wanted.records, self.end - fetch_offset)
            last = min(last, self.end - 1)
        taking = _Taking(wanted, batches, room, last, now + limits.lock_ms)
        self._acquire_again(taking, max(fetch_offset, self.start), limits)
        if not taking.full and last >= self.end:
            self._acquire_new(taking)
        return taking.found

    def _acquire_again(self, taking: _Taking, position: int, limits: Limits) -> None:
        index = self._index(position)
        while not taking.full and index < len(self._segments):
            segment = self._segments[index]
            if segment.first > taking.last:
                return
            if segment.state is RecordState.AVAILABLE:
                most = _isolated(segment, limits.deliveries)
                if most is not None:
                    if taking.found:
                        taking.full = True  # it comes alone, with the next fetch
                        return
                    taking.room, taking.exact, taking.full = min(taking.room, most), True, True
                first = max(segment.first, position)
                segment = self._cut(first, taking.end_of(first, min(segment.last, taking.last)))
                index = self._index(segment.first)
                segment.state, segment.member, segment.deadline = RecordState.ACQUIRED, taking.member, taking.deadline
                segment.deliveries += 1
                taking.take(segment.first, segment.last, segment.deliveries)
            index += 1

    def _acquire_new(self, taking: _Taking) -> None:
        first, last = self.end, taking.end_of(self.end, taking.last)
        for piece_first, piece_last in taking.pieces(first, last):
            self._segments.append(
                Segment(piece_first, piece_last, RecordState.ACQUIRED, 1, taking.member, taking.deadline)
            )
            taking.take(piece_first, piece_last, 1)
        self.end = last + 1

    def _pass_over(self, fetch_offset: int, base: int) -> None:
        """The log has nothing between the two: compacted away, or deleted."""
        if base <= fetch_offset:
            return
        for segment in self._between(fetch_offset, base - 1):
            if segment.state is RecordState.AVAILABLE:
                self._cut(max(segment.first, fetch_offset), min(segment.last, base - 1)).become(RecordState.ARCHIVED)
        if base > self.end:
            self._segments.append(Segment(self.end, base - 1, RecordState.ARCHIVED, 0))
            self.end = base
        self._advance()

    def leave_out(self, ranges: Sequence[Range], acquired: Sequence[Acquired]) -> list[Acquired]:
        """Of what was just acquired, records of aborted transactions: nobody is to have them."""
        for first, last in ranges:
            for segment in self._between(first, last):
                if segment.held and any(a.first <= segment.first <= a.last for a in acquired):
                    self._cut(max(segment.first, first), min(segment.last, last)).become(RecordState.ARCHIVED)
        kept = [
            Acquired(max(segment.first, a.first), min(segment.last, a.last), a.deliveries)
            for a in acquired
            for segment in self._between(a.first, a.last)
            if segment.held
        ]
        self._advance()
        return kept

    # --- the word of a member ------------------------------------------------------------------

    def acknowledge(self, member: str, acks: Sequence[Acknowledgement], limits: Limits, now: float) -> Change:
        """All of it or nothing: raises KafkaError. A renewal is done at once, the rest when it is settled."""
        for before, after in pairwise(acks):
            if after.first <= before.last:
                raise _wrong_state(_UNSETTLED)
        runs = [run for ack in acks if ack.last >= self.start for run in self._checked(member, ack, limits)]
        changed: list[Segment] = []
        for first, last, kind in runs:
            for held in self._between(first, last):
                segment = self._cut(max(held.first, first), min(held.last, last))
                if kind is Ack.RENEW:
                    segment.deadline = now + limits.lock_ms
                else:
                    segment.target = self._outcome(segment, _OUTCOME[kind], limits)
                    changed.append(segment)
        return Change(changed)

    def _checked(self, member: str, ack: Acknowledgement, limits: Limits) -> list[tuple[int, int, Ack]]:
        """Runs of one kind. Raises KafkaError."""
        if not self._segments:
            raise _wrong_state("Batch record not found. The request batch offsets are not found in the cache.")
        if ack.last >= self.end:
            raise KafkaError(
                ErrorCode.invalid_request,
                "Batch record not found. The last offset in request is past acquired records.",
            )
        first = max(ack.first, self.start)
        for segment in self._between(first, ack.last):
            if segment.state is not RecordState.ACQUIRED:
                raise _wrong_state("The batch cannot be acknowledged. The batch is not in the acquired state.")
            if segment.target is not None:
                raise _wrong_state(_UNSETTLED)
            if segment.member != member:
                raise _wrong_state("Member is not the owner of batch record")
        runs = _runs(ack, first)
        if not limits.renewal and any(kind is Ack.RENEW for _, _, kind in runs):
            raise _wrong_state("Renewing acquisition locks is not enabled for the group.")
        return runs

    @staticmethod
    def _outcome(segment: Segment, wanted: RecordState, limits: Limits) -> RecordState:
        """A record that was delivered as often as it may be is given up."""
        if wanted is RecordState.AVAILABLE and segment.deliveries >= limits.deliveries:
            return RecordState.ARCHIVED
        return wanted

    def release(self, member: str, limits: Limits) -> Change:
        """The member goes: what it holds is for others."""
        changed = [segment for segment in self._segments if segment.held and segment.member == member]
        for segment in changed:
            segment.target = self._outcome(segment, RecordState.AVAILABLE, limits)
        return Change(changed)

    def settle(self, change: Change, stored: bool) -> None:
        """`stored`: or it is to be as if nothing had been said."""
        for segment in change.segments:
            if segment.target is not None and stored:
                segment.become(segment.target)
            segment.target = None
        self._advance()

    # --- time and the log ----------------------------------------------------------------------

    def expire(self, limits: Limits, now: float) -> list[StateBatch]:
        """Take back what was locked for too long, at once; what to store of it."""
        ended: list[StateBatch] = []
        for segment in self._segments:
            if segment.held and segment.deadline <= now:
                segment.become(self._outcome(segment, RecordState.AVAILABLE, limits))
                ended.append(segment.stored(segment.state))
        if ended:
            self._advance()
        return ended

    def trim(self, log_start: int) -> None:
        """The log begins there: what lies below is nobody's any more."""
        if log_start <= self.start:
            return
        self.start = log_start
        self.end = max(self.end, log_start)
        self._segments = [segment for segment in self._segments if segment.last >= log_start]
        if self._segments:
            self._segments[0].first = max(self._segments[0].first, log_start)
        self._advance()

    # --- segments ------------------------------------------------------------------------------

    def _index(self, offset: int) -> int:
        """Of the segment that holds it; the number of segments where none does."""
        if offset >= self.end:
            return len(self._segments)
        return max(bisect_right(self._segments, offset, key=_first) - 1, 0)

    def _between(self, first: int, last: int) -> list[Segment]:
        """Those that reach into the range."""
        found: list[Segment] = []
        for index in range(self._index(max(first, self.start)), len(self._segments)):
            segment = self._segments[index]
            if segment.first > last:
                break
            found.append(segment)
        return found

    def _cut(self, first: int, last: int) -> Segment:
        """The segment of exactly these offsets, which lie in one."""
        index = self._index(first)
        segment = self._segments[index]
        parts = [segment]
        if segment.first < first:
            parts.insert(0, _part(segment, segment.first, first - 1))
        if segment.last > last:
            parts.append(_part(segment, last + 1, segment.last))
        segment.first, segment.last = first, last
        self._segments[index : index + 1] = parts
        return segment

    def _advance(self) -> None:
        """The start passes what is done; segments that no longer differ are one."""
        kept: list[Segment] = []
        for segment in self._segments:
            if not kept and segment.state in DONE:
                self.start = segment.last + 1
            elif kept and kept[-1].joins(segment):
                kept[-1].last = segment.last
            else:
                kept.append(segment)
        self._segments = kept


class _Taking:
    """One fetch's acquisition, as far as it is."""

    __slots__ = ("_batch_size", "_batches", "deadline", "exact", "found", "full", "last", "member", "room")

    def __init__(self, wanted: Wanted, batches: Sequence[Range], room: int, last: int, deadline: float) -> None:
        self.member = wanted.member
        self.exact = wanted.exact
        self._batch_size = wanted.batch_size
        self._batches = batches
        self.room = room
        self.last = last
        self.deadline = deadline
        self.found: list[Acquired] = []
        self.full = room <= 0

    def end_of(self, first: int, last: int) -> int:
        """How far to take from `first` on, `last` at most."""
        if last - first + 1 <= self.room:
            return last
        end = first + self.room - 1
        if not self.exact:
            end = next((b_last for b_first, b_last in self._batches if b_first <= end <= b_last), end)
        return min(end, last)

    def pieces(self, first: int, last: int) -> list[Range]:
        """Where the log's batches begin, of about the size asked for."""
        if self.exact or last - first + 1 <= self._batch_size:
            return [(first, last)]
        begins = [first]
        for base, _ in self._batches:
            if base <= last and base - begins[-1] >= self._batch_size:
                begins.append(base)
        return list(zip(begins, [*(begin - 1 for begin in begins[1:]), last], strict=True))

    def take(self, first: int, last: int, deliveries: int) -> None:
        self.room -= last - first + 1
        self.full = self.full or self.room <= 0
        self.found.append(Acquired(first, last, deliveries))


def _first(segment: Segment) -> int:
    return segment.first


def _part(segment: Segment, first: int, last: int) -> Segment:
    part = Segment(first, last, segment.state, segment.deliveries, segment.member, segment.deadline)
    part.target = segment.target
    return part


def _isolated(segment: Segment, deliveries_max: int) -> int | None:
    """How many of the segment may be delivered together, and with nothing else, because one of them may be what members
    fail at: fewer with each delivery, the last time each by itself. None: as many as wanted."""
    if deliveries_max > 2 and segment.deliveries == deliveries_max - 1:
        return 1
    often = max(2, -(-deliveries_max // 2))
    if segment.deliveries < often:
        return None
    return max(1, len(segment) >> (segment.deliveries - often + 1))


def _runs(ack: Acknowledgement, start: int) -> list[tuple[int, int, Ack]]:
    """Neighbours of one kind together, from `start` on."""
    if len(ack.types) == 1:
        return [(start, ack.last, Ack(ack.types[0]))]
    runs: list[tuple[int, int, Ack]] = []
    for kind, places in groupby(range(start, ack.last + 1), key=lambda offset: ack.types[offset - ack.first]):
        offsets = list(places)
        runs.append((offsets[0], offsets[-1], Ack(kind)))
    return runs


def _wrong_state(message: str) -> KafkaError:
    return KafkaError(ErrorCode.invalid_record_state, message)
