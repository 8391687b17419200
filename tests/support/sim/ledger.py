"""What Kafka clients of one cluster were told, and whether a log could have told it to them.

The promises: a record that was acknowledged is at its offset for ever; one of an idempotent producer is in the log
once, and in the order of its sends; no offset is given twice; a partition's leader epoch has one broker that
acknowledges under it, and epochs go up with offsets; reads are dense, and what was read at an offset is read there
again; committed offsets never go back.

Of transactions: readers of committed records see all of one or nothing of it, in every partition and in the offsets it
commits, and always the same; what they see its producer has asked to commit, and it is what the producer was told
(transactions.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from brokers.records.record import EndMarker
from tests.support.history import Violation
from tests.support.sim.transactions import Transaction


class Sent(NamedTuple):
    producer: str
    partition: int
    number: int
    """Of one producer and partition, ascending."""
    idempotent: bool
    transaction: Transaction | None = None


class Record(NamedTuple):
    offset: int
    leader_epoch: int
    value: bytes
    """Of a marker: which it is."""
    marker: EndMarker | None = None
    visible: bool | None = None
    """Whether a reader of committed records takes it; None: all records were asked for."""


class Ledger:
    def __init__(self) -> None:
        self.trace: list[str] = []
        self.violations: list[Violation] = []
        self.acknowledged: dict[tuple[int, int], bytes] = {}
        """(partition, offset) → value."""
        self.commits = 0
        self.transactions: list[Transaction] = []
        self._sent: dict[bytes, Sent] = {}
        self._seen: dict[tuple[int, int], bytes] = {}
        self._place: dict[bytes, tuple[int, int]] = {}
        """Of idempotent producers' records: the one place where each is."""
        self._answered_by: dict[tuple[int, int], str] = {}
        self._epoch: dict[tuple[int, int], int] = {}
        self._writer: dict[tuple[int, int], str] = {}
        """(partition, leader epoch) → the process that acknowledged under it."""
        self._committed: dict[int, int] = {}
        self.alarm: Callable[[], None] = _nobody

    def note(self, text: str) -> None:
        self.trace.append(f"{asyncio.get_running_loop().time():.6f} {text}")

    def violated(self, text: str) -> Violation:
        """Remember it; the caller raises what is returned."""
        violation = Violation(text)
        self.violations.append(violation)
        self.note(f"VIOLATION {text}")
        self.alarm()
        return violation

    def check(self) -> None:
        if self.violations:
            raise self.violations[0]

    # --- producers -----------------------------------------------------------------------------

    def sends(self, value: bytes, sent: Sent) -> None:
        """Before it leaves: whatever becomes of it, a read may show it."""
        assert value not in self._sent
        self._sent[value] = sent

    def acknowledges(self, partition: int, base_offset: int, values: Sequence[bytes], by: str | None) -> None:
        """`by`: the process whose answer it was, where it is known to have written them: a batch of an idempotent
        producer that was sent again may be acknowledged by a later leader than wrote it."""
        for offset, value in enumerate(values, base_offset):
            at = (partition, offset)
            for known in (self.acknowledged.get(at), self._seen.get(at)):
                if known is not None and known != value:
                    raise self.violated(f"partition {partition}: offset {offset} was given to two records")
            self.acknowledged[at] = value
            if by is not None:
                self._answered_by[at] = by
            self._placed(value, at)
            self._wrote(at)

    def _placed(self, value: bytes, at: tuple[int, int]) -> None:
        sent = self._sent[value]
        if sent.idempotent and self._place.setdefault(value, at) != at:
            raise self.violated(
                f"partition {at[0]}: a record of idempotent {sent.producer} is at {self._place[value][1]} and {at[1]}"
            )

    def _wrote(self, at: tuple[int, int]) -> None:
        """Once both are known: who acknowledged it, and under which leader epoch it lies in the log."""
        by, epoch = self._answered_by.get(at), self._epoch.get(at)
        if by is None or epoch is None:
            return
        writer = self._writer.setdefault((at[0], epoch), by)
        if writer != by:
            raise self.violated(f"partition {at[0]}: {writer} and {by} both acknowledged under leader epoch {epoch}")

    # --- consumers -----------------------------------------------------------------------------

    def reads(self, partition: int, start: int, records: Iterable[Record]) -> int:
        """One answer of a fetch from `start`. Returns where it ends."""
        position = start
        for record in records:
            at = (partition, record.offset)
            if record.offset != position:
                raise self.violated(f"partition {partition}: a gap at {position}, the next record is {record.offset}")
            sent = self._sent.get(record.value)
            if record.marker is None and (sent is None or sent.partition != partition):
                raise self.violated(f"partition {partition}: nobody sent the record at {position}")
            for known in (self._seen.get(at), self.acknowledged.get(at)):
                if known is not None and known != record.value:
                    raise self.violated(f"partition {partition}: offset {position} holds another record than before")
            self._seen[at] = record.value
            if sent is not None:
                self._placed(record.value, at)
                self.judged(sent.transaction, record.visible, f"offset {position} of partition {partition}")
            if self._epoch.setdefault(at, record.leader_epoch) != record.leader_epoch:
                raise self.violated(f"partition {partition}: the leader epoch at {position} changed")
            before = self._epoch.get((partition, position - 1))
            if before is not None and before > record.leader_epoch:
                raise self.violated(f"partition {partition}: leader epochs go down at {position}")
            self._wrote(at)
            position += 1
        return position

    def out_of_range(self, partition: int, offset: int) -> None:
        """A leader of the newest epoch that the client knows says that there is nothing at an offset it came to by
        reading."""
        raise self.violated(f"partition {partition}: {offset} is out of range, all before it was read")

    def whole(self, partition: int, end: int) -> None:
        """A read from 0 to `end`, the high watermark, is done, and nothing was under way."""
        lost = sorted(offset for known, offset in self.acknowledged if known == partition and offset >= end)
        gone = sorted(offset for known, offset in self._seen if known == partition and offset >= end)
        if lost or gone:
            raise self.violated(f"partition {partition} ends at {end}: records at {lost or gone} are gone")
        last: dict[str, int] = {}
        for offset in range(end):
            sent = self._sent.get(self._seen[partition, offset])
            if sent is None:
                continue  # a marker
            if sent.idempotent and last.get(sent.producer, -1) >= sent.number:
                raise self.violated(f"partition {partition}: records of idempotent {sent.producer} changed places")
            last[sent.producer] = sent.number

    def known_end(self, partition: int) -> int:
        """Behind the last record that was acknowledged or read."""
        return max(
            (at[1] + 1 for book in (self.acknowledged, self._seen) for at in book if at[0] == partition), default=0
        )

    # --- transactions --------------------------------------------------------------------------

    def begins(self, producer: str) -> Transaction:
        self.transactions.append(made := Transaction(producer, len(self.transactions)))
        return made

    def ended(self, transaction: Transaction, committed: bool) -> None:
        """Its producer was told so, or that another producer of its id has begun before it asked for a commit."""
        self.note(f"{transaction} is {'committed' if committed else 'aborted'}")
        if transaction.told not in (None, committed):
            raise self.violated(f"{transaction} was told to be committed, and aborted")
        transaction.told = committed
        self.judged(transaction, transaction.seen, "what was read before")

    def judged(self, transaction: Transaction | None, visible: bool | None, where: str) -> None:
        """Readers of committed records see it there, or do not; None: nothing is known."""
        if transaction is None or visible is None:
            return
        fault = transaction.contradicted_by(visible)
        if fault:
            raise self.violated(f"{transaction}: {fault} ({where})")
        transaction.seen = visible

    def all_read(self) -> None:
        """Every partition was read to its end under read_committed, and no transaction is open."""
        for transaction in self.transactions:
            if transaction.told and not transaction.seen:
                raise self.violated(f"{transaction} is committed, and nothing of it can be read")

    # --- groups --------------------------------------------------------------------------------

    def committed(self, partition: int, offset: int) -> None:
        """A commit was acknowledged."""
        self.commits += 1
        self._committed[partition] = max(offset, self._committed.get(partition, 0))

    def newest_commit(self, partition: int) -> int:
        """What an answer to a question that is asked from now on must at least say."""
        return self._committed.get(partition, 0)

    def fetched(self, partition: int, offset: int, at_least: int) -> None:
        if offset < at_least:
            raise self.violated(f"partition {partition}: the committed offset went back from {at_least} to {offset}")


def _nobody() -> None:
    pass
