"""S3, Google Cloud Storage and Azure Blob Storage through obstore (the Rust crate object_store).

Owns: what obstore's answers mean in the terms of the seam. Does not own: retries (retrying.py; obstore's own are off,
for a retry it hides makes the outcome of a conditional PUT ours to guess), credentials (s3.py).
Invariant: buffers are handed to obstore as they are and come back as views of its memory: no copy on this side.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore as ObstoreClient

from s3stream.errors import AlreadyExists, NotFound, OutOfRange, PonorError, Unavailable
from s3stream.objectstore.faults import Refusal, Refused, first_line, gather_all, why_missing
from s3stream.objectstore.probe import probe
from s3stream.seams import ObjectInfo
from s3stream.types import Buffer, Buffers

_THREADS_SETTLE_S = 0.05
_LIST_CHUNK = 1000
"""S3's page."""
_DELETE_BATCH = 1000
"""S3's DeleteObjects takes at most this many."""
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
_MISSING = ("NoSuchKey", "BlobNotFound", "NotFound")
_NO_RANGE = ("416 ", "InvalidRange", "but object is only")
_CONFLICT = ("status code: 409 ", "ConditionalRequestConflict")
_REQUEST = re.compile(r"Error performing ([A-Z]+) (\S+)")
_STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]*)")
_REPLY = re.compile(r"<Code>([^<]*)</Code>(?:.*?<Message>([^<]*)</Message>)?", re.DOTALL)
_SYSTEM = re.compile(r'(?:message|error): "([^"]+)"')
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")


class ObstoreStore:
    def __init__(self, client: ObstoreClient, url: str) -> None:
        self._client = client
        self._url = url

    async def create(self, key: str, data: Buffers) -> None:
        try:
            # A list, not one joined buffer: 0.27 CPU-seconds per GB in 64 KiB buffers. "create" is one PUT, never
            # a multipart upload, with If-None-Match (or the store's own form of it).
            await self._client.put_async(key, list(data) or [b""], mode="create")
        except (BaseError, OSError) as error:
            raise self._meaning(error, key) from error

    async def get(self, key: str) -> Buffer:
        try:
            answer = await self._client.get_async(key)
            return memoryview(await answer.bytes_async())
        except (BaseError, OSError) as error:
            raise self._meaning(error, key) from error

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        return await gather_all([self._get_range(key, start, end) for start, end in ranges])

    async def _get_range(self, key: str, start: int, end: int) -> Buffer:
        try:
            data = memoryview(await self._client.get_range_async(key, start=start, end=end))
        except (BaseError, OSError) as error:
            raise self._meaning(error, key) from error
        if len(data) < end - start:
            raise OutOfRange(f"object {key} has {start + len(data)} bytes, [{start}, {end}) is past its end")
        return data

    async def size(self, key: str) -> int:
        try:
            return int((await self._client.head_async(key))["size"])
        except (BaseError, OSError) as error:
            meaning = self._meaning(error, key)
            if not isinstance(meaning, NotFound):
                raise meaning from error
        raise await why_missing(self, key)

    async def delete(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), _DELETE_BATCH):
            await self._delete_batch(keys[first : first + _DELETE_BATCH])

    async def _delete_batch(self, keys: Sequence[str]) -> None:
        try:
            await self._client.delete_async(list(keys))
        except (BaseError, OSError) as error:
            meaning = self._meaning(error, keys[0])
            if not isinstance(meaning, NotFound):
                raise meaning from error
            # Stores without bulk deletion stop at a key that is missing; the others may still be there.
            if len(keys) > 1:
                await gather_all([self._delete_batch([key]) for key in keys])

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        stream = self._client.list(prefix.rstrip("/") or None, offset=after or None, chunk_size=_LIST_CHUNK)
        try:
            async for chunk in stream:
                for meta in chunk:
                    modified_ms = int(meta["last_modified"].timestamp() * 1000)
                    yield ObjectInfo(meta["path"], meta["size"], modified_ms)
        except (BaseError, OSError) as error:
            raise self._meaning(error, prefix) from error

    async def check(self) -> None:
        await probe(self, self._url)

    async def close(self) -> None:
        """obstore closes its connections with its client object; its threads live as long as the process.

        One of them may be on its way out of the event loop, which it woke with the last answer. Should the interpreter
        end at this very moment, that thread aborts the process (pthread_exit through Rust's frames): four of ten
        programs that exit right after a request. The loop lets go of the interpreter here so that they get through.
        """
        await asyncio.sleep(_THREADS_SETTLE_S)

    def _meaning(self, error: Exception, key: str) -> PonorError:
        """The seam's error. obstore tells some answers apart only in the text of the store's own reply."""
        text = str(error)
        detail = _detail(text)
        if any(mark in text for mark in _NO_BUCKET):
            return Refused(Refusal.BUCKET, detail)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return Refused(Refusal.ACCESS, detail)
        if isinstance(error, AlreadyExistsError | PreconditionError) or any(mark in text for mark in _CONFLICT):
            return AlreadyExists(f"object {key} exists, or somebody is creating it: {detail}")
        if isinstance(error, FileNotFoundError):
            reply = _REPLY.search(text)
            # Other things are 404 as well: versitygw's unknown access key. A reader that is told NotFound takes the
            # object for deleted, so only the store's own word for it will do.
            if reply is not None and reply[1] not in _MISSING:
                return Refused(Refusal.ACCESS, detail)
            return NotFound(f"object {key} does not exist")
        if any(mark in text for mark in _NO_RANGE):
            return OutOfRange(f"object {key}: the range starts past its end: {detail}")
        return Unavailable(detail)


def _detail(text: str) -> str:
    """Request, status and reason in one line, from the page that obstore makes of an error.

    What it says first ("error sending request") is seldom the reason; that stands at the end, in debug output.
    """
    request = _REQUEST.search(text)
    if request is None:
        return first_line(text)
    found = [_STATUS.search(text), _REPLY.search(text), _SYSTEM.search(text) or _KIND.search(text)]
    reasons = [" ".join(part.strip() for part in match.groups() if part) for match in found if match is not None]
    return f"{request[1]} {request[2]}: {': '.join(reasons) or first_line(text)}"
