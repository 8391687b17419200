"""Client metrics (KIP-714) as real clients push them: librdkafka and, where it is installed, the Java producer."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.compatibility.broker import Broker
from tests.compatibility.tools import QUICK
from tests.support.ponor_process import PonorProcess
from tests.support.tools import find_tool

SECONDS = 60.0
CLIENT_METRICS = 16


@pytest.fixture
def ponor(tmp_path: Path) -> Iterator[PonorProcess]:
    with PonorProcess(tmp_path) as process:
        yield process


async def subscribe(port: int) -> None:
    wanted = {"metrics": "org.apache.kafka.producer.", "interval.ms": "500", "match": "client_id=told.*"}
    rows = [{"name": name, "config_operation": 0, "value": value} for name, value in wanted.items()]
    resource = {"resource_type": CLIENT_METRICS, "resource_name": "all", "configs": rows}
    broker = Broker("Ponor", port, "client-metrics", "run")
    await broker.start()
    try:
        answer = await broker.call("IncrementalAlterConfigs", 1, resources=[resource], validate_only=False)
        assert not answer.responses[0].error_code, answer
    finally:
        await broker.close()


def pushed(ponor: PonorProcess, client_id: str) -> dict[str, float]:
    """The client's series on /metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ponor.http_port}/metrics", timeout=SECONDS) as answer:
        page = answer.read().decode()
    rows = re.findall(rf'^(ponor_client_\w+)\{{[^\n]*client_id="{client_id}"[^\n]*\}} (\S+)$', page, re.MULTILINE)
    return {name: float(value) for name, value in rows}


def test_librdkafka_pushes_what_it_is_asked_for(ponor: PonorProcess) -> None:
    asyncio.run(subscribe(ponor.port))
    told, untold = (
        Producer({"bootstrap.servers": ponor.bootstrap, "client.id": name}) for name in ("told-librdkafka", "untold")
    )
    deadline = time.monotonic() + SECONDS
    found: dict[str, float] = {}
    while not found and time.monotonic() < deadline:
        for producer in (told, untold):
            producer.produce("t", b"value")
            producer.flush(SECONDS)
        found = pushed(ponor, "told-librdkafka")
    assert found and all(name.startswith("ponor_client_producer_") for name in found), found
    assert not pushed(ponor, "untold")
    del told, producer  # it says goodbye with a last push, and ends its connections
    while pushed(ponor, "told-librdkafka"):
        assert time.monotonic() < deadline, "its series outlive its connection"
        time.sleep(0.05)


@pytest.mark.tool("kafka")
def test_the_java_producer_pushes_what_it_is_asked_for(ponor: PonorProcess) -> None:
    asyncio.run(subscribe(ponor.port))
    command = f"org.apache.kafka.tools.ProducerPerformance --bootstrap-server {ponor.bootstrap} --topic t"
    command += " --num-records 1000000 --record-size 10 --throughput 50 --command-property client.id=told-java"
    with subprocess.Popen(
        ["java", *QUICK, "-cp", f"{find_tool('kafka')}/*", *command.split()], stdout=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + SECONDS
            found: dict[str, float] = {}
            while found.get("ponor_client_producer_record_send_total", 0) < 1 and time.monotonic() < deadline:
                time.sleep(0.1)
                found = pushed(ponor, "told-java")
        finally:
            process.kill()
    assert found.get("ponor_client_producer_record_send_total", 0) >= 1, found
