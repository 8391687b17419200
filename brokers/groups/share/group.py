"""One share group (KIP-932): what its records make of it, and what may be asked of it.

Owns: members, of which partitions share coordinators keep state for it. Does not own: what a request does
(heartbeat.py), bytes (records.py), the state itself (brokers/shares).
Invariant: `replay` alone changes what is stored. A partition is given to members only once its state is initialized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.groups.group import CommitRequest, GroupType
from brokers.groups.messages import Instant
from brokers.groups.modern.change import GroupRecord
from brokers.groups.modern.group import STABLE, Kinds
from brokers.groups.modern.subscribed import SubscribedGroup
from brokers.groups.share import records
from brokers.groups.share.member import ShareMember
from brokers.groups.share.records import StateMetadata

SHARE_PROTOCOL = "share"


class ShareGroup(SubscribedGroup[ShareMember]):
    group_type = GroupType.SHARE
    gives_way = False
    kinds = Kinds(records.EPOCH, records.MEMBER, records.TARGET_EPOCH, records.TARGET, records.CURRENT)

    def __init__(self, group_id: str) -> None:
        super().__init__(group_id)
        self.states = StateMetadata()
        self.initializing_since: dict[UUID, float] = {}
        """When it was last asked for, monotonic milliseconds."""

    # --- records -------------------------------------------------------------------------------

    def _replay_own(self, kind: int, item: str, value: Any) -> None:
        assert kind == records.STATE_METADATA, kind
        self.states = StateMetadata() if value is None else value

    def _new_member(self, member_id: str) -> ShareMember:
        return ShareMember(member_id)

    # --- what operators see --------------------------------------------------------------------

    def _shown_with_members(self) -> str:
        return STABLE

    @property
    def shown_protocol_type(self) -> str:
        return SHARE_PROTOCOL

    # --- offsets: a share group has none of this kind ------------------------------------------

    def validate_offset_commit(self, request: CommitRequest, now: Instant) -> ErrorCode:
        return ErrorCode.group_id_not_found

    def validate_offset_fetch(self, member_id: str | None, member_epoch: int) -> ErrorCode:
        return ErrorCode.group_id_not_found

    @property
    def offsets_are_deletable(self) -> bool:
        return False

    def expiry_base(self) -> Callable[[int], int] | None:
        return None

    # --- end -----------------------------------------------------------------------------------

    def _own_tombstones(self) -> Iterator[GroupRecord]:
        yield self.record(records.STATE_METADATA, None)
