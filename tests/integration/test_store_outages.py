"""A real store that dies and hangs under a client: requests go on when it comes back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3stream.clock import SystemClock
from s3stream.errors import Unavailable
from s3stream.metrics import Metrics
from s3stream.objectstore import open_store
from s3stream.objectstore.retrying import RetryPolicy
from s3stream.seams import ObjectStore
from tests.support.object_stores import CLIENTS
from tests.support.servers import MinioServer, minio_server
from tests.support.tools import requires

IMPATIENT = RetryPolicy(deadline_s=60, attempts_max=1000, request_timeout_s=0.5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MinioServer]:
    requires("minio")
    with minio_server(tmp_path) as server:
        server.create_bucket("ponor")
        yield server


def opened(server: MinioServer, client: str, policy: RetryPolicy = IMPATIENT) -> ObjectStore:
    url = server.url("ponor", client=client)
    return open_store(url, metrics=Metrics(), clock=SystemClock(), policy=policy, environment=server.environment)


@pytest.mark.parametrize("client", CLIENTS)
async def test_requests_outlive_a_kill_and_a_pause(client: str, server: MinioServer) -> None:
    store = opened(server, client)
    data = [bytes([number]) * 100_000 for number in range(10)]
    await store.create("before", data)
    server.kill()
    writing = asyncio.gather(*(store.create(f"during/{number}", data) for number in range(4)))
    reading = asyncio.create_task(store.get("before"))
    await asyncio.sleep(0.2)
    assert not writing.done()
    await asyncio.to_thread(server.start)
    await writing
    assert bytes(await reading) == b"".join(data)
    server.pause()
    reading = asyncio.create_task(store.get("during/0"))
    await asyncio.sleep(0.7)
    assert not reading.done()
    server.resume()
    assert bytes(await reading) == b"".join(data)
    assert [info.key async for info in store.list("")] == ["before", *(f"during/{number}" for number in range(4))]
    await store.close()


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_hanging_store_is_unavailable_at_the_deadline(client: str, server: MinioServer) -> None:
    store = opened(server, client, RetryPolicy(deadline_s=0.5, attempts_max=3, request_timeout_s=0.3))
    server.pause()
    with pytest.raises(Unavailable):
        await store.create("key", [b"x"])
    with pytest.raises(Unavailable):
        await store.get_ranges("key", [(0, 1), (1, 2)])
    server.resume()
    await store.close()


BRIEF_PROGRAM = """
import asyncio, sys
from s3stream.clock import SystemClock
from s3stream.metrics import Metrics
from s3stream.objectstore import open_store

async def main():
    store = open_store(sys.argv[1], metrics=Metrics(), clock=SystemClock())
    await store.create(sys.argv[2], [bytes(65536)] * 256)
    buffers = await store.get_ranges(sys.argv[2], [(number << 20, (number + 1) << 20) for number in range(16)])
    await store.close()
    return buffers

buffers = asyncio.run(main())
sys.exit(2)
"""


def test_a_program_that_ends_right_after_closing_keeps_its_exit_code(server: MinioServer) -> None:
    """obstore's threads abort a process that ends under them; without the wait in `close`, four times out of ten."""
    codes = [
        subprocess.run(
            [sys.executable, "-c", BRIEF_PROGRAM, server.url("ponor"), f"key-{number}"],
            env={**os.environ, **server.environment},
            check=False,
        ).returncode
        for number in range(10)
    ]
    assert codes == [2] * 10
