"""kafka-streams-groups.sh of Kafka 4.3 on a group with a member, and on what it leaves: as test_tools.py, in one JVM a
system."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable

import pytest

from tests.compatibility import transcript
from tests.compatibility.broker import Broker
from tests.compatibility.messages import plain
from tests.compatibility.scenarios.produce import batch
from tests.compatibility.scenarios.streams_groups import Member, open_group, subtopology, topic_info, topology
from tests.compatibility.tools import ToolRunner, masked
from tests.compatibility.transcript import Notes

_TOOL = "org.apache.kafka.tools.streams.StreamsGroupCommand"
_SCENARIO = "streams_tools"

WITH_A_MEMBER = """
--list
--list --state
--list --state Stable
--list --state NotReady
--list --state Lively
--describe --group {g}
--describe --group {g} --state
--describe --group {g} --state --verbose
--describe --group {g} --members
--describe --group {g} --members --verbose
--describe --group {g} --offsets
--describe --group {g} --offsets --verbose
--describe --group {g}-gone
--reset-offsets --group {g} --input-topic {t} --to-earliest --execute
--delete-offsets --group {g} --input-topic {t}
--delete --group {g}
""".strip().splitlines()

WITHOUT = """
--list --state Empty
--describe --group {g} --members
--describe --group {g} --offsets
--reset-offsets --group {g} --input-topic {t} --to-earliest --dry-run
--reset-offsets --group {g} --input-topic {t}:1 --to-latest --execute
--reset-offsets --group {g} --all-input-topics --to-offset 2 --dry-run --export
--reset-offsets --group {g} --input-topic {t}-gone --to-earliest --execute
--reset-offsets --group {g} --all-input-topics --shift-by -1 --execute
--delete-offsets --group {g} --input-topic {t}:0
--delete-offsets --group {g} --input-topic {t}:7
--delete-offsets --group {g}-gone --input-topic {t}
--delete --group {g} --delete-all-internal-topics
--delete --group {g}
--list
""".strip().splitlines()


@pytest.mark.tool("kafka")
@pytest.mark.timeout(300)
async def test_kafkas_streams_tool_says_of_ponor_what_it_says_of_kafka(
    ponor_port: int, kafka_port: int | None, request: pytest.FixtureRequest
) -> None:
    run = os.urandom(3).hex()
    systems = [("Ponor", ponor_port), *([("Kafka", kafka_port)] if kafka_port is not None else [])]
    here, *there = await asyncio.gather(*(_notes(name, port, run) for name, port in systems))
    if request.config.getoption("--record", default=False):
        transcript.store(_SCENARIO, there[0])
    kafka = transcript.stored(_SCENARIO)
    for live in there:
        assert [str(difference) for difference in transcript.differences(kafka, live)] == []
    assert [str(difference) for difference in transcript.differences(kafka, here)] == []


async def _notes(name: str, port: int, run: str) -> Notes:
    broker = Broker(name, port, _SCENARIO, run)
    await broker.start()
    try:
        async with ToolRunner() as runner:
            return await _conversation(broker, runner)
    finally:
        await broker.close()


async def _conversation(broker: Broker, runner: ToolRunner) -> Notes:
    topic, changelog = await broker.topic("t", 2), broker.named("g-store-changelog")
    group = await open_group(broker, "g", topology(subtopology("0", topic)))
    shape = topology(subtopology("0", topic, state_changelog_topics=[topic_info(changelog, cleanup_policy="compact")]))
    member = Member(broker, group, "m", shape)
    await member.until("assigned", lambda answer: bool(answer.active_tasks))
    await broker.learn("g-store-changelog")
    for partition in (0, 1):
        await broker.produce("t", batch(5), partition)
    parts = [{"partition_index": part, "committed_offset": 3, "committed_metadata": ""} for part in (0, 1)]
    committed = await broker.call(
        "OffsetCommit", 9, group_id=group, member_id="m", generation_id_or_member_epoch=member.epoch,
        topics=[{"name": topic, "partitions": parts}],
    )  # fmt: skip
    assert all(plain(part.error_code) == "none" for part in committed.topics[0].partitions), committed
    notes = {label: {0: said} async for label, said in _steps(broker, runner, "with", WITH_A_MEMBER)}
    await member.beat(member_epoch=-1)
    return notes | {label: {0: said} async for label, said in _steps(broker, runner, "without", WITHOUT)}


async def _steps(
    broker: Broker, runner: ToolRunner, when: str, steps: Iterable[str]
) -> AsyncIterator[tuple[str, dict[str, object]]]:
    prefix = broker.named("")
    for number, step in enumerate(steps):
        args = step.format(g=broker.named("g"), t=broker.named("t")).split()
        code, printed = await runner.run(_TOOL, ["--bootstrap-server", f"127.0.0.1:{broker.port}", *args])
        lines = [masked(line, broker.port, prefix).replace(prefix, "") for line in printed]
        # Traces, and groups of others.
        kept = [line for line in lines if line and not line.startswith(("at ", "... "))]
        if "--list" in step:
            kept = [line for line in kept if line.split()[0] in ("g", "GROUP") or "rror" in line]
        yield f"{when} a member {number:02} {step}", {"exit code": code, "said": sorted(kept)}
