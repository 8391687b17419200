"""Random interleavings of prepare, commit, retry, trim, open, close, restart, delete and expiry, against a model.

The model knows no ranges: it keeps, for every offset, the object that holds it, and the newest checkpoint. Chunks are
made tiny, so that full chunks, and transactions that drop only a part, come up all the time.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest import mock
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from metadata.store import Metadata
from s3stream.errors import Expired, Fenced, Unavailable
from s3stream.types import (
    Checkpoint,
    CheckpointPointer,
    CommittedRange,
    FlushCommit,
    ObjectId,
    ObjectRef,
    OpenRequest,
    RangeOutcome,
    StoredCheckpoint,
    StreamId,
    StreamState,
)
from tests.support.metadata import FAR_MS, Node, marked, open_for_test
from tests.support.postgres import shared_server

T = TypeVar("T")
NODES = 2
TOPICS = ((1, 2), (2, 1))
"""(topic, partitions)"""
SHIFTS = (0, 0, 0, 0, -2, 1, 3)
"""How far a range begins from the committed end."""
WEIGHT = ("ALREADY", "TRIMMED", "COMMITTED", "GAP", "FENCED", "DELETED")


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waited")


@dataclass
class ModelStream:
    topic: int
    epoch: int = -1
    owner: tuple[int, int] | None = None
    assigned: int = 0
    start: int = 0
    end: int = 0
    checkpoint: StoredCheckpoint | None = None
    deleted: bool = False
    holder: dict[int, ObjectId] = field(default_factory=dict)
    openings: list[tuple[int, int]] = field(default_factory=list)

    def commit(self, part: CommittedRange, node_id: int, object_id: ObjectId) -> str:
        if self.deleted:
            return "DELETED"
        missing = range(self.end, part.end)
        if not missing:
            return "ALREADY"
        if part.stream_epoch != self.epoch or self.owner is None or self.owner[0] != node_id:
            return "FENCED"
        if any(self.start <= offset < part.start for offset in missing):
            return "GAP"
        self.end = part.end
        readable = [offset for offset in missing if offset >= self.start]
        self.holder.update(dict.fromkeys(readable, object_id))
        return "COMMITTED" if readable else "TRIMMED"

    def checkpoint_object(self) -> set[ObjectId]:
        return {self.checkpoint.ref.object_id} if isinstance(self.checkpoint, CheckpointPointer) else set()


class Commits(RuleBasedStateMachine):
    metadata: Metadata

    def __init__(self) -> None:
        super().__init__()
        self.patches = [
            mock.patch("metadata.commits.RANGES_PER_CHUNK", 2),
            mock.patch("metadata.ranges.RANGES_PER_CHUNK", 2),
            mock.patch("metadata.ranges.CHUNKS_PER_TRANSACTION", 1),
            mock.patch("metadata.ranges.RANGES_DROPPED_PER_TRANSACTION", 3),
        ]
        for patch in self.patches:
            patch.start()
        self.database = self.make_database()
        self.metadata = now(open_for_test(self.database))
        self.streams: dict[StreamId, ModelStream] = {}
        self.nodes: list[Node] = []
        self.trims: list[int] = []
        self.flushes: list[tuple[int, FlushCommit]] = []
        self.prepared: set[ObjectId] = set()
        self.committed: set[ObjectId] = set()
        self.dead: set[ObjectId] = set()

    def make_database(self) -> str:
        """Its URL."""
        return "memory:"

    def drop_database(self) -> None:
        """Memory needs none."""

    def teardown(self) -> None:
        now(self.metadata.close())
        self.drop_database()
        for patch in self.patches:
            patch.stop()

    @initialize()
    def make(self) -> None:
        for topic, partitions in TOPICS:
            image = now(self.metadata.create_topic(f"t{topic}", UUID(int=topic), [[0]] * partitions))
            self.streams.update((part.stream_id, ModelStream(topic)) for part in image.partitions)
        self.nodes = [now(Node.register(self.metadata, node_id)) for node_id in range(NODES)]
        self.trims = [0] * NODES
        for index in range(len(self.streams)):
            self.open(index, 0, 0)

    def stream(self, index: int) -> tuple[StreamId, ModelStream]:
        stream_id = sorted(self.streams)[index % len(self.streams)]
        return stream_id, self.streams[stream_id]

    @rule(index=st.integers(0, 2), who=st.integers(0, NODES - 1), recovered=st.integers(0, 3))
    def open(self, index: int, who: int, recovered: int) -> None:
        stream_id, model = self.stream(index)
        identity = self.nodes[who].identity
        older = model.owner is not None and model.owner[0] == who and model.owner[1] < identity.node_epoch
        closed_end = max(model.start, model.end)
        end = closed_end + (recovered if older else 0)
        request = OpenRequest(stream_id, model.epoch, end)
        if model.deleted:
            return
        if older or (model.owner is None and model.assigned == who):
            [row] = now(self.metadata.open_streams(identity, [request]))
            model.epoch += 1
            model.owner = (who, identity.node_epoch)
            model.openings.append((model.epoch, end))
            assert row.epochs[-1] == model.openings[-1]
        else:
            self.refused(self.metadata.open_streams(identity, [request]), Fenced)

    @rule(index=st.integers(0, 2), who=st.integers(0, NODES - 1))
    def assign(self, index: int, who: int) -> None:
        stream_id, model = self.stream(index)
        now(self.metadata.assign({stream_id: who, 987_654: who}))
        model.assigned = who

    def refused(self, call: Coroutine[Any, Any, Any], error: type[Exception]) -> None:
        try:
            now(call)
        except error:
            return
        raise AssertionError(f"not refused with {error.__name__}")

    @rule(index=st.integers(0, 8), tail=st.integers(0, 1))
    def close(self, index: int, tail: int) -> None:
        if index >= len(self.streams):
            return
        stream_id, model = self.stream(index)
        if model.deleted or model.owner is None:
            return
        node = self.nodes[model.owner[0]]
        end = max(model.start, model.end) + tail
        call = self.metadata.close_streams(node.identity, {stream_id: end})
        if model.owner[1] != node.identity.node_epoch:
            self.refused(call, Fenced)
        elif tail:
            self.refused(call, Unavailable)
        else:
            now(call)
            model.owner, model.end = None, end

    @rule(who=st.sampled_from((0, 1, None, None, None)))
    def restart(self, who: int | None) -> None:
        if who is None:
            return
        node = self.nodes[who]
        owned = [id for id, model in self.streams.items() if model.owner is not None and model.owner[0] == who]
        registration = now(self.metadata.register_node(who, f"file:///wal-{who}", {}))
        assert [row.stream_id for row in registration.owned] == sorted(owned)
        assert registration.wal_trim == self.trims[who]
        self.nodes[who] = Node(self.metadata, registration.identity)
        self.refused(self.metadata.prepare_objects(node.identity, 1, 0), Fenced)

    @rule(
        who=st.sampled_from((0, 0, 0, 1)),
        parts=st.lists(
            st.tuples(st.integers(0, 2), st.sampled_from(SHIFTS), st.integers(1, 6), st.integers(0, 9)),
            min_size=1,
            max_size=5,
        ),
        objects=st.integers(1, 2),
        trim=st.integers(0, 50),
        at_once=st.booleans(),
        large=st.sampled_from(((), (0, 1, 2), (1,))),
    )
    def upload(
        self, who: int, parts: list[tuple[int, int, int, int]], objects: int, trim: int, at_once: bool,
        large: tuple[int, ...],
    ) -> None:  # fmt: skip
        """Make a flush; it is committed later, any number of times. Ranges near the end, some under an old epoch.
        `large`: the streams whose checkpoint lies in the object of their last range."""
        node = self.nodes[who]
        object_ids = now(self.metadata.prepare_objects(node.identity, objects, FAR_MS))
        self.prepared.update(object_ids)
        ranges: dict[ObjectId, list[CommittedRange]] = {object_id: [] for object_id in object_ids}
        ends: dict[StreamId, int] = {}
        lasts: dict[StreamId, ObjectId] = {}
        for number, (index, shift, length, luck) in enumerate(parts):
            stream_id, model = self.stream(index)
            start = ends.get(stream_id, max(0, model.end + shift))
            ends[stream_id] = start + length
            part = CommittedRange(stream_id, model.epoch - (luck == 9), start, start + length, length * 10)
            lasts[stream_id] = object_ids[number % objects]
            ranges[lasts[stream_id]].append(part)
        checkpoints: dict[StreamId, StoredCheckpoint] = {
            stream_id: Checkpoint(end - end % 2, b"%d" % end) for stream_id, end in ends.items()
        }
        for stream_id in {self.stream(index)[0] for index in large} & lasts.keys():
            object_id = lasts[stream_id]
            ref = ObjectRef(object_id, node.identity.incarnation, 1000 + object_id)
            checkpoints[stream_id] = CheckpointPointer(checkpoints[stream_id].offset, ref, 48, 100)
        self.flushes.append((who, node.flush(ranges, checkpoints, trim)))
        if at_once:
            self.commit(0)

    @precondition(lambda self: self.flushes)
    @rule(back=st.sampled_from((0, 0, 1, 2, 5)))
    def commit(self, back: int) -> None:
        who, flush = self.flushes[-1 - back % len(self.flushes)]
        if flush.node != self.nodes[who].identity:
            self.refused(self.metadata.commit(flush), Fenced)
            return
        saved = {id: (model.end, dict(model.holder)) for id, model in self.streams.items()}
        outcomes: dict[StreamId, str] = {}
        fresh: set[ObjectId] = set()
        waiting: set[ObjectId] = set()
        parts = [(part, one.ref.object_id) for one in flush.objects for part in one.ranges]
        for part, object_id in sorted(parts, key=lambda pair: (pair[0].stream_id, pair[0].start)):
            outcome = self.streams[part.stream_id].commit(part, who, object_id)
            outcomes[part.stream_id] = max(outcomes.get(part.stream_id, outcome), outcome, key=WEIGHT.index)
            if outcome == "COMMITTED":
                fresh.add(object_id)
            if outcome == "GAP":
                waiting.add(object_id)
        newer = self.newer_checkpoints(flush, outcomes)
        fresh |= {one.ref.object_id for one in newer.values() if isinstance(one, CheckpointPointer)}
        if fresh & self.dead:
            for stream_id, (end, holder) in saved.items():
                self.streams[stream_id].end, self.streams[stream_id].holder = end, holder
            self.refused(self.metadata.commit(flush), Expired)
            return
        result = now(self.metadata.commit(flush))
        assert result.outcomes == {id: RangeOutcome[outcome] for id, outcome in outcomes.items()}
        if not {"GAP", "FENCED"} & set(outcomes.values()):
            self.trims[who] = max(self.trims[who], flush.wal_trim)
        assert result.wal_trim == self.trims[who]
        self.committed |= fresh
        self.prepared -= fresh
        spent = self.prepared & {one.ref.object_id for one in flush.objects} - waiting
        self.prepared -= spent
        self.dead |= spent
        for stream_id, checkpoint in newer.items():
            self.streams[stream_id].checkpoint = checkpoint

    def newer_checkpoints(self, flush: FlushCommit, outcomes: dict[StreamId, str]) -> dict[StreamId, StoredCheckpoint]:
        found = {}
        for stream_id, checkpoint in flush.checkpoints.items():
            model, done = self.streams[stream_id], outcomes[stream_id] in ("ALREADY", "TRIMMED", "COMMITTED")
            newer = model.checkpoint is None or checkpoint.offset > model.checkpoint.offset
            if done and newer and checkpoint.offset <= model.end:
                found[stream_id] = checkpoint
        return found

    @rule(index=st.integers(0, 2), by=st.sampled_from((-3, 1, 2, 3, 8, 60)))
    def trim(self, index: int, by: int) -> None:
        stream_id, model = self.stream(index)
        if model.deleted or model.owner is None:
            return
        start = max(0, model.start + by)
        call = self.metadata.trim_stream(self.nodes[model.owner[0]].identity, stream_id, model.epoch, start)
        model.start = max(model.start, start)
        assert now(call) == model.start

    @rule(limit=st.integers(1, 3))
    def expire(self, limit: int) -> None:
        expired = set(sorted(self.prepared)[:limit])
        assert now(self.metadata.expire_prepared(FAR_MS, limit)) == len(expired)
        self.prepared -= expired
        self.dead |= expired

    @precondition(lambda self: any(not model.deleted for model in self.streams.values()))
    @rule(topic=st.integers(1, 50))
    def delete(self, topic: int) -> None:
        """Seldom: few draws name a topic."""
        mine = [model for model in self.streams.values() if model.topic == topic and not model.deleted]
        if mine:
            now(self.metadata.delete_topic(UUID(int=topic)))
        for model in mine:
            model.deleted, model.owner, model.holder, model.checkpoint = True, None, {}, None

    @rule()
    def forget(self) -> None:
        """The collector deletes what is marked; a retry of its commit must not notice."""
        now(self.metadata.forget_objects(sorted(self.unreferenced())))

    def unreferenced(self) -> set[ObjectId]:
        referenced = {
            object_id
            for model in self.streams.values()
            for offset, object_id in model.holder.items()
            if offset >= model.start
        }
        referenced.update(*(model.checkpoint_object() for model in self.streams.values()))
        return self.dead | self.committed - referenced

    @invariant()
    def agrees(self) -> None:
        self.dead = self.unreferenced()
        self.committed -= self.dead
        assert set(now(marked(self.metadata))) <= self.dead
        rows = {row.stream_id: row for row in now(self.metadata.streams(sorted(self.streams)))}
        for stream_id, model in self.streams.items():
            if model.deleted:
                assert stream_id not in rows
                continue
            row = rows[stream_id]
            assert (row.epoch, row.start_offset, row.committed_end) == (model.epoch, model.start, model.end)
            assert row.state == (StreamState.CLOSED if model.owner is None else StreamState.OPEN)
            assert list(row.epochs) == model.openings
            assert row.checkpoint == model.checkpoint
            ranges = now(self.metadata.object_ranges(stream_id, 0, 1000))
            found = {offset: part.ref.object_id for part in ranges for offset in range(part.start, part.end)}
            assert {offset: id for offset, id in found.items() if offset >= model.start} == {
                offset: id for offset, id in model.holder.items() if offset >= model.start
            }
            assert all(part.end > model.start for part in ranges)
            assert row.size_bytes == sum(part.size for part in ranges)


class MarkedExactly(Commits):
    """Without forgetting, what is marked is exactly what nothing refers to."""

    forget = None  # type: ignore[assignment]

    @invariant()
    def marks(self) -> None:
        assert set(now(marked(self.metadata))) == self.unreferenced()


class OnPostgres(Commits):
    """The same on a server: the SQL, its types and its locks are the engine's own."""

    def make_database(self) -> str:
        return shared_server().url(shared_server().lend_database())

    def drop_database(self) -> None:
        shared_server().take_back(self.database.rpartition("/")[2])


_SETTINGS = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestCommits = Commits.TestCase
TestCommits.settings = _SETTINGS
TestMarkedExactly = MarkedExactly.TestCase
TestMarkedExactly.settings = _SETTINGS
TestOnPostgres = OnPostgres.TestCase
TestOnPostgres.settings = settings(_SETTINGS, max_examples=6, stateful_step_count=25)
