"""The drills' own judge: it must see a loss, a duplicate, a changed record and disorder."""

from drills.account import History, settle, settle_commits


def history(*acknowledged: tuple[int, str]) -> History:
    result = History(produced=len(acknowledged))
    for offset, value in acknowledged:
        result.acknowledge(("t", 0, offset), value)
    return result


def test_a_complete_log_has_no_problems() -> None:
    account = settle(history((0, "p:0"), (1, "p:1")), {("t", 0, 0): "p:0", ("t", 0, 1): "p:1"}, ["t"])
    assert account.problems == []
    assert (account.lost, account.duplicated) == (0, 0)


def test_an_acknowledged_record_that_is_missing_is_lost() -> None:
    assert settle(history((0, "p:0"), (1, "p:1")), {("t", 0, 0): "p:0"}, ["t"]).lost == 1


def test_a_record_at_two_offsets_is_a_duplicate_only_for_idempotent_producers() -> None:
    log = {("t", 0, 0): "p:0", ("t", 0, 1): "p:0"}
    assert settle(history((0, "p:0")), log, ["t"]).duplicated == 1
    plain = settle(history((0, "p:0")), log, [])
    assert (plain.duplicated, plain.repeated, plain.problems) == (0, 1, [])


def test_an_offset_that_shows_two_records_is_a_problem() -> None:
    seen = history((0, "p:0"))
    seen.see(("t", 0, 1), "p:1")
    seen.see(("t", 0, 1), "p:2")
    account = settle(seen, {("t", 0, 0): "p:0", ("t", 0, 1): "p:1"}, ["t"])
    assert any("showed" in problem for problem in account.problems)


def test_a_record_read_once_and_gone_later_is_a_problem() -> None:
    seen = history((0, "p:0"))
    seen.see(("t", 0, 1), "p:1")
    assert settle(seen, {("t", 0, 0): "p:0"}, ["t"]).problems


def test_an_earlier_record_after_a_later_one_is_disorder() -> None:
    assert settle(history(), {("t", 0, 0): "p:1", ("t", 0, 1): "p:0"}, ["t"]).problems


def test_a_committed_offset_may_be_found_higher_and_never_lower_or_not_at_all() -> None:
    told = {("t", 0): 5, ("t", 1): 7, ("t", 2): 9}
    assert settle_commits(told, {("t", 0): 5, ("t", 1): 8, ("t", 2): 9}) == []
    assert len(settle_commits(told, {("t", 0): 4, ("t", 1): 7})) == 2


def test_a_record_that_failed_for_good_is_a_problem() -> None:
    history = History()
    history.failures["timed out"] = 2
    account = settle(history, {}, [])
    assert account.failed == 2 and len(account.problems) == 1
