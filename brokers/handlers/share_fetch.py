"""ShareFetch: records that a member of a share group acquires, and its word on those it has (KIP-932).

Owns: the request's limits, when it is answered. Does not own: one partition's part (shares/fetching.py), sessions
(shares/sessions.py), acknowledgements (share_messages.py).
Invariants: nothing is acquired before the answer is sure to be made. A request that waits is woken by its partitions,
its share-partitions or its timer, never by polling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers import share_messages as messages
from brokers.handlers.context import RequestContext
from brokers.handlers.group_messages import milliseconds as count_ms
from brokers.handlers.services import Services
from brokers.handlers.table import Api
from brokers.limits import ANSWER_BYTES_MIN, COLD_READ_PATIENCE_S, COLD_READS_PER_FETCH_MAX
from brokers.protocol.messages import Encoded
from brokers.protocol.primitives import ZERO_UUID
from brokers.protocol.share_fetch_codec import SharePartitionAnswer, encode_share_fetch_response
from brokers.shares.fetching import PartitionFetch
from brokers.shares.messages import Result
from brokers.shares.records import SharePartitionKey
from brokers.shares.sessions import FINAL_EPOCH, MemberKey, Place, ShareSession

KEY: Final = 78
RECORD_LIMIT: Final = 1
"""Share acquire mode: never more records than asked for (KIP-1206)."""


async def handle(ctx: RequestContext, request: Any) -> Any:
    services, version = ctx.services, ctx.api_version
    renews = version >= messages.RENEWAL_VERSION and request.is_renew_ack
    try:
        key = messages.member_of(request, services)
        _check_renewal(request, renews)
        acks = {place: found for place, found in messages.acknowledgements(request).items() if found}
        session = _session(ctx, request, key, bool(acks))
    except KafkaError as error:
        if error.code is ErrorCode.share_session_limit_reached:
            await services.clock.sleep(count_ms(request.max_wait) / 1000)  # or the client asked again at once
        return messages.answer(KEY, version, error.code, error.message)
    acknowledging = asyncio.ensure_future(messages.acknowledge(services, key, acks, version, renews))
    try:
        reads = not renews and request.share_session_epoch != FINAL_EPOCH
        fetch = _ShareFetch(ctx, request, session, tuple(session.places) if reads else ())
        await fetch.run()
    finally:
        results = await acknowledging
    if request.share_session_epoch == FINAL_EPOCH:
        services.shares.end_session(key)
    moved = [place for place, error in fetch.errors.items() if error.code is messages.MOVED[0]]
    if moved:
        await messages.wait_until_named(services, moved)
    return _answer(ctx, fetch, results)


def _check_renewal(request: Any, renews: bool) -> None:
    """Records fetched beside it could take longer than the locks that are renewed (KIP-1222). Raises KafkaError."""
    if not renews:
        return
    names = {"maxBytes": request.max_bytes, "minBytes": request.min_bytes, "maxRecords": request.max_records,
             "maxWaitMs": count_ms(request.max_wait)}  # fmt: skip
    wrong = [f"{name} must be set to 0, " for name, value in names.items() if value]
    if wrong:
        raise KafkaError(ErrorCode.invalid_request, "".join(wrong) + "if isRenewAck is true.")


def _session(ctx: RequestContext, request: Any, key: MemberKey, acknowledges: bool) -> ShareSession:
    added = [(topic.topic_id or ZERO_UUID, part.partition_index)
             for topic in request.topics for part in topic.partitions]  # fmt: skip
    forgotten = [(topic.topic_id or ZERO_UUID, partition)
                 for topic in request.forgotten_topics_data for partition in topic.partitions]  # fmt: skip
    return ctx.services.shares.sessions.fetch(
        key, request.share_session_epoch, added, forgotten, acknowledges, ctx.connection_id
    )


class _ShareFetch:
    """One request from its arrival until there is something to answer."""

    def __init__(self, ctx: RequestContext, request: Any, session: ShareSession, places: Sequence[Place]) -> None:
        self._ctx = ctx
        self._services: Services = ctx.services
        self._session = session
        self.group = session.key.group
        answers = self._services.answers
        allowed = max(ANSWER_BYTES_MIN, (answers.bytes_max - answers.used) // 2)
        self._max_bytes = max(0, min(request.max_bytes, self._services.config.fetch_max_bytes, allowed))
        self._min_bytes: int = min(request.min_bytes, self._max_bytes)
        self._max_records = request.max_records
        self._batch_size = request.batch_size
        self._exact = getattr(request, "share_acquire_mode", 0) == RECORD_LIMIT
        self._max_wait = count_ms(request.max_wait) / 1000
        self.errors: dict[Place, KafkaError] = {}
        self.parts: dict[Place, PartitionFetch] = {}
        # Each partition is the first to be read at one time or another.
        turn = request.share_session_epoch % len(places) if places else 0
        for place in (*places[turn:], *places[:turn]):
            self._begin(place)

    def _begin(self, place: Place) -> None:
        topic_id, partition = place
        try:
            topic = self._services.partitions.image.topics_by_id.get(topic_id)
            if topic is None:
                raise KafkaError(ErrorCode.unknown_topic_id)
            if not 0 <= partition < len(topic.partitions):
                raise KafkaError(ErrorCode.unknown_topic_or_partition)
            log = self._services.partitions.log_by_id(topic_id, partition)
        except KafkaError as error:
            self.errors[place] = error
            return
        key = SharePartitionKey(self.group, topic_id, partition)
        self.parts[place] = PartitionFetch(self._services.shares.leaders.begin(key, log))

    async def run(self) -> None:
        """Until something is acquired, or failed, or the time is over."""
        if not self.parts or not self._max_records or not self._max_bytes:
            return
        clock = self._services.clock
        deadline = clock.monotonic() + self._max_wait
        waiting = _Waiting(self._ctx, list(self.parts.values()))
        try:
            while True:
                last = clock.monotonic() >= deadline or waiting.stopped
                waiting.clear()
                if await self._attempt(last) or self.errors or last:
                    return
                await waiting.until(deadline - clock.monotonic())
        finally:
            waiting.close()

    async def _attempt(self, last: bool) -> bool:
        """Read what there is, one partition at first, then twice as many each time: most fetches have the records they
        may have from the first. Acquire it where it is enough, or where there will be no other attempt."""
        turn = [part for part in self.parts.values() if part.looks()]
        share = self._max_bytes // max(1, len(turn))
        read: list[PartitionFetch] = []
        cold: list[PartitionFetch] = []
        taken, width, prompt = 0, 1, True
        try:
            while turn and prompt and taken < self._max_records:
                some, turn, width = turn[:width], turn[width:], 2 * width
                prompt = await self._read(some, share, cold)
                read += some
                if taken or self._is_enough(read):
                    taken += self._acquire(read, self._max_records - taken)
                    read = []
            if last and not taken:
                taken = self._acquire(read, self._max_records)
        finally:
            for part in cold:
                part.end_reading()
        self.errors |= {place: part.error for place, part in self.parts.items() if part.error is not None}
        return taken > 0

    async def _read(self, parts: Sequence[PartitionFetch], share: int, cold: list[PartitionFetch]) -> bool:
        """Those that are not in memory are added to `cold` and read from objects. False: something takes too long."""
        limits = {part: min(share, part.bytes_for(self._max_records, self._min_bytes)) for part in parts}
        missing = [part for part in parts if part.looks() and not part.read_recent(limits[part])]
        cold += missing
        if not missing:
            return True
        return await _read_cold([(part, limits[part]) for part in missing[:COLD_READS_PER_FETCH_MAX]])

    def _is_enough(self, read: Sequence[PartitionFetch]) -> bool:
        return sum(part.read_bytes for part in read) >= self._min_bytes

    def _acquire(self, read: Sequence[PartitionFetch], records: int) -> int:
        """How many; nothing for a member that has gone meanwhile: its records would stay locked."""
        if not self._services.shares.sessions.is_current(self._session):
            return 0
        now = self._services.clock.monotonic() * 1000
        taken = 0
        for part in read:
            taken += part.acquire(self._session.key.member, records - taken, self._exact, self._batch_size, now)
        return taken


async def _read_cold(parts: Sequence[tuple[PartitionFetch, int]]) -> bool:
    """From objects, a few at a time; False: a store that hangs holds up what is recent for a while only."""
    reads = [asyncio.ensure_future(part.read(max_bytes)) for part, max_bytes in parts]
    try:
        await asyncio.wait(reads, timeout=COLD_READ_PATIENCE_S)
    finally:
        for read in reads:
            read.cancel()  # what it waits for is loaded all the same, for the next request
    for read in reads:
        if read.done() and not read.cancelled():
            read.result()
    return all(read.done() and not read.cancelled() for read in reads)


class _Waiting:
    """What wakes a request: its logs, its share-partitions, its timer, the broker that drains, the client that goes."""

    def __init__(self, ctx: RequestContext, parts: Sequence[PartitionFetch]) -> None:
        self._ctx = ctx
        self._event = asyncio.Event()
        self._logs = [(part.led.log, part.led.log.add_waiter(self._event.set)) for part in parts]
        self._shares = [(part.led.waiters, part.led.waiters.add(self._event.set)) for part in parts]
        self.stopped = ctx.services.long_polls.draining
        ctx.services.long_polls.add(ctx.connection_id, self._end)

    def _end(self) -> None:
        self.stopped = True
        self._event.set()

    def clear(self) -> None:
        self._event.clear()

    async def until(self, seconds: float) -> None:
        """Woken, or the time is over."""
        clock = self._ctx.services.clock
        woken = asyncio.ensure_future(self._event.wait())
        timer = asyncio.ensure_future(clock.sleep(max(0.0, seconds)))
        try:
            await asyncio.wait((woken, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            timer.cancel()

    def close(self) -> None:
        for log, handle in self._logs:
            log.remove_waiter(handle)
        for waiters, handle in self._shares:
            waiters.remove(handle)
        self._ctx.services.long_polls.remove(self._ctx.connection_id)


def _answer(ctx: RequestContext, fetch: _ShareFetch, acknowledged: dict[Place, Result]) -> Encoded:
    leaders = messages.Leaders(ctx.services)
    shown = [place for place, part in fetch.parts.items() if part.acquired]
    by_topic: dict[UUID, list[SharePartitionAnswer]] = {}
    for place in dict.fromkeys((*shown, *fetch.errors, *acknowledged)):
        part, error, ack = fetch.parts.get(place), fetch.errors.get(place), acknowledged.get(place)
        code = ErrorCode.none if error is None else error.code
        by_topic.setdefault(place[0], []).append(
            SharePartitionAnswer(
                place[1], code.value, None if error is None else error.message,
                0 if ack is None else ack.error.value, None if ack is None else ack.message,
                leaders.name(place, code), () if part is None else part.buffers, () if part is None else part.acquired,
            )
        )  # fmt: skip
    lock_ms = ctx.services.shares.settings(fetch.group).limits.lock_ms
    return Encoded(0, encode_share_fetch_response(by_topic, lock_ms, leaders.endpoints))


API = Api(KEY, "ShareFetch", 1, 2, handle, raw=True, error_response=messages.refused(KEY))
