"""What an operation on a modern group is told of the world: time, topics, settings. It asks nothing else."""

from __future__ import annotations

from typing import NamedTuple

from brokers.groups.config import ConsumerConfig
from brokers.groups.messages import Instant
from brokers.groups.modern.topics import Topics


class Terms(NamedTuple):
    now: Instant
    topics: Topics
    config: ConsumerConfig
    """The broker's, with the group's own settings over them."""
