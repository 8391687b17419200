"""A drill's consumer, a process of its own.

    python -m drills.consumer follow …   a member of a group: reads on through faults and commits, until SIGTERM
    python -m drills.consumer read …     every record of every partition from its start to its end as it is now

Both log each record they are shown. `--status` (JSON): offsets that the group was told are committed (follow), or found
committed (read).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from drills.client_log import ClientLog, unpack_value
from drills.producer import LOG_LEVEL

GROUP: Final = "drill"
COMMIT_SECONDS: Final = 1.0
WATERMARK_SECONDS_MAX: Final = 60.0

SETTINGS: Final[dict[str, Any]] = {
    "enable.auto.commit": False,
    "log_level": LOG_LEVEL,
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 200,
    "topic.metadata.refresh.fast.interval.ms": 50,
    "check.crcs": True,
    # A burst after a pause is read in pieces that leave the machine to the brokers.
    "queued.max.messages.kbytes": 16 << 10,
}


class Follower:
    """Writes down what each offset showed. An offset may be shown again after a rebalance: always as the same."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._log = ClientLog(options.log)
        self._stopping = False
        self._committed: dict[int, int] = {}
        settings = {**SETTINGS, "bootstrap.servers": options.bootstrap, "group.id": options.group}
        self._consumer = Consumer({**settings, "auto.offset.reset": "earliest", "on_commit": self._told})
        self._consumer.subscribe([options.topic])

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self) -> None:
        committed_at = time.monotonic()
        unread = False
        while not self._stopping:
            for message in self._consumer.consume(1000, timeout=0.1):
                unread |= _log(self._log, message)
            self._log.tick()
            if unread and time.monotonic() - committed_at > COMMIT_SECONDS:
                self._commit()
                committed_at, unread = time.monotonic(), False
        self._consumer.close()
        self._log.close()
        self._options.status.write_text(json.dumps({"committed": self._committed}))

    def _commit(self) -> None:
        try:
            self._consumer.commit(asynchronous=True)
        except KafkaException:
            pass  # no partition is assigned just now: the next one commits

    def _told(self, error: object, partitions: list[TopicPartition]) -> None:
        if error is not None:
            return  # whether it was committed is not known
        for place in partitions:
            if place.error is None and place.offset >= 0:
                self._committed[place.partition] = place.offset

    def _stop(self) -> None:
        self._stopping = True


def read(options: argparse.Namespace) -> None:
    """Raises TimeoutError when no record comes for `--patience` seconds before the end."""
    settings = {**SETTINGS, "bootstrap.servers": options.bootstrap, "group.id": options.group}
    consumer = Consumer({**settings, "auto.offset.reset": "error"})
    log = ClientLog(options.log)
    places = [TopicPartition(options.topic, partition, OFFSET_BEGINNING) for partition in range(options.partitions)]
    remaining = {}
    for place in places:
        _, end = _patiently(lambda place=place: consumer.get_watermark_offsets(place, timeout=5))  # type: ignore[misc]
        if end > 0:
            remaining[place.partition] = end
    found = _patiently(lambda: consumer.committed(places, timeout=5))
    consumer.assign(places)
    heard_at = time.monotonic()
    while remaining:
        for message in consumer.consume(5000, timeout=0.5):
            if not _log(log, message):
                continue
            heard_at = time.monotonic()
            partition, offset = message.partition() or 0, message.offset() or 0
            if offset + 1 >= remaining.get(partition, 1 << 62):
                del remaining[partition]
        if time.monotonic() - heard_at > options.patience:
            raise TimeoutError(f"not read to the end of {options.topic}: (partition: end) {remaining}")
    consumer.close()
    log.close()
    committed = {place.partition: place.offset for place in found if place.offset >= 0}
    options.status.write_text(json.dumps({"committed": committed}))


def _patiently(ask: Callable[[], Any]) -> Any:
    """A partition may just be opening. Raises KafkaException when the answer does not come."""
    deadline = time.monotonic() + WATERMARK_SECONDS_MAX
    while True:
        try:
            return ask()
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _log(log: ClientLog, message: Message) -> bool:
    """Whether it is a record."""
    if message.error() is not None:
        return False
    log.add(message.partition() or 0, message.offset() or 0, unpack_value(message.value() or b""))
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["follow", "read"])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, default=0)
    parser.add_argument("--group", default=GROUP)
    parser.add_argument("--patience", type=float, default=60.0)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--status", type=Path, required=True)
    options = parser.parse_args()
    if options.action == "read":
        try:
            read(options)
        except (TimeoutError, KafkaException) as error:
            sys.exit(str(error))
        return
    follower = Follower(options)
    follower.listen()
    follower.run()


if __name__ == "__main__":
    main()
