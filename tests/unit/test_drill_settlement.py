"""The account of a whole load: each promise that a log breaks is seen, whichever partition breaks it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from drills.client_log import Entries
from drills.settlement import LoadLogs, settle_load
from tests.support.drill_entries import entries, steady

LOG = entries(*steady(0, [1.0, 2.0, 3.0]), *steady(1, [1.5, 2.5]))
WELL = LoadLogs("load", 2, acknowledged=LOG, seen=LOG[:3], log=LOG, produced=5)


def without(log: Entries, partition: int, offset: int) -> Entries:
    return log[(log["partition"] != partition) | (log["offset"] != offset)]


def with_sequence(log: Entries, partition: int, offset: int, sequence: int) -> Entries:
    changed = log.copy()
    changed["sequence"][(log["partition"] == partition) & (log["offset"] == offset)] = sequence
    return changed


def test_a_load_that_lost_nothing_adds_up() -> None:
    account = settle_load(WELL)
    assert account.problems == []
    assert (account.produced, account.acknowledged, account.read, account.lost, account.duplicated) == (5, 5, 5, 0, 0)


def test_a_lost_record_is_found_in_its_partition() -> None:
    account = settle_load(replace(WELL, log=without(LOG, 1, 1)))
    assert account.lost == 1 and any("('load', 1, 1)" in problem for problem in account.problems)


def test_a_hole_is_a_problem_also_where_nothing_was_acknowledged() -> None:
    known = without(LOG, 0, 1)
    account = settle_load(replace(WELL, acknowledged=known, seen=entries(), log=known))
    assert account.lost == 0 and any("no record at 1 offsets, first 1" in problem for problem in account.problems)


def test_a_record_twice_is_a_duplicate_only_of_idempotent_producers() -> None:
    twice = np.concatenate([LOG, with_sequence(entries((0, 3, 3.0, 3.1)), 0, 3, 2)])
    assert settle_load(replace(WELL, log=twice)).duplicated == 1
    plain = settle_load(replace(WELL, log=twice, idempotent=False))
    assert (plain.duplicated, plain.repeated, plain.problems) == (0, 1, [])


def test_an_offset_that_showed_a_consumer_another_record_is_a_problem() -> None:
    account = settle_load(replace(WELL, seen=with_sequence(LOG, 1, 0, 7)))
    assert account.lost == 0 and any("once, later" in problem for problem in account.problems)


def test_failures_unanswered_records_and_lost_commits_are_problems() -> None:
    assert settle_load(replace(WELL, failures=Counter({"timed out": 2}))).failed == 2
    assert settle_load(replace(WELL, failures=Counter({"timed out": 2}))).problems
    assert settle_load(replace(WELL, unanswered=1)).problems
    assert settle_load(replace(WELL, told_committed={0: 3, 1: 2}, found_committed={0: 3})).problems
    assert not settle_load(replace(WELL, told_committed={0: 3}, found_committed={0: 3, 1: 1})).problems


def test_a_load_that_proved_nothing_is_a_problem() -> None:
    empty = entries()
    assert settle_load(LoadLogs("load", 2, acknowledged=empty, seen=empty, log=empty)).problems
