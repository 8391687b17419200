"""S3 through aioboto3: the second implementation behind the seam, for stores and networks that obstore cannot serve.

Slower than obstore (1.5 against 0.6 CPU-seconds per GB read), with AWS's own client behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aioboto3
from aiohttp import ClientError as HttpClientError
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError

from s3stream.errors import AlreadyExists, NotFound, OutOfRange, PonorError, Unavailable
from s3stream.limits import (
    STORE_CONNECT_TIMEOUT_S,
    STORE_IDLE_CONNECTIONS_MAX,
    STORE_REQUEST_TIMEOUT_MAX_S,
)
from s3stream.objectstore.faults import Refusal, Refused, first_line, gather_all, why_missing
from s3stream.objectstore.probe import probe
from s3stream.objectstore.s3 import S3Settings
from s3stream.seams import ObjectInfo
from s3stream.types import Buffer, Buffers

_DELETE_BATCH = 1000
_FAILURES = (BotoCoreError, ClientError, HTTPClientError, HttpClientError, OSError, asyncio.TimeoutError)
_DENIED = (
    "AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "InvalidToken", "403",
    "XAdminUserNotFound",
)  # fmt: skip
_EXISTS = ("PreconditionFailed", "ConditionalRequestConflict", "409", "412")
_MISSING = ("NoSuchKey", "404", "NotFound")
_NO_RANGE = ("InvalidRange", "416")


class Aioboto3Store:
    def __init__(self, settings: S3Settings, url: str) -> None:
        self._settings = settings
        self._url = url
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._stack = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()
        self._client: Any = None

    async def create(self, key: str, data: Buffers) -> None:
        # Joined: botocore wants one body whose length it can see, and rewind for a redirect.
        body = b"".join(data)
        checksum = {} if self._settings.checksum is None else {"ChecksumAlgorithm": self._settings.checksum.upper()}
        await self._call("put_object", key, Body=body, IfNoneMatch="*", **checksum)

    async def get(self, key: str) -> Buffer:
        return await self._body(key)

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        return await gather_all([self._get_range(key, start, end) for start, end in ranges])

    async def _get_range(self, key: str, start: int, end: int) -> Buffer:
        data = await self._body(key, Range=f"bytes={start}-{end - 1}")
        if len(data) < end - start:
            raise OutOfRange(f"object {key} has {start + len(data)} bytes, [{start}, {end}) is past its end")
        return data

    async def _body(self, key: str, **parameters: str) -> bytes:
        answer = await self._call("get_object", key, **parameters)
        try:
            async with answer["Body"] as stream:
                return bytes(await stream.read())
        except _FAILURES as error:
            raise self._meaning(error, key) from error

    async def size(self, key: str) -> int:
        try:
            return int((await self._call("head_object", key))["ContentLength"])
        except NotFound:
            raise await why_missing(self, key) from None

    async def delete(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), _DELETE_BATCH):
            batch = [{"Key": self._prefix + key} for key in keys[first : first + _DELETE_BATCH]]
            client = await self._opened()
            try:
                answer = await client.delete_objects(
                    Bucket=self._settings.bucket, Delete={"Objects": batch, "Quiet": True}
                )
            except _FAILURES as error:
                raise self._meaning(error, keys[first]) from error
            for problem in answer.get("Errors", ()):
                if problem.get("Code") not in _MISSING:
                    raise Unavailable(f"delete {problem.get('Key')}: {problem.get('Code')} {problem.get('Message')}")

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        client = await self._opened()
        parameters = {"Bucket": self._settings.bucket, "Prefix": self._prefix + prefix}
        if after:
            parameters["StartAfter"] = self._prefix + after
        try:
            async for page in client.get_paginator("list_objects_v2").paginate(**parameters):
                for entry in page.get("Contents", ()):
                    modified_ms = int(entry["LastModified"].timestamp() * 1000)
                    yield ObjectInfo(entry["Key"][len(self._prefix) :], entry["Size"], modified_ms)
        except _FAILURES as error:
            raise self._meaning(error, prefix) from error

    async def check(self) -> None:
        await probe(self, self._url)

    async def close(self) -> None:
        self._client = None
        await self._stack.aclose()

    async def _call(self, operation: str, key: str, **parameters: Any) -> Any:
        client = await self._opened()
        try:
            return await getattr(client, operation)(Bucket=self._settings.bucket, Key=self._prefix + key, **parameters)
        except _FAILURES as error:
            raise self._meaning(error, key) from error

    async def _opened(self) -> Any:
        """The client, opened by the first request: it belongs to the event loop that runs then."""
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await self._stack.enter_async_context(_client_of(self._settings))
        return self._client

    def _meaning(self, error: Exception, key: str) -> PonorError:
        detail = first_line(error)
        code = str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
        if code == "NoSuchBucket":
            return Refused(Refusal.BUCKET, detail)
        if code in _DENIED or isinstance(error, NoCredentialsError):
            return Refused(Refusal.ACCESS, detail)
        if code in _EXISTS:
            return AlreadyExists(f"object {key} exists, or somebody is creating it: {detail}")
        if code in _MISSING:
            return NotFound(f"object {key} does not exist")
        if code in _NO_RANGE:
            return OutOfRange(f"object {key}: the range starts past its end: {detail}")
        return Unavailable(detail)


def _client_of(settings: S3Settings) -> Any:
    from aiobotocore.config import AioConfig

    config = AioConfig(
        region_name=settings.region,
        # Its own retries are off for the same reason as obstore's: see obstore.py.
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=STORE_CONNECT_TIMEOUT_S,
        read_timeout=STORE_REQUEST_TIMEOUT_MAX_S,
        max_pool_connections=STORE_IDLE_CONNECTIONS_MAX,
        s3={
            "addressing_style": "path" if settings.path_style else "virtual",
            "payload_signing_enabled": settings.sign_payload,
        },
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    if settings.session is None:
        session = aioboto3.Session(settings.access_key, settings.secret_key, settings.token)
    else:
        session = aioboto3.Session()
    return session.client("s3", endpoint_url=settings.endpoint, config=config)
