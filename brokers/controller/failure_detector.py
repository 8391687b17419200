"""Which brokers are dead, from what the database and the network say. Pure: time comes in as numbers.

Owns: when silence is a death, and when a broken connection is one (CORRECTNESS 19, decision 0103).
Does not own: reading heartbeats (controller.py), connections (probes.py), what follows (takeover.py).
Invariants: nobody is silent for longer than was watched without a break: a reading that failed, or came late, gives
everybody a full lease period. A verdict is only an opinion: the database fences on condition of the heartbeat seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from metadata.cluster_types import NodeBeat
from s3stream.types import NodeId

Incarnation: TypeAlias = tuple[NodeId, int]
"""(node id, node epoch): one life of a broker."""


class Verdict(NamedTuple):
    beat: NodeBeat
    """The last one seen: fencing is on condition that it still is."""
    reason: str


@dataclass(slots=True)
class _Watched:
    beat: NodeBeat
    since: float
    """When the reading was there that first showed this heartbeat: it is at least that old."""
    refused: bool = False
    """Its connection broke and was refused since; a heartbeat that changes takes that back."""


class FailureDetector:
    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._watched: dict[NodeId, _Watched] = {}
        self._refused: set[Incarnation] = set()
        """Heard since the last reading: the reading after it decides, for a last beat may have come in between."""
        self._read_at: float | None = None
        self._asked_at = 0.0

    def interrupted(self) -> None:
        """The database did not answer: from the next reading on everybody has a full lease period."""
        self._read_at = None

    def refused(self, node_id: NodeId, node_epoch: int) -> None:
        """The connection to this incarnation broke, and its host refuses a new one: the process is gone."""
        self._refused.add((node_id, node_epoch))

    def read(self, beats: Sequence[NodeBeat], asked_at: float, read_at: float) -> None:
        """All heartbeats, as one reading shows them that began at `asked_at` and was there at `read_at`."""
        # A controller that was itself held up may have been held up with all others: a machine that was suspended.
        fresh = self._read_at is None or asked_at - self._read_at > self._lease_seconds / 2
        self._asked_at, self._read_at = asked_at, read_at
        watched: dict[NodeId, _Watched] = {}
        for beat in beats:
            known = self._watched.get(beat.node_id)
            if known is None or _life(known.beat) != _life(beat):
                known = _Watched(beat, read_at)
            else:
                if known.beat.heartbeat != beat.heartbeat:
                    known.since, known.refused = read_at, False
                elif fresh:
                    known.since = read_at
                known.beat = beat
            known.refused |= _incarnation(beat) in self._refused
            watched[beat.node_id] = known
        self._watched = watched
        self._refused.clear()

    def dead(self, owners: Collection[Incarnation] = ()) -> list[Verdict]:
        """Those taken for dead by the last reading. `owners`: who has streams open, as the cluster image says; one
        that was signed off (not alive) is judged too when it left some behind."""
        found = []
        for known in self._watched.values():
            beat = known.beat
            if not beat.alive and _incarnation(beat) not in owners:
                continue
            # A broker that stops in an orderly way closes its listener first, and goes on with its work.
            if known.refused and not beat.draining:
                found.append(Verdict(beat, "its connection broke and a new one is refused"))
            elif self._asked_at - known.since >= self._lease_seconds:
                found.append(Verdict(beat, f"no heartbeat for {self._asked_at - known.since:.1f} s"))
        return found

    def absent_seconds(self, node_id: NodeId) -> float:
        """How long the node has been seen without a sign of life; 0 when it was never seen."""
        known = self._watched.get(node_id)
        return 0.0 if known is None else max(0.0, self._asked_at - known.since)


def _incarnation(beat: NodeBeat) -> Incarnation:
    return beat.node_id, beat.node_epoch


def _life(beat: NodeBeat) -> tuple[int, bool]:
    return beat.node_epoch, beat.alive
