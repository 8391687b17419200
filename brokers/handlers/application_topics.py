"""Topics of Kafka Streams applications that heartbeats found missing, made for their members (KIP-1071).

Owns: that a topic is asked for once at a time, and not again at once after it was refused; why it was refused, so that
members can be told. Does not own: which topics (groups/streams/configuration.py), how one is made (its caller).
Invariant: nobody waits for it: a member sees that its topics are there in a later heartbeat.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from kio.schema.errors import ErrorCode

from brokers.groups.streams.topology import TopicInfo
from brokers.handlers.admin import fault_of

if TYPE_CHECKING:
    from brokers.handlers.services import Services

REFUSALS_MAX: Final = 1_000
"""Kafka's own bound. Beyond it those that end first are forgotten: their topics are asked for again."""
UNDERWAY_MAX: Final = 10_000
"""What is beyond it waits for a later heartbeat."""


class Made(NamedTuple):
    """What became of one topic."""

    name: str
    code: ErrorCode
    message: str | None


class _Refusal(NamedTuple):
    until: float
    """Monotonic seconds."""
    reason: str


class ApplicationTopics:
    def __init__(self) -> None:
        self._underway: set[str] = set()
        self._refused: dict[str, _Refusal] = {}

    def make(
        self,
        services: Services,
        topics: Sequence[TopicInfo],
        patience_ms: int,
        create: Callable[[Sequence[TopicInfo]], Awaitable[Iterable[Made]]],
    ) -> None:
        """Those that nobody is making yet. One that is refused is not asked for again before `patience_ms` are over."""
        refused = self.refusals(services, (topic.name for topic in topics))
        wanted = [topic for topic in topics if topic.name not in self._underway and topic.name not in refused]
        if not wanted or len(self._underway) + len(wanted) > UNDERWAY_MAX:
            return
        self._underway.update(topic.name for topic in wanted)

        async def making() -> None:
            try:
                made = await create(wanted)
            except Exception as error:
                fault = fault_of(error, "make topics of an application")
                made = [Made(topic.name, *fault) for topic in wanted]
            finally:
                self._underway.difference_update(topic.name for topic in wanted)
            until = services.clock.monotonic() + patience_ms / 1_000
            for name, code, message in made:
                if code is not ErrorCode.none:
                    self._refuse(name, _Refusal(until, message or code.name.upper()))

        services.tasks.spawn(making(), "make topics of an application")

    def refusals(self, services: Services, names: Iterable[str]) -> dict[str, str]:
        """Reasons by name, of those that were refused a short time ago."""
        now = services.clock.monotonic()
        found = {name: self._refused[name] for name in names if name in self._refused}
        return {name: refusal.reason for name, refusal in found.items() if refusal.until > now}

    def _refuse(self, name: str, refusal: _Refusal) -> None:
        self._refused[name] = refusal
        if len(self._refused) > REFUSALS_MAX:
            del self._refused[min(self._refused, key=lambda other: self._refused[other].until)]
