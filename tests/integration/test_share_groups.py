"""Kafka 4.3's own share consumer (KIP-932): records divided, acknowledged, released and rejected; a broker that is
killed with records acquired delivers them again, and none of those that were acknowledged."""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.compatibility.broker import Broker
from tests.compatibility.scenarios.groups import configured
from tests.compatibility.scenarios.produce import batch
from tests.compatibility.scenarios.shares import ACCEPT, REJECT, RELEASE, Member, join
from tests.compatibility.tools import QUICK
from tests.support.group_configs import configure
from tests.support.ponor_process import PonorProcess
from tests.support.tools import find_tool

pytestmark = [pytest.mark.tool("kafka"), pytest.mark.timeout(240)]

CONSUMER = "org.apache.kafka.tools.consumer.ConsoleShareConsumer"
SETTINGS = {"share.coordinator.state.topic.num.partitions": "3", "offsets.topic.num.partitions": "3"}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PonorProcess]:
    with PonorProcess(tmp_path, settings=SETTINGS) as process:
        yield process


def java(broker: PonorProcess, tool: str, *args: str) -> list[str]:
    return ["java", *QUICK, "-cp", f"{find_tool('kafka')}/*", tool, "--bootstrap-server", broker.bootstrap, *args]


def produce(broker: PonorProcess, topic: str, numbers: range) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True})
    for number in numbers:
        producer.produce(topic, str(number))
    assert producer.flush(30) == 0


def begin(broker: PonorProcess, topic: str, group: str, *args: str) -> subprocess.Popen[bytes]:
    command = java(broker, CONSUMER, "--topic", topic, "--group", group, *args)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def numbers(process: subprocess.Popen[bytes]) -> list[int]:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    return [int(line) for line in output.split() if line.isdigit()]


def consume(broker: PonorProcess, topic: str, group: str, *args: str) -> list[int]:
    return numbers(begin(broker, topic, group, *args))


def test_two_consumers_divide_the_records_and_a_killed_broker_delivers_the_rest(broker: PonorProcess) -> None:
    topic = f"shared-{uuid.uuid4().hex[:8]}"
    group = f"group-{topic}"
    broker.create_topic(topic, 2)
    configure(broker.port, group, share_auto_offset_reset="earliest")
    produce(broker, topic, range(100))
    members = [begin(broker, topic, group, "--max-messages", "50") for _ in range(2)]
    first = [number for member in members for number in numbers(member)]
    assert sorted(first) == sorted(set(first)) and len(first) == 100, "each to one of them"
    produce(broker, topic, range(100, 160))
    # A member that takes ten and then is killed: the others it has acquired come again.
    ten = consume(broker, topic, group, "--max-messages", "10")
    assert len(set(ten)) == 10 and min(ten) >= 100
    broker.kill()
    broker.start()
    rest = consume(broker, topic, group, "--max-messages", "50", "--timeout-ms", "60000")
    assert sorted(ten + rest) == list(range(100, 160)), "none lost, none that was acknowledged again"


def test_a_broker_killed_with_records_acquired_delivers_them_again_and_none_that_was_done(broker: PonorProcess) -> None:
    run = uuid.uuid4().hex[:8]

    async def before() -> None:
        talk = Broker("Ponor", broker.port, "held", run)
        await talk.start()
        group = talk.named("g")
        await talk.topic("t")
        await configured(talk, group, share_auto_offset_reset="earliest")
        await join(talk, group, "m1", "t", 1)
        member = Member(talk, await talk.connect(), group, "m1", talk.ids["t"])
        await member.nothing("nothing yet")
        await talk.produce("t", batch(10))
        await member.acquire("all")
        await member.say("some of it", (0, 2, [ACCEPT]), (5, 6, [RELEASE, REJECT]))
        assert talk.notes["all"][2]["acquired"] == ["0-9 for the 1."]
        assert talk.notes["some of it"][2]["partitions"] == ["none"]
        broker.kill()
        await talk.close()

    async def after() -> None:
        talk = Broker("Ponor", broker.port, "held", run)
        await talk.start()
        await talk.learn("t")
        await join(talk, talk.named("g"), "m2", "t", 1)
        member = Member(talk, await talk.connect(), talk.named("g"), "m2", talk.ids["t"])
        await member.acquire("the rest")
        assert talk.notes["the rest"][2]["acquired"] == ["3-4 for the 1.", "5-5 for the 2.", "7-9 for the 1."]
        await talk.close()

    asyncio.run(before())
    broker.start()
    asyncio.run(after())


def test_released_records_come_again_and_rejected_ones_do_not(broker: PonorProcess) -> None:
    topic = f"words-{uuid.uuid4().hex[:8]}"
    group = f"group-{topic}"
    broker.create_topic(topic)
    configure(broker.port, group, share_auto_offset_reset="earliest", share_delivery_count_limit="3")
    produce(broker, topic, range(10))
    assert consume(broker, topic, group, "--release", "--max-messages", "10") == list(range(10))
    assert consume(broker, topic, group, "--reject", "--max-messages", "4", "--timeout-ms", "30000") == [0, 1, 2, 3]
    started = time.monotonic()
    left = consume(broker, topic, group, "--timeout-ms", "12000")
    assert set(left) <= set(range(4, 10)), "rejected for good"
    assert time.monotonic() - started < 60
