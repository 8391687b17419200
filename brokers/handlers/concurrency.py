"""Many small waits of one request, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

AT_ONCE: Final = 8

T = TypeVar("T")


async def gather_bounded(coroutines: Iterable[Coroutine[Any, Any, T]], at_once: int = AT_ONCE) -> list[T]:
    """Results in order. The coroutines handle their own errors: the first that raises ends the request."""
    gate = asyncio.Semaphore(at_once)

    async def pass_gate(coroutine: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await coroutine

    return await asyncio.gather(*map(pass_gate, coroutines))
