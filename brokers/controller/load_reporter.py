"""Tells the others, through the database, how much work this broker does (decision 0104).

Owns: when counters are read, when a report is written. Does not own: what it says (load.py).
Invariant: nobody waits for a report and nothing fails for want of one: load is advice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog

from brokers.controller.load import Counted, LoadMeter, NodeLoad, encode_report, report_of
from brokers.partitions.partition_log import PartitionLog
from s3stream.errors import Fenced, PonorError
from s3stream.seams import Clock
from s3stream.types import NodeIdentity

log = structlog.get_logger(__name__)

REPORT_SECONDS: Final = 3.0
QUIET_REPORTS: Final = 3
"""So many reports in a row are left out while they would say nothing new: an idle cluster costs the database little."""
KEEP_SECONDS: Final = 15.0
"""How long others go by a report."""
assert KEEP_SECONDS > (QUIET_REPORTS + 1) * REPORT_SECONDS, "a quiet broker's load stays known"
NEWS_CORES: Final = 0.02
"""A change of load, or of what the process uses, that is worth telling."""


class ReportingMetadata(Protocol):
    async def report_load(self, node: NodeIdentity, report: str) -> None: ...


class LoadReporter:
    def __init__(
        self,
        metadata: ReportingMetadata,
        logs: Callable[[], Iterable[PartitionLog]],
        clock: Clock,
        cpu_seconds: Callable[[], float],
    ) -> None:
        """`logs()`: every log that is open here; `cpu_seconds()`: the processor time this process has used."""
        self._metadata = metadata
        self._logs = logs
        self._clock = clock
        self._cpu_seconds = cpu_seconds
        self._meter = LoadMeter()
        self._told: NodeLoad | None = None
        self._quiet = 0

    async def run(self, node: NodeIdentity) -> None:
        """Report at once, so that a new broker is known to have room, and then again and again, until fenced."""
        while True:
            try:
                await self.report(node)
            except Fenced:
                return
            except PonorError as error:
                log.debug("load not reported", error=str(error))
            await self._clock.sleep(REPORT_SECONDS)

    async def report(self, node: NodeIdentity) -> None:
        """One look at the counters, and a report if it has something to tell. Raises Fenced, Unavailable."""
        load = self.measure(node)
        if self._told is not None and self._quiet < QUIET_REPORTS and not _is_news(self._told, load):
            self._quiet += 1
            return
        await self._metadata.report_load(node, encode_report(load))
        self._told, self._quiet = load, 0

    def measure(self, node: NodeIdentity) -> NodeLoad:
        count = 0
        counted: list[Counted] = []
        for found in self._logs():
            count += 1
            traffic = found.traffic
            if traffic.requests:
                counted.append(Counted(found.stream.stream_id, traffic.bytes_in, traffic.bytes_out, traffic.requests))
        cpu, rates = self._meter.measure(counted, self._cpu_seconds(), self._clock.monotonic())
        return report_of(node.node_id, node.node_epoch, cpu, count, rates)


def _is_news(before: NodeLoad, now: NodeLoad) -> bool:
    if before.partitions != now.partitions or abs(before.cpu - now.cpu) >= NEWS_CORES:
        return True
    old = dict(before.hottest)
    return any(
        abs(rates.cost - old[stream_id].cost) >= NEWS_CORES if stream_id in old else rates.cost >= NEWS_CORES
        for stream_id, rates in now.hottest
    )
