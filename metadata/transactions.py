"""The course of a transaction: outside the event loop, timed, its outage noticed, watchers woken by what it changed.

Owns: bringing the tables up to date, closing. Does not own: which transactions there are (store.py), the database's own
ways (engine.py).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog
from sqlalchemy.exc import ProgrammingError

from metadata import cluster, migrate, proof
from metadata.engine import Engine, Transaction
from metadata.schema import REVISION
from metadata.seen_file import SeenKeeper
from metadata.watch import Watch
from s3stream.errors import BadSetting, Corrupt, PonorError, RolledBack, Unavailable
from s3stream.metrics import Metrics
from s3stream.seams import Clock, RunBlocking
from s3stream.tasks import Tasks

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def _migrate(tx: Transaction, url: str) -> None:
    """An empty database is no cluster for a broker that has seen one, and an old one is not brought up to date."""
    migrate.migrate(tx, url)
    proof.database(tx)


class Transactions:
    """One database. Its calls are a subclass's."""

    cluster_id: str

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        metrics: Metrics,
        run_blocking: RunBlocking,
        chance: random.Random,
        seen_file: Path | None = None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._metrics = metrics
        self._run = run_blocking
        self._chance = chance
        self._watch = Watch(clock, self._image_version, self._pushed)
        self._listener = engine.listener(self._watch, clock, metrics, chance)
        self._keeper = None if seen_file is None else SeenKeeper(seen_file, engine.history, clock, run_blocking)
        self._tasks: list[asyncio.Task[None]] = []
        self.failure: str | None = None
        """Why the last transaction was not done, when the database did not answer; None when it did."""
        self._answers = metrics.gauge("ponor_metadata_answers", "1 when the database did the last transaction, else 0.")
        self._doubted = metrics.gauge("ponor_metadata_rolled_back", "1 while the database is taken for rolled back.")

        metrics.gauge(
            "ponor_metadata_conflicts", "Transactions that the database rolled back for another's, run again since the "
            "start.", lambda: engine.conflicts,
        )  # fmt: skip

    @property
    def url(self) -> str:
        """As it may be shown: without a password."""
        return self._engine.url

    @property
    def rolled_back(self) -> str | None:
        """What the database lacks that this broker has seen of it: nothing is read or written until it has it again."""
        return self._engine.history.doubt

    async def prepare(self) -> None:
        engine = self._engine
        try:
            if await self._read("check", migrate.stored_revision, engine.url) != REVISION:
                await self._transact("migrate", engine.change_schema, _migrate, engine.url)
            engine.prove = proof.database
            await self._run(engine.tune)
            self.cluster_id = await self._read("check", cluster.cluster_id)
        except (Corrupt, Unavailable, ProgrammingError) as error:
            if isinstance(error, RolledBack):
                raise BadSetting(f"metadata {engine.url}: {error}") from error
            advice = engine.setting_fault(error)
            if advice is None:
                raise
            said = error if isinstance(error, PonorError) else f"metadata {engine.url}: {error.orig}"
            raise BadSetting(f"{' '.join(str(said).split())}; {advice}") from error
        engine.history.saw_cluster(self.cluster_id)

    def start(self, tasks: Tasks) -> None:
        if self._listener is not None:
            self._tasks.append(tasks.spawn(self._listener.run(), "hear metadata pushes"))
        if self._keeper is not None:
            self._tasks.append(tasks.spawn(self._keeper.run(), "remember the metadata seen"))

    def _pushed(self) -> bool:
        return self._listener is not None and self._listener.listening

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._keeper is not None:
            await self._keeper.save()
        await self._run(self._engine.close)

    # --- transactions --------------------------------------------------------------------------

    async def _image_version(self) -> int:
        return await self._read("image_version", cluster.image_version)

    async def _read(self, name: str, fn: Callable[Concatenate[Transaction, P], T], *args: P.args, **_: P.kwargs) -> T:
        result: T = await self._transact(name, self._engine.read, fn, *args)
        return result

    async def _write(self, name: str, fn: Callable[Concatenate[Transaction, P], T], *args: P.args, **_: P.kwargs) -> T:
        result: T
        result, version = await self._transact(name, self._engine.write, fn, *args)
        if version is not None:
            self._watch.announce(version)
        return result

    async def _transact(self, name: str, transact: Callable[..., Any], fn: Callable[..., Any], *args: Any) -> Any:
        began = self._clock.monotonic()
        try:
            result = await self._run(transact, self._clock.now_ms(), self._chance, fn, *args)
        except Unavailable as error:
            # `fn` itself may say so too: then the database did answer.
            if error.__cause__ is not None or isinstance(error, RolledBack):
                self._failed(error)
            if isinstance(error, RolledBack) and self._keeper is not None:
                await self._keeper.save()  # A restart, the operator's first thought, must not forget it.
            raise
        else:
            self.failure = None
            self._answers.set(1)
            return result
        finally:
            self._doubted.set(self.rolled_back is not None)
            self._metrics.histogram(
                "ponor_metadata_transaction_seconds",
                "Time of a metadata transaction, waiting included.",
                operation=name,
            ).observe(self._clock.monotonic() - began)

    def _failed(self, error: Unavailable) -> None:
        if self.failure is None:
            log.warning("metadata database does not answer", error=str(error))
        self.failure = str(error)
        self._answers.set(0)
        self._metrics.counter(
            "ponor_metadata_unavailable_total", "Metadata transactions that the database did not answer."
        ).inc()
