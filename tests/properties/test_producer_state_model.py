"""Producer state against a small model, through appends, group commits, failures and retries in any order (rule 6).

The model is Kafka's rule book over one list: the batches of the log, each durable or pending.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from kio.schema.errors import ErrorCode

from brokers.limits import BATCHES_PER_PRODUCER
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.producer_state import ProducerState
from brokers.records.batch import SEQUENCE_SPAN, first_sequence, last_sequence
from s3stream.errors import Unavailable
from tests.support.partitions import Answers, append, batch, fake, idempotent, make_log

PRODUCERS = [1, 2]
EPOCHS = [0, 1, 2]


@dataclass
class ModelBatch:
    producer_id: int
    epoch: int
    first: int
    count: int
    base_offset: int
    durable: bool = False
    waiting: list[Answers] = field(default_factory=list)


class ModelLog:
    def __init__(self) -> None:
        self.batches: list[ModelBatch] = []

    def end(self) -> int:
        return self.batches[-1].base_offset + self.batches[-1].count if self.batches else 0

    def of(self, producer_id: int) -> list[ModelBatch]:
        return [one for one in self.batches if one.producer_id == producer_id]

    def verdict(self, producer_id: int, epoch: int, first: int, count: int) -> ModelBatch | ErrorCode | None:
        mine = self.of(producer_id)
        if not mine:
            return None
        known = mine[-1].epoch
        current = [one for one in mine if one.epoch == known]
        durable = [one for one in current if one.durable][-BATCHES_PER_PRODUCER:]
        if epoch == known:
            for one in durable + [one for one in current if not one.durable]:
                if (one.first, one.count) == (first, count):
                    return one
        if epoch < known:
            return ErrorCode.invalid_producer_epoch
        expected = 0 if epoch > known else (current[-1].first + current[-1].count) % SEQUENCE_SPAN
        return None if first == expected else ErrorCode.out_of_order_sequence_number


class ProducerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log: PartitionLog = make_log()
        self.model = ModelLog()

    def send(self, producer_id: int, epoch: int, first: int, count: int) -> None:
        verdict = self.model.verdict(producer_id, epoch, first, count)
        answers = append(self.log, idempotent(first, count, producer_id, epoch))
        if isinstance(verdict, ErrorCode):
            assert answers.errors == [verdict]
        elif verdict is None:
            assert not answers
            new = ModelBatch(producer_id, epoch, first, count, self.model.end())
            new.waiting.append(answers)
            self.model.batches.append(new)
        elif verdict.durable:
            assert answers.offsets == [verdict.base_offset]
        else:
            assert not answers, "a duplicate of a pending batch is answered before that is durable"
            verdict.waiting.append(answers)

    @rule(producer=st.sampled_from(PRODUCERS), epoch=st.sampled_from(EPOCHS), count=st.integers(1, 3))
    def send_next(self, producer: int, epoch: int, count: int) -> None:
        mine = [one for one in self.model.of(producer) if one.epoch == epoch]
        self.send(producer, epoch, mine[-1].first + mine[-1].count if mine else 0, count)

    @rule(
        producer=st.sampled_from(PRODUCERS),
        epoch=st.sampled_from(EPOCHS),
        first=st.integers(0, 6),
        count=st.integers(1, 3),
    )
    def send_any(self, producer: int, epoch: int, first: int, count: int) -> None:
        self.send(producer, epoch, first, count)

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        if self.model.batches:
            one = data.draw(st.sampled_from(self.model.batches[-8:]))
            self.send(one.producer_id, one.epoch, one.first, one.count)

    @rule(count=st.integers(1, 4))
    def commit(self, count: int) -> None:
        moved = [one for one in self.model.batches if not one.durable][:count]
        fake(self.log).make_durable(len(moved))
        for one in moved:
            one.durable = True
            assert all(answers.offsets == [one.base_offset] for answers in one.waiting)

    @rule()
    def fail(self) -> None:
        fake(self.log).fail(Unavailable("disk"))
        for one in self.model.batches:
            if not one.durable:
                assert all(answers.errors == [ErrorCode.kafka_storage_error] for answers in one.waiting)
        self.model.batches = [one for one in self.model.batches if one.durable]

    @invariant()
    def the_log_is_the_model(self) -> None:
        assert self.log.log_end_offset == self.model.end()
        durable = [one for one in self.model.batches if one.durable]
        assert self.log.high_watermark == (durable[-1].base_offset + durable[-1].count if durable else 0)
        for one in self.model.batches:
            assert one.durable or not any(one.waiting)


TestProducerState = ProducerMachine.TestCase
TestProducerState.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.integers(0, SEQUENCE_SPAN - 1), st.integers(0, 1_000_000))
def test_first_and_last_sequence_are_inverse_across_the_wrap(first: int, delta: int) -> None:
    last = last_sequence(first, delta)
    assert 0 <= last < SEQUENCE_SPAN and first_sequence(last, delta) == first


def test_sequences_wrap_to_zero() -> None:
    log = make_log()
    answers = [append(log, idempotent(SEQUENCE_SPAN - 2, 2)), append(log, idempotent(0))]
    fake(log).make_durable()
    assert [one.errors for one in answers] == [[ErrorCode.none]] * 2
    assert append(log, idempotent(SEQUENCE_SPAN - 2, 2)).offsets == [0]
    across = append(log, idempotent(1, 1))
    fake(log).make_durable()
    assert across.offsets == [3]


def test_a_batch_across_the_wrap_is_found_again() -> None:
    log = make_log()
    append(log, idempotent(SEQUENCE_SPAN - 1, 3))
    fake(log).make_durable()
    assert append(log, idempotent(SEQUENCE_SPAN - 1, 3)).offsets == [0]
    follows = append(log, idempotent(2, 1))
    fake(log).make_durable()
    assert follows.offsets == [3]


def test_only_five_durable_batches_are_remembered() -> None:
    log = make_log()
    for sequence in range(BATCHES_PER_PRODUCER + 1):
        append(log, idempotent(sequence))
    fake(log).make_durable()
    assert append(log, idempotent(1)).offsets == [1]
    assert append(log, idempotent(0)).errors == [ErrorCode.out_of_order_sequence_number]


def test_an_unknown_producer_may_begin_anywhere_and_an_expired_one_is_unknown() -> None:
    log = make_log()
    append(log, idempotent(41))
    fake(log).make_durable()
    assert append(log, idempotent(7)).errors == [ErrorCode.out_of_order_sequence_number]
    last_timestamp = 1_700_000_000_000
    log.expire_producers(last_timestamp + 999, 1000)
    assert append(log, idempotent(7)).errors == [ErrorCode.out_of_order_sequence_number]
    log.expire_producers(last_timestamp + 1000, 1000)
    assert log.producers is None
    answers = append(log, idempotent(7))
    fake(log).make_durable()
    assert answers.errors == [ErrorCode.none]


def test_expiry_leaves_pending_batches_and_open_transactions_alone() -> None:
    log = make_log()
    append(log, idempotent(0))
    log.expire_producers(1 << 60, 1)
    fake(log).make_durable()
    assert log.producers is not None


def test_the_producer_silent_longest_goes_when_there_are_too_many() -> None:
    state = ProducerState(producers_max=2)
    for producer_id in (1, 2, 1, 3):
        state.apply(producer_id, 0, 0, 0, 0, 0, False)
    assert [producer_id for producer_id, _ in state.entries()] == [1, 3]


def test_batches_without_a_producer_cost_no_producer_state() -> None:
    log = make_log()
    append(log, batch())
    fake(log).make_durable()
    assert log.producers is None
