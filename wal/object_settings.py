"""What the object WAL can be told. Frozen; made once at the edge."""

from __future__ import annotations

from dataclasses import dataclass

from s3stream import limits
from s3stream.errors import BadSetting
from s3stream.limits import KIB, MIB


@dataclass(frozen=True, slots=True)
class ObjectWalSettings:
    bytes_max: int = limits.WAL_BYTES_MAX
    """Retained bytes at which appends are Overloaded."""
    linger_ms: float = 20.0
    """While PUTs are in flight, a group gathers for at most this long. With nothing in flight it never waits.
    20 ms is at most 50 PUT/s besides those that follow each other: $21.60 a day at $5 per million."""
    group_bytes: int = 1 * MIB
    """... or until it has this much."""
    group_bytes_max: int = 4 * MIB
    """One object takes at most this much, or one larger record."""
    puts_per_second_max: float = 0.0
    """Request budget: groups below `group_bytes_max` wait so that no more than this are sent. 0: no bound but the
    linger. 4 is $1.73 a day at $5 per million."""
    puts_in_flight_max: int = 8
    bytes_in_flight_max: int = 32 * MIB
    hedge_share: float = 0.05
    """Of all PUTs: extra ones that may be sent because the first is slow. 0: none is."""
    put_price_usd_per_million: float = 5.0
    """For the metric that shows what the requests cost."""
    recovery_read_bytes: int = 16 * MIB
    """Recovery reads about this much ahead."""
    recovery_gets_max: int = 8
    """... in at most so many requests at a time."""
    whole_read_bytes: int = 256 * KIB
    """A reader of some streams fetches smaller objects whole: one request is cheaper than the bytes."""

    def __post_init__(self) -> None:
        if not 0 <= self.linger_ms <= 60_000:
            raise BadSetting(f"wal: a linger of {self.linger_ms} ms is not between 0 and 60000")
        if self.puts_per_second_max < 0:
            raise BadSetting(
                f"wal: {self.puts_per_second_max} PUTs per second: give 0 for no bound, or a positive rate"
            )
        if self.bytes_max < 4 * self.group_bytes_max:
            raise BadSetting(
                f"wal: the size bound of {self.bytes_max} bytes must be at least {4 * self.group_bytes_max}, 4 groups"
            )
        assert 0 < self.group_bytes <= self.group_bytes_max <= self.bytes_in_flight_max
        assert self.puts_in_flight_max > 0 and self.recovery_gets_max > 0
        assert 0 <= self.hedge_share <= 1
