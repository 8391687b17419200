"""A log that cannot be written costs lines, never the work; a warning that repeats itself is said once a minute."""

from __future__ import annotations

import contextlib
import errno
import io
import json
from collections.abc import Iterator
from typing import Any

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


class TestRepeats:
    def test_a_warning_of_one_kind_is_said_once_a_minute_with_the_number_left_out(self) -> None:
        said = Said()
        for second in range(0, 121, 10):
            said.now = second
            said.warn("the database does not answer", error=f"refused at {second}")
        assert said.lines == [
            {"event": "the database does not answer", "error": "refused at 0"},
            {"event": "the database does not answer", "error": "refused at 60", "left_out": 5},
            {"event": "the database does not answer", "error": "refused at 120", "left_out": 5},
        ]

    def test_what_it_is_about_makes_it_another_kind(self) -> None:
        said = Said()
        for partition in ("a-0", "a-1", "a-0"):
            said.warn("retention not enforced", partition=partition, error="x")
        said.warn("another matter", partition="a-0")
        assert [line.get("partition") for line in said.lines] == ["a-0", "a-1", "a-0"]

    def test_errors_and_decisions_are_never_left_out(self) -> None:
        said = Said()
        for method in ("error", "info", "error", "info"):
            said.say(method, "again")
        assert len(said.lines) == 4

    def test_kinds_are_bounded_and_the_one_said_longest_ago_is_forgotten(self) -> None:
        said = Said()
        for number in range(logs.REPEAT_KINDS_MAX + 1):
            said.warn("retention not enforced", partition=f"p-{number}")
        said.lines.clear()
        said.warn("retention not enforced", partition=f"p-{logs.REPEAT_KINDS_MAX}")
        said.warn("retention not enforced", partition="p-0")
        assert [line["partition"] for line in said.lines] == ["p-0"]

    def test_a_configured_log_leaves_them_out(self, disk: Disk) -> None:
        for _ in range(5):
            structlog.get_logger().warning("again", error="x")
        assert len(disk.getvalue().splitlines()) == 1


class Said:
    """What passes, at a time of the test's own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[dict[str, Any]] = []
        self._repeats = logs.Repeats(lambda: self.now)

    def warn(self, event: str, **fields: object) -> None:
        self.say("warning", event, **fields)

    def say(self, method: str, event: str, **fields: object) -> None:
        with contextlib.suppress(structlog.DropEvent):
            self.lines.append(dict(self._repeats.filter(None, method, {"event": event, **fields})))
