"""Requests that wait for something to happen, and that must end early when the broker drains or the client goes.

Invariant: at most one a connection (a connection's requests other than Produce run one after another).
"""

from __future__ import annotations

from collections.abc import Callable


class LongPolls:
    def __init__(self) -> None:
        self._ends: dict[int, Callable[[], None]] = {}
        self.draining = False
        """No request may begin to wait: answer with what there is."""

    def add(self, connection_id: int, end: Callable[[], None]) -> None:
        """`end` is called when waiting must stop; it answers at once, or does nothing if it has answered."""
        self._ends[connection_id] = end

    def remove(self, connection_id: int) -> None:
        self._ends.pop(connection_id, None)

    def drop(self, connection_id: int) -> None:
        """The client is gone: nobody waits any more."""
        end = self._ends.pop(connection_id, None)
        if end is not None:
            end()

    def drain(self) -> None:
        """Answer everyone who waits, now and from now on."""
        self.draining = True
        while self._ends:
            _, end = self._ends.popitem()
            end()
