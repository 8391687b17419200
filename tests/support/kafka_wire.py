"""A raw Kafka client for tests: frames of any shape, sent as they are, and answers read back with kio."""

from __future__ import annotations

import asyncio
import itertools
import struct
import uuid
from dataclasses import fields
from random import Random
from typing import Any

from kio.serial import entity_reader

from brokers.protocol.apis import APIS
from brokers.protocol.messages import default_of, encode, milliseconds, request_class, response_class


def request_frame(
    api_key: int, version: int, body: bytes, correlation_id: int = 1, client_id: str | None = "test"
) -> bytes:
    """Length, header and body."""
    name = None if client_id is None else client_id.encode()
    client = b"\xff\xff" if name is None else struct.pack(">h", len(name)) + name
    header = struct.pack(">hhi", api_key, version, correlation_id) + client
    if api_key in APIS and version >= APIS[api_key].flexible:
        header += b"\x00"
    return struct.pack(">i", len(header) + len(body)) + header + body


def response_body(api_key: int, version: int, frame: bytes) -> tuple[int, bytes]:
    """(correlation id, body) of an answer without its length."""
    (correlation_id,) = struct.unpack_from(">i", frame)
    return correlation_id, frame[5 if APIS[api_key].response_header_version(version) else 4 :]


def decode_response(api_key: int, version: int, body: bytes) -> Any:
    entity, size = entity_reader(response_class(api_key, version))(body, 0)
    assert size == len(body), "bytes after the answer"
    return entity


def sample_message(cls: Any, chance: Random, **given: Any) -> Any:
    """An instance of one of kio's classes: every array has one or two items. `given`: a function of `chance` by
    the name of a field, wherever it stands."""
    from kio.serial._introspect import EntityField, EntityTupleField, PrimitiveTupleField, classify_field

    values = {}
    for field in fields(cls):
        kind = classify_field(field)
        if field.name in given:
            values[field.name] = given[field.name](chance)
        elif isinstance(kind, EntityTupleField):
            values[field.name] = tuple(sample_message(kind.type_, chance, **given) for _ in range(chance.randint(1, 2)))
        elif isinstance(kind, EntityField):
            values[field.name] = sample_message(kind.type_, chance, **given)
        elif isinstance(kind, PrimitiveTupleField):
            values[field.name] = ()
        else:
            values[field.name] = _sample_primitive(field, chance)
    return cls(**values)


def _sample_primitive(field: Any, chance: Random) -> Any:
    kafka_type = field.metadata["kafka_type"]
    if kafka_type == "string":
        return chance.choice(["", "x", "a longer text, ä", "y" * 200])
    if kafka_type in ("bytes", "records"):
        return chance.randbytes(chance.choice([0, 5, 300]))
    if kafka_type.startswith("int"):
        return chance.randint(0, 100)
    if kafka_type == "timedelta_i32":
        return milliseconds(chance.randint(0, 100_000))
    if kafka_type == "uuid":
        return chance.choice([None, uuid.UUID(int=chance.getrandbits(128) | 1)])
    return default_of(field)


class WireClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._ids = itertools.count(1)

    @classmethod
    async def connect(cls, port: int) -> WireClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=256 * 1024 * 1024)
        return cls(reader, writer)

    def send(self, api_key: int, version: int, body: bytes, correlation_id: int | None = None) -> int:
        number = next(self._ids) if correlation_id is None else correlation_id
        self.writer.write(request_frame(api_key, version, body, number))
        return number

    async def receive(self) -> bytes:
        """The next answer without its length."""
        async with asyncio.timeout(10):
            (size,) = struct.unpack(">i", await self.reader.readexactly(4))
            return await self.reader.readexactly(size)

    async def call(self, api_key: int, version: int, request: Any) -> Any:
        """Send a request of kio's classes and decode its answer."""
        body = request if isinstance(request, bytes) else encode(request_class(api_key, version), request)
        number = self.send(api_key, version, body)
        correlation_id, answer = response_body(api_key, version, await self.receive())
        assert correlation_id == number
        return decode_response(api_key, version, answer)

    async def closed_by_peer(self) -> bool:
        """Whether the server ends the connection without another byte."""
        try:
            async with asyncio.timeout(10):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass
