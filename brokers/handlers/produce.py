"""Produce: each partition's batch goes to its log; the answer leaves when the last of them is durable or refused.

Owns: acks, the request's timeout, errors by partition. Does not own: validation, offsets (`partition_log.py`).
Invariants: no task and no future; an append whose outcome is unknown at the timeout answers REQUEST_TIMED_OUT and
stays pending (CORRECTNESS 20). The answer keeps the order of the request.
"""

from __future__ import annotations

from typing import Final

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers import leaders, table
from brokers.handlers.context import RequestContext
from brokers.handlers.errors import count_error
from brokers.handlers.produce_appends import TransactionalAppends, append
from brokers.handlers.services import Services
from brokers.handlers.topic_rules import INTERNAL_TOPICS
from brokers.partitions.partition_log import PartitionLog
from brokers.partitions.pending import AppendResult
from brokers.protocol.produce_codec import (
    PartitionAnswer,
    ProduceRequest,
    Topic,
    decode_produce_request,
    encode_produce_response,
)
from brokers.protocol.tags import NodeEndpoint

ACKS: Final = (-1, 0, 1)
ADMIN_CLIENT: Final = "__admin_client"
"""The one client id that Kafka lets write into internal topics."""
THROTTLE_MS: Final = 100
"""Told to, and imposed on, a producer while memory or the WAL are near their bound."""
_ATTRIBUTES: Final = 22
"""Low byte of a batch's attributes."""
_TRANSACTIONAL: Final = 0x10
_CODEC: Final = 0x07
_ZSTD: Final = 4
ZSTD_KNOWN: Final = 7
"""First version whose batches may be compressed with zstd (KIP-110)."""
_NO_LEADER: Final = ErrorCode.not_leader_or_follower


class _Part:
    """One partition of one request: the log calls it when its append is decided."""

    __slots__ = ("partition", "request", "result")

    def __init__(self, request: _Produce, partition: int) -> None:
        self.request = request
        self.partition = partition
        self.result: AppendResult | None = None

    def __call__(self, result: AppendResult) -> None:
        if self.result is not None:
            return
        self.result = result
        request = self.request
        request.moved = request.moved or result.error is _NO_LEADER
        request.pending -= 1
        if not request.pending:
            request.finish()


class _Produce:
    """A request whose answer is not out yet."""

    __slots__ = ("acks", "ctx", "deadline", "expired", "moved", "pending", "timeout_ms", "topics")

    def __init__(self, ctx: RequestContext, request: ProduceRequest) -> None:
        self.ctx = ctx
        self.acks = request.acks
        self.timeout_ms = request.timeout_ms
        self.topics: list[tuple[Topic, list[_Part]]] = []
        self.pending = 1
        """Undecided appends, and one for the loop that makes them: nothing finishes before all are begun."""
        self.deadline = -1
        self.expired = False
        self.moved = False
        """Another broker leads one of the partitions."""

    def begin(self, request: ProduceRequest) -> None:
        services = self.ctx.services
        refusal, transactional = _judge(request)
        held = None
        if transactional and request.transactional_id is not None:
            held = TransactionalAppends(services, request.transactional_id, self.ctx.api_version)
        internal_allowed = self.ctx.client_id == ADMIN_CLIENT
        old = self.ctx.api_version < ZSTD_KNOWN
        for topic, partitions in request.topics:
            parts: list[_Part] = []
            self.topics.append((topic, parts))
            for index, records in partitions:
                part = _Part(self, index)
                parts.append(part)
                self.pending += 1
                try:
                    if refusal is not None:
                        raise refusal
                    log = _log(services, topic, index)
                    if records is None or (log.topic in INTERNAL_TOPICS and not internal_allowed):
                        raise _unwritable(log, records)
                    if old and len(records) > _ATTRIBUTES and records[_ATTRIBUTES] & _CODEC == _ZSTD:
                        raise KafkaError(ErrorCode.unsupported_compression_type)
                except KafkaError as error:
                    part(AppendResult(error.code, error_message=error.message))
                else:
                    if held is None or len(records) <= _ATTRIBUTES or not records[_ATTRIBUTES] & _TRANSACTIONAL:
                        append(log, records, part)
                    else:
                        held.add(log, records, part)
        if held is not None:
            held.begin()
        self.ctx.body = memoryview(b"")  # the batches are the logs' now; an answer needs no frame
        self.pending -= 1
        if not self.pending:
            self.finish()
        elif self.timeout_ms >= 0:
            self.deadline = services.deadlines.add(self, self.timeout_ms)

    def expire(self) -> None:
        """The appends go on; their outcome is unknown to the client."""
        self.expired = True
        self._answer_when_named()

    def finish(self) -> None:
        if not self.expired:
            self.ctx.services.deadlines.remove(self, self.deadline)
            self._answer_when_named()

    def _answer_when_named(self) -> None:
        if not self.moved or self.acks == 0:
            self._answer()
            return
        moved = [
            (topic, part.partition)
            for topic, parts in self.topics
            for part in parts
            if part.result is not None and part.result.error is _NO_LEADER
        ]
        leaders.when_named(self.ctx.services, moved, self._answer)

    def _answer(self) -> None:
        ctx = self.ctx
        services = ctx.services
        endpoints: dict[int, NodeEndpoint] = {}
        failed = False
        topics: list[tuple[Topic, list[PartitionAnswer]]] = []
        for topic, parts in self.topics:
            answers: list[PartitionAnswer] = []
            for part in parts:
                result = part.result or _TIMED_OUT
                if result.error:
                    failed = True
                    count_error(services.metrics, "Produce", result.error)
                    answers.append(_error_answer(services, topic, part.partition, result, endpoints))
                else:
                    answers.append(
                        PartitionAnswer(
                            part.partition, 0, result.base_offset, result.log_append_time_ms, result.log_start_offset
                        )
                    )
            topics.append((topic, answers))
        self.topics = []  # parts and request hold each other: without this each request waits for the collector
        throttle_ms = 0
        if services.storage.throttled:
            throttle_ms = THROTTLE_MS
            ctx.mute(THROTTLE_MS / 1000)
        if self.acks == 0:
            # Nobody waits for an answer: an error can only be told by ending the connection.
            if failed:
                ctx.close()
            else:
                ctx.respond(None)
            return
        ctx.respond([encode_produce_response(ctx.api_version, topics, throttle_ms, tuple(endpoints.values()))])


_TIMED_OUT: Final = AppendResult(ErrorCode.request_timed_out)


def handle(ctx: RequestContext) -> None:
    request = decode_produce_request(ctx.body, ctx.api_version)
    _Produce(ctx, request).begin(request)


def _judge(request: ProduceRequest) -> tuple[KafkaError | None, bool]:
    """Why the request as a whole cannot be carried out, and whether there are transactional batches in it."""
    if request.acks not in ACKS:
        return KafkaError(ErrorCode.invalid_required_acks), False
    for _, partitions in request.topics:
        for _, records in partitions:
            if records is not None and len(records) > _ATTRIBUTES and records[_ATTRIBUTES] & _TRANSACTIONAL:
                if request.transactional_id is None:
                    return KafkaError(ErrorCode.transactional_id_authorization_failed), False
                return None, True
    return None, False


def _log(services: Services, topic: Topic, partition: int) -> PartitionLog:
    if isinstance(topic, str):
        return services.partitions.log(topic, partition)
    return services.partitions.log_by_id(topic, partition)


def _unwritable(log: PartitionLog, records: memoryview | None) -> KafkaError:
    if records is None:
        return KafkaError(ErrorCode.invalid_record, "Produce requests must have exactly one record batch")
    return KafkaError(ErrorCode.invalid_topic_exception, f"Cannot append to internal topic {log.topic}")


def _error_answer(
    services: Services, topic: Topic, partition: int, result: AppendResult, endpoints: dict[int, NodeEndpoint]
) -> PartitionAnswer:
    leader = None
    if result.error is _NO_LEADER:
        leader = leaders.new_leader(services, topic, partition)
        node = None if leader is None else leaders.endpoint(services.partitions.image, leader)
        if node is not None:
            endpoints[node.node_id] = node
    return PartitionAnswer(
        partition,
        int(result.error),
        result.base_offset,
        result.log_append_time_ms,
        result.log_start_offset,
        result.record_errors,
        result.error_message,
        leader,
    )


API = table.Api(0, "Produce", 3, 13, handle, kind=table.HOT)
