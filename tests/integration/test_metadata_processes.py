"""Several processes of one machine on one SQLite file: they commit at the same time, and none is told "locked"."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from tests.support.metadata import open_for_test

PROCESSES = 4
COMMITS = 30
CODE = """
import asyncio, sys
from uuid import UUID
from s3stream.types import CommittedRange, RangeOutcome
from tests.support.metadata import Node, open_for_test

async def main(url, number):
    metadata = await open_for_test(url, seed=number)
    node = await Node.register(metadata, number)
    topic = await metadata.create_topic(f"t{number}", UUID(int=number + 1), [[number]] * 4)
    streams = [partition.stream_id for partition in topic.partitions]
    for stream in streams:
        await node.open(stream)
    print("ready", flush=True)
    sys.stdin.readline()
    for step in range(COMMITS):
        result = await node.commit(*(CommittedRange(stream, 0, step, step + 1, 1) for stream in streams), trim=step)
        assert set(result.outcomes.values()) == {RangeOutcome.COMMITTED}
        await metadata.heartbeat(node.identity)
        if step % 20 == 0:
            await metadata.alter_configs("broker", str(number), {"step": str(step)})
            await metadata.load_image()
    await metadata.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_brokers_of_one_machine_commit_at_the_same_time(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/metadata.db"
    code = CODE.replace("COMMITS", str(COMMITS))
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, url, str(number), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        await process.stdout.readline()
    answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [error.decode()[-2000:] for _, error in answers] == [""] * PROCESSES
    assert [process.returncode for process in processes] == [0] * PROCESSES
    metadata = await open_for_test(url)
    image = await metadata.load_image()
    assert set(image.nodes) == set(range(PROCESSES))
    rows = await metadata.streams([part.stream_id for topic in image.topics.values() for part in topic.partitions])
    assert [(row.committed_end, row.size_bytes) for row in rows] == [(COMMITS, COMMITS)] * 4 * PROCESSES
    assert {image.broker_configs[str(number)]["step"] for number in range(PROCESSES)} == {"20"}
    await metadata.close()
