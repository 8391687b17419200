"""A transactional producer of the simulated cluster: begins, writes to some partitions, commits offsets, ends; is
replaced by a successor while it goes on as a zombie. It speaks transaction.version 2 or the protocol before (KIP-890).

As Kafka's clients it tries again what nobody answered, and begins anew when it hears that its transaction is over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kio.schema.errors import ErrorCode

from brokers.protocol.messages import milliseconds
from tests.support.sim.kafka import OF_GROUP, OF_TRANSACTION, Gone, Link, entity
from tests.support.sim.transactions import Transaction
from tests.support.sim.workload import AGAIN, Producer


class Protocol(NamedTuple):
    """Versions of the requests."""

    produce: int
    initialize: int
    end: int
    commit_offsets: int
    adds: bool
    """The client says beforehand where it will write."""
    bumps: bool
    """Each transaction has an epoch of its own."""


NEWEST: Final = Protocol(12, 5, 5, 5, adds=False, bumps=True)
OLDER: Final = Protocol(11, 4, 4, 4, adds=True, bumps=False)

OVER: Final = frozenset({
    ErrorCode.invalid_producer_epoch, ErrorCode.producer_fenced, ErrorCode.invalid_txn_state,
    ErrorCode.transaction_abortable, ErrorCode.invalid_producer_id_mapping,
})  # fmt: skip
LATER: Final = AGAIN | {ErrorCode.concurrent_transactions, ErrorCode.unstable_offset_commit}
TIMEOUTS_MS: Final = (60_000, 60_000, 6_000)


class Over(Exception):
    """The transaction was ended by somebody else."""


class Transactional(Producer):
    def __init__(self, *args: Any, protocol: Protocol) -> None:
        super().__init__(*args, idempotent=True)
        self.protocol = protocol
        self.produce_version = protocol.produce
        self.group = f"offsets-of-{self.name}"
        self._transactional_id = self.name
        self._timeout_ms = self.random.choice(TIMEOUTS_MS)
        self._epoch = -1
        self._offsets: list[Transaction] = []
        """Those that commit an offset, from the newest on that is known to be committed."""

    async def run(self) -> None:
        await self.initialize()
        while not self.stopping:
            await self.pause(0.05, 0.3, 1)
            await self.one()
            if self.random.random() < 0.2:
                await self.look_at_offset()
        await self.look_at_offset()

    async def one(self) -> None:
        self._transaction = transaction = self.ledger.begins(self.name)
        try:
            await self.write(transaction)
            if self.random.random() < 0.15:
                await self.succeed()
            else:
                await self.end(transaction, commit=self.random.random() < 0.75)
        except Over:
            await self.begin_anew(transaction)
        self._transaction = None

    async def write(self, transaction: Transaction) -> None:
        for partition in self.random.sample(range(self.partitions), self.random.randint(1, self.partitions)):
            if self.protocol.adds:
                await self.add(partition)
            await self.deliver(partition, [self.batch(partition) for _ in range(self.random.choice((1, 1, 2)))])
            await self.pause(0.01, 0.3)
        if self.random.random() < 0.5:
            await self.commit_offset(transaction)

    # --- requests --------------------------------------------------------------------------------

    async def ask(
        self, name: str, version: int, request: Any, code_of: Callable[[Any], ErrorCode], group: str | None = None
    ) -> tuple[ErrorCode, Any]:
        """The transaction coordinator, or the group's, until one has an answer."""
        key, key_type = (self.name, OF_TRANSACTION) if group is None else (group, OF_GROUP)
        while True:
            code = None
            try:
                link = await self.client.coordinator(key, key_type)
                if link is not None:
                    answer = await link.call(name, request, self.patience_s, version)
                    code = code_of(answer)
                    self.ledger.note(f"{self.name} {name}: {code.name} by {link.server}")
                    if code not in LATER:
                        return code, answer
            except Gone as error:
                self.ledger.note(f"{self.name} {name}: {error}")
            if code is ErrorCode.concurrent_transactions:
                await self.pause(0.02, 0.1)
            else:
                await self.look_again()

    def _must(self, what: str, code: ErrorCode) -> None:
        """Raises Over."""
        if code in OVER:
            raise Over
        if code is not ErrorCode.none:
            raise self.ledger.violated(f"{self.name}: {what} was answered {code.name}")

    def unexpected(self, what: str, code: ErrorCode) -> None:
        if code in OVER:
            raise Over
        if code is not ErrorCode.concurrent_transactions:
            super().unexpected(what, code)

    async def initialize(self, goes_on: bool = False) -> None:
        """`goes_on`: as the producer that it was (KIP-360); else as another one, that fences it."""
        expected = (self._id, self._epoch) if goes_on else (-1, -1)
        request = entity(
            transactional_id=self.name, transaction_timeout=milliseconds(self._timeout_ms), producer_id=expected[0],
            producer_epoch=expected[1],
        )  # fmt: skip
        code, answer = await self.ask("InitProducerId", self.protocol.initialize, request, _code)
        if goes_on and code in OVER:
            await self.initialize()
            return
        self._must("InitProducerId", code)
        self._is_now(answer)
        transaction = self._transaction
        if transaction is not None and not transaction.asked:
            self.ledger.ended(transaction, committed=False)

    def _is_now(self, answer: Any) -> None:
        now = int(answer.producer_id), int(answer.producer_epoch)
        if now == (self._id, self._epoch):
            raise self.ledger.violated(f"{self.name} was given its epoch once more")
        self._id, self._epoch = now
        self._sequences.clear()
        self.ledger.note(f"{self.name} is {self._id}, epoch {self._epoch}")

    def _identity(self) -> Any:
        return {"transactional_id": self.name, "producer_id": self._id, "producer_epoch": self._epoch}

    async def add(self, partition: int) -> None:
        topics = (entity(name=self.client.topic, partitions=(partition,)),)
        request = entity(
            v3_and_below_transactional_id=self.name, v3_and_below_producer_id=self._id,
            v3_and_below_producer_epoch=self._epoch, v3_and_below_topics=topics,
        )  # fmt: skip
        code, _ = await self.ask("AddPartitionsToTxn", 3, request, _added)
        self._must("AddPartitionsToTxn", code)

    async def commit_offset(self, transaction: Transaction) -> None:
        """The transaction's number, as the offset of partition 0."""
        if self.protocol.adds:
            code, _ = await self.ask("AddOffsetsToTxn", 3, entity(**self._identity(), group_id=self.group), _code)
            self._must("AddOffsetsToTxn", code)
        part = entity(
            partition_index=0, committed_offset=transaction.number, committed_leader_epoch=-1, committed_metadata=""
        )
        request = entity(
            **self._identity(), group_id=self.group, generation_id=-1, member_id="", group_instance_id=None,
            topics=(entity(name=self.client.topic, partitions=(part,)),),
        )  # fmt: skip
        self._offsets.append(transaction)
        code, _ = await self.ask("TxnOffsetCommit", self.protocol.commit_offsets, request, _part_code, self.group)
        self._must("TxnOffsetCommit", code)

    async def end(self, transaction: Transaction, commit: bool) -> None:
        transaction.asked |= commit
        request = entity(**self._identity(), committed=commit)
        code, answer = await self.ask("EndTxn", self.protocol.end, request, _code)
        self._must("EndTxn", code)
        self.ledger.ended(transaction, commit)
        if self.protocol.bumps:
            self._is_now(answer)

    # --- the end of a transaction that is not its producer's ---------------------------------------

    async def begin_anew(self, transaction: Transaction) -> None:
        if not transaction.asked and self.random.random() < 0.5:
            with contextlib.suppress(Over):
                await self.end(transaction, commit=False)
                if not self.protocol.bumps:  # a batch that was refused has used up its numbers (KIP-360)
                    await self.initialize(goes_on=True)
                return
        await self.initialize(goes_on=self.random.random() < 0.5)
        await self.look_at_offset()

    async def succeed(self) -> None:
        """Another producer of the id begins; the one before goes on, and is refused everywhere."""
        partition = self.random.randrange(self.partitions)
        batch, ending = self.batch(partition), entity(**self._identity(), committed=True)
        await self.initialize()
        try:
            found = await self.leader(partition)
            if found is not None:
                answer = await self._send(found[0], partition, batch)
                self._refused("Produce", answer.responses[0].partition_responses[0].error_code, found[0])
            link = await self.client.coordinator(self.name, OF_TRANSACTION)
            if link is not None:
                answer = await link.call("EndTxn", ending, self.patience_s, self.protocol.end)
                self._refused("EndTxn", answer.error_code, link)
        except Gone:
            pass  # whatever was done is seen by readers

    def _refused(self, name: str, code: ErrorCode, link: Link) -> None:
        self.ledger.note(f"{self.name}, fenced, {name}: {code.name} by {link.server}")
        if code is ErrorCode.none:
            raise self.ledger.violated(f"{self.name}: {name} of a fenced producer was carried out by {link.server}")

    # --- what came of it ---------------------------------------------------------------------------

    async def look_at_offset(self) -> None:
        """No transaction is open: the offset is that of the newest committed one that has one."""
        topics = (entity(name=self.client.topic, partition_indexes=(0,)),)
        request = entity(group_id=self.group, topics=topics, require_stable=True)
        code, answer = await self.ask("OffsetFetch", 7, request, _part_code, self.group)
        self._must("OffsetFetch", code)
        offset = answer.topics[0].partitions[0].committed_offset
        self.ledger.note(f"{self.name} has offset {offset}")
        for transaction in self._offsets:
            if transaction.number >= offset:
                self.ledger.judged(transaction, transaction.number == offset, "the committed offset")
        self._offsets = [one for one in self._offsets if one.number >= offset]
        if offset >= 0 and not self._offsets:
            raise self.ledger.violated(f"{self.name}: the offset {offset} is none of its transactions'")


def _code(answer: Any) -> ErrorCode:
    return answer.error_code  # type: ignore[no-any-return]


def _added(answer: Any) -> ErrorCode:
    return answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code  # type: ignore[no-any-return]


def _part_code(answer: Any) -> ErrorCode:
    code = getattr(answer, "error_code", ErrorCode.none)
    return answer.topics[0].partitions[0].error_code if code is ErrorCode.none else code
