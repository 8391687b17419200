"""Fetch, its sessions, ListOffsets, OffsetForLeaderEpoch, DeleteRecords."""

from __future__ import annotations

import time
import uuid
from typing import Any

from tests.compatibility.broker import Broker, versions_of
from tests.compatibility.scenarios.produce import T0, batch

UNKNOWN_ID = uuid.UUID(int=0x1234)
MIB = 1 << 20


def part(offset: int, index: int = 0, size: int = MIB, epoch: int = -1, last: int = -1) -> dict[str, Any]:
    return {
        "partition": index,
        "fetch_offset": offset,
        "partition_max_bytes": size,
        "current_leader_epoch": epoch,
        "last_fetched_epoch": last,
        "log_start_offset": -1,
    }


def topic(broker: Broker, name: str, *parts: dict[str, Any], topic_id: uuid.UUID | None = None) -> dict[str, Any]:
    found = topic_id or broker.ids.get(name, UNKNOWN_ID)
    return {"topic": broker.named(name), "topic_id": found, "partitions": list(parts)}


def request(*topics: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "replica_state": {"replica_id": -1, "replica_epoch": -1},
        "replica_id": -1,
        "max_wait": 0,
        "min_bytes": 0,
        "max_bytes": 50 * MIB,
        "isolation_level": 0,
        "session_id": 0,
        "session_epoch": -1,
        "topics": list(topics),
        "forgotten_topics_data": [],
        "rack_id": "",
    } | more


async def filled(broker: Broker, name: str = "t", batches: int = 4, **configs: str) -> None:
    await broker.topic(name, partitions=2, **configs)
    for number in range(batches):
        await broker.produce(name, batch(3, at=T0 + 1000 * number))


async def fetch(broker: Broker) -> None:
    """Two partitions, four batches of three records in the first."""
    await filled(broker)
    for version in versions_of("Fetch"):

        async def ask(label: str, *topics: dict[str, Any], version: int = version, **more: Any) -> None:
            await broker.ask(label, "Fetch", version, **request(*topics, **more))

        def t(*parts: dict[str, Any]) -> dict[str, Any]:
            return topic(broker, "t", *parts)

        size = len(batch(3))
        await ask("all", t(part(0)))
        await ask("inside a batch", t(part(4)))
        await ask("at the end", t(part(12)))
        await ask("beyond the end", t(part(13)))
        await ask("below the start", t(part(-1)))
        await ask("both partitions", t(part(0), part(0, 1)))
        await ask("same partition twice", t(part(0), part(3)))
        await ask("unknown partition", t(part(0, 9), part(0)))
        await ask("unknown topic", topic(broker, "gone", part(0)), t(part(0)))
        await ask("nothing")
        await ask("max_bytes 0", t(part(0)), max_bytes=0)
        await ask("max_bytes 1", t(part(0)), max_bytes=1)
        await ask("max_bytes -1", t(part(0)), max_bytes=-1)
        await ask("max_bytes of two batches", t(part(0)), max_bytes=2 * size)
        await ask("max_bytes of a batch and a half", t(part(0)), max_bytes=size + size // 2)
        await ask("partition bytes 0", t(part(0, size=0)))
        await ask("partition bytes 1", t(part(0, size=1)))
        await ask("partition bytes -1", t(part(0, size=-1)))
        await ask("partition bytes of a batch and a half", t(part(0, size=size + size // 2)))
        await ask("read committed", t(part(0)), isolation_level=1)
        await ask("isolation 2", t(part(11)), isolation_level=2)
        await ask("maximum above the broker's", t(part(0)), max_bytes=2**31 - 1)
        await ask("replica 1", t(part(0)), replica_id=1, replica_state={"replica_id": 1, "replica_epoch": -1})
        await ask("debugging consumer", t(part(0)), replica_id=-2, replica_state={"replica_id": -2, "replica_epoch": 0})
        if version >= 9:
            await ask("leader epoch", t(part(11, epoch=broker.new_epoch)))
            await ask("old leader epoch", t(part(11, epoch=broker.new_epoch - 1)))
            await ask("future leader epoch", t(part(11, epoch=broker.new_epoch + 1)))
        if version >= 12:
            await ask("last fetched epoch", t(part(11, last=broker.new_epoch)))
            await ask("last fetched epoch of the future", t(part(11, last=broker.new_epoch + 3)))
            await ask("last fetched epoch of the past", t(part(11, last=broker.new_epoch - 1)))
            await ask("last fetched epoch beyond the end", t(part(14, last=broker.new_epoch)))
        if version >= 13:
            await ask("unknown id", topic(broker, "t", part(0), topic_id=UNKNOWN_ID))
            await ask("no id", topic(broker, "t", part(0), topic_id=uuid.UUID(int=0)))


async def waiting(broker: Broker) -> None:
    """min_bytes and max_wait: whether the answer waited, by orders of magnitude."""
    await filled(broker)
    for version in (4, 12, 18):

        async def timed(label: str, offset: int, wait: int, minimum: int, version: int = version) -> None:
            begin = time.monotonic()
            answer = await broker.call(
                "Fetch", version, **request(topic(broker, "t", part(offset)), max_wait=wait, min_bytes=minimum)
            )
            took = time.monotonic() - begin
            waited = "waited" if took >= 0.9 * wait / 1000 else "at once"
            broker.note(label, version, {"took": waited, "answer": broker.masked(_plain(answer))})

        await timed("there is enough", 0, 3000, 1)
        await timed("too little", 9, 300, MIB)
        await timed("at the end", 12, 300, 1)
        await timed("at the end, no minimum", 12, 3000, 0)
        await timed("out of range", 99, 3000, MIB)
        await timed("minimum above maximum", 9, 200, 100 * MIB)


def _plain(answer: Any) -> Any:
    from tests.compatibility.messages import plain

    found = plain(answer)
    return {"error_code": found.get("error_code"), "responses": found["responses"]}


async def sessions(broker: Broker) -> None:
    """KIP-227: full and incremental fetches, wrong ids and epochs, forgotten partitions."""
    await filled(broker)
    await broker.topic("u")
    for version in (7, 11, 12, 13, 15, 17, 18):

        async def ask(label: str, *topics: dict[str, Any], version: int = version, **more: Any) -> Any:
            return await broker.ask(label, "Fetch", version, **request(*topics, **more))

        def t(*parts: dict[str, Any]) -> dict[str, Any]:
            return topic(broker, "t", *parts)

        await ask("unknown session", t(part(0)), session_id=12345, session_epoch=1)
        await ask("unknown session, epoch 0", t(part(11)), session_id=12345, session_epoch=0)
        await ask("unknown session, final", t(part(11)), session_id=12345, session_epoch=-1)
        await ask("no session, epoch 1", t(part(11)), session_id=0, session_epoch=1)
        full = await ask("full", t(part(9), part(0, 1)), session_id=0, session_epoch=0)
        session = full.session_id
        await ask("nothing new", session_id=session, session_epoch=1, max_wait=0)
        await ask("old epoch", session_id=session, session_epoch=1)
        await ask("future epoch", session_id=session, session_epoch=9)
        await ask("added", topic(broker, "u", part(0)), session_id=session, session_epoch=2)
        await ask("offset moved", t(part(6)), session_id=session, session_epoch=3)
        await ask("nothing moved", session_id=session, session_epoch=4)
        forgotten = {"topic": broker.named("t"), "topic_id": broker.ids["t"], "partitions": [0]}
        await ask("forgotten", session_id=session, session_epoch=5, forgotten_topics_data=[forgotten])
        await ask("unknown topic", topic(broker, "gone", part(0)), session_id=session, session_epoch=6)
        await ask("unknown topic still", session_id=session, session_epoch=7)
        await ask("unknown partition", t(part(0, 9)), session_id=session, session_epoch=8)
        await ask("unknown partition still", session_id=session, session_epoch=9)
        await ask("final", t(part(11)), session_id=session, session_epoch=-1)
        await ask("after its end", session_id=session, session_epoch=10)
        # An empty full fetch has nothing to keep.
        await ask("full of nothing", session_id=0, session_epoch=0)


def list_request(broker: Broker, *parts: tuple[int, int], name: str = "t", epoch: int = -1) -> dict[str, Any]:
    rows = [{"partition_index": index, "timestamp": at, "current_leader_epoch": epoch} for index, at in parts]
    return {"name": broker.named(name), "partitions": rows}


async def list_offsets(broker: Broker) -> None:
    await filled(broker)
    for version in versions_of("ListOffsets"):

        async def ask(label: str, *topics: dict[str, Any], version: int = version, **more: Any) -> None:
            values = {"replica_id": -1, "isolation_level": 0, "timeout": 5000, "topics": list(topics)} | more
            await broker.ask(label, "ListOffsets", version, **values)

        for at in range(-8, 0):
            await ask(f"timestamp {at}", list_request(broker, (0, at)))
            await ask(f"timestamp {at}, empty", list_request(broker, (1, at)))
        for label, at in (
            ("0", 0), ("before all", T0 - 5), ("first", T0), ("second", T0 + 1), ("between", T0 + 500),
            ("last", T0 + 3002), ("after all", T0 + 3003),
        ):  # fmt: skip
            await ask(f"at {label}", list_request(broker, (0, at)))
        await ask("at 0, empty", list_request(broker, (1, 0)))
        await ask("unknown partition", list_request(broker, (9, -1), (0, -1)))
        await ask("unknown topic", list_request(broker, (0, -1), name="gone"), list_request(broker, (0, -1)))
        await ask("twice", list_request(broker, (0, -1), (0, -2)))
        await ask("nothing")
        await ask("replica", list_request(broker, (0, -1)), replica_id=1)
        await ask("debugging consumer", list_request(broker, (0, -1)), replica_id=-2)
        if version >= 2:
            await ask("read committed", list_request(broker, (0, -1)), isolation_level=1)
            await ask("isolation 2", list_request(broker, (0, -1)), isolation_level=2)
        if version >= 4:
            await ask("leader epoch", list_request(broker, (0, -1), epoch=broker.new_epoch))
            await ask("old leader epoch", list_request(broker, (0, -1), epoch=broker.new_epoch - 1))
            await ask("future leader epoch", list_request(broker, (0, -1), epoch=broker.new_epoch + 1))
    await broker.topic("append-time", message_timestamp_type="LogAppendTime")
    await broker.produce("append-time", batch(3))
    for at in (-3, 0, int(time.time() * 1000) + 3_600_000):
        await broker.ask(
            f"append time, {min(at, 1)}", "ListOffsets", 7, replica_id=-1, isolation_level=0,
            topics=[list_request(broker, (0, at), name="append-time")],
        )  # fmt: skip
    await broker.topic("none")
    await broker.produce("none", batch(2, at=-1))
    for at in (-3, 0):
        await broker.ask(
            f"without time, {at}", "ListOffsets", 7, replica_id=-1, isolation_level=0,
            topics=[list_request(broker, (0, at), name="none")],
        )  # fmt: skip


async def leader_epochs(broker: Broker) -> None:
    await filled(broker)
    for version in versions_of("OffsetForLeaderEpoch"):

        async def ask(label: str, epoch: int, current: int = -1, index: int = 0, name: str = "t",
                      version: int = version, replica: int = -1) -> None:  # fmt: skip
            row = {"partition": index, "current_leader_epoch": current, "leader_epoch": epoch}
            await broker.ask(
                label, "OffsetForLeaderEpoch", version, replica_id=replica,
                topics=[{"topic": broker.named(name), "partitions": [row]}],
            )  # fmt: skip

        new = broker.new_epoch
        await ask("own", new)
        await ask("own, empty", new, index=1)
        await ask("future", new + 5)
        await ask("past", new - 1)
        await ask("-1", -1)
        await ask("-2", -2)
        await ask("current", new, current=new)
        await ask("current old", new, current=new - 1)
        await ask("current future", new, current=new + 1)
        await ask("unknown partition", new, index=9)
        await ask("unknown topic", new, name="gone")
        await ask("replica", new, replica=1)
        await ask("debugging", new, replica=-2)


async def delete_records(broker: Broker) -> None:
    for version in versions_of("DeleteRecords"):
        name = f"t{version}"
        await filled(broker, name)

        async def delete(label: str, *parts: tuple[int, int], name: str = name, version: int = version) -> None:
            rows = [{"partition_index": index, "offset": offset} for index, offset in parts]
            await broker.ask(
                label, "DeleteRecords", version, timeout=20_000,
                topics=[{"name": broker.named(name), "partitions": rows}],
            )  # fmt: skip

        await delete("beyond the end", (0, 13))
        await delete("-2", (0, -2))
        await delete("inside a batch", (0, 4))
        await delete("below the start", (0, 2))
        await delete("0", (0, 0))
        await delete("empty", (1, 0))
        await delete("unknown partition", (9, 0), (0, 4))
        await delete("unknown topic", (0, 0), name="gone")
        await broker.ask(f"below after {version}", "Fetch", 12, **request(topic(broker, name, part(3))))
        await broker.ask(f"fetched after {version}", "Fetch", 12, **request(topic(broker, name, part(4))))
        await delete("all", (0, -1))
        await delete("all again", (0, -1))
        for at in (-2, -1, 0, -3):
            await broker.ask(
                f"by time {at} after {version}", "ListOffsets", 7, replica_id=-1, isolation_level=0,
                topics=[list_request(broker, (0, at), name=name)],
            )  # fmt: skip
        for epoch in (broker.new_epoch, broker.new_epoch - 1):
            await broker.ask(
                f"epoch {epoch - broker.new_epoch} after {version}", "OffsetForLeaderEpoch", 4, replica_id=-1,
                topics=[{"topic": broker.named(name), "partitions": [
                    {"partition": 0, "current_leader_epoch": -1, "leader_epoch": epoch}]}],
            )  # fmt: skip
        await broker.produce(name, batch(1))
        await broker.ask(f"all after {version}", "Fetch", 12, **request(topic(broker, name, part(12))))


SCENARIOS = (fetch, waiting, sessions, list_offsets, leader_epochs, delete_records)
