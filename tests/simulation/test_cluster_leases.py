"""A broker that believes it holds its lease while others took over (CORRECTNESS 1, 2, 10, 19): the database does not
reach it, it takes itself for the leader of its partitions and for the controller, and has clients that believe it. What
it acknowledges then is in the log, or it acknowledges nothing.
"""

from __future__ import annotations

import asyncio

import pytest

from brokers.errors import ErrorCode
from tests.simulation import broken_rules as rules
from tests.support.history import Violation
from tests.support.sim.cluster import FILES, KINDS, OBJECTS, Cluster, Node
from tests.support.sim.course import PARTITIONS, Course, run_processes
from tests.support.sim.kafka import Gone
from tests.support.sim.workload import Producer

ALONE_S = 9.0
"""Three lease periods, and less than fills its WAL, which nothing trims meanwhile."""


class Believer(Producer):
    """Sends to one broker whatever happens, and takes each answer as it comes."""

    async def send_to(self, node: Node, partitions: list[int]) -> int:
        """How many batches were acknowledged."""
        acknowledged = 0
        for partition in partitions:
            batch = self.batch(partition)
            try:
                link = await self.client.link(node.address)
                answer = await self._send(link, partition, batch)
            except Gone:
                continue
            part = answer.responses[0].partition_responses[0]
            self.ledger.note(f"{self.name} {partition}: {part.error_code.name} {part.base_offset} by {node}")
            if part.error_code is ErrorCode.none:
                self.ledger.acknowledges(partition, part.base_offset, batch.values, link.server)
                acknowledged += 1
        return acknowledged


async def leads(cluster: Cluster, node: Node) -> list[int]:
    """Partitions of the topic that the database has open on it."""
    rows = await cluster.metadata.load_image()
    parts = [part for topic in rows.topics.values() if topic.name == "t" for part in topic.partitions]
    return [part.partition for part in parts if rows.leader_of(part) == node.node_id]


async def misjudge(kind: str) -> None:
    cluster = await Cluster.create(1, kind)
    course = Course(cluster)
    try:
        await course.begin()
        await asyncio.sleep(3)
        image = await cluster.metadata.load_image()
        victim = cluster.nodes[image.controller]
        believed = await leads(cluster, victim)
        assert believed, "it leads something"
        believer = Believer("believer", course.client("believer"), cluster.ledger, PARTITIONS, idempotent=False)
        believer.patience_s = 3.0
        assert await believer.send_to(victim, believed) == len(believed)
        victim.database.down = True
        deadline = asyncio.get_running_loop().time() + ALONE_S
        while asyncio.get_running_loop().time() < deadline:
            await believer.send_to(victim, believed)
            await asyncio.sleep(0.5)
        acknowledged = await believer.send_to(victim, believed)
        if kind == FILES:
            # It has the lock of its WAL: nobody may take over, and it is still the only writer (CORRECTNESS 10).
            assert victim.serving
            assert await leads(cluster, victim) == believed
            assert acknowledged == len(believed)
        else:
            assert not set(await leads(cluster, victim)) & set(believed), "others have taken over"
            # Nobody told it but its WAL.
            assert acknowledged == 0 and not victim.serving
        cluster.ledger.check()
        await course.end()
        cluster.ledger.check()
    finally:
        await cluster.close()


@pytest.mark.parametrize("kind", KINDS)
def test_correctness_2_a_broker_that_misjudges_its_lease_loses_nothing_and_doubles_nothing(kind: str) -> None:
    run_processes(misjudge(kind))


def test_without_the_seal_it_is_seen_to_acknowledge(monkeypatch: pytest.MonkeyPatch) -> None:
    rules.the_end_is_looked_for_and_no_seal_written(monkeypatch)
    with pytest.raises((AssertionError, Violation)):
        run_processes(misjudge(OBJECTS))
