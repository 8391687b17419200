"""Keeps libraries out of a broker that others import when they find them, for nothing a broker does."""

from __future__ import annotations

import sys
from typing import Final

UNWANTED: Final = ("hypothesis", "rich")
"""kio imports hypothesis where the tests' requirements are installed: 0.16 s and 20 MiB. structlog imports rich,
which the command line brings, for coloured tracebacks: 0.05 s and 3 MiB."""


def keep_out_unwanted() -> None:
    """Call it before anything heavy is imported, in a process that will be a broker and nothing else."""
    for name in UNWANTED:
        if name not in sys.modules:
            sys.modules[name] = None  # type: ignore[assignment]
