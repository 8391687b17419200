"""What the group handlers share: answers in the exact version's classes, and Kafka's durations.

For APIs whose shape changed in a way no default bridges (`raw` in the table), the handler builds one set of
values; `build` takes those that the version's class has.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from datetime import timedelta
from functools import cache
from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.handlers.services import Services
from brokers.protocol.messages import NO_TIME, response_class
from metadata.image import ClusterImage, TopicImage

MILLISECOND = timedelta(milliseconds=1)


def milliseconds(duration: timedelta) -> int:
    return duration // MILLISECOND


def build(api_key: int, version: int, nested: str | None = None, /, **values: Any) -> Any:
    """The answer of that version, or its class `nested`, from those of `values` that it has a field for."""
    cls, names = _class(api_key, version, nested)
    if "throttle_time" in names:
        values["throttle_time"] = NO_TIME
    return cls(**{field: values[field] for field in names if field in values})


@cache
def _class(api_key: int, version: int, name: str | None) -> tuple[Any, tuple[str, ...]]:
    cls = response_class(api_key, version)
    if name is not None:
        cls = getattr(sys.modules[cls.__module__], name)
    return cls, tuple(field.name for field in fields(cls))


def check_protocol(services: Services, protocol: str, feature: str) -> None:
    """Raises UNSUPPORTED_VERSION where the group protocol is not served: its feature is not finalized, or the broker
    is told to leave it."""
    if protocol not in services.config.group_coordinator_rebalance_protocols:
        raise KafkaError(ErrorCode.unsupported_version)
    check_feature(services, feature)


def check_feature(services: Services, feature: str) -> None:
    """Raises UNSUPPORTED_VERSION where it is not finalized."""
    if services.partitions.image.features.get(feature, 0) < 1:
        raise KafkaError(ErrorCode.unsupported_version)


def check_not_blank(value: str | None, what: str) -> None:
    """Raises INVALID_REQUEST. None is no fault: it was not said."""
    if value is not None and not value.strip():
        raise invalid(f"{what} can't be empty.")


def invalid(message: str) -> KafkaError:
    return KafkaError(ErrorCode.invalid_request, message)


def topic_of(image: ClusterImage, topic: Any) -> TopicImage | None:
    """The topic that an entry of a request names: by id in versions that have one, else by name."""
    if hasattr(topic, "topic_id"):
        return None if topic.topic_id is None else image.topics_by_id.get(topic.topic_id)
    return image.topics.get(topic.name)
