"""Share groups of this broker, as handlers use them; and what becomes of a member's records when it goes.

Owns: the parts together, the end of sessions. Does not own: what each part does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.shares.coordinator import ShareCoordinator
from brokers.shares.leaders import ShareLeaders
from brokers.shares.persister import Persister
from brokers.shares.records import SharePartitionKey
from brokers.shares.sessions import MemberKey, ShareSession, ShareSessions
from brokers.shares.settings import GroupSettings
from s3stream.tasks import Tasks

EndOffset = Callable[[UUID, int], Awaitable[tuple[int, ErrorCode]]]
"""Where a partition ends, whoever leads it."""


class Shares:
    def __init__(
        self,
        coordinator: ShareCoordinator,
        persister: Persister,
        leaders: ShareLeaders,
        sessions: ShareSessions,
        settings: GroupSettings,
        tasks: Tasks,
        end_offset: EndOffset,
    ) -> None:
        self.coordinator = coordinator
        self.persister = persister
        """Coordinators of share-partitions, wherever they are."""
        self.leaders = leaders
        self.sessions = sessions
        self.settings = settings
        self.end_offset = end_offset
        self._tasks = tasks

    def start(self) -> None:
        self.coordinator.start()

    def stop(self) -> None:
        self.leaders.stop()
        self.coordinator.stop()

    def connection_gone(self, connection_id: int) -> None:
        """Its members' records are for others at once, not when their locks end."""
        for key in self.sessions.of_connection(connection_id):
            self.end_session(key)

    def end_session(self, key: MemberKey) -> None:
        session = self.sessions.remove(key)
        if session is not None:
            self._tasks.spawn(self._release(session), f"release records of {key.member}")

    async def _release(self, session: ShareSession) -> None:
        group, member = session.key
        for topic_id, partition in session.places:
            led = self.leaders.get(SharePartitionKey(group, topic_id, partition))
            if led is not None:
                await led.release(member)
        if not self.sessions.has_members(group):
            self.leaders.end_group(group)
