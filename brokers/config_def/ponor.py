"""Settings of our own, under `ponor.`: where things lie, how much memory, when to flush."""

from __future__ import annotations

from typing import Final

from brokers import limits as broker_limits
from brokers.config_def.types import (
    Between,
    ConfigKey,
    ConfigType,
    Importance,
    OneOf,
    Table,
    at_least,
    table,
)
from s3stream import limits
from s3stream.limits import GIB, MIB

BOOLEAN, STRING, INT, LONG = ConfigType.BOOLEAN, ConfigType.STRING, ConfigType.INT, ConfigType.LONG
PASSWORD = ConfigType.PASSWORD
HIGH, MEDIUM, LOW = Importance.HIGH, Importance.MEDIUM, Importance.LOW

MEMORY_BYTES_MIN: Final = 64 * MIB
MEMORY_BYTES_DEFAULT_MAX: Final = 4 * GIB
HEARTBEAT_MS_MIN: Final = 50
HEARTBEATS_PER_LEASE_MIN: Final = 3
"""One that is late, or lost with a transaction, is nobody's death."""
LEASE_MS_MIN: Final = HEARTBEATS_PER_LEASE_MIN * HEARTBEAT_MS_MIN
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

PONOR_CONFIGS: Final[Table] = table(
    ConfigKey("ponor.data.dir", STRING, "./data",
              "Folder for this broker's identity and pid, and for whatever of the stores below is left at its default.",
              importance=HIGH),
    ConfigKey("ponor.object.store.url", STRING, None,
              "Where objects go: `s3://bucket/prefix?endpoint=…&region=…`, `gs://…`, `az://…`, `file:///path` or "
              "`memory:`. Default: the folder `objects` in ponor.data.dir. Credentials come from the usual variables "
              "of each cloud.", importance=HIGH),
    ConfigKey("ponor.wal.url", STRING, None,
              "The write-ahead log: `file:///path` on a local disk or a volume of its own, `s3://bucket/prefix?…` "
              "(`gs:`, `az:`) for none, or `memory:` (lost with the process). Default: `broker-<node id>/wal` in "
              "ponor.data.dir.", importance=HIGH),
    ConfigKey("ponor.metadata.url", PASSWORD, None,
              "The metadata database: `sqlite:///path` for the brokers of one machine, "
              "`postgresql://user:password@host:port/database?sslmode=…` for those of many. Several hosts may be named "
              "(`host1,host2`): the one that can write is used. Without a password in the URL it comes from PGPASSWORD "
              "or a password file, as libpq has it. Default: `metadata.db` in ponor.data.dir.", importance=HIGH),
    ConfigKey("ponor.memory.bytes", LONG, None,
              "One bound for the process: receive buffers, answers, memtable, block cache and reads under way share "
              "it, less a third, at most 192 MiB, for uploads under way and the allocator. Default: a quarter of the "
              "machine's memory, at most 4 GiB.", at_least(MEMORY_BYTES_MIN), HIGH),
    ConfigKey("ponor.http.host", STRING, "127.0.0.1", "Address of the HTTP listener (metrics, health, /v1)."),
    ConfigKey("ponor.http.port", INT, 9080, "Port of the HTTP listener.", Between(0, 65535)),
    ConfigKey(
        "ponor.peers.port", INT, 0,
        "Port on which this broker answers the others, on the Kafka listener's host; 0: any that is free. They reach "
        "it at the advertised host. Where they cannot, partitions move all the same, a little slower.",
        Between(0, 65535),
    ),
    ConfigKey("ponor.log.level", STRING, "info", "Least level that is logged.", OneOf(LOG_LEVELS)),
    ConfigKey("ponor.log.format", STRING, "auto", "`auto`: console on a terminal, JSON otherwise.",
              OneOf(("auto", "console", "json"))),
    ConfigKey("ponor.lease.ms", INT, 3_000,
              "How long a broker, or the controller, may be silent before others take it for dead. That a process "
              "ended is seen at once, by its broken connection; this is for a machine or a network that is gone. The "
              "same on all brokers.", at_least(LEASE_MS_MIN)),
    ConfigKey("ponor.heartbeat.ms", INT, 500,
              "How often a broker tells the database that it lives: one small transaction each time. At most a third "
              "of ponor.lease.ms.", at_least(HEARTBEAT_MS_MIN)),
    ConfigKey("ponor.balancer.enable", BOOLEAN, True,
              "Whether the controller evens out load and numbers of partitions between brokers. Off, partitions stay "
              "where they are until a broker dies, stops, or somebody moves them. The same on all brokers."),
    ConfigKey("ponor.balancer.moves.max", INT, 100,
              "Most partitions on their way between brokers at a time for the sake of balance; ten without load count "
              "as one.", at_least(1), LOW),
    ConfigKey("ponor.read.replica.lag.bytes", LONG, broker_limits.FOLLOWER_LAG_BYTES,
              "Where replica.selector.class sends consumers to their racks: from how many bytes behind the newest "
              "flush on. Less is a journey to another broker and back for what the leader can give in one answer.",
              at_least(0), LOW),
    ConfigKey("ponor.drain.timeout.ms", INT, 10_000,
              "How long a stop waits for requests under way before it closes their connections.", at_least(0)),
    ConfigKey("ponor.flush.bytes", LONG, limits.FLUSH_BYTES,
              "Records in memory that make a flush to object storage.", at_least(MIB), HIGH),
    ConfigKey("ponor.flush.interval.ms", LONG, limits.FLUSH_INTERVAL_MS,
              "Longest time records wait for a flush. Shorter costs more PUT requests.", at_least(100), HIGH),
    ConfigKey("ponor.stream.object.bytes", LONG, limits.STREAM_OBJECT_BYTES,
              "A partition with at least this much in one flush gets an object of its own.", at_least(MIB), LOW),
    ConfigKey("ponor.object.bytes.max", LONG, limits.OBJECT_BYTES_MAX,
              "A flush is cut into objects of about this size.", at_least(MIB), LOW),
    ConfigKey("ponor.block.bytes", INT, limits.BLOCK_BYTES,
              "Size of a data block: the least that is read from an object.",
              Between(4096, limits.BLOCK_BYTES_MAX // 2), LOW),
    ConfigKey("ponor.block.compression", STRING, "none",
              "Compression of data blocks. Pays where producers do not compress; costs broker CPU.",
              OneOf(("none", "zstd"))),
    ConfigKey("ponor.object.delete.grace.ms", LONG, limits.OBJECT_DELETE_GRACE_MS,
              "Time between freeing an object and deleting its bytes: running reads finish, and a database restored "
              "from a backup within it still finds them.", at_least(0)),
    ConfigKey("ponor.collect.interval.ms", LONG, 60_000, "How often freed objects are looked for.", at_least(100),
              LOW),
    ConfigKey("ponor.wal.bytes.max", LONG, limits.WAL_BYTES_MAX,
              "Most bytes the write-ahead log may keep while flushes wait; then producers are throttled.",
              at_least(4 * limits.WAL_SEGMENT_BYTES), HIGH),
    ConfigKey("ponor.wal.linger.ms", INT, 20,
              "Of a write-ahead log on objects: how long records wait to share a PUT while others are on their way. "
              "Idle, none waits. Longer is slower and cheaper: 20 ms is at most 50 PUT/s, $21.60 a day at $5 per "
              "million.",
              Between(0, 60_000)),
    ConfigKey("ponor.wal.puts.per.second.max", INT, 0,
              "Of a write-ahead log on objects: its request budget. Full groups (4 MiB) are sent all the same. 4 is "
              "$1.73 a day at $5 per million. 0: no bound.", at_least(0)),
)  # fmt: skip
