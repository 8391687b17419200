"""Logs of a drill's clients, made by hand."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from drills.client_log import ENTRY, Entries


def entries(*lines: tuple[int, int, float, float], producer: int = 0) -> Entries:
    """Of (partition, offset, sent, told); the sequence is the offset. In the order of `told`."""
    rows = [(partition, producer, offset, offset, sent, told) for partition, offset, sent, told in lines]
    return np.array(sorted(rows, key=lambda row: row[5]), ENTRY)


def steady(partition: int, times: Iterable[float], first: int = 0) -> list[tuple[int, int, float, float]]:
    """One record at each time, acknowledged 10 ms later, at offsets from `first`."""
    return [(partition, offset, at, at + 0.01) for offset, at in enumerate(times, first)]
