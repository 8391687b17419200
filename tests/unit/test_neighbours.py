"""Processes that share a SQLite file wake each other; what cannot be woken is polled, and harms nobody."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from metadata.neighbours import Neighbours
from metadata.store import Metadata, open_metadata
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks
from tests.contracts.test_metadata_pushes import WAIT_SECONDS, NoPoll, until, waiting
from tests.support.metadata import open_for_test


@asynccontextmanager
async def listening(url: str, clock: NoPoll, listens: bool = True) -> AsyncIterator[Metadata]:
    crashes: list[str] = []
    tasks = Tasks(lambda name, error: crashes.append(f"{name}: {error!r}"))
    store = await open_metadata(
        url, clock=clock, metrics=Metrics(), run_blocking=asyncio.to_thread, chance=random.Random(1), tasks=tasks
    )
    folder = Path(url.removeprefix("sqlite://") + "-wake")
    try:
        if listens:
            await until(lambda: folder.is_dir() and bool(list(folder.iterdir())))
        yield store
        assert crashes == []
    finally:
        await store.close()
        await tasks.close()


@pytest.mark.parametrize("depth", [0, 6])
async def test_a_change_by_another_process_wakes_at_once(tmp_path: Path, depth: int) -> None:
    """Also where the folder's path is longer than an address of a socket may be."""
    place = tmp_path.joinpath(*["a-folder-with-a-long-name"] * depth)
    place.mkdir(parents=True, exist_ok=True)
    url, clock = f"sqlite://{place}/m.db", NoPoll()
    async with listening(url, clock) as store:
        other = await open_for_test(url, seed=2)
        version = (await store.load_image()).version
        for number in range(1, 4):
            waiter = await waiting(store, clock, version)
            await other.create_topic(f"t{number}", UUID(int=number), [[0]])
            version = await asyncio.wait_for(waiter, WAIT_SECONDS)
        assert set((await store.load_image()).topics) == {"t1", "t2", "t3"}
        await other.close()
    assert list((place / "m.db-wake").iterdir()) == []


async def test_what_changes_no_image_wakes_nobody(tmp_path: Path) -> None:
    url, clock = f"sqlite://{tmp_path}/m.db", NoPoll()
    async with listening(url, clock) as store:
        other = await open_for_test(url, seed=2)
        node = (await other.register_node(1, "memory:", {"PLAINTEXT": "a:1"})).identity
        waiter = await waiting(store, clock, (await store.load_image()).version)
        await other.heartbeat(node)
        await asyncio.sleep(0.05)
        assert not waiter.done()
        waiter.cancel()
        await other.close()


def test_sockets_of_the_dead_go_and_full_queues_hold_nobody_up(tmp_path: Path) -> None:
    neighbours = Neighbours(tmp_path / "m.db")
    neighbours.wake()  # nobody has ever listened
    neighbours.bind("dead").close()
    with neighbours.bind("busy") as busy:
        (neighbours.folder / "no-socket").touch()
        with pytest.raises(BlockingIOError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            while True:
                sender.sendto(b"look", str(neighbours.folder / "busy"))
        neighbours.wake()
        assert busy.recv(16) == b"look"
    assert not (neighbours.folder / "dead").exists()


async def test_without_a_place_for_sockets_changes_are_polled_for(tmp_path: Path) -> None:
    (tmp_path / "m.db-wake").touch()
    url, clock = f"sqlite://{tmp_path}/m.db", NoPoll()
    async with listening(url, clock, listens=False) as store:
        await asyncio.sleep(0)
        assert (await store.load_image()).topics == {}
    with pytest.raises(OSError):
        Neighbours(tmp_path / "m.db").bind("one")
    with pytest.raises(OSError):
        neighbours = Neighbours(tmp_path / "n.db")
        neighbours.bind("twice")
        neighbours.bind("twice")
