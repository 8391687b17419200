"""kafka-share-groups.sh of Kafka 4.3, in one JVM a system: a group with a member, then without, to its end.

What it prints about Ponor is what it prints about Kafka.
"""

from __future__ import annotations

import asyncio
import os
import re
from functools import partial

import pytest

from tests.compatibility import transcript
from tests.compatibility.broker import Broker
from tests.compatibility.scenarios.groups import configured
from tests.compatibility.scenarios.produce import batch
from tests.compatibility.scenarios.shares import ACCEPT, RELEASE, Member, join
from tests.compatibility.tools import ToolRunner, masked, settled
from tests.compatibility.transcript import Notes
from tests.support.kafka_wire import WireClient

TOOL = "org.apache.kafka.tools.consumer.group.ShareGroupCommand"
READS = re.compile(r"--(describe|list|dry-run)")

WITH_A_MEMBER = """
--list
--list --state
--list --state Stable
--describe --group {g}
--describe --group {g} --offsets --verbose
--describe --group {g} --state
--describe --group {g} --state --verbose
--describe --group {g} --members
--describe --group {g} --members --verbose
--describe --group {g}-gone
--describe --group {g}-gone --members
--reset-offsets --group {g} --topic {t} --to-latest --execute
--delete-offsets --group {g} --topic {t}
--delete --group {g}
""".strip().splitlines()

WITHOUT = """
--list --state
--describe --group {g} --state
--describe --group {g} --members
--describe --group {g}
--reset-offsets --group {g} --topic {t} --to-latest --dry-run
--describe --group {g}
--reset-offsets --group {g} --topic {t} --to-latest --execute
--describe --group {g} --verbose
--reset-offsets --group {g} --topic {t}:1 --to-earliest --execute
--describe --group {g} --verbose
--reset-offsets --group {g} --all-topics --to-datetime 2000-01-01T00:00:00.000 --execute
--reset-offsets --group {g} --topic {t}-gone --to-earliest --execute
--reset-offsets --group {g} --topic {t}:7 --to-earliest --execute
--reset-offsets --group {g}-gone --topic {t} --to-earliest --execute
--delete-offsets --group {g} --topic {t}-gone
--delete-offsets --group {g}-gone --topic {t}
--delete-offsets --group {g} --topic {t}
--describe --group {g}
--delete --group {g}-gone
--delete --group {g}
--list
--describe --group {g}
""".strip().splitlines()


class _System:
    """Topic `t` of two partitions, ten records in the first; group `g`, whose member has acknowledged five."""

    def __init__(self, name: str, port: int, run: str) -> None:
        self._broker = Broker(name, port, "tool", run)
        self._run = run
        self._epoch = 0

    async def notes(self, expected: Notes | None = None, settle: float = 0) -> Notes:
        """What each step prints; `expected` and `settle` as in test_admin_tools.py."""
        broker, found = self._broker, Notes()
        await broker.start()
        member = await broker.connect()
        await self._begin()
        async with ToolRunner() as runner:
            for number, step in enumerate([*WITH_A_MEMBER, *WITHOUT]):
                label = f"{number:02} {step}"
                await self._beat(member, leaves=number >= len(WITH_A_MEMBER))
                if READS.search(step):
                    await asyncio.sleep(settle)
                    wanted = None if expected is None else expected.get(label, {}).get(0)
                    found[label] = {0: await settled(partial(self._step, runner, step), wanted)}
                else:
                    found[label] = {0: await self._step(runner, step)}
        await broker.close()
        return found

    async def _begin(self) -> None:
        broker = self._broker
        group = broker.named("g")
        await broker.topic("t", 2)
        await configured(broker, group, share_auto_offset_reset="earliest")
        self._epoch = await join(broker, group, "m1", "t", 2)
        member = Member(broker, await broker.connect(), group, "m1", broker.ids["t"])
        await broker.produce("t", batch(10))
        await member.acquire("all of it")
        await member.say("half of it", (0, 4, [ACCEPT]))
        await member.say("and not the rest", (5, 9, [RELEASE]))  # or a lock ends in the middle of it

    async def _beat(self, client: WireClient, leaves: bool) -> None:
        """The member stays as long as it is told of."""
        if self._epoch < 0:
            return
        self._epoch = -1 if leaves else self._epoch
        answer = await self._broker.call(
            "ShareGroupHeartbeat", 1, client, group_id=self._broker.named("g"), member_id="m1",
            member_epoch=self._epoch, rack_id=None, subscribed_topic_names=None,
        )  # fmt: skip
        self._epoch = answer.member_epoch

    async def _step(self, runner: ToolRunner, step: str) -> dict[str, object]:
        broker = self._broker
        args = step.format(g=broker.named("g"), t=broker.named("t")).split()
        code, lines = await runner.run(TOOL, [*args, "--bootstrap-server", f"127.0.0.1:{broker.port}"])
        if step.startswith("--list"):
            lines = [line for line in lines if self._run in line or line.startswith("GROUP ")]  # of others' groups none
        return {"exit code": code, "said": sorted(filter(None, map(self._masked, lines)))}

    def _masked(self, line: str) -> str:
        if line.strip().startswith("at "):
            return ""  # a trace
        line = masked(line.replace(self._broker.named(""), ""), self._broker.port, self._run)
        return re.sub(rf"\({self._broker.node}\)", "(NODE)", line)


@pytest.mark.tool("kafka")
@pytest.mark.timeout(300)
async def test_the_share_groups_tool_says_of_ponor_what_it_says_of_kafka(
    ponor_port: int, kafka_port: int | None, request: pytest.FixtureRequest
) -> None:
    run = os.urandom(3).hex()
    ponor = _System("Ponor", ponor_port, run)
    reference = None if kafka_port is None else _System("Kafka", kafka_port, run)
    if request.config.getoption("--record", default=False):
        assert reference is not None
        transcript.store("share_group_tool", await reference.notes(settle=0.5))
        reference = None
    kafka = transcript.stored("share_group_tool")
    asked = [ponor.notes(kafka)] + ([] if reference is None else [reference.notes(kafka)])
    here, *there = await asyncio.gather(*asked)
    for live in there:
        assert [str(difference) for difference in transcript.differences(kafka, live)] == []
    assert [str(difference) for difference in transcript.differences(kafka, here)] == []
