"""A log that cannot be written costs lines, never the work that wanted to say something."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterator

import pytest
import structlog

from brokers import logs


class Disk(io.StringIO):
    full = False

    def flush(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def disk() -> Iterator[Disk]:
    before, level = structlog.get_config(), logs.LEVEL.name
    disk = Disk()
    logs.configure("info", "json", disk)
    yield disk
    structlog.configure(**before)
    logs.LEVEL.set(level)


def test_a_full_disk_loses_lines_and_says_how_many(disk: Disk) -> None:
    log = structlog.get_logger()
    log.info("before")
    disk.full = True
    for _ in range(3):
        log.error("no room for this", exc_info=ValueError("x"))
    disk.full = False
    disk.seek(0)
    disk.truncate()
    log.info("after")
    log.info("and on")
    lines = [json.loads(line) for line in disk.getvalue().splitlines() if line]
    assert [line["event"] for line in lines] == ["log lines were lost", "after", "and on"]
    assert lines[0]["lines"] == 3


def test_a_closed_stream_is_no_error_either(disk: Disk) -> None:
    disk.close()
    structlog.get_logger().error("nobody listens")
