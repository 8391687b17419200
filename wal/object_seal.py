"""Ends a node epoch's log for good: a seal at the first number that was never written (CORRECTNESS 2, 5, 7).

Owns: where a log begins and ends. Does not own: raising the node epoch and reading the trim, which come first and are
the caller's, in one transaction.
Invariants: the search begins at the object that holds the trim, for what lies below may have been deleted, number by
number and in any order; the store's answer to a create, never a listing, says that a number is free; a seal is at a
number whose position is not below the trim; of any number of sealers, at any time, all return the same seal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import NamedTuple, TypeVar

import structlog

from s3stream.backoff import Backoff
from s3stream.errors import AlreadyExists, Corrupt, NotFound, OutOfRange, Unavailable
from s3stream.seams import Clock, ObjectStore
from s3stream.types import WalPosition
from wal.object_format import HEADER_BYTES, Kind, ObjectHeader, Writer, decode_header, encode_mark
from wal.object_names import LogName, list_log

log = structlog.get_logger(__name__)

T = TypeVar("T")

ATTEMPTS_MAX = 12
"""Of one request here, over the store's own: some 30 s. Then Unavailable: whoever seals tries the whole again."""
LOOKS_MAX = 8
"""A listing that was overtaken by deletions is made again so often."""


class Seal(NamedTuple):
    node_epoch: int
    number: int
    """Recovery ignores objects at or above it."""
    end_position: WalPosition
    """One past the last record of this node epoch's log."""


@dataclass(slots=True)
class EpochLog:
    """One node epoch's objects, as listed."""

    node_epoch: int
    sizes: dict[int, int] = field(default_factory=dict)
    """By number."""
    seal: Seal | None = None


class Moved(Exception):
    """The listing is out of date: look again."""


class Patient:
    """Requests repeated, with backoff, while the store does not answer."""

    def __init__(self, clock: Clock, chance: Random) -> None:
        self._clock = clock
        self._chance = chance

    async def ask(self, request: Callable[[], Awaitable[T]]) -> T:
        """Raises Unavailable when it never answers."""
        backoff = Backoff(self._chance)
        for _ in range(ATTEMPTS_MAX - 1):
            try:
                return await request()
            except Unavailable:
                await self._clock.sleep(backoff.next())
        return await request()


class Sealer:
    """Of one node's log."""

    def __init__(self, store: ObjectStore, name: LogName, clock: Clock, chance: Random) -> None:
        self._store = store
        self._name = name
        self._patient = Patient(clock, chance)
        self._clock = clock
        self._chance = chance
        self._incarnation = chance.getrandbits(64)
        self.newest: int | None = None
        """Newest node epoch that the last listing showed."""

    async def seal(self, node_epoch: int, trim: WalPosition) -> Seal:
        """End the log of `node_epoch` and every older one. The metadata has raised the node's epoch already, and
        `trim` is what it had then.

        An epoch that nobody has begun is sealed all the same, at number 0, so that nobody will. Idempotent: by
        whomever it is called again, the same seal is returned. Raises Unavailable (call again), Corrupt.
        """
        logs = await self.seal_listed(trim, node_epoch)
        if logs and logs[-1].node_epoch == node_epoch:
            last = logs[-1].seal
            assert last is not None
            return last
        end = max((one.seal.end_position for one in logs if one.seal is not None), default=trim)
        return await self._place(node_epoch, 0, end)

    async def seal_listed(self, trim: WalPosition, node_epoch_max: int | None = None) -> list[EpochLog]:
        """End every log that the store has of this node (of no newer epoch than given), oldest first."""
        for _ in range(LOOKS_MAX):
            logs = await self._patient.ask(self._list)
            self.newest = logs[-1].node_epoch if logs else None
            older = [one for one in logs if node_epoch_max is None or one.node_epoch <= node_epoch_max]
            try:
                for one in older:
                    if one.seal is None:
                        newest = one is logs[-1]
                        one.seal = await self._seal_one(one, trim, must_reach=trim if newest else 0)
                return older
            except Moved:
                continue
        raise Unavailable(f"the WAL of node {self._name.node_id} changes faster than it can be listed")

    async def sealed(self, node_epoch: int) -> list[EpochLog]:
        """The logs up to `node_epoch`, oldest first, as they were sealed. Raises Unavailable when one is not (yet)."""
        for _ in range(LOOKS_MAX):
            logs = [one for one in await self._patient.ask(self._list) if one.node_epoch <= node_epoch]
            try:
                for one in logs:
                    one.seal = await self._existing(one)
            except Moved:
                continue
            if not logs or logs[-1].node_epoch != node_epoch or any(one.seal is None for one in logs):
                break
            return logs
        raise Unavailable(f"the WAL of node {self._name.node_id} is not sealed at node epoch {node_epoch} yet")

    async def _list(self) -> list[EpochLog]:
        logs: list[EpochLog] = []
        async for found in list_log(self._store, self._name):
            if not logs or logs[-1].node_epoch != found.node_epoch:
                logs.append(EpochLog(found.node_epoch))
            logs[-1].sizes[found.number] = found.size
        return logs

    async def _seal_one(self, one: EpochLog, trim: WalPosition, must_reach: WalPosition) -> Seal:
        existing = await self._existing(one)
        if existing is not None:
            return existing
        number = await self.first_number(one, trim)
        while number in one.sizes:
            number += 1
        end = (await self.header(one.node_epoch, number - 1)).end_position
        if end < must_reach:
            # The records up to the trim were durable: what is missing here was lost, or the listing is not the truth.
            raise Corrupt(
                f"the WAL of node {self._name.node_id} was trimmed to {trim}, but object "
                f"{self._name.key(one.node_epoch, number)}, at position {end}, is not there: is it the right bucket?"
            )
        return await self._place(one.node_epoch, number, end)

    async def _existing(self, one: EpochLog) -> Seal | None:
        """The seal among the listed objects: the highest, see `_place`."""
        for number in sorted(one.sizes, reverse=True):
            # Objects without records are seals and number 0; those with records are larger.
            if one.sizes[number] == HEADER_BYTES:
                header = await self.header(one.node_epoch, number)
                if header.kind is Kind.SEAL:
                    return _seal_of(header)
        return None

    async def first_number(self, one: EpochLog, trim: WalPosition) -> int:
        """The last of the listed numbers that begins at or below `trim`. Nothing from it on was ever deleted."""
        seal = one.seal
        numbers = [number for number in sorted(one.sizes) if seal is None or number < seal.number]
        low, high = 0, len(numbers)
        # Positions grow with numbers, those beyond a hole included: they were given by one writer, once.
        while low < high:
            middle = (low + high) // 2
            if (await self.header(one.node_epoch, numbers[middle])).first_position <= trim:
                low = middle + 1
            else:
                high = middle
        if low:
            return numbers[low - 1]
        if numbers and numbers[0] != 0:
            raise Corrupt(
                f"the WAL of node {self._name.node_id}, node epoch {one.node_epoch}: records from position {trim} on "
                f"are not there, the oldest object is number {numbers[0]}"
            )
        return 0

    async def _place(self, node_epoch: int, number: int, position: WalPosition) -> Seal:
        """Create the seal at the first number from `number` on that is free.

        A sealer that slept since it looked may find free what was written, sealed, recovered and deleted meanwhile.
        Then the true seal is there, at a higher number, and for ever: so after a success it is looked for.
        """
        writer = Writer(self._name.node_id, node_epoch, self._incarnation)
        backoff = Backoff(self._chance)
        while True:
            key = self._name.key(node_epoch, number)
            mark = encode_mark(Kind.SEAL, writer, number, position)
            try:
                await self._patient.ask(partial(self._store.create, key, mark.buffers))
                return await self._won(Seal(node_epoch, number, position))
            except AlreadyExists:
                pass
            try:
                found = await self._read_header(key)
            except NotFound:
                # Said to exist, and not there: a conflict with a PUT that may yet fail. The number is not known taken.
                await self._clock.sleep(backoff.next())
                continue
            if found.kind is Kind.SEAL:
                return _seal_of(found)
            # It was written first, so it is part of the log.
            number, position = number + 1, found.end_position

    async def _won(self, placed: Seal) -> Seal:
        for _ in range(LOOKS_MAX):
            try:
                above = await self._patient.ask(partial(self._seal_above, placed))
            except Moved:
                continue
            if above is None:
                log.info("WAL sealed", node_id=self._name.node_id, **placed._asdict())
            return above or placed
        raise Unavailable(f"the WAL of node {self._name.node_id} changes faster than it can be listed")

    async def _seal_above(self, placed: Seal) -> Seal | None:
        above = EpochLog(placed.node_epoch)
        after = self._name.key(placed.node_epoch, placed.number)
        async with aclosing(list_log(self._store, self._name, after)) as listed:
            async for found in listed:
                if found.node_epoch != placed.node_epoch:
                    break
                above.sizes[found.number] = found.size
        return await self._existing(above)

    async def header(self, node_epoch: int, number: int) -> ObjectHeader:
        """Raises Moved when it has been deleted since it was listed."""
        try:
            return await self._read_header(self._name.key(node_epoch, number))
        except NotFound:
            raise Moved from None

    async def _read_header(self, key: str) -> ObjectHeader:
        try:
            (data,) = await self._patient.ask(lambda: self._store.get_ranges(key, [(0, HEADER_BYTES)]))
        except OutOfRange:
            raise Corrupt(f"WAL object {key}: too short for one") from None
        return decode_header(data, key)


def _seal_of(header: ObjectHeader) -> Seal:
    return Seal(header.node_epoch, header.number, header.first_position)
