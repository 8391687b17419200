"""Classic groups: membership, offsets, administration, in every version and with every fault."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from brokers.protocol.apis import API_BY_NAME
from tests.compatibility.broker import Broker, versions_of
from tests.compatibility.messages import encode_request, plain
from tests.compatibility.scenarios.produce import UNKNOWN_ID, batch
from tests.support.kafka_wire import WireClient, decode_response, response_body

NOBODY = "00000000-0000-0000-0000-000000000000"
GROUP_RESOURCE = 32
LOADING = ("coordinator_load_in_progress", "not_coordinator", "coordinator_not_available")


def subscription(*topics: str) -> bytes:
    """What a consumer of these topics says of itself: version 1, no user data, no partitions owned."""
    names = b"".join(len(name).to_bytes(2, "big") + name.encode() for name in topics)
    return b"\x00\x01" + len(topics).to_bytes(4, "big") + names + b"\xff\xff\xff\xff" + b"\x00\x00\x00\x00"


RANGE = {"range": subscription("a")}
FIRST = {"range": subscription("a"), "sticky": subscription("a", "b")}
SECOND = {"sticky": subscription("c")}


def join_request(
    group: str, member: str = "", protocols: Mapping[str, bytes] = MappingProxyType(RANGE), **more: Any
) -> dict[str, Any]:
    return {
        "group_id": group,
        "session_timeout": 10_000,
        "rebalance_timeout": 5_000,
        "member_id": member,
        "group_instance_id": None,
        "protocol_type": "consumer",
        "protocols": [{"name": name, "metadata": metadata} for name, metadata in protocols.items()],
        "reason": None,
    } | more


async def ready(broker: Broker, group: str) -> None:
    """Wait until the group has a coordinator that is loaded."""
    for _ in range(500):
        found = await broker.call("FindCoordinator", 3, key=group, key_type=0)
        if plain(found.error_code) == "none":
            answer = await broker.call("Heartbeat", 0, group_id=group, generation_id=1, member_id="x")
            if plain(answer.error_code) not in LOADING:
                return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{broker.name}: no coordinator for {group}")


async def configured(broker: Broker, group: str, **configs: str) -> None:
    """The group has a coordinator, and these settings of its own: names with `_` for `.`."""
    await ready(broker, group)
    entries = [
        {"name": name.replace("_", "."), "config_operation": 0, "value": value} for name, value in configs.items()
    ]
    resource = {"resource_type": GROUP_RESOURCE, "resource_name": group, "configs": entries}
    answer = await broker.call("IncrementalAlterConfigs", 1, resources=[resource], validate_only=False)
    assert plain(answer.responses[0].error_code) == "none", answer


async def enter(broker: Broker, group: str, version: int = 9, **more: Any) -> Any:
    """Join as a new member, as clients do: with the id one is given."""
    answer = await broker.call("JoinGroup", version, **join_request(group, **more))
    if plain(answer.error_code) == "member_id_required":
        answer = await broker.call("JoinGroup", version, **join_request(group, answer.member_id, **more))
    assert plain(answer.error_code) == "none", answer
    return answer


async def stable(broker: Broker, group: str, **more: Any) -> Any:
    """A group of one member, with its assignment; the join's answer."""
    joined = await enter(broker, group, **more)
    assignments = [{"member_id": joined.member_id, "assignment": b"mine"}]
    answer = await broker.call(
        "SyncGroup", 5, group_id=group, generation_id=joined.generation_id, member_id=joined.member_id,
        group_instance_id=more.get("group_instance_id"), protocol_type="consumer",
        protocol_name=joined.protocol_name, assignments=assignments,
    )  # fmt: skip
    assert plain(answer.error_code) == "none", answer
    return joined


def begin(client: WireClient, api: str, version: int, **values: Any) -> None:
    client.send(API_BY_NAME[api].key, version, encode_request(api, version, values))


async def end(client: WireClient, api: str, version: int) -> Any:
    key = API_BY_NAME[api].key
    return decode_response(key, version, response_body(key, version, await client.receive())[1])


async def fetched_by_epoch(broker: Broker, group: str, topic: str, member: str, epoch: int) -> None:
    """Offsets of a group whose members have epochs, asked for by this one and by others (OffsetFetch from 8 on)."""
    topics = [{"name": topic, "topic_id": broker.ids["t"], "partition_indexes": [0, 1]}]
    for version in versions_of("OffsetFetch"):
        if version < 8:
            continue

        async def fetch(label: str, who: str | None, epoch: int, version: int = version) -> None:
            asked = [{"group_id": group, "member_id": who, "member_epoch": epoch, "topics": topics}]
            await broker.ask(label, "OffsetFetch", version, groups=asked, require_stable=True)

        await fetch("fetch of nobody", None, -1)
        await fetch("fetch of the member", member, epoch)
        await fetch("fetch with another epoch", member, epoch + 1)
        await fetch("fetch of a stranger", "two", epoch)


async def find_coordinator(broker: Broker) -> None:
    group = broker.named("g")
    await ready(broker, group)
    for version in versions_of("FindCoordinator"):

        async def ask(label: str, *keys: str, kind: int = 0, version: int = version) -> None:
            if version < 4:
                await broker.ask(label, "FindCoordinator", version, key=keys[0], key_type=kind)
            else:
                await broker.ask(label, "FindCoordinator", version, coordinator_keys=list(keys), key_type=kind)

        await ask("group", group)
        await ask("empty group", "")
        if version >= 1:
            await ask("type 3", group, kind=3)
            await ask("type -1", group, kind=-1)
            await ask("share group", "g:x:0", kind=2)
        if version >= 4:
            await ask("two", group, "another")
            await ask("same twice", group, group)
            await ask("none")


async def membership(broker: Broker) -> None:
    """A member alone: join, sync, heartbeat, leave."""
    for version in versions_of("JoinGroup"):
        group = broker.named(f"g{version}")
        await ready(broker, group)

        async def join(label: str, version: int = version, group: str = group, **more: Any) -> Any:
            return await broker.ask(label, "JoinGroup", version, **join_request(**({"group": group} | more)))

        await join("empty group id", group="")
        await join("unknown member", member=NOBODY)
        await join("session timeout too small", session_timeout=10)
        await join("session timeout too large", session_timeout=100_000_000)
        await join("no protocols", protocols={})
        await join("no protocol type", protocol_type="")
        answer = await join("new")
        if plain(answer.error_code) == "member_id_required":
            answer = await join("with the id given", member=answer.member_id)
        await join("again", member=answer.member_id)
        await join("other protocol type", protocol_type="connect")
        await join("other protocols", protocols={"never-heard-of": b""})
        await join("unknown member of a group", member=NOBODY)
        await join("no metadata changed", member=answer.member_id)
        if version >= 5:
            await join("instance unknown, member known", member=answer.member_id, group_instance_id="nobody")


async def sync_heartbeat_leave(broker: Broker) -> None:
    for version in versions_of("SyncGroup"):
        group = broker.named(f"s{version}")
        await ready(broker, group)

        async def sync(label: str, member: str, generation: int, version: int = version, group: str = group,
                       **more: Any) -> None:  # fmt: skip
            values = {
                "group_id": group, "generation_id": generation, "member_id": member, "group_instance_id": None,
                "protocol_type": "consumer", "protocol_name": "range",
                "assignments": [{"member_id": member, "assignment": b"all"}],
            } | more  # fmt: skip
            await broker.ask(label, "SyncGroup", version, **values)

        await sync("unknown group", NOBODY, 1)
        await sync("empty group id", NOBODY, 1, group_id="")
        joined = await enter(broker, group)
        me, generation = joined.member_id, joined.generation_id
        await sync("old generation", me, generation - 1)
        await sync("future generation", me, generation + 1)
        await sync("unknown member", NOBODY, generation)
        if version >= 5:
            await sync("other protocol", me, generation, protocol_name="sticky")
            await sync("other type", me, generation, protocol_type="connect")
            await sync("no protocol named", me, generation, protocol_name=None, protocol_type=None)
        await sync("assigned", me, generation)
        await sync("again", me, generation, assignments=[])
        if version >= 3:
            await sync("instance unknown", me, generation, group_instance_id="nobody")

        async def beat(label: str, member: str, generation: int, version: int = version, group: str = group,
                       **more: Any) -> None:  # fmt: skip
            if version <= 4:
                values = {"group_id": group, "generation_id": generation, "member_id": member} | more
                await broker.ask(label, "Heartbeat", version, **values)

        await beat("beat", me, generation)
        await beat("beat, old generation", me, generation - 1)
        await beat("beat, future generation", me, generation + 1)
        await beat("beat, unknown member", NOBODY, generation)
        await beat("beat, unknown group", me, generation, group=broker.named("none"))
        await beat("beat, empty group id", me, generation, group="")
        if version >= 3:
            await beat("beat, instance unknown", me, generation, group_instance_id="nobody")

        async def leave(label: str, *members: dict[str, Any], version: int = version, group: str = group) -> None:
            values = {"members": list(members)} if version >= 3 else {"member_id": members[0]["member_id"]}
            await broker.ask(label, "LeaveGroup", version, group_id=group, **values)

        await leave("leave, unknown member", {"member_id": NOBODY, "group_instance_id": None})
        await leave("leave, unknown group", {"member_id": me, "group_instance_id": None}, group=broker.named("none"))
        await leave("leave, empty group id", {"member_id": me, "group_instance_id": None}, group="")
        if version >= 3:
            await leave("leave, nobody")
            await leave("leave, instance unknown", {"member_id": "", "group_instance_id": "nobody"})
        await leave("leave", {"member_id": me, "group_instance_id": None})
        await leave("leave again", {"member_id": me, "group_instance_id": None})
        await sync("after leaving", me, generation)
        await beat("beat after leaving", me, generation)


async def rebalance(broker: Broker) -> None:
    """Two members: the second's join disturbs the first, the leader alone learns of both."""
    for version in (0, 2, 4, 5, 7, 9):
        group = broker.named(f"r{version}")
        await ready(broker, group)
        first = await stable(broker, group, protocols=FIRST)
        broker.masked(first.member_id)
        one, two = await broker.connect(), await broker.connect()
        second_id = ""
        if version >= 4:
            answer = await broker.call("JoinGroup", version, **join_request(group, protocols=SECOND))
            second_id = answer.member_id
        begin(two, "JoinGroup", version, **join_request(group, second_id, protocols=SECOND))
        broker.note("first is told", version, await told(broker, group, first))
        sync = {"group_id": group, "group_instance_id": None, "protocol_type": "consumer", "protocol_name": "range"}
        answer = await broker.call(
            "SyncGroup", 5, **sync, generation_id=first.generation_id, member_id=first.member_id, assignments=[]
        )
        broker.note("sync meanwhile", version, answer)
        answer = await broker.call("DescribeGroups", 5, groups=[group])
        broker.note("described meanwhile", version, [answer.groups[0].group_state, len(answer.groups[0].members)])
        begin(one, "JoinGroup", version, **join_request(group, first.member_id, protocols=FIRST))
        follower = await end(two, "JoinGroup", version)
        broker.note("follower joins", version, follower)
        leader = await end(one, "JoinGroup", version)
        broker.note("leader joins", version, leader)
        both = [{"member_id": member.member_id, "assignment": b"for " + member.metadata} for member in leader.members]
        sync |= {"generation_id": leader.generation_id, "protocol_name": leader.protocol_name}
        begin(two, "SyncGroup", 5, **sync, member_id=follower.member_id, assignments=[])
        await asyncio.sleep(0.05)
        begin(one, "SyncGroup", 5, **sync, member_id=leader.member_id, assignments=both)
        broker.note("leader's assignment", version, await end(one, "SyncGroup", 5))
        broker.note("follower's assignment", version, await end(two, "SyncGroup", 5))
        broker.note("described", version, await broker.call("DescribeGroups", 5, groups=[group]))
        begin(two, "LeaveGroup", 0, group_id=group, member_id=follower.member_id)
        broker.note("follower leaves", version, await end(two, "LeaveGroup", 0))
        broker.note("leader is told", version, await told(broker, group, leader))


async def told(broker: Broker, group: str, member: Any) -> str:
    """What a heartbeat says once it says anything but that all is well."""
    for _ in range(200):
        answer = await broker.call(
            "Heartbeat", 4, group_id=group, generation_id=member.generation_id, member_id=member.member_id
        )
        if plain(answer.error_code) != "none":
            break
        await asyncio.sleep(0.01)
    return str(plain(answer.error_code))


async def static_members(broker: Broker) -> None:
    group = broker.named("g")
    await ready(broker, group)
    mine = {"group_instance_id": "i1"}
    joined = await broker.ask("joins", "JoinGroup", 9, **join_request(group, **mine))
    me, generation = joined.member_id, joined.generation_id

    def sync(member: str, **more: Any) -> dict[str, Any]:
        return {
            "group_id": group, "generation_id": generation, "member_id": member, "protocol_type": "consumer",
            "protocol_name": "range", "assignments": [{"member_id": me, "assignment": b"mine"}],
        } | mine | more  # fmt: skip

    await broker.ask("syncs", "SyncGroup", 5, **sync(me))
    again = await broker.ask("joins again without its id", "JoinGroup", 9, **join_request(group, **mine))
    await broker.ask("old id syncs", "SyncGroup", 5, **sync(me))
    await broker.ask("old id beats", "Heartbeat", 4, group_id=group, generation_id=generation, member_id=me, **mine)
    await broker.ask("old id joins", "JoinGroup", 9, **join_request(group, me, **mine))
    await broker.ask("old id, no instance, beats", "Heartbeat", 4, group_id=group, generation_id=generation,
                     member_id=me, group_instance_id=None)  # fmt: skip
    offset = {"partition_index": 0, "committed_offset": 1, "committed_leader_epoch": -1, "committed_metadata": ""}
    name = await broker.topic("t")
    commit = {"group_id": group, "topics": [{"name": name, "topic_id": broker.ids["t"], "partitions": [offset]}]}
    await broker.ask(
        "old id commits", "OffsetCommit", 9, generation_id_or_member_epoch=generation, member_id=me, **mine, **commit
    )
    await broker.ask(
        "new id commits", "OffsetCommit", 9, generation_id_or_member_epoch=generation, member_id=again.member_id,
        **mine, **commit,
    )  # fmt: skip
    await broker.ask("new id syncs", "SyncGroup", 5, **sync(again.member_id, generation_id=again.generation_id))
    await broker.ask("described", "DescribeGroups", 6, groups=[group])
    await broker.ask(
        "leaves with the old id", "LeaveGroup", 5, group_id=group, members=[{"member_id": me, **mine, "reason": None}]
    )
    await broker.ask(
        "leaves by its instance", "LeaveGroup", 5, group_id=group,
        members=[{"member_id": "", **mine, "reason": None}, {"member_id": "", "group_instance_id": "i2"}],
    )  # fmt: skip
    await broker.ask("described at the end", "DescribeGroups", 6, groups=[group])


async def offsets(broker: Broker) -> None:
    """Commits of nobody in particular, of members, and what they read back."""
    full = await broker.topic("t", 2)
    for version in versions_of("OffsetCommit"):
        group = broker.named(f"g{version}")
        await ready(broker, group)

        def row(index: int = 0, offset: int = 5, metadata: str | None = "m", epoch: int = -1) -> dict[str, Any]:
            return {
                "partition_index": index, "committed_offset": offset, "committed_leader_epoch": epoch,
                "committed_metadata": metadata,
            }  # fmt: skip

        async def commit(label: str, *rows: dict[str, Any], name: str = full, version: int = version,
                         group: str = group, **more: Any) -> None:  # fmt: skip
            known = broker.ids["t"] if name == full else UNKNOWN_ID
            values = {
                "group_id": group, "generation_id_or_member_epoch": -1, "member_id": "", "group_instance_id": None,
                "retention_time": -1, "topics": [{"name": name, "topic_id": known, "partitions": list(rows)}],
            } | more  # fmt: skip
            await broker.ask(label, "OffsetCommit", version, **values)

        await commit("simple", row())
        await commit("both", row(0, 6), row(1, 7))
        await commit("unknown partition", row(9), row(0, 8))
        await commit("unknown topic", row(), name=broker.named("gone"))
        await commit("metadata too long", row(metadata="x" * 4097), row(1, 9))
        await commit("metadata of the limit", row(metadata="x" * 4096))
        await commit("null metadata", row(metadata=None))
        await commit("negative offset", row(offset=-1))
        await commit("offset -5", row(offset=-5))
        await commit("with an epoch", row(epoch=broker.new_epoch))
        await commit("nothing", topics=[])
        await commit("empty group id", row(), group="")
        await commit("generation without member", row(), generation_id_or_member_epoch=3)
        await commit("member without generation", row(), member_id=NOBODY)
        await commit("member of no group", row(), member_id=NOBODY, generation_id_or_member_epoch=3)
        await commit("unknown group, generation", row(), group=broker.named("no"), generation_id_or_member_epoch=0)
        joined = await stable(broker, group)
        me, generation = joined.member_id, joined.generation_id
        await commit("of a member", row(0, 50), member_id=me, generation_id_or_member_epoch=generation)
        await commit("old generation", row(), member_id=me, generation_id_or_member_epoch=generation - 1)
        await commit("future generation", row(), member_id=me, generation_id_or_member_epoch=generation + 1)
        await commit("unknown member", row(), member_id=NOBODY, generation_id_or_member_epoch=generation)
        await commit("simple in a live group", row())
        if version >= 7:
            await commit("instance unknown", row(), member_id=me, generation_id_or_member_epoch=generation,
                         group_instance_id="nobody")  # fmt: skip
        await _fetched(broker, f"after {version}", 8, group, full)
    await _offset_fetches(broker, full)


async def _fetched(broker: Broker, label: str, version: int, group: str, name: str) -> None:
    topics = [{"name": name, "topic_id": broker.ids["t"], "partition_indexes": [0, 1]}]
    await broker.ask(
        label, "OffsetFetch", version, require_stable=False,
        groups=[{"group_id": group, "member_id": None, "member_epoch": -1, "topics": topics}],
    )  # fmt: skip


async def _offset_fetches(broker: Broker, full: str) -> None:
    group = broker.named("g8")
    for version in versions_of("OffsetFetch"):

        async def fetch(label: str, groups: list[str], indexes: list[int] | None, version: int = version,
                        name: str = full, **more: Any) -> None:  # fmt: skip
            known = broker.ids["t"] if name == full else UNKNOWN_ID
            topics = None
            if indexes is not None:
                topics = [{"name": name, "topic_id": known, "partition_indexes": indexes}] if indexes else []
            values: dict[str, Any] = {"require_stable": more.pop("require_stable", False)}
            if version < 8:
                values |= {"group_id": groups[0], "topics": topics}
            else:
                rows = {"member_id": None, "member_epoch": -1, "topics": topics} | more
                values["groups"] = [{"group_id": each} | rows for each in groups]
            await broker.ask(label, "OffsetFetch", version, **values)

        await fetch("read: one", [group], [0])
        await fetch("read: uncommitted", [group], [0, 1, 9])
        await fetch("read: unknown topic", [group], [0], name=broker.named("gone"))
        await fetch("read: unknown group", [broker.named("nobody")], [0])
        await fetch("read: empty group id", [""], [0])
        await fetch("read: no topics", [group], [])
        if version >= 2:
            await fetch("read: all", [group], None)
            await fetch("read: all of an unknown group", [broker.named("nobody")], None)
        if version >= 7:
            await fetch("read: stable", [group], [0], require_stable=True)
        if version >= 8:
            await fetch("read: two groups", [group, broker.named("nobody")], [0])
            await fetch("read: no group", [], [0])
        if version >= 9:
            await fetch("read: with an epoch", [group], [0], member_id="x", member_epoch=3)


async def administration(broker: Broker) -> None:
    """List, describe, delete, delete offsets."""
    full = await broker.topic("t", 2)
    live, empty, gone = broker.named("live"), broker.named("empty"), broker.named("gone")
    for group in (live, empty, gone):
        await ready(broker, group)
    row = {"partition_index": 0, "committed_offset": 5, "committed_leader_epoch": -1, "committed_metadata": ""}

    async def commit(group: str) -> None:
        await broker.call(
            "OffsetCommit", 8, group_id=group, generation_id_or_member_epoch=-1, member_id="",
            topics=[{"name": full, "partitions": [row, row | {"partition_index": 1}]}],
        )  # fmt: skip

    await commit(empty)
    consumer = subscription(full)
    await stable(broker, live, protocols={"range": consumer})
    for version in versions_of("ListGroups"):

        async def listed(label: str, version: int = version, **filters: Any) -> None:
            answer = await broker.call("ListGroups", version, **filters)
            found = [plain(group) for group in answer.groups if group.group_id in (live, empty, gone)]
            broker.note(label, version, {"error_code": answer.error_code.name, "groups": broker.masked(found)})

        await listed("listed")
        if version >= 4:
            await listed("listed, stable", states_filter=["Stable"])
            await listed("listed, lower case", states_filter=["empty"])
            await listed("listed, two states", states_filter=["Empty", "Stable"])
            await listed("listed, unknown state", states_filter=["Nonsense"])
        if version >= 5:
            await listed("listed, classic", types_filter=["classic"])
            await listed("listed, consumer", types_filter=["consumer"])
            await listed("listed, unknown type", types_filter=["nonsense"])
    for version in versions_of("DescribeGroups"):
        more = {"include_authorized_operations": True} if version >= 3 else {}
        await broker.ask("described", "DescribeGroups", version, groups=[live, empty])
        await broker.ask("described, unknown", "DescribeGroups", version, groups=[gone])
        await broker.ask("described, empty id", "DescribeGroups", version, groups=[""])
        await broker.ask("described, same twice", "DescribeGroups", version, groups=[empty, empty])
        await broker.ask("described, none", "DescribeGroups", version, groups=[])
        await broker.ask("described, operations", "DescribeGroups", version, groups=[empty, gone], **more)

    async def delete_offsets(label: str, group: str, *indexes: int, name: str = full) -> None:
        rows = [{"partition_index": index} for index in indexes]
        await broker.ask(label, "OffsetDelete", 0, group_id=group, topics=[{"name": name, "partitions": rows}])

    await delete_offsets("offsets deleted", empty, 0)
    await delete_offsets("offsets deleted again", empty, 0)
    await delete_offsets("offsets of an unknown partition", empty, 9, 1)
    await delete_offsets("offsets of an unknown topic", empty, 0, name=broker.named("nope"))
    await delete_offsets("offsets of an unknown group", gone, 0)
    await delete_offsets("offsets of no group", "", 0)
    await delete_offsets("offsets of a subscribed topic", live, 0)
    other = await broker.topic("other")
    await delete_offsets("offsets of another topic", live, 0, name=other)
    for version in versions_of("DeleteGroups"):
        mine = broker.named(f"d{version}")
        await commit(mine)
        await broker.ask("deleted", "DeleteGroups", version, groups_names=[mine])
        await broker.ask("deleted again", "DeleteGroups", version, groups_names=[mine])
        await broker.ask("deleted, unknown", "DeleteGroups", version, groups_names=[gone])
        await broker.ask("deleted, live", "DeleteGroups", version, groups_names=[live])
        await broker.ask("deleted, empty id", "DeleteGroups", version, groups_names=[""])
        await broker.ask("deleted, same twice", "DeleteGroups", version, groups_names=[gone, gone])
        await broker.ask("deleted, none", "DeleteGroups", version, groups_names=[])
    await _topic_goes(broker, full, empty)


async def _topic_goes(broker: Broker, full: str, empty: str) -> None:
    """The offsets of a topic go with it."""
    await broker.produce("t", batch(1))
    await broker.call("DeleteTopics", 5, topic_names=[full], timeout=20_000)
    for _ in range(200):
        answer = await broker.call(
            "OffsetFetch", 8, require_stable=False,
            groups=[{"group_id": empty, "member_id": None, "member_epoch": -1, "topics": None}],
        )  # fmt: skip
        if not answer.groups[0].topics:
            break
        await asyncio.sleep(0.02)
    broker.note("offsets of a deleted topic", 8, answer)


SCENARIOS = (
    find_coordinator, membership, sync_heartbeat_leave, rebalance, static_members, offsets, administration,
)  # fmt: skip
