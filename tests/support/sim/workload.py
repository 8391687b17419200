"""What clients of the simulated cluster do: produce, read, read again, consume in a group. `ledger.py` judges.

They retry as Kafka's clients do, for as long as it takes: an idempotent producer with the same sequence numbers,
several batches on their way; any other producer without, so that its records may be there more than once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from kio.schema.errors import ErrorCode

from brokers.partitions.partition_log import READ_COMMITTED, READ_UNCOMMITTED
from brokers.protocol.messages import milliseconds
from brokers.records.batch import CONTROL, iter_headers
from brokers.records.builder import RecordBatchBuilder
from brokers.records.record import end_marker, iter_records
from tests.support.group_driver import subscription
from tests.support.sim.kafka import Client, Gone, Leader, Link, entity, fetch_request, produce_request
from tests.support.sim.ledger import Ledger, Record, Sent
from tests.support.sim.transactions import Transaction

PATIENCE_S: Final = (3.0, 3.0, 30.0)
"""How long a client waits for an answer. Who waits long still hears a broker that slept meanwhile."""
PRODUCE_MS: Final = 20_000
NOW_MS: Final = 1_700_000_000_000
FETCH_BYTES: Final = (100, 1_000, 10_000)
AGAIN: Final = frozenset({
    ErrorCode.not_leader_or_follower, ErrorCode.unknown_topic_or_partition, ErrorCode.leader_not_available,
    ErrorCode.request_timed_out, ErrorCode.kafka_storage_error, ErrorCode.not_enough_replicas,
    ErrorCode.fenced_leader_epoch, ErrorCode.unknown_leader_epoch, ErrorCode.offset_not_available,
    ErrorCode.coordinator_load_in_progress, ErrorCode.coordinator_not_available, ErrorCode.not_coordinator,
})  # fmt: skip
"""What Kafka's clients try again."""
REJOIN: Final = frozenset({ErrorCode.illegal_generation, ErrorCode.unknown_member_id, ErrorCode.rebalance_in_progress,
                           ErrorCode.fenced_instance_id})  # fmt: skip


@dataclass(slots=True)
class Batch:
    values: list[bytes]
    data: bytes
    attempts: int = 0


class Worker:
    """A client with a name, its chance, and the ledger."""

    def __init__(self, name: str, client: Client, ledger: Ledger, partitions: int) -> None:
        self.name = name
        self.client = client
        self.ledger = ledger
        self.random: Random = client.random
        self.partitions = partitions
        self.patience_s = self.random.choice(PATIENCE_S)
        self.stopping = False
        """Finish what is begun."""

    async def pause(self, *seconds: float) -> None:
        await asyncio.sleep(self.random.choice(seconds) * self.random.uniform(0.5, 1))

    async def look_again(self) -> None:
        await self.client.refresh()
        await self.pause(0.1, 0.3)

    def unexpected(self, what: str, code: ErrorCode) -> None:
        if code not in AGAIN:
            raise self.ledger.violated(f"{self.name}: {what} was answered {code.name}")

    async def leader(self, partition: int) -> tuple[Link, Leader] | None:
        try:
            return await self.client.leader(partition)
        except Gone:
            return None


class Producer(Worker):
    """To some partitions, one after the other, up to three batches on their way."""

    produce_version = 8

    def __init__(self, *args: Any, idempotent: bool) -> None:
        super().__init__(*args)
        self.idempotent = idempotent
        self.sent = 0
        self._id = -1
        self._epoch = 0
        self._transactional_id: str | None = None
        self._transaction: Transaction | None = None
        self._sequences: dict[int, int] = {}

    async def run(self) -> None:
        if self.idempotent:
            self._id = await self.producer_id()
            self.ledger.note(f"{self.name} has producer id {self._id}")
        while not self.stopping:
            await self.pause(0.01, 0.05, 0.2, 0.5)
            partition = self.random.randrange(self.partitions)
            await self.deliver(partition, [self.batch(partition) for _ in range(self.random.choice((1, 1, 2, 3)))])

    async def producer_id(self) -> int:
        while True:
            try:
                request = entity(transactional_id=None, transaction_timeout=milliseconds(60_000))
                answer = await self.client.call_any("InitProducerId", request)
            except Gone:
                await self.look_again()
                continue
            if answer.error_code is ErrorCode.none:
                return int(answer.producer_id)
            self.unexpected("InitProducerId", answer.error_code)
            await self.look_again()

    def batch(self, partition: int) -> Batch:
        sequence = self._sequences.get(partition, 0)
        builder = (
            RecordBatchBuilder(
                producer_id=self._id,
                producer_epoch=self._epoch,
                base_sequence=sequence,
                transactional=self._transaction is not None,
            )
            if self.idempotent
            else RecordBatchBuilder()
        )
        values = []
        for _ in range(self.random.randint(1, 3)):
            self.sent += 1
            value = f"{self.name}/{partition}/{self.sent}/".encode() + bytes(self.random.choice((0, 10, 300)))
            self.ledger.sends(value, Sent(self.name, partition, self.sent, self.idempotent, self._transaction))
            builder.append(NOW_MS, None, value)
            values.append(value)
        self._sequences[partition] = sequence + len(values)
        return Batch(values, bytes(builder.build()))

    async def deliver(self, partition: int, batches: list[Batch]) -> None:
        while batches:
            found = await self.leader(partition)
            if found is None:
                await self.look_again()
                continue
            link, leader = found
            calls = [self._send(link, partition, batch) for batch in batches]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            left = [
                batch
                for batch, answer in zip(batches, answers, strict=True)
                if not self._answered(partition, batch, answer, link, leader, first=batch is batches[0])
            ]
            if left:
                await self.look_again()
            batches = left

    async def _send(self, link: Link, partition: int, batch: Batch) -> Any:
        batch.attempts += 1
        request = produce_request(self.client.topic, partition, batch.data, PRODUCE_MS, self._transactional_id)
        return await link.call("Produce", request, self.patience_s, self.produce_version)

    def _answered(self, partition: int, batch: Batch, answer: Any, link: Link, leader: Leader, first: bool) -> bool:
        """Whether the batch is acknowledged."""
        if isinstance(answer, BaseException):
            if not isinstance(answer, Gone):
                raise answer
            self.ledger.note(f"{self.name} {partition}: nothing heard of {link.server}")
            return False
        part = answer.responses[0].partition_responses[0]
        if part.error_code is ErrorCode.none:
            by = link.server if batch.attempts == 1 or not self.idempotent else None
            self.ledger.note(f"{self.name} {partition}: {part.base_offset} by {link.server}")
            self.ledger.acknowledges(partition, part.base_offset, batch.values, by)
            return True
        self.ledger.note(f"{self.name} {partition}: {part.error_code.name} by {link.server} ({part.error_message})")
        if part.error_code is not ErrorCode.out_of_order_sequence_number or first:
            # Out of order is only what follows one that failed.
            self.unexpected(f"a batch for partition {partition}", part.error_code)
        return False


class Reader(Worker):
    """Reads on, and now and then again from somewhere before; all records, or those that are committed."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.isolation = self.random.choice((READ_UNCOMMITTED, READ_COMMITTED, READ_COMMITTED))

    async def run(self) -> None:
        positions: dict[int, int] = {}
        while not self.stopping:
            await self.pause(0.05, 0.3, 1)
            partition = self.random.randrange(self.partitions)
            start = positions.get(partition, 0)
            if self.random.random() < 0.3:
                start = self.random.randint(0, start)
            end, _ = await self.read(partition, start)
            positions[partition] = max(end, positions.get(partition, 0))

    async def read(
        self, partition: int, start: int, wait_ms: int = 200, isolation: int | None = None
    ) -> tuple[int, int | None]:
        """(where it ends, the high watermark or None when nobody could tell)."""
        isolation = self.isolation if isolation is None else isolation
        found = await self.leader(partition)
        if found is None:
            await self.look_again()
            return start, None
        link, leader = found
        request = fetch_request(
            self.client.topic,
            partition,
            start,
            leader.epoch,
            self.random.choice(FETCH_BYTES),
            wait_ms,
            isolation,
        )
        try:
            answer = await link.call("Fetch", request, self.patience_s)
        except Gone:
            await self.look_again()
            return start, None
        part = answer.responses[0].partitions[0] if answer.responses else None
        code = answer.error_code if part is None else part.error_code
        if code is ErrorCode.offset_out_of_range:
            self.ledger.out_of_range(partition, start)
        if part is None or code is not ErrorCode.none:
            self.unexpected(f"a fetch of partition {partition} at {start}", code)
            await self.look_again()
            return start, None
        aborted = None if isolation == READ_UNCOMMITTED else part.aborted_transactions or ()
        end = self.ledger.reads(partition, start, _records(part.records, start, aborted))
        limit = part.high_watermark if isolation == READ_UNCOMMITTED else part.last_stable_offset
        self.ledger.note(f"{self.name} {partition}: [{start}, {end}) of {limit} at {link.server}")
        if (end > start and end > limit) or limit > part.high_watermark:
            raise self.ledger.violated(f"partition {partition}: read to {end}, past {limit} or {part.high_watermark}")
        return end, int(part.high_watermark)

    async def read_whole(self, partition: int, isolation: int = READ_UNCOMMITTED) -> None:
        """Nothing is under way any more: everything must be there, markers too, though perhaps not yet."""
        position, end = 0, None
        while end is None or position < end:
            before = position
            position, found = await self.read(partition, position, 0, isolation)
            if found is None:
                continue
            end = found
            if position == before and position < end:
                if isolation == READ_COMMITTED:
                    await self.pause(0.1)
                    continue
                raise self.ledger.violated(f"partition {partition}: nothing is read at {position}, below {end}")
        self.ledger.whole(partition, end)


def _records(data: Any, start: int, aborted: Iterable[Any] | None) -> list[Record]:
    """`aborted`: the transactions that a reader of committed records leaves out, as Kafka's clients do."""
    found: list[Record] = []
    view = memoryview(data or b"")
    waiting = sorted(aborted or (), key=lambda txn: txn.first_offset, reverse=True)
    dropping: set[int] = set()
    for position, header in iter_headers(view):
        batch = view[position : position + header.size]
        marker = end_marker(batch) if header.attributes & CONTROL else None
        while waiting and waiting[-1].first_offset <= header.base_offset + header.last_offset_delta:
            dropping.add(waiting.pop().producer_id)
        visible = None if aborted is None else not (header.transactional and header.producer_id in dropping)
        if marker is not None and not marker.commit:
            dropping.discard(header.producer_id)
        of = b"%r of %d, epoch %d" % (marker, header.producer_id, header.producer_epoch)
        found += [
            Record(record.offset, header.leader_epoch, bytes(record.value or b"") if marker is None else of, marker,
                   visible)
            for record in iter_records(batch)
            if record.offset >= start
        ]  # fmt: skip
    return found


class Member(Reader):
    """Consumes in a group: what it is assigned, from the committed offsets on."""

    group = "simulated"
    _member_id = ""
    _generation = -1

    async def run(self) -> None:
        while not self.stopping:
            try:
                link = await self.client.coordinator(self.group)
                mine = None if link is None else await self._join(link)
                if link is None or mine is None:
                    await self.look_again()
                    continue
                self.ledger.note(f"{self.name} has {mine} in generation {self._generation} at {link.server}")
                await self._consume(link, mine)
            except Gone:
                await self.look_again()

    async def _join(self, link: Link) -> list[int] | None:
        protocols = (entity(name="range", metadata=subscription(self.client.topic)),)
        answer = await link.call(
            "JoinGroup",
            entity(
                group_id=self.group, session_timeout=milliseconds(6_000), rebalance_timeout=milliseconds(4_000),
                member_id=self._member_id, group_instance_id=None, protocol_type="consumer", protocols=protocols,
            ),
            10.0,
        )  # fmt: skip
        if answer.error_code is ErrorCode.member_id_required:
            self._member_id = answer.member_id
            return await self._join(link)
        if self._failed("JoinGroup", answer.error_code):
            return None
        self._member_id, self._generation = answer.member_id, answer.generation_id
        assignments = ()
        if answer.leader == self._member_id:
            ids = sorted(member.member_id for member in answer.members)
            shares = {member: list(range(self.partitions))[n :: len(ids)] for n, member in enumerate(ids)}
            assignments = tuple(
                entity(member_id=member, assignment=json.dumps(share).encode()) for member, share in shares.items()
            )
        answer = await link.call("SyncGroup", self._who(assignments=assignments), 6.0)
        if self._failed("SyncGroup", answer.error_code):
            return None
        return list(json.loads(bytes(answer.assignment)))

    def _who(self, **fields: Any) -> Any:
        return entity(
            group_id=self.group, generation_id=self._generation, generation_id_or_member_epoch=self._generation,
            member_id=self._member_id, group_instance_id=None, **fields,
        )  # fmt: skip

    def _failed(self, what: str, code: ErrorCode) -> bool:
        if code is ErrorCode.none:
            return False
        self.ledger.note(f"{self.name} {what}: {code.name}")
        if code in REJOIN:
            if code is ErrorCode.unknown_member_id:
                self._member_id = ""
        else:
            self.unexpected(what, code)
        return True

    async def _consume(self, link: Link, mine: list[int]) -> None:
        """Until the group is another."""
        positions = await self._committed(link, mine)
        while positions is not None and not self.stopping:
            await self.pause(0.3, 0.6)
            partition = self.random.choice(mine)
            end, _ = await self.read(partition, positions[partition], 0)
            if end > positions[partition]:
                positions[partition] = end
                if not await self._commit(link, partition, end):
                    return
            answer = await link.call("Heartbeat", self._who(), 3.0)
            if self._failed("Heartbeat", answer.error_code):
                return

    async def _committed(self, link: Link, mine: list[int]) -> dict[int, int] | None:
        at_least = {partition: self.ledger.newest_commit(partition) for partition in mine}
        topics = (entity(name=self.client.topic, partition_indexes=tuple(mine)),)
        answer = await link.call("OffsetFetch", entity(group_id=self.group, topics=topics), 3.0)
        if self._failed("OffsetFetch", answer.error_code):
            return None
        found = {}
        for part in (part for topic in answer.topics for part in topic.partitions):
            if self._failed("OffsetFetch", part.error_code):
                return None
            offset = max(0, part.committed_offset)
            self.ledger.fetched(part.partition_index, offset, at_least[part.partition_index])
            found[part.partition_index] = offset
        return found

    async def _commit(self, link: Link, partition: int, offset: int) -> bool:
        part = entity(
            partition_index=partition, committed_offset=offset, committed_leader_epoch=-1, committed_metadata=""
        )
        topics = (entity(name=self.client.topic, partitions=(part,)),)
        answer = await link.call("OffsetCommit", self._who(topics=topics), 3.0)
        if self._failed("OffsetCommit", answer.topics[0].partitions[0].error_code):
            return False
        self.ledger.note(f"{self.name} committed {partition}: {offset} at {link.server}")
        self.ledger.committed(partition, offset)
        return True
