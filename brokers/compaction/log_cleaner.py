"""Compacts the logs that this broker leads: the dirtiest first, one round after another.

Owns: when a log is looked at, the course of a round, its commits, what is counted. Does not own: records (the worker),
the swap (the metadata), what is retained (LogConfig).
Invariants: a round that breaks off anywhere loses nothing and is simply done again: each commit is a swap of what was
read for what is left of it, and what was uploaded and not committed expires. Traffic never waits for a round. A log
that cannot be compacted is left alone, and costs no other (Kafka's uncleanable partitions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import structlog

from brokers.compaction.batch_filter import LastRecord
from brokers.compaction.dirt import Dirts
from brokers.compaction.gauges import CleanerMetrics
from brokers.compaction.messages import Begin, Output, Rewrite, Rewritten
from brokers.compaction.plan import Dirt, dirtiest, group
from brokers.compaction.process import RoundFailed, Worker, WorkerDied
from brokers.compaction.rounds import ids_needed
from brokers.compaction.transactions import Aborted
from brokers.errors import KafkaError
from brokers.limits import (
    COMPACTED_ABORTS_S,
    COMPACTED_OBJECT_BYTES,
    COMPACTION_DEATHS_MAX,
    COMPACTION_IDLE_S,
    COMPACTION_RANGES_MAX,
)
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.producer_state import AbortedTransaction
from s3stream.errors import Corrupt, Expired, Fenced, NotFound, PonorError
from s3stream.limits import OBJECT_PREPARE_TTL_MS
from s3stream.metrics import Metrics
from s3stream.object_ids import Prepared
from s3stream.seams import Clock
from s3stream.storage import Storage
from s3stream.tasks import Tasks
from s3stream.types import CommittedObject, CommittedRange, ObjectKind, ObjectRange, StreamId

log = structlog.get_logger(__name__)


class CleanerSettings(NamedTuple):
    """As they are now: most can be changed while the broker runs."""

    enabled: bool
    map_bytes: int
    load_factor: float
    bytes_per_second: float
    backoff_ms: int


class LogCleaner:
    def __init__(
        self,
        logs: Callable[[], Iterable[PartitionLog]],
        storage: Storage,
        incarnation: Callable[[], int],
        worker: Worker,
        settings: Callable[[], CleanerSettings],
        clock: Clock,
        tasks: Tasks,
        metrics: Metrics,
    ) -> None:
        self._logs = logs
        self._storage = storage
        self._incarnation = incarnation
        self._worker = worker
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self.metrics = CleanerMetrics(metrics, clock)
        self._dirts = Dirts(storage)
        self._spare: list[Prepared] = []
        """Object ids that a round did not need."""
        self._deaths: dict[PartitionLog, int] = {}
        self._known_since: dict[PartitionLog, float] = {}
        self._empty_since: dict[StreamId, dict[AbortedTransaction, float]] = {}
        """Aborted transactions that were found without records, and when."""
        self._idle_since: float | None = None
        self._started = False

    def start(self) -> None:
        self._started = True
        self._task = self._tasks.spawn(self._run(), "log cleaner")

    async def stop(self) -> None:
        """Whatever is under way is given up; the worker ends."""
        if self._started:
            self._task.cancel()
            await self._worker.stop()

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self._settings().backoff_ms / 1000)
            self.metrics.looked()
            while self._settings().enabled and await self.clean_dirtiest():
                self._idle_since = None
            await self._end_idle_worker()

    async def _end_idle_worker(self) -> None:
        now = self._clock.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= COMPACTION_IDLE_S:
            await self._worker.stop()

    async def clean_dirtiest(self) -> bool:
        """One round for the log that has most to gain; False when none has enough, or it could not be done now."""
        found = dirtiest(await self._measure())
        if found is None:
            return False
        cleaned, dirt = found
        began = self._clock.monotonic()
        try:
            await self._round(cleaned, dirt)
        except (Fenced, NotFound, Expired, KafkaError) as error:
            # Moved, deleted, trimmed, or swapped meanwhile: the next look sees what there is.
            log.info("a round of compaction was given up", partition=cleaned.name, error=str(error))
            return False
        except (Corrupt, RoundFailed) as error:
            self._leave_alone(cleaned, error)
        except WorkerDied as error:
            self.metrics.worker_died()
            self._deaths[cleaned] = self._deaths.get(cleaned, 0) + 1
            log.warning("the compaction worker died", partition=cleaned.name, error=str(error))
            if self._deaths[cleaned] >= COMPACTION_DEATHS_MAX:
                self._leave_alone(cleaned, error)
            return False
        except PonorError as error:
            log.warning("a log was not compacted", partition=cleaned.name, error=str(error))
            return False
        else:
            self._deaths.pop(cleaned, None)
            self.metrics.round_took(self._clock.monotonic() - began)
        return True

    def _leave_alone(self, cleaned: PartitionLog, error: PonorError) -> None:
        self._dirts.leave_alone(cleaned)
        log.error("a partition is not compacted any more until it is opened again", partition=cleaned.name,
                  error=str(error))  # fmt: skip

    async def _measure(self) -> list[tuple[PartitionLog, Dirt]]:
        """Every compacted log that is served here."""
        now_ms = self._clock.now_ms()
        logs = list(self._logs())
        found: list[tuple[PartitionLog, Dirt]] = []
        self._dirts.keep(logs)
        now = self._clock.monotonic()
        self._known_since = {one: self._known_since.get(one, now) for one in logs}
        for one in logs:
            if one.config.compacted and one.refusal is None:
                try:
                    found.append((one, await self._dirts.measure(one, now_ms)))
                except (PonorError, KafkaError) as error:
                    log.warning("a log was not looked at", partition=one.name, error=str(error))
        uncleanable_bytes = sum([dirt.cleanable_bytes for one, dirt in found if self._dirts.is_left_alone(one)])
        self.metrics.measured([dirt for _, dirt in found], self._dirts.left_alone, uncleanable_bytes)
        return [(one, dirt) for one, dirt in found if not self._dirts.is_left_alone(one)]

    # --- a round -------------------------------------------------------------------------------

    async def _round(self, cleaned: PartitionLog, dirt: Dirt) -> None:
        stream, settings = cleaned.stream, self._settings()
        start = cleaned.log_start_offset
        aborted = cleaned.all_aborted()
        ranges = await self._all_ranges(cleaned, dirt.end)
        begun = await self._worker.begin(
            Begin(
                stream.stream_id, stream.epoch, start, dirt.first_dirty, dirt.end, self._clock.now_ms(),
                self._delete_retention_ms(cleaned), settings.map_bytes, settings.load_factor,
                settings.bytes_per_second, [found for found in ranges if found.end > dirt.first_dirty],
                [Aborted(txn.producer_id, txn.first_offset, txn.last_offset) for txn in aborted],
                last_records(cleaned, dirt.end),
            )
        )  # fmt: skip
        self.metrics.map_filled(begun.keys, begun.keys_max)
        if begun.clean_end <= dirt.first_dirty:
            raise RoundFailed(f"log.cleaner.dedupe.buffer.size has no room for the keys of one batch: {begun}")
        observed: set[Aborted] = set()
        for piece in group(
            [found for found in ranges if found.start < begun.clean_end], COMPACTED_OBJECT_BYTES, COMPACTION_RANGES_MAX
        ):
            observed.update(await self._rewrite(cleaned, piece))
        await self._storage.replace_ranges(stream, [], [], begun.clean_end)
        self._forget_aborted(cleaned, aborted, begun.clean_end, observed)
        log.info(
            "compacted", partition=cleaned.name, clean_end=begun.clean_end, end=dirt.end, keys=begun.keys,
            bytes_before=dirt.clean_bytes + dirt.cleanable_bytes, bytes_now=stream.committed_bytes,
        )  # fmt: skip

    def _delete_retention_ms(self, cleaned: PartitionLog) -> int:
        """Who has just opened a log does not know which aborts were forgotten, and by whom they are still counted: what
        it lets go, it lets go when all that anybody knew before has been replaced."""
        age = self._clock.monotonic() - self._known_since[cleaned]
        floor_ms = round(1000 * COMPACTED_ABORTS_S) if age < COMPACTED_ABORTS_S else 0
        return max(cleaned.config.delete_retention_ms, floor_ms)

    async def _all_ranges(self, cleaned: PartitionLog, end: int) -> list[ObjectRange]:
        """Of the log below `end`: some hundred bytes for each 16 MiB, once it was compacted."""
        ranges: list[ObjectRange] = []
        position = cleaned.log_start_offset
        while position < end:
            page = await self._storage.ranges(cleaned.stream, position, COMPACTION_RANGES_MAX)
            if not page:
                break
            ranges += page
            position = page[-1].end
        return [found for found in ranges if found.start < end]

    async def _rewrite(self, cleaned: PartitionLog, piece: list[ObjectRange]) -> list[Aborted]:
        ids = await self._take_ids(ids_needed(piece))
        incarnation = self._incarnation()
        result = await self._worker.rewrite(Rewrite(piece, [(one.object_id, incarnation) for one in ids]))
        self._spare += ids[len(result.outputs) :]
        self.metrics.rewrote(result)
        self._say_odd(cleaned, result)
        if result.outputs:
            outputs = [_committed(output, cleaned) for output in result.outputs]
            if not await self._storage.replace_ranges(cleaned.stream, piece, outputs):
                raise NotFound(f"the ranges of {cleaned.name} were replaced meanwhile")
        return result.aborted_observed

    async def _take_ids(self, count: int) -> list[Prepared]:
        """An id that an upload was begun under is never among them again."""
        usable_ms = self._clock.now_ms() + OBJECT_PREPARE_TTL_MS
        spare = [one for one in self._spare if one.expires_ms >= usable_ms]
        taken, self._spare = spare[:count], spare[count:]
        if len(taken) < count:
            taken += await self._storage.prepare_objects(count - len(taken))
        return taken

    def _say_odd(self, cleaned: PartitionLog, result: Rewritten) -> None:
        if result.without_key or result.batches_unreadable:
            log.warning(
                "records without a key were removed, batches that cannot be read were kept", partition=cleaned.name,
                records=result.without_key, batches=result.batches_unreadable,
            )  # fmt: skip

    def _forget_aborted(
        self, cleaned: PartitionLog, aborted: Sequence[AbortedTransaction], clean_end: int, observed: set[Aborted]
    ) -> None:
        """Readers need not be told of a transaction any more when it has been without records for a while."""
        now = self._clock.monotonic()
        before = self._empty_since.get(cleaned.stream.stream_id, {})
        empty = {
            txn: before.get(txn, now)
            for txn in aborted
            if txn.last_offset < clean_end
            and Aborted(txn.producer_id, txn.first_offset, txn.last_offset) not in observed
        }
        cleaned.forget_aborted([txn for txn, since in empty.items() if now - since >= COMPACTED_ABORTS_S])
        self._empty_since[cleaned.stream.stream_id] = empty
        for stream_id in self._empty_since.keys() - {one.stream.stream_id for one in self._logs()}:
            del self._empty_since[stream_id]


def last_records(cleaned: PartitionLog, end: int) -> dict[int, LastRecord]:
    """Of the producers that the partition knows, those whose newest batch may be in the part that is cleaned."""
    if cleaned.producers is None:
        return {}
    found = {
        producer_id: LastRecord(entry.batches[-1].last_offset if entry.batches else -1, entry.epoch)
        for producer_id, entry in cleaned.producers.entries()
    }
    return {producer_id: last for producer_id, last in found.items() if last.last_offset < end}


def _committed(output: Output, cleaned: PartitionLog) -> CommittedObject:
    stream = cleaned.stream
    only = CommittedRange(stream.stream_id, stream.epoch, output.start, output.end, output.size)
    return CommittedObject(output.ref, ObjectKind.STREAM, [only])
