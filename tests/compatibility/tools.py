"""Kafka's command line tools in one JVM for a system, and their output in words that do not depend on which it is."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tests.support.tools import find_tool

QUICK = ("-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
"""A tool lives for a second: what makes a long-lived program fast only costs it."""
TOOL_SECONDS = 60
_OWN_END = ("ToolRunner$Ended", "null")
"""Printed by tools that catch their own end: its class, and what it says."""
ASKED_AGAIN = 40
T = TypeVar("T")
_RUNNER = Path(__file__).with_name("ToolRunner.java")


def masked(line: str, port: int, run: str) -> str:
    line = line.replace(f"{run}-", "").replace(f":{port}", ":PORT")
    line = line.replace("Configs: min.insync.replicas=1,", "Configs: ")  # compatibility.MIN_IN_SYNC
    line = re.sub(r"TopicId: \S+", "TopicId: ID", line)
    line = re.sub(r"(Leader|Replicas|Isr): \d+", r"\1: NODE", line)
    line = re.sub(r"\(id: \d+ rack", "(id: NODE rack", line)
    line = re.sub(r"(127\.0\.0\.1:PORT +\()\d+\)", r"\1NODE)", line)
    line = re.sub(r"Cluster ID: \S+", "Cluster ID: ID", line)
    line = re.sub(r"^\[[-0-9 :,]{20,}\] ", "", line)
    return re.sub(r"\s+", " ", line).strip()


class ToolRunner:
    """async with ToolRunner() as runner: code, lines = await runner.run("org.apache.kafka.tools.TopicCommand", …)"""

    _process: asyncio.subprocess.Process

    async def __aenter__(self) -> ToolRunner:
        self._process = await asyncio.create_subprocess_exec(
            "java", *QUICK, "-cp", f"{find_tool('kafka')}/*", str(_RUNNER),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
        )  # fmt: skip
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def run(self, tool: str, args: Sequence[str]) -> tuple[int, list[str]]:
        """The exit code, and the lines that were printed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(("\t".join([tool, *args]) + "\n").encode())
        async with asyncio.timeout(TOOL_SECONDS):
            answer = await self._process.stdout.readline()
        code, _, printed = answer.decode().partition("\t")
        lines = base64.b64decode(printed).decode().splitlines()
        return int(code), [line for line in lines if line.strip() not in _OWN_END]


async def settled(ask: Callable[[], Awaitable[T]], expected: T | None) -> T:
    """What is told once it is as expected, or at last: a system hears of a change a moment after it was answered. None:
    nothing is expected."""
    told = await ask()
    for _ in range(0 if expected is None else ASKED_AGAIN):
        if told == expected:
            break
        await asyncio.sleep(0.05)
        told = await ask()
    return told
