"""What handlers use of share groups."""

from __future__ import annotations

from dataclasses import dataclass

from brokers.shares.coordinator import ShareCoordinator
from brokers.shares.persister import Persister


@dataclass(frozen=True, slots=True)
class Shares:
    coordinator: ShareCoordinator
    persister: Persister
    """Coordinators of share-partitions, wherever they are."""
