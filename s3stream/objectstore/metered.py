"""Counts what a store is asked: requests, bytes, errors and seconds by operation. Wraps a bare store, below retries,
so that every request on the wire (and on the bill) is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar

from s3stream.errors import PonorError, Unavailable
from s3stream.metrics import Metrics
from s3stream.objectstore.faults import listing
from s3stream.seams import Clock, ObjectInfo, ObjectStore
from s3stream.types import Buffer, Buffers

T = TypeVar("T")

_OPERATIONS = ("create", "get", "size", "delete", "list")


class _Meter:
    """One operation's metrics."""

    __slots__ = ("_clock", "bytes", "errors", "requests", "seconds")

    def __init__(self, metrics: Metrics, clock: Clock, operation: str) -> None:
        self._clock = clock
        self.requests = metrics.counter(
            "ponor_object_store_requests_total", "Requests to the object store, retries included.", operation=operation
        )
        self.errors = metrics.counter(
            "ponor_object_store_errors_total", "Requests that failed or timed out.", operation=operation
        )
        self.bytes = metrics.counter(
            "ponor_object_store_bytes_total", "Bytes written to or read from the object store.", operation=operation
        )
        self.seconds = metrics.histogram(
            "ponor_object_store_request_seconds", "Time of one request.", operation=operation
        )

    async def measure(self, request: Awaitable[T], requests: int = 1) -> T:
        """An answer that is no fault (not found, exists already) is not an error; a cancelled request is one."""
        self.requests.inc(requests)
        started = self._clock.monotonic()
        try:
            return await request
        except PonorError as error:
            if isinstance(error, Unavailable):
                self.errors.inc()
            raise
        except BaseException:
            self.errors.inc()
            raise
        finally:
            self.seconds.observe(self._clock.monotonic() - started)


class MeteredStore:
    def __init__(self, inner: ObjectStore, metrics: Metrics, clock: Clock) -> None:
        self._inner = inner
        self._create, self._get, self._size, self._delete, self._list = (
            _Meter(metrics, clock, operation) for operation in _OPERATIONS
        )

    async def create(self, key: str, data: Buffers) -> None:
        await self._create.measure(self._inner.create(key, data))
        self._create.bytes.inc(sum(map(len, data)))

    async def get(self, key: str) -> Buffer:
        data = await self._get.measure(self._inner.get(key))
        self._get.bytes.inc(len(data))
        return data

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        buffers = await self._get.measure(self._inner.get_ranges(key, ranges), len(ranges))
        self._get.bytes.inc(sum(map(len, buffers)))
        return buffers

    async def size(self, key: str) -> int:
        return await self._size.measure(self._inner.size(key))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._delete.measure(self._inner.delete(keys))

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """One listing counts once, however many pages it takes; its time is not the store's alone, so not observed."""
        self._list.requests.inc()
        try:
            async with listing(self._inner, prefix, after) as infos:
                async for info in infos:
                    yield info
        except Unavailable:
            self._list.errors.inc()
            raise

    async def check(self) -> None:
        await self._inner.check()

    async def close(self) -> None:
        await self._inner.close()
