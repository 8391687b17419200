"""Opening a metadata database: fresh, older, newer, foreign, locked, shared, killed."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sqlite3
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from metadata import migrate, schema, sqlite
from metadata.engine import Transaction
from metadata.sqlite import _wal_mode
from metadata.urls import engine_of
from s3stream.errors import BadSetting, Corrupt, Unavailable
from s3stream.types import CommittedRange, OpenRequest
from tests.support.metadata import Node, make_streams, open_for_test


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, text=True
    )


def tables_of(tx: Transaction) -> dict[str, list[str]]:
    """Every table's definition, read back from the database."""
    inspector = sqlalchemy.inspect(tx.connection)
    return {
        name: [f"{column['name']} {column['type']!r} {column['nullable']}" for column in inspector.get_columns(name)]
        + [str(inspector.get_pk_constraint(name)["constrained_columns"])]
        + sorted(f"{index['name']} {index['column_names']} {index['unique']}" for index in inspector.get_indexes(name))
        + sorted(str(unique["column_names"]) for unique in inspector.get_unique_constraints(name))
        for name in inspector.get_table_names()
    }


def test_migrations_and_a_fresh_database_give_the_same_schema() -> None:
    chance = random.Random(1)
    fresh, migrated = engine_of("memory:"), engine_of("memory:")
    fresh.write(0, chance, migrate.create)
    migrated.write(0, chance, migrate.upgrade)

    def check(tx: Transaction) -> None:
        assert compare_metadata(MigrationContext.configure(tx.connection), schema.tables) == []
        assert migrate.stored_revision(tx, "url") == schema.REVISION

    migrated.read(0, chance, check)
    expected = fresh.read(0, chance, tables_of)
    found = migrated.read(0, chance, tables_of)
    assert found == expected


def test_partitions_of_an_older_schema_are_assigned_to_their_first_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    chance, engine = random.Random(1), engine_of("memory:")
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "REVISION", "0002")
        engine.write(0, chance, migrate.upgrade)
    lists = ["0", "2,1", "", "2,1", "13"]

    def fill(tx: Transaction) -> None:
        for number, replicas in enumerate(lists):
            tx.connection.exec_driver_sql(
                "INSERT INTO partitions (topic_id, partition, stream_id, replicas) VALUES (?, ?, ?, ?)",
                (uuid.UUID(int=1).hex, number, number, replicas),
            )

    def assigned(tx: Transaction) -> list[int]:
        partitions = schema.partitions
        rows = tx.connection.execute(sqlalchemy.select(partitions.c.assigned).order_by(partitions.c.stream_id))
        return list(rows.scalars())

    engine.write(0, chance, fill)
    engine.write(0, chance, migrate.upgrade)
    assert engine.read(0, chance, assigned) == [0, 2, -1, 2, 13]
    engine.write(0, chance, _insert_as_before)
    assert engine.read(0, chance, assigned) == [0, 2, -1, 2, 13, -1]


def _insert_as_before(tx: Transaction) -> None:
    """A broker of the schema before, which runs on during a rolling upgrade, names no column that it does not know."""
    statements = (
        "INSERT INTO partitions (topic_id, partition, stream_id, replicas)"
        f" VALUES ('{uuid.UUID(int=2).hex}', 0, 9, '0')",
        "INSERT INTO nodes (node_id, node_epoch, incarnation, addresses, alive, heartbeat, heartbeat_ms)"
        " VALUES (1, 1, 1, '{}', 1, 0, 0)",
        "INSERT INTO leases (name, lease_epoch, renewals) VALUES ('x', 1, 0)",
    )
    for statement in statements:
        tx.connection.exec_driver_sql(statement)


async def test_reopening_keeps_everything_and_needs_no_alembic(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/new/folder/metadata.db"
    metadata = await open_for_test(url, seed=1)
    await make_streams(metadata, 3)
    image = await metadata.load_image()
    await metadata.close()
    again = await open_for_test(url, seed=2)
    assert (again.cluster_id, await again.load_image()) == (metadata.cluster_id, image)
    await again.close()
    code = (
        "import asyncio, sys\n"
        "from tests.support.metadata import open_for_test\n"
        f"asyncio.run(open_for_test({url!r}))\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] in ('alembic', 'mako')]\n"
        "assert 'sqlalchemy.orm' not in sys.modules\n"
    )
    process = start("-c", code)
    await asyncio.to_thread(process.communicate, None, 60)
    assert process.returncode == 0


async def test_a_database_of_a_newer_ponor_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    await (await open_for_test(f"sqlite://{path}")).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
    connection.close()
    before = digest(path)
    with pytest.raises(BadSetting, match=rf"sqlite://{path}: .*newer.*0099.*{schema.REVISION}"):
        await open_for_test(f"sqlite://{path}")
    assert digest(path) == before
    assert files_in(tmp_path) == ["metadata.db"]


async def test_a_foreign_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
        connection.execute("CREATE TABLE cluster (id INTEGER)")
    connection.close()
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all " * 100)
    before = digest(path), digest(text)
    for file in (path, text):
        with pytest.raises(BadSetting, match=f"{file.name}.*Nothing was changed"):
            await open_for_test(f"sqlite://{file}")
    assert (digest(path), digest(text)) == before
    assert files_in(tmp_path) == ["notes.txt", "shop.db"]


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "mysql://x", "sqlite://", "sqlite:///", "sqlite://host/path", "sqlite:///x.db?mode=ro",
     "memory:a-b", "sqlite:////", "sqlite:///proc/none/metadata.db", "sqlite:///proc/metadata.db"],
)  # fmt: skip
async def test_an_unusable_url_is_a_bad_setting_that_names_it(url: str) -> None:
    with pytest.raises(BadSetting) as caught:
        await open_for_test(url)
    assert url in str(caught.value)
    assert str(caught.value).startswith("metadata ")


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///var/x.db", "/var/x.db"), ("sqlite:////var/x.db", "/var/x.db"), ("sqlite:///./x.db", "x.db"),
     ("sqlite:x.db", "x.db"), ("sqlite:/x.db", "/x.db")],
)  # fmt: skip
def test_a_sqlite_url_is_absolute_like_a_file_url(url: str, path: str) -> None:
    assert Path(engine_of(url)._reader.url.database or "") == Path(path)


async def test_two_processes_may_make_the_same_database_at_once(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/metadata.db"
    code = (
        "import asyncio, sys\n"
        "from tests.support.metadata import open_for_test\n"
        "sys.stdin.readline()\n"
        f"print(asyncio.run(open_for_test({url!r}, seed=int(sys.argv[1]))).cluster_id)\n"
    )
    racers = [start("-c", code, str(seed)) for seed in range(3)]
    answers = await asyncio.gather(*(asyncio.to_thread(racer.communicate, "go\n", 60) for racer in racers))
    assert len({answer for answer, _ in answers}) == 1
    assert answers[0][0].strip()


async def test_memory_databases_are_private_unless_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = await open_for_test("memory:", seed=1), await open_for_test("memory:", seed=2)
    assert one.cluster_id != two.cluster_id
    shared = await open_for_test("memory:shared", seed=1)
    await make_streams(shared, 1)
    again = await open_for_test("memory:shared", seed=2)
    assert await again.load_image() == await shared.load_image()
    assert files_in(tmp_path) == []
    for store in (one, two, shared, again):
        await store.close()
    anew = await open_for_test("memory:shared", seed=3)
    assert anew.cluster_id != shared.cluster_id
    await anew.close()


async def test_a_locked_or_lost_database_is_unavailable_and_works_again_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.01)
    path = tmp_path / "metadata.db"
    metadata = await open_for_test(f"sqlite://{path}")
    node = await Node.register(metadata)
    image = await metadata.load_image()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        await metadata.heartbeat(node.identity)
    assert await metadata.load_image(image) is image  # readers do not wait for writers
    other.execute("ROLLBACK")
    other.close()
    await metadata.heartbeat(node.identity)
    await metadata.close()


async def test_a_damaged_database_is_corrupt_not_empty(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    metadata = await open_for_test(f"sqlite://{path}")
    streams = await make_streams(metadata, 500)
    node = await Node.register(metadata)
    await metadata.open_streams(node.identity, [OpenRequest(stream, -1, 0) for stream in streams])
    await metadata.close()
    content = bytearray(path.read_bytes())
    for page in range(2 * 4096, len(content), 4096):  # the schema stays readable
        content[page : page + 100] = b"\xff" * 100
    path.write_bytes(content)
    with pytest.raises((Corrupt, BadSetting)):
        metadata = await open_for_test(f"sqlite://{path}")
        await metadata.streams(streams)


async def test_kill_9_in_the_middle_of_commits_leaves_a_consistent_database(tmp_path: Path) -> None:
    """What was reported committed is there, and live counts, ranges and ends agree with each other."""
    for commits in (5, 40):
        path = tmp_path / f"{commits}.db"
        url = f"sqlite://{path}"
        process = start("-m", "tests.support.metadata_writer", url)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(commits)]
        process.kill()
        rest, _ = await asyncio.to_thread(process.communicate, None, 60)
        reported = max(int(line) for line in (*lines, *rest.splitlines(keepends=True)) if line.endswith("\n"))
        metadata = await open_for_test(url, seed=99)
        registration = await metadata.register_node(0, "file:///wal-0", {})
        for row in registration.owned:
            assert row.committed_end >= reported
            ranges = await metadata.object_ranges(row.stream_id, 0, 100_000)
            assert [part.start for part in ranges] == [row.start_offset, *(part.end for part in ranges[:-1])]
            assert ranges[-1].end == row.committed_end
            assert row.size_bytes == sum(part.size for part in ranges)
            assert row.checkpoint is not None
            assert row.checkpoint.offset == row.committed_end
        assert len({row.committed_end for row in registration.owned}) == 1
        assert registration.wal_trim == registration.owned[0].committed_end
        node = Node(metadata, registration.identity)
        opened = await metadata.open_streams(
            node.identity, [OpenRequest(row.stream_id, row.epoch, row.committed_end) for row in registration.owned]
        )
        for row in opened:
            end = row.committed_end
            await node.commit(CommittedRange(row.stream_id, row.epoch, end, end + 1, 1))
            await metadata.trim_stream(node.identity, row.stream_id, row.epoch, end + 1)
        await metadata.delete_topic(next(iter((await metadata.load_image()).topics_by_id)))
        await metadata.expire_prepared(10**15, 10_000)
        known = {ref.object_id for ref in await metadata.deletable_objects(10**15 + 1, 10_000)}
        await metadata.forget_objects(sorted(known))
        await metadata.close()
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("SELECT count(*) FROM objects").fetchone() == (0,)
        connection.close()


def test_the_change_to_wal_mode_waits_for_others(tmp_path: Path) -> None:
    """Brokers that start together on a new file: SQLite's busy timeout does not cover this statement."""
    path = tmp_path / "metadata.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN")
    other.execute("SELECT * FROM t").fetchall()
    mine = sqlite3.connect(path, isolation_level=None, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        mine.execute("PRAGMA journal_mode=WAL")
    ending = threading.Timer(0.2, other.execute, ("COMMIT",))
    ending.start()
    assert _wal_mode(mine.cursor()) == "wal"
    ending.join()
    mine.close()
    other.close()
