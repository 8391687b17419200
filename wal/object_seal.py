"""Ends a node epoch's log for good: a seal at the first number that was never written (CORRECTNESS 2, 5, 7).

Owns: where a log begins and ends. Does not own: raising the node epoch and reading the trim, which come first and are
the caller's, in one transaction.

A seal under a number keeps the old owner from ever acknowledging that number, and so every later one. The first seal
above records without a gap is where the log ends; that is then written down once (the END object), for what lies below
may be deleted afterwards.
Invariants: the search begins at the object that holds the trim, for what lies below may have been deleted, number by
number and in any order; the store's answer to a create, never a listing, says that a number was free; nothing of a log
is recovered or deleted on a seal's account before its END is there; seals and ENDs are never deleted; so of any number
of sealers, at any time, all return the same END.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import TypeVar

import structlog

from s3stream.backoff import Backoff
from s3stream.errors import AlreadyExists, Corrupt, NotFound, OutOfRange, Unavailable
from s3stream.seams import Clock, ObjectStore
from s3stream.types import WalPosition
from wal.object_format import HEADER_BYTES, EncodedObject, Kind, ObjectHeader, Writer, decode_header, encode_mark
from wal.object_names import EpochLog, LogName, Seal, list_log

log = structlog.get_logger(__name__)

T = TypeVar("T")

ATTEMPTS_MAX = 12
"""Of one request here, over the store's own: some 30 s. Then Unavailable: whoever seals tries the whole again."""
LOOKS_MAX = 50
"""Listings overtaken by the owner's PUTs and deletions before a sealer gives up for now."""
CHASES_MAX = 2
"""Numbers lost to the owner before it is taken for alive, and its way is barred further on."""
BAR_AHEAD = 64
"""So far above the number that was lost; then twice as far, should the owner be there already."""
UNKNOWN_POSITION: WalPosition = -1


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
            assert logs[-1].seal is not None
            return logs[-1].seal
        end = max((one.seal.end_position for one in logs if one.seal is not None), default=trim)
        # Should somebody begin it at this moment, there is a log to be looked at: then this is not its first number.
        if await self._bar(node_epoch, 0, end):
            return await self._conclude(Seal(node_epoch, 0, end))
        return await self.seal(node_epoch, trim)

    async def seal_listed(self, trim: WalPosition, node_epoch_max: int | None = None) -> list[EpochLog]:
        """End every log that the store has of this node (of no newer epoch than given). Those that may hold records at
        or above `trim`, and the last one in any case, oldest first."""
        for _ in range(LOOKS_MAX):
            older = await self._older(node_epoch_max)
            try:
                for one in older:
                    if one.ended:
                        one.seal = await self._end(one)
                    else:
                        one.seal = await self._seal_one(one, trim, must_reach=trim if one is older[-1] else 0)
                return older
            except Moved:
                continue
        raise Unavailable(f"the WAL of node {self._name.node_id} changes faster than it can be sealed; call again")

    async def sealed(self, node_epoch: int) -> list[EpochLog]:
        """As `seal_listed`, but nothing is sealed here: raises Unavailable when a log up to `node_epoch` is not."""
        older = await self._older(node_epoch)
        if not older or older[-1].node_epoch != node_epoch or not all(one.ended for one in older):
            raise Unavailable(f"the WAL of node {self._name.node_id} is not sealed at node epoch {node_epoch} yet")
        for one in older:
            one.seal = await self._end(one)
        return older

    async def _older(self, node_epoch_max: int | None) -> list[EpochLog]:
        logs = await self._patient.ask(partial(list_log, self._store, self._name))
        self.newest = logs[-1].node_epoch if logs else None
        older = [one for one in logs if node_epoch_max is None or one.node_epoch <= node_epoch_max]
        # One that has ended and holds no records any more is of no interest: there are many of them in time.
        return [one for one in older if not one.ended or one.has_records or one is older[-1]]

    # --- one node epoch ----------------------------------------------------------------------------

    async def _seal_one(self, one: EpochLog, trim: WalPosition, must_reach: WalPosition) -> Seal:
        """Raises Moved: list again, and come back with that."""
        number = await self.first_number(one, trim)
        ahead = 0
        for lost in range(LOOKS_MAX):
            number = await self._end_of_records(one, number)
            end = await self._position_of(one, number, trim)
            if end < must_reach:
                # The records up to the trim were durable: what is missing here was lost, or the listing is wrong.
                raise Corrupt(
                    f"the WAL of node {self._name.node_id} was trimmed to {trim}, but object "
                    f"{self._name.key(one.node_epoch, number)}, at position {end}, is not there: is it the right "
                    "bucket?"
                )
            if await self._bar(one.node_epoch, number, end):
                return await self._conclude(Seal(one.node_epoch, number, end))
            # A record was written first, so it is part of the log. An owner that lives would be chased for ever.
            if lost >= CHASES_MAX and ahead >= 0:
                ahead = 2 * ahead or BAR_AHEAD
                if await self._bar(one.node_epoch, number + ahead, UNKNOWN_POSITION):
                    ahead = -1
            await self._refresh(one)
        raise Moved

    async def _position_of(self, one: EpochLog, number: int, trim: WalPosition) -> WalPosition:
        """Where the log ends if it ends at `number`."""
        if number > 0:
            return (await self.header(one.node_epoch, number - 1)).end_position
        return (await self.header(one.node_epoch, 0)).first_position if one.sizes else trim

    async def _end_of_records(self, one: EpochLog, number: int) -> int:
        """The first number from `number` on that holds no records, as far as the listing knows."""
        while number in one.sizes:
            if one.sizes[number] == HEADER_BYTES and await self._is_seal(one.node_epoch, number):
                break
            number += 1
        return number

    async def first_number(self, one: EpochLog, trim: WalPosition) -> int:
        """The last of the listed numbers that begins at or below `trim`. Nothing from it on was ever deleted."""
        below = one.seal.number if one.seal is not None else None
        # Seals have no position of their own. Number 0 has: it opens the log, unless it seals it.
        numbers = [
            number
            for number in sorted(one.sizes)
            if (below is None or number < below) and (number == 0 or one.sizes[number] != HEADER_BYTES)
        ]
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

    async def _bar(self, node_epoch: int, number: int, position: WalPosition) -> bool:
        """Put a seal under the number. True: it is there, whoever's; False: the owner's object is."""
        key = self._name.key(node_epoch, number)
        mark = self._mark(Kind.SEAL, node_epoch, number, position)
        backoff = Backoff(self._chance)
        for _ in range(LOOKS_MAX):
            try:
                await self._patient.ask(partial(self._store.create, key, mark.buffers))
                return True
            except AlreadyExists:
                pass
            try:
                return (await self._read_header(key)).kind is Kind.SEAL
            except NotFound:
                # Said to exist, and not there: a conflict with a PUT that may yet fail. The number is not known taken.
                await self._clock.sleep(backoff.next())
        raise Unavailable(f"WAL object {key} is said to exist, and cannot be read")

    async def _conclude(self, found: Seal) -> Seal:
        """Write down where the log ends. Whoever did so first was right: a sealer that slept may have found a number
        free that was written, sealed, recovered and deleted meanwhile."""
        mark = self._mark(Kind.END, found.node_epoch, found.number, found.end_position)
        backoff = Backoff(self._chance)
        for _ in range(LOOKS_MAX):
            try:
                await self._patient.ask(partial(self._store.create, self._name.end_key(found.node_epoch), mark.buffers))
                log.info("WAL sealed", node_id=self._name.node_id, **found._asdict())
                return found
            except AlreadyExists:
                pass
            try:
                return await self._written_down(found.node_epoch)
            except NotFound:
                await self._clock.sleep(backoff.next())
        raise Unavailable(f"the end of the WAL of node {self._name.node_id} is said to exist, and cannot be read")

    async def _end(self, one: EpochLog) -> Seal:
        try:
            return await self._written_down(one.node_epoch)
        except NotFound:
            raise Corrupt(f"WAL object {self._name.end_key(one.node_epoch)} is gone: nobody may delete it") from None

    async def _written_down(self, node_epoch: int) -> Seal:
        """Raises NotFound."""
        found = await self._read_header(self._name.end_key(node_epoch))
        return Seal(found.node_epoch, found.number, found.first_position)

    # --- requests ----------------------------------------------------------------------------------

    async def _refresh(self, one: EpochLog) -> None:
        """Raises Moved when there is nothing of it any more, or it has ended."""
        for found in await self._patient.ask(partial(list_log, self._store, self._name, one.node_epoch)):
            if found.node_epoch == one.node_epoch and not found.ended:
                one.sizes = found.sizes
                return
        raise Moved

    async def header(self, node_epoch: int, number: int) -> ObjectHeader:
        """Raises Moved when it has been deleted since it was listed."""
        try:
            return await self._read_header(self._name.key(node_epoch, number))
        except NotFound:
            raise Moved from None

    async def _is_seal(self, node_epoch: int, number: int) -> bool:
        return (await self.header(node_epoch, number)).kind is Kind.SEAL

    async def _read_header(self, key: str) -> ObjectHeader:
        try:
            (data,) = await self._patient.ask(lambda: self._store.get_ranges(key, [(0, HEADER_BYTES)]))
        except OutOfRange:
            raise Corrupt(f"WAL object {key}: too short for one") from None
        return decode_header(data, key)

    def _mark(self, kind: Kind, node_epoch: int, number: int, position: WalPosition) -> EncodedObject:
        return encode_mark(kind, Writer(self._name.node_id, node_epoch, self._incarnation), number, position)
