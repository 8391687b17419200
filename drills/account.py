"""The account of a drill: what was acknowledged, what was read, what is missing or there twice. Pure.

A record's value is `producer:sequence`; sequences of one producer and partition are dense from 0 in send order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

PROBLEMS_MAX: Final = 20
"""A broken promise is often broken a million times."""

Place = tuple[str, int, int]
"""(topic, partition, offset)"""


@dataclass
class History:
    """What clients saw. Filled by one thread a list; read when they have ended."""

    acknowledged: dict[Place, str] = field(default_factory=dict)
    produced: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """What producers that gave up were told, and how often."""
    seen_live: dict[Place, str] = field(default_factory=dict)
    """What the reader that ran beside the faults saw."""
    changed: list[tuple[Place, str, str]] = field(default_factory=list)
    """An offset that showed two different records: (place, first, second). Must stay empty."""

    committed: dict[tuple[str, int], int] = field(default_factory=dict)
    """Offsets that a group was told are committed; they only rise."""

    def acknowledge(self, place: Place, value: str) -> None:
        self._put(self.acknowledged, place, value)

    def see(self, place: Place, value: str) -> None:
        self._put(self.seen_live, place, value)

    def _put(self, known: dict[Place, str], place: Place, value: str) -> None:
        before = known.setdefault(place, value)
        if before != value:
            self.changed.append((place, before, value))


@dataclass(frozen=True)
class Account:
    """The closing balance. `problems` is empty when every promise held."""

    produced: int
    acknowledged: int
    failed: int
    read: int
    lost: int
    duplicated: int
    """In topics of idempotent producers, where it must be 0."""
    repeated: int
    """In the other topics, where retries may repeat a record."""
    problems: list[str]

    def __str__(self) -> str:
        return (
            f"produced {self.produced}, acknowledged {self.acknowledged}, failed {self.failed}, read {self.read}, "
            f"lost {self.lost}, "
            f"duplicated {self.duplicated} (idempotent), repeated {self.repeated} (not idempotent)"
        )


def settle(history: History, log: Mapping[Place, str], idempotent_topics: Iterable[str]) -> Account:
    """Compare what clients were told with `log`, the final read of every partition from its start."""
    idempotent = set(idempotent_topics)
    problems: list[str] = []
    problems += [f"{place} showed {first!r}, then {second!r}" for place, first, second in history.changed]
    # Faults are shorter than producers are patient.
    problems += [f"{count} records failed for good: {error}" for error, count in history.failures.items()]
    lost = 0
    for place, value in history.acknowledged.items():
        if log.get(place) != value:
            lost += 1
            problems.append(f"acknowledged {value!r} at {place}, found {log.get(place)!r}")
    for place, value in history.seen_live.items():
        if log.get(place) != value:
            problems.append(f"read {value!r} at {place} once, later {log.get(place)!r}")
    duplicated, repeated = _repeats(log, idempotent)
    if duplicated:
        problems.append(f"{duplicated} records twice in topics of idempotent producers")
    problems += _disorder(log)
    return Account(
        produced=history.produced,
        acknowledged=len(history.acknowledged),
        failed=history.failures.total(),
        read=len(log),
        lost=lost,
        duplicated=duplicated,
        repeated=repeated,
        problems=problems[:PROBLEMS_MAX],
    )


def settle_commits(told: Mapping[tuple[str, int], int], found: Mapping[tuple[str, int], int]) -> list[str]:
    """Problems with a group's offsets. One above what was told is a commit whose answer was lost."""
    return [
        f"offset {offset} of {partition} was committed, found {found.get(partition)}"
        for partition, offset in told.items()
        if found.get(partition, -1) < offset
    ]


def _repeats(log: Mapping[Place, str], idempotent: set[str]) -> tuple[int, int]:
    counts = Counter((topic, partition, value) for (topic, partition, _), value in log.items())
    extra = [(topic, count - 1) for (topic, _, _), count in counts.items() if count > 1]
    return (
        sum(count for topic, count in extra if topic in idempotent),
        sum(count for topic, count in extra if topic not in idempotent),
    )


def _disorder(log: Mapping[Place, str]) -> list[str]:
    """First occurrences of one producer's records in one partition must ascend."""
    last: dict[tuple[str, int, str], int] = defaultdict(lambda: -1)
    seen: set[tuple[str, int, str]] = set()
    problems = []
    for topic, partition, offset in sorted(log):
        value = log[topic, partition, offset]
        if (topic, partition, value) in seen:
            continue
        seen.add((topic, partition, value))
        producer, sequence = value.rsplit(":", 1)
        if int(sequence) <= last[topic, partition, producer]:
            problems.append(f"{value!r} at {(topic, partition, offset)} comes after a later record of its producer")
        last[topic, partition, producer] = int(sequence)
    return problems


def add(accounts: Iterable[Account]) -> Account:
    """The account of several logs that share no partition."""
    parts = list(accounts)
    return Account(
        produced=sum(part.produced for part in parts),
        acknowledged=sum(part.acknowledged for part in parts),
        failed=sum(part.failed for part in parts),
        read=sum(part.read for part in parts),
        lost=sum(part.lost for part in parts),
        duplicated=sum(part.duplicated for part in parts),
        repeated=sum(part.repeated for part in parts),
        problems=[problem for part in parts for problem in part.problems][:PROBLEMS_MAX],
    )
