"""The APIs of Kafka 4.3's broker listener: keys, names, versions, and where flexible encoding begins.

Owns: what exists in the protocol. Does not own: what this broker serves (`handlers/table.py`).
Invariant: a request's header version and its answer's follow from (key, version) alone.
"""

from __future__ import annotations

from typing import Final, NamedTuple

NEVER: Final = 1 << 15
"""First flexible version of an API that has none: above every int16."""

PRODUCE: Final = 0
FETCH: Final = 1
API_VERSIONS: Final = 18

PRODUCE_LISTED_MIN: Final = 0
"""ApiVersions lists Produce from 0, though only 3 and above are served: librdkafka refuses less (KAFKA-18659)."""


class ProtocolApi(NamedTuple):
    """One API of the protocol."""

    key: int
    name: str
    module: str
    """Folder of its messages in kio."""
    min: int
    max: int
    flexible: int
    """First version with compact strings, tagged fields and the header that goes with them."""

    def request_header_version(self, version: int) -> int:
        return 2 if version >= self.flexible else 1

    def response_header_version(self, version: int) -> int:
        """ApiVersions always answers with header 0: its reader does not know yet what the broker speaks (KIP-511)."""
        return 1 if version >= self.flexible and self.key != API_VERSIONS else 0


def _row(key: int, name: str, low: int, high: int, flexible: int) -> ProtocolApi:
    words = "".join("_" + c.lower() if c.isupper() else c for c in name)
    return ProtocolApi(key, name, words.lstrip("_"), low, high, flexible)


_ROWS: Final = (
    _row(0, "Produce", 3, 13, 9),
    _row(1, "Fetch", 4, 18, 12),
    _row(2, "ListOffsets", 1, 11, 6),
    _row(3, "Metadata", 0, 13, 9),
    _row(8, "OffsetCommit", 2, 10, 8),
    _row(9, "OffsetFetch", 1, 10, 6),
    _row(10, "FindCoordinator", 0, 6, 3),
    _row(11, "JoinGroup", 0, 9, 6),
    _row(12, "Heartbeat", 0, 4, 4),
    _row(13, "LeaveGroup", 0, 5, 4),
    _row(14, "SyncGroup", 0, 5, 4),
    _row(15, "DescribeGroups", 0, 6, 5),
    _row(16, "ListGroups", 0, 5, 3),
    _row(17, "SaslHandshake", 0, 1, NEVER),
    _row(18, "ApiVersions", 0, 4, 3),
    _row(19, "CreateTopics", 2, 7, 5),
    _row(20, "DeleteTopics", 1, 6, 4),
    _row(21, "DeleteRecords", 0, 2, 2),
    _row(22, "InitProducerId", 0, 5, 2),
    _row(23, "OffsetForLeaderEpoch", 2, 4, 4),
    _row(24, "AddPartitionsToTxn", 0, 5, 3),
    _row(25, "AddOffsetsToTxn", 0, 4, 3),
    _row(26, "EndTxn", 0, 5, 3),
    _row(27, "WriteTxnMarkers", 1, 2, 1),
    _row(28, "TxnOffsetCommit", 0, 5, 3),
    _row(29, "DescribeAcls", 1, 3, 2),
    _row(30, "CreateAcls", 1, 3, 2),
    _row(31, "DeleteAcls", 1, 3, 2),
    _row(32, "DescribeConfigs", 1, 4, 4),
    _row(33, "AlterConfigs", 0, 2, 2),
    _row(34, "AlterReplicaLogDirs", 1, 2, 2),
    _row(35, "DescribeLogDirs", 1, 5, 2),
    _row(36, "SaslAuthenticate", 0, 2, 2),
    _row(37, "CreatePartitions", 0, 3, 2),
    _row(38, "CreateDelegationToken", 1, 3, 2),
    _row(39, "RenewDelegationToken", 1, 2, 2),
    _row(40, "ExpireDelegationToken", 1, 2, 2),
    _row(41, "DescribeDelegationToken", 1, 3, 2),
    _row(42, "DeleteGroups", 0, 2, 2),
    _row(43, "ElectLeaders", 0, 2, 2),
    _row(44, "IncrementalAlterConfigs", 0, 1, 1),
    _row(45, "AlterPartitionReassignments", 0, 1, 0),
    _row(46, "ListPartitionReassignments", 0, 0, 0),
    _row(47, "OffsetDelete", 0, 0, NEVER),
    _row(48, "DescribeClientQuotas", 0, 1, 1),
    _row(49, "AlterClientQuotas", 0, 1, 1),
    _row(50, "DescribeUserScramCredentials", 0, 0, 0),
    _row(51, "AlterUserScramCredentials", 0, 0, 0),
    _row(55, "DescribeQuorum", 0, 2, 0),
    _row(57, "UpdateFeatures", 0, 2, 0),
    _row(60, "DescribeCluster", 0, 2, 0),
    _row(61, "DescribeProducers", 0, 0, 0),
    _row(64, "UnregisterBroker", 0, 0, 0),
    _row(65, "DescribeTransactions", 0, 0, 0),
    _row(66, "ListTransactions", 0, 2, 0),
    _row(68, "ConsumerGroupHeartbeat", 0, 1, 0),
    _row(69, "ConsumerGroupDescribe", 0, 1, 0),
    _row(71, "GetTelemetrySubscriptions", 0, 0, 0),
    _row(72, "PushTelemetry", 0, 0, 0),
    _row(74, "ListConfigResources", 0, 1, 0),
    _row(75, "DescribeTopicPartitions", 0, 0, 0),
    _row(76, "ShareGroupHeartbeat", 1, 1, 1),
    _row(77, "ShareGroupDescribe", 1, 1, 1),
    _row(78, "ShareFetch", 1, 2, 1),
    _row(79, "ShareAcknowledge", 1, 2, 1),
    _row(80, "AddRaftVoter", 0, 1, 0),
    _row(81, "RemoveRaftVoter", 0, 0, 0),
    _row(83, "InitializeShareGroupState", 0, 0, 0),
    _row(84, "ReadShareGroupState", 0, 0, 0),
    _row(85, "WriteShareGroupState", 0, 1, 0),
    _row(86, "DeleteShareGroupState", 0, 0, 0),
    _row(87, "ReadShareGroupStateSummary", 0, 1, 0),
    _row(88, "StreamsGroupHeartbeat", 0, 0, 0),
    _row(89, "StreamsGroupDescribe", 0, 0, 0),
    _row(90, "DescribeShareGroupOffsets", 0, 1, 0),
    _row(91, "AlterShareGroupOffsets", 0, 0, 0),
    _row(92, "DeleteShareGroupOffsets", 0, 0, 0),
)

APIS: Final[dict[int, ProtocolApi]] = {row.key: row for row in _ROWS}
API_BY_NAME: Final[dict[str, ProtocolApi]] = {row.name: row for row in _ROWS}
