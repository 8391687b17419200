"""The rules of a transactional id against a small model: two producers of one id, both protocols, retries, timeouts and
delays in any order (CORRECTNESS 6).

The model is what the producers and the partitions know: which epoch each producer was given, and what became of each
transaction that it was told is decided.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.transactions import transaction as rules
from brokers.transactions.records import Status, decode_value, encode_value
from brokers.transactions.transaction import (
    LAST_EPOCH,
    Fence,
    NeedsProducerId,
    Producer,
    Refuse,
    Reply,
    Store,
    Transaction,
)

steps = st.lists(
    st.tuples(
        st.sampled_from(("init", "go on", "add", "commit", "abort", "retry", "delayed", "marked", "late", "reload")),
        st.integers(0, 1),
    ),
    max_size=60,
)


class Model:
    """One transactional id, two producers that believe to be its own."""

    def __init__(self, version: int, first_epoch: int) -> None:
        self.version = version
        self.ids = iter(range(100, 10_000))
        self.now = 0
        self.txn = Transaction("x", rules.new(next(self.ids), 1_000, 0))
        if first_epoch:
            self.txn.value = self.txn.value._replace(producer_epoch=first_epoch)
        self.producers: list[Producer | None] = [None, None]
        self.given: dict[Producer, int] = {}
        """Who was told that this is its id and epoch."""
        self.ended: list[tuple[int, Producer, bool]] = []
        """EndTxn requests that were carried out: whose, as whom, commit."""
        self.decided: list[tuple[Producer, bool]] = []

    def carry_out(self, decide: object) -> object:
        new_id = None
        while True:
            decision = decide(new_id)  # type: ignore[operator]
            if not isinstance(decision, NeedsProducerId):
                break
            new_id = next(self.ids)
        if isinstance(decision, Store | Fence):
            before = self.txn.value
            self.check_epochs(decision.value)
            if isinstance(decision, Fence) and before.producer_epoch <= LAST_EPOCH:
                assert decision.value.producer_epoch > before.producer_epoch, "whoever had it is fenced"
            self.txn.begin(decision.value)
            assert isinstance(rules.initialize(self.txn, 1, None, self.now, 1), Refuse), "one change at a time"
            self.txn.settle(durable=True)
            if self.txn.value.status.preparing:
                self.decided.append(
                    (
                        Producer(before.producer_id, before.producer_epoch),
                        self.txn.value.status is Status.PREPARE_COMMIT,
                    )
                )
        return decision

    def check_epochs(self, after: object) -> None:
        before = self.txn.value
        assert after.producer_epoch <= rules.EPOCH_MAX  # type: ignore[attr-defined]
        if after.producer_id == before.producer_id:  # type: ignore[attr-defined]
            assert after.producer_epoch >= before.producer_epoch  # type: ignore[attr-defined]

    def give(self, who: int, producer: Producer) -> None:
        assert producer.epoch <= LAST_EPOCH, "the coordinator keeps one epoch to fence with"
        assert self.given.setdefault(producer, who) == who, "an epoch is one producer's for ever"
        self.producers[who] = producer

    def step(self, kind: str, who: int) -> None:
        self.now += 10
        producer = self.producers[who]
        if kind == "init":
            self.init(who, None)
        elif kind == "go on" and producer is not None:
            self.init(who, producer)
        elif kind == "add" and producer is not None:
            self.carry_out(
                lambda _: rules.add_partitions(self.txn, producer, frozenset({("t", who)}), self.version, self.now)
            )
        elif kind in ("commit", "abort") and producer is not None:
            self.end(who, producer, kind == "commit")
        elif kind in ("retry", "delayed") and self.ended:
            self.repeat(*self.ended[-1 if kind == "retry" else 0])
        elif kind == "marked" and self.txn.value.status.preparing:
            self.complete()
        elif kind == "late":
            self.now += 2_000
            if rules.is_timed_out(self.txn, self.now):
                self.carry_out(lambda new_id: rules.fence(self.txn.value, self.now, new_id))
        elif kind == "reload":
            value = decode_value(encode_value(self.txn.value))
            assert value == self.txn.value._replace(last_epoch=-1)
            self.txn = Transaction("x", value)

    def init(self, who: int, expected: Producer | None) -> None:
        decision = self.carry_out(lambda new_id: rules.initialize(self.txn, 1_000, expected, self.now, new_id))
        if isinstance(decision, Store):
            self.give(who, Producer(decision.value.producer_id, decision.value.producer_epoch))

    def end(self, who: int, producer: Producer, commit: bool) -> None:
        decision = self.carry_out(lambda new_id: rules.end(self.txn, producer, commit, self.version, self.now, new_id))
        if isinstance(decision, Refuse):
            return
        if isinstance(decision, Store):
            self.ended.append((who, producer, commit))
            assert self.decided[-1] == (producer, commit)
            if self.version >= rules.BUMPS_EPOCH:
                after = rules.completed(self.txn.value, self.now)
                assert Producer(after.producer_id, after.producer_epoch) != producer, "each transaction has its own"
                self.give(who, Producer(after.producer_id, after.producer_epoch))

    def repeat(self, who: int, producer: Producer, commit: bool) -> None:
        """A request that comes once more: it may be answered, and changes nothing. The older protocol cannot tell a
        retry from the end of the next transaction of the same epoch: there only one that nothing came after is."""
        if self.version < rules.BUMPS_EPOCH and self.txn.value.status is Status.ONGOING:
            return
        before = self.txn.value
        decision = rules.end(self.txn, producer, commit, self.version, self.now, 1)
        assert isinstance(decision, Refuse | Reply), f"{producer} ended {before}"

    def complete(self) -> None:
        after = rules.completed(self.txn.value, self.now)
        self.txn.begin(after)
        self.txn.settle(durable=True)
        assert not after.partitions and after.status in (Status.COMPLETE_COMMIT, Status.COMPLETE_ABORT)


@settings(max_examples=300, deadline=None)
@given(steps, st.sampled_from((0, 2)), st.sampled_from((0, LAST_EPOCH - 2)))
def test_epochs_are_given_once_and_what_comes_late_changes_nothing(
    found: list[tuple[str, int]], version: int, first_epoch: int
) -> None:
    model = Model(version, first_epoch)
    for kind, who in found:
        model.step(kind, who)
