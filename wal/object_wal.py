"""A write-ahead log in an object store (the `WriteAheadLog` seam): lifecycle.

Owns: the order lock → recover → start → append / trim → close; what of older node epochs is still there.
Does not own: the pipeline (object_sequencer.py), one PUT (object_put.py), the seal (object_seal.py), reading
(object_reader.py).
Invariant: before a record of an older node epoch is handed out, that epoch is sealed, so that no late PUT changes what
the log was; so what keeps another process out is not a lock but the seal: whoever has the higher node epoch writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing
from random import Random

import structlog

from s3stream.errors import AlreadyExists, BadSetting, Corrupt, Fenced, Unavailable
from s3stream.metrics import Metrics
from s3stream.seams import Clock, ObjectStore, WalListener
from s3stream.tasks import Tasks
from s3stream.types import StreamBatch, StreamId, WalDamage, WalPosition
from wal.object_format import Kind, Writer, encode_mark
from wal.object_metrics import ObjectWalMetrics
from wal.object_names import EpochLog, LogName
from wal.object_pace import HedgePolicy
from wal.object_put import PutTools, is_own
from wal.object_reader import LogReader
from wal.object_seal import ATTEMPTS_MAX, Patient, Sealer
from wal.object_sequencer import Sequencer
from wal.object_settings import ObjectWalSettings
from wal.object_trim import Janitor, RetainedObjects

log = structlog.get_logger(__name__)


class ObjectWal:
    def __init__(
        self, uri: str, store: ObjectStore, name: LogName, *, settings: ObjectWalSettings, clock: Clock,
        metrics: Metrics, chance: Random,
    ) -> None:  # fmt: skip
        """`store` stays the caller's to close. `uri` is how this log is named to others."""
        self.uri = uri
        self.bytes_max = settings.bytes_max
        self.damaged: dict[StreamId, WalDamage] = {}
        """After `recover`: the streams whose records it could not give (`DamagedByStream`)."""
        self._store = store
        self._name = name
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._tasks = Tasks()
        self._retained = RetainedObjects()
        self._metrics = ObjectWalMetrics(
            metrics,
            lambda: self.bytes_retained,
            lambda: 0 if self._sequencer is None else self._sequencer.in_flight,
            lambda: 0 if self._sequencer is None else self._sequencer.oldest_put_seconds(),
        )
        self._janitor = Janitor(store, name, self._metrics)
        self._node_epoch: int | None = None
        self._newest: int | None = None
        """Newest node epoch that has written here; None: none has."""
        self._end: WalPosition | None = None
        """Of what was recovered."""
        self._sequencer: Sequencer | None = None
        self._idle = asyncio.Event()
        self._cleaning: asyncio.Task[None] | None = None

    async def lock(self) -> None:
        """Prove that the store lets one of two writers win. There is nothing to hold: see the invariant."""
        await self._store.check()

    def registered(self, node_epoch: int) -> None:
        """The metadata has granted this node epoch (`FencedByEpoch`): a newer one's log is left alone."""
        self._node_epoch = node_epoch

    async def recover(self, trim: WalPosition) -> AsyncIterator[Sequence[StreamBatch]]:
        assert self._sequencer is None, "recover before start"
        sealer = Sealer(self._store, self._name, self._clock, self._chance)
        granted = self._node_epoch
        try:
            logs = await sealer.seal_listed(trim, None if granted is None else granted - 1)
        except Corrupt as error:
            raise _left_alone(error) from error
        if granted is not None and sealer.newest is not None and sealer.newest >= granted:
            raise self._not_ours(sealer.newest, granted)
        reader = LogReader(self._store, self._name, logs, trim, self._settings, self._clock, self._chance, self._tasks)
        self.damaged = reader.damaged
        try:
            async with aclosing(reader.objects()) as objects:
                async for found in objects:
                    self._retained.add(found.node_epoch, found.number, found.end_position, found.size)
                    if found.batches:
                        yield found.batches
        except Corrupt as error:
            raise _left_alone(error) from error
        for node_epoch, number in reader.obsolete:
            self._janitor.owe(node_epoch, number)
        self._note_end(logs, trim)

    def _note_end(self, logs: Sequence[EpochLog], trim: WalPosition) -> None:
        newest = logs[-1].seal if logs else None
        if newest is None:
            # A log that begins here, after whatever held the records below the trim.
            self._end = trim
            return
        self._newest = newest.node_epoch
        self._end = newest.end_position

    async def start(self, node_epoch: int, listener: WalListener) -> None:
        assert self._end is not None, "recover to the end before start"
        assert self._sequencer is None, "started once"
        if self._newest is not None and node_epoch <= self._newest:
            raise self._not_ours(self._newest, node_epoch)
        writer = Writer(self._name.node_id, node_epoch, self._chance.getrandbits(64))
        await self._open(writer, self._end)
        tools = PutTools(
            self._store, self._clock, self._chance, self._tasks, self._metrics,
            HedgePolicy(self._settings.hedge_share), self._settings.put_price_usd_per_million,
        )  # fmt: skip
        self._sequencer = Sequencer(
            self._name, writer, 1, self._end, listener, self._settings, tools, self._metrics, self._retained,
            self._idle.set,
        )  # fmt: skip
        self._clean()
        log.info("WAL open", uri=self.uri, position=self._end, node_epoch=node_epoch)

    def _not_ours(self, found: int, granted: int) -> BadSetting:
        return BadSetting(
            f"wal: {self.uri} was written under node epoch {found}, the metadata granted {granted}: a newer process of "
            "this node runs, or the metadata was restored from a backup"
        )

    async def _open(self, writer: Writer, position: WalPosition) -> None:
        """Number 0: from here on this node epoch has a writer, and whoever lists the log sees it. Raises Unavailable
        (it may be there: another node epoch is needed), Fenced when the epoch was sealed or begun by another."""
        mark = encode_mark(Kind.OPEN, writer, 0, position)
        key = self._name.key(writer.node_epoch, 0)
        patient = Patient(self._clock, self._chance)
        for _ in range(ATTEMPTS_MAX):
            try:
                await patient.ask(lambda: self._store.create(key, mark.buffers))
                break
            except AlreadyExists:
                if await is_own(self._store, key, mark.header):
                    break
        else:
            raise Unavailable(f"WAL object {key} is said to exist, and cannot be read")
        # Of no size: the bound is for what a trim can free, and this stays while it is the newest.
        self._retained.add(writer.node_epoch, 0, position, 0)

    def append(self, batch: StreamBatch) -> WalPosition:
        assert self._sequencer is not None, "start before append"
        return self._sequencer.append(batch)

    async def trim(self, position: WalPosition) -> None:
        """Counted as free at once; the objects are deleted behind the caller's back."""
        assert self._sequencer is not None, "start before trim"
        for gone in self._retained.trim(min(position, self._sequencer.durable_end)):
            self._janitor.owe(gone.node_epoch, gone.number)
        self._clean()

    def _clean(self) -> None:
        if self._janitor.due and (self._cleaning is None or self._cleaning.done()):
            self._cleaning = self._tasks.spawn(self._janitor.run(), "trim WAL")

    async def repair(self) -> None:
        """Nothing here fails and can be mended: a PUT is repeated for as long as it takes (CORRECTNESS 5)."""
        assert self._sequencer is not None, "start before repair"
        failure = self._sequencer.failure
        if isinstance(failure, Fenced):
            raise Fenced(*failure.args)
        if failure is not None:
            raise Unavailable(*failure.args)

    @property
    def never_started(self) -> bool:
        return self._end is not None and self._newest is None

    @property
    def next_position(self) -> WalPosition:
        return self._sequencer.next_position if self._sequencer is not None else self._end or 0

    @property
    def bytes_retained(self) -> int:
        return self._sequencer.retained if self._sequencer is not None else self._retained.bytes

    async def close(self) -> None:
        """Waits for as long as the store keeps queued records waiting; cancelled, what was not acknowledged is lost or
        not, as after a kill."""
        sequencer = self._sequencer
        try:
            if sequencer is not None:
                sequencer.finish()
                while not sequencer.idle:
                    self._idle.clear()
                    await self._idle.wait()
                if self._cleaning is not None:
                    await asyncio.wait([self._cleaning], timeout=CLEAN_TIMEOUT_S)
        finally:
            if sequencer is not None:
                sequencer.abandon()
            await self._tasks.close()


def _left_alone(error: Corrupt) -> Corrupt:
    return Corrupt(
        f"{error}. The WAL is left as it is and nothing is served: restore its objects, or see "
        "docs/runbooks/wal-corrupt.md"
    )


CLEAN_TIMEOUT_S = 1.0
"""What a stop waits for deletions under way; the next start finds what is left."""


async def read_streams(
    store: ObjectStore, name: LogName, node_epoch: int, trim: WalPosition, streams: Collection[StreamId],
    *, settings: ObjectWalSettings, clock: Clock, chance: Random, tasks: Tasks, damaged: dict[StreamId, WalDamage],
) -> AsyncGenerator[Sequence[StreamBatch], None]:  # fmt: skip
    """Some streams' records at or above `trim` in the log of a node whose `node_epoch` is sealed, in position order, in
    groups of one object: what a survivor recovers. Reads the slices of these streams alone.

    `damaged` takes the streams whose records could not all be read. Raises Corrupt, and Unavailable, also when
    `node_epoch` is not sealed.
    """
    sealer = Sealer(store, name, clock, chance)
    logs = await sealer.sealed(node_epoch)
    reader = LogReader(store, name, logs, trim, settings, clock, chance, tasks, streams)
    async with aclosing(reader.objects()) as objects:
        async for found in objects:
            if found.batches:
                yield found.batches
    damaged.update(reader.damaged)
