"""What a broker and its compaction worker say to each other: one question, then one answer, over a pair of pipes.

Owns: the messages and their bytes: a length (u32, big-endian) and a JSON array, its first element the message's name.
Both ends are of one release, since the broker starts the worker; nothing of this is stored.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from brokers.compaction.batch_filter import LastRecord
from brokers.compaction.transactions import Aborted
from s3stream.types import ObjectRange, ObjectRef

LENGTH: Final = struct.Struct(">I")
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""10,000 producers, and as many ranges and aborted transactions as a log may have, are some megabytes."""


class Hello(NamedTuple):
    """The first message: what the worker needs of the broker's settings."""

    object_store_url: str
    block_bytes: int
    block_compression: bool
    log_level: str
    log_format: str


class Begin(NamedTuple):
    """Begin a round: fill the map from the dirty part."""

    stream_id: int
    stream_epoch: int
    log_start: int
    first_dirty: int
    end: int
    """First offset that cannot be cleaned."""
    now_ms: int
    delete_retention_ms: int
    map_bytes: int
    load_factor: float
    bytes_per_second: float
    """Read and written, at most."""
    ranges: list[ObjectRange]
    """That hold the dirty part."""
    aborted: list[Aborted]
    producers: dict[int, LastRecord]


class Begun(NamedTuple):
    clean_end: int
    """The round ends here: at `end`, or where the map was full."""
    keys: int
    keys_max: int
    records: int


class Rewrite(NamedTuple):
    """Filter consecutive ranges of the round's log into new objects. Ranges come in order, from the log start on."""

    ranges: list[ObjectRange]
    ids: list[tuple[int, int]]
    """(object id, incarnation), enough for whatever comes out."""


class Output(NamedTuple):
    ref: ObjectRef
    start: int
    end: int
    size: int
    """Bytes of batches."""


class Rewritten(NamedTuple):
    outputs: list[Output]
    """In the store by now. None: the ranges can stay as they are."""
    bytes_read: int
    bytes_kept: int
    records_read: int
    records_kept: int
    without_key: int
    batches_unreadable: int
    aborted_observed: list[Aborted]
    """Of the aborted transactions, those of which these ranges still hold a batch."""


class Failed(NamedTuple):
    kind: str
    """Name of the error's class."""
    text: str


class Progress(NamedTuple):
    """Said between question and answer, so that a worker that works is not taken for one that hangs."""

    bytes_done: int


Message: TypeAlias = Hello | Begin | Begun | Rewrite | Rewritten | Failed | Progress


def encode(message: Message) -> bytes:
    body = json.dumps([type(message).__name__, *message]).encode()
    return LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Message:
    name, *fields = json.loads(body)
    return _MADE_OF[name](fields)


def _begin(fields: list[Any]) -> Begin:
    *plain, ranges, aborted, producers = fields
    return Begin._make(
        [
            *plain,
            _ranges(ranges),
            [Aborted(*one) for one in aborted],
            {int(producer_id): LastRecord(*last) for producer_id, last in producers.items()},
        ]
    )


def _rewrite(fields: list[Any]) -> Rewrite:
    ranges, ids = fields
    return Rewrite(_ranges(ranges), [(object_id, incarnation) for object_id, incarnation in ids])


def _rewritten(fields: list[Any]) -> Rewritten:
    outputs, *plain, observed = fields
    return Rewritten._make(
        [[Output(ObjectRef(*ref), *rest) for ref, *rest in outputs], *plain, [Aborted(*one) for one in observed]]
    )


def _ranges(fields: list[Any]) -> list[ObjectRange]:
    return [ObjectRange(ObjectRef(*ref), *rest) for ref, *rest in fields]


_MADE_OF: Final[dict[str, Callable[[list[Any]], Message]]] = {
    "Hello": Hello._make,
    "Begin": _begin,
    "Begun": Begun._make,
    "Rewrite": _rewrite,
    "Rewritten": _rewritten,
    "Failed": Failed._make,
    "Progress": Progress._make,
}
