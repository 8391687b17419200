"""Threads for calls that block: a kind of work does not wait for another's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """Where blocking calls run: a kind of work does not wait for another's."""

    def __init__(self) -> None:
        self._pools: list[ThreadPoolExecutor] = []

    def runner(self, name: str, count: int) -> Callable[..., Any]:
        """A `RunBlocking` on threads of its own."""
        pool = ThreadPoolExecutor(count, thread_name_prefix=f"ponor-{name}")
        self._pools.append(pool)

        async def run(function: Callable[..., T], /, *args: object) -> T:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *args)

        return run

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown(wait=True)
