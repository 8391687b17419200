"""What retention removes, and what it must never touch."""

from __future__ import annotations

from typing import Any

from brokers.partitions import retention
from brokers.partitions.log_config import LogConfig
from brokers.partitions.partition_log import PartitionLog
from tests.support.fake_stream import FakeRanges
from tests.support.partitions import append, batch, fake, make_log

DAY_MS = 86_400_000


async def enforce(log: PartitionLog, now_ms: int, batches_per_range: int = 1) -> int:
    ranges: Any = FakeRanges(fake(log), batches_per_range)
    return await retention.enforce(log, ranges, now_ms)


def written(times: list[int], **config: Any) -> PartitionLog:
    log = make_log(**config)
    for time in times:
        append(log, batch(2, timestamps=[time, time]))
    fake(log).make_durable()
    return log


async def test_the_prefix_that_is_too_old_goes() -> None:
    log = written([100, 200, 150, 300], retention_ms=50)
    assert await enforce(log, 250) == 2  # 200 is kept: it is exactly 50 old; 150 lies behind it
    assert log.log_start_offset == 2
    assert await enforce(log, 251) == 4
    assert log.log_start_offset == 6


async def test_everything_may_go_but_nothing_that_is_not_durable() -> None:
    log = written([100], retention_ms=50)
    append(log, batch(1, timestamps=[100]))
    assert await enforce(log, 1000) == 2
    assert log.log_start_offset == log.high_watermark == 2 and log.log_end_offset == 3
    assert await enforce(log, 1000) == 0


async def test_the_index_is_not_asked_again_before_anything_can_expire() -> None:
    log = written([100, 200], retention_ms=50)
    assert await enforce(log, 150) == 0
    calls: list[int] = []
    lookup = fake(log).batch_for_timestamp

    async def counted(timestamp: int, limit_offset: int, from_offset: int | None = None) -> Any:
        calls.append(timestamp)
        return await lookup(timestamp, limit_offset, from_offset)

    fake(log).batch_for_timestamp = counted  # type: ignore[method-assign]
    assert await enforce(log, 150) == 0 and not calls
    assert await enforce(log, 151) == 2 and calls
    log.configure(LogConfig(retention_ms=10))  # another setting is looked at anew
    assert await enforce(log, 211) == 2


async def test_batches_without_timestamps_have_no_age() -> None:
    log = written([-1, -1], retention_ms=1)
    assert await enforce(log, 1 << 50) == 0


async def test_no_limit_and_compacted_topics_keep() -> None:
    assert await enforce(written([1], retention_ms=-1), 1 << 50) == 0
    assert await enforce(written([1], retention_ms=1, cleanup_policy=("compact",)), 1 << 50) == 0
    assert await enforce(written([1], retention_ms=1, cleanup_policy=()), 1 << 50) == 0
    assert await enforce(written([1], retention_ms=1, cleanup_policy=("compact", "delete")), 1 << 50) == 2


async def test_size_removes_whole_ranges_and_leaves_at_least_what_is_to_be_kept() -> None:
    one = len(batch(2, timestamps=[1, 1]))
    for keep, per_range, removed in ((10 * one, 1, 0), (4 * one, 1, 0), (3 * one, 1, 2), (3 * one - 1, 1, 2),
                                     (one, 2, 4), (0, 1, 8), (0, 3, 8), (-1, 1, 0)):  # fmt: skip
        log = written([1] * 4, retention_ms=-1, retention_bytes=keep)
        assert await enforce(log, 10, per_range) == removed, (keep, per_range)
        assert keep < 0 or fake(log).size_bytes >= min(keep, 4 * one)


async def test_ranges_come_in_pages() -> None:
    log = written([1] * 150, retention_ms=-1, retention_bytes=len(batch(2, timestamps=[1, 1])))
    assert await enforce(log, 10) == 2 * 149
