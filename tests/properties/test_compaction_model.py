"""Log compaction against a dict: any log, any rounds, any size of the map, and what every reader must still find."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from brokers.compaction.batch_filter import delete_horizon
from brokers.records.batch import Compression, last_sequence, parse_header
from brokers.records.record import end_marker
from tests.support.compacted_log import LogModel, check_batches, compact, read_committed, records_of

KEYS = st.sampled_from([b"a", b"b", b"c", b"d" * 70, b""])
RECORD = st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=80)))
BATCH = st.tuples(
    st.just("append"),
    st.lists(RECORD, min_size=1, max_size=5),
    st.sampled_from([-1, 1, 2]),
    st.booleans(),
    st.sampled_from([Compression.NONE, Compression.NONE, Compression.GZIP]),
)
MARKER = st.tuples(st.just("marker"), st.sampled_from([1, 2]), st.booleans())
ROUND = st.tuples(
    st.just("round"), st.integers(5, 40), st.integers(0, 3_000), st.floats(0, 1), st.booleans(), st.booleans()
)
STEPS = st.lists(st.one_of(BATCH, BATCH, MARKER, ROUND), max_size=25)
RETENTION_MS = 1_000


class Compacted:
    """A log with its rounds so far."""

    def __init__(self) -> None:
        self.model = LogModel()
        self.batches = []
        self.clean_end = 0
        self.now_ms = 1_000_000
        self.tombstones: dict[int, int] = {}
        """Offset → when a round first met it in the part that it cleaned."""
        self.counted_as_aborted = []

    def append(self, records, producer_id, transactional, compression) -> None:
        transactional = transactional and producer_id >= 0
        if producer_id in self.model.open and not transactional:
            return
        batch = self.model.append(records, self.now_ms, producer_id, transactional, compression)
        self.batches.append(batch)

    def marker(self, producer_id, commit) -> None:
        self.model.end_transaction(producer_id, commit, self.now_ms)
        self.batches.append(self.model.batches[-1])
        self.counted_as_aborted = list(self.model.aborted)

    def round(self, entries, passes_ms, share, prune, forget) -> None:
        self.now_ms += passes_ms
        model = self.model
        ends = [batch.end_offset for batch in model.batches if self.clean_end < batch.end_offset <= model.last_stable]
        if not ends:
            return
        end = ends[min(int(share * len(ends)), len(ends) - 1)]
        if forget:  # they expired
            model.producers.clear()
        producers = model.producers
        before = self.batches
        self.batches, clean_end = compact(
            before, self.clean_end, end, self.now_ms, aborted=self.counted_as_aborted, producers=producers,
            delete_retention_ms=RETENTION_MS, entries_max=entries,
        )  # fmt: skip
        assert clean_end > self.clean_end
        self.clean_end = clean_end
        check_batches(before, self.batches)
        self.check(end, producers, before)
        if prune:
            self.counted_as_aborted = [one for one in self.counted_as_aborted if self.has_data(one)]

    def has_data(self, aborted) -> bool:
        headers = [parse_header(batch.payload) for batch in self.batches]
        return any(
            header.producer_id == aborted.producer_id
            and not header.control
            and aborted.first_offset <= header.base_offset < aborted.last_offset
            for header in headers
        )

    def check(self, end, producers, before) -> None:
        model = self.model
        left = {record.offset: record for record in records_of(self.batches)}
        for offset, record in left.items():
            assert record == model.records[offset][0]
        self.check_latest(left)
        self.check_tombstones(left)
        self.check_readers()
        for offset in left:
            if offset < self.clean_end:
                assert offset not in model.aborted_offsets
        if self.clean_end == end:
            assert any(batch.end_offset == end for batch in self.batches), "the last offset of the round is lost"
        self.check_producers(producers)
        self.check_markers(before)

    def check_latest(self, left) -> None:
        """Of each key the newest committed value, and in the clean part no other."""
        model = self.model
        for key, record in model.latest(model.end).items():
            if record.value is not None:
                assert left.get(record.offset) == record, f"the last value of {key!r} is lost"
        newest = model.latest(self.clean_end)
        for offset, record in left.items():
            if offset < self.clean_end:
                assert newest[record.key].offset == offset, f"an older value of {record.key!r} is left at {offset}"

    def check_tombstones(self, left) -> None:
        """Those that what is decided leaves in force: a later record may yet be aborted."""
        for record in self.model.latest(self.model.last_stable).values():
            if record.value is None and record.offset < self.clean_end:
                met_ms = self.tombstones.setdefault(record.offset, self.now_ms)
                if self.now_ms < met_ms + RETENTION_MS:
                    assert record.offset in left, f"the tombstone at {record.offset} went too early"
                elif met_ms < self.now_ms:
                    assert record.offset not in left, f"the tombstone at {record.offset} outlived its time"

    def check_readers(self) -> None:
        """Whoever reads from anywhere, committed or not, ends with the last values and never sees a key go back."""
        model = self.model
        seen: dict[bytes, int] = {}
        values: dict[bytes, bytes | None] = {}
        for record in read_committed(self.batches, self.counted_as_aborted):
            assert record.offset not in model.aborted_offsets
            assert seen.get(record.key, -1) < record.offset
            seen[record.key] = record.offset
            values[record.key] = record.value
        wanted = {key: record.value for key, record in model.latest(model.end).items() if record.value is not None}
        assert {key: value for key, value in values.items() if value is not None} == wanted

    def check_producers(self, producers) -> None:
        last = {}
        for batch in self.batches:
            header = parse_header(batch.payload)
            if not header.control and header.producer_id >= 0:
                last[header.producer_id] = last_sequence(header.base_sequence, header.last_offset_delta)
        for producer_id, known in producers.items():
            if known.last_offset >= 0:
                assert last[producer_id] == self.model.sequences[producer_id] - 1
            else:
                assert any(parse_header(batch.payload).producer_id == producer_id for batch in self.batches)

    def check_markers(self, before) -> None:
        """A marker goes only after its transaction's data, and not in the same round."""
        left = {batch.base_offset for batch in self.batches}
        data: dict[int, bool] = {}
        for batch in before:
            header = parse_header(batch.payload)
            if not header.control:
                if header.transactional:
                    data[header.producer_id] = True
                continue
            if data.pop(header.producer_id, False) and end_marker(batch.payload) is not None:
                assert batch.base_offset in left, f"the marker at {batch.base_offset} went before its data"
            if batch.base_offset not in left:
                horizon = delete_horizon(header)
                assert header.record_count == 0 or (horizon is not None and horizon <= self.now_ms)


@settings(max_examples=400, deadline=None)
@given(STEPS)
@example(
    [
        ("append", [(b"a", None)], -1, False, Compression.NONE),
        ("append", [(b"a", None)], 1, True, Compression.NONE),
        ("round", 5, 0, 0.0, False, False),
        ("marker", 1, False),
    ]
)
def test_any_log_keeps_what_its_readers_need_through_any_rounds_of_compaction(steps) -> None:
    log = Compacted()
    for name, *arguments in steps:
        getattr(log, name)(*arguments)
    for producer_id in list(log.model.open):
        log.marker(producer_id, True)
    for _ in range(3):
        log.append([(b"last", b"1")], -1, False, Compression.NONE)
        log.round(40, 2 * RETENTION_MS, 1.0, True, False)
