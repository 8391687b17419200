"""What is particular to files: leftovers, faults of the disk, keys that must not escape."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from s3stream.clock import SystemClock
from s3stream.errors import BadSetting, Unavailable
from s3stream.objectstore.files import LocalFiles, write_all
from s3stream.objectstore.local import LocalStore
from s3stream.types import Buffers
from tests.support.object_stores import inline


def open_local(root: Path, files: LocalFiles | None = None) -> LocalStore:
    return LocalStore(str(root), SystemClock(), inline, files)


async def test_no_staged_file_is_left_whatever_the_outcome(tmp_path: Path) -> None:
    store = open_local(tmp_path)
    await store.create("a/b", [b"x"])
    with pytest.raises(Exception, match="exists"):
        await store.create("a/b", [b"x"])
    assert list((tmp_path / ".staging").iterdir()) == []


async def test_what_dead_writers_staged_is_swept_when_it_is_old(tmp_path: Path) -> None:
    staging = tmp_path / ".staging"
    staging.mkdir()
    (staging / "old").write_bytes(b"x")
    (staging / "young").write_bytes(b"x")
    os.utime(staging / "old", (1_000_000_000, 1_000_000_000))
    store = open_local(tmp_path)
    await store.create("a/b", [b"x"])
    assert [path.name for path in staging.iterdir()] == ["young"]
    assert [info.key async for info in store.list("")] == ["a/b"]


class FullDisk(LocalFiles):
    def write_new(self, path: str, data: Buffers) -> None:
        super().write_new(path, [b"what still fitted"])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_full_disk_is_unavailable_and_leaves_nothing(tmp_path: Path) -> None:
    store = open_local(tmp_path, FullDisk())
    with pytest.raises(Unavailable, match="No space left"):
        await store.create("a/b", [b"x" * 100])
    assert [names for _, _, names in os.walk(tmp_path) if names] == []


async def test_a_listing_leaves_out_what_is_deleted_under_its_eyes(tmp_path: Path) -> None:
    store = open_local(tmp_path)
    for key in ("a/1", "a/2", "a/3"):
        await store.create(key, [b"x"])
    found = []
    async for info in store.list("a/"):
        found.append(info.key)
        await store.delete(["a/2"])
    assert found == ["a/1", "a/3"]


async def test_a_place_that_cannot_be_used_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadSetting, match=r"file://.*Not a directory"):
        await open_local(tmp_path / "file" / "objects").check()


async def test_check_makes_the_directory(tmp_path: Path) -> None:
    await open_local(tmp_path / "new" / "objects").check()
    assert (tmp_path / "new" / "objects").is_dir()


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", ".staging/x", ""])
async def test_keys_cannot_leave_the_directory(key: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        await open_local(tmp_path).create(key, [b"x"])


def test_more_buffers_than_one_system_call_takes_are_written(tmp_path: Path) -> None:
    data = [bytes([number % 256]) * (number % 7) for number in range(5000)]
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    write_all(descriptor, data)
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"".join(data)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev

    def short(descriptor: int, buffers: Buffers) -> int:
        return real(descriptor, [memoryview(buffers[0])[:3]])

    monkeypatch.setattr(os, "writev", short)
    data = [b"0123456789", b"ab", b"", b"cde", b"fghij"]
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    write_all(descriptor, data)
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"".join(data)
