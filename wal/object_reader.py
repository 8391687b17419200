"""Reads sealed logs back: all of one, or some streams' slices of it (CORRECTNESS 2, 20).

Owns: order, read-ahead, what damage costs. Does not own: where a log ends (object_seal.py).
Invariants: exactly the numbers from the one that holds the trim up to the seal are read, none more and none less;
positions are dense across objects and node epochs; a damaged slice costs its stream alone, a damaged or missing
header costs the log, for nobody knows whose records it held.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection, Sequence
from operator import attrgetter
from random import Random
from typing import NamedTuple

from s3stream.errors import Corrupt, NotFound, OutOfRange, PonorError, Unavailable
from s3stream.limits import READ_GAP_BYTES
from s3stream.seams import Clock, ObjectStore
from s3stream.tasks import Tasks
from s3stream.types import Buffer, StreamBatch, StreamId, WalDamage, WalPosition
from wal.object_format import (
    HEADER_BYTES,
    STREAM_BYTES,
    Kind,
    ObjectHeader,
    Slice,
    decode_header,
    decode_slice,
    decode_slices,
)
from wal.object_names import EpochLog, LogName
from wal.object_seal import Moved, Patient, Sealer
from wal.object_settings import ObjectWalSettings

HEAD_READ_BYTES = HEADER_BYTES + 512 * STREAM_BYTES
"""Read first of an object of which only slices are wanted: the tables of up to 512 streams are in it."""

_by_position = attrgetter("wal_position")


class ReadObject(NamedTuple):
    node_epoch: int
    number: int
    end_position: WalPosition
    size: int
    batches: list[StreamBatch]
    """In position order, at or above the trim; only those of the wanted streams."""


class _Fetched(NamedTuple):
    header: ObjectHeader
    slices: Sequence[tuple[Slice, Buffer]]


class LogReader:
    """One pass over sealed logs, oldest first. `streams`: None is all of them."""

    def __init__(
        self, store: ObjectStore, name: LogName, logs: Sequence[EpochLog], trim: WalPosition,
        settings: ObjectWalSettings, clock: Clock, chance: Random, tasks: Tasks,
        streams: Collection[StreamId] | None = None,
    ) -> None:  # fmt: skip
        assert all(log.seal is not None for log in logs)
        self._store = store
        self._name = name
        self._logs = logs
        self._trim = trim
        self._settings = settings
        self._tasks = tasks
        self._streams = streams
        self._sealer = Sealer(store, name, clock, chance)
        self._patient = Patient(clock, chance)
        self._expected: WalPosition | None = None
        self.damaged: dict[StreamId, WalDamage] = {}
        """Streams of which records cannot be read, and the lowest position that may be one of theirs."""
        self.obsolete: list[tuple[int, int]] = []
        """(node epoch, number) of listed objects that are no part of the log from the trim on. No marks."""

    async def objects(self) -> AsyncGenerator[ReadObject, None]:
        """Raises Corrupt when what was durable is not there or cannot be read, Unavailable."""
        wanted = await self._plan()
        fetching: deque[tuple[EpochLog, int, int, asyncio.Task[_Fetched | PonorError]]] = deque()
        ahead = 0
        try:
            while wanted or fetching:
                while wanted and len(fetching) < self._settings.recovery_gets_max:
                    log, number = wanted[0]
                    size = log.sizes.get(number, self._settings.group_bytes_max)
                    if fetching and ahead + size > self._settings.recovery_read_bytes:
                        break
                    wanted.popleft()
                    ahead += size
                    task = self._tasks.spawn(self._fetch(log, number, size), "read WAL object")
                    fetching.append((log, number, size, task))
                log, number, size, task = fetching.popleft()
                fetched = await task
                ahead -= size
                if isinstance(fetched, PonorError):
                    raise fetched
                yield self._decode(log, number, fetched)
        finally:
            for *_, task in fetching:
                task.cancel()

    async def _plan(self) -> deque[tuple[EpochLog, int]]:
        wanted: deque[tuple[EpochLog, int]] = deque()
        for log in self._logs:
            seal = log.seal
            assert seal is not None
            first = seal.number
            if seal.end_position > self._trim:
                try:
                    first = await self._sealer.first_number(log, self._trim)
                except Moved:
                    raise Unavailable("WAL objects were deleted while they were looked at; start again") from None
                wanted.extend((log, number) for number in range(first, seal.number))
            self.obsolete += [
                (log.node_epoch, number)
                for number, size in log.sizes.items()
                if size != HEADER_BYTES and (number < first or number > seal.number)
            ]
        return wanted

    # --- one object --------------------------------------------------------------------------------

    async def _fetch(self, log: EpochLog, number: int, size: int) -> _Fetched | PonorError:
        """Errors are values here: they are raised when it is the object's turn."""
        key = self._name.key(log.node_epoch, number)
        try:
            if self._streams is None or size <= self._settings.whole_read_bytes or number not in log.sizes:
                return self._split(await self._patient.ask(lambda: self._store.get(key)), key)
            return await self._fetch_slices(key, size)
        except NotFound:
            return Corrupt(f"WAL object {key} is not there, and it was durable: nobody may delete it yet")
        except PonorError as error:
            return error

    def _split(self, data: Buffer, key: str) -> _Fetched:
        header = decode_header(data, key)
        view = memoryview(data)
        slices = decode_slices(view[HEADER_BYTES : HEADER_BYTES + header.table_bytes], header, key)
        return _Fetched(header, [(one, view[one.position : one.end]) for one in slices if self._wants(one)])

    async def _fetch_slices(self, key: str, size: int) -> _Fetched:
        head = await self._range(key, 0, min(size, HEAD_READ_BYTES))
        header = decode_header(head, key)
        table_end = HEADER_BYTES + header.table_bytes
        if table_end > len(head):
            head = await self._range(key, 0, min(size, table_end))
        slices = decode_slices(memoryview(head)[HEADER_BYTES:table_end], header, key)
        mine = [one for one in slices if self._wants(one)]
        found: list[tuple[Slice, Buffer]] = []
        for run in _runs(mine):
            start = run[0].position
            # An object that is cut off has its head, and the slices before the cut.
            data = (
                memoryview(await self._range(key, start, min(run[-1].end, size))) if start < size else memoryview(b"")
            )
            found += [(one, data[one.position - start : one.end - start]) for one in run]
        return _Fetched(header, found)

    async def _range(self, key: str, start: int, end: int) -> Buffer:
        try:
            return (await self._patient.ask(lambda: self._store.get_ranges(key, [(start, end)])))[0]
        except OutOfRange as error:
            raise Corrupt(f"WAL object {key} is shorter than it was when it was listed: {error}") from None

    def _wants(self, one: Slice) -> bool:
        return self._streams is None or one.stream_id in self._streams

    def _decode(self, log: EpochLog, number: int, fetched: _Fetched) -> ReadObject:
        header, key = fetched.header, self._name.key(log.node_epoch, number)
        if header.kind not in (Kind.RECORDS, Kind.OPEN) or (header.node_id, header.node_epoch, header.number) != (
            self._name.node_id, log.node_epoch, number,
        ):  # fmt: skip
            raise Corrupt(
                f"WAL object {key} holds {header.kind.name} {header.number} of node epoch {header.node_epoch}"
            )
        if self._expected not in (None, header.first_position):
            raise Corrupt(f"WAL object {key} begins at position {header.first_position}, not at {self._expected}")
        self._expected = header.end_position
        batches: list[StreamBatch] = []
        for one, data in fetched.slices:
            try:
                batches += decode_slice(data, one, header, key)
            except Corrupt as error:
                if header.end_position > self._trim:
                    damage = WalDamage(max(self._trim, header.first_position), error)
                    self.damaged.setdefault(one.stream_id, damage)
        kept = [batch for batch in batches if batch.wal_position >= self._trim]
        kept.sort(key=_by_position)
        return ReadObject(log.node_epoch, number, header.end_position, header.object_bytes, kept)


def _runs(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices that lie close together are read in one request."""
    runs: list[list[Slice]] = []
    for one in sorted(slices, key=lambda each: each.position):
        if runs and one.position - runs[-1][-1].end <= READ_GAP_BYTES:
            runs[-1].append(one)
        else:
            runs.append([one])
    return runs
