"""Proves that a store can be used, by using it: the start-up check behind `ObjectStore.check`.

Invariant: a store that passes has the one property everything else rests on, that a key is created by exactly one
writer; and whatever was written for the proof is removed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence

from s3stream.errors import AlreadyExists, BadSetting, NotFound, PonorError, Unavailable
from s3stream.objectstore.faults import Refusal, Refused, gather_all, listing
from s3stream.objectstore.url import StoreUrl, parse_store_url
from s3stream.seams import ObjectStore

RACES = 3
RACERS = 4
"""A store that looks whether the key is there and then writes lets two win only when they look at the same moment."""


async def probe(store: ObjectStore, url_text: str) -> None:
    """Raises BadSetting with what is wrong and what to do."""
    url = parse_store_url(url_text)
    # Two brokers starting at once must not meet on a key, and a crashed probe's key must not block the next.
    folder = f"ponor-check/{secrets.token_hex(16)}/"
    keys = [f"{folder}{number}" for number in range(RACES)]
    try:
        try:
            await gather_all([_prove(store, key, url) for key in keys])
            await _prove_listed(store, folder, keys, url)
        except BaseException:
            with contextlib.suppress(PonorError):
                await store.delete(keys)
            raise
        await store.delete(keys)
        await _prove_deleted(store, keys[0], url)
    except NotFound as error:
        raise BadSetting(f"object store {url.text}: an object just created cannot be read ({error})") from error
    except Refused as error:
        raise BadSetting(f"object store {url.text}: {_advice(url, error)}") from error
    except Unavailable as error:
        raise BadSetting(
            f"object store {url.text}: cannot be reached ({error}); check the address and that the store is running"
        ) from error


async def _prove(store: ObjectStore, key: str, url: StoreUrl) -> None:
    """One winner, both when the key is there already and when several writers arrive at the same time.

    The race takes another path in many stores than the plain conflict: 409 instead of 412 (CORRECTNESS 5).
    """
    racers = [f"racer {number}".encode() for number in range(RACERS)]
    results = await asyncio.gather(*(store.create(key, [racer]) for racer in racers), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, AlreadyExists):
            raise result
    winners = [racer for racer, result in zip(racers, results, strict=True) if result is None]
    if len(winners) != 1 or bytes(await store.get(key)) != winners[0]:
        raise _not_conditional(url)
    try:
        await store.create(key, [b"late comer"])
    except AlreadyExists:
        return
    raise _not_conditional(url)


async def _prove_listed(store: ObjectStore, folder: str, keys: Sequence[str], url: StoreUrl) -> None:
    """A log on objects, and the search for orphans, see what is there by listing it."""
    async with listing(store, folder, "") as infos:
        found = [info.key async for info in infos]
    if found != list(keys):
        raise BadSetting(
            f"object store {url.text}: objects just created are missing in a listing. Ponor needs a store whose "
            "listings are consistent; use a release or a setting of it that is"
        )


async def _prove_deleted(store: ObjectStore, key: str, url: StoreUrl) -> None:
    try:
        await store.get(key)
    except NotFound:
        return
    raise BadSetting(f"object store {url.text}: a deleted object can still be read; allow deletion under its prefix")


def _not_conditional(url: StoreUrl) -> BadSetting:
    return BadSetting(
        f"object store {url.text}: two writers can both create the same key. Ponor needs a store that honours "
        "conditional writes (If-None-Match: *); use a release of it that does"
    )


def _advice(url: StoreUrl, error: Refused) -> str:
    if error.refusal is Refusal.ACCESS:
        return f"access is denied ({error}); check the credentials, and that they may read, write, list and delete"
    if url.scheme == "s3":
        endpoint = url.options.get("endpoint")
        where = f" --endpoint-url {endpoint}" if endpoint else ""
        return f"bucket {url.bucket!r} does not exist; create it: aws s3 mb s3://{url.bucket}{where}"
    if url.scheme == "gs":
        return f"bucket {url.bucket!r} does not exist; create it: gcloud storage buckets create gs://{url.bucket}"
    if url.scheme == "az":
        return f"container {url.bucket!r} does not exist; create it: az storage container create --name {url.bucket}"
    return f"it does not exist ({error})"
