"""The rules of share groups, each broken on purpose: what `test_cluster_shares.py` takes out, one at a time."""

from __future__ import annotations

from typing import Any

import pytest

from brokers.shares.leader import LedPartition
from brokers.shares.messages import DONE, Result
from brokers.shares.share_partition import RecordState, SharePartition


def a_word_is_answered_and_not_stored(patch: pytest.MonkeyPatch) -> None:
    async def at_once(self: LedPartition, change: Any, batches: Any) -> Result:
        assert self._share is not None
        if change is not None:
            self._share.settle(change, True)
        return DONE

    patch.setattr(LedPartition, "_store", at_once)


def what_is_acquired_may_be_acquired(patch: pytest.MonkeyPatch) -> None:
    """Segments that are held are given to whoever asks next."""
    acquire = SharePartition.acquire

    def again(self: SharePartition, *args: Any) -> Any:
        for segment in self._segments:
            if segment.held:
                segment.state = RecordState.AVAILABLE
        return acquire(self, *args)

    patch.setattr(SharePartition, "acquire", again)
    patch.setattr(SharePartition, "can_acquire", lambda self, limits: True)
    patch.setattr(SharePartition, "next_offset", property(lambda self: self.start))


def what_a_lock_ends_on_is_done(patch: pytest.MonkeyPatch) -> None:
    """Nobody gets it again."""

    def lost(segment: Any, wanted: RecordState, limits: Any) -> RecordState:
        return RecordState.ARCHIVED if wanted is RecordState.AVAILABLE else wanted

    patch.setattr(SharePartition, "_outcome", staticmethod(lost))
