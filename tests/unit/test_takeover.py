"""A node is dead, its WAL sealed: what survivors recover of it, and what never comes back. On WALs in files and in
objects, with the real metadata."""

from __future__ import annotations

import asyncio

import pytest

from s3stream.errors import Expired, Fenced, Unavailable
from s3stream.types import StreamState
from tests.support.engine import append, read_all
from tests.support.faulty_metadata import FaultyMetadata, answer_lost, gap_for, refused
from tests.support.holding_store import HoldingStore
from tests.support.object_wal import ScriptedStore
from tests.support.survivors import KINDS, Cluster, Node, durable
from tests.support.virtual_time import virtual

both = pytest.mark.parametrize("kind", KINDS)


async def dead_owner(cluster: Cluster, batches: int = 20) -> Node:
    """Node 0 had every stream open, appended, flushed some of it, and was killed."""
    owner = await cluster.start(0)
    streams = await owner.open(cluster.world.epochs)
    for number in range(batches):
        for stream in streams:
            append(stream, 1 + stream.stream_id % 3)
        if number == batches // 4:
            await durable(*streams)
            await owner.storage.flush()
    await durable(*streams)
    await owner.kill()
    return owner


async def check_whole(node: Node, owner: Node) -> None:
    """The node has open, readable from objects alone, what the owner had acknowledged; no more, and nothing twice."""
    node.engine.drop_cache()
    for stream_id, stream in node.streams.items():
        acknowledged = owner.streams[stream_id].durable_end
        count = 1 + stream_id % 3
        wanted = b"".join(b"<%d:%d+%d>" % (stream_id, base, count) for base in range(0, acknowledged, count))
        assert await read_all(stream) == wanted
        assert (stream.durable_end, stream.committed_end) == (acknowledged, acknowledged)
        assert (stream.epoch, stream.epochs[-1]) == (1, (1, acknowledged))
        # Nothing lies in two live ranges: what reads find, and what retention counts, is there once.
        ranges = await node.cluster.world.metadata.object_ranges(stream_id, 0, 1000)
        assert [one.start for one in ranges] == [0, *(one.end for one in ranges[:-1])]
        assert ranges[-1].end == acknowledged
        # Of a range that was partly there, bytes count in proportion: batches' sizes differ by a digit or two.
        assert abs(stream.committed_bytes - len(wanted)) <= len(wanted) // 20


@both
@virtual
async def test_survivors_share_the_streams_and_have_all_that_was_acknowledged(kind: str) -> None:
    cluster = await Cluster.create(kind, 5)
    owner = await dead_owner(cluster)
    survivors = [await cluster.start(number) for number in (1, 2, 3)]
    wal = await cluster.bury(owner, survivors[0])
    shares = [[1, 2], [3], [4, 5]]
    answers = await asyncio.gather(
        *(node.storage.take_over(wal, share) for node, share in zip(survivors, shares, strict=True))
    )
    assert answers == [(share, {}) for share in shares]
    for node, share in zip(survivors, shares, strict=True):
        await node.open(share)
        await check_whole(node, owner)
        assert node.storage.health()["memtable_bytes"] == 0
        append(node.streams[share[0]])
    assert await cluster.world.metadata.fenced_wals() == []


@both
@virtual
async def test_two_survivors_that_take_the_same_streams_double_nothing(kind: str) -> None:
    cluster = await Cluster.create(kind, 3)
    owner = await dead_owner(cluster, 60)
    one, other = await cluster.start(1, budget_bytes=1 << 16), await cluster.start(2)
    wal = await cluster.bury(owner, one)
    answers = await asyncio.gather(*(node.storage.take_over(wal, [1, 2, 3]) for node in (one, other, other)))
    assert answers == [([1, 2, 3], {})] * 3
    await other.open([1, 2, 3])
    await check_whole(other, owner)
    # The one that comes last finds them another's.
    assert await one.storage.take_over(wal, [1, 2, 3]) == ([], {})
    with pytest.raises(Fenced, match="open on node 2"):
        await one.open([1], assign=False)


@both
@virtual
async def test_a_survivor_that_is_late_with_its_commit_finds_the_streams_anothers(kind: str) -> None:
    cluster = await Cluster.create(kind, 2)
    owner = await dead_owner(cluster)
    store = HoldingStore(cluster.world.objects)
    late, quick = await cluster.start(1, store=store), await cluster.start(2)
    wal = await cluster.bury(owner, quick)
    store.hold = 1
    under_way = asyncio.ensure_future(late.storage.take_over(wal, [1, 2]))
    await asyncio.sleep(1)
    await quick.storage.take_over(wal, [1, 2])
    await quick.open([1, 2])
    append(quick.streams[1], 2)
    await durable(quick.streams[1])
    await quick.storage.flush()
    store.release()
    # Its ranges lie below what is committed by now: done, as far as it can know. The streams are not its to open.
    await under_way
    with pytest.raises(Fenced):
        await late.open([1, 2], assign=False)
    assert await read_all(quick.streams[1]) == b"".join(b"<1:%d+2>" % base for base in range(0, 42, 2))


@both
@virtual
async def test_a_survivor_dies_in_the_middle_and_another_finishes(kind: str) -> None:
    cluster = await Cluster.create(kind, 3)
    owner = await dead_owner(cluster, 100)
    store = ScriptedStore(cluster.world.objects)
    first = await cluster.start(1, store=store, budget_bytes=1 << 16)
    second = await cluster.start(2)
    wal = await cluster.bury(owner, second)
    silent = asyncio.Event()
    committed = {stream_id: stream.committed_end for stream_id, stream in owner.streams.items()}
    before = len(store.created)
    store.on_create = lambda key: silent.wait() if len(store.created) > before + 1 else None
    takeover = asyncio.ensure_future(first.storage.take_over(wal, [1, 2, 3]))
    await asyncio.sleep(1)
    assert len(store.created) > before + 1 and not takeover.done()
    await first.kill()
    takeover.cancel()
    rows = await cluster.world.metadata.streams([1, 2, 3])
    assert any(row.committed_end > committed[row.stream_id] for row in rows), "it had begun"
    assert any(row.committed_end < owner.streams[row.stream_id].durable_end for row in rows), "it had not finished"
    assert await second.storage.take_over(wal, [1, 2, 3]) == ([1, 2, 3], {})
    await second.open([1, 2, 3])
    await check_whole(second, owner)


@both
@virtual
async def test_a_takeover_that_is_cancelled_holds_nothing_and_is_done_again(kind: str) -> None:
    cluster = await Cluster.create(kind, 2)
    owner = await dead_owner(cluster)
    store = HoldingStore(cluster.world.objects)
    survivor = await cluster.start(1, store=store, budget_bytes=1 << 16)
    wal = await cluster.bury(owner, survivor)
    store.hold = 5
    takeover = asyncio.ensure_future(survivor.storage.take_over(wal, [1, 2]))
    await asyncio.sleep(1)
    assert survivor.storage.health()["memtable_bytes"] != 0 and store.hold < 4, "several pieces are on their way"
    takeover.cancel()
    await asyncio.gather(takeover, return_exceptions=True)
    store.hold = 0
    assert survivor.storage.health()["memtable_bytes"] == 0 and survivor.files.open_handles <= 2
    assert await survivor.storage.take_over(wal, [1, 2]) == ([1, 2], {})
    await survivor.open([1, 2])
    await check_whole(survivor, owner)


@both
@virtual
async def test_database_and_store_that_do_not_answer_are_waited_for(kind: str) -> None:
    cluster = await Cluster.create(kind, 2)
    owner = await dead_owner(cluster)
    store = HoldingStore(cluster.world.objects)
    metadata = FaultyMetadata(cluster.world.metadata)
    survivor = await cluster.start(1, store=store, metadata=metadata)
    wal = await cluster.bury(owner, survivor)
    metadata.faults = {"prepare_objects": [refused, refused], "commit": [refused, answer_lost, refused]}
    store.fail_creates = [Unavailable("no answer")] * 3
    assert await survivor.storage.take_over(wal, [1, 2]) == ([1, 2], {})
    assert metadata.calls["commit"] == 4
    await survivor.open([1, 2])
    await check_whole(survivor, owner)


@both
@virtual
async def test_records_of_several_lives_and_stream_epochs_are_one_log(kind: str) -> None:
    """Nothing was flushed through four lives of the owner: the last incarnation's WAL has batches of four epochs."""
    cluster = await Cluster.create(kind, 2)
    for life in range(4):
        owner = await cluster.start(0)
        streams = await owner.open([1, 2])
        assert streams[0].epoch == life
        for stream in streams:
            append(stream, life + 1)
            append(stream, life + 1)
        await durable(*streams)
        await owner.kill()
    survivor = await cluster.start(1)
    wal = await cluster.bury(owner, survivor)
    assert await survivor.storage.take_over(wal, [1, 2]) == ([1, 2], {})
    [stream, _] = await survivor.open([1, 2])
    assert await read_all(stream) == b"<1:0+1><1:1+1><1:2+2><1:4+2><1:6+3><1:9+3><1:12+4><1:16+4>"
    assert (stream.epoch, list(stream.epochs)) == (4, [(0, 0), (1, 2), (2, 6), (3, 12), (4, 20)])


@both
@virtual
async def test_records_of_older_epochs_alone_are_committed_under_the_epoch_that_holds(kind: str) -> None:
    """The last life of the owner opened its streams, and appended nothing."""
    cluster = await Cluster.create(kind, 1)
    for life in range(3):
        owner = await cluster.start(0)
        [stream] = await owner.open([1])
        if life < 2:
            append(stream)
            await durable(stream)
        await owner.kill()
    survivor = await cluster.start(1)
    wal = await cluster.bury(owner, survivor)
    assert await survivor.storage.take_over(wal, [1]) == ([1], {})
    [stream] = await survivor.open([1])
    assert (stream.epoch, await read_all(stream)) == (3, b"<1:0+1><1:1+1>")


@both
@virtual
async def test_a_piece_is_committed_only_after_the_one_before_it(kind: str) -> None:
    cluster = await Cluster.create(kind, 1)
    owner = await dead_owner(cluster, 60)
    store = HoldingStore(cluster.world.objects)
    metadata = FaultyMetadata(cluster.world.metadata)
    survivor = await cluster.start(1, store=store, metadata=metadata, budget_bytes=1 << 16)
    wal = await cluster.bury(owner, survivor)
    store.hold, before = 1, len(store.creates)
    takeover = asyncio.ensure_future(survivor.storage.take_over(wal, [1]))
    await asyncio.sleep(1)
    assert len(store.creates) > before + 1 and not takeover.done()
    assert "commit" not in metadata.calls, "the second is there, and waits"
    store.release()
    assert await takeover == ([1], {})
    await survivor.open([1])
    await check_whole(survivor, owner)


@both
@virtual
async def test_9_an_upload_whose_preparation_ran_out_is_done_anew(kind: str) -> None:
    cluster = await Cluster.create(kind, 2)
    owner = await dead_owner(cluster)
    store = HoldingStore(cluster.world.objects)
    metadata = FaultyMetadata(cluster.world.metadata)
    survivor = await cluster.start(1, store=store, metadata=metadata)
    wal = await cluster.bury(owner, survivor)

    async def expired(method: object, *args: object) -> None:
        raise Expired("object 1 is no longer prepared")

    metadata.faults["commit"] = [expired]
    before = len(store.creates)
    assert await survivor.storage.take_over(wal, [1, 2]) == ([1, 2], {})
    assert len(set(store.creates[before:])) == 2, "under another id"
    await survivor.open([1, 2])
    await check_whole(survivor, owner)


@both
@virtual
async def test_8_a_database_that_lacks_what_was_committed_before_is_not_gone_on_with(kind: str) -> None:
    cluster = await Cluster.create(kind, 2)
    owner = await dead_owner(cluster)
    metadata = FaultyMetadata(cluster.world.metadata)
    survivor = await cluster.start(1, metadata=metadata)
    wal = await cluster.bury(owner, survivor)
    metadata.faults["commit"] = [gap_for(1)]
    with pytest.raises(Unavailable, match="start again"):
        await survivor.storage.take_over(wal, [1, 2])
    assert await survivor.storage.take_over(wal, [1, 2]) == ([1, 2], {})
    await survivor.open([1, 2])
    await check_whole(survivor, owner)


@both
@virtual
async def test_a_takeover_that_was_finished_long_ago_touches_nothing(kind: str) -> None:
    """Asked for again when the node is back and has the stream open anew: its records are not the sealed WAL's."""
    cluster = await Cluster.create(kind, 1)
    owner = await dead_owner(cluster)
    survivor = await cluster.start(1)
    wal = await cluster.bury(owner, survivor)
    await survivor.storage.take_over(wal, [1])
    [stream] = await survivor.open([1])
    await survivor.storage.close_streams([stream])
    await cluster.release(wal)
    back = await cluster.start(0)
    [stream] = await back.open([1])
    append(stream, 2)
    await durable(stream)
    assert await survivor.storage.take_over(wal, [1]) == ([], {})
    await back.storage.flush()
    assert stream.committed_end == 42


@both
@virtual
async def test_deleted_and_closed_streams_cost_the_others_nothing(kind: str) -> None:
    cluster = await Cluster.create(kind, 2)
    topic_id, [doomed] = await cluster.world.add_topic("doomed")
    owner = await cluster.start(0)
    streams = await owner.open([1, 2, doomed])
    for stream in streams:
        append(stream)
    await durable(*streams)
    await owner.storage.close_streams([owner.streams[2]])
    await owner.kill()
    survivor = await cluster.start(1)
    wal = await cluster.bury(owner, survivor)
    await cluster.world.metadata.delete_topic(topic_id)
    done, broken = await survivor.storage.take_over(wal, [1, 2, doomed])
    assert (sorted(done), broken) == ([1, 2], {})
    await survivor.open([1, 2])
    assert await read_all(survivor.streams[1]) == b"<1:0+1>" and await read_all(survivor.streams[2]) == b"<2:0+1>"


@both
@virtual
async def test_a_stream_deleted_while_it_is_uploaded_costs_the_others_nothing(kind: str) -> None:
    cluster = await Cluster.create(kind, 2)
    topic_id, [doomed] = await cluster.world.add_topic("doomed")
    owner = await dead_owner(cluster)
    store = HoldingStore(cluster.world.objects)
    survivor = await cluster.start(1, store=store)
    wal = await cluster.bury(owner, survivor)
    store.hold = 1
    takeover = asyncio.ensure_future(survivor.storage.take_over(wal, [1, 2, doomed]))
    await asyncio.sleep(1)
    await cluster.world.metadata.delete_topic(topic_id)
    store.release()
    assert await takeover == ([1, 2], {})
    await survivor.open([1, 2])
    await check_whole(survivor, owner)


@both
@virtual
async def test_what_the_survivor_itself_has_not_flushed_stays_in_its_wal(kind: str) -> None:
    """CORRECTNESS 2: the commit of another's records says nothing of the trim of one's own."""
    cluster = await Cluster.create(kind, 3)
    owner, survivor = await cluster.start(0), await cluster.start(1)
    streams = await owner.open([1, 2])
    [own] = await survivor.open([3])
    for stream in (*streams, own):
        for _ in range(30):
            append(stream)
    await durable(*streams, own)
    await owner.kill()
    wal = await cluster.bury(owner, survivor)
    await survivor.storage.take_over(wal, [1, 2])
    await survivor.kill()
    again = await cluster.start(1)
    [own] = await again.open([3])
    assert await read_all(own) == b"".join(b"<3:%d+1>" % base for base in range(30))


@both
@virtual
async def test_a_survivor_that_is_fenced_itself_stops(kind: str) -> None:
    cluster = await Cluster.create(kind, 2)
    owner = await dead_owner(cluster)
    survivor, controller = await cluster.start(1), await cluster.start(2)
    wal = await cluster.bury(owner, controller)
    metadata = cluster.world.metadata
    await metadata.register_node(1, "memory:elsewhere", {"PLAINTEXT": "127.0.0.1:1"})
    with pytest.raises(Fenced):
        await survivor.storage.take_over(wal, [1, 2])
    assert survivor.storage.health()["memtable_bytes"] == 0
    assert await controller.storage.take_over(wal, [1, 2]) == ([1, 2], {})


@virtual
async def test_2_a_record_above_the_seal_never_appears() -> None:
    """The object before it never landed: it was not acknowledged, and is not part of the log, though it is there."""
    cluster = await Cluster.create("objects", 1)
    store = ScriptedStore(cluster.world.objects)
    owner = await cluster.start(0, store=store)
    [stream] = await owner.open([1])
    append(stream)
    await durable(stream)
    held = asyncio.Event()
    lost = len(store.created)
    store.on_create = lambda key: held.wait() if key == store.created[lost] else None
    for _ in range(3):
        append(stream, payload=bytes(1000))  # a group, and a PUT, of its own
        await asyncio.sleep(0.1)
    assert len(store.created) > lost + 1 and stream.durable_end == 1
    await owner.kill()
    survivor = await cluster.start(1)
    wal = await cluster.bury(owner, survivor)
    assert await survivor.storage.take_over(wal, [1]) == ([1], {})
    [stream] = await survivor.open([1])
    assert (stream.durable_end, await read_all(stream)) == (1, b"<1:0+1>")


@virtual
async def test_2_a_zombie_over_objects_acknowledges_nothing_after_the_seal() -> None:
    cluster = await Cluster.create("objects", 2)
    store = HoldingStore(cluster.world.objects)
    zombie, survivor = await cluster.start(0, store=store), await cluster.start(1)
    streams = await zombie.open([1, 2])
    for stream in streams:
        append(stream)
    await durable(*streams)
    # A flush is uploading, and a batch on its way to the WAL, when others take the node for dead.
    store.hold = 2
    flush = asyncio.ensure_future(zombie.storage.flush())
    await asyncio.sleep(0.1)
    append(streams[0], 7)
    wal = await cluster.bury(zombie, survivor)
    assert await survivor.storage.take_over(wal, [1, 2]) == ([1, 2], {})
    [taken, _] = await survivor.open([1, 2])
    store.release()
    await flush
    await asyncio.sleep(60)
    assert zombie.storage.fenced
    for listener in zombie.engine.listeners:
        assert listener.appended_ends == [1], "nothing more was acknowledged"
        assert [type(error) for _, error in listener.failures] == [Fenced]
    for stream in streams:
        with pytest.raises(Fenced):
            append(stream)
    assert (taken.durable_end, await read_all(taken)) == (1, b"<1:0+1>")
    append(taken, 2)
    await durable(taken)
    await survivor.storage.flush()
    survivor.engine.drop_cache()
    assert await read_all(taken) == b"<1:0+1><1:1+2>"


@virtual
async def test_10_the_owner_of_a_file_wal_that_is_not_dead_keeps_its_streams() -> None:
    cluster = await Cluster.create("files", 1)
    paused, other = await cluster.start(0), await cluster.start(1)
    [stream] = await paused.open([1])
    append(stream)
    await durable(stream)
    with pytest.raises(Unavailable, match="node 0 epoch 1 is not dead"):
        await cluster.fence(0, 1, other.identity)
    append(stream)
    await durable(stream)
    await paused.storage.flush()
    [row] = await cluster.world.metadata.streams([1])
    assert (row.state, row.owner, row.committed_end) == (StreamState.OPEN, 0, 2)


class Killed(Exception):
    """At that step."""


async def registered_and_killed(cluster: Cluster) -> Node:
    """Node 0 once more: killed when it has registered, and before its WAL's directory names this life."""
    again = Node(cluster, 0)

    async def killed(node: object) -> None:
        raise Killed

    again.wal.owned_by = killed
    with pytest.raises(Killed):
        await again.start()
    await again.kill()
    return again


@virtual
async def test_10_a_node_killed_before_its_wal_named_its_new_life_is_taken_over_as_its_last_one() -> None:
    cluster = await Cluster.create("files", 2)
    owner = await dead_owner(cluster)
    again = await registered_and_killed(cluster)
    again = await registered_and_killed(cluster)
    survivor = await cluster.start(1)
    wal = await cluster.bury(again, survivor)
    assert (wal.node_epoch, wal.incarnation) == owner.identity[1:], "the log is that life's"
    assert await survivor.storage.take_over(wal, [1, 2]) == ([1, 2], {})
    await survivor.open([1, 2])
    await check_whole(survivor, owner)
    await cluster.release(wal)
    await cluster.start(0)  # in the same directory, which goes on where it was


@virtual
async def test_10_a_life_that_wakes_where_it_had_not_named_its_wal_finds_its_lock_or_itself_fenced() -> None:
    """It was paused, not dead; nobody takes its WAL. Then it is killed, and another process of it comes too late."""
    cluster = await Cluster.create("files", 1)
    owner = await dead_owner(cluster)
    survivor, paused = await cluster.start(1), Node(cluster, 0)
    name, asleep, awake = paused.wal.owned_by, asyncio.Event(), asyncio.Event()

    async def late(node: object) -> None:
        asleep.set()
        await awake.wait()
        await name(node)

    paused.wal.owned_by = late
    starting = asyncio.ensure_future(paused.start())
    await asleep.wait()
    with pytest.raises(Unavailable, match="node 0 epoch 2 is not dead"):
        await cluster.fence(0, 2, survivor.identity)
    awake.set()
    await starting
    [stream] = await paused.open([1], assign=False)
    append(stream, 2)
    await durable(stream)
    await paused.kill()
    wal = await cluster.bury(paused, survivor)
    assert wal.node_epoch == 2, "it has named its WAL, and written there"
    assert await survivor.storage.take_over(wal, [1]) == ([1], {})
    [stream] = await survivor.open([1])
    assert stream.durable_end == owner.streams[1].durable_end + 2


@virtual
async def test_10_a_node_whose_file_wal_is_being_read_waits_and_then_goes_on() -> None:
    cluster = await Cluster.create("files", 2)
    owner = await dead_owner(cluster)
    survivor = await cluster.start(1)
    wal = await cluster.bury(owner, survivor)
    await cluster.release(wal)
    early = Node(cluster, 0)
    with pytest.raises(Unavailable, match="taken over"):
        await early.start()
    await early.kill()
    await survivor.storage.take_over(wal, [1, 2])
    await survivor.open([1, 2])
    back = await cluster.start(0)
    await survivor.storage.close_streams([survivor.streams.pop(2)])
    [stream] = await back.open([2])
    append(stream, 3)
    await durable(stream)
    await back.kill()
    wal = await cluster.bury(back, survivor)
    assert await survivor.storage.take_over(wal, [2]) == ([2], {})
    [stream] = await survivor.open([2])
    assert (await read_all(stream)).endswith(b"<2:60+3>")


@both
@virtual
async def test_1_a_node_that_died_again_before_it_had_opened_its_streams_is_taken_over_whole(kind: str) -> None:
    """Some are still open under the life before; all their records lie in the WAL that the last life went on with."""
    cluster = await Cluster.create(kind, 3)
    owner = await dead_owner(cluster)
    again = await cluster.start(0)
    [stream] = await again.open([1])
    append(stream, 2)
    await durable(stream)
    await again.storage.flush()
    await again.kill()
    survivor = await cluster.start(1)
    await cluster.bury(again, survivor)
    for wal in await cluster.world.metadata.fenced_wals():
        done, broken = await survivor.storage.take_over(wal, [1, 2, 3])
        assert broken == {}
        await survivor.open(done)
    assert sorted(survivor.streams) == [1, 2, 3]
    for stream_id, (end, epoch) in {1: (42, 2), 2: (60, 1), 3: (20, 1)}.items():
        stream = survivor.streams[stream_id]
        assert (stream.durable_end, stream.epoch) == (end, epoch)
        assert await read_all(stream)
    assert owner.streams[2].durable_end == 60
