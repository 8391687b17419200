"""What the README promises somebody who runs it for the first time."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from tests.support.ponor_process import PonorProcess
from tests.support.tools import find_tool, requires

COUNT = 500


@pytest.fixture
def ponor(tmp_path: Path) -> Iterator[PonorProcess]:
    with PonorProcess(tmp_path / "ponor") as process:
        yield process


def _kcat(*arguments: str, text: str = "") -> str:
    done = subprocess.run(
        [str(find_tool("kcat")), *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kcat_writes_and_reads_and_everything_is_there_after_a_restart(ponor: PonorProcess) -> None:
    requires("kcat")
    orders = [f"order-{number}" for number in range(COUNT)]
    _kcat("-P", "-b", ponor.bootstrap, "-t", "newcomer", "-z", "zstd", text="\n".join(orders) + "\n")
    read = ("-C", "-b", ponor.bootstrap, "-t", "newcomer", "-o", "beginning", "-e", "-q")
    assert _kcat(*read).split() == orders
    assert ponor.stop() == 0
    assert ponor.start().startswith("ponor ready")
    assert _kcat(*read).split() == orders


def _produce(ponor: PonorProcess, first: int) -> None:
    producer = Producer({"bootstrap.servers": ponor.bootstrap, "enable.idempotence": True})
    for number in range(first, first + COUNT):
        producer.produce("orders", str(number), "key")
    assert producer.flush(30) == 0


def _consume(ponor: PonorProcess, count: int) -> list[int]:
    consumer = Consumer(
        {
            "bootstrap.servers": ponor.bootstrap,
            "group.id": "g",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe(["orders"])
    found: list[int] = []
    while len(found) < count:
        message = consumer.poll(30)
        assert message is not None, f"{len(found)} of {count} records, then nothing"
        if message.error() is None:
            found.append(int(message.value() or b""))
    consumer.commit(asynchronous=False)
    consumer.close()
    return found


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_group_resumes_where_it_was_after_a_restart(ponor: PonorProcess, end: str) -> None:
    _produce(ponor, 0)
    assert _consume(ponor, COUNT) == list(range(COUNT))
    _produce(ponor, COUNT)
    if end == "stop":
        assert ponor.stop() == 0
    else:
        ponor.kill()
    ponor.start()
    assert _consume(ponor, COUNT) == list(range(COUNT, 2 * COUNT))


def test_http_shows_what_there_is(ponor: PonorProcess) -> None:
    ponor.create_topic("orders", 3, {"retention.ms": "60000"})
    _produce(ponor, 0)
    assert ponor.json("/health/live") == {"status": "ok", "reasons": [], "warnings": []}
    assert ponor.json("/health/ready") == {"status": "ok", "reasons": [], "warnings": []}
    cluster = ponor.json("/v1/cluster")
    assert [(node["node_id"], node["port"], node["alive"]) for node in cluster["brokers"]] == [(0, ponor.port, True)]
    assert cluster["topics"] == 1
    assert [topic["name"] for topic in ponor.json("/v1/topics")["topics"]] == ["orders"]
    topic = ponor.json("/v1/topics/orders")
    assert topic["configs"] == {"retention.ms": "60000"}
    assert sum(part["log_end_offset"] for part in topic["partition_list"]) == COUNT
    assert {part["leader"] for part in topic["partition_list"]} == {0}
    paths = [path for path in ponor.json("/")["paths"] if "{" not in path and path != "/metrics"]
    assert "/v1/storage" in paths and all(ponor.json(path) for path in paths)
    assert ponor.json("/v1/config")["settings"]["ponor.http.port"]["value"] == str(ponor.http_port)
    assert ponor.json("/v1/storage")["partitions_open"] == 3
    assert "groups" in ponor.json("/v1/groups")
    with pytest.raises(urllib.error.HTTPError) as missing:
        urllib.request.urlopen(f"http://127.0.0.1:{ponor.http_port}/v1/topics/nope")
    assert missing.value.code == 404


def test_metrics_are_prometheus_text(ponor: PonorProcess) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    _produce(ponor, 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{ponor.http_port}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    assert families["process_resident_memory_bytes"].samples[0].value > 1 << 20
    assert families["ponor_wal_append_bytes"].samples[0].value > COUNT
    assert {sample.labels["version"] for sample in families["ponor_build_info"].samples} == {"0.1.0"}
