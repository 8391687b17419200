"""Server-side assignors, by the names that members and `group.consumer.assignors` know them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from brokers.groups.assignors import range, uniform
from brokers.groups.assignors.assignor import Assignor

ASSIGNORS: Final[Mapping[str, Assignor]] = {"uniform": uniform.assign, "range": range.assign}
