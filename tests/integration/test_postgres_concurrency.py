"""Several nodes on one PostgreSQL at the same time: locks, deadlocks, migrations, a rolling upgrade."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import select, update

from metadata import migrate, objects, schema, topics
from metadata.engine import Transaction
from metadata.limits import CONFLICT_ATTEMPTS
from metadata.postgres import PostgresEngine
from metadata.store import Metadata, open_metadata
from s3stream.clock import SystemClock
from s3stream.errors import BadSetting, Fenced, Unavailable
from s3stream.metrics import Metrics
from s3stream.types import CommittedRange, FlushCommit, OpenRequest, RangeOutcome
from tests.support.interleave import held
from tests.support.metadata import FAR_MS, Node, make_streams, marked, open_for_test
from tests.support.postgres import database, shared_server

__all__ = ["database"]

CHANCE = random.Random(7)


@asynccontextmanager
async def brokers(database: str, count: int) -> AsyncIterator[list[Metadata]]:
    """Stores as brokers have them: each with connections and threads of its own."""
    async with AsyncExitStack() as stack:
        stores = []
        for seed in range(count):
            store = await open_metadata(
                shared_server().url(database), clock=SystemClock(), metrics=Metrics(), run_blocking=asyncio.to_thread,
                chance=random.Random(seed),
            )  # fmt: skip
            stack.push_async_callback(store.close)
            stores.append(store)
        yield stores


async def test_commits_of_overlapping_streams_by_several_nodes_neither_deadlock_nor_lose(database: str) -> None:
    """Every node names every stream, in an order of its own; owners commit, the others are refused stream by stream,
    topics come and go, and trims and the collector take objects away all the while."""
    nodes_count, rounds = 4, 12
    async with brokers(database, nodes_count) as stores:
        owners = [[number % nodes_count] for number in range(8)]
        topic = await stores[0].create_topic("t", UUID(int=1), owners)
        streams = [partition.stream_id for partition in topic.partitions]
        nodes = [await Node.register(store, number) for number, store in enumerate(stores)]
        for number, stream in enumerate(streams):
            await nodes[number % nodes_count].open(stream)

        async def life(number: int) -> None:
            node, chance = nodes[number], random.Random(number)
            for step in range(rounds):
                order = chance.sample(streams, len(streams))
                ranges = [CommittedRange(stream, 0, step, step + 1, 10) for stream in order]
                result = await node.commit(*ranges, trim=step)
                mine = {stream for index, stream in enumerate(streams) if index % nodes_count == number}
                assert {stream for stream, how in result.outcomes.items() if how is RangeOutcome.COMMITTED} == mine
                await node.metadata.trim_stream(node.identity, min(mine), 0, step)
                if step % 4 == number:
                    topic = UUID(int=1000 * step + number + 1000)
                    await node.metadata.create_topic(f"n{number}", topic, [[0]] * 3)
                    await node.metadata.delete_topic(topic)
                await asyncio.gather(
                    node.metadata.heartbeat(node.identity),
                    node.metadata.allocate_producer_ids(node.identity, 10),
                    node.metadata.forget_objects(await marked(node.metadata)),
                )

        await asyncio.gather(*(life(number) for number in range(nodes_count)))
        assert [store._engine.conflicts for store in stores] == [0] * len(stores)
        for row in await stores[0].streams(streams):
            assert row.committed_end == rounds
            ranges = await stores[0].object_ranges(row.stream_id, 0, 1000)
            assert [part.start for part in ranges] == list(range(row.start_offset, rounds))


async def test_one_commit_of_several_that_race_wins_each_range_once(database: str) -> None:
    """The same flush from three processes' worth of connections at once: one commits, the others find it done."""
    async with brokers(database, 3) as stores:
        streams = await make_streams(stores[0], 5)
        node = await Node.register(stores[0])
        await stores[0].open_streams(node.identity, [OpenRequest(stream, -1, 0) for stream in streams])
        for step in range(10):
            ranges = [CommittedRange(stream, 0, step, step + 1, 10) for stream in streams]
            flush: FlushCommit = node.flush({await node.prepare(): ranges})
            results = await asyncio.gather(*(store.commit(flush) for store in stores))
            outcomes = sorted(outcome.name for result in results for outcome in result.outcomes.values())
            assert outcomes == ["ALREADY"] * 10 + ["COMMITTED"] * 5
        assert {row.size_bytes for row in await stores[0].streams(streams)} == {100}


async def test_correctness_1_a_check_waits_for_who_raises_the_epoch_and_sees_it(database: str) -> None:
    """A commit that begins while the node registers anew elsewhere waits for its row, and is fenced."""
    async with brokers(database, 1) as [store]:
        [stream] = await make_streams(store, 1)
        old = await Node.register(store)
        await old.open(stream)
        flush = old.flush({await old.prepare(): [CommittedRange(stream, 0, 0, 5, 1)]})
        engine = PostgresEngine(shared_server().url(database))
        locked, go = threading.Event(), threading.Event()

        def raise_epoch(tx: Transaction) -> None:
            tx.connection.execute(select(schema.nodes).where(schema.nodes.c.node_id == 0).with_for_update())
            locked.set()
            assert go.wait(30)
            tx.connection.execute(update(schema.nodes).values(node_epoch=schema.nodes.c.node_epoch + 1))

        raising = asyncio.ensure_future(asyncio.to_thread(engine.write, 0, CHANCE, raise_epoch))
        assert await asyncio.to_thread(locked.wait, 30)
        commit = asyncio.ensure_future(store.commit(flush))
        await until_waiting(database, 1)
        assert not commit.done()
        go.set()
        await raising
        with pytest.raises(Fenced):
            await commit
        [row] = await store.streams([stream])
        assert row.committed_end == 0
        engine.close()


async def test_heartbeats_of_one_node_from_two_sides_wait_for_each_other(database: str) -> None:
    """Both would share the row and then want it alone: they take it alone from the start."""
    async with brokers(database, 2) as stores:
        node = await Node.register(stores[0])
        for _ in range(20):
            await asyncio.gather(*(store.heartbeat(node.identity) for store in stores * 2))
        assert [store._engine.conflicts for store in stores] == [0] * len(stores)
        assert shared_server().execute(database, "SELECT heartbeat FROM nodes") == [(80,)]


def test_a_read_is_of_one_state(database: str) -> None:
    engine = PostgresEngine(shared_server().url(database))
    engine.write(0, CHANCE, migrate.migrate, "url")
    floor = select(schema.cluster.c.image_floor)

    def looking(tx: Transaction) -> list[int]:
        first = tx.connection.execute(floor).scalar_one()
        engine.write(0, CHANCE, lambda tx: tx.connection.execute(update(schema.cluster).values(image_floor=first + 1)))
        return [first, tx.connection.execute(floor).scalar_one()]

    assert engine.read(0, CHANCE, looking) == [0, 0]
    assert engine.read(0, CHANCE, lambda tx: tx.connection.execute(floor).scalar_one()) == 1
    engine.close()


async def until_waiting(database: str, count: int) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    async with asyncio.timeout(30):
        while shared_server().execute("postgres", query, database) != [(count,)]:  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("times", [CONFLICT_ATTEMPTS - 1, CONFLICT_ATTEMPTS])
def test_who_gives_way_in_a_deadlock_is_run_again_a_bounded_number_of_times(database: str, times: int) -> None:
    engine = PostgresEngine(shared_server().url(database))
    engine.write(0, CHANCE, migrate.migrate, "url")
    runs = []

    def conflicted(tx: Transaction) -> int:
        tx.connection.execute(update(schema.cluster).values(image_floor=schema.cluster.c.image_floor + 1))
        runs.append(1)
        if len(runs) <= times:
            tx.connection.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'deadlock_detected'; END $$")
        return int(tx.connection.execute(select(schema.cluster.c.image_floor)).scalar_one())

    if times < CONFLICT_ATTEMPTS:
        assert engine.write(0, CHANCE, conflicted) == (1, None)  # what failed left nothing
    else:
        with pytest.raises(Unavailable, match="x"):
            engine.write(0, CHANCE, conflicted)
    assert len(runs) == min(times + 1, CONFLICT_ATTEMPTS)
    engine.close()


def test_a_real_deadlock_costs_nobody_a_call(database: str) -> None:
    """Two transactions that take two rows in opposite orders, as ours never do: both are carried out."""
    engine = PostgresEngine(shared_server().url(database))
    engine.write(0, CHANCE, migrate.migrate, "url")
    both_hold_one = threading.Barrier(2)
    begun: list[str] = []

    def crossing(tx: Transaction, first: str, second: str) -> None:
        for name in (first, second):
            raise_by_one = update(schema.id_blocks).values(next_id=schema.id_blocks.c.next_id + 1)
            tx.connection.execute(raise_by_one.where(schema.id_blocks.c.name == name))
            if first not in begun:  # only the first time: who gives way runs alone
                begun.append(first)
                both_hold_one.wait(30)

    names = [("stream", "object"), ("object", "stream")]
    threads = [threading.Thread(target=engine.write, args=(0, CHANCE, crossing, *pair)) for pair in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    values: dict[str, int] = engine.read(
        0, CHANCE, lambda tx: dict(tx.connection.execute(select(schema.id_blocks)).all())
    )
    assert (values["stream"], values["object"]) == (3, 3)
    assert engine.conflicts >= 1
    engine.close()


async def test_two_collectors_finish_the_same_deletion(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with brokers(database, 3) as stores:
        node = await Node.register(stores[0])
        streams = await make_streams(stores[0], 40)
        await stores[0].open_streams(node.identity, [OpenRequest(stream, -1, 0) for stream in streams])
        await node.commit(*(CommittedRange(stream, 0, 0, 1, 1) for stream in streams))

        def crash(_: object) -> bool:
            raise RuntimeError("killed between the two transactions")

        with monkeypatch.context() as patch:
            patch.setattr(topics, "drop_deleted", crash)
            with pytest.raises(RuntimeError):
                await stores[0].delete_topic(UUID(int=1))
        await asyncio.gather(*(store.expire_prepared(0, 10) for store in stores))
        assert await stores[0].streams(streams) == []
        assert len(await marked(stores[0])) == 1
        dead = await marked(stores[0])
        await asyncio.gather(*(store.forget_objects(dead) for store in stores))
        assert await stores[0].deletable_objects(2 * FAR_MS, 10) == []


# --- migrations --------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["nothing", "the first schema"])
async def test_brokers_that_start_at_once_migrate_once(database: str, before: str) -> None:
    """One does it under the lock, the others wait and find it done."""
    server = shared_server()
    if before != "nothing":
        make_first_schema(database)
    code = (
        "import asyncio, sys\n"
        "from tests.support.metadata import open_for_test\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        f"print(asyncio.run(open_for_test({server.url(database)!r}, seed=int(sys.argv[1]))).cluster_id)\n"
    )
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(seed), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for seed in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert await racer.stdout.readline() == b"ready\n"
    answers = {out for out, _ in await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))}
    assert [racer.returncode for racer in racers] == [0] * 4
    assert len(answers) == 1
    if before != "nothing":
        assert answers == {b"first\n"}
    assert server.execute(database, "SELECT version_num FROM alembic_version") == [(schema.REVISION,)]


def make_first_schema(database: str) -> None:
    """A cluster of the first release."""

    def make(tx: Transaction) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
        config.attributes["connection"] = tx.connection
        command.upgrade(config, "0001")
        tx.connection.exec_driver_sql("INSERT INTO cluster VALUES (1, 'first', 1, 0, 0)")
        tx.connection.exec_driver_sql("INSERT INTO id_blocks VALUES ('stream', 1), ('object', 1), ('producer', 0)")

    engine = PostgresEngine(shared_server().url(database))
    engine.write(0, CHANCE, make)
    engine.close()


async def test_migrations_and_a_fresh_database_give_the_same_schema(database: str) -> None:
    server = shared_server()
    other = server.create_database()
    engines = [PostgresEngine(server.url(name)) for name in (database, other)]
    engines[0].change_schema(0, CHANCE, migrate.create)
    engines[1].change_schema(0, CHANCE, migrate.upgrade)

    def described(tx: Transaction) -> list[Any]:
        assert compare_metadata(MigrationContext.configure(tx.connection), schema.tables) == []
        columns = tx.connection.exec_driver_sql(
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            "WHERE table_schema = 'public' ORDER BY table_name, column_name"
        ).all()
        indexes = tx.connection.exec_driver_sql(
            "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version' "
            "ORDER BY 1, 2"
        ).all()
        return [*columns, *indexes]

    fresh, migrated = (engine.read(0, CHANCE, described) for engine in engines)
    assert fresh == migrated
    for engine in engines:
        engine.close()
    server.drop_database(other)


async def test_a_running_broker_goes_on_when_a_newer_one_has_added_to_the_schema(database: str) -> None:
    """The rule for migrations: they only add. A broker that is open works on; one of the old release that starts is
    refused, and changes nothing."""
    async with brokers(database, 1) as [store]:
        [stream] = await make_streams(store, 1)
        node = await Node.register(store)
        await node.open(stream)
        for step in range(8):  # until the driver has prepared its statements
            await node.commit(CommittedRange(stream, 0, step, step + 1, 1))
            await store.load_image()
        for table in schema.tables.tables:
            shared_server().execute(database, f"ALTER TABLE {table} ADD COLUMN newer BIGINT NOT NULL DEFAULT 7")
        shared_server().execute(database, "CREATE TABLE newer (id BIGINT PRIMARY KEY)")
        shared_server().execute(database, "CREATE INDEX ix_newer ON streams (newer)")
        shared_server().execute(database, "UPDATE alembic_version SET version_num = '0099'")
        await node.commit(CommittedRange(stream, 0, 8, 9, 1))
        await store.close_streams(node.identity, {stream: 9})
        again = await Node.register(store)
        await again.open(stream, 0, 9)
        await again.commit(CommittedRange(stream, 1, 9, 10, 1))
        await store.trim_stream(again.identity, stream, 1, 10)
        await store.alter_configs("topic", "t", {"retention.ms": "1"})
        await store.update_features({"a": 1})
        await store.create_topic("u", UUID(int=5), [[0]])
        await store.delete_topic(UUID(int=1))
        await store.expire_prepared(FAR_MS, 10)
        await store.forget_objects(await marked(store))
        assert set((await store.load_image()).topics) == {"u"}
        with pytest.raises(BadSetting, match=r"newer Ponor \(schema 0099"):
            await open_for_test(shared_server().url(database))


async def test_a_broker_of_the_first_schema_goes_on_in_the_second(database: str) -> None:
    """What its statements leave out has a default, and what it changes without a tag raises no alarm."""
    server = shared_server()
    async with brokers(database, 1) as [store]:
        await Node.register(store)
        image = await store.load_image()
        server.execute(database, "UPDATE cluster SET image_version = image_version + 1")
        server.execute(
            database,
            "INSERT INTO node_wals (node_id, node_epoch, incarnation, wal_uri, wal_trim, wal_state) "
            "VALUES (0, 2, 5, 'file:///wal-0', 0, 1)",
        )
        server.execute(database, "UPDATE nodes SET node_epoch = 2, incarnation = 5")
        again = await store.load_image(image)
        assert again.version == image.version + 1
        server.execute(database, "UPDATE cluster SET image_version = image_version + 1")
        assert (await store.load_image(again)).version == image.version + 2
        assert store.rolled_back is None


async def test_a_database_without_the_right_to_make_tables_is_a_bad_setting(database: str) -> None:
    server = shared_server()
    server.execute("postgres", "DROP ROLE IF EXISTS guest")
    server.execute("postgres", "CREATE ROLE guest LOGIN PASSWORD 'guest-secret'")
    url = server.url(database).replace("ponor:ponor-test-secret", "guest:guest-secret")
    with pytest.raises(BadSetting, match=r"permission denied for schema public.*should own the database") as caught:
        await open_for_test(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_foreign_database_is_refused_untouched(database: str) -> None:
    server = shared_server()
    server.execute(database, "CREATE TABLE orders (id INTEGER)")
    with pytest.raises(BadSetting, match="Nothing was changed"):
        await open_for_test(server.url(database))
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert server.execute(database, query) == [("orders",)]


async def test_a_commit_is_on_disk_whatever_the_servers_default(database: str) -> None:
    """The server of these tests has synchronous_commit=off; the bounds of every wait are the session's own."""
    engine = PostgresEngine(shared_server().url(database))
    names = ("synchronous_commit", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")

    def shown(tx: Transaction) -> list[str]:
        return [str(tx.connection.exec_driver_sql(f"SHOW {name}").scalar_one()) for name in names]

    assert engine.read(0, CHANCE, shown) == ["on", "5s", "4s", "5s"]
    engine.close()


async def test_brokers_that_prepare_objects_at_the_same_time_do_not_wait_for_each_other(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is held before its commit, with its rows inserted; the other has a block of ids, or needs one first."""
    async with brokers(database, 3) as stores:
        nodes = [await Node.register(store, number) for number, store in enumerate(stores)]
        taken = [await nodes[0].prepare(), await nodes[1].prepare()]
        ended: list[int] = []

        async def prepare(number: int) -> None:
            taken.append(await nodes[number].prepare())
            ended.append(number)

        async def others() -> None:
            await asyncio.gather(prepare(1), prepare(2))

        await held(monkeypatch, objects, "prepare", lambda: prepare(0), others)
        assert ended[-1] == 0 and sorted(ended) == [0, 1, 2]
        assert len(set(taken)) == 5


async def test_ids_of_objects_are_given_once_to_whom_asks_at_the_same_time(database: str) -> None:
    async with brokers(database, 2) as stores:
        nodes = [await Node.register(store, number) for number, store in enumerate(stores)]
        asked = [nodes[number % 2] for number in range(12)]
        given = await asyncio.gather(*(one.metadata.prepare_objects(one.identity, 70, FAR_MS) for one in asked))
        assert len({object_id for ids in given for object_id in ids}) == 12 * 70
