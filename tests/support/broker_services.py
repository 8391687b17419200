"""`Services` for handler and server tests, with whatever the test does not hand in left out."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

from brokers.handlers.application_topics import ApplicationTopics
from brokers.handlers.long_polls import LongPolls
from brokers.handlers.metadata_answers import MetadataAnswers
from brokers.handlers.services import Services
from brokers.limits import ANSWERS_SHARE
from metadata.image import ClusterImage, NodeImage
from s3stream.budget import MemoryBudget
from s3stream.clock import SystemClock
from s3stream.limits import MIB
from s3stream.metrics import Metrics
from s3stream.tasks import Tasks


def empty_image(**changes: Any) -> ClusterImage:
    values: dict[str, Any] = {
        "version": 7,
        "cluster_id": "test-cluster",
        "topics": {},
        "topics_by_id": {},
        "nodes": {1: NodeImage(1, 1, "127.0.0.1", 9092, None, True)},
        "broker_configs": {},
        "controller": 1,
        "features": {"metadata.version": 29},
    }
    return ClusterImage(**values | changes)


def make_services(**given: Any) -> Services:
    """Collaborators by name; the rest are the plainest that work."""
    values: dict[str, Any] = {
        "node_id": 1,
        "config": SimpleNamespace(),
        "partitions": SimpleNamespace(image=empty_image()),
        "groups": SimpleNamespace(),
        "transactions": SimpleNamespace(),
        "enlistment": SimpleNamespace(),
        "shares": SimpleNamespace(connection_gone=lambda _: None),
        "metadata": SimpleNamespace(),
        "storage": SimpleNamespace(throttled=False),
        "clock": SystemClock(),
        "tasks": Tasks(),
        "metrics": Metrics(),
        "budget": MemoryBudget(512 * MIB),
        "auto_create": None,
        "fetch_sessions": SimpleNamespace(),
        "long_polls": LongPolls(),
        "producer_ids": SimpleNamespace(),
        "refresh": None,
        "configs": SimpleNamespace(),
        "telemetry": SimpleNamespace(introduced=lambda *_: None, connection_gone=lambda _: None),
        "chance": Random(0),
        "followed": None,
        "read_replicas": None,
        "metadata_answers": MetadataAnswers(),
        "application_topics": ApplicationTopics(),
    }
    unknown = given.keys() - values.keys()
    assert not unknown, unknown
    values |= given
    return Services(**{"answers": values["budget"].account("answers", ANSWERS_SHARE)} | values)
