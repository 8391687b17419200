"""The rows of a broker without a disk: write-ahead log and objects on the same MinIO.

Owns: what one producer sees beside a bare PUT, what a GB costs, which requests an acknowledgement takes.
Does not own: the table (report.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import quantiles

from tests.benchmarks import procfs
from tests.benchmarks.clients import JavaTools, closed_loop
from tests.benchmarks.systems import Ponor
from tests.benchmarks.workloads import GIGABYTE, KIB, Samples, Scale
from tests.support.servers import ACCESS_KEY, REGION, SECRET_KEY, MinioServer

RECORD_BYTES = 4 * KIB
BARE = "bare client"


def bare_puts(minio: MinioServer, bucket: str, count: int) -> list[float]:
    """Seconds of each of `count` PUTs of 4 KiB, one after the other, each under a new key."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        bucket, endpoint=minio.endpoint, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, region=REGION,
        virtual_hosted_style_request=False, client_options={"allow_http": True},
    )  # fmt: skip
    data = os.urandom(RECORD_BYTES)
    run = os.urandom(8).hex()
    times = []
    for number in range(count):
        begin = time.perf_counter()
        obstore.put(store, f"bare/{run}/{number:08}", data, mode="create")
        times.append(time.perf_counter() - begin)
    return times


def object_wal(ponor: Ponor, java: JavaTools, scale: Scale, samples: Samples, bare: Callable[[], list[float]]) -> None:
    """`bare` is asked before and after, so that what slows MinIO for a while slows both."""
    ponor.create_topic("wal-loop", 1)
    for _ in range(scale.rounds):
        _latency(samples, BARE, bare())
        _latency(samples, ponor.name, closed_loop(ponor.bootstrap, "wal-loop", scale.loop_records, RECORD_BYTES))
    for number in range(scale.rounds + 1):
        _throughput(ponor, java, scale, samples if number else Samples(), f"wal-bulk-{number}")
    groups = ponor.metric("ponor_wal_group_bytes_count")
    puts = ponor.metric("ponor_wal_puts_total", reason="first")
    samples.add("object WAL, requests on the acknowledgement path", "PUTs/group", ponor.name, puts / groups)
    for reason in ("hedge", "repeat"):
        share = ponor.metric("ponor_wal_puts_total", reason=reason) / groups
        samples.add("object WAL, requests on the acknowledgement path", f"{reason}s/group", ponor.name, share)
    read = ponor.metric("ponor_wal_put_conflicts_total") / groups
    samples.add("object WAL, requests on the acknowledgement path", "GETs/group", ponor.name, read)


def _latency(samples: Samples, name: str, seconds: list[float]) -> None:
    cuts = quantiles(seconds, n=100)
    samples.add("object WAL, one 4 KiB record at a time", "p50 ms", name, 1e3 * cuts[49])
    samples.add("object WAL, one 4 KiB record at a time", "p99 ms", name, 1e3 * cuts[98])


def _throughput(ponor: Ponor, java: JavaTools, scale: Scale, samples: Samples, topic: str) -> None:
    ponor.create_topic(topic, 8)
    before = procfs.cpu_seconds(ponor.pid)
    result = java.produce(
        ponor.bootstrap, topic, scale.records, KIB, batch_size=65536, linger_ms=5, buffer_memory=67_108_864
    )
    ponor.settle()
    used = procfs.cpu_seconds(ponor.pid) - before
    row = "object WAL, produce 1 KiB, 64 KiB batches"
    samples.add(row, "MB/s", ponor.name, result.megabytes_per_second)
    samples.add(row, "CPU-s/GB", ponor.name, used / (scale.records * KIB / GIGABYTE))
    ponor.delete_topic(topic)


__all__ = ["bare_puts", "object_wal"]
