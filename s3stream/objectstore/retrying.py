"""Tries again what a store failed to do: jittered exponential backoff within a deadline, a timeout for each request.

Owns: when to try again. Does not own: what the answer to a repeated create means (exists.py), trying on beyond the
deadline (the caller knows what waiting costs it).
Invariant: every attempt at one key carries identical bytes; so "exists already" with identical content is success,
whoever's attempt it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from s3stream import limits
from s3stream.backoff import Backoff
from s3stream.errors import Unavailable
from s3stream.objectstore.exists import create_or_confirm
from s3stream.objectstore.faults import Refused, gather_all, listing
from s3stream.objectstore.probe import probe
from s3stream.seams import Clock, ObjectInfo, ObjectStore
from s3stream.types import Buffer, Buffers

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    deadline_s: float = limits.STORE_DEADLINE_S
    """No attempt begins later than this after the first."""
    attempts_max: int = limits.STORE_ATTEMPTS_MAX
    request_timeout_s: float = limits.STORE_REQUEST_TIMEOUT_S
    """Of one attempt, without its payload."""
    bytes_per_s_min: int = limits.STORE_BYTES_PER_S_MIN
    """What a payload adds to the timeout: a slower transfer is taken for stuck."""

    def timeout_s(self, size: int) -> float:
        return self.request_timeout_s + size / self.bytes_per_s_min


CHECK_POLICY = RetryPolicy(deadline_s=3.0, request_timeout_s=5.0)
"""A user waits in front of it."""


class RetryingStore:
    """The ObjectStore contract with fewer Unavailable. `url` is for messages."""

    def __init__(
        self, inner: ObjectStore, url: str, clock: Clock, random: Random, policy: RetryPolicy | None = None
    ) -> None:
        self._inner = inner
        self._url = url
        self._clock = clock
        self._random = random
        self._policy = policy or RetryPolicy()

    async def create(self, key: str, data: Buffers) -> None:
        timeout_s = self._policy.timeout_s(sum(map(len, data)))
        await self._retry(lambda: create_or_confirm(self._inner, key, data), f"create {key}", timeout_s)

    async def get(self, key: str) -> Buffer:
        # The size is not known beforehand: time for the largest object there is.
        timeout_s = self._policy.timeout_s(limits.OBJECT_BYTES_MAX)
        return await self._retry(lambda: self._inner.get(key), f"get {key}", timeout_s)

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        """Each range by itself: one that fails does not fetch its neighbours again."""
        return await gather_all([self._get_range(key, start, end) for start, end in ranges])

    async def _get_range(self, key: str, start: int, end: int) -> Buffer:
        timeout_s = self._policy.timeout_s(end - start)
        wanted = [(start, end)]
        return (await self._retry(lambda: self._inner.get_ranges(key, wanted), f"get {key}", timeout_s))[0]

    async def size(self, key: str) -> int:
        return await self._retry(lambda: self._inner.size(key), f"size {key}", self._policy.request_timeout_s)

    async def delete(self, keys: Sequence[str]) -> None:
        what = f"delete {len(keys)} objects"
        await self._retry(lambda: self._inner.delete(keys), what, self._policy.request_timeout_s)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Goes on behind the last key when a page fails; attempts are counted anew once there was progress."""
        attempts = _Attempts(self._policy, self._clock, self._random, f"list {prefix!r}")
        while True:
            try:
                async with listing(self._inner, prefix, after) as infos:
                    while (info := await self._next(infos)) is not None:
                        yield info
                        after = info.key
                        attempts = _Attempts(self._policy, self._clock, self._random, f"list {prefix!r}")
                    return
            except (Unavailable, TimeoutError) as error:
                await attempts.failed(error)

    async def _next(self, infos: AsyncIterator[ObjectInfo]) -> ObjectInfo | None:
        async with asyncio.timeout(self._policy.request_timeout_s):
            return await anext(infos, None)

    async def check(self) -> None:
        await probe(RetryingStore(self._inner, self._url, self._clock, self._random, CHECK_POLICY), self._url)

    async def close(self) -> None:
        await self._inner.close()

    async def _retry(self, request: Callable[[], Awaitable[T]], what: str, timeout_s: float) -> T:
        attempts = _Attempts(self._policy, self._clock, self._random, what)
        while True:
            try:
                # The loop's own clock: a task and a future less per request than racing a Clock.sleep, and a
                # simulation's loop keeps virtual time.
                async with asyncio.timeout(timeout_s):
                    return await request()
            except (Unavailable, TimeoutError) as error:
                await attempts.failed(error)


class _Attempts:
    """The attempts at one request."""

    __slots__ = ("_backoff", "_clock", "_failed", "_policy", "_started", "_what")

    def __init__(self, policy: RetryPolicy, clock: Clock, random: Random, what: str) -> None:
        self._policy = policy
        self._clock = clock
        self._backoff = Backoff(random)
        self._what = what
        self._failed = 0
        self._started = clock.monotonic()

    async def failed(self, error: Exception) -> None:
        """Wait until the next attempt. Raises Unavailable when there is to be none."""
        self._failed += 1
        if isinstance(error, Refused):
            raise error
        delay = self._backoff.next()
        elapsed = self._clock.monotonic() - self._started
        if self._failed >= self._policy.attempts_max or elapsed + delay > self._policy.deadline_s:
            problem = f"{self._what}: no answer in time" if isinstance(error, TimeoutError) else str(error)
            raise Unavailable(f"{problem} (attempt {self._failed}, after {elapsed:.1f} s)") from error
        await self._clock.sleep(delay)
