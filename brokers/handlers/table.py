"""The one table of APIs this broker serves. It feeds dispatch, ApiVersions and docs/COMPATIBILITY.md.

A row is (API name in the protocol, module of its handler). The module is imported when the first request for
it comes, so that start-up pays for nothing. Versions served are Kafka 4.3's (`protocol/apis.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final

from kio.schema.errors import ErrorCode

from brokers.protocol.apis import API_BY_NAME, APIS

HOT: Final = "hot"
"""`handle(ctx) -> None`: parses ctx.body itself and calls ctx.respond, now or from a later callback."""
ENTITY: Final = "entity"
"""`async handle(ctx, request) -> response`, on the latest version's kio classes."""


@dataclass(frozen=True, slots=True)
class Api:
    """What a handler module exports as `API`."""

    key: int
    name: str
    min: int
    max: int
    handle: Callable[..., Any]
    kind: str = ENTITY
    raw: bool = False
    """An entity handler that takes the exact version's request class, and returns any object with that
    version's fields, because the shape changed in a way no default can bridge."""
    error_response: Callable[[Any, ErrorCode, int], Any] | None = None
    """(request, code, version) → the API's answer to a request that failed as a whole. Without it an error
    that leaves an entity handler closes the connection."""
    unsupported: Callable[[], bytes] | None = None
    """The version 0 body for a version that is not served. Without it the connection is closed, as Kafka does
    for every API but ApiVersions."""


_HANDLERS: Final[dict[str, str]] = {
    "Produce": "produce",
    "Fetch": "fetch",
    "ListOffsets": "list_offsets",
    "Metadata": "metadata",
    "OffsetCommit": "offset_commit",
    "OffsetFetch": "offset_fetch",
    "FindCoordinator": "find_coordinator",
    "JoinGroup": "join_group",
    "Heartbeat": "heartbeat",
    "LeaveGroup": "leave_group",
    "SyncGroup": "sync_group",
    "DescribeGroups": "describe_groups",
    "ListGroups": "list_groups",
    "SaslHandshake": "sasl_handshake",
    "ApiVersions": "api_versions",
    "CreateTopics": "create_topics",
    "DeleteTopics": "delete_topics",
    "DeleteRecords": "delete_records",
    "InitProducerId": "init_producer_id",
    "OffsetForLeaderEpoch": "offset_for_leader_epoch",
    "AddPartitionsToTxn": "add_partitions_to_txn",
    "AddOffsetsToTxn": "add_offsets_to_txn",
    "EndTxn": "end_txn",
    "WriteTxnMarkers": "write_txn_markers",
    "TxnOffsetCommit": "txn_offset_commit",
    "DescribeAcls": "describe_acls",
    "CreateAcls": "create_acls",
    "DeleteAcls": "delete_acls",
    "DescribeConfigs": "describe_configs",
    "AlterConfigs": "alter_configs",
    "AlterReplicaLogDirs": "alter_replica_log_dirs",
    "DescribeLogDirs": "describe_log_dirs",
    "SaslAuthenticate": "sasl_authenticate",
    "CreatePartitions": "create_partitions",
    "CreateDelegationToken": "create_delegation_token",
    "RenewDelegationToken": "renew_delegation_token",
    "ExpireDelegationToken": "expire_delegation_token",
    "DescribeDelegationToken": "describe_delegation_token",
    "DeleteGroups": "delete_groups",
    "ElectLeaders": "elect_leaders",
    "IncrementalAlterConfigs": "incremental_alter_configs",
    "AlterPartitionReassignments": "alter_partition_reassignments",
    "ListPartitionReassignments": "list_partition_reassignments",
    "OffsetDelete": "offset_delete",
    "DescribeClientQuotas": "describe_client_quotas",
    "AlterClientQuotas": "alter_client_quotas",
    "DescribeUserScramCredentials": "describe_user_scram_credentials",
    "AlterUserScramCredentials": "alter_user_scram_credentials",
    "DescribeQuorum": "describe_quorum",
    "UpdateFeatures": "update_features",
    "DescribeCluster": "describe_cluster",
    "DescribeProducers": "describe_producers",
    "UnregisterBroker": "unregister_broker",
    "DescribeTransactions": "describe_transactions",
    "ListTransactions": "list_transactions",
    "ConsumerGroupHeartbeat": "consumer_group_heartbeat",
    "ConsumerGroupDescribe": "consumer_group_describe",
    "GetTelemetrySubscriptions": "get_telemetry_subscriptions",
    "PushTelemetry": "push_telemetry",
    "ListConfigResources": "list_config_resources",
    "DescribeTopicPartitions": "describe_topic_partitions",
    "ShareGroupHeartbeat": "share_group_heartbeat",
    "ShareGroupDescribe": "share_group_describe",
    "StreamsGroupHeartbeat": "streams_group_heartbeat",
    "StreamsGroupDescribe": "streams_group_describe",
    "ShareFetch": "share_fetch",
    "ShareAcknowledge": "share_acknowledge",
    "AddRaftVoter": "add_raft_voter",
    "RemoveRaftVoter": "remove_raft_voter",
    "InitializeShareGroupState": "initialize_share_group_state",
    "ReadShareGroupState": "read_share_group_state",
    "WriteShareGroupState": "write_share_group_state",
    "DeleteShareGroupState": "delete_share_group_state",
    "ReadShareGroupStateSummary": "read_share_group_state_summary",
    "DescribeShareGroupOffsets": "describe_share_group_offsets",
    "AlterShareGroupOffsets": "alter_share_group_offsets",
    "DeleteShareGroupOffsets": "delete_share_group_offsets",
}

SERVED: Final[dict[int, str]] = {API_BY_NAME[name].key: module for name, module in _HANDLERS.items()}
"""Module of the handler, by API key, in key order."""


@cache
def handler(api_key: int) -> Api:
    """The API's handler. The key must be in SERVED."""
    api: Api = import_module(f"brokers.handlers.{SERVED[api_key]}").API
    protocol = APIS[api_key]
    assert (api.key, api.name, api.min, api.max) == (*protocol[:2], protocol.min, protocol.max), (
        f"{api.name} declares versions {api.min}-{api.max}; Kafka 4.3 has {protocol.min}-{protocol.max}"
    )
    return api
