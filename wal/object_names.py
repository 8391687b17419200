"""Names of the object WAL's objects: `<hash>/wal/<cluster>/<node>/<node epoch>/<number>.wal`, and `…/end.wal`.

The hash comes first because stores give each prefix its own request rate; it is of the node, so that one listing
shows a node's whole log. Key order is the log's order. Every writer of one node epoch uses the same keys: of two that
believe they hold it, the store lets one win (docs/decisions/0016).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from crc32c import crc32c

from s3stream.objectstore.faults import listing
from s3stream.seams import ObjectStore
from s3stream.types import WalPosition
from wal.object_format import HEADER_BYTES

_TAIL = re.compile(r"([0-9a-f]{16})/(?:([0-9a-f]{16})|end)\.wal")


class LogName(NamedTuple):
    """One node's log, over all its epochs."""

    cluster_id: str
    node_id: int

    @property
    def prefix(self) -> str:
        name = f"{self.cluster_id}/{self.node_id}"
        return f"{crc32c(name.encode()) & 0xFF:02x}/wal/{name}/"

    def key(self, node_epoch: int, number: int) -> str:
        return f"{self.prefix}{node_epoch:016x}/{number:016x}.wal"

    def end_key(self, node_epoch: int) -> str:
        """Behind every number's key."""
        return f"{self.prefix}{node_epoch:016x}/end.wal"

    def parse(self, key: str) -> tuple[int, int | None] | None:
        """(node epoch, number; None for its end) of a key of this log; None for any other key."""
        match = _TAIL.fullmatch(key.removeprefix(self.prefix))
        if match is None or not key.startswith(self.prefix):
            return None
        return int(match[1], 16), None if match[2] is None else int(match[2], 16)


class Seal(NamedTuple):
    """Where a node epoch's log ends."""

    node_epoch: int
    number: int
    """Recovery ignores objects at or above it."""
    end_position: WalPosition
    """One past the last record."""


@dataclass(slots=True)
class EpochLog:
    """One node epoch's objects, as listed."""

    node_epoch: int
    sizes: dict[int, int] = field(default_factory=dict)
    """By number."""
    ended: bool = False
    """Its end is written down."""
    seal: Seal | None = None

    @property
    def has_records(self) -> bool:
        """Marks are smaller than any object with records."""
        return any(size != HEADER_BYTES for size in self.sizes.values())


async def list_log(store: ObjectStore, name: LogName, from_epoch: int = 0) -> list[EpochLog]:
    """What the store has of a node's log from a node epoch on, oldest first. Raises Unavailable."""
    logs: list[EpochLog] = []
    async with listing(store, name.prefix, f"{name.prefix}{from_epoch:016x}" if from_epoch else "") as infos:
        async for info in infos:
            found = name.parse(info.key)
            if found is None:
                continue
            node_epoch, number = found
            if not logs or logs[-1].node_epoch != node_epoch:
                logs.append(EpochLog(node_epoch))
            if number is None:
                logs[-1].ended = True
            else:
                logs[-1].sizes[number] = info.size
    return logs
