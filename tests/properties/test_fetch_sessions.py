"""Fetch sessions against a small model: what an incremental answer must hold, epochs, bounds, eviction."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from kio.schema.errors import ErrorCode

from brokers.handlers.fetch_session import EVICTION_MS, FetchSessionCache, next_epoch
from brokers.protocol.fetch_codec import FetchPartition, FetchRequest, PartitionAnswer
from s3stream.metrics import Metrics
from tests.support.partitions import FixedClock

NAMES = ["a", "b", "c", "d", "e"]
VERSION = 11


def request(session_id: int, epoch: int, partitions: dict[str, int], forgotten: Any = ()) -> FetchRequest:
    asked = [FetchPartition(name, 0, offset, 100) for name, offset in partitions.items()]
    return FetchRequest(-1, 0, 1, 100, 0, session_id, epoch, asked, [(name, 0) for name in forgotten], "")


class World:
    """Partitions with a high watermark, a log start and perhaps an error."""

    def __init__(self) -> None:
        self.state: dict[str, list[int]] = {name: [0, 0, 0] for name in NAMES}

    def answer(self, partition: FetchPartition, size: int) -> PartitionAnswer:
        assert isinstance(partition.topic, str)
        high, start, error = self.state[partition.topic]
        if error:
            return PartitionAnswer(partition.topic, 0, error)
        return PartitionAnswer(partition.topic, 0, 0, high, high, start, [b"x" * size] if size else [], size)


class SessionModel:
    """What the client knows: the partitions of its session in the broker's order, and what it was last told."""

    def __init__(self, session_id: int, order: list[str], offsets: dict[str, int], told: dict[str, Any]) -> None:
        self.session_id = session_id
        self.epoch = 1
        self.order = order
        self.offsets = offsets
        self.told = told


class FetchSessions(RuleBasedStateMachine):
    sessions = Bundle("sessions")

    @initialize()
    def begin(self) -> None:
        self.clock = FixedClock()
        self.cache = FetchSessionCache(4, self.clock, Random(3), Metrics(), partitions_max=14)
        self.world = World()
        self.alive: dict[int, SessionModel] = {}

    @rule(name=st.sampled_from(NAMES), field=st.sampled_from([0, 1, 2]))
    def change(self, name: str, field: int) -> None:
        if field == 2:
            self.world.state[name][2] = 0 if self.world.state[name][2] else 6
        else:
            self.world.state[name][field] += 1

    @rule(target=sessions, names=st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    def full(self, names: list[str]) -> Any:
        context = self.cache.context(request(0, 0, dict.fromkeys(names, 0)), VERSION)
        assert [p.topic for p in context.partitions] == names
        answers = [self.world.answer(p, 0) for p in context.partitions]
        error, session_id, sent = context.finish(answers)
        assert error is ErrorCode.none and list(sent) == answers, "a full answer holds everything"
        self.forget_evicted()
        if session_id == 0:
            return None
        told = {a.topic: (a.high_watermark if not a.error_code else -1, a.log_start_offset) for a in answers}
        model = SessionModel(session_id, list(names), dict.fromkeys(names, 0), told)
        assert session_id not in self.alive
        self.alive[session_id] = model
        return model

    @rule(
        session=sessions,
        changed=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 5), max_size=3),
        forgotten=st.lists(st.sampled_from(NAMES), unique=True, max_size=2),
        with_data=st.sets(st.sampled_from(NAMES), max_size=2),
    )
    def incremental(self, session: Any, changed: dict[str, int], forgotten: list[str], with_data: set[str]) -> None:
        if session is None:
            return
        context = self.cache.context(request(session.session_id, session.epoch, changed, forgotten), VERSION)
        if self.alive.get(session.session_id) is not session:
            assert context.error in (ErrorCode.fetch_session_id_not_found, ErrorCode.invalid_fetch_session_epoch)
            return
        for name, offset in changed.items():
            if name not in session.order:
                session.order.append(name)
                session.told[name] = (-1, -1)
            session.offsets[name] = offset
        for name in forgotten:
            if name in session.order:
                session.order.remove(name)
        if not session.order:
            del self.alive[session.session_id]
            assert [p.topic for p in context.partitions] == list(changed)
            return
        if context.error:
            assert context.error is ErrorCode.fetch_session_id_not_found, "there was no room for what was added"
            del self.alive[session.session_id]
            return
        assert [p.topic for p in context.partitions] == session.order
        assert [p.fetch_offset for p in context.partitions] == [session.offsets[name] for name in session.order]
        answers = [self.world.answer(p, 5 if p.topic in with_data else 0) for p in context.partitions]
        error, session_id, sent = context.finish(answers)
        assert (error, session_id) == (ErrorCode.none, session.session_id)
        self.check_sent(session, answers, list(sent))
        session.epoch = next_epoch(session.epoch)

    def check_sent(self, session: Any, answers: list[PartitionAnswer], sent: list[PartitionAnswer]) -> None:
        expected = []
        for answer in answers:
            now = (answer.high_watermark, answer.log_start_offset)
            if answer.size or answer.error_code or session.told[answer.topic] != now:
                expected.append(answer)
                session.told[answer.topic] = (-1, now[1]) if answer.error_code else now
                if answer.size:
                    session.order.remove(answer.topic)
                    session.order.append(answer.topic)
        assert sent == expected

    @rule(session=sessions, wrong=st.integers(2, 1000))
    def wrong_epoch(self, session: Any, wrong: int) -> None:
        if session is not None and self.alive.get(session.session_id) is session and wrong != session.epoch:
            context = self.cache.context(request(session.session_id, wrong, {"a": 1}), VERSION)
            assert context.error is ErrorCode.invalid_fetch_session_epoch

    @rule(session=sessions)
    def other_naming(self, session: Any) -> None:
        if session is not None and self.alive.get(session.session_id) is session:
            context = self.cache.context(request(session.session_id, session.epoch, {}), 13)
            assert context.error is ErrorCode.fetch_session_topic_id_error

    @rule(session=consumes(sessions), epoch=st.sampled_from([0, -1]))
    def close(self, session: Any, epoch: int) -> None:
        if session is None:
            return
        context = self.cache.context(request(session.session_id, epoch, {}), VERSION)
        self.alive.pop(session.session_id, None)
        again = self.cache.context(request(session.session_id, session.epoch, {}), VERSION)
        assert again.error is ErrorCode.fetch_session_id_not_found
        assert not context.error

    @rule(ms=st.sampled_from([1, 1000, EVICTION_MS, EVICTION_MS + 1]))
    def pass_time(self, ms: int) -> None:
        self.clock.ms += ms

    def forget_evicted(self) -> None:
        for session_id in [key for key in self.alive if key not in self.cache._sessions]:
            del self.alive[session_id]

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "cache"):
            return
        sessions = self.cache._sessions
        assert len(sessions) <= 4
        assert self.cache._partition_count == sum(len(s.partitions) for s in sessions.values()) <= 14
        assert sessions.keys() == self.alive.keys()


FetchSessions.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestFetchSessions = FetchSessions.TestCase


def filled(clock: FixedClock, sizes: list[int]) -> tuple[FetchSessionCache, list[int]]:
    cache = FetchSessionCache(len(sizes), clock, Random(1))
    return cache, [begin(cache, size) for size in sizes]


def begin(cache: FetchSessionCache, size: int) -> int:
    context = cache.context(request(0, 0, {str(n): 0 for n in range(size)}), VERSION)
    _, session_id, _ = context.finish([PartitionAnswer(p.topic, 0) for p in context.partitions])
    return session_id


def is_alive(cache: FetchSessionCache, session_id: int) -> bool:
    return cache.context(request(session_id, 999, {}), VERSION).error is ErrorCode.invalid_fetch_session_epoch


def test_a_young_session_is_never_evicted() -> None:
    clock = FixedClock()
    cache, ids = filled(clock, [1, 1])
    clock.ms += EVICTION_MS
    assert begin(cache, 100) == 0
    assert all(is_alive(cache, session_id) for session_id in ids)


def test_a_larger_session_evicts_the_smallest_old_one() -> None:
    clock = FixedClock()
    cache, ids = filled(clock, [3, 2, 4])
    clock.ms += EVICTION_MS - 1000
    for session_id in ids:
        assert not cache.context(request(session_id, 1, {}), VERSION).error, "used: not stale"
    clock.ms += 2000
    assert begin(cache, 2) == 0, "no larger than the smallest"
    assert begin(cache, 3) > 0
    assert [is_alive(cache, session_id) for session_id in ids] == [True, False, True]


def test_a_stale_session_is_evicted_by_any() -> None:
    clock = FixedClock()
    cache, ids = filled(clock, [9, 9])
    clock.ms += 1000
    cache.context(request(ids[0], 1, {}), VERSION)
    clock.ms += EVICTION_MS
    assert begin(cache, 1) > 0
    assert [is_alive(cache, session_id) for session_id in ids] == [True, False]


@pytest.mark.parametrize(("epoch", "following"), [(0, 1), (1, 2), (2**31 - 1, 1), (-1, -1)])
def test_epochs_wrap_to_one(epoch: int, following: int) -> None:
    assert next_epoch(epoch) == following
