"""A local cluster: broker processes in the foreground, each a child of this one.

Owns: starting, watching, restarting and stopping the children, the line that says ready.
Does not own: what a broker is told (settings come in), what it does.
Invariant: no child outlives this process: each holds the end of a pipe that closes with it. Children are forked
before anything heavy is imported, so that a broker starts as fast as by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TextIO

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
FORCE_AFTER_SECONDS: Final = 1.0
"""As in process.py: signals of one moment are one."""
RESTART_SECONDS: Final = 1.0

Serve = Callable[[Mapping[str, str], int, int], int]
"""(settings, ready fd, lifeline fd) → exit code: what a child runs."""


@dataclass
class Child:
    number: int
    settings: Mapping[str, str]
    pid: int = 0
    ready_fd: int = -1
    lifeline_fd: int = -1
    addresses: dict[str, str] | None = None
    """Known once it is ready."""
    restart_at: float = 0.0


class LocalCluster:
    def __init__(self, brokers: Sequence[Mapping[str, str]], serve: Serve, restart: bool) -> None:
        self._children = [Child(number, settings) for number, settings in enumerate(brokers)]
        self._serve = serve
        self._restart = restart
        self._told_at: float | None = None
        self._announced = False
        self._exit_code = 0
        self._wake_fd = -1

    def run(self) -> int:
        """Until all brokers have ended. The exit code: 0 after an orderly stop, 2 when a setting was at fault."""
        self._wake_fd, writer = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        for child in self._children:
            self._start(child)
        while any(child.pid or child.restart_at for child in self._children):
            self._turn()
        return self._exit_code

    def _turn(self) -> None:
        """Wait for something to happen, and act on it."""
        descriptors = [self._wake_fd, *(child.ready_fd for child in self._children if child.ready_fd >= 0)]
        due = [child.restart_at for child in self._children if child.restart_at]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        readable, _, _ = select.select(descriptors, [], [], timeout)
        if self._wake_fd in readable:
            for number in os.read(self._wake_fd, 4096):
                if number in SIGNALS:
                    self._tell()
        for child in self._children:
            if child.ready_fd in readable:
                self._hear(child)
        self._bury()
        for child in self._children:
            if child.restart_at and time.monotonic() >= child.restart_at:
                child.restart_at = 0.0
                self._start(child)

    # --- one child -----------------------------------------------------------------------------

    def _start(self, child: Child) -> None:
        ready_read, ready_write = os.pipe()
        lifeline_read, lifeline_write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that comes in between is delivered to the child once its own disposition is set.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid == 0:
            os._exit(self._be_child(child, ready_write, lifeline_read, (ready_read, lifeline_write)))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(ready_write)
        os.close(lifeline_read)
        child.pid, child.ready_fd, child.lifeline_fd, child.addresses = pid, ready_read, lifeline_write, None

    def _be_child(self, child: Child, ready_fd: int, lifeline_fd: int, others: Sequence[int]) -> int:
        code = 1
        try:
            os.setsid()  # a Ctrl-C is for the parent, which tells its children in order
            signal.set_wakeup_fd(-1)
            for number in (*SIGNALS, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            for sibling in self._children:
                others = (*others, sibling.ready_fd, sibling.lifeline_fd)
            for descriptor in others:
                if descriptor >= 0:
                    os.close(descriptor)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = self._serve(child.settings, ready_fd, lifeline_fd)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        return code

    def _hear(self, child: Child) -> None:
        line = os.read(child.ready_fd, 4096)
        os.close(child.ready_fd)
        child.ready_fd = -1
        if not line:
            return  # it ended before it was ready: `_bury` says so
        child.addresses = json.loads(line)
        if self._announced:
            _say(f"ponor: broker {child.number} is back, process {child.pid}", sys.stdout)
        elif all(other.addresses for other in self._children):
            self._announced = True
            kafka = ",".join(other.addresses["kafka"] for other in self._children if other.addresses)
            http = ",".join(other.addresses["http"] for other in self._children if other.addresses)
            _say(f"ponor ready: kafka {kafka} http {http}", sys.stdout)

    # --- the end -------------------------------------------------------------------------------

    def _tell(self) -> None:
        now = time.monotonic()
        if self._told_at is None:
            self._told_at = now
        elif now - self._told_at < FORCE_AFTER_SECONDS:
            return
        for child in self._children:
            child.restart_at = 0.0
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)

    def _bury(self) -> None:
        for child in self._children:
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        if child.ready_fd >= 0:
            os.close(child.ready_fd)
        os.close(child.lifeline_fd)
        pid, child.pid, child.ready_fd, child.lifeline_fd = child.pid, 0, -1, -1
        was_ready, child.addresses = child.addresses is not None, None
        if self._told_at is not None:
            self._exit_code = max(self._exit_code, 1 if code else 0)
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if not was_ready and not self._announced:
            # What was wrong is on standard error already; the others have nothing to wait for.
            self._exit_code = code if code > 0 else 1
            self._tell()
            return
        again = f"; starting it again in {RESTART_SECONDS:.0f} s" if self._restart else ""
        _say(f"ponor: broker {child.number} (process {pid}) {how}{again}", sys.stderr)
        if self._restart:
            child.restart_at = time.monotonic() + RESTART_SECONDS
        elif not any(other.pid for other in self._children):
            self._exit_code = 1 if code else 0


def _say(line: str, out: TextIO) -> None:
    """Nobody may be listening, or the disk of the log be full: that ends no broker."""
    with contextlib.suppress(OSError):
        print(line, file=out, flush=True)
