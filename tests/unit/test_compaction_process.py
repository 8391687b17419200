"""The end of a compaction worker, as its broker sees it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from brokers.compaction import process
from brokers.compaction.messages import Hello
from brokers.compaction.process import WorkerProcess


class Stuck:
    """A process that hears nothing but SIGKILL."""

    pid = 4711

    def __init__(self) -> None:
        self.stdin = SimpleNamespace(close=lambda: None)
        self.killed = asyncio.Event()

    async def wait(self) -> int:
        await self.killed.wait()
        return -9

    def kill(self) -> None:
        self.killed.set()


async def test_a_worker_that_does_not_end_when_told_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.01)
    worker, stuck = WorkerProcess(Hello("memory:", 4096, False, "info", "json")), Stuck()
    found: Any = stuck
    worker._process = found
    await worker.stop()
    assert stuck.killed.is_set() and worker.pid is None
