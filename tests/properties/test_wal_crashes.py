"""The file WAL on a disk that loses what was not synced (CORRECTNESS 4).

Each seed is a history: appends, trims, restarts, failing calls, and a crash at a random call of any kind. After
each crash recovery must return exactly a run of the history that holds every acknowledged record.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Coroutine
from dataclasses import replace

import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from s3stream.errors import Overloaded, Unavailable
from s3stream.types import StreamBatch
from tests.support.wal import SMALL, Listener, SimPlace, batch, fields, recover_all
from wal.file_wal import FileWal

EPISODES = 6


class History:
    """What may and what must come back."""

    def __init__(self) -> None:
        self.durable: list[StreamBatch] = []
        """Acknowledged, or recovered: index = position."""
        self.unanswered: list[StreamBatch] = []
        """Appended above the durable end, in order; may come back as a prefix."""
        self.trim = 0

    def check(self, recovered: list[StreamBatch], end: int, seed: int) -> None:
        full = [*self.durable, *self.unanswered]
        assert fields(recovered) == fields(full[self.trim : end]), f"seed {seed}"
        assert end >= len(self.durable), f"seed {seed}: acknowledged records are lost"
        self.durable = full[:end]
        self.unanswered = []


class Recorder(Listener):
    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def wal_durable(self, end: int) -> None:
        history = self._history
        count = end - len(history.durable)
        history.durable += history.unanswered[:count]
        del history.unanswered[:count]
        super().wal_durable(end)

    def wal_failed(self, durable_end: int, error: Exception) -> None:
        assert durable_end == len(self._history.durable)
        super().wal_failed(durable_end, error)


class Life:
    """One process on the place: recovers, works, dies."""

    def __init__(self, place: SimPlace, history: History, seed: int) -> None:
        self.place = place
        self.history = history
        self.seed = seed
        self.random = place.random
        self.number = 0

    async def run(self, node_epoch: int) -> None:
        wal = self.place.open(replace(SMALL, segments_kept=self.random.choice([0, 1, 3])))
        await wal.lock()
        recovered = await recover_all(wal, self.history.trim)
        self.history.check(recovered, wal.next_position, self.seed)
        await wal.start(node_epoch, Recorder(self.history))
        self.place.disk.fail = self.fault
        try:
            for _ in range(self.random.randint(1, 60)):
                await self.act(wal)
        finally:
            self.place.mend()
        if self.random.random() < 0.3:
            await wal.close()

    def fault(self, call: str, path: str) -> OSError | None:
        if path.endswith("lock") or self.random.random() > 0.04:
            return None
        return OSError(self.random.choice([errno.EIO, errno.ENOSPC]), f"{call} fails on purpose")

    async def act(self, wal: FileWal) -> None:
        choice = self.random.random()
        if choice < 0.6:
            for _ in range(self.random.randint(1, 8)):
                self.append(wal)
        elif choice < 0.75:
            trim = self.random.randint(self.history.trim, len(self.history.durable))
            self.history.trim = trim
            await wal.trim(trim)
        elif choice < 0.85:
            with contextlib.suppress(Unavailable):
                await wal.repair()
                # From here on what had failed may never come back.
                if wal.next_position == len(self.history.durable):
                    self.history.unanswered = []
        else:
            await asyncio.sleep(0)

    def append(self, wal: FileWal) -> None:
        self.number += 1
        item = batch(self.seed * 1000 + self.number, self.random.choice([0, 5, 60, 500, 3000]))
        expected = wal.next_position
        with contextlib.suppress(Unavailable, Overloaded):
            assert wal.append(item) == expected
            self.history.unanswered.append(item)


def live_and_die(seed: int, sector_bytes: int, garbage: bool) -> None:
    """EPISODES lives on one disk, each ended by a crash at a random call or by a kill."""
    place = SimPlace(seed, sector_bytes)
    disk = place.disk
    disk.garbage = garbage
    history = History()
    life = Life(place, history, seed)
    with structlog.testing.capture_logs():
        for epoch in range(1, EPISODES + 1):
            disk.crash_at = disk.calls + place.random.randint(1, 120) if place.random.random() < 0.8 else None
            asyncio.run(until_crash(place, life.run(epoch)))
            disk.crash_at = None
            if place.random.random() < 0.7:
                disk.power_loss()
            else:
                disk.kill()


async def until_crash(place: SimPlace, life: Coroutine[None, None, None]) -> None:
    """Run to the end or to the crash; what is left of the process is thrown away with its loop."""
    living = asyncio.create_task(life)
    await asyncio.sleep(0)  # The life opens the place anew: from here on `place.files` is its own.
    crashing = asyncio.create_task(place.files.crashed.wait())
    await asyncio.wait([living, crashing], return_when=asyncio.FIRST_COMPLETED)
    if not place.files.crashed.is_set():
        living.result()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1 << 32), sector_bytes=st.sampled_from([512, 4096]), garbage=st.booleans())
def test_every_acknowledged_record_survives_any_crash_and_nothing_cut_returns(
    seed: int, sector_bytes: int, garbage: bool
) -> None:
    live_and_die(seed, sector_bytes, garbage)
