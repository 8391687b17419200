"""The shape: what a client library is asked to do, and what comes back, in words that no library owns.

What a broker refuses is `Refused` with the protocol's error code, whoever noticed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from kio.schema.errors import ErrorCode

PATIENCE_S = 30.0


class Refused(Exception):
    def __init__(self, code: int) -> None:
        self.code = ErrorCode(code)
        super().__init__(self.code.name)


class Record(NamedTuple):
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int = 1_700_000_000_000
    """Milliseconds, of the producer."""


class Found(NamedTuple):
    offset: int
    record: Record


class Place(NamedTuple):
    topic: str
    partition: int = 0


class Member(Protocol):
    """A consumer in a group. It reads from the earliest offset where nothing is committed, and commits when told to."""

    def poll(self) -> list[tuple[Place, Found]]:
        """What comes within a moment, perhaps nothing. Raises Refused."""

    def assigned(self) -> set[Place]: ...

    def commit(self, place: Place, offset: int, metadata: str) -> None: ...

    def committed(self, place: Place) -> tuple[int, str] | None: ...

    def close(self) -> None:
        """Leaves the group."""


class Transactions(Protocol):
    """A producer with a transactional id, ready to begin."""

    def begin(self) -> None: ...

    def send(self, place: Place, value: bytes) -> None:
        """Returns when the broker has it. Raises Refused."""

    def send_offsets(self, group: str, place: Place, offset: int) -> None: ...

    def commit(self) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


class Driver(Protocol):
    def create_topic(self, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None: ...

    def add_partitions(self, topic: str, total: int) -> None: ...

    def delete_topic(self, topic: str) -> None: ...

    def topic_config(self, topic: str, name: str) -> str | None: ...

    def delete_records(self, place: Place, before: int) -> None: ...

    def group_state(self, group: str) -> str: ...

    def group_offset(self, group: str, place: Place) -> int | None: ...

    def produce(self, place: Place, records: Sequence[Record], compression: str = "none") -> list[int]:
        """The offset of each."""

    def read(self, place: Place, offset: int, count: int, isolation: str = "read_uncommitted") -> list[Found]:
        """`count` records from there on, or those until what may be read ends."""

    def ends(self, place: Place) -> tuple[int, int]:
        """Its earliest and its latest offset."""

    def offset_at(self, place: Place, timestamp: int) -> int | None: ...

    def join(self, group: str, topic: str, protocol: str) -> Member:
        """`protocol`: classic or consumer."""

    def transactional(self, transactional_id: str) -> Transactions: ...

    def close(self) -> None: ...
