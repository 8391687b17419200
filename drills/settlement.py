"""The account of a load from what its clients wrote down, partition by partition: memory holds one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from drills.account import PROBLEMS_MAX, Account, History, Place, add, settle, settle_commits
from drills.client_log import Entries


@dataclass
class LoadLogs:
    """Of one topic. `log`: the final read, from the start to the end of every partition."""

    topic: str
    partitions: int
    acknowledged: Entries
    seen: Entries
    log: Entries
    produced: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    told_committed: Mapping[int, int] = field(default_factory=dict)
    found_committed: Mapping[int, int] = field(default_factory=dict)
    idempotent: bool = True


def settle_load(load: LoadLogs) -> Account:
    """Its problems are empty when every promise held."""
    account = add(_partitions(load))
    totals = settle(History(produced=load.produced, failures=load.failures), {}, [])
    account = add([account, totals])
    problems = settle_commits(_named(load.topic, load.told_committed), _named(load.topic, load.found_committed))
    if load.unanswered:
        problems.append(f"{load.unanswered} records unanswered at the end")
    if not account.acknowledged:
        problems.append("nothing was acknowledged: the drill proves nothing")
    account.problems[:] = [*account.problems, *problems][:PROBLEMS_MAX]
    return account


def _partitions(load: LoadLogs) -> Iterator[Account]:
    for partition in range(load.partitions):
        history = History()
        for place, value in _records(load.topic, partition, load.acknowledged):
            history.acknowledge(place, value)
        for place, value in _records(load.topic, partition, load.seen):
            history.see(place, value)
        log = dict(_records(load.topic, partition, load.log))
        account = settle(history, log, [load.topic] if load.idempotent else [])
        account.problems.extend(_holes(log, partition))
        yield account


def _records(topic: str, partition: int, entries: Entries) -> Iterable[tuple[Place, str]]:
    mine = entries[entries["partition"] == partition]
    columns = (mine["offset"].tolist(), mine["producer"].tolist(), mine["sequence"].tolist())
    for offset, producer, sequence in zip(*columns, strict=True):
        yield (topic, partition, offset), f"{producer}:{sequence}"


def _holes(log: Mapping[Place, str], partition: int) -> list[str]:
    """No record of a load is a control record, and none is compacted away: offsets are dense from 0."""
    offsets = np.array(sorted(offset for _, _, offset in log))
    missing = np.setdiff1d(np.arange(offsets[-1] + 1), offsets) if len(offsets) else offsets
    return [f"partition {partition}: no record at {len(missing)} offsets, first {missing[0]}"] if len(missing) else []


def _named(topic: str, offsets: Mapping[int, int]) -> dict[tuple[str, int], int]:
    return {(topic, partition): offset for partition, offset in offsets.items()}
