"""One life of a broker's lower half: partitions over the real engine, and a world that survives its crash."""

from __future__ import annotations

import asyncio
from typing import Any

from brokers.partitions.log_config import LogConfig
from brokers.partitions.manager import PartitionManager
from brokers.partitions.partition_log import PartitionLog
from brokers.records.batch import iter_headers
from brokers.records.record import iter_records
from s3stream.metrics import Metrics
from tests.support.engine import Engine, World
from tests.support.partitions import Answers, append

NODE = 0


class Life:
    """One life of a broker's lower half."""

    def __init__(self, world: World, config: LogConfig | None = None, **options: Any) -> None:
        self.world = world
        self.config = config or LogConfig()
        self.engine = Engine(world, **options)
        self.manager = PartitionManager(
            self.engine.storage, world.metadata, NODE, lambda topic, image: self.config, world.clock,
            self.engine.tasks, Metrics(),
        )  # fmt: skip

    async def start(self) -> Life:
        await self.engine.start(open_all=False)
        await self.follow()
        return self

    async def follow(self) -> None:
        await self.manager.apply_image(await self.world.metadata.load_image(None))

    def log(self, partition: int = 0) -> PartitionLog:
        return self.manager.log("t", partition)

    async def produce(self, records: memoryview, partition: int = 0) -> Answers:
        answers = append(self.log(partition), records)
        await turns()
        return answers

    async def crash(self) -> None:
        await self.engine.crash()


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def everything(log: PartitionLog) -> list[tuple[int, bytes | None]]:
    found = []
    offset = log.log_start_offset
    while offset < log.high_watermark:
        result = await log.read(offset, 200)
        for buffer in result.buffers:
            for position, header in iter_headers(buffer):
                whole = memoryview(buffer)[position : position + header.size]
                found += [(record.offset, record.value) for record in iter_records(whole)]
        offset = result.end_offset
    return found
