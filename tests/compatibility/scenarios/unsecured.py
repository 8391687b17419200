"""What a broker without security, and what one without a say in the quorum, is asked all the same."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from tests.compatibility.broker import Broker, frame, versions_of

TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
LITERAL, ALLOW, READ = 3, 3, 3
SCRAM_SHA_256, SCRAM_UNKNOWN = 1, 9


async def sasl(broker: Broker) -> None:
    for version in versions_of("SaslHandshake"):
        for mechanism in ("PLAIN", "SCRAM-SHA-256", "", "nonsense"):
            await broker.ask(f"handshake {mechanism}", "SaslHandshake", version, mechanism=mechanism)
    for version in versions_of("SaslAuthenticate"):
        for token in (b"\x00user\x00secret", b""):
            await broker.ask(f"authenticate {len(token)}", "SaslAuthenticate", version, auth_bytes=token)
    await broker.ask("afterwards", "Metadata", 12, topics=[])


async def acls(broker: Broker) -> None:
    acl = {
        "resource_type": TOPIC, "resource_name": "t", "resource_pattern_type": LITERAL, "principal": "User:a",
        "host": "*", "operation": READ, "permission_type": ALLOW,
    }  # fmt: skip
    any_acl = {
        "resource_type_filter": 1, "resource_name_filter": None, "pattern_type_filter": 1, "principal_filter": None,
        "host_filter": None, "operation": 1, "permission_type": 1,
    }  # fmt: skip
    for version in versions_of("DescribeAcls"):
        await broker.ask("describe", "DescribeAcls", version, **any_acl)
    for version in versions_of("CreateAcls"):
        await broker.ask("create", "CreateAcls", version, creations=[acl])
        await broker.ask("create two", "CreateAcls", version, creations=[acl, acl])
        await broker.ask("create none", "CreateAcls", version, creations=[])
    for version in versions_of("DeleteAcls"):
        await broker.ask("delete", "DeleteAcls", version, filters=[any_acl])
        await broker.ask("delete two", "DeleteAcls", version, filters=[any_acl, any_acl])
        await broker.ask("delete none", "DeleteAcls", version, filters=[])


async def delegation_tokens(broker: Broker) -> None:
    for version in versions_of("CreateDelegationToken"):
        for label, renewers in (("plain", []), ("renewer", [{"principal_type": "User", "principal_name": "a"}])):
            await broker.ask_raw(
                f"create {label}", "CreateDelegationToken", version, renewers=renewers, max_lifetime=-1
            )
        if version >= 3:
            await broker.ask_raw(
                "create for another", "CreateDelegationToken", version, renewers=[], max_lifetime=1,
                owner_principal_type="User", owner_principal_name="b",
            )  # fmt: skip
    for version in versions_of("RenewDelegationToken"):
        await broker.ask_raw("renew", "RenewDelegationToken", version, hmac=b"x", renew_period=1000)
    for version in versions_of("ExpireDelegationToken"):
        await broker.ask_raw("expire", "ExpireDelegationToken", version, hmac=b"x", expiry_time_period=1000)
    for version in versions_of("DescribeDelegationToken"):
        owner = {"principal_type": "User", "principal_name": "a"}
        for label, owners in (("all", None), ("none", []), ("one", [owner])):
            await broker.ask(f"describe {label}", "DescribeDelegationToken", version, owners=owners)


async def client_quotas(broker: Broker) -> None:
    for version in versions_of("DescribeClientQuotas"):

        async def describe(
            label: str, *components: tuple[str, int, str | None], strict: bool = False, version: int = version
        ) -> None:
            rows = [{"entity_type": kind, "match_type": match, "match": name} for kind, match, name in components]
            await broker.ask(label, "DescribeClientQuotas", version, components=rows, strict=strict)

        await describe("everything")
        await describe("everything, strictly", strict=True)
        await describe("a user", ("user", 0, broker.named("u")))
        await describe("the default user", ("user", 1, None))
        await describe("any client", ("client-id", 2, None))
        await describe("user and client", ("user", 0, "u"), ("client-id", 0, "c"), strict=True)
        await describe("an address", ("ip", 0, "127.0.0.1"))
        await describe("unknown type", ("planet", 0, "earth"))
        await describe("empty type", ("", 0, "earth"))
        await describe("twice the same", ("user", 0, "a"), ("user", 0, "b"))
        await describe("address and user", ("ip", 0, "127.0.0.1"), ("user", 0, "b"))
        await describe("unknown match", ("user", 7, "a"))
        await describe("exact without a name", ("user", 0, None))
        await describe("default with a name", ("user", 1, "a"))
        await describe("any with a name", ("user", 2, "a"))
    for version in versions_of("AlterClientQuotas"):

        async def alter(label: str, *entries: dict[str, Any], check: bool = False, version: int = version) -> None:
            await broker.ask(label, "AlterClientQuotas", version, entries=list(entries), validate_only=check)

        def quota(
            *entity: tuple[str, str | None], key: str = "producer_byte_rate", value: float = 1e9, **more: Any
        ) -> Any:
            ops = [{"key": key, "value": value, "remove": False} | more]
            return {"entity": [{"entity_type": kind, "entity_name": name} for kind, name in entity], "ops": ops}

        user = ("user", broker.named("u"))
        await alter("nothing")
        await alter("unknown key", quota(user, key="no_such"))
        await alter("no entity", quota())
        await alter("set for an unknown type", quota(("planet", "earth")))
        await alter("negative", quota(user, value=-1.0))
        await alter("removed", quota(user, remove=True))
        await alter("set", quota(user))
        await alter("only checked", quota(user), check=True)


async def scram(broker: Broker) -> None:
    name = broker.named("u")

    async def describe(label: str, users: list[str] | None) -> None:
        asked = None if users is None else [{"name": user} for user in users]
        await broker.ask(label, "DescribeUserScramCredentials", 0, users=asked)

    async def alter(label: str, deletions: list[Any], upsertions: list[Any]) -> None:
        await broker.ask(
            label, "AlterUserScramCredentials", 0,
            deletions=[{"name": user, "mechanism": mechanism} for user, mechanism in deletions],
            upsertions=[
                {"name": user, "mechanism": mechanism, "iterations": count, "salt": b"s", "salted_password": b"p" * 32}
                for user, mechanism, count in upsertions
            ],
        )  # fmt: skip

    await describe("all", None)
    await describe("none", [])
    await describe("unknown", [name])
    await describe("twice", [name, name])
    await describe("empty name", [""])
    await alter("nothing", [], [])
    await alter("delete what is not there", [(name, SCRAM_SHA_256)], [])
    await alter("delete an unknown mechanism", [(name, SCRAM_UNKNOWN)], [])
    await alter("delete without a name", [("", SCRAM_SHA_256)], [])
    await alter("set an unknown mechanism", [], [(name, SCRAM_UNKNOWN, 4096)])
    await alter("too few iterations", [], [(name, SCRAM_SHA_256, 1)])
    await alter("too many iterations", [], [(name, SCRAM_SHA_256, 100_000)])
    await alter("set without a name", [], [("", SCRAM_SHA_256, 4096)])
    await alter("set", [], [(name, SCRAM_SHA_256, 4096)])


async def quorum(broker: Broker) -> None:
    for version in versions_of("DescribeQuorum"):
        for label, topic in (("metadata", "__cluster_metadata"), ("another topic", broker.named("gone"))):
            asked = [{"topic_name": topic, "partitions": [{"partition_index": 0}]}]
            answer = await broker.call("DescribeQuorum", version, topics=asked)
            broker.note(f"describe {label}", version, answer.error_code)
    for version in versions_of("AddRaftVoter"):
        for label, cluster in (("any cluster", None), ("another cluster", "x" * 22)):
            answer = await broker.call(
                "AddRaftVoter", version, cluster_id=cluster, timeout=1000, voter_id=77,
                voter_directory_id=uuid.UUID(int=77), listeners=[{"name": "CONTROLLER", "host": "host", "port": 1}],
            )  # fmt: skip
            broker.note(f"add a voter, {label}", version, answer.error_code)
    for label, cluster in (("any cluster", None), ("another cluster", "x" * 22)):
        answer = await broker.call(
            "RemoveRaftVoter", 0, cluster_id=cluster, voter_id=77, voter_directory_id=uuid.UUID(int=77)
        )
        broker.note(f"remove a voter, {label}", 0, answer.error_code)
    await broker.ask("unregister", "UnregisterBroker", 0, broker_id=4711)
    await broker.ask("unregister -1", "UnregisterBroker", 0, broker_id=-1)


async def features(broker: Broker) -> None:
    for version in versions_of("UpdateFeatures"):

        async def update(
            label: str, *updates: tuple[str, int, int], check: bool = False, version: int = version
        ) -> None:
            rows = [
                {"feature": name, "max_version_level": level, "upgrade_type": kind, "allow_downgrade": kind > 1}
                for name, level, kind in updates
            ]
            await broker.ask(
                label, "UpdateFeatures", version, timeout=20_000, feature_updates=rows, validate_only=check
            )

        await update("nothing")
        await update("unknown feature", ("no.such", 1, 1))
        await update("as it is", ("transaction.version", 2, 1))
        await update("two as they are", ("transaction.version", 2, 1), ("metadata.version", 29, 1))
        await update("too new", ("transaction.version", 9, 1))
        await update("negative", ("transaction.version", -1, 1))
        await update("down without saying so", ("transaction.version", 1, 1))
        await update("metadata, too old", ("metadata.version", 1, 2))
        await update("one good, one bad", ("transaction.version", 2, 1), ("no.such", 1, 1))
        if version >= 1:
            await update("unknown type", ("transaction.version", 2, 9))
            await update("only checked", ("transaction.version", 2, 1), check=True)
            await update("only checked, bad", ("transaction.version", 9, 1), check=True)
            await update("safe downgrade to newer", ("transaction.version", 9, 2))


async def config_resources(broker: Broker) -> None:
    """All names of a run are its own: what is there besides is left out."""
    full = await broker.topic("t")
    group, metrics = broker.named("g"), broker.named("m")
    changes = [
        {"resource_type": GROUP, "resource_name": group,
         "configs": [{"name": "consumer.session.timeout.ms", "config_operation": 0, "value": "46000"}]},
        {"resource_type": CLIENT_METRICS, "resource_name": metrics,
         "configs": [{"name": "interval.ms", "config_operation": 0, "value": "60000"}]},
    ]  # fmt: skip
    await broker.call("IncrementalAlterConfigs", 1, resources=changes, validate_only=False)
    wanted = {full, group, metrics, str(broker.node)}
    for version in versions_of("ListConfigResources"):
        kinds = {"default": []} | ({str(kind): [kind] for kind in (0, 1, 2, 4, 8, 16, 32, 64)} if version else {})
        if version:
            kinds["two"] = [TOPIC, GROUP]
            kinds["one of them unknown"] = [TOPIC, 64]
        for label, asked in kinds.items():
            answer = await _until_listed(broker, version, asked)
            told = sorted(
                [
                    getattr(row, "resource_type", CLIENT_METRICS),
                    "NODE" if row.resource_name == str(broker.node) else row.resource_name,
                ]
                for row in answer.config_resources
                if row.resource_name in wanted
            )  # by type first: names begin with what is this run's own
            broker.note(f"resources {label}", version, {"error": answer.error_code.name, "found": told})


async def _until_listed(broker: Broker, version: int, kinds: list[int]) -> Any:
    """Kafka's broker hears of a change a moment after the answer."""
    for _ in range(100):
        everything = await broker.call("ListConfigResources", 1, resource_types=[])
        if {broker.named("m"), broker.named("g")} <= {row.resource_name for row in everything.config_resources}:
            break
        await asyncio.sleep(0.02)
    return await broker.call("ListConfigResources", version, resource_types=kinds)


async def log_dirs_of_replicas(broker: Broker) -> None:
    full = await broker.topic("t", 2)
    answer = await broker.call("DescribeLogDirs", 4, topics=None)
    here = answer.results[0].log_dir
    for version in versions_of("AlterReplicaLogDirs"):

        async def alter(label: str, path: str, *wanted: tuple[str, list[int]], version: int = version) -> None:
            topics = [{"name": name, "partitions": ids} for name, ids in wanted]
            await broker.ask(label, "AlterReplicaLogDirs", version, dirs=[{"path": path, "topics": topics}])

        await alter("unknown directory", "/no/such/place", (full, [0, 1]))
        await alter("where it is", here, (full, [0]))
        await alter("unknown topic", here, (broker.named("gone"), [0]))
        await alter("unknown partition", here, (full, [7]))
        await alter("no partitions", here, (full, []))
        await broker.ask("nothing", "AlterReplicaLogDirs", version, dirs=[])


async def nonsense(broker: Broker) -> None:
    """A body that is none ends its own connection."""
    for api in ("DescribeAcls", "UpdateFeatures", "ListConfigResources", "DescribeClientQuotas", "DescribeQuorum"):
        for version in versions_of(api):
            await broker.outcome(f"cut short {api}", version, frame(api, version, b"\x7f"))


SCENARIOS = (
    sasl, acls, delegation_tokens, client_quotas, scram, quorum, features, config_resources, log_dirs_of_replicas,
    nonsense,
)  # fmt: skip
