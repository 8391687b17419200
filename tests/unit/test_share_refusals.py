"""What share groups do when what lies under them refuses, moves, or was set by another release."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.component_settings import share_defaults
from brokers.config import broker_config
from brokers.config_def.group import GROUP_CONFIGS
from brokers.config_def.types import ConfigError
from brokers.errors import KafkaError
from brokers.groups import share_requests
from brokers.groups.share.group import ShareGroup
from brokers.handlers.end_offsets import EndOffsets
from brokers.shares.fetching import PartitionFetch
from brokers.shares.messages import Result
from brokers.shares.settings import ShareDefaults, settings_of
from brokers.shares.share_partition import Ack, Acknowledgement, SharePartition
from s3stream.errors import Unavailable
from tests.support.share_world import TOPIC_ID, ShareWorld, share

__all__ = ["share"]

MOVED = ErrorCode.not_leader_or_follower
FIRST = [Acknowledgement(0, 0, [Ack.ACCEPT.value])]


def test_a_value_that_this_release_does_not_know_is_left_out() -> None:
    known = settings_of({}, ShareDefaults())
    assert settings_of({"share.isolation.level": "serializable"}, ShareDefaults()) == known


def test_where_a_group_begins_is_checked_when_it_is_set() -> None:
    config = GROUP_CONFIGS["share.auto.offset.reset"]
    assert config.parse("by_duration:PT1H") == "by_duration:PT1H"
    with pytest.raises(ConfigError, match="of the format"):
        config.parse("by_duration:soon")


def test_a_word_where_nothing_is_in_flight() -> None:
    limits = settings_of({}, ShareDefaults()).limits
    with pytest.raises(KafkaError, match="not found in the cache") as caught:
        SharePartition(0, ()).acknowledge("m", FIRST, limits, 0)
    assert caught.value.code is ErrorCode.invalid_record_state


async def test_a_word_while_the_partition_is_being_loaded(share: ShareWorld) -> None:
    await share.load()
    share.led._share = None
    assert (await share.led.acknowledge("m", FIRST)).error is ErrorCode.invalid_record_state


async def test_a_start_that_cannot_be_stored_is_not_led_from(
    share: ShareWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(key: object, said: object) -> Result:
        return Result(ErrorCode.coordinator_not_available, "refused")

    monkeypatch.setattr(share.store, "write", refused)
    await share.load()
    assert share.shares.leaders.get(share.key) is None


@pytest.mark.parametrize("moment", ["look", "memory", "objects", "acquisition"])
async def test_a_log_that_goes_while_a_fetch_looks_at_it(share: ShareWorld, moment: str) -> None:
    share.produce(2)
    await share.load()
    led = share.led
    fetch = PartitionFetch(led)
    if moment == "look":
        led.log.retire(MOVED)
        assert not fetch.looks()
    else:
        assert fetch.looks()
        if moment == "acquisition":
            assert fetch.read_recent(1000)
        led.log.retire(MOVED)
        if moment == "memory":
            assert fetch.read_recent(1000)
        elif moment == "objects":
            await fetch.read(1000)
    assert fetch.acquire("m", 10, False, 10, 0) == 0 and fetch.acquired == []
    assert fetch.error is not None and fetch.error.code is MOVED


async def test_an_offset_that_the_log_has_no_more_is_looked_for_again(share: ShareWorld) -> None:
    share.produce(2)
    await share.load()
    fetch = PartitionFetch(share.led)
    assert fetch.looks()
    fetch._offset = 99
    assert fetch.read_recent(1000) and fetch.error is None


async def test_starts_that_cannot_be_changed_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share_requests.beats, "begin_anew", lambda group, asked, terms: None)
    group = ShareGroup("g")

    async def lost(group: ShareGroup, change: object) -> ErrorCode:
        return ErrorCode.not_coordinator

    shard: Any = SimpleNamespace(
        require_active=lambda: None, existing=lambda group_id, kind: group, share_terms=lambda group_id: None,
        perform=lost, context=SimpleNamespace(share_states=None), state=SimpleNamespace(groups={"g": group}),
    )  # fmt: skip
    with pytest.raises(KafkaError) as caught:
        await share_requests.alter_offsets(shard, "g", {TOPIC_ID: {0: 5}})
    assert caught.value.code is ErrorCode.not_coordinator


@pytest.mark.parametrize(
    ("here", "expected"), [(ErrorCode.unknown_topic_id, ErrorCode.unknown_topic_id), (MOVED, MOVED)]
)
async def test_where_a_partition_ends_that_is_nowhere_to_be_asked(here: ErrorCode, expected: ErrorCode) -> None:
    """Not here, and its leader does not answer."""

    def nothing(topic_id: UUID, partition: int) -> Any:
        raise KafkaError(here)

    async def ask(*_: object) -> Any:
        raise Unavailable("nobody answers")

    part = object()
    image = SimpleNamespace(
        topics_by_id={TOPIC_ID: SimpleNamespace(name="t", partitions=[part])}, leader_of=lambda part: 2
    )
    partitions: Any = SimpleNamespace(log_by_id=nothing, image=image)
    requests: Any = SimpleNamespace(ask=ask)
    assert await EndOffsets(partitions, requests)(TOPIC_ID, 0) == (-1, expected)


def test_what_a_group_was_allowed_once_counts_as_far_as_the_bounds_go_now() -> None:
    own = {"share.delivery.count.limit": "9", "share.record.lock.duration.ms": "20000"}
    bounds = {"delivery.count.limit": (2, 6), "record.lock.duration.ms": (25_000, 60_000)}
    limits = settings_of(own, ShareDefaults(bounds=bounds)).limits
    assert (limits.deliveries, limits.lock_ms, limits.records) == (6, 25_000, 2_000)
    told = share_defaults(broker_config({"group.share.max.delivery.count.limit": "5"}))
    assert settings_of(own, told).limits.deliveries == 5
