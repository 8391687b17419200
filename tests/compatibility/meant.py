"""In which answers Ponor differs from Apache Kafka 4.3 on purpose. Why: brokers/cli/compatibility.py.

An entry that no longer tells of a difference fails its scenario: it has to go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from brokers.cli import compatibility as why
from brokers.cli.compatibility import Departure
from tests.compatibility.transcript import Difference


@dataclass(frozen=True, slots=True)
class Meant:
    scenario: str
    label: str
    """Pattern of the whole label."""
    path: str
    """Pattern of the whole path into the answer."""
    why: Departure

    def covers(self, difference: Difference) -> bool:
        return bool(re.fullmatch(self.label, difference.label) and re.fullmatch(self.path, difference.path))


_ERROR = r".*\.error_(code|message)"
_MIN_IN_SYNC = r".*configs\.min\.insync\.replicas\.config_source"

MEANT: tuple[Meant, ...] = (
    Meant("api_versions", r"api \d+", "", why.APIS_LISTED),
    Meant("api_versions", r"features|finalized", r"\..*", why.FEATURES),
    Meant("create_topics", r".*", _MIN_IN_SYNC, why.MIN_IN_SYNC),
    Meant("create_too_many", r".*", _MIN_IN_SYNC, why.MIN_IN_SYNC),
    Meant("describe_configs", r"topic config min\.insync\.replicas", r"\.config_source|\.synonyms.*", why.MIN_IN_SYNC),
    Meant("describe_configs", r"no keys", _MIN_IN_SYNC, why.MIN_IN_SYNC),
    Meant("create_partitions", "too many", _ERROR, why.PARTITIONS_BOUND),
    Meant("describe_topic_partitions", "empty name", r".*", why.EMPTY_NAME),
    Meant("incremental_alter_configs", r"(unknown|negative) operation", _ERROR, why.CONFIG_OPERATION),
    Meant("alter_configs", "same resource twice", "", why.ANSWERED),
    Meant("produce", "null records", "", why.ANSWERED),
    Meant("produce", r".*", r".*\.error_message", why.PRODUCE_WORDS),
    Meant("batches", r".*", r".*\.error_message", why.PRODUCE_WORDS),
    Meant("transactional_batches", r".*", r".*\.error_message", why.PRODUCE_WORDS),
    Meant("transaction_fencing", r"the first produces", r".*\.error_message", why.PRODUCE_WORDS),
    Meant("transaction_timeout", r"produces on", r".*\.error_message", why.PRODUCE_WORDS),
    Meant("sequences", r".*", r".*\.error_message", why.PRODUCE_WORDS),
    Meant("batches", "unknown codec", r".*\.error_code", why.UNKNOWN_CODEC),
    Meant(
        "batches",
        r"count and delta too large|codec of other bytes",
        r".*\.(error_code|base_offset)",
        why.RECORDS_UNREAD,
    ),
    Meant("batches", "stored in odd", r".*", why.RECORDS_UNREAD),
    Meant("zstd", r"fetched .*", r".*\.records", why.WHOLE_BATCHES),
    Meant("fetch", r".* of a batch and a half", r".*\.records", why.WHOLE_BATCHES),
    Meant("describe_log_dirs", "directories", r"\..*", why.LOG_DIRS),
    Meant("delete_records", r"by time -3 .*", r".*\.(timestamp|offset|leader_epoch)", why.DELETED_TIMESTAMP),
    Meant("client_quotas", "set|only checked", _ERROR, why.QUOTAS_REFUSED),
    Meant("scram", "set", _ERROR, why.CREDENTIALS_REFUSED),
    Meant(
        "streams_members",
        r"first has not given up|epoch of before",
        r"\.(active|standby|warmup)_tasks",
        why.TASKS_TOLD_AGAIN,
    ),
    Meant("streams_topologies", "missing sources, for one with an endpoint", r".*", why.ENDPOINT_WITHOUT_TOPICS),
    Meant("streams_topologies", "those that are not ready", r".*", why.NOT_READY),
    Meant("quorum", r"describe .*|add a voter, any cluster", r"", why.NO_QUORUM),
)
