"""Write-ahead logs: the `WriteAheadLog` seam on files, on objects and in memory. `wal.factory.open_wal` chooses by
URL."""

from wal.factory import (
    WalAccess,
    check_wal_url,
    clear_wal,
    end_of,
    is_on_objects,
    lock_needed,
    open_wal,
    owner_of,
    read_sealed,
    seal_everything,
    seal_wal,
    take_lock,
)
from wal.file_takeover import WalLock
from wal.files import Files, OsFiles
from wal.object_names import LogName
from wal.object_settings import ObjectWalSettings
from wal.settings import WalSettings

__all__ = [
    "Files",
    "LogName",
    "ObjectWalSettings",
    "OsFiles",
    "WalAccess",
    "WalLock",
    "WalSettings",
    "check_wal_url",
    "clear_wal",
    "end_of",
    "is_on_objects",
    "lock_needed",
    "open_wal",
    "owner_of",
    "read_sealed",
    "seal_everything",
    "seal_wal",
    "take_lock",
]
