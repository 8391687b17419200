"""A drill's producer, a process of its own: sends numbered records at a steady rate and keeps trying through faults.

    python -m drills.producer --bootstrap … --topic load --partitions 12 --number 0 --rate 500 --log FILE --status FILE

Until SIGTERM; then it waits for every answer, writes its status (JSON) and ends. SIGUSR1: `--surge` times the rate,
SIGUSR2: the rate again.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer, ThrottleEvent

from drills.client_log import ClientLog, Sent, pack_value, unpack_value

TICK_SECONDS: Final = 0.01
FLUSH_SECONDS_MAX: Final = 120.0
LOG_LEVEL: Final = 2
"""librdkafka says each lost connection: a drill has thousands."""

SETTINGS: Final[dict[str, Any]] = {
    "acks": "all",
    "linger.ms": 5,
    "log_level": LOG_LEVEL,
    # Longer than any fault of a drill: nothing may fail for good.
    "message.timeout.ms": 900_000,
    # How long a silent broker is waited for: a paused one is found out by this alone.
    "socket.timeout.ms": 4_000,
    # How soon a client comes back is part of every pause that it sees; these are what a user in a hurry sets.
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 200,
    "retry.backoff.ms": 20,
    "retry.backoff.max.ms": 100,
    "topic.metadata.refresh.fast.interval.ms": 50,
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 512 << 10,
}


class NumberedProducer:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._log = ClientLog(options.log)
        self._factor = 1.0
        self._stopping = False
        self._sequences: dict[int, int] = defaultdict(int)
        self.produced = 0
        self.failures: Counter[str] = Counter()
        self.throttled: list[tuple[float, float]] = []
        """(when, how many seconds the broker asked for)"""
        settings = {**SETTINGS, "bootstrap.servers": options.bootstrap, "enable.idempotence": not options.plain}
        if options.plain:
            settings["max.in.flight.requests.per.connection"] = 1
        self._producer = Producer({**settings, "throttle_cb": self._throttled})

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the harness's: it ends us in order
        signal.signal(signal.SIGUSR1, lambda *_: self._set_factor(self._options.surge))
        signal.signal(signal.SIGUSR2, lambda *_: self._set_factor(1.0))

    def run(self) -> None:
        number = 0
        owed = 0.0
        last = time.monotonic()
        while not self._stopping:
            now = time.monotonic()
            # What was missed in a long pause of this process is not made up for: the rate is a rate.
            owed += min(now - last, 1.0) * self._options.rate * self._factor
            last = now
            while owed >= 1 and self._send(number % self._options.partitions):
                number += 1
                owed -= 1
            self._producer.poll(TICK_SECONDS)
            self._log.tick()
            time.sleep(max(0.0, TICK_SECONDS - (time.monotonic() - now)))
        unanswered = self._producer.flush(FLUSH_SECONDS_MAX)
        self._log.close()
        status = {"produced": self.produced, "failures": dict(self.failures), "unanswered": unanswered}
        self._options.status.write_text(json.dumps({**status, "throttled": self.throttled}))

    def _send(self, partition: int) -> bool:
        """Whether there was room in the client's queue."""
        sent = Sent(self._options.number, self._sequences[partition], time.monotonic())
        value = pack_value(sent, self._options.record_bytes)
        try:
            self._producer.produce(self._options.topic, value, partition=partition, on_delivery=self._delivered)
        except BufferError:
            return False
        self._sequences[partition] += 1
        self.produced += 1
        return True

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failures[str(error)] += 1
            return
        self._log.add(message.partition() or 0, message.offset() or 0, unpack_value(message.value() or b""))

    def _throttled(self, event: ThrottleEvent) -> None:
        if event.throttle_time > 0:
            self.throttled.append((time.monotonic(), event.throttle_time))

    def _stop(self) -> None:
        self._stopping = True

    def _set_factor(self, factor: float) -> None:
        self._factor = factor


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="records per second")
    parser.add_argument("--surge", type=float, default=4.0)
    parser.add_argument("--record-bytes", type=int, default=1024)
    parser.add_argument("--plain", action="store_true", help="not idempotent")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--status", type=Path, required=True)
    producer = NumberedProducer(parser.parse_args())
    producer.listen()
    producer.run()


if __name__ == "__main__":
    main()
