"""`ponor drill NAME …`: starts the drills, which stand above the brokers and bring clients, as a program of their own.

Invariant: nothing of the drills or of what they need is imported here: a broker's environment need not have it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

PROGRAM = "drills"


def command(arguments: Sequence[str]) -> list[str] | None:
    """What to run; None when this installation has no drills."""
    if find_spec(PROGRAM) is None:
        return None
    return [sys.executable, "-m", PROGRAM, *arguments]


def become(line: Sequence[str]) -> NoReturn:
    """The drill takes this process's place: signals reach it, and the exit code is its own."""
    sys.stdout.flush()
    os.execv(line[0], list(line))
