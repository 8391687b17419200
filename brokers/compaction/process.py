"""The broker's end of its compaction worker: started when there is work, watched while it works, ended with the broker.

Owns: the process, one question at a time, the patience for its answer. Does not own: what it is asked (log_cleaner.py).
Invariant: when `ask` raises, or is cancelled, between question and answer, the process is killed: an answer is never
taken for another question's.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Protocol

import structlog

from brokers.compaction.messages import (
    FRAME_BYTES_MAX,
    LENGTH,
    Begin,
    Begun,
    Failed,
    Hello,
    Message,
    Progress,
    Rewrite,
    Rewritten,
    decode,
    encode,
)
from brokers.limits import COMPACTION_SILENCE_S
from s3stream.errors import Corrupt, NotFound, PonorError, Unavailable

log = structlog.get_logger(__name__)

STOP_SECONDS = 1.0
_KNOWN = {error.__name__: error for error in (Corrupt, NotFound, Unavailable)}


class WorkerDied(Unavailable):
    """The process is gone, or hung and was killed. Another one is started for the next question."""


class RoundFailed(PonorError):
    """The worker could not do it, and would not the next time."""


class Worker(Protocol):
    """Does rounds, one at a time, as `rounds.Rounds`. Raises Corrupt, NotFound, Unavailable, RoundFailed."""

    async def begin(self, what: Begin) -> Begun: ...

    async def rewrite(self, what: Rewrite) -> Rewritten: ...

    async def stop(self) -> None:
        """End it; the next question starts another."""


class WorkerProcess:
    def __init__(self, hello: Hello, silence_s: float = COMPACTION_SILENCE_S) -> None:
        self._hello = hello
        self.silence_s = silence_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def begin(self, what: Begin) -> Begun:
        answer = await self._ask(what)
        assert isinstance(answer, Begun)
        return answer

    async def rewrite(self, what: Rewrite) -> Rewritten:
        answer = await self._ask(what)
        assert isinstance(answer, Rewritten)
        return answer

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, question: Message) -> Message:
        process = await self._running()
        try:
            answer = await self._exchange(process, question)
        except (OSError, EOFError, TimeoutError) as error:
            await self._kill()
            raise WorkerDied(
                f"the compaction worker {process.pid} is gone or silent (status {process.returncode}): {error!r}"
            ) from error
        except BaseException:
            await self._kill()
            raise
        if isinstance(answer, Failed):
            raise _KNOWN.get(answer.kind, RoundFailed)(answer.text)
        return answer

    async def _exchange(self, process: asyncio.subprocess.Process, question: Message) -> Message:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(encode(question))
        await process.stdin.drain()
        while True:
            async with asyncio.timeout(self.silence_s):
                (size,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
                if size > FRAME_BYTES_MAX:
                    raise EOFError(f"an answer of {size} bytes")
                answer = decode(await process.stdout.readexactly(size))
            if not isinstance(answer, Progress):
                return answer

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        # Its standard error is the broker's; of the environment it needs the store's credentials.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "brokers.compaction.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(encode(self._hello))
        log.info("compaction worker started", pid=self._process.pid)
        return self._process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
