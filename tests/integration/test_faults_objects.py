"""A bad object costs the reads that need it; a store that refuses or hangs costs nothing but memory, up to a bound."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from brokers.cli.process import FORCE_AFTER_SECONDS
from drills.fault_proxy import FaultProxy, Mode
from s3stream.object_format import FOOTER_BYTES, parse_object_key, unpack_entry, unpack_footer
from s3stream.types import ObjectRef
from tests.support.damage import flip_bit
from tests.support.kafka_wire import WireClient
from tests.support.ponor_process import PonorProcess
from tests.support.raw_log import Produced, fetch, fetch_all, produce
from tests.support.servers import StoreServer, minio_server
from tests.support.tools import requires

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20
MEMORY_BYTES = 64 * MIB
"""Half of it for the memtable: the bound is near."""
RESIDENT_MAX = MEMORY_BYTES + 160 * MIB
"""The budget, and a process of Python with its libraries."""
PAYLOAD = bytes(range(256)) * 3000


# --- flipped bits in stored objects ---------------------------------------------------------------


def parts_of(path: Path) -> dict[str, int]:
    """An offset inside each part of the object: footer, index, and each stream's first block by its number."""
    data = path.read_bytes()
    object_id, incarnation = parse_object_key(f"{path.parent.name}/{path.name}") or (0, 0)
    footer = unpack_footer(data, ObjectRef(object_id, incarnation, len(data)), path.name)
    index = memoryview(data)[footer.index_position : footer.index_position + footer.index_bytes]
    entries = [unpack_entry(index, number) for number in range(footer.data_blocks)]
    first = entries[0]
    return {
        "a data block": first.position + first.size - 20,
        "the table of a data block": first.position + 60,
        "the index": footer.index_position + 30,
        "the footer": len(data) - FOOTER_BYTES + 20,
    }


async def stored(ponor: PonorProcess, topics: list[str]) -> Path:
    """One record in each topic, flushed into one object together. Returns the object's file."""
    folder = ponor.data_dir / "objects"
    before = set(folder.rglob("*.obj"))
    client = await WireClient.connect(ponor.port)
    for topic in topics:
        ponor.create_topic(topic)
        assert (await produce(client, topic, 0, [topic.encode()])).error == "none"
    await client.close()
    ponor.stop()
    ponor.start()
    (path,) = set(folder.rglob("*.obj")) - before
    return path


async def test_a_flipped_bit_in_an_object_costs_only_the_reads_that_need_it(tmp_path: Path) -> None:
    with PonorProcess(tmp_path) as ponor:
        damaged = await stored(ponor, ["first", "second"])
        await stored(ponor, ["elsewhere"])
        for part, offset in parts_of(damaged).items():
            in_block = "block" in part
            flip_bit(damaged, offset)
            ponor.stop()
            said = ponor.log.stat().st_size
            ponor.start()
            client = await WireClient.connect(ponor.port)
            for _ in range(3):
                found = await fetch(client, "first", 0, 0)
                assert (found.error, found.values) == ("kafka_storage_error", []), part
            second = await fetch(client, "second", 0, 0)
            if in_block:
                assert (second.error, second.values) == ("none", [(0, b"second")]), part
            else:
                assert (second.error, second.values) == ("kafka_storage_error", []), part
            assert (await fetch(client, "elsewhere", 0, 0)).values == [(0, b"elsewhere")]
            complaints = [line for line in ponor.log.read_text()[said:].splitlines() if damaged.name in line]
            assert any("first-0" in line for line in complaints), f"{part}: the log does not name the object"
            # The partition that cannot be read takes records, and gives them.
            appended = await produce(client, "first", 0, [b"more"])
            assert appended.error == "none"
            assert (await fetch(client, "first", 0, appended.base_offset)).values == [(appended.base_offset, b"more")]
            assert ponor.text("/health/live")
            await client.close()
            flip_bit(damaged, offset)
        ponor.stop()
        ponor.start()
        client = await WireClient.connect(ponor.port)
        assert await fetch_all(client, "first", 0) == [b"first", *[b"more"] * 4]
        assert await fetch_all(client, "second", 0) == [b"second"]
        await client.close()


async def test_a_missing_object_is_an_error_of_its_partitions_and_never_a_gap(tmp_path: Path) -> None:
    with PonorProcess(tmp_path) as ponor:
        gone = await stored(ponor, ["first"])
        await stored(ponor, ["elsewhere"])
        gone.rename(tmp_path / "aside")
        ponor.stop()
        ponor.start()
        client = await WireClient.connect(ponor.port)
        assert (await fetch(client, "first", 0, 0)).error == "kafka_storage_error"
        assert gone.name in ponor.log.read_text()
        assert await fetch_all(client, "elsewhere", 0) == [b"elsewhere"]
        (tmp_path / "aside").rename(gone)
        assert await fetch_all(client, "first", 0) == [b"first"]
        await client.close()


# --- a store that refuses, hangs or stands still --------------------------------------------------


@contextmanager
def refusing(proxy: FaultProxy, _: StoreServer) -> Iterator[None]:
    proxy.set(Mode.REFUSE)
    yield
    assert proxy.refused, "nothing was refused: the test proves nothing"
    proxy.set(Mode.PASS)


@contextmanager
def hanging(proxy: FaultProxy, _: StoreServer) -> Iterator[None]:
    proxy.set(Mode.HANG)
    yield
    proxy.set(Mode.PASS)


@contextmanager
def stopped(_: FaultProxy, store: StoreServer) -> Iterator[None]:
    store.pause()
    yield
    store.resume()


@pytest.mark.parametrize(
    ("fault", "seconds_min"),
    [
        pytest.param(refusing, 0, id="refusing"),
        pytest.param(hanging, 0, id="hanging"),
        pytest.param(stopped, 0, id="stopped"),
        pytest.param(hanging, 60, id="hanging-for-a-minute", marks=pytest.mark.drill),
        pytest.param(stopped, 60, id="stopped-for-a-minute", marks=pytest.mark.drill),
    ],
)
async def test_a_store_that_is_down_is_felt_at_the_bound_of_memory_and_not_before(
    fault: Callable[..., AbstractContextManager[None]], seconds_min: float, tmp_path: Path
) -> None:
    """Down until the bound is reached, which takes seconds, and on until `seconds_min` have gone by."""
    requires("minio")
    with minio_server(tmp_path / "minio") as store, FaultProxy(store.port) as proxy:
        store.create_bucket("ponor")
        url = f"s3://ponor?endpoint={proxy.endpoint}&region=us-east-1"
        settings = {"ponor.memory.bytes": str(MEMORY_BYTES), "ponor.flush.interval.ms": "1000"}
        with PonorProcess(tmp_path / "ponor", object_store=url, env=store.environment, settings=settings) as ponor:
            for topic in ("events", "small"):
                ponor.create_topic(topic)
            client = await WireClient.connect(ponor.port)
            acknowledged = 0
            with fault(proxy, store):
                began = time.monotonic()
                throttled = False
                while True:
                    answer = await produce(client, "events", 0, [numbered(acknowledged)])
                    throttled = throttled or answer.throttle_ms > 0
                    if answer.error != "none":
                        break
                    acknowledged += 1
                    if acknowledged % 10 == 0:
                        # What was just written is there, whatever the store does.
                        found = await fetch(client, "events", 0, acknowledged - 1)
                        assert found.values == [(acknowledged - 1, numbered(acknowledged - 1))]
                assert throttled, "producers were not slowed down before they were refused"
                check_refusal(answer)
                assert acknowledged * len(PAYLOAD) > MEMORY_BYTES // 4, "refused long before the bound"
                assert ponor.resident_bytes < RESIDENT_MAX
                assert any("throttled" in reason for reason in ponor.json("/v1/storage")["ready"])
                # From the first record on: nothing has left memory but for an object. And so it stays.
                assert (await fetch(client, "events", 0, 0)).values[0] == (0, numbered(0))
                while time.monotonic() < began + seconds_min:
                    check_refusal(await produce(client, "events", 0, [numbered(acknowledged)]))
                    found = await fetch(client, "events", 0, acknowledged - 1)
                    assert found.values == [(acknowledged - 1, numbered(acknowledged - 1))]
                    assert ponor.resident_bytes < RESIDENT_MAX
                    assert ponor.text("/health/live")
                    await asyncio.sleep(0.5)
            # It is back: nobody has to do anything, and producers go on.
            while (answer := await produce(client, "events", 0, [numbered(acknowledged)])).error != "none":
                check_refusal(answer)
                await asyncio.sleep(0.2)
            acknowledged += 1
            await until(lambda: ponor.metric("ponor_memtable_bytes") == 0)
            await client.close()
            ponor.stop()
            ponor.start()
            await check_whole(ponor, acknowledged)
            assert ponor.metric("ponor_read_bytes_total", source="memtable") == 0


async def test_a_stop_that_waits_for_the_store_can_be_forced_and_loses_nothing(tmp_path: Path) -> None:
    requires("minio")
    with minio_server(tmp_path / "minio") as store, FaultProxy(store.port) as proxy:
        store.create_bucket("ponor")
        url = f"s3://ponor?endpoint={proxy.endpoint}&region=us-east-1"
        with PonorProcess(tmp_path / "ponor", object_store=url, env=store.environment) as ponor:
            ponor.create_topic("events")
            client = await WireClient.connect(ponor.port)
            for number in range(20):
                assert (await produce(client, "events", 0, [numbered(number)])).error == "none"
            await client.close()
            proxy.set(Mode.REFUSE)
            ponor.send_signal(signal.SIGTERM)
            await until(lambda: '"stopping"' in ponor.log.read_text() and proxy.refused > 3)
            assert ponor.process is not None and ponor.process.poll() is None
            await asyncio.sleep(FORCE_AFTER_SECONDS)
            ponor.send_signal(signal.SIGTERM)
            assert ponor.process.wait(60) == 1
            # A store that does not answer is no reason to serve without it: the start says so.
            with pytest.raises(AssertionError, match="exit code 2"):
                ponor.start()
            assert "503" in ponor.log_tail(3) or "SlowDown" in ponor.log_tail(3)
            proxy.set(Mode.PASS)
            ponor.start()
            await check_whole(ponor, 20)


def numbered(number: int) -> bytes:
    return number.to_bytes(8, "big") + PAYLOAD


def check_refusal(answer: Produced) -> None:
    """Clients retry it by themselves."""
    assert answer.error == "request_timed_out", answer
    assert answer.message is not None and "wait for their flush" in answer.message


async def check_whole(ponor: PonorProcess, count: int) -> None:
    client = await WireClient.connect(ponor.port)
    offset = 0
    while offset < count:
        found = await fetch(client, "events", 0, offset, max_bytes=8 * MIB)
        assert found.error == "none" and found.values
        for at, value in found.values:
            assert (at, value) == (offset, numbered(offset))
            offset += 1
    assert found.high_watermark == count
    await client.close()


async def until(reached: Callable[[], bool]) -> None:
    """The test's own time limit ends it."""
    while not reached():  # noqa: ASYNC110
        await asyncio.sleep(0.1)
