"""Key → offset of its newest record, in a table of bounded size: what a round of compaction knows of the dirty part.

Owns: the table. Does not own: which records go in (cleaning.py), what a lookup means (batch_filter.py).
Invariant: memory is fixed when the map is made, whatever comes; a key's entry is never lost, and never another key's:
keys are told apart by 128 bits of BLAKE2s, so that two of them are taken for one with a probability below 2^-80 at
ten million keys, and cannot be made to collide by whoever chooses them (Kafka's map uses MD5).

An entry has 24 bytes: hash and offset. A dict of ten million byte strings to integers takes 1.8 GB.
"""

from __future__ import annotations

from array import array
from hashlib import blake2s

ENTRY_BYTES = 24
_HASH_BYTES = 16


class OffsetMap:
    __slots__ = ("_hashes", "_offsets", "_slots", "entries_max", "latest_offset", "size")

    def __init__(self, bytes_max: int, load_factor: float = 0.9) -> None:
        """Room for as many entries as fit `bytes_max`, filled to `load_factor`: at 0.9 a lookup looks at 2.6 slots on
        average where the key is there, and at 10 where it is not."""
        self._slots = _prime_at_most(max(bytes_max // ENTRY_BYTES, 3))
        # Zeroed pages are the system's until they are written: a map that stays small takes little.
        self._hashes = bytearray(self._slots * _HASH_BYTES)
        self._offsets = array("q", bytes(8)) * self._slots
        """Offset plus one; 0: free."""
        self.entries_max = max(int(self._slots * load_factor), 1)
        self.size = 0
        """Entries."""
        self.latest_offset = -1
        """Everything up to here is in the map."""

    @property
    def full(self) -> bool:
        return self.size >= self.entries_max

    def put(self, key: bytes, offset: int) -> None:
        """The newest offset of `key` so far. The map is not `full`, or has the key."""
        digest = blake2s(key, digest_size=_HASH_BYTES).digest()
        slot = self._find(digest)
        if not self._offsets[slot]:
            self._hashes[slot * _HASH_BYTES : (slot + 1) * _HASH_BYTES] = digest
            self.size += 1
        self._offsets[slot] = offset + 1

    def get(self, key: bytes) -> int:
        """-1: not in the map."""
        return self._offsets[self._find(blake2s(key, digest_size=_HASH_BYTES).digest())] - 1

    def _find(self, digest: bytes) -> int:
        """The slot of that hash, or the free one where it belongs. Double hashing over a prime number of slots: every
        slot is looked at before any twice, and one is free, since the load factor is below 1."""
        slots, offsets, hashes = self._slots, self._offsets, self._hashes
        slot = int.from_bytes(digest[:8], "little") % slots
        if not offsets[slot] or hashes[slot * _HASH_BYTES : (slot + 1) * _HASH_BYTES] == digest:
            return slot
        step = 1 + int.from_bytes(digest[8:], "little") % (slots - 1)
        while True:
            slot += step
            if slot >= slots:
                slot -= slots
            if not offsets[slot] or hashes[slot * _HASH_BYTES : (slot + 1) * _HASH_BYTES] == digest:
                return slot


def map_bytes(bytes_max: int, offsets: int) -> int:
    """What a map for at most `offsets` records needs, within `bytes_max`."""
    return min(bytes_max, (offsets * 3 // 2 + 3) * ENTRY_BYTES)


def _prime_at_most(number: int) -> int:
    while not all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
        number -= 1
    return number
