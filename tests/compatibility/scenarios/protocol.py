"""Versions, features, and what a connection gets for bytes that are no request."""

from __future__ import annotations

import struct

from tests.compatibility.broker import Broker, frame, versions_of
from tests.support.kafka_wire import decode_response, request_frame, response_body

API_VERSIONS = 18
UNKNOWN_API = 4242


async def api_versions(broker: Broker) -> None:
    """APIs are noted with the versions they are listed in; those that one side lacks are in meant.py."""
    for version in versions_of("ApiVersions"):
        answer = await broker.call("ApiVersions", version, client_software_name="ponor", client_software_version="1")
        broker.note("error", version, answer.error_code)
        apis = {entry.api_key: f"{entry.min_version} to {entry.max_version}" for entry in answer.api_keys}
        for key in sorted(apis):
            broker.note(f"api {key}", version, apis[key])
        if version >= 3:
            broker.note(
                "features",
                version,
                {f.name: [f.min_version, f.max_version] for f in answer.supported_features},
            )
            broker.note(
                "finalized",
                version,
                {f.name: [f.min_version_level, f.max_version_level] for f in answer.finalized_features},
            )
            broker.note("epoch known", version, answer.finalized_features_epoch >= 0)
    await broker.ask("no software name", "ApiVersions", 3, client_software_name="", client_software_version="")
    await broker.ask("odd software name", "ApiVersions", 4, client_software_name="-x-", client_software_version="1")
    await broker.ask("spaces", "ApiVersions", 3, client_software_name="a b", client_software_version="1")


async def api_versions_fallback(broker: Broker) -> None:
    """A version that is not served is answered in version 0, and the connection goes on."""
    client = await broker.connect()
    for version in (5, 99, -1):
        client.writer.write(request_frame(API_VERSIONS, version, b"\x00" if version > 0 else b""))
        _, body = response_body(API_VERSIONS, 0, await client.receive())
        answer = decode_response(API_VERSIONS, 0, body)
        listed = {entry.api_key: [entry.min_version, entry.max_version] for entry in answer.api_keys}
        broker.note(f"version {version}", 0, {"error_code": answer.error_code.name, "ApiVersions": listed.get(18)})
    again = await broker.call("ApiVersions", 0, client)
    broker.note("afterwards", 0, again.error_code)


async def unsupported(broker: Broker) -> None:
    """Unknown APIs and versions end the connection; others go on."""
    for api, version in (
        ("Produce", 2), ("Produce", 14), ("Fetch", 3), ("Fetch", 19), ("ListOffsets", 0), ("ListOffsets", 12),
        ("Metadata", 14), ("Metadata", -1), ("OffsetCommit", 1), ("OffsetFetch", 0), ("FindCoordinator", 7),
        ("JoinGroup", 10), ("CreateTopics", 1), ("DescribeConfigs", 0), ("OffsetForLeaderEpoch", 1),
        ("DescribeCluster", 3), ("DescribeTopicPartitions", 1), ("InitProducerId", 6),
    ):  # fmt: skip
        await broker.outcome(f"{api} version {version}", 0, frame(api, version, b"\x00" * 40))
    await broker.outcome("unknown API", 0, request_frame(UNKNOWN_API, 0, b"\x00" * 8))
    await broker.outcome("negative API", 0, request_frame(-3, 0, b"\x00" * 8))
    # Retired in Kafka 4: between the controller and its brokers, ZooKeeper's way.
    await broker.outcome("LeaderAndIsr", 0, request_frame(4, 7, b"\x00" * 40))
    await broker.ask("others go on", "Metadata", 1, topics=[])


async def malformed(broker: Broker) -> None:
    """Frames and bodies that no request has."""
    for label, raw in (
        ("negative size", struct.pack(">i", -1) + b"\x00" * 20),
        ("huge size", struct.pack(">i", 2_000_000_000) + b"\x00" * 20),
        ("zero size", struct.pack(">i", 0) + b"\x00" * 20),
        ("header cut short", struct.pack(">ihh", 4, 3, 1)),
        ("TLS hello", bytes.fromhex("160301020001000100fc0303")),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("empty Metadata body", frame("Metadata", 1, b"\x00")),
        ("array longer than the request", frame("Metadata", 1, struct.pack(">i", 1000) + b"\x00\x01a")),
        ("huge array", frame("Metadata", 1, struct.pack(">i", 2**31 - 1))),
        ("string longer than the request", frame("Metadata", 1, struct.pack(">ih", 1, 30_000) + b"abc")),
        ("null name", frame("Metadata", 1, struct.pack(">ih", 1, -1))),
        ("bytes after the request", frame("Metadata", 1, struct.pack(">i", 0) + b"\x00" * 9)),
        ("Produce cut short", frame("Produce", 9, b"\x00\x00")),
        ("Fetch cut short", frame("Fetch", 12, b"\xff\xff\xff\xff\x00")),
        ("JoinGroup cut short", frame("JoinGroup", 5, b"\x00\x03abc")),
        ("invalid UTF-8", frame("Metadata", 1, struct.pack(">ih", 1, 2) + b"\xff\xfe")),
        ("null client id", request_frame(3, 1, struct.pack(">i", 0), client_id=None)),
        ("half a frame", struct.pack(">i", 100) + b"\x00" * 20),
    ):
        await broker.outcome(label, 0, raw)
    await broker.ask("others go on", "Metadata", 1, topics=[])


async def pipelining(broker: Broker) -> None:
    """Requests of one connection are answered in order, whatever each of them waits for."""
    await broker.topic("p")
    client = await broker.connect()
    names = ["Fetch", "Metadata", "ApiVersions", "ListGroups"]
    from brokers.protocol.apis import API_BY_NAME
    from tests.compatibility.messages import encode_request

    bodies = {
        "Fetch": (
            4,
            {
                "replica_id": -1,
                "max_wait": 200,
                "min_bytes": 1,
                "max_bytes": 1000,
                "topics": [
                    {
                        "topic": broker.named("p"),
                        "partitions": [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1000}],
                    }
                ],
            },
        ),
        "Metadata": (1, {"topics": []}),
        "ApiVersions": (0, {}),
        "ListGroups": (0, {}),
    }
    sent = []
    for name in names:
        version, values = bodies[name]
        sent.append(client.send(API_BY_NAME[name].key, version, encode_request(name, version, values)))
    received = [struct.unpack_from(">i", await client.receive())[0] for _ in names]
    broker.note("in order", 0, received == sent)


SCENARIOS = (api_versions, api_versions_fallback, unsupported, malformed, pipelining)
