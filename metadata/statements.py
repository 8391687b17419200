"""What statements over many rows share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from metadata.limits import IDS_PER_STATEMENT

T = TypeVar("T")


def parts(items: Iterable[T]) -> Iterator[list[T]]:
    """The items in order, as many at a time as one statement may name."""
    every = list(items)
    for start in range(0, len(every), IDS_PER_STATEMENT):
        yield every[start : start + IDS_PER_STATEMENT]
