"""An S3 server that does not keep what it promises: a negative fixture for the check at a broker's start.

Speaks as much S3 as that check and a broker's start need; knows no credentials. What it does with `If-None-Match: *`
is its `fault`.
"""

from __future__ import annotations

import enum
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

LOOK_S = 0.05
"""Between looking for the key and writing it."""


class Fault(enum.Enum):
    NONE = "none"
    """An honest server: shows that the others are refused for their fault."""
    IGNORES = "ignores"
    """The header means nothing: the last writer wins, and the first is not told."""
    RACES = "races"
    """It looks whether the key is there, and then writes: two who look at the same time both win."""
    LISTS_LATE = "lists late"
    """An object is not in a listing until some time after it can be read."""
    BREAKS_OFF = "breaks off"
    """It promises an object's bytes, sends half of them and hangs up."""
    KEEPS = "keeps"
    """Deletion of several objects succeeds as a request, and names each object that it did not delete."""


class CarelessS3:
    """One bucket of any name, in memory, on a free loopback port."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.environment = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="careless S3", daemon=True)

    def __enter__(self) -> CarelessS3:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, bucket: str) -> str:
        return f"s3://{bucket}?endpoint=http://127.0.0.1:{self._server.server_port}"

    def put(self, key: str, data: bytes, conditional: bool) -> bool:
        if self.fault is Fault.RACES and conditional:
            if key in self.objects:
                return False
            time.sleep(LOOK_S)
            conditional = False
        with self.lock:
            if conditional and key in self.objects and self.fault is not Fault.IGNORES:
                return False
            self.objects[key] = data
            return True

    def listed(self, prefix: str, after: str) -> list[str]:
        if self.fault is Fault.LISTS_LATE:
            return []
        return sorted(key for key in self.objects if key.startswith(prefix) and key > after)


def _handler(store: CarelessS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            taken = store.put(self._key(), data, self.headers.get("If-None-Match") == "*")
            self._answer(200, ETag='"1"') if taken else self._error(412, "PreconditionFailed")

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if "list-type" in parts.query:
                self._list(parse_qs(parts.query))
                return
            data = store.objects.get(self._key())
            if data is None:
                self._error(404, "NoSuchKey")
                return
            if store.fault is Fault.BREAKS_OFF:
                self._answer(200, data[: len(data) // 2], length=len(data), ETag='"1"')
                self.close_connection = True
                return
            span = self.headers.get("Range")
            if span is None:
                self._answer(200, data, ETag='"1"')
                return
            first, _, last = span.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1, len(data))
            self._answer(206, data[int(first) : end], ETag='"1"', Content_Range=f"bytes {first}-{end - 1}/{len(data)}")

        def do_HEAD(self) -> None:
            data = store.objects.get(self._key())
            self._answer(404 if data is None else 200, head=True, length=len(data or b""), ETag='"1"')

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            keys = [part.partition("</Key>")[0] for part in body.split("<Key>")[1:]]
            if store.fault is Fault.KEEPS:
                errors = "".join(f"<Error><Key>{escape(key)}</Key><Code>InternalError</Code></Error>" for key in keys)
                self._answer(200, f"<DeleteResult>{errors}</DeleteResult>".encode())
                return
            for key in keys:
                store.objects.pop(key, None)
            deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
            self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

        def do_DELETE(self) -> None:
            store.objects.pop(self._key(), None)
            self._answer(204)

        def _list(self, query: dict[str, list[str]]) -> None:
            keys = store.listed(query.get("prefix", [""])[0], query.get("start-after", [""])[0])
            found = "".join(
                f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>1</ETag><Size>{len(store.objects[key])}</Size></Contents>"
                for key in keys
            )
            self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode())

        def _key(self) -> str:
            return unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]

        def _error(self, status: int, code: str) -> None:
            self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())

        def _answer(
            self, status: int, body: bytes = b"", head: bool = False, length: int | None = None, **headers: str
        ) -> None:
            self.send_response(status)
            for name, value in {"Last-Modified": formatdate(usegmt=True), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            if not head:
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

    return Handler
