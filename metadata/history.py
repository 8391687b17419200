"""What this broker has seen the database hold: the memory that a rolled-back one is recognised by (CORRECTNESS 8).

Owns: the newest version of the cluster image with its tag, the count of the node's own writes. Does not own: asking
the database (`proof.py`), the copy on disk (`seen_file.py`).
Invariant: only what is known to be committed is remembered, and what is remembered never goes back. A database
loses the end of its history or nothing, so whoever finds the newest thing it saw finds everything before it.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from s3stream.types import NodeId


class Proof(NamedTuple):
    """One version of the cluster image. The tag is random: another history has another one at that version."""

    version: int
    tag: int | None
    """None where a broker of the first schema made the version."""


class NodeWrites(NamedTuple):
    """How many transactions one registration of a node has counted in its WAL row."""

    node_id: NodeId
    node_epoch: int
    incarnation: int
    writes: int


class Seen(NamedTuple):
    cluster_id: str | None = None
    image: Proof | None = None
    node: NodeWrites | None = None


class History:
    """Threads of several transactions tell it what they saw, in any order."""

    def __init__(self) -> None:
        self.seen = Seen()
        """Replaced whole, so that a reader has one consistent state."""
        self.doubt: str | None = None
        """Why the database is taken for a rolled-back one; None once it has shown that it is not."""
        self._lock = threading.Lock()

    def recall(self, seen: Seen) -> None:
        """What an earlier process of this broker knew."""
        with self._lock:
            self.seen = seen

    def saw_cluster(self, cluster_id: str) -> None:
        with self._lock:
            self.seen = self.seen._replace(cluster_id=cluster_id)

    def saw(self, image: Proof | None, node: NodeWrites | None) -> None:
        """A transaction that was committed has read or made this."""
        if image is None and node is None:
            return
        with self._lock:
            before = self.seen
            if image is not None and (before.image is None or image.version > before.image.version):
                self.seen = self.seen._replace(image=image)
            if node is not None and (before.node is None or _order(node) > _order(before.node)):
                self.seen = self.seen._replace(node=node)


def _order(node: NodeWrites) -> tuple[int, int]:
    return node.node_epoch, node.writes
