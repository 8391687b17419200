"""A share-partition against a model that keeps one entry for each record."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from brokers.errors import KafkaError
from brokers.shares.batches import StateBatch, merge
from brokers.shares.share_partition import (
    DONE,
    Ack,
    Acknowledgement,
    Acquired,
    Change,
    Limits,
    RecordState,
    SharePartition,
    Wanted,
)

AVAILABLE, ACQUIRED, ACKNOWLEDGED, ARCHIVED = RecordState
MEMBERS = ("a", "b")
LOCK_MS = 100


@dataclass
class Entry:
    state: RecordState
    deliveries: int
    member: str = ""
    deadline: float = 0
    target: RecordState | None = None


class ShareMachine(RuleBasedStateMachine):
    """The log has batches of three records; every fifth batch is compacted away."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(4, 20, LOCK_MS, True)
        self.now = 0.0
        self.share = SharePartition(0)
        self.records: dict[int, Entry] = {}
        """From the start on."""
        self.start = self.end = 0
        self.durable: tuple[StateBatch, ...] = ()
        self.durable_start = 0
        self.changes: list[tuple[Change, dict[int, RecordState]]] = []
        self.finished: set[int] = set()
        """Offsets whose completion was stored."""

    def outcome(self, entry: Entry, wanted: RecordState) -> RecordState:
        return ARCHIVED if wanted is AVAILABLE and entry.deliveries >= self.limits.deliveries else wanted

    def log(self, offset: int, count: int) -> list[tuple[int, int]]:
        """Batches from the one that holds `offset`, or the next there is."""
        found: list[tuple[int, int]] = []
        number = offset // 3
        while len(found) < count:
            if number % 5 != 4:
                found.append((number * 3, number * 3 + 2))
            number += 1
        return found

    # --- rules ---------------------------------------------------------------------------------

    @rule(member=st.sampled_from(MEMBERS), records=st.integers(1, 9), exact=st.booleans(), batches=st.integers(1, 4),
          batch_size=st.integers(1, 6))  # fmt: skip
    def acquire(self, member: str, records: int, exact: bool, batches: int, batch_size: int) -> None:
        if not self.share.can_acquire(self.limits):
            assert self.end - self.start >= self.limits.records
            assert all(entry.state is not AVAILABLE for entry in self.records.values())
            return
        offset = self.share.next_offset
        available = [o for o, entry in self.records.items() if entry.state is AVAILABLE]
        assert offset == min(available, default=self.end)
        found = self.log(offset, batches)
        before = self.end
        got = self.share.acquire(Wanted(member, records, exact, batch_size), offset, found, self.limits, self.now)
        for missing in range(offset, found[0][0]):  # the log has none of them
            entry = self.records.setdefault(missing, Entry(AVAILABLE, 0))
            if entry.state is AVAILABLE:
                entry.state = ARCHIVED
        self.end = max(self.end, found[0][0], *(a.last + 1 for a in got), before)
        self.check_acquired(got, member, found, records, exact)
        self.advance()

    def check_acquired(
        self, got: list[Acquired], member: str, found: list[tuple[int, int]], records: int, exact: bool
    ) -> None:
        taken = 0
        counts: list[int] = []
        for before, after in pairwise(got):
            assert before.last < after.first
        for acquired in got:
            assert found[0][0] <= acquired.first <= acquired.last <= found[-1][1]
            for offset in range(acquired.first, acquired.last + 1):
                entry = self.records.setdefault(offset, Entry(AVAILABLE, 0))
                assert entry.state is AVAILABLE, f"{offset} is {entry}"
                counts.append(entry.deliveries)
                self.records[offset] = Entry(ACQUIRED, entry.deliveries + 1, member, self.now + LOCK_MS)
                assert entry.deliveries + 1 == acquired.deliveries <= self.limits.deliveries
                taken += 1
        assert taken < records + 3 and (not exact or taken <= records)
        assert self.end - self.start <= self.limits.records + 3 + 3, "a batch more, and what the log lacks, at most"
        assert max(counts, default=0) < self.limits.deliveries - 1 or taken == 1, "the last time each by itself"
        if got and counts and max(counts) >= 2:
            assert len(set(counts)) == 1, "what failed often is delivered with nothing else"
        if not got:
            wanted = range(found[0][0], found[-1][1] + 1)
            full = self.end - self.start >= self.limits.records
            assert full or all(o in self.records and self.records[o].state is not AVAILABLE for o in wanted)

    @precondition(lambda self: self.records)
    @rule(data=st.data(), member=st.sampled_from(MEMBERS))
    def acknowledge(self, data: st.DataObject, member: str) -> None:
        mine = [o for o, e in self.records.items() if e.state is ACQUIRED and e.member == member and e.target is None]
        first = data.draw(st.sampled_from(sorted(mine) or [self.start]))
        last = data.draw(st.integers(first, first + 5))
        kinds = st.sampled_from(list(Ack))
        types = data.draw(st.one_of(st.lists(kinds, min_size=1, max_size=1),
                                    st.lists(kinds, min_size=last - first + 1, max_size=last - first + 1)))  # fmt: skip
        allowed = all(
            (e := self.records.get(o)) is not None and e.state is ACQUIRED and e.target is None and e.member == member
            for o in range(first, last + 1)
        )
        ack = Acknowledgement(first, last, types)
        if not allowed:
            before = [(s.first, s.last, s.state, s.target) for s in self.share.segments]
            with pytest.raises(KafkaError):
                self.share.acknowledge(member, [ack], self.limits, self.now)
            assert before == [(s.first, s.last, s.state, s.target) for s in self.share.segments]
            return
        change = self.share.acknowledge(member, [ack], self.limits, self.now)
        outcomes: dict[int, RecordState] = {}
        states = {Ack.GAP: ARCHIVED, Ack.ACCEPT: ACKNOWLEDGED, Ack.RELEASE: AVAILABLE, Ack.REJECT: ARCHIVED}
        for offset in range(first, last + 1):
            entry = self.records[offset]
            kind = types[0] if len(types) == 1 else types[offset - first]
            if kind is Ack.RENEW:
                entry.deadline = self.now + LOCK_MS
            else:
                outcomes[offset] = entry.target = self.outcome(entry, states[kind])
        self.begin(change, outcomes)

    @rule(member=st.sampled_from(MEMBERS))
    def leave(self, member: str) -> None:
        outcomes: dict[int, RecordState] = {}
        for offset, entry in self.records.items():
            if entry.state is ACQUIRED and entry.member == member and entry.target is None:
                outcomes[offset] = entry.target = self.outcome(entry, AVAILABLE)
        self.begin(self.share.release(member, self.limits), outcomes)

    def begin(self, change: Change, outcomes: dict[int, RecordState]) -> None:
        said = {o: b.state for b in change.batches for o in range(b.first, b.last + 1)}
        assert said == outcomes
        if outcomes:
            self.changes.append((change, outcomes))

    @precondition(lambda self: self.changes)
    @rule(stored=st.booleans())
    def settle(self, stored: bool) -> None:
        """Written one after another, as the leader does."""
        change, outcomes = self.changes.pop(0)
        if stored:
            self.durable = merge(self.durable, change.batches, self.share.start)
            self.durable_start = self.share.start
        self.share.settle(change, stored)
        for offset, outcome in outcomes.items():
            if offset < self.start:
                continue
            entry = self.records[offset]
            entry.target = None
            if stored:
                self.records[offset] = Entry(outcome, entry.deliveries)
                if outcome in DONE:
                    self.finished.add(offset)
        self.advance()

    @rule(ms=st.integers(1, 150))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        ended = {o: b.state for b in self.share.expire(self.limits, self.now) for o in range(b.first, b.last + 1)}
        expected: dict[int, RecordState] = {}
        for offset, entry in self.records.items():
            if entry.state is ACQUIRED and entry.target is None and entry.deadline <= self.now:
                expected[offset] = self.outcome(entry, AVAILABLE)
                self.records[offset] = Entry(expected[offset], entry.deliveries)
        assert ended == expected
        self.advance()

    @rule(step=st.integers(0, 4))
    def the_log_is_trimmed(self, step: int) -> None:
        if not step:
            return
        self.start += step
        self.end = max(self.end, self.start)
        self.share.trim(self.start)
        self.records = {o: e for o, e in self.records.items() if o >= self.start}
        self.advance()

    @rule(lag=st.integers(0, 3))
    def another_leader(self, lag: int) -> None:
        """What was not stored is delivered again; what was stored as done is not."""
        share = SharePartition(self.durable_start, self.durable)
        for offset in self.finished:
            if offset >= share.start and offset < share.end:
                (segment,) = [s for s in share.segments if s.first <= offset <= s.last]
                assert segment.state in DONE
            else:
                assert offset < share.start
        assert share.start <= self.start or not self.records

    def advance(self) -> None:
        while self.start < self.end and self.records[self.start].state in DONE:
            del self.records[self.start]
            self.start += 1

    # --- invariants ----------------------------------------------------------------------------

    @invariant()
    def they_say_the_same(self) -> None:
        share = self.share
        assert (share.start, share.end) == (self.start, self.end)
        seen: dict[int, tuple[object, ...]] = {}
        position = share.start
        for segment in share.segments:
            assert segment.first == position, "segments touch"
            position = segment.last + 1
            for offset in range(segment.first, position):
                held = segment.state is ACQUIRED
                seen[offset] = (segment.state, segment.deliveries, segment.member, segment.target,
                                segment.deadline if held else 0)  # fmt: skip
        assert position == share.end
        model = {
            o: (e.state, e.deliveries, e.member, e.target, e.deadline if e.state is ACQUIRED else 0)
            for o, e in self.records.items()
        }
        assert seen == model
        done = [e for e in self.records.values() if (e.target if e.target is not None else e.state) in DONE]
        assert share.complete_count == len(done)
        deadlines = [e.deadline for e in self.records.values() if e.state is ACQUIRED and e.target is None]
        assert share.next_deadline == min(deadlines, default=None)


TestShareMachine = ShareMachine.TestCase
