"""Object ids that this process was given in a block, and has not used.

Owns: how many are fetched. Does not own: the allocator's row (ids.py), the rows of objects (objects.py).
Invariant: an id is handed out once; what becomes of it after that, and of what is left of a block when the process
ends, it is not given again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from metadata.limits import OBJECT_IDS_PER_BLOCK
from s3stream.types import NodeIdentity, ObjectId


class HeldIds:
    def __init__(self, fetch: Callable[[NodeIdentity, int], Awaitable[range]]) -> None:
        """`fetch(node, count)`: a block of the allocator's, in a transaction of its own. Raises as it does."""
        self._fetch = fetch
        self._held: deque[ObjectId] = deque()

    async def take(self, node: NodeIdentity, count: int) -> list[ObjectId]:
        while len(self._held) < count:
            self._held.extend(await self._fetch(node, max(count, OBJECT_IDS_PER_BLOCK)))
        return [self._held.popleft() for _ in range(count)]
