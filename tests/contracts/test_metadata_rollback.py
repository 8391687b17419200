"""CORRECTNESS 8: a database that lacks what a broker has seen of it is recognised and refused, on every engine.

Going back is played by giving the database an earlier state while the broker holds on to its store: its connections
break, as at a failover or a restore, and the next ones lead to the other history.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy

from metadata.history import NodeWrites, Proof, Seen
from metadata.seen_file import load, save
from metadata.store import Metadata, open_metadata
from metadata.urls import engine_of
from s3stream.errors import BadSetting, RolledBack, Unavailable
from s3stream.metrics import Metrics
from s3stream.types import CommittedRange
from tests.support.metadata import ManualClock, Node, inline, make_streams, open_for_test
from tests.support.postgres import shared_server

ENGINES = ("sqlite", "postgresql")


class Past:
    """A database that can be taken back."""

    def __init__(self, url: str, backup: Callable[[], str], restore: Callable[[str], None]) -> None:
        self.url = url
        self.backup = backup
        self.restore = restore
        self.stores: list[Metadata] = []

    async def open(self, seed: int = 1, seen_file: Path | None = None) -> Metadata:
        store = await open_metadata(
            self.url, clock=ManualClock(), metrics=Metrics(), run_blocking=inline, seen_file=seen_file
        )
        self.stores.append(store)
        return store

    def go_back(self, state: str) -> None:
        self.restore(state)
        for store in self.stores:
            store._engine._reader.dispose()  # SQLite: as a restart of the file system's host would


@pytest.fixture(params=ENGINES)
async def past(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Past]:
    if request.param == "sqlite":
        made = _sqlite(tmp_path)
    else:
        server = shared_server()
        name = server.create_database()
        made = Past(server.url(name), lambda: server.backup(name), lambda state: server.restore(name, state))
    yield made
    for store in made.stores:
        await store.close()


def _sqlite(folder: Path) -> Past:
    live = folder / "live"
    live.mkdir()
    states: list[Path] = []

    def backup() -> str:
        for store in made.stores:
            store._engine._reader.dispose()  # the last connection folds the journal into the file
        states.append(shutil.copytree(live, folder / f"state-{len(states)}"))
        return str(states[-1])

    def restore(state: str) -> None:
        for store in made.stores:
            store._engine._reader.dispose()
        shutil.rmtree(live)
        shutil.copytree(state, live)

    made = Past(f"sqlite://{live}/metadata.db", backup, restore)
    return made


async def refused(store: Metadata, call: object, words: str) -> None:
    with pytest.raises(RolledBack, match=words):
        await call  # type: ignore[misc]
    assert store.rolled_back is not None
    assert store.failure is not None


async def test_a_lost_commit_is_noticed_by_every_call_and_nothing_is_done(past: Past) -> None:
    store = await past.open()
    [stream] = await make_streams(store, 1)
    node = await Node.register(store)
    await node.open(stream)
    await node.commit(CommittedRange(stream, 0, 0, 5, 1))
    old = past.backup()
    await node.commit(CommittedRange(stream, 0, 5, 9, 1))
    good = past.backup()
    past.go_back(old)
    flush = node.flush({99: [CommittedRange(stream, 0, 9, 12, 1)]})
    words = "node 0 epoch 1 had made 5 writes, found is 3"  # one for the block of object ids
    for call in (
        store.commit(flush), store.streams([stream]), store.load_image(), store.heartbeat(node.identity),
        store.create_topic("u", UUID(int=9), [[0]]), store.allocate_producer_ids(node.identity, 1),
        store.deletable_objects(0, 1),
    ):  # fmt: skip
        await refused(store, call, words)
    other = await open_for_test(past.url)  # has seen nothing, and so cannot know
    [row] = await other.streams([stream])
    assert row.committed_end == 5
    assert set((await other.load_image()).topics) == {"t"}
    await other.close()
    past.go_back(good)
    [row] = await store.streams([stream])
    assert row.committed_end == 9
    assert store.rolled_back is store.failure is None


@pytest.mark.parametrize("what", ["prepared", "producer ids", "trim"])
async def test_what_was_given_out_counts_as_a_commit(past: Past, what: str) -> None:
    store = await past.open()
    [stream] = await make_streams(store, 1)
    node = await Node.register(store)
    await node.open(stream)
    await node.commit(CommittedRange(stream, 0, 0, 5, 1))
    old = past.backup()
    if what == "prepared":
        await node.prepare()
    elif what == "producer ids":
        await store.allocate_producer_ids(node.identity, 1000)
    else:
        await store.trim_stream(node.identity, stream, 0, 5)
    past.go_back(old)
    await refused(store, store.streams([stream]), "writes")


async def test_a_lost_image_version_is_noticed_also_when_others_have_passed_it(past: Past) -> None:
    """The lost versions are given again, to other changes: a number alone would not tell."""
    store = await past.open()
    old = past.backup()
    await store.create_topic("lost", UUID(int=1), [[0]])
    image = await store.load_image()
    past.go_back(old)
    await refused(
        store, store.load_image(image), f"was at version {image.version}, found is version {image.version - 1}"
    )
    other = await past.open(2)
    for number in range(2, 5):
        await other.create_topic(f"t{number}", UUID(int=number), [[0]])
    assert (await other.load_image()).version > image.version
    await refused(store, store.load_image(image), f"image version {image.version} was another one")
    await refused(store, store.create_topic("new", UUID(int=9), [[0]]), "another one")
    assert "new" not in (await other.load_image()).topics


async def test_a_lost_registration_is_noticed(past: Past) -> None:
    store = await past.open()
    old = past.backup()
    node = await Node.register(store)
    past.go_back(old)
    with pytest.raises(RolledBack):
        await store.prepare_objects(node.identity, 1, 0)


async def test_a_connection_kept_by_a_proxy_is_checked_by_each_write_and_each_look(past: Past) -> None:
    """A pooler may hide a failover: no connection breaks. The counters of the transaction itself still tell."""
    store = await past.open()
    [stream] = await make_streams(store, 1)
    node = await Node.register(store)
    await node.open(stream)
    object_id = await node.prepare()
    history = store._engine.history
    true = history.seen
    assert true.node is not None
    assert true.image is not None
    history.recall(true._replace(node=true.node._replace(writes=50)))
    flush = node.flush({object_id: [CommittedRange(stream, 0, 0, 5, 1)]})
    await refused(store, store.commit(flush), "had made 50 writes, found is 2")
    history.recall(true)
    assert (await store.streams([stream]))[0].committed_end == 0
    assert store.rolled_back is None
    history.recall(true._replace(image=true.image._replace(version=50)))
    await refused(store, store.create_topic("u", UUID(int=9), [[0]]), "at version 50")
    history.recall(true)
    assert set((await store.load_image()).topics) == {"t"}
    history.recall(true._replace(image=true.image._replace(version=50)))
    await refused(store, store.load_image(), "at version 50")
    history.recall(true._replace(image=Proof(true.image.version, 1)))
    await refused(store, store.load_image(), "was another one")


async def test_what_other_nodes_do_raises_no_alarm(past: Past) -> None:
    one, two = await past.open(1), await past.open(2)
    node, other = await Node.register(one, 0), await Node.register(two, 1)
    streams = await make_streams(one, 2)
    await node.open(streams[0])
    await other.assign(streams[1])
    await other.open(streams[1])
    for step in range(3):
        await node.commit(CommittedRange(streams[0], 0, step, step + 1, 1))
        await other.commit(CommittedRange(streams[1], 0, step, step + 1, 1))
        await one.load_image()
        for store in (one, two):
            store._engine._reader.dispose()
    again = await Node.register(two, 0, "file:///wal-0")
    assert again.identity.node_epoch == 2
    one._engine._reader.dispose()
    assert (await one.streams(streams[:1]))[0].committed_end == 3
    assert one.rolled_back is two.rolled_back is None


# --- across restarts ---------------------------------------------------------------------------


async def test_a_restarted_broker_still_knows(past: Past, tmp_path: Path) -> None:
    file = tmp_path / "broker-0" / "metadata-seen.json"
    store = await past.open(seen_file=file)
    [stream] = await make_streams(store, 1)
    node = await Node.register(store)
    await node.open(stream)
    old = past.backup()
    await node.commit(CommittedRange(stream, 0, 0, 5, 1))
    await store.close()
    again = await past.open(seen_file=file)
    assert (await again.streams([stream]))[0].committed_end == 5
    await again.close()
    past.go_back(old)
    before = file.read_bytes()
    with pytest.raises(BadSetting, match="rolled back: node 0 epoch 1 had made 3 writes, found is 0"):
        await past.open(seen_file=file)
    assert file.read_bytes() == before


async def test_a_broker_that_notices_has_it_on_disk_at_once(past: Past, tmp_path: Path) -> None:
    """Whoever restarts it now, with kill -9 even, must not make it forget."""
    file = tmp_path / "metadata-seen.json"
    store = await past.open(seen_file=file)
    old = past.backup()
    await make_streams(store, 1)
    past.go_back(old)
    await refused(store, store.load_image(), "at version 2")
    with pytest.raises(BadSetting, match="at version 2"):
        await past.open(seen_file=file)


async def test_a_broker_that_knows_a_cluster_takes_no_empty_database_for_it(past: Past, tmp_path: Path) -> None:
    """A wrong URL: an empty database is not made a cluster, whoever's turn it is."""
    file = tmp_path / "metadata-seen.json"
    save(file, Seen("other", Proof(7, 1), NodeWrites(0, 1, 2, 3)))
    with pytest.raises(BadSetting, match="this was cluster other"):
        await past.open(seen_file=file)
    engine = engine_of(past.url)
    assert engine.read(0, random.Random(1), lambda tx: sqlalchemy.inspect(tx.connection).get_table_names()) == []
    engine.close()


def test_the_file_is_read_back_and_a_damaged_or_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metadata-seen.json"
    assert load(path) == Seen()
    for seen in (Seen("c"), Seen("c", Proof(2**40, None)), Seen("c", Proof(1, 2**62), NodeWrites(1, 2, 2**62, 4))):
        save(path, seen)
        assert load(path) == seen
        assert [file.name for file in path.parent.iterdir()] == [path.name]
    fields = json.loads(path.read_text())
    for text, words in (
        ("", "damaged"), ("[]", "damaged"), (json.dumps({**fields, "format": 2}), "format 2"),
        (json.dumps({**fields, "node": {"node_id": 1}}), "damaged"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(BadSetting, match=words):
            load(path)


async def test_a_disk_that_cannot_hold_the_file_costs_no_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = await open_metadata(
        "memory:", clock=ManualClock(), metrics=Metrics(), run_blocking=inline, seen_file=tmp_path / "no.json"
    )
    store._keeper._path = tmp_path / "file" / "x.json"  # type: ignore[union-attr]
    await Node.register(store)
    await store.close()
    assert not (tmp_path / "no.json").exists()


async def test_an_unavailable_answer_of_ours_is_no_outage(past: Past) -> None:
    """A stream not yet committed to its end is Unavailable to the caller; the database is well."""
    store = await past.open()
    [stream] = await make_streams(store, 1)
    node = await Node.register(store)
    await node.open(stream)
    with pytest.raises(Unavailable):
        await store.close_streams(node.identity, {stream: 5})
    assert store.failure is None
