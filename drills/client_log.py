"""What clients write down while a drill runs: one fixed-size entry for each record acknowledged, or read.

Times are CLOCK_MONOTONIC seconds, the same in all processes of a machine. A record's value begins with what identifies
it, so that a log read back tells who sent it, as which number, and when; sequences of one producer and partition are
dense from 0 in send order.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_VALUE: Final = struct.Struct("<IQd")
"""producer, sequence, time it was sent"""
_ENTRY: Final = struct.Struct("<IIQqdd")
ENTRY: Final = np.dtype(
    [
        ("partition", "<u4"), ("producer", "<u4"), ("sequence", "<u8"),
        ("offset", "<i8"), ("sent", "<f8"), ("told", "<f8"),
    ]
)  # fmt: skip
"""`told`: when the client heard of it: the acknowledgement, or the record itself."""
assert ENTRY.itemsize == _ENTRY.size
VALUE_BYTES_MIN: Final = _VALUE.size
_FLUSH_SECONDS: Final = 0.25

Entries = NDArray[Any]
"""One dimension, dtype ENTRY."""


class Sent(NamedTuple):
    producer: int
    sequence: int
    at: float


def pack_value(sent: Sent, size: int) -> bytes:
    return _VALUE.pack(*sent).ljust(size, b".")


def unpack_value(value: bytes) -> Sent:
    return Sent(*_VALUE.unpack_from(value))


class ClientLog:
    """Writes entries to a file. Others see them a moment later, for as long as `tick` is called now and then."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("ab", buffering=1 << 16)
        self._flushed_at = 0.0

    def add(self, partition: int, offset: int, sent: Sent) -> None:
        told = time.monotonic()
        self._file.write(_ENTRY.pack(partition, sent.producer, sent.sequence, offset, sent.at, told))

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._flushed_at > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed_at = now

    def close(self) -> None:
        self._file.close()


def read_entries(paths: Iterable[Path]) -> Entries:
    """All entries of these files, in the order in which the clients heard of them. A file may be growing: an entry
    that is cut is left out."""
    parts = []
    for path in paths:
        data = path.read_bytes() if path.exists() else b""
        parts.append(np.frombuffer(data[: len(data) // ENTRY.itemsize * ENTRY.itemsize], ENTRY))
    found: Entries = np.concatenate(parts) if parts else np.empty(0, ENTRY)
    return found[np.argsort(found["told"], kind="stable")]
