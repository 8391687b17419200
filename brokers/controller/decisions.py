"""What the controller decided, each decision one log line (partitions that share one are named together), the last ones
each by itself shown over HTTP.

A decision that stands (a paused broker that keeps its partitions) is said once, and again when it has changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import structlog

from s3stream.seams import Clock

log = structlog.get_logger("brokers.controller")

KEPT: Final = 1_000
"""As many as partitions without load may be on their way at once; some 300 KB."""


class Decisions:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._standing: dict[object, tuple[str, str]] = {}

    def say(self, decision: str, **facts: Any) -> None:
        log.info(decision, **facts)
        self._keep(decision, facts)

    def say_of(self, partitions: Sequence[str], decision: str, **facts: Any) -> None:
        """As `say`, of each of `partitions`. A line for each of thousands would cost the event loop as much as moving
        them."""
        if len(partitions) == 1:
            log.info(decision, partition=partitions[0], **facts)
        else:
            log.info(decision, partitions=list(partitions), **facts)
        for partition in partitions:
            self._keep(decision, {"partition": partition, **facts})

    def alarm(self, decision: str, **facts: Any) -> None:
        """As `say`, for what nobody may overlook."""
        log.error(decision, **facts)
        self._keep(decision, facts)

    def stands(self, about: object, decision: str, reason: str, **facts: Any) -> None:
        """Said when it is new: `about` had another decision or reason before."""
        if self._standing.get(about) == (decision, reason):
            return
        self._standing[about] = (decision, reason)
        log.warning(decision, reason=reason, **facts)
        self._keep(decision, {"reason": reason, **facts})

    def ended(self, about: object) -> None:
        self._standing.pop(about, None)

    def last(self) -> list[dict[str, Any]]:
        """The newest first."""
        return list(reversed(self._kept))

    def _keep(self, decision: str, facts: dict[str, Any]) -> None:
        self._kept.append({"time_ms": self._clock.now_ms(), "decision": decision, **facts})
