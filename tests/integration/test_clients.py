"""Stock clients against one broker: what one writes, every other reads, byte for byte."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kafka_clients import CLIENTS, COMPRESSIONS, Client, Confluent, Record
from tests.support.ponor_process import PonorProcess
from tests.support.tools import requires

HEADERS = (("trace", b"abc"), ("tenant", b"blue"))
RECORDS = [
    *(Record(f"key-{number}".encode(), f"value-{number}".encode()) for number in range(200)),
    Record(b"with-headers", b"value", HEADERS),
    Record(b"tombstone", None),
    Record("ключ".encode(), "значение ✓".encode()),
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PonorProcess]:
    process = PonorProcess(tmp_path_factory.mktemp("clients"))
    process.start()
    yield process
    process.stop()


def _name(client: Client) -> str:
    return client.name


def _fresh_topic(broker: PonorProcess, partitions: int = 3) -> str:
    topic = f"clients-{uuid.uuid4().hex[:8]}"
    broker.create_topic(topic, partitions)
    return topic


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("client", CLIENTS, ids=_name)
def test_every_producer_and_compression_is_read_back(client: Client, compression: str, broker: PonorProcess) -> None:
    requires(client.tool)
    topic = _fresh_topic(broker)
    client.produce(broker.bootstrap, topic, RECORDS, compression)
    found = Confluent().consume(broker.bootstrap, topic, len(RECORDS), f"group-{topic}")
    assert sorted(found, key=repr) == sorted(RECORDS, key=repr)


@pytest.mark.parametrize("client", CLIENTS, ids=_name)
def test_every_consumer_resumes_from_its_group_offsets(client: Client, broker: PonorProcess) -> None:
    requires(client.tool)
    topic = _fresh_topic(broker, partitions=1)
    Confluent().produce(broker.bootstrap, topic, RECORDS, "zstd")
    first = client.consume(broker.bootstrap, topic, len(RECORDS), f"resume-{topic}")
    assert first == RECORDS
    more = [Record(b"later", str(number).encode()) for number in range(5)]
    Confluent().produce(broker.bootstrap, topic, more, "none")
    assert client.consume(broker.bootstrap, topic, len(more), f"resume-{topic}") == more


def test_what_clients_wrote_survives_an_orderly_restart(broker: PonorProcess, tmp_path: Path) -> None:
    topic = _fresh_topic(broker)
    Confluent().produce(broker.bootstrap, topic, RECORDS, "lz4")
    broker.stop()
    broker.start()
    found = Confluent().consume(broker.bootstrap, topic, len(RECORDS), f"after-{topic}")
    assert sorted(found, key=repr) == sorted(RECORDS, key=repr)
