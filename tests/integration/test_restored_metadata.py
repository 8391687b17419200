"""The metadata database is restored from a backup while the cluster has gone on (CORRECTNESS 8; runbook
restore-metadata): what was committed in the backup is readable, and nothing that was given since is given again."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import boto3
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.ponor_process import PonorProcess, ponor_command
from tests.support.postgres import shared_server
from tests.support.servers import ACCESS_KEY, REGION, SECRET_KEY, MinioServer, minio  # noqa: F401 - fixture

TOPIC = "t"
SETTINGS = {"ponor.lease.ms": "600", "ponor.heartbeat.ms": "200", "ponor.flush.interval.ms": "300"}
Offsets = dict[int, str]


class Deployment:
    """One broker; `backup`, `restore` of its database; the bytes of its objects."""

    def __init__(self, folder: Path) -> None:
        self.copy = folder / "backup"
        self.process = PonorProcess(folder, settings=SETTINGS)

    def backup(self) -> None:
        with closing(sqlite3.connect(self.process.data_dir / "metadata.db")) as source:
            source.execute(f"VACUUM INTO '{self.copy}'")

    def restore(self) -> None:
        for suffix in ("-wal", "-shm"):
            (self.process.data_dir / f"metadata.db{suffix}").unlink(missing_ok=True)
        shutil.copy(self.copy, self.process.data_dir / "metadata.db")

    def move_wal_away(self) -> None:
        wal = self.process.data_dir / "broker-0" / "wal"
        wal.rename(wal.with_name(f"wal-{secrets.token_hex(4)}"))

    def objects(self) -> dict[str, str]:
        root = self.process.data_dir / "objects"
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.obj")
        }

    def fence(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        flags = [
            "--data-dir",
            str(self.process.data_dir),
            "--set",
            "ponor.lease.ms=600",
            "--set",
            "ponor.heartbeat.ms=200",
        ]
        return self.run(flags, {}, *arguments)

    def run(self, flags: list[str], env: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ponor_command(), "metadata", "restore-fence", *flags, *arguments], env={**os.environ, **env},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip


class InTheCloud(Deployment):
    """PostgreSQL, WAL and objects in a bucket."""

    def __init__(self, folder: Path, server: MinioServer) -> None:
        super().__init__(folder)
        self.server = server
        server.create_bucket("cloud")
        self.postgres = shared_server()
        self.name = self.postgres.lend_database()
        self.prefix = secrets.token_hex(4)
        self.flags = [
            "--object-store", server.url("cloud", f"{self.prefix}/objects"),
            "--wal", server.url("cloud", f"{self.prefix}/wal"), "--metadata", self.postgres.url(self.name),
        ]  # fmt: skip
        self.process = PonorProcess(folder, settings=SETTINGS, env=server.environment, flags=tuple(self.flags))

    def backup(self) -> None:
        pg_dump(self.postgres.url(self.name), self.copy)

    def restore(self) -> None:
        self.postgres.take_back(self.name)
        self.name = self.postgres.lend_database()
        self.flags[-1] = self.postgres.url(self.name)
        psql(self.flags[-1], self.copy)
        self.process._flags = tuple(self.flags)

    def move_wal_away(self) -> None:
        """The log goes on where it was sealed."""

    def objects(self) -> dict[str, str]:
        client = boto3.client(
            "s3", endpoint_url=self.server.endpoint, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
        )  # fmt: skip
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="cloud", Prefix=f"{self.prefix}/objects")
        return {found["Key"]: found["ETag"] for page in pages for found in page.get("Contents", ())}

    def fence(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        flags = [
            *self.flags,
            "--data-dir",
            str(self.process.data_dir),
            "--set",
            "ponor.lease.ms=600",
            "--set",
            "ponor.heartbeat.ms=200",
        ]
        return self.run(flags, self.server.environment, *arguments)


def bin_of(tool: str) -> str:
    return str(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{tool}"))[-1])


def pg_dump(url: str, target: Path) -> None:
    subprocess.run([bin_of("pg_dump"), "--no-owner", "-f", str(target), url], check=True, capture_output=True)


def psql(url: str, source: Path) -> None:
    subprocess.run([bin_of("psql"), "-q", "-v", "ON_ERROR_STOP=1", "-f", str(source), url], check=True,
                   capture_output=True)  # fmt: skip


@pytest.fixture(params=["one machine", "cloud"])
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Deployment:
    if request.param == "cloud":
        return InTheCloud(tmp_path, request.getfixturevalue("minio"))
    return Deployment(tmp_path)


def produce(ponor: PonorProcess, topic: str, name: str, count: int = 20) -> Offsets:
    """What was acknowledged, by offset."""
    producer = Producer({"bootstrap.servers": ponor.bootstrap, "acks": "all", "linger.ms": 0, "log_level": 2})
    found: Offsets = {}
    for number in range(count):
        producer.produce(topic, f"{name} {number}", partition=0,
                         on_delivery=lambda error, message: found.update(
                             {} if error else {message.offset(): message.value().decode()}))  # fmt: skip
    assert producer.flush(30) == 0 and len(found) == count
    return found


def read(ponor: PonorProcess, topic: str, count: int) -> Offsets:
    settings = {"bootstrap.servers": ponor.bootstrap, "group.id": "g", "auto.offset.reset": "error", "log_level": 2}
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: Offsets = {}
    while len(found) < count:
        message = consumer.poll(20)
        assert message is not None and message.error() is None, (len(found), message and message.error())
        found[int(message.offset() or 0)] = bytes(message.value() or b"").decode()
    consumer.close()
    return found


def flushed(deployment: Deployment) -> None:
    deployment.process.stop()
    deployment.process.start()


def test_8_a_restored_backup_goes_on_and_gives_nothing_out_twice(deployment: Deployment) -> None:
    ponor = deployment.process
    with ponor:
        admin = AdminClient({"bootstrap.servers": ponor.bootstrap})
        admin.create_topics([NewTopic(TOPIC, 1)])[TOPIC].result(30)
        kept = produce(ponor, TOPIC, "kept")
        flushed(deployment)
        deployment.backup()
        lost = produce(ponor, TOPIC, "lost")
        admin.create_topics([NewTopic("since", 1)])["since"].result(30)
        produce(ponor, "since", "lost too")
        flushed(deployment)
        lost |= produce(ponor, TOPIC, "lost, perhaps not flushed")
        ponor.kill()
        given = dict(lost)
        for again in range(2):
            before = deployment.objects()
            deployment.restore()
            # A broker that has seen what the backup lacks does not start on it.
            with pytest.raises(AssertionError, match="rolled back"):
                ponor.start()
            dry = deployment.fence()
            assert dry.returncode == 0 and "unknown object" in dry.stdout and "Nothing was changed" in dry.stdout, dry
            assert f"{TOPIC}-0: objects have records up to offset" in dry.stdout
            done = deployment.fence("--accept-loss")
            assert done.returncode == 0 and f"{TOPIC}-0: records up to offset {len(kept)} stay" in done.stdout, done
            deployment.move_wal_away()
            ponor.start()
            after = produce(ponor, TOPIC, f"after {again}")
            assert given.keys().isdisjoint(after) and kept.keys().isdisjoint(after)
            assert read(ponor, TOPIC, len(kept) + len(after)) == kept | after
            created = produce(ponor, f"new-{again}", "n")  # a stream of its own, made by auto-creation
            assert read(ponor, f"new-{again}", len(created)) == created
            flushed(deployment)
            assert read(ponor, TOPIC, len(kept) + len(after)) == kept | after
            assert {key: value for key, value in deployment.objects().items() if key in before} == before
            given |= after
            if again:
                assert deployment.fence().returncode == 2, "while a broker uses the database"
            ponor.kill()
