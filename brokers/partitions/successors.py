"""Partitions that were handed over and whose new leader is not known yet, and who waits to name it to a client.

A client that hears NOT_LEADER_OR_FOLLOWER with the new leader's name (KIP-951) goes there at once; without it, it asks
for metadata that may not know either, and backs off. So such an answer is held until the name is known.
Owns: what is waited for, for how long. Does not own: the answers (handlers), the handing over (manager.py).
Invariants: each waiter is called once, after `PATIENCE_SECONDS` at the latest; a partition that was neither handed over
nor is being opened here is never waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple
from uuid import UUID

from brokers.partitions.waiters import call
from metadata.image import NO_LEADER, ClusterImage
from s3stream.seams import Clock
from s3stream.tasks import Tasks
from s3stream.types import NodeId

PATIENCE_SECONDS: Final = 0.5
"""Closing, opening elsewhere and both images take some 50 ms, ten times that where brokers have far too few cores; a
client that hears nothing for longer is better off with the other requests of its connection answered."""


class Place(NamedTuple):
    topic_id: UUID
    partition: int


class _Waiter:
    __slots__ = ("missing", "then")

    def __init__(self, missing: int, then: Callable[[], None]) -> None:
        self.missing = missing
        self.then = then


class Successors:
    def __init__(self, node_id: NodeId, clock: Clock, tasks: Tasks) -> None:
        self._node_id = node_id
        self._clock = clock
        self._tasks = tasks
        self._expected: dict[Place, list[_Waiter]] = {}
        self._image: ClusterImage | None = None
        self._unnamed: set[Place] = set()
        """Handed over, and led by nobody in any image yet, however long that takes."""

    @property
    def expected(self) -> int:
        """Partitions whose new leader is waited for."""
        return len(self._expected)

    @property
    def unnamed(self) -> int:
        """Partitions that left and that nobody is known to lead."""
        return len(self._unnamed)

    def left(self, places: Collection[Place]) -> None:
        """They serve no more here, and somebody else is about to open them."""
        self._unnamed.update(places)
        self.expect(places)
        if self._image is not None:
            self.look(self._image, places)

    def expect(self, places: Collection[Place]) -> None:
        """Somebody is about to open them: they are being opened here, or `left`."""
        if not places:
            return
        waiting = {place: self._expected.setdefault(place, []) for place in places}
        self._tasks.spawn(self._give_up(waiting), "wait for new leaders")

    async def _give_up(self, waiting: dict[Place, list[_Waiter]]) -> None:
        await self._clock.sleep(PATIENCE_SECONDS)
        # One that was found, and is handed over once more since, has another list.
        self._tell([place for place, waiters in waiting.items() if self._expected.get(place) is waiters])

    def expects(self, place: Place) -> bool:
        """Whether the partition's new leader is waited for."""
        return place in self._expected

    def look(self, image: ClusterImage, changed: Collection[Place] | None = None) -> None:
        """A newer image: it may name leaders. `changed`: of none but these; None: of any."""
        self._image = image
        if changed is None:
            changed = [*self._unnamed, *self._expected]
        waiting = [place for place in changed if place in self._unnamed or place in self._expected]
        self.found([place for place in waiting if self._is_led(place, image)])

    def _is_led(self, place: Place, image: ClusterImage) -> bool:
        """By somebody else; a topic that is gone has nothing to wait for."""
        topic = image.topics_by_id.get(place.topic_id)
        return topic is None or image.leader_of(topic.partitions[place.partition]) not in (NO_LEADER, self._node_id)

    def found(self, places: Collection[Place]) -> None:
        """They are led by somebody, or here again."""
        self._unnamed.difference_update(places)
        self._tell(places)

    def _tell(self, places: Collection[Place]) -> None:
        for place in places:
            for waiter in self._expected.pop(place, ()):
                waiter.missing -= 1
                if not waiter.missing:
                    call(waiter.then)

    def when_known(self, places: Collection[Place], then: Callable[[], None]) -> bool:
        """False: there is nothing to wait for. Else `then` is called when there is nothing any more."""
        queues = [queue for place in set(places) if (queue := self._expected.get(place)) is not None]
        if queues:
            waiter = _Waiter(len(queues), then)
            for queue in queues:
                queue.append(waiter)
        return bool(queues)
