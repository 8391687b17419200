"""OffsetCommit: store where a group has got to. Answers when that is durable. Topic ids from version 10 (KIP-848).

A plain function and a callback: consumers commit steadily, and a task for each commit costs as much as its record.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import structlog
from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError, error_code
from brokers.groups.group import CommitRequest, Sender
from brokers.groups.offset_requests import BegunCommit
from brokers.groups.offsets import PartitionResult, TopicCommit
from brokers.handlers.context import RequestContext
from brokers.handlers.table import HOT, Api
from brokers.protocol.offset_commit_codec import (
    TOPIC_IDS,
    OffsetCommitRequest,
    Topic,
    decode_offset_commit_request,
    encode_offset_commit_response,
)
from metadata.image import ClusterImage, TopicImage
from s3stream.errors import PonorError

log = structlog.get_logger(__name__)

EPOCHS_VERSION = 9
"""KIP-848: members have epochs, and a group that is not there is GROUP_ID_NOT_FOUND."""

Answer: TypeAlias = dict[Topic, list[tuple[int, int]]]
"""By the request's topic: each partition's result."""
Commits: TypeAlias = Sequence[tuple[Topic, TopicCommit]]


def handle(ctx: RequestContext) -> None:
    """Raises MalformedRequest."""
    version = ctx.api_version
    request = decode_offset_commit_request(ctx.body, version)
    answer: Answer = {}
    commits = _resolve(ctx.services.partitions.image, request, version, answer)
    if not commits:
        _respond(ctx, answer)
        return
    sender = Sender(request.group_id, request.member_id, request.generation, request.group_instance_id)
    wanted = CommitRequest(sender, [commit for _, commit in commits], knows_epochs=version >= EPOCHS_VERSION)
    try:
        begun = ctx.services.groups.begin_commit(wanted, request.retention_ms)
    except Exception as error:
        if not isinstance(error, KafkaError | PonorError):
            log.exception("commit failed", group=request.group_id)
        _merge(answer, commits, _refused(commits, error_code(error)))
        _respond(ctx, answer)
        return
    if begun.stored is None:
        _merge(answer, commits, begun.results)
        _respond(ctx, answer)
    else:
        begun.stored.add_done_callback(partial(_stored, ctx, answer, commits, begun))


def _stored(ctx: RequestContext, answer: Answer, commits: Commits, begun: BegunCommit, done: Future[ErrorCode]) -> None:
    error = done.result()
    _merge(answer, commits, begun.results if error is ErrorCode.none else _refused(commits, error))
    _respond(ctx, answer)


def _respond(ctx: RequestContext, answer: Answer) -> None:
    ctx.respond([encode_offset_commit_response(ctx.api_version, answer)])


def _resolve(
    image: ClusterImage, request: OffsetCommitRequest, version: int, answer: Answer
) -> list[tuple[Topic, TopicCommit]]:
    """What exists, with its topic's name and id; what does not goes to `answer`."""
    by_id = version >= TOPIC_IDS
    missing = ErrorCode.unknown_topic_id if by_id else ErrorCode.unknown_topic_or_partition
    commits: list[tuple[Topic, TopicCommit]] = []
    known: Mapping[Any, TopicImage] = image.topics_by_id if by_id else image.topics
    for topic, partitions in request.topics:
        found = known.get(topic)
        if found is None:
            answer.setdefault(topic, []).extend((each.partition, missing) for each in partitions)
            continue
        count = len(found.partitions)
        valid = tuple([each for each in partitions if 0 <= each.partition < count])
        if len(valid) < len(partitions):
            answer.setdefault(topic, []).extend(
                (each.partition, ErrorCode.unknown_topic_or_partition)
                for each in partitions
                if not 0 <= each.partition < count
            )
        if valid:
            commits.append((topic, TopicCommit(found.name, found.topic_id, valid)))
    return commits


def _merge(answer: Answer, commits: Commits, results: Sequence[PartitionResult]) -> None:
    """Results come in the order of the commits."""
    remaining = iter(results)
    for topic, commit in commits:
        known = answer.setdefault(topic, [])
        for _ in commit.partitions:
            result = next(remaining)
            known.append((result.partition, result.error))


def _refused(commits: Commits, error: ErrorCode) -> list[PartitionResult]:
    return [PartitionResult(commit.topic, each.partition, error) for _, commit in commits for each in commit.partitions]


API = Api(8, "OffsetCommit", 2, 10, handle, kind=HOT)
