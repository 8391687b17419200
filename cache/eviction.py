"""Which entry leaves: S3-FIFO (Yang et al., SOSP 2023), with a way out for what is known to be spent.

Pure bookkeeping over keys and sizes. New entries are on probation in a small FIFO; only those asked for again move to
the main one, so that one long scan passes through without pushing out what is used. Keys that left probation unused
are remembered for a while: when they come again, they go straight to main. So do entries that are sure to be wanted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

USES_MAX = 3
"""An entry in main survives this many rounds without being asked for."""
PROBATION_SHARE = 0.25
"""The paper's 0.1 suits caches of one-hit wonders. Here a new block is mostly one that consumers are about to want."""
GHOSTS_MIN = 1_024


class Entry(Generic[K, V]):
    __slots__ = ("home", "size", "uses", "value")

    def __init__(self, value: V, size: int, home: OrderedDict[K, Entry[K, V]]) -> None:
        self.value = value
        self.size = size
        self.uses = 0
        self.home = home
        """The queue it is in."""


class S3Fifo(Generic[K, V]):
    """No bound of its own: whoever holds it calls `evict` until there is room."""

    def __init__(self) -> None:
        self.bytes = 0
        self._entries: dict[K, Entry[K, V]] = {}
        self._probation: OrderedDict[K, Entry[K, V]] = OrderedDict()
        self._main: OrderedDict[K, Entry[K, V]] = OrderedDict()
        self._spent: OrderedDict[K, Entry[K, V]] = OrderedDict()
        self._probation_bytes = 0
        self._ghosts: OrderedDict[K, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.home is self._spent:
            # Another reader wants it after all.
            self._move(key, entry, self._main)
        elif entry.uses < USES_MAX:
            entry.uses += 1
        return entry.value

    def put(self, key: K, value: V, size: int, wanted: bool = False) -> None:
        """Add an entry that is not there. `wanted`: sure to be asked for, so without probation."""
        assert key not in self._entries
        known = key in self._ghosts
        if known:
            del self._ghosts[key]
        home = self._main if known or wanted else self._probation
        entry = Entry(value, size, home)
        entry.uses = int(wanted)
        self._entries[key] = entry
        home[key] = entry
        self.bytes += size
        if home is self._probation:
            self._probation_bytes += size

    def spent(self, key: K) -> None:
        """Evict it first, unless it is asked for before."""
        entry = self._entries.get(key)
        if entry is not None and entry.home is not self._spent:
            self._move(key, entry, self._spent)

    def remove(self, key: K) -> int:
        """Returns the size of what was removed; 0 when it was not there."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return 0
        self._unlink(key, entry)
        self.bytes -= entry.size
        return entry.size

    def evict(self) -> tuple[K, int] | None:
        """Remove one entry; (key, size), or None when there is none."""
        while self._entries:
            if self._spent:
                key = next(iter(self._spent))
                return key, self.remove(key)
            if self._probation and (not self._main or self._probation_bytes >= self.bytes * PROBATION_SHARE):
                key, entry = next(iter(self._probation.items()))
                # Asked for once is how every block begins its life: being read. Asked for again is use.
                if entry.uses > 1:
                    self._move(key, entry, self._main)
                    continue
                self._remember(key)
                return key, self.remove(key)
            key, entry = next(iter(self._main.items()))
            if entry.uses:
                entry.uses -= 1
                self._main.move_to_end(key)
                continue
            return key, self.remove(key)
        return None

    def _move(self, key: K, entry: Entry[K, V], home: OrderedDict[K, Entry[K, V]]) -> None:
        self._unlink(key, entry)
        entry.home = home
        entry.uses = 0
        home[key] = entry

    def _unlink(self, key: K, entry: Entry[K, V]) -> None:
        del entry.home[key]
        if entry.home is self._probation:
            self._probation_bytes -= entry.size

    def _remember(self, key: K) -> None:
        self._ghosts[key] = None
        while len(self._ghosts) > max(GHOSTS_MIN, len(self._entries)):
            self._ghosts.popitem(last=False)
