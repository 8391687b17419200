"""What a round of log compaction costs the clients beside it: latency of produce and of a tail consumer.

    python -m tests.benchmarks.compaction_beside [--mib 512] [--seconds 10] [--rate 500] [--set NAME=VALUE ...]

A broker over MinIO has a compacted log that is wholly dirty, and no cleaner (`log.cleaner.threads` 0). A producer
writes 1 KiB records at a rate to another topic, each at once, and a consumer at its end reads them. Three windows:
without a round, from the cleaner's start to the end of its round, and without one again. A record's produce latency is
from the call to its acknowledgement, its fetch latency from the call to the consumer's hands. Clients, broker, MinIO
and worker share the machine's cores.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Final, NamedTuple

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from s3stream.limits import MIB
from tests.support.ponor_process import PonorProcess
from tests.support.servers import minio_server

RECORD_BYTES: Final = 1024
SETTINGS: Final = {"log.cleaner.threads": "0", "log.cleaner.backoff.ms": "200", "ponor.flush.interval.ms": "1000"}
COMPACTED: Final = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01"}
PATIENCE_S: Final = 300.0


class Sample(NamedTuple):
    at: float
    """When the record was produced."""
    latency_ms: float


class Load:
    """A producer at a rate, and a consumer at the end of what it writes."""

    def __init__(self, bootstrap: str, topic: str, rate: float) -> None:
        self.acknowledged: list[Sample] = []
        self.read: list[Sample] = []
        self._topic = topic
        self._every = 1 / rate
        self._ended = threading.Event()
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "log_level": 2})
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "beside", "enable.auto.commit": False, "log_level": 2}
        )
        self._consumer.assign([TopicPartition(topic, 0, 0)])
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._produce, self._consume)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._producer.flush(PATIENCE_S)
        self._consumer.close()

    def _produce(self) -> None:
        rest = b"." * (RECORD_BYTES - 20)
        due = time.monotonic()
        while not self._ended.is_set():
            while (wait := due - time.monotonic()) > 0:
                self._producer.poll(wait)
            due += self._every
            began = time.monotonic()
            self._producer.produce(self._topic, b"%020.6f" % began + rest, on_delivery=self._noter(began))

    def _noter(self, began: float) -> Callable[[object, Message], None]:
        def note(error: object, _: Message) -> None:
            assert error is None, error
            self.acknowledged.append(Sample(began, (time.monotonic() - began) * 1000))

        return note

    def _consume(self) -> None:
        while not self._ended.is_set():
            message = self._consumer.poll(0.1)
            if message is not None:
                assert message.error() is None, message.error()
                value = message.value()
                assert isinstance(value, bytes)
                began = float(value[:20])
                self.read.append(Sample(began, (time.monotonic() - began) * 1000))


def percentiles(samples: Sequence[Sample], begin: float, end: float) -> str:
    found = [sample.latency_ms for sample in samples if begin <= sample.at < end]
    return f"{median(found):.1f} / {quantiles(found, n=100)[98]:.1f} ms"


def fill(bootstrap: str, mib: int) -> None:
    """A log in which each key comes four times."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "batch.size": 65_536, "log_level": 2})
    records = mib * MIB // RECORD_BYTES
    value = b"." * (RECORD_BYTES - 20)
    for number in range(records):
        while True:
            try:
                producer.produce("compacted", value, b"key-%010d" % (number % (records // 4)))
                break
            except BufferError:
                producer.poll(0.05)
    assert producer.flush(PATIENCE_S) == 0


def start_cleaner(admin: AdminClient) -> None:
    entry = ConfigEntry("log.cleaner.threads", "1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.BROKER, "0", incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(60)


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, "the broker does not get there"
        time.sleep(0.1)


@contextmanager
def broker(settings: dict[str, str]) -> Iterator[PonorProcess]:
    with tempfile.TemporaryDirectory() as folder, minio_server(Path(folder) / "minio") as server:
        server.create_bucket("ponor")
        url = server.url("ponor/beside")
        with PonorProcess(
            Path(folder) / "ponor", object_store=url, settings=settings, env=server.environment, defaults={}
        ) as process:
            yield process


def run(options: argparse.Namespace) -> None:
    given = dict(setting.split("=", 1) for setting in options.set)
    with broker({**SETTINGS, **given}) as ponor:
        admin = AdminClient({"bootstrap.servers": ponor.bootstrap, "log_level": 4})
        topics = [NewTopic("compacted", 1, 1, config=COMPACTED), NewTopic("beside", 1, 1)]
        for future in admin.create_topics(topics).values():
            future.result(60)
        fill(ponor.bootstrap, options.mib)
        wait_for(lambda: ponor.metric("ponor_memtable_bytes") == 0)
        load = Load(ponor.bootstrap, "beside", options.rate)
        load.start()
        time.sleep(3)  # a warm-up
        marks = [time.monotonic()]
        time.sleep(options.seconds)
        marks.append(time.monotonic())
        start_cleaner(admin)
        began = time.monotonic()
        wait_for(lambda: ponor.metric("ponor_log_cleaner_rounds_total") >= 1)
        ended = time.monotonic()
        time.sleep(1)
        marks.append(time.monotonic())
        time.sleep(options.seconds)
        load.end()
        windows = {
            "without a round": (marks[0], marks[1]), "beside a round": (began, ended),
            "without one again": (marks[2], float("inf")),
        }  # fmt: skip
        took = ponor.metric("ponor_log_cleaner_max_clean_time_seconds")
        print(f"a round over {options.mib} MiB took {took:.1f} s; {options.rate:.0f} records/s; p50 / p99")
        for name, window in windows.items():
            print(f"{name}: produce {percentiles(load.acknowledged, *window)}, fetch {percentiles(load.read, *window)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
