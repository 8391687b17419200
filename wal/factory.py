"""Chooses a write-ahead log by URL."""

from __future__ import annotations

import os
from random import Random, SystemRandom
from urllib.parse import unquote, urlsplit

from s3stream.errors import BadSetting
from s3stream.metrics import Metrics
from s3stream.objectstore.url import parse_store_url
from s3stream.seams import Clock, ObjectStore, WriteAheadLog
from wal.file_wal import FileWal
from wal.files import Files, OsFiles, RunBlocking
from wal.memory_wal import MemoryWal
from wal.object_names import LogName
from wal.object_settings import ObjectWalSettings
from wal.object_wal import ObjectWal
from wal.settings import WalSettings

OBJECT_SCHEMES = ("s3", "gs", "az")


def open_wal(
    url: str,
    *,
    settings: WalSettings | None = None,
    clock: Clock,
    metrics: Metrics,
    run_blocking: RunBlocking,
    files: Files | None = None,
    chance: Random | None = None,
    objects: ObjectStore | None = None,
    name: LogName | None = None,
    object_settings: ObjectWalSettings | None = None,
) -> WriteAheadLog:
    """`file:///path`, `s3://bucket/prefix?…` (gs:, az:) or `memory:`. Nothing is touched before `lock`. Raises
    BadSetting.

    `run_blocking` is on the path of every acknowledgement of a file WAL: give it two threads of its own. A WAL on
    objects needs `objects`, the store that the URL names, which stays the caller's to close, and `name`: whose log it
    is.
    """
    settings = settings if settings is not None else WalSettings()
    chance = chance if chance is not None else SystemRandom()
    path = check_wal_url(url)
    if path is not None:
        return FileWal(
            path,
            files=files if files is not None else OsFiles(),
            settings=settings,
            clock=clock,
            metrics=metrics,
            run_blocking=run_blocking,
            chance=chance,
        )
    if url in _MEMORY:
        return MemoryWal(settings=settings, metrics=metrics)
    assert objects is not None and name is not None, "a WAL on objects needs a store and a name"
    if object_settings is None:
        object_settings = ObjectWalSettings(bytes_max=settings.bytes_max)
    return ObjectWal(url, objects, name, settings=object_settings, clock=clock, metrics=metrics, chance=chance)


_MEMORY = ("memory:", "memory://")


def is_on_objects(url: str) -> bool:
    """Does this log need a store?"""
    return urlsplit(url).scheme in OBJECT_SCHEMES


def check_wal_url(url: str) -> str | None:
    """The directory that a file: URL names; None for the other kinds. Raises BadSetting when it makes no sense."""
    if url in _MEMORY:
        return None
    if is_on_objects(url):
        parse_store_url(url)
        return None
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise BadSetting(f"wal: {url!r} is neither file:///path, s3://bucket/prefix (gs:, az:) nor memory:")
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise BadSetting(f"wal: {url!r} must be file:///path, with three slashes and nothing after the path")
    path = os.path.normpath(unquote(parts.path))
    if not os.path.isabs(path) or path == "/":
        raise BadSetting(f"wal: {url!r} must name an absolute directory, as in file:///var/lib/ponor/wal")
    return path
