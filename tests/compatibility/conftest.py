"""The two systems, each started once for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.kafka_reference import KafkaProcess
from tests.support.ponor_process import PonorProcess
from tests.support.tools import ToolMissing, requires

SETTINGS = {
    # Transactions that take too long are ended every ten seconds otherwise.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    # A group's own settings reach Kafka's coordinator some time after they are answered.
    "group.streams.initial.rebalance.delay.ms": "0",
    "group.streams.assignment.interval.ms": "0",
}
"""Of both."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("compatibility")
    group.addoption("--record", action="store_true", help="store what Apache Kafka answers as what is expected")
    group.addoption(
        "--reference",
        choices=("auto", "never"),
        default="auto",
        help="auto (the default): ask Apache Kafka too, where it is installed; never: its stored answers do",
    )


@pytest.fixture(scope="session")
def ponor_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    # Kafka's log cleaner waits for a segment to roll, ours for a flush.
    settings = {**SETTINGS, "ponor.flush.interval.ms": "1000"}
    process = PonorProcess(tmp_path_factory.mktemp("compared"), settings=settings)
    process.start()
    yield process.port
    process.stop()


@pytest.fixture(scope="session")
def kafka_port(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[int | None]:
    """None where Apache Kafka is not installed."""
    if request.config.getoption("--reference", default="auto") == "never":
        yield None
        return
    try:
        kafka = KafkaProcess(tmp_path_factory.mktemp("reference") / "kafka", SETTINGS, heap="512m")
    except ToolMissing:
        if os.environ.get("PONOR_REQUIRE_TOOLS") == "1":
            requires("kafka")  # fails
        yield None
        return
    with kafka:
        yield kafka.port
