"""What brokers tell each other of partitions on their way: it saves waiting, and is never believed beyond the next step
of one opening (decision 0127)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from brokers.partitions import checkpoint, opener
from brokers.partitions import words as words_module
from brokers.partitions.log_config import LogConfig
from brokers.partitions.manager import PartitionManager
from brokers.partitions.opener import Told
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.producer_state import ProducerEntry, ProducerState
from brokers.partitions.settings import PartitionSettings
from brokers.partitions.successors import Place
from brokers.partitions.words import Closed, Opened, Teller, Words, with_closed, with_opened
from metadata.image import NO_LEADER, ClusterImage, NodeImage, PartitionImage, TopicImage
from s3stream.errors import Unavailable
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks
from s3stream.types import StreamBatch, StreamState, TailRow
from tests.support.fake_stream import FakeStorage, FakeStream
from tests.support.manual_clock import settle
from tests.support.partitions import NOW_MS, StepClock, append, idempotent, make_log

SOURCE, TARGET = Teller(1, 5), Teller(2, 9)
TOPIC = UUID(int=7)
STREAM = 70
PLACE = Place(TOPIC, 0)
MOVING = PartitionImage(0, STREAM, SOURCE.node_id, 3, (1, 2), assigned=TARGET.node_id, owner_epoch=SOURCE.node_epoch)
CLOSED = Closed(PLACE, STREAM, 3, 0, 4, 9)
OPENED = Opened(PLACE, STREAM, 4)


def image(part: PartitionImage, version: int = 1) -> ClusterImage:
    nodes = {one.node_id: NodeImage(*one, "h", 1, None, True) for one in (SOURCE, TARGET)}
    topic = TopicImage("t", TOPIC, False, (part, replace(part, partition=1, stream_id=71)))
    return ClusterImage(version, "c", {"t": topic}, {TOPIC: topic}, nodes, {})


def test_a_partition_that_is_this_brokers_next_is_taken_for_closed() -> None:
    before = image(MOVING)
    after, ours = with_closed(before, TARGET.node_id, SOURCE, [CLOSED])
    assert ours == [CLOSED]
    changed, other = after.topics["t"].partitions
    assert changed == replace(MOVING, leader=NO_LEADER, owner_epoch=-1, tail_owner=(1, 5))
    assert after.topics_by_id[TOPIC] is after.topics["t"] and other is before.topics["t"].partitions[1]
    assert after.version == before.version, "the image of this change is still to come"


@pytest.mark.parametrize(
    ("part", "word"),
    [
        (replace(MOVING, assigned=3), CLOSED),
        (replace(MOVING, leader=3), CLOSED),
        (replace(MOVING, owner_epoch=6), CLOSED),
        (replace(MOVING, leader_epoch=4), CLOSED),
        (replace(MOVING, leader=NO_LEADER, owner_epoch=-1), CLOSED),
        (MOVING, CLOSED._replace(epoch=2)),
        (MOVING, CLOSED._replace(stream_id=71)),
        (MOVING, CLOSED._replace(place=Place(TOPIC, 2))),
        (MOVING, CLOSED._replace(place=Place(UUID(int=8), 0))),
    ],
    ids=["another's", "led by a third", "another life", "a later opening", "known", "late", "stream", "part", "topic"],
)
def test_a_word_that_is_not_the_next_step_of_that_opening_is_not_believed(part: PartitionImage, word: Closed) -> None:
    before = image(part)
    assert with_closed(before, TARGET.node_id, SOURCE, [word]) == (before, [])


def test_a_new_leader_is_named_until_the_image_knows_better() -> None:
    closed = replace(MOVING, leader=NO_LEADER, owner_epoch=-1)
    [changed, _] = with_opened(image(closed), TARGET, [OPENED]).topics["t"].partitions
    assert (changed.leader, changed.owner_epoch, changed.leader_epoch) == (2, 9, 4)
    for epoch in (4, 5):
        later = image(replace(MOVING, leader=3, leader_epoch=epoch))
        assert with_opened(later, TARGET, [OPENED]) == later


def test_a_row_as_it_was_told_has_the_tail_that_its_teller_keeps() -> None:
    row = CLOSED.row(SOURCE)
    assert (row.state, row.epoch, row.committed_end) == (StreamState.CLOSED, 3, 4)
    assert row.tail == TailRow(STREAM, 4, 9, SOURCE.node_id, SOURCE.node_epoch, 3)
    assert CLOSED._replace(end=4).row(SOURCE).tail is None


# --- between two brokers --------------------------------------------------------------------------


class Pair:
    """Two brokers that hear each other's words at once, and no image of what the other has done."""

    def __init__(self) -> None:
        self.tasks = Tasks()
        self.words: list[object] = []
        self.deaf = False
        self.storages = {SOURCE: FakeStorage(), TARGET: FakeStorage()}
        self.managers = {one: self._manager(one) for one in (SOURCE, TARGET)}

    def _manager(self, teller: Teller) -> PartitionManager:
        storage: Any = self.storages[teller]
        nothing: Any = None
        return PartitionManager(
            storage, nothing, teller.node_id, lambda topic, image: LogConfig(), StepClock(), self.tasks, Metrics(),
            PartitionSettings(), _Voice(self, teller),
        )  # fmt: skip

    def other(self, node_id: int) -> PartitionManager:
        return self.managers[SOURCE if node_id == SOURCE.node_id else TARGET]


class _Voice:
    def __init__(self, pair: Pair, teller: Teller) -> None:
        self._pair = pair
        self._teller = teller

    async def reachable(self, node_id: int) -> bool:
        return True

    async def tell_closed(self, node_id: int, told: Sequence[Closed]) -> None:
        self._pair.words += told
        if not self._pair.deaf:
            self._pair.other(node_id).hear_closed(self._teller, told)

    async def tell_opened(self, node_id: int, told: Sequence[Opened]) -> None:
        self._pair.words += told
        self._pair.other(node_id).hear_opened(self._teller, told)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    home = replace(MOVING, assigned=SOURCE.node_id, leader=NO_LEADER, owner_epoch=-1, leader_epoch=2)
    for manager in made.managers.values():
        await manager.apply_image(image(home))
    for manager in made.managers.values():
        await manager.apply_image(image(replace(MOVING, assigned=SOURCE.node_id), 2))
    yield made
    await made.tasks.close()


async def test_a_partition_moves_and_is_named_before_any_image_tells_of_it(pair: Pair) -> None:
    source, target = pair.managers[SOURCE], pair.managers[TARGET]
    assert source.log("t", 0).leader_epoch == 3
    for manager in (target, source):
        await manager.apply_image(image(MOVING, 3))
    await settle()
    assert target.log("t", 0).leader_epoch == 4
    assert [row.stream_id for row in pair.storages[TARGET].heard] == [70, 71]
    named = source.image.topics["t"].partitions[0]
    assert (source.image.leader_of(named), named.leader_epoch) == (TARGET.node_id, 4)
    assert source.handing_over == 0
    assert [type(word) for word in pair.words] == [Closed, Closed, Opened, Opened]


async def test_a_word_that_is_lost_is_made_up_for_by_the_image(pair: Pair) -> None:
    pair.deaf = True
    source, target = pair.managers[SOURCE], pair.managers[TARGET]
    for manager in (target, source):
        await manager.apply_image(image(MOVING, 3))
    await settle()
    assert target.open_count == 0 and source.handing_over == 2
    await target.apply_image(image(replace(MOVING, leader=NO_LEADER, owner_epoch=-1), 4))
    assert target.log("t", 0).leader_epoch == 4
    await settle()
    assert [type(word) for word in pair.words] == [Closed, Closed], "who told nothing is told nothing"


async def test_the_state_that_is_told_goes_with_that_opening_only(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bytes | None] = []
    opening = opener.open_log

    async def watched(*args: Any) -> PartitionLog:
        used.append(args[-1])
        return await opening(*args)

    monkeypatch.setattr(opener, "open_log", watched)
    source, target = pair.managers[SOURCE], pair.managers[TARGET]
    told = [source.log("t", partition).final_state() for partition in (0, 1)]
    target._opener.hear_states({STREAM: Told(2, b"of the opening before")})
    for manager in (target, source):
        await manager.apply_image(image(MOVING, 3))
    await settle()
    assert used == told and None not in told


async def test_a_state_of_another_opening_is_not_used(pair: Pair) -> None:
    pair.deaf = True
    target = pair.managers[TARGET]
    state, producer = ProducerState(), ProducerEntry(0)
    producer.last_timestamp = NOW_MS
    state.restore({9: producer}, [])
    blob = checkpoint.encode(0, state, [], None)
    target._opener.hear_states({STREAM: Told(2, blob), STREAM + 1: Told(3, blob)})
    await target.apply_image(image(replace(MOVING, leader=NO_LEADER, owner_epoch=-1), 3))
    assert target.log("t", 0).producers is None and target.log("t", 1).producers is not None
    assert not target._opener.has_unopened


def test_what_is_told_beside_the_rows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Closed] = []

    class Voice(_Voice):
        async def tell_closed(self, node_id: int, closed: Sequence[Closed]) -> None:
            told.extend(closed)

    async def say() -> None:
        tasks = Tasks()
        nothing: Any = None
        tail = [StreamBatch(1, 0, 0, 1, b"x" * 100, 0, 0)]
        logs = [make_log(FakeStream(number)) for number in range(3)]
        for log in logs:
            append(log, idempotent(0))
            stream: Any = log.stream
            stream.make_durable()
            stream.committed_end = 0
        words = Words(Voice(nothing, SOURCE), lambda *_: tail, tasks)
        one = replace_extras(logs[0], tail)
        monkeypatch.setattr(words_module, "WORD_BYTES_MAX", 2 * one.extra_bytes)
        words.say_closed(logs, lambda log: TARGET.node_id)
        await settle()
        await tasks.close()

    asyncio.run(say())
    assert [bool(one.state) and bool(one.tail) for one in told] == [True, True, False]
    assert [one.end for one in told] == [1, 1, 1]


def replace_extras(log: PartitionLog, tail: list[StreamBatch]) -> Closed:
    return Closed.of(log)._replace(state=log.final_state() or b"", tail=tail)


async def test_what_could_not_be_closed_is_not_told(pair: Pair) -> None:
    pair.storages[SOURCE].close_errors = [Unavailable("down")]
    for manager in pair.managers.values():
        await manager.apply_image(image(MOVING, 3))
    await settle()
    assert pair.words == [] and pair.managers[SOURCE].open_count == 2
