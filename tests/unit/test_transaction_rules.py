"""What a request may do to a transactional id: Kafka 4.3's answers, case by case."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from brokers.transactions import transaction as rules
from brokers.transactions.records import Status, TransactionValue
from brokers.transactions.transaction import (
    LAST_EPOCH,
    NEEDS_PRODUCER_ID,
    Decision,
    Fence,
    Producer,
    Refuse,
    Reply,
    Store,
    Transaction,
)

NOW = 1_000_000
P = frozenset({("t", 0)})
BASE = TransactionValue(7, 3, 60_000, last_update_ms=NOW - 10, previous_producer_id=7)


def txn(status: Status = Status.EMPTY, epoch: int = 3, **more: object) -> Transaction:
    values = {
        "partitions": P if status in (Status.ONGOING, Status.PREPARE_COMMIT, Status.PREPARE_ABORT) else frozenset()
    }
    return Transaction("x", BASE._replace(status=status, producer_epoch=epoch, **{**values, **more}))


def stored(decision: Decision) -> TransactionValue:
    assert isinstance(decision, Store | Fence), decision
    return decision.value


def init(found: Transaction, expected: Producer | None = None, new_id: int | None = None) -> Decision:
    return rules.initialize(found, 30_000, expected, NOW, new_id)


def end(
    found: Transaction, epoch: int, commit: bool, version: int = 2, new_id: int | None = None, pid: int = 7
) -> Decision:
    return rules.end(found, Producer(pid, epoch), commit, version, NOW, new_id)


class TestInitialize:
    def test_a_new_id_begins_at_epoch_0(self) -> None:
        value = stored(init(Transaction("x", rules.new(7, 30_000, NOW))))
        assert (value.producer_id, value.producer_epoch, value.status) == (7, 0, Status.EMPTY)

    @pytest.mark.parametrize("status", [Status.EMPTY, Status.COMPLETE_COMMIT, Status.COMPLETE_ABORT])
    def test_a_known_one_gets_the_next_epoch(self, status: Status) -> None:
        value = stored(init(txn(status, start_ms=5)))
        assert (value.producer_epoch, value.status, value.timeout_ms, value.start_ms) == (4, Status.EMPTY, 30_000, -1)

    def test_an_ongoing_transaction_is_aborted_first_at_a_higher_epoch(self) -> None:
        decision = init(txn(Status.ONGOING))
        assert isinstance(decision, Fence)
        assert (decision.value.status, decision.value.producer_epoch) == (Status.PREPARE_ABORT, 4)

    def test_while_something_is_on_its_way_others_wait(self) -> None:
        assert init(txn(Status.PREPARE_COMMIT)) == Refuse(ErrorCode.concurrent_transactions)
        busy = txn()
        busy.begin(BASE)
        assert init(busy) == Refuse(ErrorCode.concurrent_transactions)

    def test_epochs_that_run_out_take_a_new_producer_id(self) -> None:
        used_up = txn(epoch=LAST_EPOCH)
        assert init(used_up) is NEEDS_PRODUCER_ID
        value = stored(init(used_up, new_id=9))
        assert (value.producer_id, value.producer_epoch, value.previous_producer_id) == (9, 0, 7)
        assert init(used_up, Producer(7, 5)) == Refuse(ErrorCode.unknown_server_error)

    def test_a_producer_goes_on_after_an_error_and_a_retry_gets_the_same(self) -> None:
        value = stored(init(txn(), Producer(7, 3)))
        assert (value.producer_epoch, value.last_epoch) == (4, 3)
        again = Transaction("x", value)
        assert stored(init(again, Producer(7, 3))).producer_epoch == 4
        assert init(again, Producer(7, 2)) == Refuse(ErrorCode.producer_fenced)
        assert init(again, Producer(8, 4)) == Refuse(ErrorCode.producer_fenced)

    def test_a_retry_across_a_new_producer_id(self) -> None:
        value = stored(init(txn(epoch=LAST_EPOCH), Producer(7, LAST_EPOCH), new_id=9))
        again = Transaction("x", value)
        assert stored(init(again, Producer(7, LAST_EPOCH))).producer_id == 9


class TestAddPartitions:
    def add(self, found: Transaction, epoch: int = 3, pid: int = 7, version: int = 2) -> Decision:
        return rules.add_partitions(found, Producer(pid, epoch), frozenset({("t", 1)}), version, NOW)

    @pytest.mark.parametrize("status", [Status.EMPTY, Status.COMPLETE_COMMIT, Status.COMPLETE_ABORT])
    def test_the_first_one_begins_the_transaction(self, status: Status) -> None:
        value = stored(self.add(txn(status)))
        assert (value.status, value.start_ms, value.partitions, value.client_version) == (
            Status.ONGOING, NOW, {("t", 1)}, 2,
        )  # fmt: skip

    def test_more_are_added_and_the_same_ones_are_there_already(self) -> None:
        value = stored(self.add(txn(Status.ONGOING, start_ms=5)))
        assert (value.start_ms, value.partitions) == (5, {("t", 0), ("t", 1)})
        assert self.add(Transaction("x", value)) == Reply()

    def test_others_are_refused(self) -> None:
        assert self.add(txn(), pid=8) == Refuse(ErrorCode.invalid_producer_id_mapping)
        assert self.add(txn(), epoch=2) == Refuse(ErrorCode.producer_fenced)
        assert self.add(txn(Status.PREPARE_ABORT)) == Refuse(ErrorCode.concurrent_transactions)

    def test_verifying_changes_nothing(self) -> None:
        ongoing = txn(Status.ONGOING)
        asked = [("t", 0), ("t", 1)]
        assert rules.verify(ongoing, Producer(7, 3), asked) == {
            ("t", 0): ErrorCode.none, ("t", 1): ErrorCode.transaction_abortable,
        }  # fmt: skip
        for found, producer, error in (
            (ongoing, Producer(7, 2), ErrorCode.producer_fenced),
            (ongoing, Producer(8, 3), ErrorCode.invalid_producer_id_mapping),
            (txn(Status.PREPARE_COMMIT), Producer(7, 3), ErrorCode.concurrent_transactions),
        ):
            assert set(rules.verify(found, producer, asked).values()) == {error}


NONE, EB, PF, ITS = "none", "bump", ErrorCode.producer_fenced, ErrorCode.invalid_txn_state
KAFKAS_TABLE = [
    (Status.EMPTY, False, "retry", PF), (Status.EMPTY, False, "current", EB),
    (Status.EMPTY, True, "retry", PF), (Status.EMPTY, True, "current", ITS),
    (Status.COMPLETE_ABORT, False, "retry", NONE), (Status.COMPLETE_ABORT, False, "current", EB),
    (Status.COMPLETE_ABORT, True, "retry", ITS), (Status.COMPLETE_ABORT, True, "current", ITS),
    (Status.COMPLETE_COMMIT, False, "retry", ITS), (Status.COMPLETE_COMMIT, False, "current", EB),
    (Status.COMPLETE_COMMIT, True, "retry", NONE), (Status.COMPLETE_COMMIT, True, "current", ITS),
]  # fmt: skip


class TestEnd:
    @pytest.mark.parametrize("commit", [True, False])
    def test_a_transaction_is_decided_and_its_successor_has_the_next_epoch(self, commit: bool) -> None:
        value = stored(end(txn(Status.ONGOING, start_ms=5), 3, commit))
        assert (value.producer_epoch, value.last_epoch, value.start_ms) == (4, 3, 5)
        assert value.status is (Status.PREPARE_COMMIT if commit else Status.PREPARE_ABORT)
        after = rules.completed(value, NOW)
        assert (after.producer_epoch, after.partitions) == (4, frozenset())
        assert after.status is (Status.COMPLETE_COMMIT if commit else Status.COMPLETE_ABORT)

    @pytest.mark.parametrize(("status", "commit", "which", "expected"), KAFKAS_TABLE)
    def test_kafkas_table_of_what_is_not_ongoing(
        self, status: Status, commit: bool, which: str, expected: object
    ) -> None:
        decision = end(txn(status, epoch=4), 3 if which == "retry" else 4, commit)
        if expected == NONE:
            assert decision == Reply(7, 4)
        elif expected == EB:
            value = stored(decision)
            assert (value.status, value.producer_epoch, value.start_ms) == (Status.PREPARE_ABORT, 5, NOW)
        else:
            assert decision == Refuse(expected)  # type: ignore[arg-type]

    def test_a_delayed_end_does_not_touch_the_next_transaction(self) -> None:
        """Its epoch is the transaction before's."""
        assert end(txn(Status.ONGOING, epoch=4), 3, True) == Refuse(ErrorCode.producer_fenced)

    def test_epochs_that_run_out(self) -> None:
        ongoing = txn(Status.ONGOING, epoch=LAST_EPOCH)
        assert end(ongoing, LAST_EPOCH, True) is NEEDS_PRODUCER_ID
        value = stored(end(ongoing, LAST_EPOCH, True, new_id=9))
        assert (value.producer_id, value.producer_epoch, value.next_producer_id) == (7, LAST_EPOCH + 1, 9)
        after = rules.completed(value, NOW)
        assert (after.producer_id, after.producer_epoch, after.previous_producer_id) == (9, 0, 7)
        assert end(Transaction("x", after), LAST_EPOCH, True) == Reply(9, 0)
        assert end(Transaction("x", after), LAST_EPOCH, False) == Refuse(ITS)

    def test_the_older_protocol_keeps_its_epoch_and_knows_no_retry(self) -> None:
        value = stored(end(txn(Status.ONGOING), 3, True, 0))
        assert (value.producer_epoch, value.status) == (3, Status.PREPARE_COMMIT)
        assert end(txn(Status.COMPLETE_COMMIT), 3, True, 0) == Reply()
        assert end(txn(Status.COMPLETE_COMMIT), 3, False, 0) == Refuse(ITS)
        assert end(txn(Status.EMPTY), 3, False, 0) == Refuse(ITS)
        assert end(txn(Status.COMPLETE_COMMIT, epoch=4), 3, True, 0) == Refuse(PF)
        assert end(txn(Status.PREPARE_COMMIT), 3, True, 0) == Refuse(ErrorCode.concurrent_transactions)

    @pytest.mark.parametrize("version", [0, 2])
    def test_another_producer_is_refused(self, version: int) -> None:
        assert end(txn(Status.ONGOING), 3, True, version, pid=8) == Refuse(ErrorCode.invalid_producer_id_mapping)
        busy = txn(Status.ONGOING)
        busy.begin(BASE)
        assert end(busy, 3, True, version) == Refuse(ErrorCode.concurrent_transactions)

    def test_fencing_with_no_epoch_left_keeps_the_last_one(self) -> None:
        broken = txn(Status.ONGOING, epoch=LAST_EPOCH + 1)
        value = stored(rules.fence(broken.value, NOW, 9))
        assert (value.producer_epoch, rules.completed(value, NOW).producer_id) == (LAST_EPOCH + 1, 9)


class TestTime:
    def test_only_an_ongoing_transaction_times_out(self) -> None:
        late = {"start_ms": NOW - 60_001}
        assert rules.is_timed_out(txn(Status.ONGOING, **late), NOW)
        assert not rules.is_timed_out(txn(Status.ONGOING, start_ms=NOW - 60_000), NOW)
        assert not rules.is_timed_out(txn(Status.EMPTY, **late), NOW)
        assert not rules.is_timed_out(txn(Status.ONGOING, timeout_ms=rules.NO_TIMEOUT, **late), NOW)
        busy = txn(Status.ONGOING, **late)
        busy.begin(BASE)
        assert not rules.is_timed_out(busy, NOW)

    def test_only_an_idle_id_expires(self) -> None:
        assert rules.is_expired(txn(last_update_ms=NOW - 100), NOW, 100)
        assert not rules.is_expired(txn(last_update_ms=NOW - 99), NOW, 100)
        assert not rules.is_expired(txn(Status.ONGOING, last_update_ms=0), NOW, 100)
