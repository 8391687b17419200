"""One broker process: from settings to an exit code.

Owns: signals, the exit code, the one line for each fault of a start; that a broker which others have taken for dead is
followed by a new one in this process.
Exit codes: 0 an orderly stop; 2 a setting is at fault, nothing was touched; 1 anything else.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

from brokers import logs
from brokers.cli import runtime
from brokers.config import BrokerConfig, broker_config
from s3stream.backoff import Backoff
from s3stream.errors import BadSetting, PonorError

if TYPE_CHECKING:
    from brokers.broker import Broker

log = structlog.get_logger(__name__)

BAD_SETTING: Final = 2
FAILED: Final = 1
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
FORCE_AFTER_SECONDS: Final = 1.0
"""A second signal forces; one that comes with the first (a shell, make and the terminal may each send one) does not."""


def run(settings: Mapping[str, str], ready_fd: int | None = None, lifeline_fd: int | None = None) -> int:
    """Serve until told to stop. `ready_fd`: one JSON line is written there when clients are served. `lifeline_fd`:
    its end of file means that whoever started this process is gone: stop."""
    try:
        config = broker_config(settings)
        logs.configure(config.log_level, config.log_format)
        runtime.tune(config.memory_bytes)
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Process(config, ready_fd, lifeline_fd).run())
    except BadSetting as error:
        return _fault(error, BAD_SETTING)
    except PonorError as error:
        return _fault(error, FAILED)


def _fault(error: Exception, code: int) -> int:
    print(f"ponor: {error}", file=sys.stderr, flush=True)
    return code


class _Process:
    def __init__(self, config: BrokerConfig, ready_fd: int | None, lifeline_fd: int | None) -> None:
        self._config = config
        self._ready_fd = ready_fd
        self._lifeline_fd = lifeline_fd
        self._told = asyncio.Event()
        self._told_at = 0.0
        self._forced = asyncio.Event()

    async def run(self) -> int:
        self._listen()
        from brokers.broker import Broker

        broker = Broker(self._config)
        started = await self._unless_told(broker.start())
        if not started:
            return 0
        runtime.settle()
        self._say_ready(broker)
        lives = 1
        while await self._fenced_before_told(broker):
            lives += 1
            again = await self._begin_again(broker, lives)
            if again is None:
                return 0
            broker = again
        return await self._stop(broker)

    async def _fenced_before_told(self, broker: Broker) -> bool:
        told = asyncio.ensure_future(self._told.wait())
        fenced = asyncio.ensure_future(broker.fenced.wait())
        await asyncio.wait((told, fenced), return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        fenced.cancel()
        return not self._told.is_set()

    async def _begin_again(self, fenced: Broker, lives: int) -> Broker | None:
        """The broker's next life, on the same ports; None when somebody said stop. Tried until it comes about: this
        process served before, and whatever keeps it from that now may pass."""
        from brokers.broker import Broker

        await fenced.abandon()
        runtime.unsettle()
        backoff = Backoff(random.SystemRandom())
        while True:
            broker = Broker(fenced.config, lives)
            try:
                if not await self._unless_told(broker.start()):
                    return None
            except PonorError as error:
                log.error("cannot register again yet", error=str(error))
            else:
                runtime.settle()
                return broker
            if not await self._unless_told(asyncio.sleep(backoff.next())):
                return None

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._tell)
        if self._lifeline_fd is not None:
            loop.add_reader(self._lifeline_fd, self._orphaned, loop)

    def _orphaned(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._lifeline_fd is not None
        loop.remove_reader(self._lifeline_fd)
        self._tell()

    def _tell(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._told.is_set():
            self._told_at = now
            self._told.set()
        elif now - self._told_at >= FORCE_AFTER_SECONDS:
            self._forced.set()

    async def _unless_told(self, starting: Coroutine[Any, Any, None]) -> bool:
        """Whether the start came to its end before somebody said stop."""
        start = asyncio.ensure_future(starting)
        told = asyncio.ensure_future(self._told.wait())
        await asyncio.wait((start, told), return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if start.done():
            start.result()
            return True
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        return False

    async def _stop(self, broker: Broker) -> int:
        stop = asyncio.ensure_future(broker.stop())
        forced = asyncio.ensure_future(self._forced.wait())
        await asyncio.wait((stop, forced), return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if stop.done():
            stop.result()
            return 0
        # Each step of the stop that is waiting is given up in turn; the WAL keeps what was not flushed.
        while not stop.done():
            stop.cancel()
            await asyncio.wait((stop,), timeout=0.1)
        return FAILED

    def _say_ready(self, broker: Broker) -> None:
        if self._ready_fd is None:
            return
        config = broker.config
        line = {"kafka": config.advertised.address, "http": f"{config.http_host}:{config.http_port}"}
        try:
            os.write(self._ready_fd, json.dumps(line).encode() + b"\n")
            os.close(self._ready_fd)
        except OSError:
            pass  # nobody listens any more: the lifeline will say so
