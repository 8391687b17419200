"""The compaction worker as a process: what it answers, how it ends, what becomes of a question it does not answer."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brokers.compaction.messages import Begin, Hello, Rewrite
from brokers.compaction.process import RoundFailed, WorkerDied, WorkerProcess
from brokers.compaction.rounds import Rounds
from s3stream.clock import SystemClock
from s3stream.errors import Corrupt, NotFound
from s3stream.metrics import Metrics
from s3stream.object_format import object_key
from s3stream.object_writer import ObjectWriter
from s3stream.objectstore import open_store
from s3stream.seams import ObjectStore
from s3stream.settings import EngineSettings
from s3stream.types import ObjectKind, ObjectRange, ObjectRef
from tests.support.compacted_log import STREAM, LogModel

PATIENCE_S = 20.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/objects"


@pytest.fixture
async def store(url: str) -> AsyncIterator[ObjectStore]:
    store = open_store(url, metrics=Metrics(), clock=SystemClock())
    yield store
    await store.close()


@pytest.fixture
async def worker(url: str) -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess(Hello(url, 4096, False, "info", "json"), silence_s=PATIENCE_S)
    yield worker
    await worker.stop()


async def written(store: ObjectStore, records: int = 300) -> ObjectRange:
    log = LogModel()
    for number in range(records):
        log.append([(b"key %d" % (number % 7), b"%d" % number)], 1_000 + number)
    writer = ObjectWriter(ObjectKind.STREAM, 1, 99, EngineSettings(block_bytes=4096))
    writer.add(log.batches)
    built = writer.finish()
    await store.create(built.key, built.buffers)
    return ObjectRange(built.ref, 0, records, built.ranges[0].size)


def begin(found: ObjectRange, **changes: object) -> Begin:
    what = Begin(STREAM, 5, 0, 0, found.end, 10_000, 0, 1 << 20, 0.9, 1e12, [found], [], {})
    return what._replace(**changes)  # type: ignore[arg-type]


async def test_the_process_does_what_its_rounds_do(store: ObjectStore, worker: WorkerProcess) -> None:
    found = await written(store)
    here = Rounds(store, EngineSettings(block_bytes=4096), SystemClock(), lambda _: None)
    assert await worker.begin(begin(found)) == await here.begin(begin(found))
    there = await worker.rewrite(Rewrite([found], [(2, 99)]))
    mine = await here.rewrite(Rewrite([found], [(3, 99)]))
    assert there._replace(outputs=[]) == mine._replace(outputs=[])
    assert (there.records_read, there.records_kept) == (300, 7)
    (one,), (other,) = there.outputs, mine.outputs
    assert (one.start, one.end, one.size) == (other.start, other.end, other.size) == (0, 300, one.size)
    assert len(await store.get(object_key(one.ref))) == one.ref.size == other.ref.size


async def test_faults_are_told_by_name_and_the_worker_goes_on(
    store: ObjectStore, worker: WorkerProcess, tmp_path: Path
) -> None:
    found = await written(store)
    gone = found._replace(ref=ObjectRef(50, 99, 1_000))
    with pytest.raises(NotFound):
        await worker.begin(begin(gone))
    with pytest.raises(RoundFailed, match="a fault of ours"):
        await worker.begin(begin(found, load_factor="a fault of ours"))
    [path] = (tmp_path / "objects").rglob("*.obj")
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Corrupt):
        await worker.begin(begin(found))
    assert worker.pid is not None


async def test_a_worker_that_is_killed_is_replaced_at_the_next_question(
    store: ObjectStore, worker: WorkerProcess
) -> None:
    found = await written(store)
    await worker.begin(begin(found))
    pid = worker.pid
    assert pid is not None
    await stopped(pid)
    asking = asyncio.ensure_future(worker.rewrite(Rewrite([found], [(2, 99)])))
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        await asking
    assert (await worker.begin(begin(found))).clean_end == 300
    assert worker.pid not in (None, pid)


async def test_a_worker_that_says_nothing_is_killed(store: ObjectStore, worker: WorkerProcess) -> None:
    found = await written(store)
    await worker.begin(begin(found))
    pid = worker.pid
    assert pid is not None
    await stopped(pid)
    worker.silence_s = 0.5
    with pytest.raises(WorkerDied, match="silent"):
        await worker.begin(begin(found))
    assert not alive(pid)


async def test_a_question_that_is_given_up_ends_the_worker(store: ObjectStore, worker: WorkerProcess) -> None:
    """Its answer would be taken for the next question's."""
    found = await written(store)
    await worker.begin(begin(found))
    pid = worker.pid
    assert pid is not None
    asking = asyncio.ensure_future(worker.begin(begin(found, bytes_per_second=1.0)))
    await asyncio.sleep(0.2)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not alive(pid)
    assert (await worker.begin(begin(found))).keys == 7


async def test_a_worker_that_does_not_end_when_told_is_killed(store: ObjectStore, worker: WorkerProcess) -> None:
    await worker.begin(begin(await written(store)))
    process = worker._process
    assert process is not None
    await stopped(process.pid)
    await worker.stop()
    assert process.returncode == -signal.SIGKILL and worker.pid is None


async def test_what_is_no_answer_ends_the_worker(store: ObjectStore, url: str) -> None:
    class Babbling(WorkerProcess):
        async def _running(self) -> asyncio.subprocess.Process:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "import sys; print('\x7f' * 100, flush=True); sys.stdin.read()",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            return self._process

    worker = Babbling(Hello(url, 4096, False, "info", "json"))
    with pytest.raises(WorkerDied, match="an answer of"):
        await worker.begin(begin(await written(store)))
    assert worker.pid is None


OWNER = """
import asyncio, sys
from brokers.compaction.process import WorkerProcess
from brokers.compaction.messages import Hello
from tests.integration.test_compaction_worker import begin
from s3stream.types import ObjectRange, ObjectRef

async def main():
    worker = WorkerProcess(Hello(sys.argv[1], 4096, False, "info", "json"))
    found = ObjectRange(ObjectRef(1, 99, int(sys.argv[2])), 0, 300, 1)
    asking = asyncio.ensure_future(worker.begin(begin(found, bytes_per_second=10.0)))
    while worker.pid is None:
        await asyncio.sleep(0.01)
    print(worker.pid, flush=True)
    await asking

asyncio.run(main())
"""


async def test_a_worker_ends_with_its_broker_also_in_the_middle_of_a_round(store: ObjectStore, url: str) -> None:
    found = await written(store)
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, url, str(found.ref.size), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    while not (line := await owner.stdout.readline()).strip().isdigit():
        assert line, "the owner ended"
    pid = int(line)
    assert alive(pid)
    owner.kill()
    await owner.wait()
    deadline = time.monotonic() + PATIENCE_S
    while alive(pid):
        assert time.monotonic() < deadline, "the worker outlived its broker"
        await asyncio.sleep(0.05)


def alive(pid: int) -> bool:
    return state(pid) not in ("Z", None)


async def stopped(pid: int) -> None:
    """A signal is only sent when `kill` returns: until a thread of the worker, which is nice and may wait for a core,
    has taken it, another may still see standard input end, and end the process."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + PATIENCE_S
    while state(pid) != "T":
        assert time.monotonic() < deadline, "the worker was not stopped"
        await asyncio.sleep(0.001)


def state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
