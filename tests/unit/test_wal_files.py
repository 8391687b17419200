"""The file WAL on the real disk and on a full one: lock, space, URLs, what the metrics count."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from s3stream.clock import SystemClock
from s3stream.errors import BadSetting, Unavailable
from s3stream.metrics import Counter, Histogram, Metrics
from s3stream.seams import WriteAheadLog
from s3stream.types import Buffer
from tests.support.wal import SMALL, DiskPlace, Listener, SimPlace, batch, fields, recover_all, run_in, started
from wal import open_wal
from wal.files import IOV_MAX, OsFiles, write_all
from wal.framing import RECORD_HEADER_BYTES, SMALL_PAYLOAD_BYTES
from wal.settings import WalSettings

HOLD = """
import sys
from wal.files import OsFiles
OsFiles().lock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


async def test_10_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    tmp_path.joinpath("wal").mkdir()
    holder = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", HOLD, str(tmp_path / "wal" / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with ThreadPoolExecutor(2) as pool:
        place = DiskPlace(tmp_path / "wal", pool)
        wal = place.open()
        with pytest.raises(BadSetting, match="in use by process"):
            await wal.lock()
        holder.kill()
        holder.communicate()
        await wal.lock()
        await wal.close()


async def test_10_the_refusal_names_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        place = DiskPlace(tmp_path, pool)
        first, second = place.open(), place.open()
        await first.lock()
        with pytest.raises(BadSetting, match=f"process {os.getpid()}"):
            await second.lock()
        await first.close()


async def test_10_the_lock_file_is_never_unlinked(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        place = DiskPlace(tmp_path, pool)
        inodes = set()
        for epoch in (1, 2):
            wal, _, _ = await started(place, epoch)
            await wal.close()
            inodes.add(os.stat(tmp_path / "lock").st_ino)
    assert len(inodes) == 1


async def test_10_a_file_system_that_keeps_no_locks_is_refused() -> None:
    place = SimPlace()
    wal = place.open()
    held: list[int] = []

    def lock(path: str) -> int:
        held.append(place.files.open(path, create=True))
        return held[-1]

    place.files.lock = lock  # type: ignore[method-assign]
    with pytest.raises(BadSetting, match="does not keep locks"):
        await wal.lock()
    assert place.files.open_handles == 0


async def test_a_place_that_cannot_be_used_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with ThreadPoolExecutor(2) as pool:
        wal = DiskPlace(tmp_path / "file", pool).open()
        with pytest.raises(BadSetting, match="cannot be used"):
            await wal.lock()


async def test_trim_deletes_segment_files(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        wal, listener, _ = await started(DiskPlace(tmp_path, pool))
        for n in range(100):
            wal.append(batch(n, 1000))
        await listener.until_durable(100)
        before = {name for name in os.listdir(tmp_path) if name.endswith(".wal")}
        await wal.trim(100)
        after = {name for name in os.listdir(tmp_path) if name.endswith(".wal")}
        await wal.close()
    assert len(before) >= 4
    # Not that `after` is a part of `before`: the segment that is prepared ahead may come between the two.
    assert len(after) <= 3 and before - after


@pytest.mark.parametrize("call", ["preallocate", "pwritev"])
async def test_a_full_disk_is_unavailable_and_heals_through_repair(call: str) -> None:
    place = SimPlace()
    with structlog.testing.capture_logs():
        wal, listener, _ = await started(place)
        wal.append(batch(0))
        await listener.until_durable(1)
        place.disk.fail = lambda name, path: OSError(errno.ENOSPC, "no space left") if name == call else None
        sent = 1
        while not listener.failures:
            sent += wal.append(batch(sent, 3000)) >= 0
            await asyncio.sleep(0.001)
        durable_end, error = listener.failures[0]
        assert isinstance(error, Unavailable) and "no space left" in str(error)
        with pytest.raises(Unavailable, match="no space left"):
            await wal.repair()
        place.mend()
        await wal.repair()
        assert wal.append(batch(1000)) == durable_end
        await listener.until_durable(durable_end + 1)
        await wal.close()
        wal, _, found = await started(place, node_epoch=2)
    assert [b.base_offset for b in found] == [10 * n for n in range(durable_end)] + [10_000]
    await wal.close()


async def test_a_disk_filled_by_the_log_itself_heals_when_it_is_trimmed() -> None:
    place = SimPlace()
    with structlog.testing.capture_logs():
        wal, listener, _ = await started(place)
        place.disk.capacity = 3 * SMALL.segment_bytes
        while not listener.failures:
            wal.append(batch(wal.next_position, 3000))
            await asyncio.sleep(0.001)
        end = listener.failures[0][0]
        with pytest.raises(Unavailable):
            await wal.repair()
        await wal.trim(end)
        await wal.repair()
        wal.append(batch(end, 3000))
        await listener.until_durable(end + 1)
        await wal.close()


async def test_many_small_batches_share_one_write_and_large_ones_are_not_copied(tmp_path: Path) -> None:
    calls: list[list[int]] = []

    class Counting(OsFiles):
        def write_durably(self, handle: int, vectors: Sequence[Buffer], offset: int) -> int:
            calls.append([len(buffer) for buffer in vectors])
            return super().write_durably(handle, vectors, offset)

    with ThreadPoolExecutor(2) as pool:
        place = DiskPlace(tmp_path, pool)
        place.files = Counting()  # type: ignore[assignment]
        wal, listener, _ = await started(place, settings=WalSettings(segment_bytes=1 << 22, bytes_max=1 << 24))
        calls.clear()
        for n in range(500):
            wal.append(batch(n, 100))
        wal.append(batch(500, SMALL_PAYLOAD_BYTES))
        await listener.until_durable(501)
        await wal.close()
    assert calls[0] == [500 * (RECORD_HEADER_BYTES + 100) + RECORD_HEADER_BYTES, SMALL_PAYLOAD_BYTES]


def test_more_buffers_than_one_call_takes_and_short_writes_are_continued() -> None:
    written = bytearray()

    class Short(OsFiles):
        def pwritev(self, handle: int, buffers: list[bytes], offset: int) -> int:
            assert len(buffers) <= IOV_MAX and offset == 7 + len(written)
            data = b"".join(buffers)
            taken = max(1, len(data) * 2 // 3)
            written.extend(data[:taken])
            return taken

    vectors = [bytes([n % 251]) * (n % 7) for n in range(3000)]
    end = write_all(Short(), 0, vectors, 7)
    assert written == b"".join(vectors) and end == 7 + len(written)


async def test_metrics_count_groups_bytes_and_failures() -> None:
    place = SimPlace()
    metrics = Metrics()
    with structlog.testing.capture_logs():
        wal = open_wal(
            "file:///wal", settings=SMALL, clock=SystemClock(), metrics=metrics,
            run_blocking=place.files.run_blocking, files=place.files, chance=place.random,
        )  # fmt: skip
        await wal.lock()
        await recover_all(wal)
        listener = Listener()
        await wal.start(1, listener)
        for n in range(5):
            wal.append(batch(n))
        await listener.until_durable(5)
        place.break_writes()
        wal.append(batch(5))
        await listener.until(lambda: bool(listener.failures))
        place.mend()
        await wal.repair()
        await wal.close()
    values = {family.name: next(iter(family.children.values())) for family in metrics.families()}
    records, group_bytes = values["ponor_wal_append_records_total"], values["ponor_wal_group_bytes"]
    failures, repairs = values["ponor_wal_group_failures_total"], values["ponor_wal_repairs_total"]
    assert isinstance(records, Counter) and records.value == 5
    assert isinstance(group_bytes, Histogram) and group_bytes.sum == 5 * (100 + RECORD_HEADER_BYTES)
    assert isinstance(failures, Counter) and failures.value == 1
    assert isinstance(repairs, Counter) and repairs.value == 1


@pytest.mark.parametrize("url", ["/var/wal", "file://host/x", "file://", "file:///", "file:///x?y=1", "wal", ""])
async def test_a_url_that_names_no_wal_is_a_bad_setting(url: str) -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(BadSetting, match="wal: "):
        open_wal(url, clock=SystemClock(), metrics=Metrics(), run_blocking=run_in(pool))


def test_a_bound_that_could_never_be_left_again_is_a_bad_setting() -> None:
    with pytest.raises(BadSetting, match="two segments"):
        WalSettings(segment_bytes=1 << 20, bytes_max=(2 << 20) - 1)


async def test_urls_name_directories_and_memory(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        for url in (f"file://{tmp_path}/with%20space", "memory:"):
            wal = open_wal(url, settings=SMALL, clock=SystemClock(), metrics=Metrics(), run_blocking=run_in(pool))
            await wal.lock()
            assert await recover_all(wal) == []
            await wal.close()
    assert (tmp_path / "with space" / "lock").exists()


async def test_a_caller_that_goes_away_does_not_undo_a_repair() -> None:
    place = SimPlace()
    with structlog.testing.capture_logs():
        wal, listener, _ = await started(place)
        place.break_writes()
        wal.append(batch(0))
        await listener.until(lambda: bool(listener.failures))
        place.mend()
        caller = asyncio.create_task(wal.repair())
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])
        await wal.repair()
        wal.append(batch(1))
        await listener.until_durable(1)
        await wal.close()
        assert [fields([b])[0][3] for b in await _reopened(place)] == [10]
    assert place.files.open_handles == 0


async def _reopened(place: SimPlace) -> list[object]:
    wal = place.open()
    await wal.lock()
    try:
        return list(await recover_all(wal))
    finally:
        await wal.close()


async def test_small_groups_are_written_on_the_loop_only_while_the_disk_is_quick(tmp_path: Path) -> None:
    calls = 0

    async def counted(call: Callable[..., Any], /, *args: object) -> Any:
        nonlocal calls
        calls += 1
        return call(*args)

    async def calls_of(wal: WriteAheadLog, listener: Listener, numbers: range) -> int:
        before = calls
        for number in numbers:
            wal.append(batch(number))
            await listener.until_durable(number + 1)
        return calls - before

    with ThreadPoolExecutor(2) as pool:
        place = DiskPlace(tmp_path, pool)
        place.run_blocking = counted
        never_quick = replace(SMALL, inline_bytes=1 << 20, inline_sync_us=0, segment_bytes=1 << 20, bytes_max=1 << 22)
        wal, listener, _ = await started(place, settings=never_quick)
        assert await calls_of(wal, listener, range(20)) >= 20
        await wal.close()
        wal, listener, _ = await started(place, node_epoch=2, settings=replace(never_quick, inline_sync_us=1 << 60))
        assert await calls_of(wal, listener, range(20, 60)) <= 12
        await wal.close()
