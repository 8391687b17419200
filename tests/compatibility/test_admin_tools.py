"""All admin tools of Kafka 4.3, through the subjects that they know: as test_tools.py, in one JVM a system.

What a tool prints about Ponor is what it prints about Kafka, but for what DEPARTS names.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from brokers.cli import compatibility as why
from brokers.cli.compatibility import Departure
from tests.compatibility import transcript
from tests.compatibility.tools import ToolRunner, masked, settled
from tests.compatibility.transcript import Notes

_TOOLS = {
    "topics": "org.apache.kafka.tools.TopicCommand",
    "configs": "kafka.admin.ConfigCommand",
    "delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "reassign": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "features": "org.apache.kafka.tools.FeatureCommand",
    "cluster": "org.apache.kafka.tools.ClusterTool",
    "client-metrics": "org.apache.kafka.tools.ClientMetricsCommand",
    "acls": "org.apache.kafka.tools.AclCommand",
    "tokens": "org.apache.kafka.tools.DelegationTokenCommand",
    "quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
}

STEPS = """
topics --create --topic {t} --partitions 2 --config retention.ms=-1 --config segment.ms=60000
topics --create --topic {t} --if-not-exists
topics --create --topic {t}-bad --config no.such=1
topics --create --topic {t}-bad --config retention.ms=soon
topics --create --topic {t}-bad --partitions 0
topics --create --topic {t}-bad --replication-factor 3
topics --create --topic {t}-placed --replica-assignment {n},{n}
topics --create --topic {t}-placed-badly --replica-assignment 4711
topics --create --topic no/slash
topics --describe --topic {t}-placed
topics --describe --topic {t}-gone
topics --describe --topic {t} --under-replicated-partitions
topics --describe --topic {t} --unavailable-partitions
topics --describe --topic {t} --under-min-isr-partitions
topics --describe --topic {t} --at-min-isr-partitions
topics --describe --topic {t} --topics-with-overrides
topics --list --exclude-internal --topic {t}.*
topics --alter --topic {t} --partitions 1
topics --alter --topic {t}-gone --partitions 5
topics --delete --topic {t}-gone
configs --describe --entity-type topics --entity-name {t}
configs --describe --entity-type topics --entity-name {t}-gone
configs --alter --entity-type topics --entity-name {t} --add-config message.timestamp.type=LogAppendTime,retention.ms=1
configs --alter --entity-type topics --entity-name {t} --delete-config segment.ms
configs --alter --entity-type topics --entity-name {t} --delete-config flush.ms
configs --alter --entity-type topics --entity-name {t} --add-config cleanup.policy=rot
configs --describe --entity-type topics --entity-name {t}
configs --alter --entity-type brokers --entity-default --add-config message.max.bytes=2000000
configs --describe --entity-type brokers --entity-default
configs --alter --entity-type brokers --entity-name {n} --add-config log.retention.ms=86400000
configs --describe --entity-type brokers --entity-name {n}
configs --alter --entity-type brokers --entity-default --add-config num.partitions=3
configs --alter --entity-type brokers --entity-default --add-config message.max.bytes=many
configs --alter --entity-type brokers --entity-name {n} --delete-config log.retention.ms
configs --alter --entity-type brokers --entity-default --delete-config message.max.bytes
configs --describe --entity-type brokers --entity-default
configs --describe --entity-type users
configs --describe --entity-type users --entity-name {t}
configs --describe --entity-type clients --entity-default
configs --describe --entity-type ips --entity-name 127.0.0.1
configs --alter --entity-type users --entity-name {t} --add-config no_such=5
configs --describe --entity-type groups --entity-name {t}
configs --alter --entity-type groups --entity-name {t} --add-config consumer.session.timeout.ms=46000
configs --describe --entity-type groups --entity-name {t}
configs --alter --entity-type groups --entity-name {t} --delete-config consumer.session.timeout.ms
configs --describe --entity-type broker-loggers --entity-name 4711
client-metrics --alter --name {t} --metrics org.apache.kafka.producer. --interval 5000 --match client_id=a.*
client-metrics --alter --name {t} --interval 1
client-metrics --alter --name {t} --match client_color=blue
client-metrics --alter --name {t} --match client_id=(
client-metrics --describe --name {t}
client-metrics --describe
client-metrics --list
client-metrics --alter --name {t} --match client_id=b
configs --describe --entity-type client-metrics --entity-name {t}
client-metrics --delete --name {t}
client-metrics --list
get-offsets --topic {t} --time earliest
get-offsets --topic {t} --time latest
get-offsets --topic {t} --time max-timestamp
get-offsets --topic {t} --time earliest-local
get-offsets --topic {t} --time latest-tiered
get-offsets --topic {t} --time 0
get-offsets --topic-partitions {t}:1
get-offsets --topic-partitions {t}:0-1 --exclude-internal-topics
get-offsets --topic {t}-gone
delete-records --offset-json-file {j}
leader-election --election-type preferred --topic {t} --partition 0
leader-election --election-type unclean --topic {t} --partition 0
leader-election --election-type preferred --topic {t}-gone --partition 0
reassign --topics-to-move-json-file {m} --broker-list {n} --generate
reassign --reassignment-json-file {r} --execute
reassign --reassignment-json-file {r} --verify
reassign --reassignment-json-file {x} --execute
reassign --list
reassign --reassignment-json-file {r} --cancel
log-dirs --describe --topic-list {t} --broker-list {n}
features describe
features upgrade --feature no.such=1
features upgrade --feature transaction.version=2
features upgrade --feature transaction.version=9
features downgrade --feature transaction.version=9
cluster cluster-id
cluster list-endpoints
cluster unregister --id 4711
acls --list
acls --add --allow-principal User:a --operation read --topic {t}
tokens --describe
quorum describe --status
topics --delete --topic {t}.*
""".strip().splitlines()


@dataclass(frozen=True, slots=True)
class Departs:
    step: str
    """Pattern of the whole line of STEPS."""
    why: Departure


DEPARTS: tuple[Departs, ...] = (
    Departs(r"features (describe|.* transaction\.version=9)", why.FEATURES),
    Departs(r"quorum .*", why.NO_QUORUM),
)


@dataclass
class _System:
    port: int
    files: Path
    run: str
    node: int = -1
    names: dict[str, str] = field(default_factory=dict)

    async def learn(self, runner: ToolRunner) -> None:
        """The node's id, and files for the tools that want one."""
        _, lines = await runner.run(_TOOLS["cluster"], ["list-endpoints", *self._where()])
        self.node = int(next(line for line in lines if line[:1].isdigit()).split()[0])
        topic = f"{self.run}-topic"
        one = {"topic": topic, "partition": 0}
        files = {
            "j": {"version": 1, "partitions": [one | {"offset": -1}]},
            "m": {"version": 1, "topics": [{"topic": topic}]},
            "r": {"version": 1, "partitions": [one | {"replicas": [self.node]}]},
            "x": {"version": 1, "partitions": [one | {"replicas": [4711]}]},
        }
        self.names = {"t": topic, "n": str(self.node)}
        for name, content in files.items():
            path = self.files / f"{name}-{self.port}.json"
            path.write_text(json.dumps(content))
            self.names[name] = str(path)

    def _where(self) -> list[str]:
        return ["--bootstrap-server", f"127.0.0.1:{self.port}"]

    async def notes(self, expected: Notes | None = None, settle: float = 0) -> Notes:
        """What each step prints. `expected`: of Kafka, whose broker hears of a change a moment after the answer: what
        only reads is asked again. `settle`: seconds to wait for that instead, where nobody knows what to expect."""
        found: Notes = {}
        async with ToolRunner() as runner:
            await self.learn(runner)
            for number, step in enumerate(STEPS):
                label, reads = f"{number:02} {step}", re.search(r"--(describe|list|verify|time)", step)
                await asyncio.sleep(settle if reads else 0)
                wanted = expected.get(label, {}).get(0) if reads and expected is not None else None
                found[label] = {0: await settled(partial(self._step, runner, step), wanted)}
        return found

    async def _step(self, runner: ToolRunner, step: str) -> dict[str, object]:
        tool, *args = step.format(**self.names).split()
        # These want what is common before their subcommand.
        args = [*self._where(), *args] if tool in ("features", "quorum") else [*args, *self._where()]
        code, lines = await runner.run(_TOOLS[tool], args)
        said = sorted(filter(None, map(self._masked, lines))) if tool != "quorum" else []
        return {"exit code": code, "said": said}

    def _masked(self, line: str) -> str:
        if line.startswith('{"'):  # sets, in the order of a hash
            line = json.dumps(_ordered(json.loads(line)))
        if line.strip().startswith(("at ", "min.insync.replicas=1 ")):
            return ""  # a trace; compatibility.MIN_IN_SYNC
        line = masked(line, self.port, self.run).replace(str(self.files), "FILES").replace(str(self.port), "PORT")
        line = re.sub(
            rf'(brokers?"?[: ]+|"replicas": \[|, replicas: |Local controller ){self.node}(?=[] ,;.:)}}]|$)',
            r"\1NODE",
            line,
        )
        line = re.sub(r'("log_?[dD]irs?": \[?)"(?!any)[^"]*"', r'\1"DIRECTORY"', line)
        line = re.sub(rf"^{self.node} 127", "NODE 127", re.sub(r"Epoch: \d+", "Epoch: EPOCH", line))
        line = line.replace("Configs: min.insync.replicas=1", "Configs:")
        line = re.sub(r"adminclient-\d+", "adminclient-N", line)  # counts the clients of the JVM, asked again or not
        return re.sub(r"\d{13}", "TIME", line)


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return sorted(map(_ordered, value), key=json.dumps)
    return value


@pytest.mark.tool("kafka")
@pytest.mark.timeout(300)
async def test_kafkas_admin_tools_say_of_ponor_what_they_say_of_kafka(
    ponor_port: int, kafka_port: int | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = os.urandom(3).hex()
    systems = [_System(port, tmp_path, run) for port in (ponor_port, kafka_port) if port is not None]
    if request.config.getoption("--record", default=False):
        transcript.store("admin_tools", await systems[1].notes(settle=0.5))
    kafka = transcript.stored("admin_tools")
    here, *there = await asyncio.gather(systems[0].notes(), *(system.notes(kafka) for system in systems[1:]))
    for live in there:
        assert [str(difference) for difference in transcript.differences(kafka, live)] == []
    surprises = [
        str(difference)
        for difference in transcript.differences(kafka, here)
        if not any(re.fullmatch(departs.step, difference.label[3:]) for departs in DEPARTS)
    ]
    assert not surprises, "\n".join(surprises)
