"""What the engine can be told. Frozen; made once at the edge (`brokers/config.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from s3stream import limits


@dataclass(frozen=True, slots=True)
class EngineSettings:
    flush_bytes: int = limits.FLUSH_BYTES
    """Seal the memtable at this size."""
    flush_interval_ms: int = limits.FLUSH_INTERVAL_MS
    """Seal a memtable that holds anything at this age."""
    stream_object_bytes: int = limits.STREAM_OBJECT_BYTES
    object_bytes_max: int = limits.OBJECT_BYTES_MAX
    block_bytes: int = limits.BLOCK_BYTES
    block_compression: bool = False
    """zstd on data blocks. Pays only where producers do not compress; costs broker CPU."""
    object_ids_held: int | None = None
    """Object ids prepared ahead. None: as many as an outage of the database can use up before the WAL is full."""
    object_delete_grace_ms: int = limits.OBJECT_DELETE_GRACE_MS
    collect_interval_ms: int = 60_000
    """How often expired preparations and freed objects are looked for."""
