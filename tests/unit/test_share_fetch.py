"""ShareFetch and ShareAcknowledge over real partition logs: delivery, words stored before they are answered, locks,
sessions, waiting, members and leaders that go."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from brokers.partitions.pending import AppendOrigin
from brokers.protocol.messages import milliseconds
from brokers.records.builder import marker_batch
from brokers.records.record import EndMarker, iter_records
from brokers.shares.fetching import READ_BYTES_MIN
from brokers.shares.sessions import MemberKey
from brokers.shares.share_partition import Ack
from s3stream.types import ReadResult
from tests.support.manual_clock import settle
from tests.support.partitions import append, append_first, batch
from tests.support.share_world import LOCK_MS, TOPIC_ID, ShareWorld, acquired, share

__all__ = ["share"]

ACCEPT, RELEASE, RENEW, GAP = ([kind.value] for kind in (Ack.ACCEPT, Ack.RELEASE, Ack.RENEW, Ack.GAP))
NONE = ErrorCode.none
BOTH = [{"topic_id": TOPIC_ID, "partitions": [{"partition_index": n} for n in (0, 1)]}]


class TestDelivery:
    async def test_each_record_goes_to_one_member(self, share: ShareWorld) -> None:
        share.produce(3, 4)
        first = await share.fetch("a", max_records=2)
        assert acquired(first) == [(0, 2, 1)], "as much as the batch that holds the second"
        records = first.responses[0].partitions[0].records
        assert [record.offset for record in iter_records(memoryview(records))] == [0, 1, 2]
        assert first.acquisition_lock_timeout == milliseconds(LOCK_MS)
        assert acquired(await share.fetch("b")) == [(3, 6, 1)]
        assert acquired(await share.fetch("a")) == []

    async def test_never_more_than_asked_for_where_that_is_wanted(self, share: ShareWorld) -> None:
        share.produce(5)
        assert acquired(await share.fetch("a", max_records=2, share_acquire_mode=1)) == [(0, 1, 1)]
        assert acquired(await share.fetch("b", max_records=2, share_acquire_mode=1)) == [(2, 3, 1)]
        assert acquired(await share.fetch("b", version=1)) == [(4, 4, 1)]

    async def test_pieces_of_the_size_asked_for_begin_with_batches(self, share: ShareWorld) -> None:
        share.produce(2, 2, 2, 2)
        assert acquired(await share.fetch("a", batch_size=3)) == [(0, 3, 1), (4, 7, 1)]

    async def test_no_more_in_flight_than_the_group_may_have(self) -> None:
        share = ShareWorld(**{"share.partition.max.record.locks": "100"})
        share.produce(*[30] * 5)
        assert acquired(await share.fetch("a")) == [(0, 119, 1)], "the batch that holds the last"
        assert acquired(await share.fetch("b")) == []
        assert await share.acknowledge("a", (10, 19, RELEASE)) is NONE
        assert acquired(await share.fetch("b")) == [(10, 19, 2)], "what lies in flight may be delivered all the same"
        assert await share.acknowledge("a", (0, 9, ACCEPT)) is NONE
        assert await share.acknowledge("b", (10, 19, ACCEPT)) is NONE
        assert await share.acknowledge("a", (20, 59, ACCEPT)) is NONE
        assert acquired(await share.fetch("b")) == [(120, 149, 1)]
        await share.close()

    async def test_where_a_group_begins(self) -> None:
        for reset, start in (("earliest", 0), ("latest", 3), ("by_duration:PT1H", 0)):
            share = ShareWorld(**{"share.auto.offset.reset": reset})
            share.produce(3)
            await share.fetch("a")
            assert share.store.states[share.key].start_offset == start, "stored before anything is delivered"
            share.produce(2)
            assert acquired(await share.fetch("b"))[-1][1] == 4
            await share.close()

    async def test_no_record_since_then(self) -> None:
        share = ShareWorld(**{"share.auto.offset.reset": "by_duration:PT1H"})
        answer = await share.fetch("a", loaded=False, max_wait=milliseconds(5_000))
        assert answer.responses[0].partitions[0].error_code is ErrorCode.offset_not_available
        share.produce(1)
        assert acquired(await share.fetch("a")) == [(0, 0, 1)], "tried again"
        await share.close()

    async def test_read_committed_leaves_out_what_was_aborted_and_waits_for_decisions(self) -> None:

        for isolation, expected in (("read_committed", [(0, 1, 1), (4, 5, 1)]), ("read_uncommitted", [(0, 7, 1)])):
            share = ShareWorld(**{"share.isolation.level": isolation})
            log = share.world.log("t")
            share.produce(2)
            for producer in (5, 6):
                append_first(log, batch(2, producer_id=producer, producer_epoch=0, base_sequence=0, transactional=True))
                if producer == 5:
                    marker = marker_batch(5, 0, EndMarker(False, 1), 0)
                    append(log, memoryview(marker), AppendOrigin.COORDINATOR)
                    share.produce(1)
            share.stream().make_durable()
            got = acquired(await share.fetch("a"))
            assert got == expected, isolation
            await share.close()


class TestReading:
    """A fetch is given 500 records as a rule, and its session may have a thousand partitions."""

    @staticmethod
    def reads(share: ShareWorld, partition: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many bytes are asked of the partition's stream, read by read."""
        stream, asked = share.stream(partition), []
        read_recent = stream.read_recent

        def noted(offset: int, limit: int, max_bytes: int, at_least_one: bool = True) -> ReadResult | None:
            asked.append(max_bytes)
            return read_recent(offset, limit, max_bytes, at_least_one)

        monkeypatch.setattr(stream, "read_recent", noted)
        return asked

    async def test_no_more_partitions_are_read_than_the_records_need(
        self, share: ShareWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        share.produce(3, 3)
        share.produce(3, partition=1)
        first, second = (self.reads(share, partition, monkeypatch) for partition in (0, 1))
        answer = await share.fetch("a", topics=BOTH, max_records=3)
        assert (acquired(answer, 0), acquired(answer, 1)) == ([(0, 2, 1)], [])
        assert (len(first), len(second)) == (1, 0)
        answer = await share.fetch("a", max_records=6)
        assert (acquired(answer, 0), acquired(answer, 1)) == ([(3, 5, 1)], [(0, 2, 1)]), "the next where one is short"

    async def test_bytes_that_one_partition_lacks_come_from_the_next(self, share: ShareWorld) -> None:
        share.produce(1)
        share.produce(1, partition=1)
        answer = await share.fetch("a", topics=BOTH, max_records=1, min_bytes=100)
        assert (acquired(answer, 0), acquired(answer, 1)) == ([(0, 0, 1)], []), "both were read, one record was wanted"

    async def test_no_more_bytes_are_read_than_the_records_take(
        self, share: ShareWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        share.produce(3, 3, 3)
        asked = self.reads(share, 0, monkeypatch)
        for number in range(3):
            assert acquired(await share.fetch("a", max_records=3)) == [(number * 3, number * 3 + 2, 1)]
        assert asked == [1 << 20, READ_BYTES_MIN, READ_BYTES_MIN], "the first knows nothing of the records"


class TestWords:
    async def test_accepted_records_are_gone_and_the_start_moves(self, share: ShareWorld) -> None:
        share.produce(4)
        await share.fetch("a")
        assert await share.acknowledge("a", (0, 1, ACCEPT), (2, 3, [2, 1])) is NONE
        assert acquired(await share.fetch("b")) == [(2, 2, 2)]
        assert (share.led.share.start, share.led.share.complete_count) == (2, 1)  # type: ignore[union-attr]
        (batches,) = [said.batches for said in share.store.writes if said.batches]
        assert [tuple(piece) for piece in batches] == [(0, 1, 2, 1), (2, 2, 0, 1), (3, 3, 2, 1)]

    async def test_with_the_next_fetch(self, share: ShareWorld) -> None:
        share.produce(2)
        await share.fetch("a")
        share.produce(1)
        answer = await share.fetch("a", topics=[share.acks_of((0, 1, ACCEPT))])
        assert acquired(answer) == [(2, 2, 1)]
        assert answer.responses[0].partitions[0].acknowledge_error_code == 0
        assert share.led.share.start == 2  # type: ignore[union-attr]
        answer = await share.fetch("a", topics=[share.acks_of((0, 1, ACCEPT), (2, 2, ACCEPT), (9, 9, ACCEPT))])
        part = answer.responses[0].partitions[0]
        assert part.acknowledge_error_code == ErrorCode.invalid_request.value
        assert acquired(await share.fetch("b")) == [], "all or nothing: still acquired"

    async def test_correctness_6_no_word_is_answered_before_it_is_stored(self, share: ShareWorld) -> None:
        share.produce(2)
        await share.fetch("a")
        share.store.held = asyncio.Event()
        saying = asyncio.ensure_future(share.acknowledge("a", (0, 1, ACCEPT)))
        await settle()
        assert not saying.done() and share.led.share.start == 0  # type: ignore[union-attr]
        assert acquired(await share.fetch("b")) == []
        share.store.held.set()
        assert await saying is NONE and share.led.share.start == 2  # type: ignore[union-attr]

    async def test_what_is_said_while_storing_goes_into_the_next_write(self, share: ShareWorld) -> None:
        share.produce(6)
        await share.fetch("a")
        share.store.held, written = asyncio.Event(), len(share.store.writes)
        saying = [asyncio.ensure_future(share.acknowledge("a", (0, 0, ACCEPT)))]
        await settle()
        saying += [asyncio.ensure_future(share.acknowledge("a", (n, n, ACCEPT))) for n in range(1, 6)]
        await settle()
        assert len(share.store.writes) == written + 1, "one at a time"
        share.store.held.set()
        assert await asyncio.gather(*saying) == [NONE] * 6
        assert len(share.store.writes) == written + 2

    async def test_what_cannot_be_stored_was_not_said(self, share: ShareWorld) -> None:
        share.produce(2)
        await share.fetch("a")
        share.store.refused = [ErrorCode.coordinator_load_in_progress]
        assert await share.acknowledge("a", (0, 1, ACCEPT)) is ErrorCode.coordinator_not_available
        assert await share.acknowledge("a", (0, 1, ACCEPT)) is NONE, "still its own"

    async def test_a_fence_ends_what_is_led_here_and_the_next_fetch_begins_from_what_is_stored(
        self, share: ShareWorld
    ) -> None:
        share.produce(2)
        await share.fetch("a")
        share.store.refused = [ErrorCode.fenced_state_epoch]
        assert await share.acknowledge("a", (0, 0, ACCEPT)) is ErrorCode.not_leader_or_follower
        assert acquired(await share.fetch("b")) == [(0, 1, 1)]

    async def test_rejected_and_gone_too_often(self) -> None:
        share = ShareWorld(**{"share.delivery.count.limit": "2"})
        share.produce(2)
        await share.fetch("a")
        assert await share.acknowledge("a", (0, 1, [3, 2])) is NONE
        assert acquired(await share.fetch("a")) == [(1, 1, 2)]
        assert await share.acknowledge("a", (1, 1, RELEASE)) is NONE
        assert acquired(await share.fetch("a")) == [], "given up"
        assert share.led.share.start == 2  # type: ignore[union-attr]
        await share.close()

    async def test_the_last_deliveries_come_alone(self, share: ShareWorld) -> None:
        share.produce(4)
        for count, expected in ((1, [(0, 3, 1)]), (2, [(0, 3, 2)]), (3, [(0, 3, 3)]), (4, [(0, 1, 4)])):
            got = acquired(await share.fetch("a"))
            assert got == expected, count
            assert await share.acknowledge("a", (got[0][0], got[0][1], RELEASE)) is NONE
        assert acquired(await share.fetch("a")) == [(0, 0, 5)]
        assert acquired(await share.fetch("a")) == [(1, 1, 5)]
        assert acquired(await share.fetch("a")) == [(2, 2, 4)], "half of two"

    async def test_what_is_refused(self, share: ShareWorld) -> None:
        share.produce(4)
        await share.fetch("a", max_records=2, share_acquire_mode=1)
        await share.fetch("b", max_records=1, share_acquire_mode=1)
        for acks, code in (
            ([(2, 2, ACCEPT)], ErrorCode.invalid_record_state),  # b's
            ([(3, 3, ACCEPT)], ErrorCode.invalid_request),  # nobody's yet
            ([(1, 0, ACCEPT)], ErrorCode.invalid_request),
            ([(1, 1, ACCEPT), (0, 0, ACCEPT)], ErrorCode.invalid_request),
            ([(0, 1, ACCEPT), (1, 1, ACCEPT)], ErrorCode.invalid_record_state),
            ([(0, 1, [])], ErrorCode.invalid_request),
            ([(0, 1, [1, 1, 1])], ErrorCode.invalid_request),
            ([(0, 1, [5])], ErrorCode.invalid_request),
            ([(0, 1, RENEW)], ErrorCode.invalid_request),  # without saying that it renews
        ):
            assert await share.acknowledge("a", *acks) is code, acks
        assert await share.acknowledge("a", (0, 1, ACCEPT)) is NONE
        assert await share.acknowledge("a", (0, 1, ACCEPT)) is NONE, "below the start: done long ago"

    async def test_gaps_are_done(self, share: ShareWorld) -> None:
        share.produce(2)
        await share.fetch("a")
        assert await share.acknowledge("a", (0, 1, GAP)) is NONE
        assert share.led.share.start == 2  # type: ignore[union-attr]


class TestLocks:
    async def test_a_lock_ends_and_another_member_gets_the_records(self, share: ShareWorld) -> None:
        share.produce(2)
        await share.fetch("a")
        await share.clock.advance(LOCK_MS / 1000 - 1)
        assert acquired(await share.fetch("b")) == []
        await share.clock.advance(1)
        assert acquired(await share.fetch("b")) == [(0, 1, 2)]
        assert await share.acknowledge("a", (0, 1, ACCEPT)) is ErrorCode.invalid_record_state
        assert share.store.writes[-1].batches[0][2:] == (0, 1), "its delivery count is stored"

    async def test_a_lock_is_renewed(self, share: ShareWorld) -> None:
        share.produce(2)
        await share.fetch("a")
        await share.clock.advance(20)
        assert await share.acknowledge("a", (0, 1, RENEW), renews=True) is NONE
        await share.clock.advance(20)
        assert acquired(await share.fetch("b")) == []
        await share.clock.advance(11)
        assert acquired(await share.fetch("b")) == [(0, 1, 2)]

    async def test_a_group_that_may_not_renew(self) -> None:
        share = ShareWorld(**{"share.renew.acknowledge.enable": "false"})
        share.produce(2)
        await share.fetch("a")
        assert await share.acknowledge("a", (0, 1, RENEW), renews=True) is ErrorCode.invalid_record_state
        await share.close()

    async def test_a_lock_does_not_end_while_its_word_is_being_stored(self, share: ShareWorld) -> None:
        share.produce(2)
        await share.fetch("a")
        share.store.held = asyncio.Event()
        saying = asyncio.ensure_future(share.acknowledge("a", (0, 0, ACCEPT)))
        await settle()
        await share.clock.advance(LOCK_MS / 1000 + 1)
        assert acquired(await share.fetch("b")) == [(1, 1, 2)], "the other one has ended"
        share.store.refused = [ErrorCode.unknown_server_error]
        share.store.held.set()
        assert await saying is ErrorCode.unknown_server_error
        assert acquired(await share.fetch("b")) == [(0, 0, 2)], "not stored, and its lock is over"


class TestSessions:
    async def test_epochs(self, share: ShareWorld) -> None:
        assert (await share.fetch("a", share_session_epoch=5)).error_code is ErrorCode.share_session_not_found
        share.epochs.clear()
        await share.fetch("a")
        assert (await share.fetch("a", share_session_epoch=7)).error_code is ErrorCode.invalid_share_session_epoch
        assert await share.acknowledge("a", share_session_epoch=0) is ErrorCode.invalid_share_session_epoch
        assert await share.acknowledge("b", share_session_epoch=3) is ErrorCode.share_session_not_found
        share.epochs["a"] = 0
        again = await share.fetch("a", topics=[share.acks_of((0, 0, ACCEPT))])
        assert again.error_code is ErrorCode.invalid_request, "a new session has nothing to say"

    async def test_partitions_are_added_and_forgotten(self, share: ShareWorld) -> None:
        share.produce(1)
        share.produce(1, partition=1)
        await share.fetch("a", topics=[])
        answer = await share.fetch("a", topics=BOTH)
        assert acquired(answer, 0) == acquired(answer, 1) == [(0, 0, 1)]
        share.produce(1)
        share.produce(1, partition=1)
        forgotten = [{"topic_id": TOPIC_ID, "partitions": [0]}]
        answer = await share.fetch("a", topics=[], forgotten_topics_data=forgotten)
        assert (acquired(answer, 0), acquired(answer, 1)) == ([], [(1, 1, 1)])

    async def test_the_last_request_gives_back_what_was_acquired(self, share: ShareWorld) -> None:
        share.produce(4)
        await share.fetch("a")
        answer = await share.fetch("a", share_session_epoch=-1, topics=[share.acks_of((0, 1, ACCEPT))])
        assert answer.error_code is NONE and acquired(answer) == []
        await settle()
        assert acquired(await share.fetch("b")) == [(2, 3, 2)]
        assert await share.acknowledge("b", (2, 2, ACCEPT), share_session_epoch=-1) is NONE
        await settle()
        assert acquired(await share.fetch("c")) == [(3, 3, 3)]
        assert await share.acknowledge("b", share_session_epoch=-1) is ErrorCode.share_session_not_found

    async def test_a_connection_that_goes_gives_back_what_was_acquired(self, share: ShareWorld) -> None:
        share.produce(2)
        await share.fetch("a")
        share.shares.connection_gone(0)
        await settle()
        assert share.shares.leaders.get(share.key) is None, "nobody of the group is left here"
        assert acquired(await share.fetch("b")) == [(0, 1, 2)], "from what is stored"

    async def test_there_are_not_too_many(self, share: ShareWorld) -> None:
        for member in "abc":
            await share.fetch(member)
        refused = await share.fetch("d")
        assert refused.error_code is ErrorCode.share_session_limit_reached

    async def test_who_may_not_ask(self, share: ShareWorld) -> None:
        assert (await share.fetch("")).error_code is ErrorCode.invalid_request
        assert (await share.fetch("x" * 37)).error_code is ErrorCode.invalid_request
        assert (await share.fetch("m", group_id=None)).error_code is ErrorCode.invalid_request
        assert await share.acknowledge("") is ErrorCode.invalid_request
        wrong = await share.fetch("m", is_renew_ack=True)
        assert wrong.error_code is ErrorCode.invalid_request and "maxBytes" in wrong.error_message
        share.configure()
        image = share.partitions.image
        object.__setattr__(image, "features", {})
        assert (await share.fetch("n")).error_code is ErrorCode.unsupported_version


class TestWaiting:
    async def test_an_append_or_a_release_ends_a_wait(self, share: ShareWorld) -> None:
        await share.fetch("a")
        await share.fetch("b")
        waiting = asyncio.ensure_future(share.fetch("a", loaded=False, max_wait=milliseconds(5_000)))
        await settle()
        assert not waiting.done()
        share.produce(1)
        assert acquired(await waiting) == [(0, 0, 1)]
        waiting = asyncio.ensure_future(share.fetch("b", max_wait=milliseconds(5_000)))
        await settle()
        assert await share.acknowledge("a", (0, 0, RELEASE)) is NONE
        assert acquired(await waiting) == [(0, 0, 2)]

    async def test_a_wait_ends_at_its_time_or_when_the_client_goes(self, share: ShareWorld) -> None:
        waiting = asyncio.ensure_future(share.fetch("a", max_wait=milliseconds(5_000)))
        await settle()
        await share.clock.advance(4.9)
        assert not waiting.done()
        await share.clock.advance(0.2)
        assert acquired(await waiting) == []
        await share.fetch("b")
        waiting = asyncio.ensure_future(share.fetch("a", loaded=False, max_wait=milliseconds(5_000)))
        await settle()
        share.shares.end_session(MemberKey("g", "a"))
        share.produce(1)
        await share.clock.advance(5.1)
        assert acquired(await waiting) == []
        assert acquired(await share.fetch("b")) == [(0, 0, 1)], "nothing is acquired for who has gone"

    async def test_enough_bytes_are_waited_for(self, share: ShareWorld) -> None:
        share.produce(1)
        waiting = asyncio.ensure_future(share.fetch("a", min_bytes=100, max_wait=milliseconds(5_000)))
        await settle()
        assert not waiting.done()
        share.produce(1)
        assert acquired(await waiting) == [(0, 1, 1)]

    async def test_loading_is_waited_for_and_told_when_it_fails(self, share: ShareWorld) -> None:
        share.store.refused = [ErrorCode.not_coordinator]
        answer = await share.fetch("a", loaded=False, max_wait=milliseconds(5_000))
        assert answer.responses[0].partitions[0].error_code is ErrorCode.coordinator_not_available
        assert share.shares.leaders.get(share.key) is None, "what failed takes no room"
        share.produce(1)
        assert acquired(await share.fetch("a", loaded=False, max_wait=milliseconds(5_000))) == [(0, 0, 1)]


class TestLeaders:
    async def test_partitions_that_are_not_here(self, share: ShareWorld) -> None:
        share.world.topic("far", 1, topic_id=9, elsewhere=(0,))
        topics = [
            {"topic_id": UUID(int=9), "partitions": [{"partition_index": 0}]},
            {"topic_id": UUID(int=99), "partitions": [{"partition_index": 0}]},
            {"topic_id": TOPIC_ID, "partitions": [{"partition_index": 9}]},
        ]
        answer = await share.fetch("a", topics=topics)
        parts = {topic.topic_id.int: topic.partitions[0] for topic in answer.responses}
        assert parts[9].error_code is ErrorCode.not_leader_or_follower
        assert (parts[9].current_leader.leader_id, parts[9].current_leader.leader_epoch) == (2, 5)
        assert [(node.node_id, node.host) for node in answer.node_endpoints] == [(2, "there")]
        assert parts[99].error_code is ErrorCode.unknown_topic_id
        assert parts[7].error_code is ErrorCode.unknown_topic_or_partition

    async def test_a_partition_that_moves_ends_waits_and_words(self, share: ShareWorld) -> None:
        share.produce(2)
        await share.fetch("a")
        share.world.hand_over("t")
        share.shares.leaders.partition_closed(share.led.log)
        share.world.opened_elsewhere("t")
        assert await share.acknowledge("a", (0, 1, ACCEPT)) is ErrorCode.not_leader_or_follower
        answer = await share.fetch("a")
        part = answer.responses[0].partitions[0]
        assert part.error_code is ErrorCode.not_leader_or_follower and part.current_leader.leader_id == 2

    async def test_another_leader_delivers_what_was_not_stored_as_done(self, share: ShareWorld) -> None:
        share.produce(6)
        await share.fetch("a")
        assert await share.acknowledge("a", (0, 0, ACCEPT), (3, 3, ACCEPT), (4, 4, RELEASE)) is NONE
        share.shares.leaders.partition_closed(share.led.log)
        assert acquired(await share.fetch("b")) == [(1, 2, 1), (4, 4, 2), (5, 5, 1)]

    async def test_what_the_log_has_no_more_is_nobodys(self, share: ShareWorld) -> None:
        share.produce(2, 2)
        await share.fetch("a", max_records=1)
        await share.world.log("t").trim(3)
        assert acquired(await share.fetch("b")) == [(3, 3, 1)]
        assert await share.acknowledge("a", (0, 1, ACCEPT)) is NONE

    async def test_words_on_what_is_not_acquired_here(self, share: ShareWorld) -> None:
        await share.fetch("a", topics=[])
        share.shares.leaders.end_group("g")
        assert await share.acknowledge("a", (0, 0, ACCEPT)) is ErrorCode.unknown_topic_or_partition
        assert await share.acknowledge("a") is NONE
