"""Share sessions: which partitions a member of a share group fetches from this broker (KIP-932). Pure.

Owns: epochs, what a request adds and forgets, sessions of connections. Does not own: what happens to records of a
member that goes (service.py).
Invariant: a session has one epoch at a time, and a request with another one is refused; sessions are bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from s3stream.metrics import Metrics

INITIAL_EPOCH: Final = 0
FINAL_EPOCH: Final = -1
EPOCH_MAX: Final = 2**31 - 1

Place: TypeAlias = tuple[UUID, int]
"""Topic and partition."""


class MemberKey(NamedTuple):
    group: str
    member: str


class ShareSession:
    def __init__(self, key: MemberKey, places: Iterable[Place], connection_id: int) -> None:
        self.key = key
        self.epoch = 1
        self.places = dict.fromkeys(places)
        """In the order in which they were added."""
        self.connection_id = connection_id

    def pass_on(self, epoch: int) -> None:
        """A request came. Raises INVALID_SHARE_SESSION_EPOCH."""
        if epoch != self.epoch:
            raise KafkaError(ErrorCode.invalid_share_session_epoch)
        self.epoch = 1 if self.epoch == EPOCH_MAX else self.epoch + 1


class ShareSessions:
    def __init__(self, sessions_max: int, metrics: Metrics) -> None:
        self._max = sessions_max
        self._sessions: dict[MemberKey, ShareSession] = {}
        self._of_connection: dict[int, set[MemberKey]] = {}
        self._members: dict[str, int] = {}
        metrics.gauge(
            "ponor_share_sessions", "Members of share groups that fetch here.", read=lambda: float(len(self._sessions))
        )

    def fetch(
        self, key: MemberKey, epoch: int, added: Iterable[Place], forgotten: Iterable[Place], acknowledges: bool,
        connection_id: int,
    ) -> ShareSession:  # fmt: skip
        """The member's session after the request. Raises KafkaError; SHARE_SESSION_LIMIT_REACHED where there are too
        many."""
        if epoch == FINAL_EPOCH:
            return self._get(key)
        if epoch == INITIAL_EPOCH:
            if acknowledges:
                raise KafkaError(ErrorCode.invalid_request)
            self.remove(key)
            if len(self._sessions) >= self._max:
                raise KafkaError(ErrorCode.share_session_limit_reached)
            session = self._add(ShareSession(key, added, connection_id))
        else:
            session = self._get(key)
            session.pass_on(epoch)
            session.places.update(dict.fromkeys(added))
            for place in forgotten:
                session.places.pop(place, None)
        return session

    def is_current(self, session: ShareSession) -> bool:
        """Whether it was neither ended nor begun anew."""
        return self._sessions.get(session.key) is session

    def acknowledge(self, key: MemberKey, epoch: int) -> None:
        """Raises KafkaError."""
        if epoch == INITIAL_EPOCH:
            raise KafkaError(ErrorCode.invalid_share_session_epoch)
        session = self._get(key)
        if epoch != FINAL_EPOCH:
            session.pass_on(epoch)

    def remove(self, key: MemberKey) -> ShareSession | None:
        session = self._sessions.pop(key, None)
        if session is None:
            return None
        of_connection = self._of_connection.get(session.connection_id)
        if of_connection is not None:
            of_connection.discard(key)
            if not of_connection:
                del self._of_connection[session.connection_id]
        self._members[key.group] -= 1
        if not self._members[key.group]:
            del self._members[key.group]
        return session

    def of_connection(self, connection_id: int) -> list[MemberKey]:
        return list(self._of_connection.get(connection_id, ()))

    def has_members(self, group: str) -> bool:
        return group in self._members

    def _get(self, key: MemberKey) -> ShareSession:
        session = self._sessions.get(key)
        if session is None:
            raise KafkaError(ErrorCode.share_session_not_found)
        return session

    def _add(self, session: ShareSession) -> ShareSession:
        self._sessions[session.key] = session
        self._of_connection.setdefault(session.connection_id, set()).add(session.key)
        group = session.key.group
        self._members[group] = self._members.get(group, 0) + 1
        return session
