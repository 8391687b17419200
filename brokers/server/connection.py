"""One client's socket: frames in, answers out in the order of their requests.

Owns: receive buffers, the bounds of one connection, the order of its answers.
Does not own: what a frame means (`dispatch.py`), when an idle connection ends (`kafka_server.py`).
Invariants: no frame shares memory with another or with the scratch buffer, so a kept batch pins its own frame
only; an idle connection holds no buffer; while a bound is reached the socket is not read.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import Any, Final, cast

from brokers.limits import ANSWER_BYTES_MIN, CONNECTION_RECEIVE_BYTES_MAX, SEND_HIGH_WATER_BYTES, SMALL_FRAME_BYTES
from brokers.protocol.primitives import MalformedRequest
from brokers.server.frames import new_frame
from brokers.server.host import ConnectionHost, keep_alive
from brokers.server.slot import Slot
from s3stream.types import Buffer

_LENGTH: Final = struct.Struct(">i")


class Connection(asyncio.BufferedProtocol):
    __slots__ = (
        "_answer_bytes", "_filled", "_flush_due", "_frame", "_frame_view", "_held", "_host", "_large", "_muted",
        "_parsing", "_rest", "_serial", "_serial_running", "_slots", "_stalled", "_transport", "_unanswered_bytes",
        "_unsent_bytes", "_writing_paused", "active_at", "client_host", "client_port", "closing", "connection_id",
    )  # fmt: skip

    def __init__(self, host: ConnectionHost) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._frame: bytearray | None = None
        """The large frame being received; its bytes come straight from the socket."""
        self._frame_view: memoryview | None = None
        self._filled = 0
        self._rest = b""
        """Bytes received and not yet parsed: a part of a length, or whatever came before a bound was reached."""
        self._large = False
        """The last frame was large: look at the next one's first bytes only, to receive it in place."""
        self._slots: deque[Slot] = deque()
        self._serial: list[tuple[Slot, Any]] = []
        self._serial_running = False
        self._unanswered_bytes = 0
        self._unsent_bytes = 0
        """Of answers that are there and not yet given to the transport."""
        self._answer_bytes = 0
        """Of large answers that the client has not taken: counted in the answers' account."""
        self._flush_due = False
        self._parsing = False
        self._stalled = False
        self._writing_paused = False
        self._muted = False
        self._held = False
        """Draining: no further request is begun."""
        self.closing = False
        self.active_at = 0.0
        self.client_host = ""
        self.client_port = 0
        self.connection_id = 0

    # --- the socket's life ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour only
        self._transport = transport
        transport.set_write_buffer_limits(high=SEND_HIGH_WATER_BYTES)
        keep_alive(transport.get_extra_info("socket"))
        peer = transport.get_extra_info("peername")
        if peer:
            self.client_host, self.client_port = peer[:2]
        self.active_at = self._host.clock.monotonic()
        if not self._host.opened(self):
            self.closing = True
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.closing = True
        if self._frame is not None:
            self._host.budget.give(len(self._frame))
            self._frame = self._frame_view = None
        self._rest = b""
        for slot, _ in self._serial:  # never begun: nobody will answer them
            self._host.budget.give(slot.frame_bytes)
        self._serial.clear()
        self._host.budget.forget(self)
        self._host.answers.give(self._answer_bytes)
        self._answer_bytes = 0
        self._host.closed(self)

    def eof_received(self) -> bool | None:
        """The client sends no more. What it asked for is still answered, a long poll at once: nearly always
        the client is gone, but it may have closed its half only."""
        self._host.ended(self)
        self.finish()
        return True

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self.active_at = self._host.clock.monotonic()
        self._flush()
        self.resume()

    # --- receiving -----------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._frame_view is not None:
            return self._frame_view[self._filled :]
        scratch = self._host.prefix if self._large else self._host.scratch
        rest = self._rest
        if not rest:
            return scratch
        scratch[: len(rest)] = rest
        return scratch[len(rest) :]

    def buffer_updated(self, nbytes: int) -> None:
        self.active_at = self._host.clock.monotonic()
        frame = self._frame
        if frame is None:
            nbytes += len(self._rest)
            self._rest = b""
            self._parse(self._host.scratch[:nbytes])
            return
        self._filled += nbytes
        if self._filled == len(frame):
            self._frame = self._frame_view = None
            self._begin(frame)
            if self._must_wait():
                self._stall(b"")

    def _parse(self, data: memoryview) -> None:
        """Begin every whole frame in `data`, which belongs to others after the return."""
        position, end = 0, len(data)
        self._parsing = True
        while end - position >= 4 and not self.closing:
            if self._must_wait():
                break
            (size,) = _LENGTH.unpack_from(data, position)
            if size < 0 or size > self._host.settings.request_bytes_max:
                self._refuse(f"frame of {size} bytes")
                break
            self._large = size > SMALL_FRAME_BYTES
            stop = position + 4 + size
            self._host.budget.take(size)
            self._unanswered_bytes += size
            if stop > end:
                self._frame = frame = new_frame(size)
                self._filled = end - position - 4
                frame[: self._filled] = data[position + 4 :]
                self._frame_view = memoryview(frame)
                position = end
                break
            frame = bytearray(data[position + 4 : stop])
            position = stop
            self._begin(frame)
        self._parsing = False
        if self._slots and self._slots[0].done:
            self._flush()
        if self.closing:
            return
        if self._must_wait():
            self._stall(bytes(data[position:]))
        elif position < end:
            self._rest = bytes(data[position:])

    def _begin(self, frame: bytearray) -> None:
        try:
            self._host.dispatch(self, frame)
        except MalformedRequest as error:
            self._unanswered_bytes -= len(frame)
            self._host.budget.give(len(frame))
            self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        """End this connection, after the answers to what came before, and nobody else's."""
        self.refused(reason)
        self.finish()

    def refused(self, reason: str) -> None:
        self._host.malformed(self, reason)

    # --- bounds --------------------------------------------------------------------------------

    def _must_wait(self) -> bool:
        return (
            self._writing_paused
            or self._unsent_bytes >= SEND_HIGH_WATER_BYTES
            or len(self._slots) >= self._host.settings.requests_in_flight_max
            or self._unanswered_bytes >= CONNECTION_RECEIVE_BYTES_MAX
            or self._host.budget.full
            or self._held
            or self._muted
        ) and self._frame is None

    def _stall(self, rest: bytes) -> None:
        self._rest = rest
        if self._host.budget.full:
            self._host.budget.wait(self)
        if not self._stalled and self._transport is not None:
            self._stalled = True
            self._host.stats.pauses.value += 1
            self._transport.pause_reading()

    def mute(self, seconds: float) -> None:
        """Begin nothing more for so long: its producer is throttled."""
        if self._muted or self._transport is None:
            return
        self._muted = True
        self._host.loop.call_later(seconds, self._unmute)
        if not self._parsing and self._frame is None and not self._stalled:
            self._stall(self._rest)

    def _unmute(self) -> None:
        self._muted = False
        self.resume()

    def resume(self) -> None:
        """A bound may have gone: parse what was kept, then read on."""
        if not self._stalled or self._parsing or self.closing or self._transport is None:
            return
        if self._must_wait():
            if self._host.budget.full:
                self._host.budget.wait(self)
            return
        rest, self._rest = self._rest, b""
        if rest:
            self._parse(memoryview(rest))
        if self._transport is not None and not self.closing and not self._must_wait():
            self._stalled = False
            self._transport.resume_reading()

    # --- requests in order ---------------------------------------------------------------------

    def add_slot(self, slot: Slot) -> None:
        self._slots.append(slot)

    def queue_serial(self, slot: Slot, request: Any) -> None:
        """Begin `request` once the serial one before it is done: Kafka works on one request of a connection
        at a time, and only Produce may overlap with others here."""
        self._serial.append((slot, request))
        self._run_serial()

    def _run_serial(self) -> None:
        while self._serial and not self._serial_running:
            slot, request = self._serial.pop(0)
            self._serial_running = True
            self._host.begin(slot, request)

    def slot_done(self, slot: Slot) -> None:
        """The slot is filled. Send what is due, begin what waited for it.

        Answers that come in one turn of the loop (a group commit, a read of many frames) go out in one write: the
        system call costs as much as all of our own work on a small request.
        """
        host = self._host
        host.answered(slot)
        if slot.then_close:
            self.finish()
        self._unanswered_bytes -= slot.frame_bytes
        self._unsent_bytes += slot.size
        host.budget.give(slot.frame_bytes)
        if slot.size >= ANSWER_BYTES_MIN and self._transport is not None:
            host.answers.take(slot.size)
            self._answer_bytes += slot.size
        if self._slots[0] is slot:
            if self._unsent_bytes >= SEND_HIGH_WATER_BYTES:
                self._flush()
            elif not self._parsing and not self._flush_due:
                self._flush_due = True
                host.loop.call_soon(self._flush)
        if slot.serial:
            self._serial_running = False
            if self._serial:
                host.loop.call_soon(self._run_serial)
        # Never in this call: an answer may come out of the middle of an append, and must not begin another.
        if self._stalled and not self._must_wait():
            host.loop.call_soon(self.resume)

    def _flush(self) -> None:
        """Give the transport every answer whose turn has come."""
        self._flush_due = False
        slots = self._slots
        transport = self._transport
        out: list[Buffer] = []
        last = False
        if not self._writing_paused:
            while slots and slots[0].done and not last:
                slot = slots.popleft()
                self._unsent_bytes -= slot.size
                if slot.output is not None:
                    out += slot.output
                last = slot.then_close
        if transport is None:
            return
        if len(out) == 1:
            transport.write(out[0])
        elif out:
            transport.writelines(out)
        # The transport pauses us while it holds more than its high-water mark; `resume_writing` comes here again.
        if self._answer_bytes > self._unsent_bytes and not self._writing_paused:
            self._host.answers.give(self._answer_bytes - self._unsent_bytes)
            self._answer_bytes = self._unsent_bytes
        if last or (not slots and self.closing):
            transport.close()
        elif self._stalled and not self._must_wait():
            self._host.loop.call_soon(self.resume)

    # --- ending --------------------------------------------------------------------------------

    def hold(self) -> None:
        """Begin no further request; those that are begun are answered."""
        self._held = True
        if self._transport is not None and self._frame is None:
            self._stall(self._rest)

    @property
    def busy(self) -> bool:
        """A request is begun and not answered, or its answer is not yet with the kernel."""
        if self._transport is None:
            return False
        return bool(self._slots) or self._transport.get_write_buffer_size() > 0

    @property
    def working(self) -> bool:
        """Somebody works on a request of it: it is not idle, unless it is the client who does not read."""
        return bool(self._slots) and not self._writing_paused

    @property
    def receiving(self) -> bool:
        """In the middle of a large frame."""
        return self._frame is not None

    def finish(self) -> None:
        """Read no more; close when everything begun is answered."""
        if self.closing:
            return
        self.closing = True
        transport = self._transport
        if transport is None:
            return
        transport.pause_reading()
        if not self._slots:
            transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
