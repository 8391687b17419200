"""Every scenario on Ponor, and on Apache Kafka 4.3 where that is installed: the answers must be the same.

Kafka's answers are kept in answers/. Where the reference runs, it is asked again, and must still answer so.
`--record` writes what it answers instead.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator

import pytest

from brokers.cli.compatibility import DEPARTURES, IN_PART, NOT_SERVED
from brokers.handlers.table import SERVED
from brokers.protocol.apis import APIS, PRODUCE_LISTED_MIN
from tests.compatibility import transcript
from tests.compatibility.broker import Broker
from tests.compatibility.meant import MEANT
from tests.compatibility.scenarios import (
    cluster,
    compaction,
    configs,
    consumer_groups,
    fetch,
    groups,
    produce,
    protocol,
    registries,
    shares,
    streams_groups,
    topics,
    transactions,
    unsecured,
)
from tests.compatibility.transcript import Difference, Notes

Scenario = Callable[[Broker], Awaitable[None]]
SCENARIOS: tuple[Scenario, ...] = (
    *protocol.SCENARIOS, *topics.SCENARIOS, *configs.SCENARIOS, *produce.SCENARIOS, *fetch.SCENARIOS,
    *groups.SCENARIOS, *registries.SCENARIOS, *consumer_groups.SCENARIOS, *shares.SCENARIOS,
    *streams_groups.SCENARIOS, *transactions.SCENARIOS, *cluster.SCENARIOS, *compaction.SCENARIOS,
    *unsecured.SCENARIOS,
)  # fmt: skip
SCENARIO_SECONDS = 60
TELEMETRY = (71, 72)


def name_of(scenario: Scenario) -> str:
    return scenario.__name__  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
async def test_ponor_answers_as_kafka_does(
    scenario: Scenario, ponor_port: int, kafka_port: int | None, request: pytest.FixtureRequest
) -> None:
    name, run = name_of(scenario), os.urandom(3).hex()
    talks = [_talk(scenario, "Ponor", ponor_port, run)]
    if kafka_port is not None:
        talks.append(_talk(scenario, "Kafka", kafka_port, run))
    here, *there = await asyncio.gather(*talks)
    if request.config.getoption("--record", default=False):
        assert there, "--record needs Apache Kafka: python3 tools/install.py kafka"
        transcript.store(name, there[0])
    kafka = transcript.stored(name)
    for live in there:
        assert _lines(transcript.differences(kafka, live)) == [], "Kafka answers otherwise than it did"
    _compare(name, kafka, here)


async def _talk(scenario: Scenario, system: str, port: int, run: str) -> Notes:
    broker = Broker(system, port, name_of(scenario), run)
    try:
        async with asyncio.timeout(SCENARIO_SECONDS):
            await broker.start()
            await scenario(broker)
    finally:
        await broker.close()
    return broker.notes


def _compare(name: str, kafka: Notes, here: Notes) -> None:
    entries = [entry for entry in MEANT if entry.scenario == name]
    unmet = set(entries)
    surprises = []
    for difference in transcript.differences(kafka, here):
        covering = [entry for entry in entries if entry.covers(difference)]
        unmet.difference_update(covering)
        if not covering:
            surprises.append(difference)
    assert not surprises, "\n".join(["Ponor does not answer as Kafka does:", *_lines(iter(surprises))])
    assert not unmet, f"no longer a difference, take it out of meant.py: {[entry.label for entry in unmet]}"


def _lines(differences: Iterator[Difference]) -> list[str]:
    lines = [str(difference)[:400] for difference in differences]
    return [*lines[:40], f"… and {len(lines) - 40} more"] if len(lines) > 40 else lines


def test_every_meant_difference_is_documented_and_every_documented_one_is_met() -> None:
    assert {entry.scenario for entry in MEANT} <= {name_of(scenario) for scenario in SCENARIOS}
    assert {entry.why for entry in MEANT} == set(DEPARTURES)


def test_the_list_of_apis_is_the_one_that_kafka_answers() -> None:
    listed = {label: spans[4] for label, spans in transcript.stored("api_versions").items() if label.startswith("api ")}
    ours = {f"api {api.key}": f"{api.min} to {api.max}" for api in APIS.values()}
    ours["api 0"] = f"{PRODUCE_LISTED_MIN} to {APIS[0].max}"
    for key in TELEMETRY:
        del ours[f"api {key}"]  # Kafka lists them once a metrics reporter is configured
    assert ours == listed


def test_every_api_that_is_not_served_has_a_reason() -> None:
    assert set(NOT_SERVED) == {api.name for api in APIS.values() if api.key not in SERVED}


def test_what_is_said_of_an_api_is_said_of_one_that_is_served() -> None:
    assert set(IN_PART) <= {APIS[key].name for key in SERVED}
