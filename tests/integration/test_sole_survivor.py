"""A broker is fenced, its fencer goes before it has sealed, and nobody but the fenced broker is started again: it comes
up by itself with everything that was acknowledged (decision 0180)."""

from __future__ import annotations

from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from s3stream.types import WalState
from tests.support.metadata import Node, open_for_test
from tests.support.ponor_process import PonorProcess
from tests.support.takeover import controller, heartbeat_of

TOPIC, PARTITIONS, RECORDS = "t", 3, 300
SETTINGS = {"ponor.lease.ms": "1500", "ponor.flush.interval.ms": "600000"}


def produce(broker: PonorProcess, first: int) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "enable.idempotence": True})
    failed: list[object] = []
    for number in range(first, first + RECORDS):
        producer.produce(
            TOPIC, str(number), partition=number % PARTITIONS,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )  # fmt: skip
    assert producer.flush(30) == 0 and not failed, failed


def values(broker: PonorProcess, count: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "g", "enable.auto.commit": False})
    consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(PARTITIONS)])
    found = [int(message.value() or b"") for message in consumer.consume(count, timeout=30)]
    more = consumer.consume(1, timeout=0.5)
    consumer.close()
    assert not more
    return sorted(found)


async def test_1_the_only_broker_that_is_started_recovers_what_nobody_took_over(tmp_path: Path) -> None:
    with PonorProcess(tmp_path, settings=SETTINGS) as broker:
        broker.create_topic(TOPIC, PARTITIONS)
        produce(broker, 0)
        broker.kill()
        # Another broker takes it for dead, and is gone before it has sealed what it fenced.
        metadata = await open_for_test(f"sqlite:///{broker.data_dir}/metadata.db")
        fencer = await Node.register(metadata, 7)
        lease = await controller(metadata, fencer)
        [dead] = [beat for beat in await metadata.node_beats() if beat.node_id == 0]
        wal = await metadata.fence_node(lease, 0, dead.node_epoch, await heartbeat_of(metadata, 0))
        assert wal is not None and wal.state == WalState.SEALING
        await metadata.close()
        broker.start()
        produce(broker, RECORDS)
        assert values(broker, 2 * RECORDS) == list(range(2 * RECORDS))
        assert "takes back what was to be recovered" in broker.log.read_text()
