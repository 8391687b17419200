"""Write-ahead logs: the `WriteAheadLog` seam on files and in memory. `wal.factory.open_wal` chooses by URL."""

from wal.factory import open_wal
from wal.settings import WalSettings

__all__ = ["WalSettings", "open_wal"]
