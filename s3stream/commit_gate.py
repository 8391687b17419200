"""Whether the database takes commits, and who may ask it next.

Owns: noticing that it is away and that it is back, the order of attempts meanwhile, the bound on commits side by side.
Does not own: what is committed (flusher.py).
Invariant: while the database is away one commit at a time asks it, each in turn, however many are queued; when it is
back they all go on, a few side by side.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from random import Random

import structlog

from s3stream.backoff import Backoff
from s3stream.errors import Unavailable
from s3stream.limits import COMMITS_IN_FLIGHT_MAX
from s3stream.seams import Clock

log = structlog.get_logger(__name__)


class CommitGate:
    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._slots = asyncio.Semaphore(COMMITS_IN_FLIGHT_MAX)
        self._turn = asyncio.Lock()
        self._backoff = Backoff(random)
        self._gone: asyncio.Future[None] | None = None
        self.away_since_ms: int | None = None
        """Wall clock, of the first commit that had no answer; None while the database answers."""
        self.away_since: float = 0.0
        """The same moment, monotonic."""

    @property
    def away(self) -> bool:
        return self.away_since_ms is not None

    @property
    def away_seconds(self) -> float:
        return self._clock.monotonic() - self.away_since if self.away else 0.0

    @property
    def gone(self) -> asyncio.Future[None]:
        """Done once the database is found to be away."""
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
            if self.away:
                self._gone.set_result(None)
        return self._gone

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Around one attempt at a commit."""
        async with self._slots:
            if not self.away:
                with self._noting():
                    yield
                return
            async with self._turn:
                if self.away:
                    await self._clock.sleep(self._backoff.next())
                with self._noting():
                    yield

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Unavailable:
            self._no_answer()
            raise
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._answered()  # It refused, and so it is there.
            raise
        self._answered()

    def _no_answer(self) -> None:
        if self.away:
            return
        self.away_since_ms = self._clock.now_ms()
        self.away_since = self._clock.monotonic()
        self._backoff = Backoff(self._random)
        log.warning("the database takes no commits: what is uploaded is queued until it does")
        if self._gone is not None:
            self._gone.set_result(None)

    def _answered(self) -> None:
        if self.away:
            log.info("the database takes commits again", seconds_away=round(self.away_seconds, 1))
            self.away_since_ms = self._gone = None
