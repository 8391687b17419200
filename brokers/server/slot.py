"""One request's place in the order of its connection's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokers.protocol.header import frame_header
from s3stream.types import Buffer

if TYPE_CHECKING:
    from brokers.server.connection import Connection
    from brokers.server.stats import ApiStats

JOIN_BYTES_MAX = 4096
"""Below this, one small copy is cheaper than a second buffer in the system call."""


class Slot:
    """Filled once, by `respond` or `close`; sent when every earlier slot of the connection is."""

    __slots__ = (
        "connection", "correlation_id", "done", "frame_bytes", "header_version", "output", "received_at",
        "serial", "size", "stats", "then_close",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        stats: ApiStats,
        correlation_id: int,
        header_version: int,
        received_at: float,
        frame_bytes: int,
        serial: bool,
    ) -> None:
        self.connection = connection
        self.stats = stats
        self.correlation_id = correlation_id
        self.header_version = header_version
        self.received_at = received_at
        self.frame_bytes = frame_bytes
        self.serial = serial
        """Begun only once the serial request before it is done."""
        self.output: list[Buffer] | None = None
        self.size = 0
        """Bytes of `output`."""
        self.done = False
        self.then_close = False

    def respond(self, buffers: list[Buffer] | None) -> None:
        """The answer's body; None: no answer is due. Called exactly once."""
        assert not self.done, "answered twice"
        if buffers is not None:
            if len(buffers) == 1:
                body = buffers[0]
                size = len(body)
                header = frame_header(size, self.correlation_id, self.header_version)
                self.output = [header + body] if size <= JOIN_BYTES_MAX else [header, body]
            else:
                size = sum(map(len, buffers))
                header = frame_header(size, self.correlation_id, self.header_version)
                self.output = [header, *buffers]
            self.size = size + len(header)
            self.stats.response_bytes.value += self.size
        self.done = True
        self.connection.slot_done(self)

    def close(self) -> None:
        """No answer can be given: the connection ends once what came before is answered."""
        assert not self.done, "answered twice"
        self.done = True
        self.then_close = True
        self.connection.slot_done(self)
