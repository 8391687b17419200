"""Tells the database, again and again, that this broker lives; hears there, or from its own WAL, when it may not.

Invariant: whoever fenced this incarnation is believed once, for good: `fenced` is called exactly once. An outage of
the database fences nobody: the WAL refuses a deposed owner without it.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from metadata.store import Metadata
from s3stream.errors import Fenced, PonorError
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.types import NodeIdentity

log = structlog.get_logger(__name__)


class Heartbeat:
    def __init__(
        self,
        metadata: Metadata,
        clock: Clock,
        metrics: Metrics,
        period_seconds: float,
        wal_fenced: Callable[[], bool],
        fenced: Callable[[str], None],
    ) -> None:
        """`wal_fenced`: whether the WAL or a commit was refused; `fenced(why)`: this incarnation is at its end."""
        self._metadata = metadata
        self._clock = clock
        self._period_seconds = period_seconds
        self._wal_fenced = wal_fenced
        self._fenced = fenced
        self._heard_at: float | None = None
        self._beats = metrics.counter("ponor_heartbeats_total", "Heartbeats that the database has taken.")
        metrics.gauge(
            "ponor_heartbeat_age_seconds", "Time since the database last took a heartbeat.", self.silent_seconds
        )

    def silent_seconds(self) -> float:
        """Since the last heartbeat that is known to have arrived; 0 before the first."""
        return 0.0 if self._heard_at is None else self._clock.monotonic() - self._heard_at

    async def run(self, identity: NodeIdentity) -> None:
        """Until fenced."""
        failing = False
        while True:
            if self._wal_fenced():
                return self._fenced("its WAL belongs to another owner")
            # Before the call: it arrived at this time or later.
            asked_at = self._clock.monotonic()
            try:
                await self._metadata.heartbeat(identity)
            except Fenced as error:
                return self._fenced(str(error))
            except PonorError as error:
                if not failing:
                    log.warning("heartbeats do not reach the database", error=str(error))
                failing = True
            else:
                if failing:
                    log.info("heartbeats reach the database again")
                failing = False
                self._heard_at = asked_at
                self._beats.inc()
            await self._clock.sleep(self._period_seconds)
