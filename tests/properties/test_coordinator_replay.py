"""A coordinator's state after any history: what a restart loads from snapshot and tail is what full replay loads,
and both are exactly what clients were told (CORRECTNESS 6, 12, 18)."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.coordinators import snapshot
from brokers.coordinators.log import replay
from brokers.coordinators.snapshot import DurableMap
from brokers.groups.messages import LeaveMember
from tests.support.coordinator import CoordinatorRig
from tests.support.manual_clock import settle

GROUPS = ("a", "b", "c")

group = st.sampled_from(GROUPS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), group, st.integers(0, 1), st.integers(0, 99)),
        st.tuples(st.just("delete offset"), group, st.integers(0, 1)),
        st.tuples(st.just("delete group"), group),
        st.tuples(st.just("member"), group),
        st.tuples(st.just("leave"), group),
        st.tuples(st.just("durable"), st.integers(1, 3)),
        st.tuples(st.just("lose")),
        st.tuples(st.just("checkpoint")),
        st.tuples(st.just("restart")),
    ),
    max_size=25,
)


class History:
    """Runs the steps with manual durability; remembers what was acknowledged."""

    def __init__(self) -> None:
        self.rig = CoordinatorRig()
        self.blob: bytes | None = None
        self.acknowledged: dict[tuple[str, int], int] = {}
        self.open: list[tuple[asyncio.Task[Any], str, int, int | None]] = []

    async def step(self, step: tuple[Any, ...]) -> None:
        rig, kind = self.rig, step[0]
        if kind == "commit":
            self._ask(rig.committing(step[1], step[3], step[2]), step[1], step[2], step[3])
        elif kind == "delete offset":
            self._ask(rig.run(rig.coordinator.delete_offsets(step[1], {"t": (step[2],)})), step[1], step[2], None)
        elif kind == "delete group":
            deleting = rig.run(rig.coordinator.delete_groups([step[1]]))
            for partition in (0, 1):
                self._ask(deleting, step[1], partition, None)
        elif kind == "member":
            joining = rig.joining(step[1])
            await settle()
            await rig.clock.advance(0.001)
            if joining.done() and joining.exception() is None and not joining.result().error:
                joined = joining.result()
                rig.syncing(step[1], joined.member_id, joined.generation)
        elif kind == "leave":
            found = rig.shard.state.groups.get(step[1])
            leaving = [LeaveMember(member) for member in found.members.members] if found else []
            rig.run(rig.coordinator.leave(step[1], leaving)).add_done_callback(lambda task: task.exception())
        elif kind == "durable":
            rig.stream.make_durable(step[1])
        elif kind == "lose":
            rig.stream.lose()
        elif kind == "checkpoint":
            blob = rig.checkpoint()
            if blob is not None:
                self.blob = blob
                rig.log.committed(rig.log.high_watermark)
        elif kind == "restart":
            await rig.restart(self.blob)
        await settle()
        self._collect()

    def _ask(self, task: asyncio.Task[Any], group: str, partition: int, value: int | None) -> None:
        self.open.append((task, group, partition, value))

    def _collect(self) -> None:
        """Answers come in the order of the log, so the last one that succeeded is the value."""
        waiting = []
        for task, name, partition, value in self.open:
            if not task.done():
                waiting.append((task, name, partition, value))
            elif task.exception() is None and self._succeeded(task.result()):
                self.acknowledged.pop((name, partition), None)
                if value is not None:
                    self.acknowledged[name, partition] = value
        self.open = waiting

    @staticmethod
    def _succeeded(result: Any) -> bool:
        errors = list(result.values()) if isinstance(result, dict) else [entry.error for entry in result]
        return not any(errors)

    async def finish(self) -> None:
        self.rig.stream.make_durable()
        await settle()
        self._collect()


def _state(durable: DurableMap) -> tuple[dict[bytes, bytes], int]:
    return dict(durable.entries), durable.end


@settings(max_examples=80, deadline=None)
@given(steps)
def test_what_was_acknowledged_is_there_after_any_history(history: list[tuple[Any, ...]]) -> None:
    async def run() -> None:
        past = History()
        await past.rig.start()
        past.rig.stream.auto = False
        for step in history:
            await past.step(step)
        await past.finish()
        live = _state(past.rig.shard.state.durable)
        await past.rig.restart(past.blob)
        assert _state(past.rig.shard.state.durable) == live, "a restart loads what the living one knew"
        for name in GROUPS:
            for partition in (0, 1):
                found = await past.rig.offset(name, partition)
                assert found == past.acknowledged.get((name, partition))
        await past.rig.close()

    minimum = snapshot.SNAPSHOT_RECORDS_MIN
    snapshot.SNAPSHOT_RECORDS_MIN = 2
    try:
        asyncio.run(run())
    finally:
        snapshot.SNAPSHOT_RECORDS_MIN = minimum


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(group, st.integers(0, 1), st.integers(0, 9) | st.none()), min_size=1, max_size=15))
def test_snapshot_and_tail_are_full_replay_cut_anywhere(writes: list[tuple[str, int, int | None]]) -> None:
    async def run() -> None:
        rig = CoordinatorRig()
        await rig.start()
        blobs = {0: DurableMap().encode()}
        for name, partition, value in writes:
            if value is None:
                await rig.coordinator.delete_groups([name])
            else:
                await rig.commit(name, value, partition)
            blobs[rig.log.high_watermark] = rig.shard.state.durable.encode()
        full = DurableMap()
        await replay(rig.log, full)
        for offset, blob in blobs.items():
            part = DurableMap.decode(blob)
            assert part.end == offset
            await replay(rig.log, part)
            assert _state(part) == _state(full)
        await rig.close()

    asyncio.run(run())
