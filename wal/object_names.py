"""Names of the object WAL's objects: `<hash>/wal/<cluster>/<node>/<node epoch>/<number>.wal`.

The hash comes first because stores give each prefix its own request rate; it is of the node, so that one listing
shows a node's whole log. Key order is the log's order. Every writer of one node epoch uses the same keys: of two that
believe they hold it, the store lets one win (docs/decisions/0016).
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import NamedTuple

from crc32c import crc32c

from s3stream.objectstore.faults import listing
from s3stream.seams import ObjectStore

_TAIL = re.compile(r"([0-9a-f]{16})/([0-9a-f]{16})\.wal")


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

    def parse(self, key: str) -> tuple[int, int] | None:
        """(node epoch, number) of a key of this log; None for any other key."""
        match = _TAIL.fullmatch(key.removeprefix(self.prefix))
        return (int(match[1], 16), int(match[2], 16)) if match is not None and key.startswith(self.prefix) else None


class ListedObject(NamedTuple):
    node_epoch: int
    number: int
    size: int


async def list_log(store: ObjectStore, name: LogName, after: str = "") -> AsyncGenerator[ListedObject, None]:
    """What the store has of a node's log with keys above `after`, in the log's order. Raises Unavailable."""
    async with listing(store, name.prefix, after) as infos:
        async for info in infos:
            found = name.parse(info.key)
            if found is not None:
                yield ListedObject(*found, info.size)
