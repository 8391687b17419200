"""A transaction, as its producer and the readers of committed records know it."""

from __future__ import annotations


class Transaction:
    """Readers see all of it or nothing of it. `seen` is what the first of its records that was read says."""

    __slots__ = ("asked", "number", "producer", "seen", "told")

    def __init__(self, producer: str, number: int) -> None:
        self.producer = producer
        self.number = number
        """No other transaction has it."""
        self.asked = False
        """Its producer has begun to ask for its commit."""
        self.told: bool | None = None
        """The outcome that its producer heard of: committed or not."""
        self.seen: bool | None = None

    def __str__(self) -> str:
        return f"transaction {self.number} of {self.producer}"

    def contradicted_by(self, visible: bool) -> str | None:
        """Why a part of it cannot be seen, or not be seen, now."""
        if visible and not self.asked:
            return "nobody asked for its commit, and a part of it is seen"
        if self.seen not in (None, visible):
            return "one part of it is seen, another is not"
        if self.told not in (None, visible):
            return f"its producer heard that it is {'committed' if self.told else 'aborted'}, readers see the contrary"
        return None
