"""Faults of a medium, done to the files of a broker that does not run."""

from __future__ import annotations

from pathlib import Path


def flip_bit(path: Path, offset: int) -> None:
    """A second flip undoes the first."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
