"""What an operation on a modern group is told of the world: time, topics, settings. It asks nothing else."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeAlias, TypeVar

from brokers.groups.config import ConsumerConfig, ModernConfig
from brokers.groups.messages import Instant
from brokers.groups.modern.topics import Topics

C = TypeVar("C", bound=ModernConfig)


class ModernTerms(NamedTuple, Generic[C]):
    now: Instant
    topics: Topics
    config: C
    """The broker's, with the group's own settings over them."""


Terms: TypeAlias = ModernTerms[ConsumerConfig]
