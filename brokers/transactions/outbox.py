"""What is to be sent to other brokers: for each a queue, and one task while there is something in it.

Owns: one request under way with a broker at a time; what comes meanwhile goes into the next.
Does not own: what makes up one request (`take`), sending it, what its failure means (`failed`).
Invariant: whatever was put in is sent, or told to `failed`, also after an error that nobody foresaw: nothing stays in a
queue without a task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from s3stream.errors import PonorError
from s3stream.tasks import Tasks
from s3stream.types import NodeId

log = structlog.get_logger(__name__)

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    def __init__(
        self,
        what: str,
        tasks: Tasks,
        take: Callable[[deque[Item]], list[Item]],
        send: Callable[[NodeId, list[Item]], Awaitable[None]],
        failed: Callable[[list[Item]], None],
    ) -> None:
        """`take` moves the items of one request off the queue's front, at least one; `send` may raise. `failed` must
        not raise, and puts nothing in before it returns."""
        self._what = what
        self._tasks = tasks
        self._take = take
        self._send = send
        self._failed = failed
        self._queues: dict[NodeId, deque[Item]] = {}
        """One is there while its task runs. Bounded by who puts in."""
        self.closed = False

    def put(self, node_id: NodeId, item: Item) -> None:
        queue = self._queues.get(node_id)
        if queue is not None:
            queue.append(item)
            return
        self._queues[node_id] = deque((item,))
        self._tasks.spawn(self._work(node_id), f"{self._what} for node {node_id}")

    async def _work(self, node_id: NodeId) -> None:
        queue = self._queues[node_id]
        try:
            while queue and not self.closed:
                items = self._take(queue)
                try:
                    await self._send(node_id, items)
                except PonorError as error:
                    log.info("not sent", what=self._what, node_id=node_id, items=len(items), error=str(error))
                    self._failed(items)
                except Exception:  # it may be what one item holds: the others go on
                    log.exception("not sent", what=self._what, node_id=node_id, items=len(items))
                    self._failed(items)
        finally:
            del self._queues[node_id]
