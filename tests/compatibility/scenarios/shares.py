"""Share groups (KIP-932): members, records acquired, words on them, sessions, offsets, with every fault."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from tests.compatibility.broker import Broker
from tests.compatibility.messages import plain
from tests.compatibility.scenarios.groups import configured, ready
from tests.compatibility.scenarios.produce import batch

GAP, ACCEPT, RELEASE, REJECT, RENEW = range(5)
WAIT_MS = 500


async def _stored(broker: Broker, group: str, topic: str) -> None:
    """Wait until what is to be stored of the group has a coordinator: Kafka asks again after 30 s only."""
    topic_id = urlsafe_b64encode(broker.ids[topic].bytes).rstrip(b"=").decode()
    for _ in range(500):
        answer = await broker.call("FindCoordinator", 6, key_type=2, coordinator_keys=[f"{group}:{topic_id}:0"])
        if plain(answer.coordinators[0].error_code) == "none":
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{broker.name}: no share coordinator for {group}")


async def join(broker: Broker, group: str, member: str, topic: str, partitions: int) -> int:
    """Until it has all partitions; its epoch."""
    await _stored(broker, group, topic)
    answer = await broker.call(
        "ShareGroupHeartbeat", 1, group_id=group, member_id=member, member_epoch=0, rack_id=None,
        subscribed_topic_names=[broker.named(topic)],
    )  # fmt: skip
    for _ in range(100):
        assert plain(answer.error_code) == "none", answer
        given = answer.assignment.topic_partitions if answer.assignment else ()
        if sum(len(one.partitions) for one in given) == partitions:
            epoch: int = answer.member_epoch
            return epoch
        await asyncio.sleep(0.1)
        answer = await broker.call(
            "ShareGroupHeartbeat", 1, group_id=group, member_id=member, member_epoch=answer.member_epoch,
            rack_id=None, subscribed_topic_names=[broker.named(topic)],
        )  # fmt: skip
    raise AssertionError(f"{broker.name}: {member} is not given {partitions} partitions")


class Member:
    """Fetches one partition of one topic, from a connection of its own."""

    def __init__(self, broker: Broker, client: Any, group: str, name: str, topic: UUID) -> None:
        self._broker = broker
        self._client = client
        self._group = group
        self._name = name
        self._topic = topic
        self.epoch = 0

    def _values(self, acks: Sequence[tuple[int, int, Sequence[int]]], **more: Any) -> dict[str, Any]:
        batches = [{"first_offset": f, "last_offset": to, "acknowledge_types": kinds} for f, to, kinds in acks]
        part = {"partition_index": 0, "acknowledgement_batches": batches}
        return {
            "group_id": self._group, "member_id": self._name, "share_session_epoch": self.epoch,
            "topics": [{"topic_id": self._topic, "partitions": [part]}], "is_renew_ack": False,
        } | more  # fmt: skip

    async def fetch(self, *acks: tuple[int, int, Sequence[int]], version: int = 2, **more: Any) -> Any:
        values = {"max_wait": WAIT_MS, "min_bytes": 1, "max_bytes": 1 << 20, "max_records": 500, "batch_size": 500,
                  "share_acquire_mode": 0, "forgotten_topics_data": []}  # fmt: skip
        answer = await self._broker.call("ShareFetch", version, self._client, **self._values(acks, **values | more))
        if plain(answer.error_code) == "none":
            self.epoch += 1
        return answer

    async def acquire(self, label: str, *acks: tuple[int, int, Sequence[int]], **more: Any) -> None:
        """Fetch until there is something, and note what."""
        for _ in range(20):
            answer = await self.fetch(*acks, **more)
            found = _acquired(answer)
            if found or plain(answer.error_code) != "none":
                break
        self._broker.note(label, 2, {"error": answer.error_code, "acquired": found, "acks": _ack_errors(answer)})

    async def nothing(self, label: str) -> None:
        answer = await self.fetch()
        self._broker.note(label, 2, {"error": answer.error_code, "acquired": _acquired(answer)})

    async def say(self, label: str, *acks: tuple[int, int, Sequence[int]], version: int = 2, **more: Any) -> None:
        answer = await self._broker.call("ShareAcknowledge", version, self._client, **self._values(acks, **more))
        if plain(answer.error_code) == "none":
            self.epoch += 1
        parts = [plain(part.error_code) for topic in answer.responses for part in topic.partitions]
        self._broker.note(label, version, {"error": answer.error_code, "partitions": parts})


def _acquired(answer: Any) -> list[str]:
    """Neighbours together: Kafka keeps apart what came in batches of their own."""
    found: list[list[int]] = []
    for topic in answer.responses:
        for part in topic.partitions:
            for one in part.acquired_records:
                if found and found[-1][1] + 1 == one.first_offset and found[-1][2] == one.delivery_count:
                    found[-1][1] = one.last_offset
                else:
                    found.append([one.first_offset, one.last_offset, one.delivery_count])
    return [f"{first}-{last} for the {count}." for first, last, count in found]


def _ack_errors(answer: Any) -> list[int]:
    return [part.acknowledge_error_code for topic in answer.responses for part in topic.partitions]


async def share_words(broker: Broker) -> None:
    """Two members on one partition: what is acquired, and what may be said of it."""
    group = broker.named("g")
    await broker.topic("t")
    await configured(broker, group, share_auto_offset_reset="earliest")
    for name in ("m1", "m2"):
        await join(broker, group, name, "t", 1)
    one, two = [Member(broker, await broker.connect(), group, name, broker.ids["t"]) for name in ("m1", "m2")]
    await one.nothing("an empty topic")
    await two.nothing("an empty topic for another")
    for _ in range(3):
        await broker.produce("t", batch(4))
    await one.acquire("as much as a batch has", max_records=2)
    await two.acquire("no more than asked for", max_records=2, share_acquire_mode=1)
    await two.say("another's", (0, 1, [ACCEPT]))
    await two.say("nobody's yet", (8, 9, [ACCEPT]))
    await two.say("from behind", (5, 4, [ACCEPT]))
    await two.say("out of order", (5, 5, [ACCEPT]), (4, 4, [ACCEPT]))
    await two.say("without a type", (4, 4, []))
    await two.say("types for others", (4, 5, [ACCEPT] * 3))
    await two.say("an unknown type", (4, 4, [7]))
    await two.say("a renewal that does not say so", (4, 4, [RENEW]))
    await two.say("renewed", (4, 5, [RENEW]), is_renew_ack=True)
    await two.say("a renewal in version 1", (4, 4, [RENEW]), version=1)
    await two.say("released and accepted", (4, 5, [RELEASE, ACCEPT]))
    await two.say("once more", (4, 4, [ACCEPT]))
    await one.acquire("what was released, and the rest of its batch", max_records=2, share_acquire_mode=1)
    await one.say("all of a batch", (0, 3, [ACCEPT]))
    await one.say("below the start", (0, 3, [ACCEPT]))
    await one.say("rejected", (4, 4, [REJECT]))
    await one.acquire("with the next fetch", (6, 6, [ACCEPT]))
    await one.acquire("with an empty fetch", (8, 11, [GAP]), (20, 21, [ACCEPT]))
    await one.say("the last word", share_session_epoch=-1, topics=[])
    await two.acquire("what another left")
    await two.say("after the last word", (7, 7, [ACCEPT]), share_session_epoch=-1)


async def share_sessions(broker: Broker) -> None:
    group = broker.named("g")
    await broker.topic("t")
    await configured(broker, group, share_auto_offset_reset="earliest")
    await join(broker, group, "m", "t", 1)
    member = Member(broker, await broker.connect(), group, "m", broker.ids["t"])

    async def errors(label: str, **more: Any) -> None:
        answer = await member.fetch(**more)
        parts = [plain(part.error_code) for found in answer.responses for part in found.partitions]
        broker.note(label, 2, {"error": answer.error_code, "partitions": parts})

    await errors("no session", share_session_epoch=3)
    await errors("no session to end", share_session_epoch=-1)
    await member.say("no session for a word", share_session_epoch=3)
    await member.say("a word first of all", share_session_epoch=0)
    await errors("no member", member_id="")
    await errors("a long member id", member_id="x" * 37)
    await errors("no group", group_id=None)
    await errors("renewal with records", is_renew_ack=True)
    await member.nothing("begun")
    await errors("another epoch", share_session_epoch=9)
    await member.say("another epoch for a word", (0, 0, [ACCEPT]), share_session_epoch=9)
    await errors("a word with a new session", share_session_epoch=0, topics=member._values([(0, 0, [1])])["topics"])


async def share_members(broker: Broker) -> None:
    """Heartbeats and descriptions, and their faults."""
    await broker.topic("t")
    group = broker.named("g")
    await ready(broker, group)
    epoch = await join(broker, group, "m", "t", 1)

    async def beat(label: str, **values: Any) -> None:
        asked = {"group_id": group, "member_id": "m", "member_epoch": epoch, "rack_id": None,
                 "subscribed_topic_names": None}  # fmt: skip
        answer = await broker.call("ShareGroupHeartbeat", 1, **asked | values)
        broker.note(label, 1, {"error": answer.error_code, "words": bool(answer.error_message)})

    await beat("as before")
    await beat("a greater epoch", member_epoch=epoch + 9)
    await beat("an unknown member", member_id="x")
    await beat("an unknown group", group_id=broker.named("x"))
    await beat("no group", group_id="")
    await beat("no member", member_id="")
    await beat("an empty rack", rack_id="")
    await beat("a join without topics", member_epoch=0)
    await beat("a join with no topics", member_epoch=0, subscribed_topic_names=[])
    await beat("an epoch that is none", member_epoch=-3)
    for name in ("g", "no"):
        answer = await broker.call("ShareGroupDescribe", 1, group_ids=[broker.named(name)],
                                   include_authorized_operations=False)  # fmt: skip
        (found,) = answer.groups
        members = [member.member_id for member in found.members]
        broker.note(f"described {name}", 1, {"error": found.error_code, "state": found.group_state,
                                             "assignor": found.assignor_name, "members": members})  # fmt: skip
    await broker.ask("classic description", "DescribeGroups", 6, groups=[group], include_authorized_operations=False)
    await broker.ask("deleted with members", "DeleteGroups", 2, groups_names=[group])
    await beat("left", member_epoch=-1)
    await broker.ask("deleted", "DeleteGroups", 2, groups_names=[group])


SCENARIOS = (share_words, share_sessions, share_members)
