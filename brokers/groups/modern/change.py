"""What an operation on a modern group comes to: records, and an answer for when they are durable.

Operations are pure: they read the group and change nothing. A group changes by `replay` of its records alone, here as
when it is loaded, once the log has taken them; `accepted` then does what no record tells (deadlines).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from brokers.coordinators.fields import Record
from brokers.groups.group import Group
from brokers.groups.messages import Effects

A = TypeVar("A")


class ModernKey(NamedTuple):
    """Key of a record of a modern group."""

    kind: int
    """The record type's number (`record_types.py`)."""
    group: str
    item: str = ""
    """Member id, or what else there may be several of in a group."""


class GroupRecord(NamedTuple):
    key: ModernKey
    value: Any
    """Of the record type's own class; None is a tombstone."""


def _nothing() -> Effects | None:
    """Nothing but the records."""


class Change(NamedTuple, Generic[A]):
    answer: A
    records: list[GroupRecord]
    """With `conversion` one batch: all of them count, or none."""
    accepted: Callable[[], Effects | None] = _nothing
    """What `becomes`, where that is a classic group, has to do."""
    becomes: Group | None = None
    """The group itself is another from here on: a new one, or one of another protocol."""
    conversion: Sequence[Record] = ()
    """What `becomes` holds already. Before `records`."""
