"""A log cleaner over the real engine, metadata and objects, on virtual time; its worker in the same process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from brokers.compaction.log_cleaner import CleanerSettings, LogCleaner
from brokers.compaction.messages import Begin, Begun, Rewrite, Rewritten
from brokers.compaction.rounds import Rounds
from brokers.partitions.log_config import LogConfig
from brokers.records.batch import iter_headers
from brokers.records.builder import RecordBatchBuilder
from brokers.records.record import Record, iter_records
from s3stream.limits import OBJECT_IDS_TTL_MS
from s3stream.metrics import Metrics
from s3stream.object_format import object_key
from s3stream.settings import EngineSettings
from s3stream.types import Buffers
from tests.support.engine import World
from tests.support.partition_life import Life
from tests.support.partitions import Answers
from tests.support.virtual_time import VirtualClock

SETTINGS = CleanerSettings(True, 1 << 20, 0.9, 1e12, 15_000)
ENGINE = EngineSettings(
    flush_interval_ms=10**9, collect_interval_ms=10**9, object_ids_held=0, block_bytes=400, object_delete_grace_ms=0
)


def records_in(buffers: Buffers) -> list[Record]:
    """Records of whole batches, without markers."""
    found: list[Record] = []
    for view in map(memoryview, buffers):
        for at, header in iter_headers(view):
            if not header.control:
                found += iter_records(view[at : at + header.size])
    return found


class Worker:
    """`Rounds` in this process; `before` is called, and may raise, before each question is answered."""

    def __init__(self, objects: Any) -> None:
        self.rounds = Rounds(objects, ENGINE, VirtualClock(), lambda _: None)
        self.before: Callable[[Any], Any] = lambda question: None
        self.stops = 0

    async def begin(self, what: Begin) -> Begun:
        self.before(what)
        return await self.rounds.begin(what)

    async def rewrite(self, what: Rewrite) -> Rewritten:
        result = await self.rounds.rewrite(what)
        self.before(what)  # what was uploaded is there, and nobody hears of it
        return result

    async def stop(self) -> None:
        self.stops += 1
        await self.rounds.stop()


class Cleaned:
    """A life with a cleaner."""

    def __init__(self, life: Life, settings: CleanerSettings = SETTINGS) -> None:
        self.life = life
        self.settings = settings
        self.worker = Worker(life.engine.storage._reads._loader._objects)
        self.metrics = Metrics()
        self.cleaner = LogCleaner(
            life.manager.logs, life.engine.storage, lambda: life.engine.storage._identity().incarnation, self.worker,
            lambda: self.settings, life.world.clock, life.engine.tasks, self.metrics,
        )  # fmt: skip

    @classmethod
    async def start(cls, world: World | None = None, **options: Any) -> Cleaned:
        config = options.pop("config", LogConfig(cleanup_policy=("compact",), min_cleanable_dirty_ratio=0.0))
        world = world or await World.create(options.pop("streams", 1))
        return cls(await Life(world, config, settings=ENGINE, **options).start())

    async def put(self, *records: tuple[bytes | None, bytes | None], partition: int = 0, **producer: Any) -> Answers:
        builder = RecordBatchBuilder(**producer)
        for key, value in records:
            builder.append(self.life.world.clock.now_ms(), key, value)
        return await self.life.produce(memoryview(builder.build()), partition)

    async def flush(self) -> None:
        await self.life.engine.storage.flush()

    async def clean(self) -> int:
        """Rounds until there is nothing to do; returns how many."""
        await self.flush()
        rounds = 0
        while await self.cleaner.clean_dirtiest():
            rounds += 1
        return rounds

    async def records(self, partition: int = 0, start: int | None = None, isolation: int = 0) -> list[Record]:
        """What a reader finds that reads in small steps, offset by offset dense."""
        log = self.life.log(partition)
        position = log.log_start_offset if start is None else start
        end = log.last_stable_offset if isolation else log.high_watermark
        found: list[Record] = []
        while position < end:
            result = await log.read(position, 300, isolation)
            assert result.end_offset > position and result.buffers, f"nothing at {position} below {end}"
            found += records_in(result.buffers)
            position = result.end_offset
        return [record for record in found if start is None or record.offset >= start]

    async def values(self, partition: int = 0) -> dict[bytes | None, bytes | None]:
        return {record.key: record.value for record in await self.records(partition)}

    async def orphans(self) -> list[str]:
        """Objects in the store that no range and no checkpoint names, once the collector has been."""
        world = self.life.world
        metadata = world.metadata
        world.clock.skew_ms += OBJECT_IDS_TTL_MS
        await self.life.engine.storage._collector.collect()
        world.clock.skew_ms += 10
        await self.life.engine.storage._collector.collect()
        live = {
            object_key(found.ref)
            for stream_id in world.epochs
            for found in await metadata.object_ranges(stream_id, 0, 10_000)
        }
        return sorted({info.key async for info in world.objects.list("")} - live)
