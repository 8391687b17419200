"""What a survivor makes of a dead node's WAL, whatever the WAL gives: order, copies, holes, damage, size."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence

import pytest

from s3stream.errors import Corrupt, Fenced, Unavailable
from s3stream.limits import BATCH_OVERHEAD_BYTES, KIB, MIB
from s3stream.types import FencedWal, StreamBatch, StreamId, WalDamage
from tests.support.engine import read_all
from tests.support.survivors import Cluster, Node
from tests.support.virtual_time import virtual

Groups = Callable[[], Iterable[Sequence[StreamBatch]]]


class Log:
    """A WAL that gives what it is told to."""

    def __init__(self, groups: Groups, damaged: dict[StreamId, WalDamage] | None = None) -> None:
        self.groups = groups
        self.damaged = damaged or {}
        self.error: Exception | None = None
        """Raised at the end."""
        self.passes: list[set[StreamId]] = []
        """The streams that each reading asked for."""
        self.open = 0

    async def read(
        self, wal: FencedWal, streams: Collection[StreamId], damaged: dict[StreamId, WalDamage]
    ) -> AsyncGenerator[Sequence[StreamBatch], None]:
        self.passes.append(set(streams))
        self.open += 1
        try:
            for group in self.groups():
                yield [one for one in group if one.stream_id in streams]
            if self.error is not None:
                raise self.error
            damaged.update({one: found for one, found in self.damaged.items() if one in streams})
        finally:
            self.open -= 1


def batch(stream_id: int, start: int, count: int = 1, size: int = 0, epoch: int = 0) -> StreamBatch:
    payload = f"<{stream_id}:{start}+{count}>".encode().ljust(size, b".")
    return StreamBatch(stream_id, epoch, start, count, payload)


async def recovered(
    log: Log, streams: int = 3, budget_bytes: int = 64 * MIB
) -> tuple[Node, list[StreamId], dict[StreamId, Corrupt]]:
    """A survivor that has taken over all streams of a node, whose WAL is `log`; what could be opened is open."""
    cluster = await Cluster.create("objects", streams)
    owner = await cluster.start(0)
    await owner.open(cluster.world.epochs)
    await owner.kill()
    survivor = await cluster.start(1, read=log.read, budget_bytes=budget_bytes)
    wal = await cluster.bury(owner, survivor)
    done, broken = await survivor.storage.take_over(wal, list(cluster.world.epochs))
    await survivor.open(done)
    survivor.engine.drop_cache()
    assert survivor.storage.health()["memtable_bytes"] == 0 and log.open == 0
    return survivor, done, broken


@virtual
async def test_second_copies_of_a_batch_wherever_they_lie_count_once() -> None:
    """CORRECTNESS 9: what could not be committed is appended again at the WAL's head."""
    first = [batch(1, 0), batch(1, 1), batch(2, 0, 5), batch(1, 2, 2)]
    copies = [batch(1, 1), batch(1, 2, 2), batch(2, 0, 5), batch(1, 4), batch(1, 0), batch(1, 4)]
    survivor, done, broken = await recovered(Log(lambda: [first, copies]), 2)
    assert (done, broken) == ([1, 2], {})
    assert await read_all(survivor.streams[1]) == b"<1:0+1><1:1+1><1:2+2><1:4+1>"
    assert await read_all(survivor.streams[2]) == b"<2:0+5>"


@virtual
async def test_only_the_second_copies_are_left_behind_what_follows_them() -> None:
    log = Log(lambda: [[batch(1, 2), batch(1, 3)], [batch(1, 0), batch(1, 1)]])
    survivor, _, broken = await recovered(log, 1)
    assert broken == {} and await read_all(survivor.streams[1]) == b"<1:0+1><1:1+1><1:2+1><1:3+1>"
    assert len(log.passes) == 1


@virtual
async def test_a_hole_takes_its_stream_offline_with_the_reason_and_no_other() -> None:
    log = Log(lambda: [[batch(1, 0), batch(2, 0), batch(3, 0)], [batch(1, 1), batch(2, 5), batch(3, 1)]])
    survivor, done, broken = await recovered(log)
    assert done == [1, 3] and list(broken) == [2]
    assert "those from 1 on are missing" in str(broken[2])
    assert survivor.storage.health()["streams_not_recovered"] == {2: str(broken[2])}
    with pytest.raises(Corrupt, match="those from 1 on are missing"):
        await survivor.open([2])
    assert await read_all(survivor.streams[3]) == b"<3:0+1><3:1+1>"


@virtual
async def test_a_hole_below_more_than_memory_may_hold_is_a_hole() -> None:
    log = Log(lambda: [[batch(1, 0)], [batch(1, 5, 1, 200 * KIB), batch(2, 0)]])
    survivor, done, broken = await recovered(log, 2, budget_bytes=1 * MIB)
    assert done == [2] and "those from 1 on are missing" in str(broken[1])
    assert len(log.passes) == 2 and log.passes[1] == {1}, "another pass found nothing more"
    assert await read_all(survivor.streams[2]) == b"<2:0+1>"


@virtual
async def test_a_reader_is_closed_when_the_survivor_is_fenced_in_the_middle() -> None:
    log = Log(lambda: ([batch(1, base, 1, 20 * KIB)] for base in range(100)))
    cluster = await Cluster.create("objects", 1)
    owner = await cluster.start(0)
    await owner.open([1])
    await owner.kill()
    survivor = await cluster.start(1, read=log.read, budget_bytes=1 * MIB)
    wal = await cluster.bury(owner, survivor)
    await cluster.world.metadata.register_node(1, "memory:elsewhere", {"PLAINTEXT": "127.0.0.1:1"})
    with pytest.raises(Fenced):
        await survivor.storage.take_over(wal, [1])
    assert log.open == 0 and survivor.storage.health()["memtable_bytes"] == 0


@virtual
async def test_a_damaged_stream_stays_offline_though_no_hole_shows_it() -> None:
    log = Log(lambda: [[batch(1, 0), batch(2, 0)]], {2: WalDamage(1, Corrupt("slice of stream 2 fails its checksum"))})
    _, done, broken = await recovered(log, 2)
    assert done == [1] and str(broken[2]) == "slice of stream 2 fails its checksum"


@virtual
async def test_what_was_broken_is_taken_over_once_the_wal_is_restored() -> None:
    groups: list[list[StreamBatch]] = [[batch(1, 0), batch(1, 5)]]
    log = Log(lambda: groups)
    survivor, _, broken = await recovered(log, 1)
    assert list(broken) == [1]
    groups.append([batch(1, 1, 4)])
    [wal] = await survivor.cluster.world.metadata.fenced_wals()
    assert await survivor.storage.take_over(wal, [1]) == ([1], {})
    [stream] = await survivor.open([1])
    assert await read_all(stream) == b"<1:0+1><1:1+4><1:5+1>"


@virtual
async def test_of_a_log_that_cannot_be_read_no_stream_is_opened() -> None:
    log = Log(lambda: [[batch(1, 0)]])
    log.error = Corrupt("WAL segment 7 is missing")
    _, done, broken = await recovered(log, 2)
    assert done == [] and {str(error) for error in broken.values()} == {"WAL segment 7 is missing"}
    assert set(broken) == {1, 2}


@virtual
async def test_a_log_out_of_reach_is_tried_again_by_the_caller() -> None:
    log = Log(lambda: [[batch(1, 0)]])
    log.error = Unavailable("the volume is not here")
    with pytest.raises(Unavailable, match="volume"):
        await recovered(log, 1)
    assert log.open == 0


@virtual
async def test_10_gigabytes_pass_through_bounded_memory() -> None:
    """Here 24 MiB through a budget of 8 MiB: a bound that holds for the one holds for the other."""
    size = 16 * KIB

    def large() -> Iterable[Sequence[StreamBatch]]:
        for base in range(0, 512, 4):
            yield [batch(stream, base + step, 1, size) for step in range(4) for stream in (1, 2, 3)]

    log = Log(large)
    survivor, done, _ = await recovered(log, 3, budget_bytes=8 * MIB)
    assert done == [1, 2, 3]
    account = survivor.engine.budget.accounts["memtable"]
    # One chunk of an eighth of the account filling, two on their way, one more about to be.
    assert account.bytes_max // 8 < account.peak <= account.bytes_max // 2 + 4 * (size + BATCH_OVERHEAD_BYTES)
    stream = survivor.streams[2]
    assert stream.durable_end == 512
    found = await read_all(stream, max_bytes=MIB)
    assert len(found) == 512 * size and found[511 * size :].startswith(b"<2:511+1>")


@virtual
async def test_early_batches_beyond_their_bound_are_read_again() -> None:
    """Of one stream everything lies before its beginning, far more than memory may hold; another has a hole."""
    size, count = 8 * KIB, 200

    def reversed_halves() -> Iterable[Sequence[StreamBatch]]:
        for base in range(count // 2, count):
            yield [batch(1, base, 1, size), batch(3, base + 7, 1, size)]
        for base in range(count // 2):
            yield [batch(1, base, 1, size), batch(2, base, 1, 10)]

    log = Log(reversed_halves)
    survivor, done, broken = await recovered(log, 3, budget_bytes=4 * MIB)
    assert done == [1, 2] and "those from 0 on are missing" in str(broken[3])
    account = survivor.engine.budget.accounts["memtable"]
    assert account.peak <= 5 * account.bytes_max // 8 + 4 * (size + BATCH_OVERHEAD_BYTES)
    assert survivor.streams[1].durable_end == count and survivor.streams[2].durable_end == count // 2
    found = await read_all(survivor.streams[1], max_bytes=MIB)
    assert [found[size * at :][:9] for at in (0, 99, 100)] == [b"<1:0+1>..", b"<1:99+1>.", b"<1:100+1>"]
    assert log.passes[0] == {1, 2, 3} and len(log.passes) <= 3, "each pass brings its streams further"


@pytest.mark.parametrize("seed", range(20))
def test_any_order_and_any_copies_give_one_dense_log(seed: int) -> None:
    """Model: the batches of each stream in offset order. The log holds each at least once, in any order."""

    @virtual
    async def run() -> None:
        chance = random.Random(seed)
        wanted: dict[StreamId, list[StreamBatch]] = {1: [], 2: []}
        for stream_id, batches in wanted.items():
            end = 0
            for _ in range(chance.randint(1, 40)):
                count = chance.randint(1, 5)
                batches.append(batch(stream_id, end, count, chance.choice((0, 100, 1000))))
                end += count
        records = [one for batches in wanted.values() for one in batches]
        records += chance.choices(records, k=chance.randint(0, 40))
        chance.shuffle(records)
        cuts = sorted(chance.choices(range(len(records) + 1), k=5))
        edges = list(zip([0, *cuts], [*cuts, len(records)], strict=True))
        log = Log(lambda: [records[start:end] for start, end in edges])
        survivor, done, broken = await recovered(log, 2, budget_bytes=chance.choice((100 * KIB, 1 * MIB)))
        assert (done, broken) == ([1, 2], {})
        for stream_id, batches in wanted.items():
            assert await read_all(survivor.streams[stream_id]) == b"".join(bytes(one.payload) for one in batches)

    run()
