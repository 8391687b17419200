"""Log compaction by itself: MB of log a second and core, and what the worker's memory is, over a local store.

    python -m tests.benchmarks.compaction [--mib 512] [--record-bytes 1024] [--keys 100000] [--batch-bytes 65536]
    python -m tests.benchmarks.compaction --mib 2048 --record-bytes 128 --keys 10000000

Writes a log of that size in objects, starts the worker as a broker does, and has it do rounds until the log is clean,
as the broker would. The log counted is what was dirty, once, however many rounds that takes and however often the clean
part is read. Processor time and peak memory are the worker's own, from the kernel. What is not here: the broker's one
transaction for each 16 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from brokers.compaction.messages import Begin, Hello, Rewrite
from brokers.compaction.plan import group
from brokers.compaction.process import WorkerProcess
from brokers.compaction.rounds import ids_needed
from brokers.limits import COMPACTED_OBJECT_BYTES, COMPACTION_RANGES_MAX
from brokers.records.batch import parse_header, stamp_in_place
from brokers.records.builder import RecordBatchBuilder
from s3stream.clock import SystemClock
from s3stream.limits import BLOCK_BYTES, MIB
from s3stream.metrics import Metrics
from s3stream.object_writer import ObjectWriter
from s3stream.objectstore import open_store
from s3stream.seams import ObjectStore
from s3stream.settings import EngineSettings
from s3stream.types import ObjectKind, ObjectRange, StreamBatch

STREAM: Final = 1
INCARNATION: Final = 7
FLUSH_BYTES: Final = 32 * MIB
TICKS: Final = os.sysconf("SC_CLK_TCK")


class Ids:
    def __init__(self) -> None:
        self.last = 0

    def take(self, count: int) -> list[tuple[int, int]]:
        first, self.last = self.last + 1, self.last + count
        return [(number, INCARNATION) for number in range(first, self.last + 1)]


async def write_log(store: ObjectStore, options: argparse.Namespace, ids: Ids) -> list[ObjectRange]:
    """Batches of random keys (each key once, where there are as many keys as records), in objects of 32 MiB."""
    chance = random.Random(1)
    records = options.mib * MIB // options.record_bytes
    in_order = options.keys >= records
    value = os.urandom(max(options.record_bytes - 30, 1))
    per_batch = max(options.batch_bytes // options.record_bytes, 1)
    ranges: list[ObjectRange] = []
    offset = 0
    while offset < records:
        start, size, batches = offset, 0, []
        while offset < records and size < FLUSH_BYTES:
            builder = RecordBatchBuilder()
            for number in range(min(per_batch, records - offset)):
                key = offset + number if in_order else chance.randrange(options.keys)
                builder.append(1_000_000 + offset, b"key-%010d" % key, value)
            payload = builder.build()
            stamp_in_place(payload, offset, 0)
            count = parse_header(payload).record_count
            batches.append(StreamBatch(STREAM, 0, offset, count, payload, 1_000_000, 1_000_000))
            offset += count
            size += len(payload)
        [(object_id, incarnation)] = ids.take(1)
        writer = ObjectWriter(ObjectKind.STREAM, object_id, incarnation, EngineSettings())
        writer.add(batches)
        built = writer.finish()
        await store.create(built.key, built.buffers)
        ranges.append(ObjectRange(built.ref, start, offset, size))
    return ranges


async def clean(worker: WorkerProcess, ranges: list[ObjectRange], ids: Ids, map_bytes: int) -> tuple[int, int]:
    """(rounds, records that are left)."""
    first_dirty, end, rounds, left = 0, ranges[-1].end, 0, 0
    while first_dirty < end:
        dirty = [found for found in ranges if found.end > first_dirty]
        begun = await worker.begin(
            Begin(STREAM, 0, 0, first_dirty, end, 2_000_000, 0, map_bytes, 0.9, sys.float_info.max, dirty, [], {})
        )
        replaced: list[ObjectRange] = []
        left = 0
        below = [found for found in ranges if found.start < begun.clean_end]
        for piece in group(below, COMPACTED_OBJECT_BYTES, COMPACTION_RANGES_MAX):
            result = await worker.rewrite(Rewrite(piece, ids.take(ids_needed(piece))))
            left += result.records_kept
            outputs = [ObjectRange(one.ref, one.start, one.end, one.size) for one in result.outputs]
            replaced += outputs or piece
        ranges = [*replaced, *ranges[len(below) :]]
        first_dirty = begun.clean_end
        rounds += 1
    return rounds, left


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


async def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        url = f"file://{folder}"
        store = open_store(url, metrics=Metrics(), clock=SystemClock())
        ids = Ids()
        ranges = await write_log(store, options, ids)
        await store.close()
        size = sum(found.size for found in ranges)
        worker = WorkerProcess(Hello(url, BLOCK_BYTES, False, "warning", "json"))
        began = time.monotonic()
        rounds, left = await clean(worker, ranges, ids, options.map_mib * MIB)
        seconds = time.monotonic() - began
        assert worker.pid is not None
        cpu, peak = cpu_seconds(worker.pid), peak_mib(worker.pid)
        await worker.stop()
    records = ranges[-1].end
    print(
        f"{size / 1e6:.0f} MB of log, {records:,} records of {options.record_bytes} bytes, {left:,} left, "
        f"{rounds} rounds: "
        f"{size / 1e6 / cpu:.0f} MB/s a core ({cpu:.1f} CPU-s), {size / 1e6 / seconds:.0f} MB/s by the clock, "
        f"peak memory {peak:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--record-bytes", type=int, default=1024)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--batch-bytes", type=int, default=65_536)
    parser.add_argument("--map-mib", type=int, default=128)
    parser.add_argument("--folder", help="where the log is written; by default where temporary files go")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
