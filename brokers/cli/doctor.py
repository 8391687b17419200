"""`ponor doctor`: looks at a deployment before and while it runs, says one line for each thing it has looked at.

Owns: gathering the facts, bounded in time, with nothing left behind. Does not own: what they mean (brokers.doctor).
Exit codes: 0 nothing fails (there may be warnings), 1 something does, 2 a setting makes no sense.
Invariant: no credential is printed, whatever a library's error says.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from brokers import doctor
from brokers.cli.offline import FAILED, Stores, run
from brokers.config import BrokerConfig
from brokers.doctor import Finding, Level
from metadata.urls import engine_of
from s3stream.errors import BadSetting, PonorError
from s3stream.objectstore.s3 import s3_settings
from s3stream.objectstore.url import StoreUrl, parse_store_url
from wal import OsFiles, check_wal_url, is_on_objects
from wal import lock as wal_lock
from wal.mounts import complaint

TIMEOUT_SECONDS: Final = 5
_SHOWN: Final = (
    "fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names", "server_version_num",
    "server_encoding",
)  # fmt: skip
_PASSWORD: Final = re.compile(r"(?<=:)[^:@/]+(?=@)|(?<=password=)\S+")


def examine(settings: Mapping[str, str]) -> int:
    async def command(stores: Stores) -> int:
        worst = 0
        hide = _Hide(stores.config.metadata_url)
        async for finding in _findings(stores):
            print(hide(finding.line()), flush=True)
            worst = max(worst, FAILED if finding.level is Level.FAIL else 0)
        return worst

    return run(settings, command)


class _Hide:
    """Takes secrets that are known here out of a text."""

    def __init__(self, metadata_url: str) -> None:
        known = [os.environ.get(name, "") for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD")]
        known += _PASSWORD.findall(metadata_url.split("?")[0])
        self._secrets = [secret for secret in known if len(secret) > 3]

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


async def _findings(stores: Stores) -> AsyncIterator[Finding]:
    config = stores.config
    urls = {"object store": config.object_store_url}
    if is_on_objects(config.wal_url):
        urls["WAL"] = config.wal_url
    for subject, url in urls.items():
        async for finding in _store(stores, subject, url):
            yield finding
    for finding in [*_database(config), *_wal_directory(config), *_machine(config)]:
        yield finding


async def _store(stores: Stores, subject: str, url: str) -> AsyncIterator[Finding]:
    try:
        await stores.objects(url).check()
    except PonorError as error:
        yield doctor.fail(subject, str(error))
        return
    yield doctor.ok(subject, f"{url} is reached, and lets one of several writers create a key")
    parsed = parse_store_url(url)
    if parsed.scheme == "s3":
        for finding in _bucket(subject, parsed):
            yield finding


def _bucket(subject: str, url: StoreUrl) -> Iterator[Finding]:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    settings = s3_settings(url, os.environ)
    session = settings.session or boto3.Session(settings.access_key, settings.secret_key, settings.token)
    client = session.client(
        "s3", region_name=settings.region, endpoint_url=settings.endpoint,
        config=Config(connect_timeout=TIMEOUT_SECONDS, read_timeout=TIMEOUT_SECONDS, retries={"max_attempts": 1},
                      s3={"addressing_style": "path" if settings.path_style else "virtual"}),
    )  # fmt: skip

    def ask(method: str, missing: str) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = getattr(client, method)(Bucket=url.bucket)
            return found
        except ClientError as error:
            if missing in error.response["Error"]["Code"]:
                return {}
            raise

    try:
        rules = ask("get_bucket_lifecycle_configuration", "NoSuchLifecycle").get("Rules", [])
        yield doctor.lifecycle(subject, url.prefix, rules)
        answer = ask("get_bucket_versioning", "NotImplemented")
        yield doctor.versioning(subject, answer.get("Status", ""), rules)
        held = ask("get_object_lock_configuration", "ObjectLock").get("ObjectLockConfiguration", {})
        yield doctor.object_lock(subject, held.get("Rule", {}).get("DefaultRetention", {}).get("Mode"))
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date is not None:
            yield doctor.skew(subject, parsedate_to_datetime(date).timestamp() - time.time())
    except (ClientError, BotoCoreError) as error:
        yield doctor.warn(
            subject, f"the bucket's rules cannot be read ({error}): look yourself that none expires objects"
        )


def _database(config: BrokerConfig) -> Iterator[Finding]:
    try:
        shown = engine_of(config.metadata_url).url
    except BadSetting as error:
        yield doctor.fail("metadata", str(error))
        return
    if not shown.startswith("postgres"):
        yield from _sqlite(shown)
        return
    import psycopg

    try:
        with psycopg.connect(config.metadata_url, connect_timeout=TIMEOUT_SECONDS, autocommit=True) as connection:
            began = time.time()
            row = connection.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
            middle = (began + time.time()) / 2
            settings = {name: _show(connection, name) for name in _SHOWN}
            count = connection.execute(
                "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
            ).fetchone()
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        yield doctor.fail("postgresql", f"{shown}: {said}; check the address, the user and that the server runs")
        return
    yield from doctor.postgres(settings, int(count[0]) if count else 0)
    yield doctor.skew("postgresql", float(row[0]) - middle if row else 0.0)


def _show(connection: Any, name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    return str(row[0])


def _sqlite(shown: str) -> Iterator[Finding]:
    path = shown.removeprefix("sqlite://")
    if not path.startswith("/"):
        yield doctor.warn("sqlite", f"{shown} is lost with the process")
        return
    path = f"/{path.lstrip('/')}"
    wrong = complaint(OsFiles().mounts(), os.path.realpath(path))
    if wrong is not None:
        yield doctor.fail("sqlite", wrong.replace("a WAL", "a database"))
    else:
        yield doctor.warn("sqlite", f"{path}: for the brokers of one machine; back it up, it is lost with its disk")


def _wal_directory(config: BrokerConfig) -> Iterator[Finding]:
    try:
        path = check_wal_url(config.wal_url)
    except BadSetting as error:
        yield doctor.fail("WAL", str(error))
        return
    if path is None:
        if not is_on_objects(config.wal_url):
            yield doctor.fail("WAL", f"{config.wal_url} is lost with the process; name a directory or a bucket")
        return
    files = OsFiles()
    wrong = complaint(files.mounts(), os.path.realpath(path))
    if wrong is not None:
        yield doctor.fail("WAL", wrong)
    elif not os.path.isdir(path):
        parent = next(found for found in Path(path).parents if found.is_dir())
        if os.access(parent, os.W_OK | os.X_OK):
            yield doctor.ok("WAL", f"{path} is not there yet, and can be made in {parent}")
        else:
            yield doctor.fail("WAL", f"{path} is not there, and this user may not write in {parent}")
    else:
        yield _locked(path, files)


def _locked(path: str, files: OsFiles) -> Finding:
    try:
        files.close(wal_lock.acquire(files, path))
    except wal_lock.Held as error:
        return doctor.ok("WAL", f"its lock works: {error}")
    except BadSetting as error:
        return doctor.fail("WAL", str(error))
    return doctor.ok("WAL", f"{path}: local, its lock works, nobody holds it")


def _machine(config: BrokerConfig) -> Iterator[Finding]:
    host = config.advertised.host
    try:
        addresses = sorted({str(found[4][0]) for found in socket.getaddrinfo(host or None, config.advertised.port)})
    except OSError:
        addresses = []
    alone = config.metadata_url.startswith("sqlite")
    yield doctor.listener("listener", host, addresses or None, alone)
    yield doctor.open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
