"""Write-ahead logs: the `WriteAheadLog` seam on files, on objects and in memory. `wal.factory.open_wal` chooses by
URL."""

from wal.factory import check_wal_url, is_on_objects, open_wal
from wal.object_names import LogName
from wal.object_settings import ObjectWalSettings
from wal.settings import WalSettings

__all__ = ["LogName", "ObjectWalSettings", "WalSettings", "check_wal_url", "is_on_objects", "open_wal"]
