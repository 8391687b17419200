"""One broker under comparison: asks it, and writes down what it answered in words that do not depend on which it is.

Owns: connections, masking. Masked are names made for this run, node id, port, cluster id, topic ids, member ids,
producer ids, session ids, clock times, leader epochs (told relative to those of a new topic) and the wording of
messages: that there is one is compared, its words are not. The order of arrays is not compared: Kafka's comes out
of hash maps.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from brokers.protocol.apis import API_BY_NAME, APIS
from brokers.records.batch import iter_headers
from tests.compatibility.messages import Plain, encode_request, plain
from tests.support.kafka_wire import WireClient, decode_response, request_frame, response_body

NOW = "now"
_RECENT_MS = 3_600_000
_NODES = frozenset(
    ("node_id", "leader_id", "leader", "broker_id", "replica_nodes", "isr_nodes", "controller_id")
)  # fmt: skip
_TIMES = frozenset(("timestamp", "log_append_time", "transaction_start_time", "last_timestamp"))
_EPOCHS = frozenset(("leader_epoch", "epoch", "committed_leader_epoch"))
_WORDS = frozenset(("error_message", "batch_index_error_message", "documentation"))
_ORDERED = frozenset(("synonyms",))
_DROPPED = frozenset(("throttle_time",))


class Broker:
    """`name`: of the system. Every scenario has an instance of its own: names, connection, notes."""

    def __init__(self, name: str, port: int, scenario: str, run: str) -> None:
        self.name = name
        self.port = port
        self.notes: dict[str, dict[int, Plain]] = {}
        """label → API version → answer"""
        self.node = -1
        self.new_epoch = 0
        """Leader epoch of a topic that was just created."""
        self.ids: dict[str, uuid.UUID] = {}
        """Topic ids by the names the scenario uses."""
        self._run = run
        self._scenario = scenario
        self._cluster_id = ""
        self._clients: list[WireClient] = []
        self._members: dict[str, str] = {}
        self._sessions: dict[int, str] = {}
        self._client: WireClient | None = None

    def named(self, name: str) -> str:
        """A name of topic or group that no other run of this scenario has used."""
        return f"{self._run}.{self._scenario}.{name}"

    # --- connections ---------------------------------------------------------------------------

    async def connect(self) -> WireClient:
        client = await WireClient.connect(self.port)
        self._clients.append(client)
        return client

    async def start(self) -> None:
        self._client = await self.connect()
        answer = await self.call("Metadata", 12, topics=[])
        self.node = answer.controller_id
        self._cluster_id = answer.cluster_id

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def call(self, api: str, version: int, client: WireClient | None = None, **values: Any) -> Any:
        """The decoded answer."""
        row = API_BY_NAME[api]
        client = client or self._client
        assert client is not None
        client.send(row.key, version, encode_request(api, version, values))
        _, body = response_body(row.key, version, await client.receive())
        return decode_response(row.key, version, body)

    async def ask(self, label: str, api: str, version: int, client: WireClient | None = None, **values: Any) -> Any:
        """As `call`; the answer is written down under the label."""
        answer = await self.call(api, version, client, **values)
        self.note(label, version, answer)
        return answer

    async def ask_raw(self, label: str, api: str, version: int, **values: Any) -> None:
        """As `ask`; the answer's bytes are written down: kio's classes have no time before 1970, and Kafka says -1."""
        row = API_BY_NAME[api]
        client = self._client
        assert client is not None
        client.send(row.key, version, encode_request(api, version, values))
        _, body = response_body(row.key, version, await client.receive())
        self.note(label, version, bytes(body))

    async def outcome(self, label: str, version: int, frame: bytes, wait: float = 2) -> None:
        """Write down what a connection of its own gets for these bytes: an answer of some bytes, nothing, an end."""
        client = await self.connect()
        client.writer.write(frame)
        try:
            async with asyncio.timeout(wait):
                head = await client.reader.readexactly(4)
                body = await client.reader.readexactly(struct.unpack(">i", head)[0])
                result = f"answered {len(body)} bytes"
        except TimeoutError:
            result = "no answer, open"
        except (asyncio.IncompleteReadError, ConnectionError):
            result = "closed"
        self.note(label, version, result)

    # --- topics --------------------------------------------------------------------------------

    async def topic(self, name: str, partitions: int = 1, **configs: str) -> str:
        """Create it; returns its name on the broker. Config names with `_` for `.`."""
        pairs = {"retention.ms": "-1"} | {key.replace("_", "."): value for key, value in configs.items()}
        full = self.named(name)
        answer = await self.call(
            "CreateTopics",
            7,
            topics=[
                {
                    "name": full,
                    "num_partitions": partitions,
                    "replication_factor": 1,
                    "configs": [{"name": key, "value": value} for key, value in pairs.items()],
                }
            ],
            timeout=20_000,
        )
        assert plain(answer.topics[0].error_code) == "none", answer
        await self.learn(name)
        return full

    async def learn(self, name: str) -> uuid.UUID:
        """Wait until the topic can be used; its id, and what a new leader epoch is here, are known from then on."""
        full = self.named(name)
        for _ in range(200):
            answer = await self.call("Metadata", 12, topics=[{"name": full}], allow_auto_topic_creation=False)
            found = answer.topics[0]
            if plain(found.error_code) == "none" and all(plain(p.error_code) == "none" for p in found.partitions):
                self.ids[name] = found.topic_id
                self.new_epoch = found.partitions[0].leader_epoch
                break
            await asyncio.sleep(0.02)
        for _ in range(200):  # metadata may name a leader that has not opened it yet
            answer = await self.call(
                "ListOffsets",
                5,
                replica_id=-1,
                topics=[
                    {
                        "name": full,
                        "partitions": [
                            {"partition_index": p.partition_index, "timestamp": -1, "current_leader_epoch": -1}
                            for p in found.partitions
                        ],
                    }
                ],
            )
            if all(plain(p.error_code) == "none" for p in answer.topics[0].partitions):
                return self.ids[name]
            await asyncio.sleep(0.02)
        raise AssertionError(f"{full} does not become usable on {self.name}")

    async def produce(self, name: str, records: bytes, partition: int = 0) -> int:
        """Append; the base offset."""
        answer = await self.call(
            "Produce",
            12,
            acks=-1,
            timeout=20_000,
            topic_data=[{"name": self.named(name), "partition_data": [{"index": partition, "records": records}]}],
        )
        found = answer.responses[0].partition_responses[0]
        assert plain(found.error_code) == "none", found
        offset: int = found.base_offset
        return offset

    async def producer_id(self) -> int:
        """A new one. Kafka's first block of them comes late."""
        for _ in range(200):
            answer = await self.call("InitProducerId", 4, transactional_id=None, transaction_timeout=60_000)
            if answer.producer_id >= 0:
                found: int = answer.producer_id
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"{self.name} gives no producer id")

    # --- notes ---------------------------------------------------------------------------------

    def note(self, label: str, version: int, answer: Any) -> None:
        versions = self.notes.setdefault(label, {})
        assert version not in versions, f"{label} was asked twice in version {version}"
        versions[version] = self.masked(plain(answer))

    def masked(self, value: Plain, field: str = "") -> Plain:
        if isinstance(value, Mapping):
            return {key: self.masked(item, key) for key, item in value.items() if key not in _DROPPED}
        if isinstance(value, list):
            items = [self.masked(item, field) for item in value]
            if field in _ORDERED:
                return items
            names = [item.pop("name", None) if isinstance(item, dict) else None for item in items]
            if items and None not in names and len(set(names)) == len(names):
                return dict(zip(names, items, strict=True))
            for item, name in zip(items, names, strict=True):
                if name is not None:
                    item["name"] = name
            return sorted(items, key=json.dumps) if any(isinstance(item, dict) for item in items) else items
        if isinstance(value, bytes | bytearray | memoryview):
            if field == "records":
                return self._records(bytes(value))
            return bytes(value).replace(f"{self._run}.{self._scenario}.".encode(), b"").hex()
        if isinstance(value, uuid.UUID):
            return self._topic_id(value)
        if isinstance(value, str):
            return self._text(value, field)
        if isinstance(value, int) and not isinstance(value, bool):
            return self._number(value, field)
        return value

    def _topic_id(self, value: uuid.UUID) -> str:
        for name, topic_id in self.ids.items():
            if value == topic_id:
                return f"id of {name}"
        return "no id" if value.int == 0 else f"id {value.int}" if value.int < 1 << 32 else "some id"

    def _text(self, value: str, field: str) -> str:
        if field in _WORDS and value:
            return "words"
        if field == "resource_name" and value == str(self.node):
            return "NODE"
        value = value.replace(f"{self._run}.{self._scenario}.", "")
        if self._cluster_id:
            value = value.replace(self._cluster_id, "CLUSTER")
        return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", self._member, value)

    def _member(self, found: re.Match[str]) -> str:
        return self._members.setdefault(found[0], f"M{len(self._members) + 1}")

    def _number(self, value: int, field: str) -> Plain:
        if field == "port" and value == self.port:
            return "PORT"
        if field in _NODES and value == self.node:
            return "NODE"
        if field in _TIMES and abs(value - time.time() * 1000) < _RECENT_MS:
            return NOW
        if field in _EPOCHS and value >= 0:
            return f"new{value - self.new_epoch:+}"
        if field == "producer_id" and value >= 0:
            return "PID"
        if field == "session_id" and value > 0:
            return self._sessions.setdefault(value, f"S{len(self._sessions) + 1}")
        if field == "finalized_features_epoch" and value >= 0:
            return "EPOCH"
        return value

    def _records(self, data: bytes) -> Plain:
        """Each batch: base offset, records, leader epoch, whether it is compressed, max timestamp."""
        whole = []
        position = 0
        while position + 12 <= len(data):
            size = 12 + struct.unpack_from(">i", data, position + 8)[0]
            if position + size > len(data):
                break
            whole.append(data[position : position + size])
            position += size
        headers = [next(iter_headers(batch))[1] for batch in whole]
        return [
            f"[{h.base_offset}, {h.end_offset}) attributes {h.attributes} newest "
            f"{self._number(h.max_timestamp, 'timestamp')} {self._number(h.leader_epoch, 'epoch')}"
            for h in headers
        ] + (["part of a batch"] if position < len(data) else [])


def versions_of(api: str) -> Iterable[int]:
    row = API_BY_NAME[api]
    return range(row.min, row.max + 1)


def frame(api: str, version: int, body: bytes = b"", **values: Any) -> bytes:
    """A whole frame, from raw bytes or from values."""
    key = API_BY_NAME[api].key
    assert key in APIS
    return request_frame(key, version, body or encode_request(api, version, values))
