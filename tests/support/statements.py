"""Engines of simulated brokers share the SQL that SQLAlchemy has made of statements. Each broker has an engine of its
own, as in its own process, and would compile every statement again in every one of its lives: an eighth of a run.

Invariant: what is shared is a function of the statement alone; connections, transactions and rows are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy.util import LRUCache

from metadata.engine import Engine
from metadata.sqlite import SqliteEngine

T = TypeVar("T")

STATEMENTS_MAX: Final = 1_000
_compiled: Final[LRUCache[Any, Any]] = LRUCache(STATEMENTS_MAX)
_dialects: Final[list[Any]] = []
"""The first engine's, once there is one: what is compiled is known by its dialect."""


def share_statements(engine: Engine) -> None:
    if isinstance(engine, SqliteEngine):
        if not _dialects:
            _dialects.append(engine._reader.dialect)
        for one in (engine._reader, engine._writer):
            one.dialect = _dialects[0]
            one._compiled_cache = _compiled


async def inline(function: Callable[..., T], /, *args: Any) -> T:
    """`run_blocking` of a simulated database that never fails: at once, on the loop."""
    if isinstance(owner := getattr(function, "__self__", None), Engine):
        share_statements(owner)
    return function(*args)
