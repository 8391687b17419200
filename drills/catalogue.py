"""The drills there are: a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from drills import faults, numbers, scaling
from drills.stage import Stage


@dataclass(frozen=True)
class Drill:
    """`changes`: values of Options that this drill has by default."""

    summary: str
    play: Callable[[Stage], None]
    minutes: float = 2.0
    changes: Mapping[str, object] = field(default_factory=dict)


DRILLS: Final[Mapping[str, Drill]] = {
    "scale-out": Drill("1 → 3 brokers under load, 5 with four cores", scaling.scale_out, changes={"brokers": 1}),
    "scale-in": Drill("brokers stop in good order, down to one", scaling.scale_in),
    "kill": Drill("kill -9 of random brokers, which come back", faults.kill, minutes=10),
    "pause": Drill("SIGSTOP for four leases, then a zombie", faults.pause, changes={"wal": "object"}),
    "partition": Drill(
        "a broker cut off from all, or from database and store alone",
        faults.partition,
        changes={"wal": "object", "wired": True},
    ),
    "rolling-restart": Drill("every broker stopped and started, one at a time", scaling.rolling_restart),
    "move": Drill("partitions move one by one, then a thousand at once", scaling.move),
    "partitions": Drill(
        "10,000 partitions: created, a broker restarted, one killed", numbers.partitions, changes={"rate": 20_000.0}
    ),
    "database-loss": Drill(
        "no PostgreSQL twice, within the WAL's bound and beyond it",
        faults.database_loss,
        minutes=10,
        # The WAL is the bound, not the 85 MiB of uncommitted batches in memory. A third of 1 MB/s for ten minutes is
        # 200 MB, of 4 MB/s 800 MB, and up to 2.7 times that where groups are small.
        changes={"settings": {"ponor.memory.bytes": str(256 << 20), "ponor.wal.bytes.max": str(1 << 30)}},
    ),
    "storage-brownout": Drill(
        "an object store that refuses, is slow, hangs", faults.storage_brownout, changes={"proxied": True}
    ),
    "catch-up": Drill("a consumer reads a backlog beside the load", faults.catch_up),
}
