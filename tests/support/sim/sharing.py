"""A member of a share group in the simulated cluster (KIP-932), and the account of what the group was given.

The promises (decision 0233): no record is lost, each is accepted, rejected or given up after its last delivery; what
was accepted is not delivered again once that was answered; nobody is given what another has, while the same leader
serves both and the lock lasts. Delivery counts are between one and the limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from kio.schema.errors import ErrorCode

from brokers.protocol.messages import milliseconds
from brokers.shares.share_partition import Ack
from tests.support.sim.kafka import Gone, Link, entity
from tests.support.sim.ledger import Ledger
from tests.support.sim.workload import AGAIN, Worker

GROUP: Final = "sharing"
LOCK_MS: Final = 4_000
DELIVERIES: Final = 3
CONFIGS: Final = {
    "share.auto.offset.reset": "earliest",
    "share.record.lock.duration.ms": str(LOCK_MS),
    "share.delivery.count.limit": str(DELIVERIES),
}
BEGIN_ANEW: Final = frozenset((ErrorCode.share_session_not_found, ErrorCode.invalid_share_session_epoch))
REJOIN: Final = frozenset((ErrorCode.unknown_member_id, ErrorCode.fenced_member_epoch, ErrorCode.group_id_not_found))
NOT_OURS: Final = frozenset((ErrorCode.invalid_record_state, ErrorCode.invalid_request))
"""Said of records that are another's by now, or nobody's."""
_WORDS: Final = (Ack.ACCEPT, Ack.ACCEPT, Ack.ACCEPT, Ack.RELEASE, Ack.REJECT)

At = tuple[int, int]
"""Partition and offset."""


class Held(NamedTuple):
    """A record that a member was given and has said nothing of."""

    member: str
    link: Link
    led: object
    """Who served it: nothing is known of the locks of another."""
    until: float


class ShareAccount:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._accepted: dict[At, float] = {}
        """When that was answered."""
        self._said: set[At] = set()
        """A word that ends them was sent, whatever became of it."""
        self._count: dict[At, int] = {}
        self._held: dict[At, Held] = {}

    def given(self, at: At, member: str, link: Link, count: int, asked: float, now: float, led: object | None) -> None:
        """`led`: who served it, where that was the same when it was asked for."""
        ledger = self._ledger
        accepted = self._accepted.get(at)
        if accepted is not None and accepted < asked:
            raise ledger.violated(f"{member} is given {at}, which was accepted")
        if not 1 <= count <= DELIVERIES:
            raise ledger.violated(f"{member} is given {at} for the {count}. time")
        held = self._held.pop(at, None)
        if held is not None and held.led is led and held.link.open and now < held.until and held.member != member:
            raise ledger.violated(f"{member} is given {at}, which {held.member} has")
        self._count[at] = max(count, self._count.get(at, 0))
        if led is not None:
            self._held[at] = Held(member, link, led, asked + LOCK_MS / 1000)

    def says(self, places: Iterable[At], word: Ack) -> None:
        """Before it leaves."""
        for at in places:
            self._held.pop(at, None)
            if word in (Ack.ACCEPT, Ack.REJECT):
                self._said.add(at)

    def accepted(self, places: Iterable[At], now: float) -> None:
        self._accepted |= dict.fromkeys(places, now)

    def gives_back(self, member: str) -> None:
        """All it has."""
        self._held = {at: held for at, held in self._held.items() if held.member != member}

    def whole(self, offsets: Iterable[At]) -> None:
        """All there are: nothing is delivered any more."""
        for at in offsets:
            if at not in self._said and self._count.get(at, 0) < DELIVERIES:
                raise self._ledger.violated(f"{at} is neither done nor given up, after {self._count.get(at, 0)}")


class ShareMember(Worker):
    """Heartbeats, fetches from a partition's leader, says something of what it is given, or is silent."""

    def __init__(self, *args: Any, account: ShareAccount, led: Any) -> None:
        super().__init__(*args)
        self._account = account
        self._led = led
        """(link, partition) → who serves the share-partition there."""
        self._member_id = self.name
        self._epoch = 0
        self._mine: dict[Any, list[int]] = {}
        self._sessions: dict[Link, int] = {}
        self.idle_since = 0.0

    @property
    def now(self) -> float:
        return self.client.loop.time()

    async def run(self) -> None:
        while not self.stopping:
            await self.one(silent=self.random.random() < 0.1)
            await self.pause(0.05, 0.3)

    async def drain(self, quiet_s: float) -> None:
        """All partitions, whoever is assigned them, until nothing was delivered for so long. Everything is accepted."""
        self.idle_since = self.now
        while self.now - self.idle_since < quiet_s:
            await self.one(silent=False, accepts=True)
            await self.pause(0.2)

    async def one(self, silent: bool, accepts: bool = False) -> None:
        try:
            await self._beat()
            # Of all partitions, assigned or not, as a member does that has not heard of a new assignment: more meet.
            for topic_id in list(self._mine):
                for partition in range(self.partitions) if accepts else [self.random.randrange(self.partitions)]:
                    if not await self._take(topic_id, partition, silent, accepts):
                        self.idle_since = self.now
                        await self.look_again()
        except Gone as error:
            self.idle_since = self.now
            self.ledger.note(f"{self.name}: {error}")
            await self.look_again()
        if not self._mine:
            self.idle_since = self.now

    async def _beat(self) -> None:
        link = await self.client.coordinator(GROUP)
        if link is None:
            return await self.look_again()
        request = entity(
            group_id=GROUP, member_id=self._member_id, member_epoch=self._epoch, rack_id=None,
            subscribed_topic_names=(self.client.topic,),
        )  # fmt: skip
        answer = await link.call("ShareGroupHeartbeat", request, 3.0, 1)
        if answer.error_code is not ErrorCode.none:
            self.ledger.note(f"{self.name} heartbeat: {answer.error_code.name}")
            if answer.error_code in REJOIN:
                self._epoch = 0
            else:
                self.unexpected("ShareGroupHeartbeat", answer.error_code)
            return None
        self._epoch = answer.member_epoch
        if answer.assignment is not None:
            self._mine = {topic.topic_id: list(topic.partitions) for topic in answer.assignment.topic_partitions}
        return None

    async def _take(self, topic_id: Any, partition: int, silent: bool, accepts: bool) -> bool:
        """Whether the leader answered."""
        found = await self.leader(partition)
        if found is None:
            return False
        link, _ = found
        # Its session there has all partitions that it asked this broker for.
        asked, led = self.now, {number: self._led(link, number) for number in range(self.partitions)}
        answer = await self._call(link, "ShareFetch", topic_id, partition, (), max_wait=milliseconds(200), min_bytes=1,
                                  max_bytes=1 << 20, max_records=20, batch_size=20, share_acquire_mode=0,
                                  forgotten_topics_data=())  # fmt: skip
        if self._failed(link, answer):
            return False
        for part in (part for topic in answer.responses for part in topic.partitions):
            if part.error_code is not ErrorCode.none:
                self.ledger.note(f"{self.name} {part.partition_index}: {part.error_code.name} by {link.server}")
                self.unexpected("ShareFetch", part.error_code)
                self._begin_anew(link)  # without what has left this broker
                return False
            pieces = [(one.first_offset, one.last_offset, one.delivery_count) for one in part.acquired_records]
            if not pieces:
                continue
            number = part.partition_index
            same = led[number] if led[number] is self._led(link, number) else None
            self.idle_since = self.now
            self.ledger.note(f"{self.name} {number}: {pieces} by {link.server}")
            for first, last, count in pieces:
                for offset in range(first, last + 1):
                    self._account.given((number, offset), self.name, link, count, asked, self.now, same)
            if not silent:
                await self.pause(0.01, 0.2, 2)
                await self._say(link, topic_id, number, pieces, accepts)
        return True

    async def _say(self, link: Link, topic_id: Any, partition: int, pieces: Any, accepts: bool) -> None:
        for first, last, _ in pieces:
            word = Ack.ACCEPT if accepts else self.random.choice(_WORDS)
            places = [(partition, offset) for offset in range(first, last + 1)]
            self._account.says(places, word)
            batch = entity(first_offset=first, last_offset=last, acknowledge_types=(word.value,))
            answer = await self._call(link, "ShareAcknowledge", topic_id, partition, (batch,))
            if self._failed(link, answer):
                return
            code = answer.responses[0].partitions[0].error_code
            self.ledger.note(f"{self.name} {partition}: {word.name} {first}-{last}: {code.name}")
            if code is ErrorCode.none and word is Ack.ACCEPT:
                self._account.accepted(places, self.now)
            elif code is not ErrorCode.none and code not in NOT_OURS:
                self.unexpected("ShareAcknowledge", code)

    async def _call(self, link: Link, name: str, topic_id: Any, partition: int, batches: Any, **more: Any) -> Any:
        part = entity(partition_index=partition, acknowledgement_batches=batches)
        epoch = self._sessions.get(link, 0)
        request = entity(
            group_id=GROUP, member_id=self._member_id, share_session_epoch=epoch, is_renew_ack=False,
            topics=(entity(topic_id=topic_id, partitions=(part,)),), **more,
        )  # fmt: skip
        self._sessions[link] = epoch + 1
        return await link.call(name, request, self.patience_s, 2)

    def _failed(self, link: Link, answer: Any) -> bool:
        if answer.error_code is ErrorCode.none:
            return False
        self.ledger.note(f"{self.name}: {answer.error_code.name} by {link.server}")
        if answer.error_code in BEGIN_ANEW:
            self._begin_anew(link)
        elif answer.error_code not in AGAIN:
            raise self.ledger.violated(f"{self.name} was answered {answer.error_code.name}")
        return True

    def _begin_anew(self, link: Link) -> None:
        self._sessions.pop(link, None)
        self._account.gives_back(self.name)
