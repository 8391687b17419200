"""Random lives of nodes, controllers and takeovers on one database, against what was acknowledged (CORRECTNESS 1, 2).

Zombies go on: an incarnation appends to a stream that it believes to have open until its WAL is sealed, for until then
nothing tells it (that is what the seal is for). The model knows what each WAL holds; only who reads a sealed WAL, or
is the incarnation that wrote it (or a later one of the same node, which was not fenced), may look into it.

Asserted: an opening never begins below what was acknowledged, nor above; at most one incarnation can acknowledge on a
stream; every acknowledged record is committed or in a WAL that the stream's owner names; what a fenced node did not
finish can always be finished by others.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from metadata.cluster_types import Lease, NodeBeat
from metadata.image_loader import CONTROLLER_LEASE
from metadata.store import Metadata
from s3stream.errors import Fenced, Unavailable
from s3stream.types import CommittedRange, FencedWal, OpenRequest, RangeOutcome, StreamId, StreamSnapshot, StreamState
from tests.properties.test_metadata_commit import now
from tests.support.metadata import Node, open_for_test

NODES = 3
STREAMS = 3
Who: TypeAlias = tuple[int, int]
"""Node id and node epoch."""
NOBODY: Who = (-1, -1)

MEANWHILE = ("nothing", "beat", "register", "flush", "flush rashly", "open rashly", "open rashly")

nodes = st.integers(0, NODES - 1)
streams = st.integers(0, STREAMS - 1)


@dataclass
class Life:
    """One incarnation, as it sees itself."""

    node: Node
    open: dict[StreamId, int] = field(default_factory=dict)
    """Stream → next offset: where it would append."""


def owner_of(row: StreamSnapshot) -> Who:
    return NOBODY if row.owner is None or row.owner_epoch is None else (row.owner, row.owner_epoch)


class Takeovers(RuleBasedStateMachine):
    metadata: Metadata

    def __init__(self) -> None:
        super().__init__()
        self.metadata = now(open_for_test("memory:"))
        self.lives: dict[Who, Life] = {}
        self.newest: dict[int, Who] = {}
        self.acknowledged: dict[StreamId, int] = {}
        self.barred: set[Who] = set()
        """A seal is put: it acknowledges nothing more."""
        self.sealed: set[Who] = set()
        """And the row says so."""
        self.leases: list[Lease] = []
        self.looked: dict[int, NodeBeat] = {}
        """What the controller saw of a node when it last looked."""

    def teardown(self) -> None:
        now(self.metadata.close())

    @initialize()
    def make(self) -> None:
        image = now(self.metadata.create_topic("t", UUID(int=1), [[n % NODES] for n in range(STREAMS)]))
        self.acknowledged = {part.stream_id: 0 for part in image.partitions}
        for node_id in range(NODES):
            self.register(node_id)
        for index in range(STREAMS):
            self.open(index, index % NODES)

    def stream(self, index: int) -> StreamId:
        return sorted(self.acknowledged)[index]

    def life(self, node_id: int) -> Life:
        return self.lives[self.newest[node_id]]

    def attempt(self, call: Awaitable[Any], *allowed: type[Exception]) -> Any:
        try:
            return now(call)  # type: ignore[arg-type]
        except allowed as error:
            return error

    # --- nodes -----------------------------------------------------------------------------------

    @rule(node_id=nodes)
    def register(self, node_id: int) -> None:
        """A restart: on its WAL, which it has recovered when it registers."""
        waits = any(wal.node_id == node_id for wal in now(self.metadata.fenced_wals()))
        found = self.attempt(Node.register(self.metadata, node_id), Unavailable)
        assert isinstance(found, Unavailable) == waits
        if waits:
            return
        who = found.identity[:2]
        self.lives[who] = Life(found)
        self.newest[node_id] = who

    @rule(node_id=nodes)
    def beat(self, node_id: int) -> None:
        self.attempt(self.metadata.heartbeat(self.life(node_id).node.identity), Fenced)

    @rule(index=streams, count=st.integers(1, 5), pick=st.integers(0, 50))
    def append(self, index: int, count: int, pick: int) -> None:
        """Any incarnation that believes it may: acknowledged, unless its WAL is sealed or another process has it."""
        stream_id = self.stream(index)
        believers = sorted(who for who, life in self.lives.items() if stream_id in life.open)
        able = [who for who in believers if who not in self.barred and self.newest[who[0]] == who]
        assert len(able) <= 1, f"two may acknowledge on stream {stream_id}: {able}"
        if able:
            life = self.lives[able[pick % len(able)]]
            assert life.open[stream_id] == self.acknowledged[stream_id], "an offset is given twice, or left out"
            self.acknowledged[stream_id] += count
            life.open[stream_id] += count

    # --- the engine ------------------------------------------------------------------------------

    @rule(index=streams, node_id=nodes, part=st.sampled_from((2, 5, 1000, 1000)), rash=st.booleans())
    def flush(self, index: int, node_id: int, part: int, rash: bool = False) -> None:
        """Commit a part of the stream's tail, by whoever can have it: its writer, that node again, or a survivor;
        a rash one has read the WAL without waiting for the seal."""
        stream_id, node = self.stream(index), self.life(node_id).node
        [row] = now(self.metadata.streams([stream_id]))
        if row.tail is not None:
            self.flush_tail(row, node, min(row.committed_end + part, row.tail.end))
            return
        end = min(row.committed_end + part, self.acknowledged[stream_id])
        if end == row.committed_end or not (rash or self.has_bytes(row, node_id)):
            return
        flush = CommittedRange(stream_id, row.epoch, row.committed_end, end, 1)
        result = self.attempt(node.commit(flush), Fenced)
        if isinstance(result, Fenced):
            assert self.beat_of(node_id).node_epoch != node.identity.node_epoch
            return
        outcome = result.outcomes[stream_id]
        if owner_of(row) in self.sealed:
            assert outcome is RangeOutcome.COMMITTED
        elif self.is_fencing(owner_of(row)) or row.owner != node_id:
            assert outcome is RangeOutcome.FENCED, "nobody knows yet where its WAL ends"
        else:
            assert outcome is RangeOutcome.COMMITTED

    def flush_tail(self, row: StreamSnapshot, node: Node, end: int) -> None:
        """By anybody, for it holds the same bytes for all; the stream's present owner does not come before it."""
        assert row.tail is not None
        if row.epoch > row.tail.stream_epoch:
            early = CommittedRange(row.stream_id, row.epoch, row.tail.end, row.tail.end + 1, 1)
            result = self.attempt(node.commit(early), Fenced)
            assert isinstance(result, Fenced) or result.outcomes[row.stream_id] in (
                RangeOutcome.GAP, RangeOutcome.FENCED,
            )  # fmt: skip
        flush = CommittedRange(row.stream_id, row.tail.stream_epoch, row.committed_end, end, 1)
        result = self.attempt(node.commit(flush), Fenced)
        assert isinstance(result, Fenced) or result.outcomes[row.stream_id] is RangeOutcome.COMMITTED
        event("a tail committed")

    def has_bytes(self, row: StreamSnapshot, node_id: int) -> bool:
        if row.state != StreamState.OPEN:
            return False
        owner = owner_of(row)
        return owner in self.sealed or row.owner == node_id

    def is_fencing(self, owner: Who) -> bool:
        return any(wal[:2] == owner for wal in now(self.metadata.fenced_wals()))

    def beat_of(self, node_id: int | None) -> NodeBeat:
        [beat] = [beat for beat in now(self.metadata.node_beats()) if beat.node_id == node_id]
        return beat

    @rule(index=streams, node_id=nodes, assigned=st.sampled_from((True, True, False)), rash=st.booleans())
    def open(self, index: int, node_id: int, assigned: bool = True, rash: bool = False) -> None:
        """With what the node can know: its own WAL's end, a sealed WAL's, else the committed end. A rash one reads a
        WAL that is not sealed, and does not read one that is."""
        stream_id, life = self.stream(index), self.life(node_id)
        if assigned:
            now(self.metadata.assign({stream_id: node_id}))
        [row] = now(self.metadata.streams([stream_id]))
        owner = owner_of(row)
        read = owner if (owner in self.sealed) != rash and owner != NOBODY else None
        knows = read is not None or (row.owner == node_id and not self.is_fencing(owner))
        closed_end = row.committed_end if row.tail is None else row.tail.end
        end = self.acknowledged[stream_id] if knows else closed_end
        request = OpenRequest(stream_id, row.epoch, end, read)
        opened = self.attempt(self.metadata.open_streams(life.node.identity, [request]), Fenced, Unavailable)
        if isinstance(opened, Exception):
            return
        start = opened[0].epochs[-1][1]
        assert start == self.acknowledged[stream_id], f"{owner} had acknowledged to {self.acknowledged[stream_id]}"
        life.open[stream_id] = start
        event("opened from a sealed WAL" if read else "opened by its node" if row.owner is not None else "opened")

    @rule(index=streams, with_tails=st.booleans())
    def close(self, index: int, with_tails: bool) -> None:
        stream_id = self.stream(index)
        [row] = now(self.metadata.streams([stream_id]))
        owner = owner_of(row)
        life = self.lives.get(owner)
        if row.state != StreamState.OPEN or life is None or stream_id not in life.open:
            return
        ends = {stream_id: self.acknowledged[stream_id]}
        epochs = {stream_id: row.epoch}
        closing = self.metadata.close_streams(life.node.identity, ends, epochs, with_tails)
        closed = self.attempt(closing, Fenced, Unavailable)
        if not isinstance(closed, Exception):
            del life.open[stream_id]
            event("closed with a tail" if closed else "closed")

    # --- the controller --------------------------------------------------------------------------

    @rule(node_id=nodes, waited=st.booleans())
    def take_lease(self, node_id: int, waited: bool) -> None:
        life = self.life(node_id)
        seen = now(self.metadata.lease(CONTROLLER_LEASE)) if waited else None
        got = self.attempt(self.metadata.acquire_lease(CONTROLLER_LEASE, life.node.identity, seen), Fenced)
        if isinstance(got, Lease):
            self.leases.append(got)

    @rule(back=st.sampled_from((0, 0, 0, 1)), victim=nodes)
    def fence(self, back: int, victim: int) -> None:
        if not self.leases:
            return
        lease = self.leases[-1 - back % len(self.leases)]
        before, seen = self.beat_of(victim), self.looked.get(victim, self.beat_of(victim))
        wal = self.attempt(self.metadata.fence_node(lease, victim, seen.node_epoch, seen.heartbeat), Fenced)
        if self.beat_of(victim) != before:
            assert isinstance(wal, FencedWal) and before == seen, "it had beaten, or registered anew"
        held = now(self.metadata.lease(CONTROLLER_LEASE))
        assert isinstance(wal, Fenced) == (held is None or held.lease_epoch != lease.lease_epoch)

    @rule(victim=nodes)
    def look(self, victim: int) -> None:
        self.looked[victim] = self.beat_of(victim)

    @rule(back=st.sampled_from((0, 0, 0, 1)))
    def seal(self, back: int) -> None:
        if not self.leases:
            return
        lease = self.leases[-1 - back % len(self.leases)]
        for wal in now(self.metadata.fenced_wals()):
            # The seal is put first: no later PUT of the owner is acknowledged, whatever becomes of the row.
            self.barred.add(wal[:2])
            if self.attempt(self.metadata.wal_sealed(lease, *wal[:2], 7), Fenced) is None:
                self.sealed.add(wal[:2])

    @rule(
        index=streams,
        other=st.integers(1, NODES - 1),
        steps=st.sampled_from((2, 3, 4, 4, 4, 4)),
        meanwhile=st.lists(st.sampled_from(MEANWHILE), min_size=3, max_size=3),
    )
    def take_over(self, index: int, other: int, steps: int, meanwhile: list[str]) -> None:
        """As a controller does it with a stream's owner, up to some step; something happens between the steps."""
        [row] = now(self.metadata.streams([self.stream(index)]))
        victim = row.owner or 0
        by = (victim + other) % NODES
        self.take_lease(by, True)
        self.look(victim)
        self.happens(meanwhile[0], by, victim)
        self.fence(0, victim)
        self.happens(meanwhile[1], by, victim)
        if steps > 2:
            self.seal(0)
            self.happens(meanwhile[2], by, victim)
        for index in range(STREAMS if steps > 3 else 0):
            self.flush(index, by, 1000)
            self.open(index, by)

    def happens(self, what: str, by: int, victim: int) -> None:
        if what == "beat":
            self.beat(victim)
        elif what == "register":
            self.register(victim)
        for index in range(STREAMS):
            if what in ("flush", "flush rashly"):
                self.append(index, 1, 0)
                self.flush(index, victim if what == "flush" else by, 1000, what != "flush")
            elif what == "open rashly":
                self.open(index, by, True, True)

    # --- what always holds -----------------------------------------------------------------------

    @invariant()
    def nothing_is_out_of_reach(self) -> None:
        fenced = {wal[:2] for wal in now(self.metadata.fenced_wals())}
        for row in now(self.metadata.streams(sorted(self.acknowledged))):
            if row.tail is not None:
                beat, holder = self.beat_of(row.tail.node_id), row.tail[3:5]
                assert row.committed_end == row.tail.start < row.tail.end <= self.acknowledged[row.stream_id]
                assert holder in fenced or (holder == (beat.node_id, beat.node_epoch) and beat.wal_uri), row
            if row.state == StreamState.CLOSED:
                closed_end = row.committed_end if row.tail is None else row.tail.end
                assert closed_end == self.acknowledged[row.stream_id]
                continue
            owner = owner_of(row)
            assert row.committed_end <= self.acknowledged[row.stream_id]
            beat = self.beat_of(row.owner)
            # Either a takeover has it, or its node is there to open it, or can be fenced with it.
            assert owner in fenced or (owner <= (beat.node_id, beat.node_epoch) and beat.wal_uri), row


TestTakeovers = Takeovers.TestCase
TestTakeovers.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
