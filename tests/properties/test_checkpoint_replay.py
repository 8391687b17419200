"""Checkpoint + replay = full replay, cut at every batch (CORRECTNESS 12)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from brokers.partitions import checkpoint
from brokers.partitions.pending import AppendOrigin
from brokers.partitions.producer_state import ProducerState
from brokers.records.builder import marker_batch
from brokers.records.record import EndMarker
from s3stream.types import Checkpoint
from tests.support.partitions import append, batch, fake, idempotent, make_log, reopen

steps = st.lists(
    st.one_of(
        st.tuples(st.just("plain"), st.integers(1, 3)),
        st.tuples(st.just("idempotent"), st.integers(1, 7)),
        st.tuples(st.just("bump"), st.integers(1, 3)),
        st.tuples(st.just("transactional"), st.integers(1, 3)),
        st.tuples(st.just("commit"), st.integers(1, 3)),
        st.tuples(st.just("abort"), st.integers(1, 3)),
    ),
    max_size=14,
)


def described(state: ProducerState | None, offset: int) -> bytes:
    """Everything that is remembered, as bytes: order included."""
    return checkpoint.encode(offset, state, [], None)


@given(steps)
@settings(max_examples=60, deadline=None)
async def test_checkpoint_and_replay_is_full_replay_cut_at_every_batch(written: list[tuple[str, int]]) -> None:
    log = make_log()
    epochs: dict[int, int] = {}
    sequences: dict[int, int] = {}
    checkpoints: list[Checkpoint | None] = [None]
    live: list[bytes] = [described(None, 0)]
    for kind, number in written:
        records = batch(number)
        epoch = epochs.setdefault(number, 0)
        if kind == "bump":
            epoch = epochs[number] = epoch + 1
            sequences[number] = 0
        if kind in ("commit", "abort"):
            marker = EndMarker(kind == "commit", coordinator_epoch=1)
            records = memoryview(marker_batch(number, epoch, marker, 5))
        elif kind != "plain":
            first = sequences.get(number, 0)
            records = idempotent(first, 2, number, epoch, transactional=kind == "transactional")
        answers = append(log, records, AppendOrigin.COORDINATOR)
        if not answers:
            sequences[number] = sequences.get(number, 0) + (2 if kind not in ("plain", "commit", "abort") else 0)
            fake(log).make_durable()
            found = fake(log).take_checkpoint()
            checkpoints.append(found)
            live.append(described(log.producers, log.high_watermark))
    stream = fake(log)
    ends = [0, *(one.end_offset for one in stream.durable)]
    for cut, found in enumerate(checkpoints):
        for end in range(cut, len(ends)):
            restored = await reopen(stream.reopened(found, ends[end]))
            assert described(restored.producers, ends[end]) == live[end]
            assert restored.high_watermark == ends[end]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(0, 12))
@settings(max_examples=30, deadline=None)
async def test_a_retry_after_a_takeover_gets_its_originals_offset(counts: list[int], checkpointed: int) -> None:
    log = make_log()
    sent: list[tuple[int, int]] = []
    for index, count in enumerate(counts):
        sent.append((log.log_end_offset, count))
        append(log, idempotent(*sent[-1]))
        fake(log).make_durable()
        if index == checkpointed:
            fake(log).take_checkpoint()
    restored = await reopen(fake(log).reopened(fake(log).checkpoint))
    for first, count in sent[-5:]:
        assert append(restored, idempotent(first, count)).offsets == [first]
    for first, count in sent[:-5]:
        assert append(restored, idempotent(first, count)).errors == [ErrorCode.out_of_order_sequence_number]
