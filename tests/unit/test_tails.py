"""Streams handed over with a tail: nothing is uploaded before they are open elsewhere, nothing is lost whoever dies
(CORRECTNESS 1, 2, 3)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from s3stream import closing, tails
from s3stream.errors import Fenced, Unavailable
from s3stream.limits import TAIL_OTHERS_S
from s3stream.settings import EngineSettings
from s3stream.stream import Stream
from s3stream.types import CommitResult, FlushCommit, StreamBatch, StreamSnapshot, StreamState, TailRow
from tests.support.engine import MIB, append, read_all
from tests.support.faulty_metadata import FaultyMetadata, answer_lost, refused
from tests.support.holding_store import HoldingStore
from tests.support.survivors import KINDS, Cluster, Node, durable
from tests.support.virtual_time import virtual

of_each_kind = pytest.mark.parametrize("kind", KINDS)


async def pair(kind: str = "files", held: bool = True) -> tuple[Cluster, HoldingStore, Node, Node, Stream]:
    """A source with one stream of three batches that are not flushed, and a target. What the source uploads waits for
    `store.release()`."""
    cluster = await Cluster.create(kind, streams=2)
    store = HoldingStore(cluster.world.objects)
    source = await cluster.start(0, store=store if kind == "files" else None)
    target = await cluster.start(1)
    [stream] = await source.open(list(cluster.world.epochs)[:1])
    for _ in range(3):
        append(stream, 2)
    await durable(stream)
    if held:
        store.hold = 1000
    return cluster, store, source, target, stream


async def row_of(cluster: Cluster, stream: Stream) -> StreamSnapshot:
    [row] = await cluster.world.metadata.streams([stream.stream_id])
    return row


def reads_of_rows(cluster: Cluster) -> list[Any]:
    """The reads of stream rows from now on."""
    metadata: Any = cluster.world.metadata
    read, done = metadata.streams, []

    async def watched(stream_ids: Any) -> list[StreamSnapshot]:
        done.append(stream_ids)
        rows: list[StreamSnapshot] = await read(stream_ids)
        return rows

    metadata.streams = watched
    return done


async def tail_of(cluster: Cluster, stream: Stream) -> TailRow | None:
    return (await row_of(cluster, stream)).tail


def commits_of(cluster: Cluster) -> list[tuple[int, int]]:
    """The ranges that are offered to the database from now on."""
    metadata: Any = cluster.world.metadata
    commit, offered = metadata.commit, []

    async def watched(flush: FlushCommit) -> CommitResult:
        offered.extend((one.start, one.end) for built in flush.objects for one in built.ranges)
        result: CommitResult = await commit(flush)
        return result

    metadata.commit = watched
    return offered


async def hand_over(source: Node, stream: Stream) -> None:
    await source.storage.close_streams([stream], hand_over=True)
    source.streams.pop(stream.stream_id)


def expected(stream: Stream, *batches: tuple[int, int]) -> bytes:
    return b"".join(f"<{stream.stream_id}:{base}+{count}>".encode() for base, count in batches)


TAIL = ((0, 2), (2, 2), (4, 2))


@virtual
async def test_correctness_3_a_stream_is_open_elsewhere_before_anything_of_it_is_uploaded() -> None:
    cluster, store, source, target, stream = await pair()
    await hand_over(source, stream)
    [row] = await cluster.world.metadata.streams([stream.stream_id])
    assert (row.state, row.tail) == (StreamState.CLOSED, TailRow(stream.stream_id, 0, 6, 0, 1, 0))
    with pytest.raises(Fenced):
        append(stream)
    [moved] = await target.open([stream.stream_id])
    assert (moved.epoch, moved.committed_end, moved.durable_end, moved.next_offset) == (1, 0, 6, 6)
    assert moved.epochs[-1] == (1, 6)
    assert await read_all(moved) == expected(stream, *TAIL)
    append(moved, 3)
    await durable(moved)
    assert await read_all(moved) == expected(stream, *TAIL, (6, 3))
    # Its own waits for what comes before it, and holds its WAL's trim; the source's WAL holds the tail.
    await target.storage.flush()
    assert moved.committed_end == 0 and await tail_of(cluster, stream) is not None
    assert source.storage.health()["wal_bytes"] != 0
    store.release()
    await asyncio.sleep(0.5)
    assert await tail_of(cluster, stream) is None
    assert (moved.committed_end, moved.table.start) == (6, 6)
    assert await read_all(moved) == expected(stream, *TAIL, (6, 3))
    await target.storage.flush()
    assert moved.committed_end == 9
    target.engine.drop_cache()
    assert await read_all(moved) == expected(stream, *TAIL, (6, 3))
    for node in (source, target):
        assert node.engine.budget.accounts["memtable"].used == 0
        await node.storage.stop()


@virtual
async def test_what_its_source_has_told_of_a_stream_is_not_read_again() -> None:
    cluster, _, source, target, stream = await pair()
    row, tail = await row_of(cluster, stream), TailRow(stream.stream_id, 0, 6, 0, 1, 0)
    await hand_over(source, stream)
    await cluster.world.metadata.assign({stream.stream_id: target.node_id})
    target.storage.hear_closed([(replace(row, state=StreamState.CLOSED, tail=tail), ())])
    read = reads_of_rows(cluster)
    assert await target.storage.fetch_tails([stream.stream_id]) == {}
    [moved] = await target.storage.open_streams([(stream.stream_id, row.epoch)])
    assert (read, moved.durable_end) == ([], 6)
    assert await read_all(moved) == expected(stream, *TAIL)


@virtual
@pytest.mark.parametrize("told", [True, False])
async def test_an_opening_whose_answer_was_lost_has_its_tail_when_it_is_asked_for_again(told: bool) -> None:
    cluster, _, source, _, stream = await pair()
    faulty = FaultyMetadata(cluster.world.metadata)
    target = await cluster.start(2, metadata=faulty)
    row, tail = await row_of(cluster, stream), TailRow(stream.stream_id, 0, 6, 0, 1, 0)
    await hand_over(source, stream)
    if told:
        batches = source.storage.tail_batches(stream.stream_id, 0, 6, 1000)
        target.storage.hear_closed([(replace(row, state=StreamState.CLOSED, tail=tail), batches)])
    faulty.faults["open_streams"] = [answer_lost]
    with pytest.raises(Unavailable):
        await target.open([stream.stream_id])
    [moved] = await target.open([stream.stream_id])
    assert (moved.epoch, await read_all(moved)) == (1, expected(stream, *TAIL))


@virtual
async def test_a_tail_that_was_told_is_not_asked_for() -> None:
    cluster, store, source, target, stream = await pair()
    row, tail = await row_of(cluster, stream), TailRow(stream.stream_id, 0, 6, 0, 1, 0)
    await hand_over(source, stream)
    source.cut_off = True
    batches = source.storage.tail_batches(stream.stream_id, 0, 6, 1000)
    target.storage.hear_closed([(replace(row, state=StreamState.CLOSED, tail=tail), batches[1:])])
    assert stream.stream_id in await target.storage.fetch_tails([stream.stream_id]), "it is not whole"
    target.storage.hear_closed([(replace(row, state=StreamState.CLOSED, tail=tail), batches)])
    [moved] = await target.open([stream.stream_id])
    assert await read_all(moved) == expected(stream, *TAIL)
    append(moved, 1)
    store.release()
    await asyncio.sleep(0.5)
    assert (moved.committed_end, await tail_of(cluster, stream)) == (6, None)
    await target.storage.flush()
    assert await read_all(moved) == expected(stream, *TAIL, (6, 1))


@virtual
async def test_tails_that_were_told_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, _, source, target, stream = await pair()
    row, tail = await row_of(cluster, stream), TailRow(stream.stream_id, 0, 6, 0, 1, 0)
    await hand_over(source, stream)
    batches = source.storage.tail_batches(stream.stream_id, 0, 6, 1000)
    source.cut_off = True
    monkeypatch.setattr(tails, "TAILS_FETCHED_BYTES_MAX", sum(len(batch.payload) for batch in batches) - 1)
    target.storage.hear_closed([(replace(row, state=StreamState.CLOSED, tail=tail), batches)])
    assert stream.stream_id in await target.storage.fetch_tails([stream.stream_id])


@virtual
@pytest.mark.parametrize("tail", [None, (0, 4), (0, 9)], ids=["none", "short", "long"])
async def test_correctness_1_what_was_told_wrongly_opens_nothing(tail: tuple[int, int] | None) -> None:
    cluster, _, source, target, stream = await pair()
    row = await row_of(cluster, stream)
    await hand_over(source, stream)
    wrong = None if tail is None else TailRow(stream.stream_id, *tail, 0, 1, 0)
    target.storage.hear_closed([(replace(row, state=StreamState.CLOSED, tail=wrong), ())])
    with pytest.raises(Unavailable):
        await target.open([stream.stream_id])
    # From then on the row itself is read.
    [moved] = await target.open([stream.stream_id])
    assert await read_all(moved) == expected(stream, *TAIL)


@virtual
async def test_correctness_1_a_stream_that_was_not_closed_is_not_opened_whoever_says_so() -> None:
    cluster, _, _, target, stream = await pair()
    row = await row_of(cluster, stream)
    target.storage.hear_closed([(replace(row, state=StreamState.CLOSED, committed_end=6), ())])
    with pytest.raises(Fenced):
        await target.open([stream.stream_id])
    append(stream, 2)
    await durable(stream)
    assert await read_all(stream) == expected(stream, *TAIL, (6, 2))


@virtual
async def test_a_source_lets_go_of_a_tail_when_it_is_committed() -> None:
    cluster, store, source, _, stream = await pair()
    await hand_over(source, stream)
    batches = source.storage.tail_batches(stream.stream_id, 3, 6, 1)
    assert [(one.base_offset, one.end_offset) for one in batches] == [(2, 4)]
    assert [one.base_offset for one in source.storage.tail_batches(stream.stream_id, 0, 6, 1000)] == [0, 2, 4]
    assert source.storage.tail_batches(stream.stream_id, 0, 5, 1000) == []
    assert source.storage.tail_batches(stream.stream_id + 1, 0, 6, 1000) == []
    store.release()
    await asyncio.sleep(0.5)
    assert source.storage.tail_batches(stream.stream_id, 0, 6, 1000) == []
    assert source.storage.health()["streams"] == 0
    assert await tail_of(cluster, stream) is None


@virtual
async def test_correctness_3_a_source_does_not_stop_before_its_tail_is_committed() -> None:
    cluster, store, source, _, stream = await pair()
    await hand_over(source, stream)
    stopping = asyncio.ensure_future(source.storage.stop())
    await asyncio.sleep(30)
    assert not stopping.done()
    store.release()
    await stopping
    assert await tail_of(cluster, stream) is None


@virtual
async def test_correctness_3_a_tail_that_came_while_others_were_asked_about_is_awaited_like_them() -> None:
    cluster, store, source, target, first = await pair()
    [second] = await source.open(list(cluster.world.epochs)[1:])
    append(second, 2)
    await durable(second)
    await hand_over(source, first)
    await target.open([first.stream_id])
    metadata: Any = cluster.world.metadata
    read, asked, answer = metadata.streams, asyncio.Event(), asyncio.Event()

    async def slow(stream_ids: Any) -> list[StreamSnapshot]:
        rows: list[StreamSnapshot] = await read(stream_ids)
        if list(stream_ids) == [first.stream_id]:
            asked.set()
            await answer.wait()
        return rows

    metadata.streams = slow
    await asked.wait()
    await hand_over(source, second)
    [moved] = await target.open([second.stream_id])
    append(moved, 3)
    await durable(moved)
    answer.set()
    await asyncio.sleep(0.1)
    store.release()
    await asyncio.sleep(0.5)
    await target.storage.flush()
    target.engine.drop_cache()
    assert (moved.committed_end, moved.table.start) == (5, None)
    assert await read_all(moved) == expected(moved, (0, 2), (2, 3))


@virtual
async def test_a_target_that_cannot_ask_the_source_waits_for_the_commit() -> None:
    _, store, source, target, stream = await pair()
    source.cut_off = True
    await hand_over(source, stream)
    with pytest.raises(Unavailable, match="does not answer"):
        await target.open([stream.stream_id])
    assert set(await target.storage.fetch_tails([stream.stream_id])) == {stream.stream_id}
    store.release()
    await asyncio.sleep(0.5)
    [moved] = await target.open([stream.stream_id])
    assert (moved.committed_end, await read_all(moved)) == (6, expected(stream, *TAIL))


@virtual
async def test_a_source_that_gives_less_than_the_tail_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, source, target, stream = await pair()
    await hand_over(source, stream)
    whole = source.storage.tail_batches(stream.stream_id, 0, 6, 1000)
    for given in (whole[1:], whole[:2], whole[::2], []):
        monkeypatch.setattr(target.storage._tails, "_fetch", _giving({stream.stream_id: given}))
        with pytest.raises(Unavailable, match="not in its source's memory"):
            await target.open([stream.stream_id])


def _giving(found: dict[int, list[StreamBatch]]) -> Any:
    async def fetch(tails: object, bytes_max: int) -> dict[int, list[StreamBatch]]:
        return found

    return fetch


@virtual
async def test_a_tail_larger_than_the_bound_is_flushed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """While appends go on; what is left then is handed over."""
    cluster, store, source, _, stream = await pair(held=False)
    monkeypatch.setattr(closing, "TAIL_BYTES_MAX", 600)
    monkeypatch.setattr(closing, "CLOSE_AHEAD_BYTES", 1)
    store.hold = 1
    handing = asyncio.ensure_future(hand_over(source, stream))
    await asyncio.sleep(1)
    append(stream)
    assert not handing.done() and stream.refusal is None
    store.release()
    await handing
    [row] = await cluster.world.metadata.streams([stream.stream_id])
    assert row.state == StreamState.CLOSED
    assert row.committed_end == 7 if row.tail is None else (row.tail.start, row.tail.end) == (6, 7)


@virtual
async def test_a_stream_with_a_tail_does_not_move_again_before_it_is_committed() -> None:
    cluster, store, source, target, stream = await pair()
    await hand_over(source, stream)
    [moved] = await target.open([stream.stream_id])
    append(moved)
    await durable(moved)
    closing = asyncio.ensure_future(target.storage.close_streams([moved], hand_over=True))
    await asyncio.sleep(1)
    append(moved)  # it is served all the while
    assert not closing.done() and moved.refusal is None
    store.release()
    await closing
    assert (await tail_of(cluster, stream)) == TailRow(stream.stream_id, 6, 8, 1, 1, 1)
    # Back to where it came from, and there once more.
    [back] = await source.open([stream.stream_id])
    assert await read_all(back) == expected(stream, *TAIL, (6, 1), (7, 1))
    await asyncio.sleep(0.5)
    append(back)
    await durable(back)
    await source.storage.close_streams([back], hand_over=True)
    with pytest.raises(Unavailable, match="committed here"):
        await source.open([stream.stream_id])
    await asyncio.sleep(0.5)
    [again] = await source.open([stream.stream_id])
    assert (again.epoch, again.durable_end) == (3, 9)


@virtual
async def test_a_closing_is_given_up_when_a_tail_is_not_committed_in_time() -> None:
    _, _, source, target, stream = await pair()
    await hand_over(source, stream)
    [moved] = await target.open([stream.stream_id])
    with pytest.raises(Unavailable, match="not committed yet"):
        await target.storage.close_streams([moved], timeout_s=1, hand_over=True)
    append(moved)


@virtual
async def test_a_target_commits_the_tail_itself_when_its_source_is_slow() -> None:
    cluster, store, source, target, stream = await pair()
    await hand_over(source, stream)
    [moved] = await target.open([stream.stream_id])
    append(moved)
    await durable(moved)
    await asyncio.sleep(TAIL_OTHERS_S + 1)
    assert await tail_of(cluster, stream) is None
    await target.storage.flush()
    assert moved.committed_end == 7
    store.release()
    await asyncio.sleep(1)
    assert source.storage.health()["streams"] == 0
    target.engine.drop_cache()
    assert await read_all(moved) == expected(stream, *TAIL, (6, 1))


@virtual
async def test_both_commit_the_tail_at_once() -> None:
    cluster, store, source, target, stream = await pair()
    target_store = HoldingStore(cluster.world.objects)
    target.engine.storage._flusher._uploader._store = target_store
    await hand_over(source, stream)
    [moved] = await target.open([stream.stream_id])
    target_store.hold = 1
    await asyncio.sleep(TAIL_OTHERS_S + 0.5)
    store.release()
    await asyncio.sleep(1)
    assert await tail_of(cluster, stream) is None
    assert len(target_store.creates) == 1, "its own commit is under way"
    target_store.release()
    await asyncio.sleep(1)
    assert (moved.committed_end, moved.table.segments) == (6, [])
    assert await read_all(moved) == expected(stream, *TAIL)
    # The commit that came second has ended too: nothing waits for it, and no stop does.
    append(moved)
    await durable(moved)
    async with asyncio.timeout(5):
        await target.storage.flush()
        assert moved.committed_end == 7
        await target.storage.stop()


@virtual
@pytest.mark.parametrize("fault", [answer_lost, refused], ids=["answer lost", "refused"])
async def test_correctness_3_a_closing_of_unknown_outcome_is_asked_again(fault: object) -> None:
    cluster = await Cluster.create("files", streams=1)
    faulty = FaultyMetadata(cluster.world.metadata)
    source, target = await cluster.start(0, metadata=faulty), await cluster.start(1)
    [stream] = await source.open(cluster.world.epochs)
    append(stream, 2)
    await durable(stream)
    faulty.faults["close_streams"] = [fault, fault]  # type: ignore[list-item]
    await hand_over(source, stream)
    [moved] = await target.open([stream.stream_id])
    assert await read_all(moved) == expected(stream, (0, 2))
    await asyncio.sleep(1)
    assert await tail_of(cluster, stream) is None


@virtual
async def test_correctness_3_a_closing_known_late_still_leaves_the_tail_to_its_source() -> None:
    """The answer is lost, the stream goes on elsewhere, the closing is given up and asked for again."""
    cluster = await Cluster.create("files", streams=1)
    faulty = FaultyMetadata(cluster.world.metadata)
    source, target = await cluster.start(0, metadata=faulty), await cluster.start(1)
    [stream] = await source.open(cluster.world.epochs)
    append(stream, 2)
    await durable(stream)
    faulty.faults["close_streams"] = [answer_lost] + [refused] * 50
    faulty.faults["prepare_objects"] = [refused] * 3
    with pytest.raises(Unavailable):
        await source.storage.close_streams([stream], pause_max_s=1, hand_over=True)
    [row] = await cluster.world.metadata.streams([stream.stream_id])
    assert row.tail is not None
    await cluster.world.metadata.assign({stream.stream_id: 1})
    with pytest.raises(Unavailable):  # nobody knows here that it may give it
        await target.open([stream.stream_id])
    faulty.faults.clear()
    await source.storage.close_streams([stream], None, None)
    [moved] = await target.open([stream.stream_id])
    assert await read_all(moved) == expected(stream, (0, 2))
    assert source.storage.health()["streams"] == 0


@virtual
async def test_a_deleted_streams_tail_is_forgotten() -> None:
    cluster, store, source, _, stream = await pair()
    await hand_over(source, stream)
    [topic] = (await cluster.world.metadata.load_image()).topics.values()
    await cluster.world.metadata.delete_topic(topic.topic_id)
    store.release()
    await asyncio.sleep(1)
    assert source.storage.health()["streams"] == 0
    assert source.engine.budget.accounts["memtable"].used == 0


@virtual
async def test_a_deleted_streams_target_forgets_what_it_awaited() -> None:
    _, _, source, target, stream = await pair()
    await hand_over(source, stream)
    await target.open([stream.stream_id])
    assert target.engine.budget.accounts["memtable"].used > 0
    target.storage.drop_stream(stream.stream_id)
    await asyncio.sleep(1)
    assert target.engine.budget.accounts["memtable"].used == 0
    assert not target.storage._tails.awaits(stream.stream_id)


@virtual
async def test_what_is_trimmed_of_a_tail_need_not_be_fetched() -> None:
    cluster, store, source, target, stream = await pair()
    await stream.trim(6)
    await hand_over(source, stream)
    source.cut_off = True
    [moved] = await target.open([stream.stream_id])
    append(moved)
    await durable(moved)
    store.release()
    await asyncio.sleep(1)
    await target.storage.flush()
    assert (moved.start_offset, moved.committed_end) == (6, 7)
    assert await tail_of(cluster, stream) is None


# --- deaths ---------------------------------------------------------------------------------------


@of_each_kind
@virtual
async def test_1_the_tail_of_a_dead_source_is_committed_from_its_wal_and_its_stream_stays_open(kind: str) -> None:
    cluster, _, source, target, stream = await pair(kind, held=False)
    source.store = cluster.store
    source.engine.storage._flusher.seal = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    await hand_over(source, stream)
    [moved] = await target.open([stream.stream_id])
    append(moved)
    await durable(moved)
    await source.kill()
    other = await cluster.start(2)
    wal = await cluster.bury(source, other)
    assert await other.storage.take_over(wal, [stream.stream_id]) == ([], {})
    assert await other.storage.recover_tails(wal, [stream.stream_id]) == ([stream.stream_id], {})
    assert await other.storage.recover_tails(wal, [stream.stream_id]) == ([stream.stream_id], {})
    [row] = await cluster.world.metadata.streams([stream.stream_id])
    assert (row.state, row.owner, row.epoch, row.committed_end, row.tail) == (StreamState.OPEN, 1, 1, 6, None)
    await asyncio.sleep(0.5)
    await target.storage.flush()
    target.engine.drop_cache()
    assert await read_all(moved) == expected(stream, *TAIL, (6, 1))


@of_each_kind
@virtual
async def test_1_a_closed_stream_of_a_dead_source_is_opened_when_its_tail_is_committed(kind: str) -> None:
    cluster, _, source, target, stream = await pair(kind, held=False)
    source.engine.storage._flusher.seal = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    await hand_over(source, stream)
    await source.kill()
    with pytest.raises(Unavailable):
        await target.open([stream.stream_id])
    wal = await cluster.bury(source, target)
    assert await target.storage.recover_tails(wal, [stream.stream_id]) == ([stream.stream_id], {})
    [moved] = await target.open([stream.stream_id])
    assert (moved.epoch, await read_all(moved)) == (1, expected(stream, *TAIL))


@of_each_kind
@virtual
async def test_3_both_ends_die(kind: str) -> None:
    cluster, _, source, target, stream = await pair(kind, held=False)
    source.engine.storage._flusher.seal = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    await hand_over(source, stream)
    [moved] = await target.open([stream.stream_id])
    append(moved, 4)
    await durable(moved)
    await source.kill()
    await target.kill()
    other = await cluster.start(2)
    wals = [await cluster.bury(dead, other) for dead in (target, source)]
    with pytest.raises(Unavailable, match="tails of 1 streams"):
        await other.storage.take_over(wals[0], [stream.stream_id])
    assert await other.storage.recover_tails(wals[1], [stream.stream_id]) == ([stream.stream_id], {})
    assert await other.storage.take_over(wals[0], [stream.stream_id]) == ([stream.stream_id], {})
    [opened] = await other.open([stream.stream_id])
    assert (opened.epoch, await read_all(opened)) == (2, expected(stream, *TAIL, (6, 4)))


@of_each_kind
@virtual
async def test_3_a_source_that_restarts_recovers_its_tails_and_commits_them(kind: str) -> None:
    cluster, _, source, target, stream = await pair(kind, held=False)
    source.engine.storage._flusher.seal = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    await hand_over(source, stream)
    [moved] = await target.open([stream.stream_id])
    append(moved)
    await durable(moved)
    await source.kill()
    again = await cluster.start(0)
    await asyncio.sleep(1)
    assert await tail_of(cluster, stream) is None
    assert again.storage.health()["streams"] == 0
    await target.storage.flush()
    assert moved.committed_end == 7
    target.engine.drop_cache()
    assert await read_all(moved) == expected(stream, *TAIL, (6, 1))


@of_each_kind
@virtual
async def test_3_a_target_that_restarts_waits_for_the_tail(kind: str) -> None:
    cluster, _, source, target, stream = await pair(kind, held=False)
    real, flusher = source.engine.storage._flusher.seal, source.engine.storage._flusher
    flusher.seal = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    await hand_over(source, stream)
    [moved] = await target.open([stream.stream_id])
    append(moved, 4)
    await durable(moved)
    await target.kill()
    again = await cluster.start(1)
    offered = commits_of(cluster)
    with pytest.raises(Unavailable, match="not committed"):
        await again.open([stream.stream_id])
    await again.storage.flush()
    await asyncio.sleep(TAIL_OTHERS_S)
    # It would be answered GAP, and written to the WAL and uploaded again with every flush until the tail is there.
    assert offered == []
    flusher.seal = real  # type: ignore[method-assign]
    await asyncio.sleep(10)
    [reopened] = await again.open([stream.stream_id])
    assert (reopened.epoch, await read_all(reopened)) == (2, expected(stream, *TAIL, (6, 4)))
    await again.storage.flush()
    again.engine.drop_cache()
    assert await read_all(reopened) == expected(stream, *TAIL, (6, 4))


@virtual
async def test_a_sealed_wal_that_lacks_a_tail_keeps_the_stream_offline() -> None:
    cluster, _, source, target, stream = await pair(held=False)
    source.engine.storage._flusher.seal = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    await hand_over(source, stream)
    await source.kill()
    wal = await cluster.bury(source, target)

    async def nothing(*args: object):  # type: ignore[no-untyped-def]
        return
        yield

    target.storage._opening._read_sealed = nothing  # type: ignore[assignment]
    done, broken = await target.storage.recover_tails(wal, [stream.stream_id])
    assert done == [] and "lacks the tail" in str(broken[stream.stream_id])


# --- beside commits that wait for the database ----------------------------------------------------


@virtual
async def test_correctness_3_a_tail_that_left_memory_in_an_outage_is_waited_for() -> None:
    """An outage of the database has the source upload and let go of what it cannot commit; then the stream moves."""
    cluster = await Cluster.create("files", streams=1)
    faulty = FaultyMetadata(cluster.world.metadata)
    settings = EngineSettings(flush_bytes=64 * 1024, flush_interval_ms=10**9, collect_interval_ms=10**9)
    source = await cluster.start(0, metadata=faulty, settings=settings, budget_bytes=MIB)
    target = await cluster.start(1)
    [stream] = await source.open(cluster.world.epochs)
    faulty.down = True
    written = b""
    for number in range(300):
        data = f"{number};".encode().ljust(4_000, b".")
        append(stream, 1, data)
        written += data
        await asyncio.sleep(0.01)
    assert stream.uploaded.size_bytes > 0 and source.storage.health()["commits_queued"] > 5
    # The database is there again for all but commits: their turn comes later.
    faulty.down, faulty.faults["commit"] = False, [refused] * 5
    await hand_over(source, stream)
    row = await row_of(cluster, stream)
    assert (row.state, row.tail) == (StreamState.CLOSED, TailRow(stream.stream_id, 0, 300, 0, 1, 0))
    assert source.storage.tail_batches(stream.stream_id, 0, 300, 10 * MIB) == [], "a part would not be the tail"
    with pytest.raises(Unavailable):
        await target.open([stream.stream_id])
    await asyncio.sleep(120)
    assert await tail_of(cluster, stream) is None
    [moved] = await target.open([stream.stream_id])
    assert (moved.epoch, moved.committed_end) == (1, 300)
    assert await read_all(moved, max_bytes=100_000) == written
    assert source.storage.health()["streams"] == 0 and source.storage.health()["memtable_bytes"] == 0
