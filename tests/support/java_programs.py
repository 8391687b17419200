"""Kafka's Java tools, and small programs over its Java clients (`java/`) that are started from source, and killed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from tests.support.tools import find_tool

SOURCES: Final = Path(__file__).with_name("java")
JAVA: Final = (
    "java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
    "-cp",
)  # fmt: skip


def start_java(source: str, jars: str, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
    """`jars`: a tool of `find_tool`. What the program says goes to the end of `output`."""
    command = [*JAVA, f"{find_tool(jars)}/*", str(SOURCES / source), *arguments]
    with output.open("ab") as file:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def kafka_tool(name: str, *arguments: str, jars: str = "kafka") -> str:
    """What one of Kafka's tools says; it has to succeed."""
    command = [*JAVA, f"{find_tool(jars)}/*", f"org.apache.kafka.tools.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
