"""The lock of a WAL's directory (CORRECTNESS 10). Blocking.

Owns: taking it, proving that the file system keeps it, saying who holds it. Does not own: whose log the directory
holds (owner.py).
Invariant: who holds it is the only one who writes in the directory; it goes with the process that holds it, and the
file is never unlinked.
"""

from __future__ import annotations

import contextlib
import os

from s3stream.errors import BadSetting
from wal import mounts
from wal.files import Files, Handle
from wal.segments import LOCK_NAME


class Held(BadSetting):
    """Another open of the file has the lock: its process lives, running or stopped."""


def acquire(files: Files, path: str) -> Handle:
    """The directory's lock, made and tested. Raises Held, and BadSetting when the place will not do."""
    wrong = mounts.complaint(files.mounts(), path)
    if wrong is not None:
        raise BadSetting(f"wal: {wrong}")
    lock_path = os.path.join(path, LOCK_NAME)
    try:
        files.make_directory(path)
        handle = files.lock(lock_path)
    except BlockingIOError as error:
        raise Held(f"wal: {path} is in use by process {_holder(files, lock_path)}") from error
    except OSError as error:
        raise BadSetting(f"wal: {path} cannot be used: {error}") from error
    try:
        _prove(files, lock_path)
        # For the message that refuses another process. A full disk must not keep the log from being recovered.
        with contextlib.suppress(OSError):
            files.truncate(handle, 0)
            files.pwritev(handle, [f"{os.getpid()}\n".encode()], 0)
    except BaseException:
        files.close(handle)
        raise
    return handle


def _prove(files: Files, lock_path: str) -> None:
    """A second open of the file must be refused its lock, or the file system does not keep locks."""
    try:
        second = files.lock(lock_path)
    except BlockingIOError:
        return
    files.close(second)
    raise BadSetting(f"wal: the file system of {lock_path} does not keep locks: use a local disk or NFS 4.1")


def _holder(files: Files, lock_path: str) -> str:
    try:
        handle = files.open(lock_path)
    except OSError:
        return "(unknown)"
    try:
        return files.pread(handle, 32, 0).decode("ascii", "replace").strip() or "(unknown)"
    finally:
        files.close(handle)
