"""What can be known to be wrong before anything is touched: ports, folders, whose data this is.

Every fault is a BadSetting: one line that names the setting and what to do.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from brokers.config import BrokerConfig
from brokers.identity import Identity, read_identity
from s3stream.errors import BadSetting

T = TypeVar("T")


async def named(setting: str, opening: Awaitable[T]) -> T:
    """What `opening` gives; where a setting is at fault, its name stands first."""
    try:
        return await opening
    except BadSetting as error:
        raise BadSetting(f"{setting}: {error}") from error


def check_ports(config: BrokerConfig) -> None:
    """Raises when somebody listens where this broker is to."""
    _check_port("listeners", config.listener.host, config.listener.port)
    _check_port("ponor.http.port", config.http_host, config.http_port)
    if config.listener.port == config.http_port != 0:
        raise BadSetting(f"ponor.http.port: {config.http_port} is the port of the Kafka listener too; choose another")


def _check_port(setting: str, host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BadSetting(f"{setting}: {host!r} is not an address of this machine: {error}") from error
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            # As the listener will: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise BadSetting(
                    f"{setting}: cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}. "
                    "Stop whoever has the port, or choose another"
                ) from error


def free_port(host: str) -> int:
    """A port that nobody listens on, for a setting of 0."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def check_folders(config: BrokerConfig) -> Identity | None:
    """Raises for a folder that cannot be used or is another's; returns what an existing one says of itself."""
    parent = config.broker_dir
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise BadSetting(f"ponor.data.dir: {parent} is not a folder; name another")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BadSetting(
            f"ponor.data.dir: this user may not write in {parent}; change its owner, or name another folder"
        )
    found = read_identity(config.broker_dir, config.node_id)
    if found is not None:
        _check_metadata_is_there(config, found)
    return found


def _check_metadata_is_there(config: BrokerConfig, found: Identity) -> None:
    """An existing broker must not be given a new, empty cluster by a wrong path."""
    path = sqlite_file(config.metadata_url)
    if path is not None and not path.exists():
        raise BadSetting(
            f"ponor.metadata.url: {path} does not exist, but {config.broker_dir} belongs to cluster "
            f"{found.cluster_id}: point it at that cluster's database, or name another ponor.data.dir"
        )


def sqlite_file(metadata_url: str) -> Path | None:
    """The file that the URL names; None for a database that is no file."""
    parts = urlsplit(metadata_url)
    if parts.scheme != "sqlite" or not parts.path.startswith("/"):
        return None
    return Path("/" + unquote(parts.path).lstrip("/"))
