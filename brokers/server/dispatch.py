"""From a frame to its handler, and from what the handler does to the slot's answer.

Owns: header, table lookup, what Kafka does with unknown keys, versions and bodies, errors that leave a handler.
Does not own: order (`connection.py`), any API's meaning (`handlers/`).
Invariant: every slot is filled exactly once, whatever the handler does.
"""

from __future__ import annotations

from typing import Any

import structlog
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError, error_code
from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.handlers.errors import count_error
from brokers.handlers.services import Services
from brokers.protocol.apis import APIS, PRODUCE
from brokers.protocol.header import parse_request_header
from brokers.protocol.messages import (
    decode_latest_request,
    decode_request,
    encode_answer,
    encode_response,
)
from brokers.protocol.primitives import MalformedRequest
from brokers.server.connection import Connection
from brokers.server.rate_limit import RateLimit
from brokers.server.settings import ServerSettings
from brokers.server.slot import Slot
from brokers.server.stats import ApiStats, ServerStats
from s3stream.errors import PonorError

log = structlog.get_logger(__name__)


class _Entry:
    """A served API with what its requests need, made at the first one."""

    __slots__ = ("api", "flexible", "serial", "stats")

    def __init__(self, api: table.Api, stats: ApiStats) -> None:
        self.api = api
        self.stats = stats
        self.flexible = APIS[api.key].flexible
        self.serial = api.key != PRODUCE


class Dispatcher:
    def __init__(self, services: Services, settings: ServerSettings, stats: ServerStats) -> None:
        self._services = services
        self._settings = settings
        self._stats = stats
        self._entries: dict[int, _Entry] = {}
        self._log_failed = RateLimit(services.clock, per_second=1.0)

    def dispatch(self, connection: Connection, frame: bytearray) -> None:
        """Begin the request, or queue it behind the serial one before it. Raises MalformedRequest."""
        view = memoryview(frame)
        key, version, correlation_id, client_id, body_at = parse_request_header(view)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entry(key)
        api = entry.api
        if version < api.min or version > api.max:
            if api.unsupported is None:
                raise MalformedRequest(f"{api.name} version {version} is not served")
            slot = Slot(connection, entry.stats, correlation_id, 0, connection.active_at, len(frame), False)
            connection.add_slot(slot)
            slot.respond([api.unsupported()])
            return
        header_version = APIS[key].response_header_version(version)
        slot = Slot(
            connection, entry.stats, correlation_id, header_version, connection.active_at, len(frame), entry.serial
        )
        context = RequestContext(
            self._services,
            key,
            version,
            correlation_id,
            client_id,
            view[body_at:],
            slot.respond,
            connection.client_host,
            connection.connection_id,
            self._settings.listener,
            connection.active_at,
            slot.close,
            connection.mute,
            connection.client_port,
        )
        connection.add_slot(slot)
        if entry.serial:
            connection.queue_serial(slot, context)
        else:
            self._handle_hot(entry.api, context, slot)

    def begin(self, slot: Slot, context: RequestContext) -> None:
        """A queued serial request's turn has come."""
        services = self._services
        slot.stats.queue_seconds.value += services.clock.monotonic() - slot.received_at
        api = self._entries[context.api_key].api
        if api.kind == table.HOT:
            self._handle_hot(api, context, slot)
        else:
            services.tasks.spawn(self._handle_entity(api, context, slot), api.name)

    def _entry(self, key: int) -> _Entry:
        api = table.handler(key)
        entry = self._entries[key] = _Entry(api, ApiStats(self._services.metrics, api.name))
        return entry

    def _handle_hot(self, api: table.Api, context: RequestContext, slot: Slot) -> None:
        try:
            api.handle(context)
        except Exception as error:
            self._failed(api, context, slot, error)

    async def _handle_entity(self, api: table.Api, context: RequestContext, slot: Slot) -> None:
        version = context.api_version
        request = None
        try:
            decode = decode_request if api.raw else decode_latest_request
            request = decode(context.api_key, version, context.body)
            context.body = memoryview(b"")  # the frame need not live as long as, say, a rebalance
            try:
                response = await api.handle(context, request)
            except (KafkaError, PonorError) as error:
                response = self._error_response(api, request, error_code(error), version)
            body = encode_answer(context.api_key, version, response)
        except Exception as error:
            self._failed(api, context, slot, error, request)
            return
        code = getattr(response, "error_code", None)
        if code:
            count_error(self._services.metrics, api.name, code)
        slot.respond(body)

    def _error_response(self, api: table.Api, request: Any, code: ErrorCode, version: int) -> Any:
        if api.error_response is None:
            raise KafkaError(code, f"{api.name} has no answer for an error of the whole request")
        return api.error_response(request, code, version)

    def _failed(
        self, api: table.Api, context: RequestContext, slot: Slot, error: Exception, request: Any = None
    ) -> None:
        """A request that cannot be read ends its connection; a fault of ours is told to the client if it can be."""
        if isinstance(error, MalformedRequest):
            slot.connection.refused(str(error))
            slot.close()
            return
        self._stats.failed.value += 1
        suppressed = self._log_failed.admit()
        if suppressed is not None:
            log.error(
                "request failed",
                api=api.name,
                version=context.api_version,
                client_id=context.client_id,
                suppressed=suppressed,
                exc_info=error,
            )
        if slot.done:
            return
        if request is not None and api.error_response is not None:
            try:
                version = context.api_version
                response = api.error_response(request, ErrorCode.unknown_server_error, version)
                body = encode_response(context.api_key, version, response)
            except Exception:
                log.exception("no answer for a failed request", api=api.name)
            else:
                count_error(self._services.metrics, api.name, ErrorCode.unknown_server_error)
                slot.respond([body])
                return
        slot.close()
