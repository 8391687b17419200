"""A TCP proxy in front of an object store that answers 503, hangs, is slow, or passes everything on.

Bytes are passed as they are: the Host header, which S3 signatures cover, is the proxy's own address on both sides.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import threading
import time

_BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_BODY)
) + _BODY


class Mode(enum.Enum):
    PASS = "pass"
    REFUSE = "refuse"
    """Every request is read whole and answered 503 SlowDown."""
    HANG = "hang"
    """Connections are accepted, requests taken in, nothing is answered."""
    SLOW = "slow"
    """Everything is passed on, each answer later by `latency_seconds`."""


class FaultProxy:
    """Listens on a free loopback port. `mode` changes are felt by every connection, also those that are open."""

    def __init__(self, target_port: int, latency_seconds: float = 0.0) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.latency_seconds = latency_seconds
        self.refused = 0
        """Requests answered 503."""
        self.hung = 0
        """Connections taken in and left without an answer."""
        self._mode = Mode.PASS
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="fault proxy", daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, mode: Mode) -> None:
        """Connections of the old mode end, except that hanging means that nobody hears anything, not even an end."""
        with self._lock:
            self._mode = mode
            ended = [] if mode is Mode.HANG else list(self._open)
        for each in ended:
            _end(each)

    def close(self) -> None:
        _end(self._listener)
        self._listener.close()
        self.set(Mode.PASS)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- one connection ------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="fault proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            mode = self._mode
            self._open.add(client)
        try:
            with client, contextlib.suppress(OSError):
                if mode is Mode.REFUSE:
                    self._refuse(client)
                elif mode is Mode.HANG:
                    self.hung += 1
                    while client.recv(1 << 16):
                        pass
                else:
                    self._pass_on(client)
        finally:
            with self._lock:
                self._open.discard(client)

    def _refuse(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = client.recv(1 << 16)
            if not received:
                return
            head += received
        head, _, body = head.partition(b"\r\n\r\n")
        left = _content_length(head) - len(body)
        while left > 0 and (received := client.recv(min(left, 1 << 16))):
            left -= len(received)
        self.refused += 1
        client.sendall(_REFUSAL)

    def _pass_on(self, client: socket.socket) -> None:
        with socket.create_connection(self._target) as server:
            back = threading.Thread(target=self._copy, args=(server, client, True), name="fault proxy", daemon=True)
            back.start()
            self._copy(client, server, False)
            back.join()

    def _copy(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        """Until one side ends; while the proxy hangs, what was read stays here."""
        with contextlib.suppress(OSError):
            while received := source.recv(1 << 16):
                if self._mode is Mode.HANG:
                    continue
                if self._mode is Mode.SLOW and answers:
                    time.sleep(self.latency_seconds)
                sink.sendall(received)
        if self._mode is not Mode.HANG:
            _end(source)
            _end(sink)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
