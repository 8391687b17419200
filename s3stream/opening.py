"""Opening streams: those that are closed, those that this node had open before its restart, and a dead node's.

Owns: which streams may not be opened without their WAL's records, or have to be opened here, and why; at which epoch
and end an opening is asked for. Does not own: reading a WAL (recovery.py, takeover.py), tails (tails.py), what the rows
say (metadata).
Invariant: a stream is open here only after its row says so, under this node's epoch, with everything below its
recovered end readable (CORRECTNESS 1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from s3stream.appender import Appender
from s3stream.errors import Corrupt, Fenced, NotFound, Unavailable
from s3stream.seams import MetadataStore, ReadSealed
from s3stream.stream import Stream
from s3stream.tails import Tails, behind_tail
from s3stream.takeover import Takeover
from s3stream.types import FencedWal, NodeId, NodeIdentity, OpenRequest, StreamId, StreamSnapshot, StreamState, WalState


class Opening:
    def __init__(
        self, appender: Appender, tails: Tails, takeover: Takeover, metadata: MetadataStore,
        make: Callable[[StreamSnapshot], Stream], read_sealed: ReadSealed | None,
    ) -> None:  # fmt: skip
        """`read_sealed` None: this node takes nobody over."""
        self._appender = appender
        self._tails = tails
        self._takeover = takeover
        self._metadata = metadata
        self._make = make
        self._read_sealed = read_sealed
        self.recovered: set[StreamId] = set()
        """Streams that this node had open before its restart, not opened again yet."""
        self.broken: dict[StreamId, Corrupt] = {}
        """Streams of which the WAL that had them lacks records."""
        self._taken_over: dict[StreamId, tuple[NodeId, int]] = {}
        """From which dead (node, node epoch) streams were recovered here that are not opened yet."""
        self._unanswered: dict[StreamId, int] = {}
        """Openings that may have been done, by the epoch that they expected."""

    # --- at the start ------------------------------------------------------------------------------

    def left_open(self, snapshot: StreamSnapshot) -> tuple[Stream, StreamSnapshot]:
        """A stream that this node had open, to be recovered."""
        tail, snapshot = snapshot.tail, behind_tail(snapshot)
        stream = self._appender.streams[snapshot.stream_id] = self._make(snapshot)
        self.recovered.add(snapshot.stream_id)
        if tail is not None:
            self._tails.await_commit(stream, tail)
        return stream, snapshot

    def left_closed(self, snapshot: StreamSnapshot) -> tuple[Stream, StreamSnapshot]:
        """A stream that this node had closed with a tail, to be recovered and committed."""
        stream = self._appender.streams[snapshot.stream_id] = self._make(snapshot)
        stream.refusal = Fenced(f"stream {snapshot.stream_id} was closed here")
        return stream, snapshot

    # --- opening -----------------------------------------------------------------------------------

    async def open(self, node: NodeIdentity, requests: Sequence[tuple[StreamId, int]]) -> list[Stream]:
        """As `Storage.open_streams`."""
        for stream_id, _ in requests:
            if stream_id in self.broken:
                raise Corrupt(*self.broken[stream_id].args)
        rows, failures = await self._tails.look([stream_id for stream_id, _ in requests])
        for failure in failures.values():
            raise failure
        found = {stream_id: self._appender.streams.get(stream_id) for stream_id, _ in requests}
        recovered = [stream for stream in found.values() if stream is not None]
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await self._take_turn(recovered, release)
            ends = self._ends(found, rows)
            opening = [
                OpenRequest(
                    stream_id, self._expected(stream_id, epoch), ends[stream_id], self._taken_over.get(stream_id)
                )
                for stream_id, epoch in requests
            ]
            snapshots = await self._ask(node, opening)
            return [self._opened(snapshot) for snapshot in snapshots]
        finally:
            release.set_result(None)
            self._tails.unhear(stream_id for stream_id, _ in requests)

    def owes(self, stream_id: StreamId) -> bool:
        """As `Storage.owes`."""
        return stream_id in self.recovered or stream_id in self._unanswered

    def _expected(self, stream_id: StreamId, epoch: int) -> int:
        """Who asks may have seen the epoch that an opening of ours made whose answer was lost."""
        asked = self._unanswered.get(stream_id, epoch)
        return asked if epoch == asked + 1 else epoch

    async def _ask(self, node: NodeIdentity, opening: list[OpenRequest]) -> list[StreamSnapshot]:
        self._unanswered.update((request.stream_id, request.expected_epoch) for request in opening)
        try:
            snapshots = await self._metadata.open_streams(node, opening)
        except (Fenced, NotFound):
            self._answered(opening)
            raise
        self._answered(opening)
        return snapshots

    def _answered(self, opening: list[OpenRequest]) -> None:
        for request in opening:
            self._unanswered.pop(request.stream_id, None)

    def _ends(
        self, found: Mapping[StreamId, Stream | None], rows: Mapping[StreamId, StreamSnapshot]
    ) -> dict[StreamId, int]:
        """Where the log of each ends, as far as is known here: what has changed since, the opening itself notices."""
        ends = {}
        for stream_id, stream in found.items():
            if stream is not None:
                ends[stream_id] = stream.durable_end
            elif stream_id in rows:
                row = rows[stream_id]
                ends[stream_id] = max(row.committed_end, row.start_offset, self._tails.fetched_end(row) or 0)
            else:
                raise NotFound(f"stream {stream_id} does not exist")
        return ends

    async def _take_turn(self, streams: Iterable[Stream], release: asyncio.Future[None]) -> None:
        """Wait for the flushes under way of these streams, and hold later commits back until `release`: a commit
        names the stream's epoch, and that is about to change."""
        turns = set()
        for stream in streams:
            if stream.turn is not None and not stream.turn.done():
                turns.add(stream.turn)
            stream.turn = release
        if turns:
            await asyncio.wait(turns)

    def _opened(self, snapshot: StreamSnapshot) -> Stream:
        stream = self._appender.streams.get(snapshot.stream_id)
        if stream is None:
            stream = self._make(snapshot)
            self._appender.streams[snapshot.stream_id] = stream
            self._tails.attach(stream, snapshot)
        else:
            stream.opened(snapshot)
        stream.refusal = None
        self.recovered.discard(snapshot.stream_id)
        self._taken_over.pop(snapshot.stream_id, None)
        return stream

    # --- what a dead node had ----------------------------------------------------------------------

    async def take_over(
        self, node: NodeIdentity, wal: FencedWal, stream_ids: Collection[StreamId]
    ) -> tuple[list[StreamId], dict[StreamId, Corrupt]]:
        """As `Storage.take_over`."""
        assert self._read_sealed is not None, "this storage was not told how to read others' WALs"
        assert wal.state == WalState.SEALED, f"the WAL of node {wal.node_id} epoch {wal.node_epoch} is not sealed"
        rows = await self._metadata.streams(sorted(stream_ids))
        done = [row.stream_id for row in rows if row.state == StreamState.CLOSED]
        owner = (wal.node_id, wal.node_epoch)
        owned = [row for row in rows if row.state == StreamState.OPEN and (row.owner, row.owner_epoch) == owner]
        # What this WAL has of a stream lies behind the tail of an earlier owner: that is committed first.
        held = [row for row in owned if row.tail is None]
        if owned and not held:
            raise Unavailable(f"tails of {len(owned)} streams are not committed yet, first {owned[0].tail}")
        if held:
            recovered = await self._takeover.recover(node, wal, held, self._read_sealed)
            done += recovered.done
            self.broken.update(recovered.broken)
            for stream_id in recovered.done:
                self.broken.pop(stream_id, None)
                self._taken_over[stream_id] = owner
            return done, recovered.broken
        return done, {}

    async def recover_tails(
        self, node: NodeIdentity, wal: FencedWal, stream_ids: Collection[StreamId]
    ) -> tuple[list[StreamId], dict[StreamId, Corrupt]]:
        """As `Storage.recover_tails`."""
        assert self._read_sealed is not None, "this storage was not told how to read others' WALs"
        recovered = await self._takeover.recover_tails(node, wal, stream_ids, self._read_sealed)
        return recovered.done, recovered.broken

    def forget(self, stream_id: StreamId) -> None:
        """It is deleted."""
        self.recovered.discard(stream_id)
        self.broken.pop(stream_id, None)
        self._taken_over.pop(stream_id, None)
