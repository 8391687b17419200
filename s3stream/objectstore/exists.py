"""What "already exists" means: nothing, until the key has been read (CORRECTNESS 5).

Some stores answer a conflict between two writers, neither of which has won, as they answer a key that is taken; and
what is there may be our own first attempt, whose answer was lost.
Invariant: a create is a success only when the key holds what was to be created, byte for byte.
"""

from __future__ import annotations

from s3stream.errors import AlreadyExists, NotFound, Unavailable
from s3stream.seams import ObjectStore
from s3stream.types import Buffers


async def create_or_confirm(store: ObjectStore, key: str, data: Buffers) -> None:
    """`store.create`, but a success too when the key holds exactly `data`, whoever's attempt that was.

    Raises AlreadyExists when it holds other bytes. Unavailable also where nothing can be read there: a conflict that
    neither writer has won yet, or an object deleted since. Then: the same attempt again.
    """
    try:
        await store.create(key, data)
    except AlreadyExists:
        if not await _holds(store, key, data):
            raise


async def _holds(store: ObjectStore, key: str, data: Buffers) -> bool:
    try:
        if await store.size(key) != sum(map(len, data)):
            return False
        stored = memoryview(await store.get(key))
    except NotFound:
        raise Unavailable(f"object {key} is said to exist, and cannot be read") from None
    at = 0
    for buffer in data:
        if stored[at : at + len(buffer)] != buffer:
            return False
        at += len(buffer)
    return True
