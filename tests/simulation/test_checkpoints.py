"""Checkpoints, small and large, in the engine's simulation (CORRECTNESS 12): whatever the process dies of, a stream is
opened with a checkpoint that is whole, no older than the one its user was told of, and not ahead of the log; and no
object is kept, or deleted, by mistake. Logs are trimmed and objects collected all the time.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from s3stream.errors import PonorError, Unavailable
from s3stream.limits import CHECKPOINT_ROW_BYTES_MAX
from s3stream.object_format import object_key
from s3stream.stream import Stream
from s3stream.types import CheckpointPointer, StreamId
from tests.support import sim_engine
from tests.support.engine import Listener, World
from tests.support.history import Violation
from tests.support.virtual_time import run_virtual

SEEDS = 12
FAR_MS = 10**15
GRACE_MS = 1_000


def blob_of(stream_id: StreamId, offset: int) -> bytes | None:
    """The state at an offset: large, small, or not given, so that an older one stands."""
    unit = b"<state of %d at %d>" % (stream_id, offset)
    return (unit, unit * (CHECKPOINT_ROW_BYTES_MAX // len(unit) + 1), None)[(stream_id + offset) % 3]


class CheckpointLife(sim_engine.Life):
    simulation: CheckpointSimulation

    def __init__(self, simulation: CheckpointSimulation, number: int) -> None:
        super().__init__(simulation, number)
        self._producing = False
        opens = self.engine.open

        async def open_and_look(stream_ids: Sequence[StreamId]) -> list[Stream]:
            opened = await opens(stream_ids)
            for stream in opened:
                # Nobody makes a checkpoint of a stream whose state he does not know yet.
                stream.listener = None
            for listener in self.engine.listeners:
                await self.simulation.look(listener.stream)
                self._keep_state(listener)
            return opened

        self.engine.open = open_and_look  # type: ignore[method-assign]

    def _keep_state(self, listener: Listener) -> None:
        stream = listener.stream

        def committed(offset: int | None) -> None:
            if stream.stream_id in self.moved:
                return
            if offset is not None:
                self.simulation.promised[stream.stream_id] = offset
            if self._producing:
                self.engine.tasks.spawn(self._trim(stream), "trim")

        stream.listener = listener
        listener.blob = lambda offset: blob_of(stream.stream_id, offset)
        listener.committed = committed  # type: ignore[method-assign]

    async def _trim(self, stream: Stream) -> None:
        """To the last batch that is committed: older objects lose their ranges, and some still hold a checkpoint."""
        below = [base for base in self.simulation.bases[stream.stream_id] if base < stream.committed_end]
        if not below or self.random.random() < 0.25:
            return
        self.simulation.forget_below(stream.stream_id, max(below))
        try:
            await stream.trim(max(below))
        except PonorError as error:
            self.simulation.history.note(f"not trimmed {stream.stream_id}: {type(error).__name__}")

    async def produce(self, stream: Stream, *args: Any) -> None:
        self._producing = True
        await super().produce(stream, *args)


class CheckpointSimulation(sim_engine.Simulation):
    life = CheckpointLife
    settings = replace(sim_engine.ENGINE, collect_interval_ms=500, object_delete_grace_ms=GRACE_MS)

    def __init__(self, seed: int, world: World) -> None:
        super().__init__(seed, world)
        self.promised: dict[StreamId, int] = {}
        """Offset of the newest checkpoint that the stream's user was told is safe."""
        self.trimmed: dict[StreamId, int] = defaultdict(int)
        self.found: Counter[str] = Counter()
        # An object that lands after its deletion stays for ever: the grace period is longer than any request.
        self.store.faults.late_s = (0.0, GRACE_MS / 1000)

    async def look(self, stream: Stream) -> None:
        """What a stream is opened with, read as its user would."""
        promised = self.promised.get(stream.stream_id)
        name = f"stream {stream.stream_id}, promised {promised}, durable to {stream.durable_end}"
        while True:
            try:
                checkpoint = await stream.read_checkpoint()
                break
            except Unavailable:
                await asyncio.sleep(1)
        if checkpoint is None:
            if promised is not None:
                raise Violation(f"{name}: opened without a checkpoint")
            return
        if not (promised or 0) <= checkpoint.offset <= stream.durable_end:
            raise Violation(f"{name}: opened with the checkpoint of {checkpoint.offset}")
        # The node that a stream is given to keeps a state of its own kind.
        if checkpoint.blob not in (blob_of(stream.stream_id, checkpoint.offset), b"%d" % checkpoint.offset):
            raise Violation(f"{name}: the checkpoint of {checkpoint.offset} holds something else")
        self.promised[stream.stream_id] = checkpoint.offset
        large = isinstance(stream.checkpoint, CheckpointPointer)
        self.found["large" if large else "small"] += 1
        if large and checkpoint.offset <= stream.start_offset:
            self.found["large, its records trimmed"] += 1

    def forget_below(self, stream_id: StreamId, start: int) -> None:
        """The history claims nothing of what is about to be trimmed."""
        self.trimmed[stream_id] = max(self.trimmed[stream_id], start)
        self.bases[stream_id] = {base for base in self.bases[stream_id] if base >= start}
        for known in (self.history.acknowledged, self.history.seen):
            for key in [key for key in known if key[0] == stream_id and key[1] < self.trimmed[stream_id]]:
                del known[key]

    async def read_whole(self, stream: Stream) -> None:
        self.forget_below(stream.stream_id, 0)
        await super().read_whole(stream)

    async def no_object_is_forgotten(self) -> None:
        """What is left in the store is exactly what ranges and checkpoints name, and what waits to be collected."""
        metadata = self.world.metadata
        named: set[str] = set()
        for row in await metadata.streams(list(self.world.epochs)):
            named.update(object_key(part.ref) for part in await metadata.object_ranges(row.stream_id, 0, 100_000))
            if isinstance(row.checkpoint, CheckpointPointer):
                named.add(object_key(row.checkpoint.ref))
        await metadata.expire_prepared(FAR_MS, 100_000)
        waiting = {object_key(ref) for ref in await metadata.deletable_objects(2 * FAR_MS, 100_000)}
        if named & waiting or named | (waiting & self.world.objects._objects.keys()) != set(
            self.world.objects._objects
        ):
            raise Violation("objects are kept that nothing names, or named ones are about to be deleted")


async def simulate(seed: int) -> Counter[str]:
    simulation = CheckpointSimulation(seed, await World.create(sim_engine.STREAMS))
    await simulation.run()
    await simulation.no_object_is_forgotten()
    return simulation.found


def test_a_stream_is_opened_with_the_newest_checkpoint_that_its_user_was_told_of() -> None:
    """All seeds in one test: together they must have met what it is about."""
    found: Counter[str] = Counter()
    for seed in range(SEEDS):
        try:
            found += run_virtual(simulate(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert found["small"] > SEEDS and found["large"] > SEEDS, found
    assert found["large, its records trimmed"] > SEEDS // 2, found
