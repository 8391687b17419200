"""The course of a run with a share group: as course.py, with members that share what is written (decision 0233)."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from brokers.shares.records import SharePartitionKey
from tests.support.sim.cluster import Cluster
from tests.support.sim.course import CALM_S, PARTITIONS, TOPIC, Course, run_processes
from tests.support.sim.kafka import Link
from tests.support.sim.processes import Process
from tests.support.sim.sharing import CONFIGS, GROUP, LOCK_MS, ShareAccount, ShareMember
from tests.support.sim.workload import Producer

MEMBERS: Final = 3


class ShareCourse(Course):
    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.account = ShareAccount(self.ledger)

    def _start_clients(self) -> None:
        for idempotent in (True, False):
            self._work(Producer, f"producer-{idempotent}", idempotent=idempotent)
        for number in range(MEMBERS):
            self._work(ShareMember, f"member-{number}", account=self.account, led=self.led)

    def _work(self, kind: Any, name: str, **options: Any) -> None:
        made = kind(name, self.client(name), self.ledger, PARTITIONS, **options)
        self.workers.append(made)
        self._running.append(Process(self.cluster.loop, name).spawn(made.run(), "run"))

    async def _create_topic(self) -> None:
        await self.cluster.metadata.alter_configs("group", GROUP, CONFIGS)
        await super()._create_topic()

    def led(self, link: Link, partition: int) -> object | None:
        """Who serves the share-partition at the other end: what only the simulation knows."""
        for node in self.cluster.nodes:
            if node.process is link.transport.peer.process and node.broker is not None and node.serving:
                inside: Any = node.broker._node
                topic = inside.partitions.image.topics.get(TOPIC)
                key = None if topic is None else SharePartitionKey(GROUP, topic.topic_id, partition)
                return None if key is None else inside.coordination.shares.leaders.get(key)
        return None

    async def read_all(self) -> None:
        """And the group has all of it: what the last members left comes again when its locks end."""
        await super().read_all()
        name = f"last-{len(self.workers)}"
        member = ShareMember(name, self.client(name), self.ledger, PARTITIONS, account=self.account, led=self.led)
        self.workers.append(member)
        try:
            async with asyncio.timeout(2 * CALM_S):
                await member.drain(3 * LOCK_MS / 1000)
        except TimeoutError:
            raise self.ledger.violated(f"the share group has not read all after {2 * CALM_S:.0f} s") from None
        self.account.whole(sorted(self.ledger.acknowledged))
        member.client.close()


async def simulate(seed: int, kind: str, trace: list[str]) -> None:
    cluster = await Cluster.create(seed, kind)
    cluster.ledger.trace = trace
    try:
        await ShareCourse(cluster).run()
    except Exception:
        cluster.ledger.check()  # what was found first is what it is about
        raise
    finally:
        await cluster.close()


def run_seed(seed: int, kind: str, trace: list[str] | None = None) -> None:
    """As course.py's."""
    run_processes(simulate(seed, kind, [] if trace is None else trace))
