"""Every implementation of the ObjectStore seam, ready to use, each in a place of its own."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from s3stream.clock import SystemClock
from s3stream.objectstore.factory import open_bare_store
from s3stream.objectstore.faulty import Faults, FaultyStore
from s3stream.objectstore.memory import MemoryStore
from s3stream.objectstore.retrying import RetryingStore, RetryPolicy
from s3stream.objectstore.url import parse_store_url
from s3stream.seams import ObjectStore
from s3stream.tasks import Tasks

T = TypeVar("T")

BUCKET = "contracts"
CLIENTS = ("obstore", "aioboto3")
SERVERS = ("minio", "versitygw", "moto")
STORES = ("memory", "local", "faulty", *(f"{client}-{server}" for client in CLIENTS for server in SERVERS))
PATIENT = RetryPolicy(deadline_s=600.0, attempts_max=1000)


class ImpatientClock(SystemClock):
    """Sleeps are over at once: a test of what is done between them need not wait."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


async def inline(function: Callable[..., T], /, *args: object) -> T:
    """RunBlocking without a thread."""
    return function(*args)


@contextlib.asynccontextmanager
async def open_contract_store(name: str, request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[ObjectStore]:
    """The store called `name`, empty. Starts its server at the first use in the run."""
    tasks = Tasks()
    store = _open(name, request, folder, tasks)
    try:
        yield store
    finally:
        await tasks.close()
        await store.close()


def _open(name: str, request: pytest.FixtureRequest, folder: Path, tasks: Tasks) -> ObjectStore:
    clock = SystemClock()
    if name == "memory":
        return MemoryStore(clock)
    if name == "local":
        return open_bare_store(parse_store_url(f"file://{folder}/objects"), clock, asyncio.to_thread, {})
    if name == "faulty":
        return _faulty(tasks)
    client, server_name = name.split("-")
    server: Any = request.getfixturevalue(server_name)
    server.create_bucket(BUCKET)
    url = server.url(BUCKET, secrets.token_hex(8), client=client)
    return open_bare_store(parse_store_url(url), clock, asyncio.to_thread, server.environment)


def _faulty(tasks: Tasks) -> ObjectStore:
    """A third of all requests go wrong, in every way there is; what retries make of it has to fulfil the contract."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    clock = ImpatientClock()
    faulty = FaultyStore(MemoryStore(clock), clock, Random(seed), tasks)
    faulty.faults = Faults(before=0.1, after=0.1, late=0.1, conflict=0.05, delay=0.1)
    return RetryingStore(faulty, "memory:", clock, Random(seed + 1), PATIENT)
