"""`ponor up --wal s3://…`: a broker without a disk, killed and started again; a store that it must not run on."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

import boto3
from confluent_kafka import Consumer, Producer

from tests.support.careless_s3 import CarelessS3, Fault
from tests.support.ponor_process import PonorProcess
from tests.support.servers import ACCESS_KEY, REGION, SECRET_KEY, MinioServer, minio  # noqa: F401 - fixture

RECORDS = 300
PARTITIONS = 3


def broker(folder: Path, server: MinioServer) -> PonorProcess:
    server.create_bucket("wal")
    prefix = secrets.token_hex(4)
    # Nothing is flushed: after a kill every record is in the WAL alone.
    return PonorProcess(
        folder, server.url("wal", f"{prefix}/objects"), {"ponor.flush.interval.ms": "600000"}, server.environment,
        ("--wal", server.url("wal", f"{prefix}/wal")),
    )  # fmt: skip


def produce(ponor: PonorProcess, first: int) -> None:
    producer = Producer({"bootstrap.servers": ponor.bootstrap, "acks": "all", "linger.ms": 0})
    failed: list[object] = []
    for number in range(first, first + RECORDS):
        producer.produce(
            "t", f"record {number}".encode() * 20, partition=number % PARTITIONS,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )  # fmt: skip
        if number % 50 == 0:
            producer.flush(30)
    assert producer.flush(30) == 0 and failed == []


def consume(ponor: PonorProcess, count: int) -> list[bytes]:
    consumer = Consumer(
        {"bootstrap.servers": ponor.bootstrap, "group.id": secrets.token_hex(4), "auto.offset.reset": "earliest"}
    )
    consumer.subscribe(["t"])
    found: list[bytes] = []
    while len(found) < count:
        batch = consumer.consume(count - len(found), 30)
        assert batch, f"{len(found)} of {count} records came"
        for message in batch:
            assert message.error() is None, message.error()
            found.append(bytes(message.value() or b""))
    consumer.close()
    return found


def keys(server: MinioServer, prefix: str) -> list[str]:
    client = boto3.client(
        "s3", endpoint_url=server.endpoint, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
        region_name=REGION,
    )  # fmt: skip
    return [found["Key"] for found in client.list_objects_v2(Bucket="wal", Prefix=prefix).get("Contents", ())]


def test_what_was_acknowledged_outlives_kills_without_a_disk(
    minio: MinioServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    with broker(tmp_path, minio) as ponor:
        ponor.create_topic("t", PARTITIONS)
        for life in range(3):
            produce(ponor, life * RECORDS)
            assert ponor.metric("ponor_wal_puts_total", reason="first") > 0
            ponor.kill()
            ponor.start()
        found = consume(ponor, 3 * RECORDS)
        assert sorted(found) == sorted(f"record {number}".encode() * 20 for number in range(3 * RECORDS))
        prefix = ponor.command[ponor.command.index("--wal") + 1].split("/")[3] + "/wal/"
        epochs = {key.split("/")[-2] for key in keys(minio, prefix)}
        assert len(epochs) >= 4, "each life wrote under a node epoch of its own"
        assert not (ponor.data_dir / "broker-0" / "wal").exists()
        assert ponor.stop() == 0


def test_5_a_broker_does_not_run_on_a_store_that_lets_two_writers_win(tmp_path: Path) -> None:
    with CarelessS3(Fault.RACES) as server:
        ponor = PonorProcess(tmp_path, env=server.environment, flags=("--wal", server.url("bucket")))
        result = subprocess.run(
            ponor.command, env={**server.environment, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert result.returncode == 2, result
        assert "two writers can both create the same key" in result.stderr
        assert not [key for key in server.objects if "/wal/" in key]
