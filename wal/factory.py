"""Chooses a write-ahead log by URL."""

from __future__ import annotations

import os
from random import Random, SystemRandom
from urllib.parse import unquote, urlsplit

from s3stream.errors import BadSetting
from s3stream.metrics import Metrics
from s3stream.seams import Clock, WriteAheadLog
from wal.file_wal import FileWal
from wal.files import Files, OsFiles, RunBlocking
from wal.memory_wal import MemoryWal
from wal.settings import WalSettings


def open_wal(
    url: str,
    *,
    settings: WalSettings | None = None,
    clock: Clock,
    metrics: Metrics,
    run_blocking: RunBlocking,
    files: Files | None = None,
    chance: Random | None = None,
) -> WriteAheadLog:
    """`file:///path` or `memory:`. Nothing is touched before `lock`. Raises BadSetting.

    `run_blocking` is on the path of every acknowledgement: give it two threads of its own.
    """
    settings = settings if settings is not None else WalSettings()
    if url in ("memory:", "memory://"):
        return MemoryWal(settings=settings, metrics=metrics)
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise BadSetting(f"wal: {url!r} is neither file:///path nor memory:")
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise BadSetting(f"wal: {url!r} must be file:///path, with three slashes and nothing after the path")
    path = os.path.normpath(unquote(parts.path))
    if not os.path.isabs(path) or path == "/":
        raise BadSetting(f"wal: {url!r} must name an absolute directory, as in file:///var/lib/ponor/wal")
    return FileWal(
        path,
        files=files if files is not None else OsFiles(),
        settings=settings,
        clock=clock,
        metrics=metrics,
        run_blocking=run_blocking,
        chance=chance if chance is not None else SystemRandom(),
    )
