"""Deletes objects that nothing names any more.

Owns: the period, the order (bytes first, then the row). Does not own: which objects are dead (metadata).
Invariant: an object is deleted only after its mark is older than the grace period, so that running reads finish and
a restored database still finds it (CORRECTNESS 8); its row goes only once its bytes have gone, so a crash in
between repeats the deletion and never forgets an object.
"""

from __future__ import annotations

import structlog

from s3stream.errors import PonorError
from s3stream.metrics import Metrics
from s3stream.object_format import object_key
from s3stream.seams import BlockCache, Clock, MetadataStore, ObjectStore
from s3stream.settings import EngineSettings

log = structlog.get_logger(__name__)

DELETE_BATCH = 500
"""Keys of one round: S3 takes 1,000 in one request."""


class Collector:
    def __init__(
        self,
        metadata: MetadataStore,
        objects: ObjectStore,
        cache: BlockCache,
        clock: Clock,
        settings: EngineSettings,
        metrics: Metrics,
    ) -> None:
        self._metadata = metadata
        self._objects = objects
        self._cache = cache
        self._clock = clock
        self._settings = settings
        self._deleted = metrics.counter("ponor_objects_deleted_total", "Objects removed from the store.")
        self._expired = metrics.counter("ponor_objects_expired_total", "Prepared objects that were never committed.")

    async def run(self) -> None:
        while True:
            await self._clock.sleep(self._settings.collect_interval_ms / 1000)
            try:
                await self.collect()
            except PonorError as error:
                # Nothing depends on it today: the next round does the same work.
                log.warning("objects could not be collected", error=str(error))

    async def collect(self) -> int:
        """One round, to its end; returns how many objects were deleted. An upload that was given up is an object
        whose preparation expires here: its bytes are deleted whether or not they ever arrived."""
        while expired := await self._metadata.expire_prepared(self._clock.now_ms(), DELETE_BATCH):
            self._expired.inc(expired)
            if expired < DELETE_BATCH:
                break
        deleted = 0
        while True:
            before_ms = self._clock.now_ms() - self._settings.object_delete_grace_ms
            refs = await self._metadata.deletable_objects(before_ms, DELETE_BATCH)
            if not refs:
                return deleted
            await self._objects.delete([object_key(ref) for ref in refs])
            for ref in refs:
                self._cache.drop_object(ref.object_id)
            await self._metadata.forget_objects([ref.object_id for ref in refs])
            deleted += len(refs)
            self._deleted.inc(len(refs))
