"""CORRECTNESS 4 down to the system calls: the simulated disk takes them for granted, this is the real one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from s3stream.types import StreamBatch
from tests.support.wal import SMALL, DiskPlace, Listener
from wal.direct_file import DirectFile

PAYLOAD = b"record" * 500


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the page cache"])
@pytest.mark.parametrize("inline_bytes", [0, 1 << 20], ids=["in threads", "on the loop"])
async def test_correctness_4_nothing_is_told_durable_before_its_bytes_and_its_segments_name_are_synced(
    inline_bytes: int, direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsynced: set[str] = set()
    """Segments with a record written neither synchronously nor followed by fdatasync."""
    unnamed: set[str] = set()
    """Renamed segments whose directory no fsync has followed."""
    last = ""
    told: list[tuple[int, bool, bool]] = []
    pwritev, pwrite, fdatasync, fsync, rename = os.pwritev, os.pwrite, os.fdatasync, os.fsync, os.rename
    direct_writes = 0

    def path_of(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def noted_pwritev(descriptor: int, buffers: Sequence[bytes], offset: int) -> int:
        nonlocal last
        if any(PAYLOAD in bytes(buffer) for buffer in buffers):  # not the header of a segment for later
            last = path_of(descriptor)
            unsynced.add(last)
        return pwritev(descriptor, buffers, offset)

    def noted_pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal last, direct_writes
        direct_writes += 1
        last = path_of(descriptor)
        if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DSYNC:
            unsynced.add(last)
        return pwrite(descriptor, data, offset)

    def noted_fdatasync(descriptor: int) -> None:
        fdatasync(descriptor)
        unsynced.discard(path_of(descriptor))

    def noted_rename(source: str, target: str) -> None:
        rename(source, target)
        unnamed.add(os.path.realpath(target))

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        directory = path_of(descriptor)
        unnamed.difference_update([path for path in unnamed if os.path.dirname(path) == directory])

    class Watching(Listener):
        def wal_durable(self, end: int) -> None:
            told.append((end, bool(unsynced), last in unnamed))
            super().wal_durable(end)

    monkeypatch.setattr(os, "pwritev", noted_pwritev)
    monkeypatch.setattr(os, "pwrite", noted_pwrite)
    monkeypatch.setattr(os, "fdatasync", noted_fdatasync)
    monkeypatch.setattr(os, "rename", noted_rename)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    if not direct:
        monkeypatch.setattr(DirectFile, "of", lambda handle: None)
    with ThreadPoolExecutor(2) as pool:
        wal = DiskPlace(tmp_path / "wal", pool).open(replace(SMALL, inline_bytes=inline_bytes))
        await wal.lock()
        async for _ in wal.recover(0):
            pass
        listener = Watching()
        await wal.start(1, listener)
        for number in range(30):  # rolls over segments
            wal.append(StreamBatch(5, 2, 10 * number, 10, PAYLOAD, 1, 2))
            await listener.until_durable(number + 1)
        await wal.close()
    assert os.path.dirname(last) == str(tmp_path / "wal") and len(told) == 30
    assert (direct_writes >= 30) == direct
    assert told == [(number + 1, False, False) for number in range(30)]
