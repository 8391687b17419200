"""Direct, synchronous writes: any sizes arrive whole, padded with zeros; what cannot be direct is refused cleanly."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wal.direct_file import STAGING_BYTES, DirectFile, InvalidArgument
from wal.files import OsFiles
from wal.framing import GROUP_ALIGN_BYTES

FILE_BYTES = 6 * STAGING_BYTES


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = tmp_path_factory.mktemp("direct") / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, b"\xff" * FILE_BYTES, 0)
    os.fsync(descriptor)
    yield descriptor
    os.close(descriptor)


def opened(handle: int) -> DirectFile:
    direct = DirectFile.of(handle)
    assert direct is not None, "the temporary folder's file system has no direct I/O: set TMPDIR to one that has"
    return direct


near_staging = st.integers(STAGING_BYTES - 5000, STAGING_BYTES + 5000)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 200), st.integers(4000, 4200), near_staging), max_size=4),
    block=st.integers(0, 3),
)
def test_whatever_is_written_is_there_and_zeros_follow_to_the_alignment(
    handle: int, sizes: list[int], block: int
) -> None:
    direct = opened(handle)
    offset = block * GROUP_ALIGN_BYTES
    vectors = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    end = direct.write(vectors, offset)
    direct.close()
    data = b"".join(vectors)
    assert end == offset + len(data)
    padded = data + bytes(-len(data) % GROUP_ALIGN_BYTES)
    assert os.pread(handle, len(padded), offset) == padded


def test_a_file_system_that_takes_no_direct_write_is_written_through_the_page_cache(
    handle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, synced = os.pwrite, []

    def refused(descriptor: int, data: object, offset: int) -> int:
        raise OSError(errno.EINVAL, "no direct I/O")

    monkeypatch.setattr(os, "pwrite", refused)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    files = OsFiles()
    assert files.write_durably(handle, [b"abc", b"def"], 8192) == 8198
    assert files.write_durably(handle, [b"ghi"], 12288) == 12291
    monkeypatch.setattr(os, "pwrite", pwrite)
    assert os.pread(handle, 6, 8192) == b"abcdef" and os.pread(handle, 3, 12288) == b"ghi"
    assert synced == [handle, handle]


def test_an_error_after_a_part_was_written_is_no_refusal(handle: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written cannot be taken back: the segment is broken, and must not be tried again another way."""
    pwrite, calls = os.pwrite, 0

    def fails_second(descriptor: int, data: object, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.EINVAL, "later")
        return pwrite(descriptor, data, offset)  # type: ignore[arg-type]

    direct = opened(handle)
    monkeypatch.setattr(os, "pwrite", fails_second)
    with pytest.raises(OSError, match="later"):
        direct.write([bytes(STAGING_BYTES + 1)], 0)
    calls = 1
    with pytest.raises(InvalidArgument):
        direct.write([b"x"], 0)
    monkeypatch.setattr(os, "pwrite", pwrite)
    direct.close()


def test_short_writes_are_continued_and_crooked_ones_refused(handle: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:4096], offset))
    direct = opened(handle)
    assert direct.write([b"z" * 10_000], 4096) == 14_096
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: 100)
    with pytest.raises(OSError, match="took 100"):
        direct.write([b"z"], 0)
    monkeypatch.setattr(os, "pwrite", pwrite)
    assert os.pread(handle, 10_000, 4096) == b"z" * 10_000
    direct.close()


def test_a_large_buffer_needs_no_larger_staging(handle: int) -> None:
    direct = opened(handle)
    data = os.urandom(3 * STAGING_BYTES + 77)
    assert direct.write([b"head", memoryview(data)], 0) == 4 + len(data)
    assert os.pread(handle, 4 + len(data), 0) == b"head" + data
    direct.close()
