"""What broker and compaction worker say to each other survives the pipe; which logs and pieces are next (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from brokers.compaction.batch_filter import LastRecord
from brokers.compaction.messages import (
    LENGTH,
    Begin,
    Begun,
    Failed,
    Hello,
    Message,
    Output,
    Progress,
    Rewrite,
    Rewritten,
    decode,
    encode,
)
from brokers.compaction.plan import Dirt, dirtiest, group, measure
from brokers.compaction.rounds import ids_needed
from brokers.compaction.transactions import Aborted
from brokers.limits import COMPACTED_OBJECT_BYTES
from brokers.partitions.log_config import LogConfig
from s3stream.types import ObjectRange, ObjectRef

REF = ObjectRef(7, (1 << 63) - 5, 1000)
RANGES = [ObjectRange(REF, 0, 10, 100), ObjectRange(REF._replace(object_id=8), 10, 1 << 40, 200)]
MESSAGES: list[Message] = [
    Hello("s3://bucket/prefix?endpoint=http://127.0.0.1:1", 4096, True, "info", "json"),
    Begin(1, 2, 0, 5, 10, 123, 456, 1 << 27, 0.9, 1.5e308, RANGES, [Aborted(1, 2, 3)], {9: LastRecord(4, 0)}),
    Begun(10, 3, 100, 12),
    Rewrite(RANGES, [(9, REF.incarnation), (10, REF.incarnation)]),
    Rewritten([Output(REF, 0, 10, 55)], 1, 2, 3, 4, 5, 6, [Aborted(1, 2, 3)]),
    Failed("Corrupt", 'a block "bad"'),
    Progress(12_345),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_survives_the_pipe(message: Message) -> None:
    frame = encode(message)
    assert LENGTH.unpack(frame[: LENGTH.size]) == (len(frame) - LENGTH.size,)
    assert decode(frame[LENGTH.size :]) == message


def ranges(*sizes: int) -> list[ObjectRange]:
    return [ObjectRange(REF, 10 * number, 10 * number + 10, size) for number, size in enumerate(sizes)]


def test_ranges_are_rewritten_together_up_to_a_size_and_a_number() -> None:
    assert [len(piece) for piece in group(ranges(5, 5, 5, 20, 1, 1), 10, 100)] == [2, 1, 1, 2]
    assert [len(piece) for piece in group(ranges(*[0] * 7), 10, 3)] == [3, 3, 1]
    assert group([], 10, 3) == []


def test_bytes_count_by_the_offsets_that_are_below_and_above_the_first_dirty_one() -> None:
    assert measure(ranges(100, 100, 100), 15, 25) == Dirt(15, 25, 150, 100)
    assert measure(ranges(100), 0, 10).ratio == 1.0
    assert measure([], 0, 0).ratio == 0.0


@dataclass
class Log:
    config: LogConfig


def test_the_dirtiest_log_of_those_that_are_dirty_enough_or_overdue_is_next() -> None:
    half = Log(LogConfig(min_cleanable_dirty_ratio=0.5))
    tenth = Log(LogConfig(min_cleanable_dirty_ratio=0.1))
    assert dirtiest([(half, Dirt(0, 9, 50, 50)), (tenth, Dirt(0, 9, 90, 10))]) is None
    assert dirtiest([(half, Dirt(0, 9, 49, 51)), (tenth, Dirt(0, 9, 40, 60))]) == (tenth, Dirt(0, 9, 40, 60))
    overdue = (half, Dirt(0, 9, 90, 10, overdue_ms=1))
    assert dirtiest([overdue]) == overdue
    assert dirtiest([(half, Dirt(0, 9, 100, 0, overdue_ms=1))]) is None


def test_there_are_ids_for_whatever_comes_out() -> None:
    assert ids_needed(ranges(0)) >= 1
    assert ids_needed(ranges(3 * COMPACTED_OBJECT_BYTES)) >= 4
