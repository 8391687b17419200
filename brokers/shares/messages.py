"""What is asked of a share coordinator and what it answers, whatever way it comes: for one share-partition each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from brokers.shares.batches import StateBatch
from brokers.shares.records import NO_COUNT, NO_OFFSET


class StateWrite(NamedTuple):
    """WriteShareGroupState: -1 in either epoch is not compared."""

    state_epoch: int
    leader_epoch: int
    start_offset: int
    complete_count: int = NO_COUNT
    batches: Sequence[StateBatch] = ()


class StateRead(NamedTuple):
    """ReadShareGroupState's answer."""

    error: ErrorCode
    message: str | None = None
    state_epoch: int = 0
    start_offset: int = NO_OFFSET
    batches: Sequence[StateBatch] = ()


class StateSummary(NamedTuple):
    """ReadShareGroupStateSummary's answer."""

    error: ErrorCode
    message: str | None = None
    state_epoch: int = 0
    leader_epoch: int = 0
    start_offset: int = NO_OFFSET
    complete_count: int = NO_COUNT


class Result(NamedTuple):
    """Of a change."""

    error: ErrorCode
    message: str | None = None


DONE = Result(ErrorCode.none)
