"""What a store's answers mean, and the few helpers that every store shares."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from s3stream.errors import OutOfRange, PonorError, Unavailable
from s3stream.seams import ObjectInfo, ObjectStore

T = TypeVar("T")


class Refusal(enum.Enum):
    BUCKET = "bucket"
    """The bucket (or directory) does not exist."""
    ACCESS = "access"
    """Credentials missing, wrong, or without the right."""


class Refused(Unavailable):
    """The store answered, and will answer so until somebody changes something there.

    At start-up it becomes BadSetting (`probe.py`). Later it is unavailability like any other: a bucket policy in the
    wrong state for a minute must not cost more than that minute.
    """

    def __init__(self, refusal: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal


@contextlib.asynccontextmanager
async def listing(store: ObjectStore, prefix: str, after: str) -> AsyncIterator[AsyncIterator[ObjectInfo]]:
    """A listing that ends when its reader stops early: left to the garbage collector, its request would live on."""
    infos = store.list(prefix, after)
    try:
        yield infos
    finally:
        if isinstance(infos, AsyncGenerator):
            await infos.aclose()


async def gather_all(requests: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once and wait for all, whatever happens to one; then raise the first error.

    Nothing is left running behind the caller's back, and no error of a sibling is lost to the log.
    """
    if len(requests) == 1:
        return [await requests[0]]
    results = await asyncio.gather(*requests, return_exceptions=True)
    values: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        values.append(result)
    return values


async def why_missing(store: ObjectStore, key: str) -> PonorError:
    """After a HEAD said 404, which has no words to say what is missing: what a GET says. NotFound is only for keys."""
    try:
        await store.get_ranges(key, [(0, 1)])
    except OutOfRange:
        pass
    except PonorError as error:
        return error
    return Unavailable(f"object {key} was missing a moment ago")


def first_line(text: object) -> str:
    """Enough of a client library's error for a log line: some append a page of debug output."""
    return (str(text).split("\n", 1)[0] or type(text).__name__)[:300]
