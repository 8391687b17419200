"""Kafka 4.3's own command line tools, end to end: what they print about Ponor is what they print about Kafka.

As in test_protocol.py, Kafka's output is kept (answers/tools.json) and asked for again where Kafka runs. The steps
follow each other on one topic and one group; both systems go through them side by side, each in one JVM but
for one step.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.compatibility import transcript
from tests.compatibility.tools import QUICK, TOOL_SECONDS, ToolRunner, masked
from tests.compatibility.transcript import Notes
from tests.support.tools import find_tool


def _everything(lines: list[str]) -> list[str]:
    return sorted(lines)


def _events(lines: list[str]) -> list[str]:
    """Verifiable clients print an event a line, as JSON: which, and how often."""
    names = [json.loads(line)["name"] for line in lines if line.startswith("{")]
    counted = ("producer_send_success", "producer_send_error", "shutdown_complete")
    return [f"{name} {names.count(name)}" for name in counted]


def _consumed(lines: list[str]) -> list[str]:
    events = [json.loads(line) for line in lines if line.startswith("{")]
    count = sum(event["count"] for event in events if event["name"] == "records_consumed")
    committed = {event["success"] for event in events if event["name"] == "offsets_committed"}
    return [f"consumed {count}", f"committed {committed}"]


def _sent(lines: list[str]) -> list[str]:
    return [line.split(",")[0] for line in lines if "records sent" in line][-1:]


def _usable(lines: list[str]) -> list[str]:
    """The APIs that are there, without those of later releases (see meant.py)."""
    return sorted(line.strip(" \t,") for line in lines if "usable" in line and "UNSUPPORTED" not in line)


@dataclass(frozen=True, slots=True)
class Step:
    label: str
    tool: str
    args: str
    """{b}: bootstrap server, {t}: topic, {g}: group, {j}: a file of DeleteRecords."""
    read: Callable[[list[str]], list[str]] = _everything


_TOPICS = "org.apache.kafka.tools.TopicCommand"
_CONFIGS = "kafka.admin.ConfigCommand"
_GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
_PRODUCE = "org.apache.kafka.tools.VerifiableProducer"
_CONSUME = "org.apache.kafka.tools.VerifiableConsumer"
_PERF = "org.apache.kafka.tools.ProducerPerformance"
_RESET = "--reset-offsets --to-earliest --execute --topic {t} --group {g}"

STEPS = (
    Step("create", _TOPICS, "--bootstrap-server {b} --create --topic {t} --partitions 2 --config retention.ms=-1"),
    Step("create again", _TOPICS, "--bootstrap-server {b} --create --topic {t}"),
    Step("alter", _TOPICS, "--bootstrap-server {b} --alter --topic {t} --partitions 3"),
    Step("describe", _TOPICS, "--bootstrap-server {b} --describe --topic {t}"),
    Step("list", _TOPICS, "--bootstrap-server {b} --list --topic {t}"),
    Step("set configs", _CONFIGS, "--bootstrap-server {b} --alter --entity-type topics --entity-name {t} "
         "--add-config max.message.bytes=54321,cleanup.policy=[compact,delete]"),
    Step("set a bad config", _CONFIGS, "--bootstrap-server {b} --alter --entity-type topics --entity-name {t} "
         "--add-config max.message.bytes=much"),
    Step("show configs", _CONFIGS, "--bootstrap-server {b} --describe --entity-type topics --entity-name {t}"),
    Step("verifiable producer", _PRODUCE,
         "--bootstrap-server {b} --topic {t} --max-messages 30 --acks -1 --repeating-keys 5", _events),
    Step("verifiable consumer", _CONSUME,
         "--bootstrap-server {b} --topic {t} --group-id {g} --group-protocol classic --max-messages 30 "
         "--reset-policy earliest", _consumed),
    Step("list groups", _GROUPS, "--bootstrap-server {b} --list --state", lambda lines: [
        line for line in sorted(lines) if "GROUP" in line or "group" in line]),
    Step("describe group", _GROUPS, "--bootstrap-server {b} --describe --group {g} --state"),
    Step("reset offsets", _GROUPS, "--bootstrap-server {b} " + _RESET),
    Step("delete group", _GROUPS, "--bootstrap-server {b} --delete --group {g}"),
    Step("describe no group", _GROUPS, "--bootstrap-server {b} --describe --group {g}"),
    Step("producer performance", _PERF, "--bootstrap-server {b} --topic {t}-perf --num-records 500 --record-size 100 "
         "--throughput -1 --command-property acks=all", _sent),
    Step("offsets", "org.apache.kafka.tools.GetOffsetShell", "--bootstrap-server {b} --topic {t}-perf --time latest"),
    Step("delete records", "org.apache.kafka.tools.DeleteRecordsCommand",
         "--bootstrap-server {b} --offset-json-file {j}"),
    Step("earliest offsets", "org.apache.kafka.tools.GetOffsetShell",
         "--bootstrap-server {b} --topic {t}-perf --time earliest"),
    Step("API versions", "org.apache.kafka.tools.BrokerApiVersionsCommand", "--bootstrap-server {b}", _usable),
    Step("cluster id", "org.apache.kafka.tools.ClusterTool", "cluster-id --bootstrap-server {b}"),
    Step("delete", _TOPICS, "--bootstrap-server {b} --delete --topic {t}"),
)  # fmt: skip


@pytest.mark.tool("kafka")
@pytest.mark.timeout(300)
async def test_kafkas_tools_say_of_ponor_what_they_say_of_kafka(
    ponor_port: int, kafka_port: int | None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    run = os.urandom(3).hex()
    file = tmp_path_factory.mktemp("tools") / "records.json"
    partitions = [{"topic": f"{run}-topic-perf", "partition": 0, "offset": 100}]
    file.write_text(json.dumps({"version": 1, "partitions": partitions}))
    names = {"t": f"{run}-topic", "g": f"{run}-group", "j": str(file)}
    ports = [port for port in (ponor_port, kafka_port) if port is not None]
    here, *there = await asyncio.gather(*(_notes(port, names, run) for port in ports))
    if request.config.getoption("--record", default=False):
        transcript.store("tools", there[0])
    kafka = transcript.stored("tools")
    for live in there:
        assert [str(difference) for difference in transcript.differences(kafka, live)] == []
    usable = kafka.pop("API versions")[0]["said"]
    served = here.pop("API versions")[0]["said"]
    # Kafka lists these where a reporter takes clients' metrics.
    served = [line for line in served if "Telemetry" not in line]
    assert len(served) > 20 and set(served) <= set(usable), "an API in other versions than Kafka's"
    assert [str(difference) for difference in transcript.differences(kafka, here)] == []


async def _notes(port: int, names: dict[str, str], run: str) -> Notes:
    async with ToolRunner() as runner:
        return {step.label: {0: await _run(runner, step, port, names, run)} for step in STEPS}


async def _run(runner: ToolRunner, step: Step, port: int, names: dict[str, str], run: str) -> dict[str, object]:
    args = [part.format(b=f"127.0.0.1:{port}", **names) for part in step.args.split()]
    code, printed = await (_run_alone(step.tool, args) if step.tool == _PRODUCE else runner.run(step.tool, args))
    lines = [masked(line, port, run) for line in printed]
    said = step.read([line for line in lines if line and not line.startswith(("at ", "... "))])
    return {"exit code": code, "said": said}


async def _run_alone(tool: str, args: list[str]) -> tuple[int | None, list[str]]:
    """As ToolRunner's: for one whose work is done when its JVM ends."""
    process = await asyncio.create_subprocess_exec(
        "java", *QUICK, "-cp", f"{find_tool('kafka')}/*", tool, *args,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(TOOL_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, output.decode().splitlines()
