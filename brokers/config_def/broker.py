"""Broker settings under Kafka's names: those with a meaning here, and those that tools and people set anyway.

Defaults are Kafka 4.3's, but for what one broker alone could not work with (`offsets.topic.replication.factor`)
and for addresses, which are local until somebody says otherwise.
"""

from __future__ import annotations

import sys
from typing import Final

from brokers import limits
from brokers.config_def.log_defaults import LOG_DEFAULTS
from brokers.config_def.types import (
    INT_MAX,
    Between,
    ConfigKey,
    ConfigType,
    Importance,
    ListOf,
    OneOf,
    Table,
    Update,
    at_least,
    table,
)
from s3stream.limits import MIB

BOOLEAN, STRING, INT, SHORT = ConfigType.BOOLEAN, ConfigType.STRING, ConfigType.INT, ConfigType.SHORT
LONG, LIST, DOUBLE = ConfigType.LONG, ConfigType.LIST, ConfigType.DOUBLE
HIGH, MEDIUM, LOW = Importance.HIGH, Importance.MEDIUM, Importance.LOW
CLUSTER_WIDE = Update.CLUSTER_WIDE

ONE_LOOP: Final = "a broker is one process with one event loop."
NO_FETCHERS: Final = "brokers do not copy records from each other."

RACK_AWARE: Final = "org.apache.kafka.common.replica.RackAwareReplicaSelector"

_IDENTITY: Final = (
    ConfigKey("node.id", INT, 0, "This broker's id in the cluster; `ponor up` counts from 0.", at_least(0), HIGH),
    ConfigKey("broker.id", INT, -1, "Older name of node.id; used when node.id is not set.", importance=HIGH),
    ConfigKey("broker.rack", STRING, None, "Rack or zone of this broker, shown to clients."),
    ConfigKey("replica.selector.class", STRING, None,
              "`org.apache.kafka.common.replica.RackAwareReplicaSelector`: consumers with a client.rack are sent to a "
              "broker of their rack for what is in objects (KIP-392). Any broker can read any partition: a replication "
              "factor of 1 is enough, and Metadata shows one broker of each rack among the replicas. The same on all "
              "brokers.",
              OneOf((RACK_AWARE,))),
    ConfigKey("listeners", LIST, ("PLAINTEXT://127.0.0.1:9092",),
              "Where the broker listens for Kafka clients, as NAME://host:port. One PLAINTEXT listener.",
              ListOf(empty_allowed=False), HIGH),
    ConfigKey("advertised.listeners", LIST, None,
              "The address clients are told to use. Default: listeners, or the host name where that is a wildcard.",
              ListOf(empty_allowed=False), HIGH),
)  # fmt: skip

_TOPICS: Final = (
    ConfigKey("auto.create.topics.enable", BOOLEAN, True,
              "Whether asking for the metadata of a topic that does not exist may create it.", importance=HIGH),
    ConfigKey("num.partitions", INT, 1, "Partitions of a topic that is created without a number.", at_least(1)),
    ConfigKey("default.replication.factor", INT, 1,
              "Replicas of a topic that is created without a number: how many brokers are listed for it.",
              at_least(1)),
    ConfigKey("delete.topic.enable", BOOLEAN, True, "Whether topics can be deleted.", importance=HIGH),
    ConfigKey("max.request.partition.size.limit", INT, 2000,
              "Most partitions in one DescribeTopicPartitions answer.", at_least(1)),
    ConfigKey("log.retention.check.interval.ms", LONG, 300_000,
              "How often partitions are checked for records past their retention.", at_least(1)),
    ConfigKey("producer.id.expiration.ms", INT, 86_400_000,
              "How long the state of a silent idempotent producer is kept.", at_least(1), LOW, CLUSTER_WIDE,
              inert="the value at start holds until the broker restarts."),
    ConfigKey("request.timeout.ms", INT, 30_000, "Longest wait for work of the broker's own.",
              inert="internal requests have bounds of their own."),
)  # fmt: skip

_CLEANER: Final = (
    ConfigKey("log.cleaner.enable", BOOLEAN, True, "Whether compacted topics are compacted by this broker."),
    ConfigKey("log.cleaner.threads", INT, 1,
              "0: nothing is compacted. A broker has one worker process for it, whatever the number.",
              at_least(0), update=CLUSTER_WIDE),
    ConfigKey("log.cleaner.dedupe.buffer.size", LONG, 128 * MIB,
              "Memory of the worker's offset map: 24 bytes for each key of the part that is not compacted yet. More "
              "keys take more rounds. The worker needs some 90 MiB besides.", at_least(MIB), update=CLUSTER_WIDE),
    ConfigKey("log.cleaner.io.buffer.load.factor", DOUBLE, 0.9, "How full the offset map gets before a round ends.",
              Between(0.1, 0.99), update=CLUSTER_WIDE),
    ConfigKey("log.cleaner.io.max.bytes.per.second", DOUBLE, sys.float_info.max,
              "Bytes that the worker reads and writes a second, on average, at most.", at_least(1),
              update=CLUSTER_WIDE),
    ConfigKey("log.cleaner.io.buffer.size", INT, 512 * 1024, "Memory of the cleaner's buffers.", at_least(0),
              update=CLUSTER_WIDE, inert="the worker reads 4 MiB and writes objects of 16 MiB at a time."),
    ConfigKey("log.cleaner.backoff.ms", LONG, 15_000, "How often logs are looked at when none is to be compacted.",
              at_least(0), update=CLUSTER_WIDE),
)  # fmt: skip

_NETWORK: Final = (
    ConfigKey("socket.request.max.bytes", INT, limits.FRAME_BYTES_MAX,
              "Largest request; a larger one closes its connection.", at_least(1), HIGH),
    ConfigKey("max.connections", INT, limits.CONNECTIONS_MAX,
              "Most connections at one time; more are closed on arrival.", at_least(1)),
    ConfigKey("max.connections.per.ip", INT, INT_MAX, "Most connections from one address.", at_least(0),
              inert="connections are bounded in total only."),
    ConfigKey("connections.max.idle.ms", LONG, 600_000,
              "An idle connection is closed after this time; -1: never."),
    ConfigKey("socket.listen.backlog.size", INT, 1024, "Connections that may wait to be accepted.", at_least(1)),
    ConfigKey("fetch.max.bytes", INT, limits.FETCH_BYTES_MAX, "Most bytes of records in one Fetch answer.",
              at_least(1024)),
    ConfigKey("max.incremental.fetch.session.cache.slots", INT, limits.FETCH_SESSIONS_MAX,
              "Incremental fetch sessions that are kept (KIP-227).", at_least(0)),
    ConfigKey("queued.max.requests", INT, 500, "Requests that may wait for a worker.", at_least(1), HIGH,
              inert="requests in flight are bounded per connection, bytes by ponor.memory.bytes."),
    ConfigKey("num.network.threads", INT, 3, "Network threads.", at_least(1), HIGH, CLUSTER_WIDE, ONE_LOOP),
    ConfigKey("num.io.threads", INT, 8, "Request handler threads.", at_least(1), HIGH, CLUSTER_WIDE, ONE_LOOP),
    ConfigKey("background.threads", INT, 10, "Threads for background work.", at_least(1), HIGH, CLUSTER_WIDE,
              ONE_LOOP),
    ConfigKey("socket.send.buffer.bytes", INT, 102_400, "SO_SNDBUF of a connection.", importance=HIGH,
              inert="the system sizes socket buffers."),
    ConfigKey("socket.receive.buffer.bytes", INT, 102_400, "SO_RCVBUF of a connection.", importance=HIGH,
              inert="the system sizes socket buffers."),
    ConfigKey("num.replica.fetchers", INT, 1, "Threads that copy from leaders.", at_least(1), HIGH, CLUSTER_WIDE,
              NO_FETCHERS),
    ConfigKey("replica.lag.time.max.ms", LONG, 30_000, "When a follower leaves the in-sync set.", importance=HIGH,
              inert=NO_FETCHERS),
    ConfigKey("controlled.shutdown.enable", BOOLEAN, True, "Move leaders away before stopping.",
              inert="a stop always drains and flushes."),
)  # fmt: skip

_GROUPS: Final = (
    ConfigKey("group.coordinator.rebalance.protocols", LIST, ("classic", "consumer"),
              "Group protocols that are served; the classic one always is.",
              ListOf(("classic", "consumer", "streams", "share"), False)),
    ConfigKey("group.coordinator.threads", INT, 4, "Threads that work on groups.", at_least(1), HIGH, inert=ONE_LOOP),
    ConfigKey("group.coordinator.background.threads", INT, 2,
              "Threads for assignments and for matching topics with patterns.", at_least(1), HIGH,
              inert="assignments are made, and patterns matched in slices, on the event loop."),
    ConfigKey("group.coordinator.append.linger.ms", INT, -1,
              "How long the group coordinator gathers writes before it appends them; -1: as long as suits the load.",
              at_least(-1), inert="what comes while the log syncs shares the next group."),
    ConfigKey("group.coordinator.cached.buffer.max.bytes", INT, 1_048_588,
              "Largest buffer that the group coordinator keeps to write into again.", at_least(512 * 1024),
              update=CLUSTER_WIDE, inert="no buffer is kept."),
    ConfigKey("group.consumer.session.timeout.ms", INT, 45_000,
              "When a member of the consumer protocol that was not heard of is fenced.", at_least(1)),
    ConfigKey("group.consumer.min.session.timeout.ms", INT, 45_000,
              "Shortest `consumer.session.timeout.ms` of a group.", at_least(1)),
    ConfigKey("group.consumer.max.session.timeout.ms", INT, 60_000,
              "Longest `consumer.session.timeout.ms` of a group.", at_least(1)),
    ConfigKey("group.consumer.heartbeat.interval.ms", INT, 5_000,
              "How often members of the consumer protocol are told to send heartbeats.", at_least(1)),
    ConfigKey("group.consumer.min.heartbeat.interval.ms", INT, 5_000,
              "Shortest `consumer.heartbeat.interval.ms` of a group.", at_least(1)),
    ConfigKey("group.consumer.max.heartbeat.interval.ms", INT, 15_000,
              "Longest `consumer.heartbeat.interval.ms` of a group.", at_least(1)),
    ConfigKey("group.consumer.assignment.interval.ms", INT, 1_000,
              "Least time between two assignments of a consumer group.", at_least(0)),
    ConfigKey("group.consumer.min.assignment.interval.ms", INT, 0,
              "Shortest `consumer.assignment.interval.ms` of a group.", at_least(0)),
    ConfigKey("group.consumer.max.assignment.interval.ms", INT, 15_000,
              "Longest `consumer.assignment.interval.ms` of a group.", at_least(0)),
    ConfigKey("group.consumer.max.size", INT, INT_MAX, "Most members of a consumer group.", at_least(1)),
    ConfigKey("group.consumer.assignors", LIST, ("uniform", "range"),
              "Server-side assignors; the first is the default.", ListOf(("uniform", "range"), False)),
    ConfigKey("group.consumer.migration.policy", STRING, "bidirectional",
              "Which way a group with members may go between the classic and the consumer protocol.",
              OneOf(("disabled", "upgrade", "downgrade", "bidirectional"))),
    ConfigKey("group.consumer.regex.refresh.interval.ms", INT, 600_000,
              "How often topics are matched anew with a group's patterns where nothing else asks for it.",
              at_least(10_000)),
    ConfigKey("group.initial.rebalance.delay.ms", INT, 3000,
              "How long a new group waits for more members before its first rebalance.", at_least(0)),
    ConfigKey("group.max.session.timeout.ms", INT, 1_800_000, "Longest session timeout a member may ask for."),
    ConfigKey("group.min.session.timeout.ms", INT, 6_000, "Shortest session timeout a member may ask for."),
    ConfigKey("group.max.size", INT, INT_MAX, "Most members of a group.", at_least(1)),
    ConfigKey("offset.metadata.max.bytes", INT, 4096, "Most bytes of metadata with a committed offset.",
              importance=HIGH),
    ConfigKey("offsets.commit.timeout.ms", INT, 5000, "Longest wait for an offset commit to be durable.",
              at_least(1), HIGH),
    ConfigKey("offsets.retention.minutes", INT, 10_080,
              "How long offsets of an empty group are kept.", at_least(1), HIGH),
    ConfigKey("offsets.retention.check.interval.ms", LONG, 600_000,
              "How often offsets past their retention are looked for.", at_least(1), HIGH),
    ConfigKey("offsets.load.buffer.size", INT, 5 * MIB, "Bytes read at a time when a coordinator loads.", at_least(1),
              HIGH, inert="a coordinator loads a snapshot and what came after it."),
    ConfigKey("offsets.topic.num.partitions", INT, 50,
              "Partitions of __consumer_offsets. Read when it is created; never change it after.", at_least(1), HIGH),
    ConfigKey("offsets.topic.replication.factor", SHORT, 1,
              "Replicas of __consumer_offsets. Kafka's default is 3; here a broker alone is durable.", at_least(1),
              HIGH),
    ConfigKey("offsets.topic.segment.bytes", INT, 104_857_600, "Segment size of __consumer_offsets.", at_least(1),
              HIGH, inert="there are no segment files."),
    ConfigKey("offsets.topic.compression.codec", INT, 0,
              "Compression of __consumer_offsets by number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.",
              importance=HIGH, inert="its records are small and are not compressed."),
)  # fmt: skip

_TRANSACTIONS: Final = (
    ConfigKey("transaction.state.log.num.partitions", INT, 50,
              "Partitions of __transaction_state. Read when it is created; never change it after.", at_least(1), HIGH),
    ConfigKey("transaction.state.log.replication.factor", SHORT, 1,
              "Replicas of __transaction_state. Kafka's default is 3; here a broker alone is durable.", at_least(1),
              HIGH),
    ConfigKey("transaction.state.log.min.isr", INT, 1,
              "Least in-sync replicas of __transaction_state. Kafka's default is 2.", at_least(1), HIGH,
              inert="durability is the storage's."),
    ConfigKey("transaction.state.log.segment.bytes", INT, 104_857_600, "Segment size of __transaction_state.",
              at_least(1), HIGH, inert="there are no segment files."),
    ConfigKey("transaction.state.log.load.buffer.size", INT, 5_242_880,
              "Bytes read at a time when a coordinator loads.", at_least(1), HIGH,
              inert="a coordinator loads a snapshot and what came after it."),
    ConfigKey("transaction.max.timeout.ms", INT, 900_000, "Longest timeout a transaction may have.", at_least(1), HIGH),
    ConfigKey("transactional.id.expiration.ms", INT, 604_800_000,
              "How long a transactional id that nobody uses is remembered.", at_least(1), HIGH),
    ConfigKey("transaction.abort.timed.out.transaction.cleanup.interval.ms", INT, 10_000,
              "How often transactions past their timeout are looked for.", at_least(1), LOW),
    ConfigKey("transaction.remove.expired.transaction.cleanup.interval.ms", INT, 3_600_000,
              "How often transactional ids that expired are looked for.", at_least(1), LOW),
    ConfigKey("transaction.partition.verification.enable", BOOLEAN, True,
              "Whether a partition asks the coordinator before a transaction of an older client begins there.",
              importance=LOW, inert="partitions always ask."),
    ConfigKey("add.partitions.to.txn.retry.backoff.ms", INT, 20,
              "Longest wait before a partition is added once more to a transaction whose predecessor is being ended; "
              "the first is 1 ms.", at_least(1), HIGH),
    ConfigKey("add.partitions.to.txn.retry.backoff.max.ms", INT, 100,
              "How long that is tried before the producer is told to.", at_least(0), HIGH),
)  # fmt: skip

_SHARE_COORDINATOR: Final = (
    ConfigKey("share.coordinator.state.topic.num.partitions", INT, 50,
              "Partitions of __share_group_state. Read when it is created; never change it after.", at_least(1), HIGH),
    ConfigKey("share.coordinator.state.topic.replication.factor", SHORT, 1,
              "Replicas of __share_group_state. Kafka's default is 3; here a broker alone is durable.", at_least(1),
              HIGH),
    ConfigKey("share.coordinator.state.topic.min.isr", SHORT, 1,
              "Least in-sync replicas of __share_group_state. Kafka's default is 2.", at_least(1), HIGH,
              inert="durability is the storage's."),
    ConfigKey("share.coordinator.state.topic.segment.bytes", INT, 104_857_600, "Segment size of __share_group_state.",
              at_least(1), HIGH, inert="there are no segment files."),
    ConfigKey("share.coordinator.state.topic.compression.codec", INT, 0,
              "Compression of __share_group_state by number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.",
              importance=HIGH, inert="its records are small and are not compressed."),
    ConfigKey("share.coordinator.snapshot.update.records.per.snapshot", INT, 500,
              "Updates of a share-partition's state that are written between two snapshots of it.", Between(0, 500)),
    ConfigKey("share.coordinator.write.timeout.ms", INT, 5_000,
              "How long who leads a partition waits for its share group's state to be durable.", at_least(1), HIGH),
    ConfigKey("share.coordinator.load.buffer.size", INT, 5_242_880,
              "Bytes read at a time when a coordinator loads.", at_least(1), HIGH,
              inert="a coordinator loads a snapshot and what came after it."),
    ConfigKey("share.coordinator.threads", INT, 1, "Threads of the share coordinator.", at_least(1),
              inert="it runs on the broker's event loop."),
    ConfigKey("share.coordinator.append.linger.ms", INT, -1,
              "How long the share coordinator gathers writes before it appends them.", at_least(-1),
              inert="what comes while the log syncs shares the next group."),
)  # fmt: skip

_SHARE_GROUPS: Final = (
    ConfigKey("group.share.session.timeout.ms", INT, 45_000,
              "How long a member of a share group may be silent.", at_least(1)),
    ConfigKey("group.share.heartbeat.interval.ms", INT, 5_000,
              "How often members of share groups send heartbeats.", at_least(1)),
    ConfigKey("group.share.assignment.interval.ms", INT, 1_000,
              "Least time between two assignments of a share group.", at_least(0)),
    ConfigKey("group.share.max.size", INT, 200, "Most members of a share group.", Between(1, 1_000)),
    ConfigKey("group.share.initialize.retry.interval.ms", INT, 30_000,
              "After how long state of share-partitions that was not made is asked for again.", at_least(1)),
    ConfigKey("group.share.delivery.count.limit", INT, 5,
              "How often a record is delivered to a share group before it is given up.", Between(2, 10)),
    ConfigKey("group.share.partition.max.record.locks", INT, 2000,
              "Records of a partition that may be in flight in a share group at once.", Between(100, 10_000)),
    ConfigKey("group.share.record.lock.duration.ms", INT, 30_000,
              "How long a record that a member of a share group acquired is its own.", Between(1_000, 3_600_000)),
    ConfigKey("group.share.max.share.sessions", INT, 2000,
              "Members of share groups that may fetch from this broker at once.", at_least(1)),
    ConfigKey("share.fetch.purgatory.purge.interval.requests", INT, 1000,
              "After how many requests those that wait no more are forgotten.", inert="they are at once."),
)  # fmt: skip

KAFKA_BROKER_CONFIGS: Final[Table] = table(
    *LOG_DEFAULTS.values(),
    *_IDENTITY,
    *_TOPICS,
    *_CLEANER,
    *_NETWORK,
    *_GROUPS,
    *_TRANSACTIONS,
    *_SHARE_COORDINATOR,
    *_SHARE_GROUPS,
)
