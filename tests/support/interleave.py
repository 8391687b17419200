"""Two transactions in a chosen order: one is held in its middle while another is begun.

For stores that run their transactions in threads. Nothing is decided by time: a test gives the second one a moment, in
which it either waits for the first or (the code being broken) goes past it, and looks at what came of both.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest

from metadata.store import Metadata, open_metadata
from s3stream.metrics import Metrics
from tests.support.metadata import ManualClock, engine_url

A = TypeVar("A")
B = TypeVar("B")

SHARED_ENGINES = ("sqlite-file", "postgresql")
_MOMENT_S = 0.3


@pytest.fixture(params=SHARED_ENGINES)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Metadata, Metadata]]:
    """Two brokers' worth of connections to one database."""
    async with AsyncExitStack() as stack:
        url = stack.enter_context(engine_url(request.param, tmp_path))
        opened = []
        for seed in range(2):
            store = await open_metadata(
                url, clock=ManualClock(), metrics=Metrics(), run_blocking=asyncio.to_thread, chance=random.Random(seed)
            )
            stack.push_async_callback(store.close)
            opened.append(store)
        yield opened[0], opened[1]


async def held(
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    name: str,
    first: Callable[[], Awaitable[A]],
    second: Callable[[], Awaitable[B]],
) -> tuple[A | Exception, B | Exception]:
    """Begin `first`, hold it just after its call of `module.name` (what it locked there it keeps), begin `second`, let
    go of `first` after a moment. Returns what each gave or raised."""
    function = getattr(module, name)
    reached, go = threading.Event(), threading.Event()

    def holding(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if not reached.is_set():
            reached.set()
            assert go.wait(30), "nobody let go"
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, name, holding)
        one = asyncio.ensure_future(first())
        assert await asyncio.to_thread(reached.wait, 30), f"{name} was not called"
        other = asyncio.ensure_future(second())
        await asyncio.wait({other}, timeout=_MOMENT_S)
        go.set()
        await asyncio.wait({one, other})
    return _outcome(one), _outcome(other)


def _outcome(done: asyncio.Future[A]) -> A | Exception:
    error = done.exception()
    if error is None:
        return done.result()
    if not isinstance(error, Exception):
        raise error
    return error
