"""Hears of each new cluster image from PostgreSQL, as its transaction commits (LISTEN/NOTIFY).

Owns: one connection of its own, made again for as long as the store is open. Does not own: what is done with a
version. Invariant: nothing is missed: whoever listens again first reads what became of the version meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg import sql, waiting
from psycopg.abc import PQGen

from metadata.limits import SILENCE_SECONDS
from s3stream.backoff import Backoff
from s3stream.metrics import Metrics
from s3stream.seams import Clock

log = structlog.get_logger(__name__)

RV = TypeVar("RV")

_LOOK_SECONDS: Final = 10.0
"""How often a silent connection's socket is looked at. A broken one wakes it."""


class _Connection(psycopg.AsyncConnection[Any]):
    patience: float | None = SILENCE_SECONDS
    """How long an answer may take; None while it only listens, which may be for ever."""

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        # Unlike the driver's own: a cancelled wait leaves at once, and asks no server that may be stopped to cancel.
        return await waiting.wait_async(gen, self.pgconn.socket, _LOOK_SECONDS, self.patience)


class Listener:
    """`listening` says whether pushes arrive: while they do not, somebody has to poll."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        channel: str,
        announce: Callable[[int], None],
        clock: Clock,
        metrics: Metrics,
        chance: random.Random,
    ) -> None:
        self.listening = False
        self._parameters = parameters
        self._channel = channel
        self._announce = announce
        self._clock = clock
        self._random = chance
        self._backoff = Backoff(chance)
        self._pushes = metrics.counter("ponor_metadata_pushes_total", "Versions of the cluster image that were pushed.")
        self._breaks = metrics.counter(
            "ponor_metadata_listener_breaks_total", "Times that the connection which hears pushes was lost or not had."
        )

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError, ValueError) as error:
                log.info("metadata pushes lost, polling", error=" ".join(str(error).split()))
            finally:
                self.listening = False
            self._breaks.inc()
            await self._clock.sleep(self._backoff.next())

    async def _listen(self) -> None:
        connection = await _Connection.connect(autocommit=True, **self._parameters)
        try:
            await connection.execute("SELECT set_config('application_name', 'ponor listener', false)")
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            # After LISTEN: a version made between the two is both read and pushed.
            cursor = await connection.execute("SELECT image_version FROM cluster")
            row = await cursor.fetchone()
            if row is not None:
                self._announce(int(row[0]))
            connection.patience = None
            self.listening = True
            self._backoff = Backoff(self._random)
            async for notification in connection.notifies():
                self._pushes.inc()
                self._announce(int(notification.payload))
        finally:
            await connection.close()
