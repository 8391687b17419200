"""The compaction worker: a process of its own that a broker starts, asks, and ends.

Owns: the process's life, its place behind everything else (nice). Does not own: a stream, the metadata, when to work.
Invariants: one question at a time, each answered once; it ends when its standard input does, whatever it is doing, so
that it never outlives its broker. Standard output carries answers alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from random import Random, SystemRandom
from typing import BinaryIO, Final

import structlog

from brokers import logs
from brokers.compaction.messages import LENGTH, Begin, Failed, Hello, Message, Progress, Rewrite, decode, encode
from brokers.compaction.rounds import Rounds
from s3stream.clock import SystemClock
from s3stream.errors import PonorError
from s3stream.metrics import Metrics
from s3stream.objectstore import open_store
from s3stream.seams import Clock
from s3stream.settings import EngineSettings

log = structlog.get_logger(__name__)

NICENESS: Final = 10
"""Brokers and their clients come first; alone on the machine it has all of a core."""
PROGRESS_SECONDS: Final = 1.0


def main() -> None:
    """Run until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints is no answer
    hello = _read(sys.stdin.buffer)
    if isinstance(hello, Hello):
        # A signal to the whole group stops the broker, which then ends this process.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.nice(NICENESS)
        logs.configure(hello.log_level, hello.log_format)
        asyncio.run(_Worker(hello, answers, SystemClock(), SystemRandom()).run(sys.stdin.buffer))


class _Worker:
    def __init__(self, hello: Hello, answers: BinaryIO, clock: Clock, random: Random) -> None:
        self._hello = hello
        self._answers = answers
        self._clock = clock
        self._random = random
        self._said_at = 0.0

    async def run(self, questions: BinaryIO) -> None:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Message] = asyncio.Queue()
        # A thread, since the loop may be busy with records when the broker dies.
        threading.Thread(target=self._listen, args=(questions, loop, queue), daemon=True).start()
        store = open_store(self._hello.object_store_url, metrics=Metrics(), clock=self._clock, random=self._random)
        settings = EngineSettings(block_bytes=self._hello.block_bytes, block_compression=self._hello.block_compression)
        rounds = Rounds(store, settings, self._clock, self._progress)
        while True:
            self._answers.write(encode(await self._answer(rounds, await queue.get())))

    def _listen(self, questions: BinaryIO, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Message]) -> None:
        while (message := _read(questions)) is not None:
            loop.call_soon_threadsafe(queue.put_nowait, message)
        os._exit(0)

    async def _answer(self, rounds: Rounds, question: Message) -> Message:
        try:
            if isinstance(question, Begin):
                return await rounds.begin(question)
            assert isinstance(question, Rewrite), question
            return await rounds.rewrite(question)
        except PonorError as error:
            return Failed(type(error).__name__, str(error))
        except Exception as error:  # a fault of ours, or a batch that nobody foresaw: the broker decides
            log.exception("a round of compaction failed")
            return Failed(type(error).__name__, repr(error))

    def _progress(self, bytes_done: int) -> None:
        now = self._clock.monotonic()
        if now - self._said_at >= PROGRESS_SECONDS:
            self._said_at = now
            self._answers.write(encode(Progress(bytes_done)))


def _read(pipe: BinaryIO) -> Message | None:
    """The next message; None at the end."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    body = pipe.read(LENGTH.unpack(head)[0])
    return decode(body)


if __name__ == "__main__":
    main()
