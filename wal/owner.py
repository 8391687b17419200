"""Whose log a WAL directory holds: a small file, written when a node has registered and before it appends. Blocking.

A directory's path says nothing of that: /var/lib/ponor/wal is on every machine another one. Whoever takes over a dead
node's log asks this file before it believes that the lock it got, and the records it finds, are that node's.
Owns: the file's bytes (docs/formats/wal.md). Does not own: the lock (lock.py).
Invariant: the file names the last node epoch that could have written records here, or an older one, never a newer one.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import NamedTuple

from crc32c import crc32c

from s3stream.errors import Corrupt
from s3stream.types import NodeId
from wal.files import Files, write_all

OWNER_NAME = "owner"
_NEW_NAME = "owner.new"
_MAGIC = b"PONOROWN"
_VERSION = 1

# magic, version, crc32c of what follows | node id, node epoch, incarnation
_HEAD = struct.Struct("<8sII")
_BODY = struct.Struct("<qqQ")
OWNER_BYTES = _HEAD.size + _BODY.size


class WalOwner(NamedTuple):
    node_id: NodeId
    node_epoch: int
    incarnation: int


def encode_owner(owner: WalOwner) -> bytes:
    body = _BODY.pack(*owner)
    return _HEAD.pack(_MAGIC, _VERSION, crc32c(body)) + body


def decode_owner(data: bytes, name: str) -> WalOwner:
    """Raises Corrupt."""
    if len(data) < OWNER_BYTES:
        raise Corrupt(f"{name} is truncated: {len(data)} bytes of {OWNER_BYTES}")
    magic, version, checksum = _HEAD.unpack_from(data)
    body = data[_HEAD.size : OWNER_BYTES]
    if magic != _MAGIC or version != _VERSION or crc32c(body) != checksum:
        raise Corrupt(f"{name} fails its checksum, or is of another version than {_VERSION}")
    return WalOwner(*_BODY.unpack(body))


def write_owner(files: Files, path: str, owner: WalOwner) -> None:
    """Durable on return, and at one stroke: a crash leaves the old or the new. Raises OSError."""
    temporary = os.path.join(path, _NEW_NAME)
    handle = files.open(temporary, create=True)
    try:
        write_all(files, handle, [encode_owner(owner)], 0)
        files.fdatasync(handle)
    except BaseException:
        with contextlib.suppress(OSError):
            files.unlink(temporary)
        raise
    finally:
        files.close(handle)
    files.rename(temporary, os.path.join(path, OWNER_NAME))
    files.sync_directory(path)


def read_owner(files: Files, path: str) -> WalOwner:
    """Raises OSError: it is not there, or cannot be read; Corrupt."""
    name = os.path.join(path, OWNER_NAME)
    handle = files.open(name)
    try:
        return decode_owner(files.pread(handle, OWNER_BYTES, 0), name)
    finally:
        files.close(handle)
