"""Structured logs of one process: one line per event, console on a terminal, JSON otherwise.

Owns: the form of a line, how often a warning is repeated, and the level, which a running broker can change
(BROKER_LOGGER in AlterConfigs). The level is process-wide on purpose: it belongs to standard error, of which there is
one.
Invariants: a log that cannot be written costs lines, never the work that wanted to say something; a warning that is
left out is counted in the next one of its kind.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, Final, TextIO, cast

import structlog

from s3stream.clock import SystemClock

REPEAT_SECONDS: Final = 60.0
"""A warning of one kind is said at most this often: 432 lines in 72 s, from three brokers without a database, hid all
others."""
REPEAT_KINDS_MAX: Final = 1_000
"""Kinds remembered; the one that was said longest ago is forgotten, and said again."""
WHICH: Final = ("client", "group", "key", "log", "node_epoch", "node_id", "partition", "path", "stream", "what")
"""Fields that say what a warning is about: two partitions' are two kinds. The others say how it is this time."""

RANKS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
KAFKA_LEVELS: Final = {"TRACE": "debug", "DEBUG": "debug", "INFO": "info", "WARN": "warning", "ERROR": "error",
                       "FATAL": "critical"}  # fmt: skip
"""Levels as Kafka's tools name them."""

Event = MutableMapping[str, Any]


class Level:
    """The least level that is logged."""

    def __init__(self, name: str = "info") -> None:
        self.name = name
        self._rank = RANKS[name]

    def set(self, name: str) -> None:
        self._rank = RANKS[name]
        self.name = name

    def filter(self, _logger: object, method: str, event: Event) -> Event:
        if RANKS.get(method, RANKS["error"]) < self._rank:
            raise structlog.DropEvent
        return event

    @property
    def kafka_name(self) -> str:
        return {"warning": "WARN", "critical": "FATAL"}.get(self.name, self.name.upper())


LEVEL: Final = Level()


class Repeats:
    """Lets a warning of one kind (its text, and what it is about) through once in `seconds`, with the number of those
    that were left out since. Errors and everything else pass: they are no repetition, or of no interest."""

    def __init__(self, monotonic: Callable[[], float], seconds: float = REPEAT_SECONDS) -> None:
        self._monotonic = monotonic
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kinds: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()
        """When each was said, and how often it was left out since; the one said last is the last."""

    def filter(self, _logger: object, method: str, event: Event) -> Event:
        if method != "warning":
            return event
        kind = (event.get("event"), *(str(event[name]) for name in WHICH if name in event))
        now = self._monotonic()
        with self._lock:
            said_at, left_out = self._kinds.get(kind, (None, 0))
            if said_at is not None and now - said_at < self._seconds:
                self._kinds[kind] = (said_at, left_out + 1)
                raise structlog.DropEvent
            self._kinds[kind] = (now, 0)
            self._kinds.move_to_end(kind)
            if len(self._kinds) > REPEAT_KINDS_MAX:
                self._kinds.popitem(last=False)
        if left_out:
            event["left_out"] = left_out
        return event


class Lines:
    """A stream that takes lines and never raises: its disk may be full, its reader gone. It says what was lost."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.lost = 0
        """Lines since the last one that could be written."""

    def write(self, text: str) -> int:
        if self.lost:
            # The last one may have been written in part.
            text = f'\n{{"level": "warning", "event": "log lines were lost", "lines": {self.lost}}}\n' + text
        try:
            self._out.write(text)
            self._out.flush()
            self.lost = 0
        except (OSError, ValueError):  # ValueError: closed
            self.lost += 1
        return len(text)

    def flush(self) -> None:
        """Every line is flushed when it is written."""


def configure(
    level: str, form: str, stream: TextIO | None = None, monotonic: Callable[[], float] | None = None
) -> None:
    """`form`: console, json, or auto (console where `stream`, by default standard error, is a terminal)."""
    out = stream or sys.stderr
    LEVEL.set(level)
    console = form == "console" or (form == "auto" and out.isatty())
    structlog.configure(
        processors=[
            LEVEL.filter,
            Repeats(monotonic or SystemClock().monotonic).filter,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *_renderers(console, out),
        ],
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, Lines(out))),
        cache_logger_on_first_use=True,
    )


def _renderers(console: bool, out: TextIO) -> list[Any]:
    if console:
        return [structlog.dev.ConsoleRenderer(colors=out.isatty())]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
