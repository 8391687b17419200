"""What docs/COMPATIBILITY.md says besides the table of handlers: why an API is not served, and where answers differ.

The differences are those that tests/compatibility finds and allows (`meant.py` there says in which answers): one that
is gone, or a new one, fails a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

_SECURITY: Final = "authentication and authorization come in a later release"
_QUOTAS: Final = "quotas come in a later release"
_CLUSTER: Final = "comes with clusters of several brokers"
_NO_DISKS: Final = "a broker has no log directories: records live in object storage"
_NO_QUORUM: Final = "there is no Raft quorum: metadata live in a database"
_SHARE: Final = "share groups (KIP-932) come in a later release"
_STREAMS: Final = "streams groups (KIP-1071) come in a later release"
_TELEMETRY: Final = "client metrics are not collected; Kafka lists it only where a metrics reporter is configured"

NOT_SERVED: Final[Mapping[str, str]] = {
    "SaslHandshake": _SECURITY,
    "DescribeAcls": _SECURITY,
    "CreateAcls": _SECURITY,
    "DeleteAcls": _SECURITY,
    "AlterReplicaLogDirs": _NO_DISKS,
    "SaslAuthenticate": _SECURITY,
    "CreateDelegationToken": _SECURITY,
    "RenewDelegationToken": _SECURITY,
    "ExpireDelegationToken": _SECURITY,
    "DescribeDelegationToken": _SECURITY,
    "DescribeClientQuotas": _QUOTAS,
    "AlterClientQuotas": _QUOTAS,
    "DescribeUserScramCredentials": _SECURITY,
    "AlterUserScramCredentials": _SECURITY,
    "DescribeQuorum": _NO_QUORUM,
    "UpdateFeatures": "every feature has one level so far: there is nothing to change",
    "UnregisterBroker": _CLUSTER,
    "GetTelemetrySubscriptions": _TELEMETRY,
    "PushTelemetry": _TELEMETRY,
    "ListConfigResources": "comes with the groups and client metrics whose configs it lists",
    "ShareGroupHeartbeat": _SHARE,
    "ShareGroupDescribe": _SHARE,
    "ShareFetch": _SHARE,
    "ShareAcknowledge": _SHARE,
    "AddRaftVoter": _NO_QUORUM,
    "RemoveRaftVoter": _NO_QUORUM,
    "InitializeShareGroupState": _SHARE,
    "ReadShareGroupState": _SHARE,
    "WriteShareGroupState": _SHARE,
    "DeleteShareGroupState": _SHARE,
    "ReadShareGroupStateSummary": _SHARE,
    "StreamsGroupHeartbeat": _STREAMS,
    "StreamsGroupDescribe": _STREAMS,
    "DescribeShareGroupOffsets": _SHARE,
    "AlterShareGroupOffsets": _SHARE,
    "DeleteShareGroupOffsets": _SHARE,
}
"""Why, by the name of each API of Kafka 4.3 that `handlers/table.py` does not have."""


class Departure(NamedTuple):
    """An answer that is meant to be another than Kafka's."""

    where: str
    here: str
    kafka: str


APIS_LISTED = Departure("ApiVersions", "lists the APIs that are served", "lists all of the table above")
FEATURES = Departure(
    "ApiVersions",
    "only `group.version`, `metadata.version` and `transaction.version` are finalized, at Kafka 4.3's levels",
    "supports older levels, and the features of the APIs that are not served yet",
)
MIN_IN_SYNC = Departure(
    "CreateTopics, DescribeConfigs",
    "a topic's `min.insync.replicas` is the default",
    "it comes from a dynamic setting of the cluster, which eligible leader replicas (KIP-966) write there",
)
PARTITIONS_BOUND = Departure(
    "CreatePartitions",
    "POLICY_VIOLATION for 10,000 more partitions at once",
    "UNKNOWN_SERVER_ERROR, out of a bound of its own",
)
EMPTY_NAME = Departure(
    "DescribeTopicPartitions",
    "INVALID_TOPIC_EXCEPTION for the topic with the empty name",
    "the whole request fails with UNKNOWN_SERVER_ERROR",
)
CONFIG_OPERATION = Departure(
    "IncrementalAlterConfigs",
    "INVALID_REQUEST for an operation that does not exist",
    "UNKNOWN_SERVER_ERROR, as if the broker were at fault",
)
ANSWERED = Departure(
    "AlterConfigs, Produce",
    "a resource named twice is INVALID_REQUEST, null records are INVALID_RECORD",
    "never answers: building the error fails",
)
PRODUCE_WORDS = Departure(
    "Produce", "a refused batch has a message that says what is wrong with it", "mostly the error code alone"
)
UNKNOWN_CODEC = Departure(
    "Produce", "INVALID_RECORD for a compression codec that does not exist", "UNKNOWN_SERVER_ERROR"
)
RECORDS_UNREAD = Departure(
    "Produce",
    "a batch is decided by its header and checksum: records are decoded where the topic's configs ask for it "
    "(decision 0061), and a checksum over nonsense is stored",
    "decodes every record, refuses such a batch and corrects a wrong max timestamp",
)
WHOLE_BATCHES = Departure(
    "Fetch", "an answer ends with a whole batch", "cuts the last batch at the size limit; clients throw it away"
)
LOG_DIRS = Departure(
    "DescribeLogDirs",
    "the one directory is the object store, without a size of its own; a broker tells of the partitions that it leads",
    "directories on disks, with the size of the disk",
)
DELETED_TIMESTAMP = Departure(
    "ListOffsets",
    "the greatest timestamp is looked for among the records that are left",
    "finds a deleted record for as long as its segment file is there, at an offset that cannot be fetched",
)
DEPARTURES: Final = (
    APIS_LISTED, FEATURES, MIN_IN_SYNC, PARTITIONS_BOUND, EMPTY_NAME, CONFIG_OPERATION, ANSWERED, PRODUCE_WORDS,
    UNKNOWN_CODEC, RECORDS_UNREAD, WHOLE_BATCHES, LOG_DIRS, DELETED_TIMESTAMP,
)  # fmt: skip
