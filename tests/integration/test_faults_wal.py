"""A write-ahead log that is full, truncated, corrupt or torn: a clear error, nothing acknowledged lost or changed."""

from __future__ import annotations

import asyncio
import resource
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Message, Producer

from tests.support.damage import flip_bit
from tests.support.kafka_wire import WireClient
from tests.support.ponor_process import PonorProcess
from tests.support.raw_log import fetch_all, produce
from wal.framing import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, decode_record_header, decode_segment_header

pytestmark = pytest.mark.timeout(180)

TOPIC = "events"
LATE_FLUSH = {"ponor.flush.interval.ms": "600000"}
"""Everything stays in the WAL."""


@contextmanager
def file_size_limit(pid: int, size: int) -> Iterator[None]:
    """No file of the process may grow beyond `size`: a full disk that needs no privilege."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def segments(ponor: PonorProcess) -> list[Path]:
    """Segment files that have been used, in order."""
    found = sorted((ponor.data_dir / "broker-0" / "wal").glob("*.wal"))
    return [path for path in found if any(path.read_bytes()[:8])]


def record_offsets(path: Path) -> list[tuple[int, int]]:
    """(offset in the file, payload bytes) of the segment's records, in order."""
    data = path.read_bytes()
    header = decode_segment_header(data[:SEGMENT_HEADER_BYTES], int(path.stem), path.name)
    assert header is not None
    found = []
    at = data.find(b"WREC", SEGMENT_HEADER_BYTES)
    while 0 <= at <= len(data) - RECORD_HEADER_BYTES:
        record = decode_record_header(data, at, header.salt)
        if record is None:
            at = data.find(b"WREC", at + 1)
            continue
        found.append((at, record.length))
        at = data.find(b"WREC", at + RECORD_HEADER_BYTES + record.length)
    return found


def value(number: int) -> bytes:
    return f"{number:08}".encode() * 8


async def produce_batches(ponor: PonorProcess, count: int) -> list[bytes]:
    """One group commit each, so that each later record proves those before it."""
    client = await WireClient.connect(ponor.port)
    values = [value(number) for number in range(count)]
    for each in values:
        assert (await produce(client, TOPIC, 0, [each])).error == "none"
    await client.close()
    return values


async def read_back(ponor: PonorProcess) -> list[bytes]:
    client = await WireClient.connect(ponor.port)
    try:
        return await fetch_all(client, TOPIC, 0)
    finally:
        await client.close()


def refused_start(ponor: PonorProcess, code: int = 1) -> str:
    """What the broker says about why it does not start."""
    said = ponor.log.stat().st_size
    with pytest.raises(AssertionError, match=f"exit code {code}"):
        ponor.start()
    text = ponor.log.read_text()[said:]
    reasons = [line for line in text.splitlines() if line.startswith("ponor: ")]
    assert len(reasons) == 1, text
    assert "Traceback" not in text
    return reasons[0]


# --- a full disk ---------------------------------------------------------------------------------


async def test_a_full_disk_is_told_to_producers_and_heals_when_there_is_room_again(tmp_path: Path) -> None:
    with PonorProcess(tmp_path, settings=LATE_FLUSH) as ponor:
        ponor.create_topic(TOPIC)
        client = await WireClient.connect(ponor.port)
        acknowledged = [value(number) for number in range(50)]
        assert (await produce(client, TOPIC, 0, acknowledged)).error == "none"
        patient = PatientProducer(ponor.bootstrap)
        with file_size_limit(ponor.pid, 1 << 20):
            # Until the group that does not fit any more.
            refused = None
            while refused is None:
                values = [value(len(acknowledged)) + bytes(50_000)]
                answer = await produce(client, TOPIC, 0, values)
                if answer.error == "none":
                    acknowledged += values
                else:
                    refused = answer
            assert refused.error == "kafka_storage_error"
            assert refused.message is not None and "WAL" in refused.message and "File too large" in refused.message
            # It stays so, and says so, while reads go on.
            patient.send(value(1_000_000))
            assert (await produce(client, TOPIC, 0, [b"not taken"])).error == "kafka_storage_error"
            assert await fetch_all(client, TOPIC, 0) == acknowledged
            assert any("takes no appends" in reason for reason in not_ready(ponor))
            assert ponor.metric("ponor_wal_failures_total") >= 1
            assert not patient.answers
        # There is room: nobody has to do anything.
        assert patient.wait() == [None]
        acknowledged.append(value(1_000_000))
        assert await fetch_all(client, TOPIC, 0) == acknowledged
        assert not_ready(ponor) == []
        ponor.kill()
        ponor.start()
        assert await read_back(ponor) == acknowledged


async def test_a_disk_full_for_wal_objects_and_database_alike_heals_too(tmp_path: Path) -> None:
    """The embedded default has all three on one disk."""
    with PonorProcess(tmp_path, settings={"ponor.flush.interval.ms": "200"}) as ponor:
        ponor.create_topic(TOPIC)
        client = await WireClient.connect(ponor.port)
        acknowledged = [value(number) + bytes(100_000) for number in range(5)]
        assert (await produce(client, TOPIC, 0, acknowledged)).error == "none"
        with file_size_limit(ponor.pid, 4096):
            refused = await produce(client, TOPIC, 0, [b"x" * 50_000])
            assert refused.error == "kafka_storage_error"
            # A flush that was under way may have ended before the disk was full.
            patient = PatientProducer(ponor.bootstrap)
            patient.send(value(1_000_000))
            for _ in range(10):
                assert (await produce(client, TOPIC, 0, [b"not taken"])).error == "kafka_storage_error"
                await asyncio.sleep(0.2)
            assert await fetch_all(client, TOPIC, 0) == acknowledged
            assert ponor.text("/health/live")
        assert patient.wait() == [None]
        acknowledged.append(value(1_000_000))
        while ponor.metric("ponor_memtable_bytes"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert not_ready(ponor) == []
        await client.close()
        ponor.kill()
        ponor.start()
        assert await read_back(ponor) == acknowledged


async def test_a_start_on_a_full_disk_says_so_and_works_when_there_is_room(tmp_path: Path) -> None:
    with PonorProcess(tmp_path, settings=LATE_FLUSH) as ponor:
        ponor.create_topic(TOPIC)
        values = await produce_batches(ponor, 5)
        ponor.kill()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, before[1]))
        try:
            reason = refused_start(ponor)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "cannot create a segment" in reason and "File too large" in reason
        ponor.start()
        assert await read_back(ponor) == values


class PatientProducer:
    """A stock producer that retries for minutes."""

    def __init__(self, bootstrap: str) -> None:
        self.answers: list[KafkaError | None] = []
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.timeout.ms": 120_000}
        )

    def send(self, payload: bytes) -> None:
        self._producer.produce(TOPIC, payload, partition=0, on_delivery=self._delivered)
        self._producer.poll(0)

    def wait(self) -> list[KafkaError | None]:
        self._producer.flush(120)
        return self.answers

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        self.answers.append(error)


def not_ready(ponor: PonorProcess) -> list[str]:
    """What /health/ready answers; no lines when it answers 200."""
    try:
        ponor.text("/health/ready")
    except urllib.error.HTTPError as refusal:
        assert refusal.code == 503
        return refusal.read().decode().splitlines()
    return []


# --- files that were changed ----------------------------------------------------------------------


async def test_a_truncated_segment_refuses_the_start_and_whole_again_everything_is_there(tmp_path: Path) -> None:
    with PonorProcess(tmp_path, settings=LATE_FLUSH) as ponor:
        ponor.create_topic(TOPIC)
        values = await produce_batches(ponor, 20)
        ponor.kill()
        segment = segments(ponor)[-1]
        whole = segment.read_bytes()
        at, _ = record_offsets(segment)[10]
        with segment.open("r+b") as file:
            file.truncate(at)
        reason = refused_start(ponor)
        assert str(segment) in reason and "truncated" in reason
        assert "left as it is" in reason and "wal-corrupt.md" in reason, "no word of what to do"
        assert segment.read_bytes() == whole[:at]
        segment.write_bytes(whole)
        ponor.start()
        assert await read_back(ponor) == values


async def test_a_flipped_bit_below_the_synced_end_refuses_the_start(tmp_path: Path) -> None:
    with PonorProcess(tmp_path, settings=LATE_FLUSH) as ponor:
        ponor.create_topic(TOPIC)
        values = await produce_batches(ponor, 20)
        ponor.kill()
        segment = segments(ponor)[-1]
        at, length = record_offsets(segment)[5]
        for offset in (at + 20, at + RECORD_HEADER_BYTES + length // 2):
            flip_bit(segment, offset)
            reason = refused_start(ponor)
            assert str(segment) in reason and "bad record at byte" in reason and "(position 5)" in reason
            assert "left as it is" in reason and "wal-corrupt.md" in reason, "no word of what to do"
            flip_bit(segment, offset)
        flip_bit(segment, 30)
        reason = refused_start(ponor)
        assert str(segment) in reason and "header fails its checksum" in reason
        flip_bit(segment, 30)
        ponor.start()
        assert await read_back(ponor) == values


async def test_a_missing_segment_refuses_the_start(tmp_path: Path) -> None:
    """Another volume is mounted, or somebody made room: offsets of acknowledged records are not given again."""
    with PonorProcess(tmp_path, settings=LATE_FLUSH) as ponor:
        ponor.create_topic(TOPIC)
        values = await produce_batches(ponor, 3)
        ponor.kill()
        folder = ponor.data_dir / "broker-0" / "wal"
        folder.rename(tmp_path / "wal-elsewhere")
        reason = refused_start(ponor, code=2)
        assert str(folder) in reason and "is the right volume mounted?" in reason
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        (tmp_path / "wal-elsewhere").rename(folder)
        ponor.start()
        assert await read_back(ponor) == values


async def test_a_torn_tail_is_cut_and_nothing_acknowledged_with_it(tmp_path: Path) -> None:
    """What a crash leaves of a group whose sync never returned: a header and half a payload, or any bytes."""
    with PonorProcess(tmp_path, settings=LATE_FLUSH) as ponor:
        ponor.create_topic(TOPIC)
        values = await produce_batches(ponor, 10)
        for torn in (b"\xff" * 3000, None):
            ponor.kill()
            segment = segments(ponor)[-1]
            records = record_offsets(segment)
            at, length = records[-1]
            end = -(-(at + RECORD_HEADER_BYTES + length) // 4096) * 4096
            with segment.open("r+b") as file:
                file.seek(at)
                last = file.read(RECORD_HEADER_BYTES + length)
                file.seek(end)
                file.write(last[: RECORD_HEADER_BYTES + length // 2] if torn is None else torn)
            ponor.start()
            assert await read_back(ponor) == values
            values += await _produce_more(ponor, len(values))


async def _produce_more(ponor: PonorProcess, start: int) -> list[bytes]:
    client = await WireClient.connect(ponor.port)
    more = [value(start + number) for number in range(3)]
    answer = await asyncio.wait_for(produce(client, TOPIC, 0, more), 30)
    assert (answer.error, answer.base_offset) == ("none", start)
    await client.close()
    return more
