"""Kafka 4.3's Java clients, in one JVM (Driver.java)."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.compatibility.drivers.driver import Found, Place, Record, Refused
from tests.support.java_programs import JAVA
from tests.support.tools import find_tool

_SOURCE = Path(__file__).with_name("Driver.java")


class _Jvm:
    def __init__(self, bootstrap: str) -> None:
        self._process = subprocess.Popen(
            [*JAVA, f"{find_tool('kafka')}/*", str(_SOURCE), bootstrap], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.numbers = itertools.count()

    def call(self, call: str, /, **arguments: Any) -> Any:
        """Raises Refused."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": call, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer["result"]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)


def _found(row: list[Any]) -> Found:
    offset, key, value, headers, timestamp = row
    pairs = tuple((name, base64.b64decode(content)) for name, content in headers)
    return Found(offset, Record(_bytes(key), _bytes(value), pairs, timestamp))


class JavaMember:
    def __init__(self, jvm: _Jvm, number: int) -> None:
        self._jvm = jvm
        self._number = number

    def _call(self, name: str, **arguments: Any) -> Any:
        return self._jvm.call(name, member=self._number, **arguments)

    def poll(self) -> list[tuple[Place, Found]]:
        return [(Place(topic, partition), _found(row)) for topic, partition, row in self._call("poll")]

    def assigned(self) -> set[Place]:
        return {Place(*item) for item in self._call("assigned")}

    def commit(self, place: Place, offset: int, metadata: str) -> None:
        self._call("commit", **place._asdict(), offset=offset, metadata=metadata)

    def committed(self, place: Place) -> tuple[int, str] | None:
        found = self._call("committed", **place._asdict())
        return None if found is None else (found[0], found[1])

    def close(self) -> None:
        self._call("close")


class JavaTransactions:
    def __init__(self, jvm: _Jvm, number: int) -> None:
        self._jvm = jvm
        self._number = number

    def _call(self, name: str, **arguments: Any) -> None:
        self._jvm.call(name, transaction=self._number, **arguments)

    def begin(self) -> None:
        self._call("begin")

    def send(self, place: Place, value: bytes) -> None:
        self._call("send", **place._asdict(), value=_text(value))

    def send_offsets(self, group: str, place: Place, offset: int) -> None:
        self._call("send_offsets", **place._asdict(), group=group, offset=offset)

    def commit(self) -> None:
        self._call("commit")

    def abort(self) -> None:
        self._call("abort")

    def close(self) -> None:
        self._call("close")


class JavaDriver:
    def __init__(self, bootstrap: str) -> None:
        self._jvm = _Jvm(bootstrap)

    def create_topic(self, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None:
        self._jvm.call("create_topic", topic=topic, partitions=partitions, configs=dict(configs or {}))

    def add_partitions(self, topic: str, total: int) -> None:
        self._jvm.call("add_partitions", topic=topic, total=total)

    def delete_topic(self, topic: str) -> None:
        self._jvm.call("delete_topic", topic=topic)

    def topic_config(self, topic: str, name: str) -> str | None:
        value: str | None = self._jvm.call("topic_config", topic=topic, name=name)
        return value

    def delete_records(self, place: Place, before: int) -> None:
        self._jvm.call("delete_records", **place._asdict(), before=before)

    def group_state(self, group: str) -> str:
        return str(self._jvm.call("group_state", group=group))

    def group_offset(self, group: str, place: Place) -> int | None:
        offset: int | None = self._jvm.call("group_offset", group=group, **place._asdict())
        return offset

    def produce(self, place: Place, records: Sequence[Record], compression: str = "none") -> list[int]:
        rows = [
            [_text(key), _text(value), [[name, _text(content)] for name, content in headers], timestamp]
            for key, value, headers, timestamp in records
        ]
        return list(self._jvm.call("produce", **place._asdict(), records=rows, compression=compression))

    def read(self, place: Place, offset: int, count: int, isolation: str = "read_uncommitted") -> list[Found]:
        rows = self._jvm.call("read", **place._asdict(), offset=offset, count=count, isolation=isolation)
        return [_found(row) for row in rows]

    def ends(self, place: Place) -> tuple[int, int]:
        low, high = self._jvm.call("ends", **place._asdict())
        return low, high

    def offset_at(self, place: Place, timestamp: int) -> int | None:
        offset: int | None = self._jvm.call("offset_at", **place._asdict(), timestamp=timestamp)
        return offset

    def join(self, group: str, topic: str, protocol: str) -> JavaMember:
        number = next(self._jvm.numbers)
        self._jvm.call("join", group=group, topic=topic, number=number, protocol=protocol)
        return JavaMember(self._jvm, number)

    def transactional(self, transactional_id: str) -> JavaTransactions:
        number = next(self._jvm.numbers)
        self._jvm.call("transactional", id=transactional_id, number=number)
        return JavaTransactions(self._jvm, number)

    def close(self) -> None:
        self._jvm.close()
