"""What docs/COMPATIBILITY.md says besides the table of handlers: why an API is not served, and where answers differ.

The differences are those that tests/compatibility finds and allows (`meant.py` there says in which answers): one that
is gone, or a new one, fails a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

NOT_SERVED: Final[Mapping[str, str]] = {}
"""Why, by the name of each API of Kafka 4.3 that `handlers/table.py` does not have."""


IN_PART: Final[Mapping[str, str]] = {
    "SaslHandshake": "ILLEGAL_SASL_STATE: the listener speaks no SASL, as Kafka's PLAINTEXT listener",
    "SaslAuthenticate": "ILLEGAL_SASL_STATE: the listener speaks no SASL, as Kafka's PLAINTEXT listener",
    "DescribeAcls": "SECURITY_DISABLED, as a Kafka broker without an authorizer",
    "CreateAcls": "SECURITY_DISABLED, as a Kafka broker without an authorizer",
    "DeleteAcls": "SECURITY_DISABLED, as a Kafka broker without an authorizer",
    "CreateDelegationToken": "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED, as Kafka's PLAINTEXT listener",
    "RenewDelegationToken": "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED, as Kafka's PLAINTEXT listener",
    "ExpireDelegationToken": "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED, as Kafka's PLAINTEXT listener",
    "DescribeDelegationToken": "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED, as Kafka's PLAINTEXT listener",
    "DescribeClientQuotas": "there are no quotas",
    "AlterClientQuotas": "a new quota is refused: none is enforced in this release",
    "DescribeUserScramCredentials": "there are no users",
    "AlterUserScramCredentials": "a credential is refused: there is no SASL listener in this release",
    "AlterReplicaLogDirs": "a broker has one directory, the object store: a partition can only be put where it is",
    "DescribeQuorum": "UNSUPPORTED_VERSION: there is no Raft quorum, metadata lie in a database",
    "AddRaftVoter": "UNSUPPORTED_VERSION: there is no Raft quorum, metadata lie in a database",
    "RemoveRaftVoter": "VOTER_NOT_FOUND: there is no Raft quorum, metadata lie in a database",
    "UpdateFeatures": "every feature has one level: it can be asked for, no other can",
    "UnregisterBroker": "a registered broker is not unregistered: `ponor node forget` knows what it held",
}
"""What is answered by APIs that have little to say here."""


class Departure(NamedTuple):
    """An answer that is meant to be another than Kafka's."""

    where: str
    here: str
    kafka: str


APIS_LISTED = Departure("ApiVersions", "lists the APIs that are served", "lists all of the table above")
FEATURES = Departure(
    "ApiVersions",
    "only `group.version`, `metadata.version`, `share.version`, `streams.version` and `transaction.version` are "
    "finalized, at Kafka 4.3's levels",
    "supports older levels, `kraft.version` and `eligible.leader.replicas.version`",
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
QUOTAS_REFUSED = Departure(
    "AlterClientQuotas", "UNSUPPORTED_VERSION for a new quota: none is enforced", "stores and enforces it"
)
CREDENTIALS_REFUSED = Departure(
    "AlterUserScramCredentials",
    "UNSUPPORTED_SASL_MECHANISM for a new credential: no listener would ask for it",
    "stores it, whether a listener asks for it or not",
)
NO_QUORUM = Departure(
    "DescribeQuorum, AddRaftVoter",
    "UNSUPPORTED_VERSION: there is no Raft quorum",
    "describes its quorum; waits for a new voter to catch up",
)
TASKS_TOLD_AGAIN = Departure(
    "StreamsGroupHeartbeat",
    "a member that says it has other tasks than it was given is told of them again (decision 0240)",
    "it is not: an answer that was lost is made good by the next division of tasks",
)
ENDPOINT_WITHOUT_TOPICS = Departure(
    "StreamsGroupHeartbeat",
    "a member with an endpoint is told which topics are missing, as one without",
    "UNKNOWN_SERVER_ERROR while source topics are missing",
)
NOT_READY = Departure(
    "ListGroups",
    "`NotReady` as a filter finds streams groups in that state",
    "compares it with `not_ready`, and finds none",
)
DEPARTURES: Final = (
    APIS_LISTED, FEATURES, MIN_IN_SYNC, PARTITIONS_BOUND, EMPTY_NAME, CONFIG_OPERATION, ANSWERED, PRODUCE_WORDS,
    UNKNOWN_CODEC, RECORDS_UNREAD, WHOLE_BATCHES, LOG_DIRS, DELETED_TIMESTAMP, QUOTAS_REFUSED,
    CREDENTIALS_REFUSED, NO_QUORUM, TASKS_TOLD_AGAIN, ENDPOINT_WITHOUT_TOPICS, NOT_READY,
)  # fmt: skip
