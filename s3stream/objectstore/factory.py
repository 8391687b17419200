"""Makes an object store from its URL: the implementation, metered, retrying."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from random import Random

from s3stream.metrics import Metrics
from s3stream.objectstore.local import LocalStore
from s3stream.objectstore.memory import MemoryStore
from s3stream.objectstore.metered import MeteredStore
from s3stream.objectstore.retrying import RetryingStore, RetryPolicy
from s3stream.objectstore.url import StoreUrl, parse_store_url
from s3stream.seams import Clock, ObjectStore, RunBlocking


def open_store(
    url: str,
    *,
    metrics: Metrics,
    clock: Clock,
    random: Random | None = None,
    run_blocking: RunBlocking = asyncio.to_thread,
    policy: RetryPolicy | None = None,
    environment: Mapping[str, str] | None = None,
) -> ObjectStore:
    """Raises BadSetting for a URL that makes no sense, and where no credentials are found. Does no I/O with the store
    itself: that is `check`. `environment` is where AWS settings are looked for, by default the process's own."""
    parsed = parse_store_url(url)
    bare = open_bare_store(parsed, clock, run_blocking, os.environ if environment is None else environment)
    return RetryingStore(MeteredStore(bare, metrics, clock), url, clock, random or Random(), policy)


def open_bare_store(
    url: StoreUrl, clock: Clock, run_blocking: RunBlocking, environment: Mapping[str, str]
) -> ObjectStore:
    """Without retries and metrics: what the contract suite holds to the seam. Clients are imported when needed."""
    if url.scheme == "memory":
        return MemoryStore(clock)
    if url.scheme == "file":
        return LocalStore(url.prefix, clock, run_blocking)
    if url.scheme == "s3":
        return _open_s3(url, environment)
    from s3stream.objectstore.clouds import azure_client, google_client
    from s3stream.objectstore.obstore import ObstoreStore

    return ObstoreStore((google_client if url.scheme == "gs" else azure_client)(url), url.text)


def _open_s3(url: StoreUrl, environment: Mapping[str, str]) -> ObjectStore:
    from s3stream.objectstore.s3 import s3_client, s3_settings

    settings = s3_settings(url, environment)
    if url.options.get("client") == "aioboto3":
        from s3stream.objectstore.aioboto3 import Aioboto3Store

        return Aioboto3Store(settings, url.text)
    from s3stream.objectstore.obstore import ObstoreStore

    return ObstoreStore(s3_client(settings), url.text)
