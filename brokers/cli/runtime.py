"""The interpreter and the C allocator, set for a broker: long-lived buffers, few cycles.

Owns: garbage collection thresholds, malloc's thresholds. Neither changes what is right, only what it costs.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

GC_THRESHOLDS: Final = (50_000, 20, 100)
"""Python's default looks at the youngest objects every 700 allocations: thirty small requests. Hardly anything here
is a cycle."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MMAP_THRESHOLD_BYTES: Final = 32 << 20
"""The most that glibc allows. Below it a freed frame's pages are used again; above it each frame is an mmap, whose
every page is faulted in and cleared: 0.1 to 0.2 CPU-seconds a GB at frames of 512 KiB."""
_TRIM_THRESHOLD_BYTES: Final = 256 << 20
REUSE_FROM_BYTES: Final = 1 << 30
"""Memory budgets from here on: pages kept for use again cost a fifth more at the peak (870 against 774 MiB at 512)."""


def tune(memory_bytes: int) -> None:
    """Before anything large is made. `memory_bytes`: the broker's budget."""
    gc.set_threshold(*GC_THRESHOLDS)
    if memory_bytes < REUSE_FROM_BYTES:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library: its own ways
    mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)


def settle() -> None:
    """Once started: what lives now lives as long as the process; collections need not look at it again."""
    gc.collect()
    gc.freeze()


def unsettle() -> None:
    """Before another broker is begun in this process: what the last one was made of may go."""
    gc.unfreeze()
