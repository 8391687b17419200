"""Where a partition ends for readers, wherever it is led: by its own log here, by ListOffsets from other brokers."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError
from brokers.partitions.manager import PartitionManager
from brokers.peers.requests import BrokerRequests
from brokers.protocol.messages import request_module
from metadata.image import NO_LEADER
from s3stream.errors import PonorError

LIST_OFFSETS: Final = 2
VERSION: Final = 7
LATEST: Final = -1


class EndOffsets:
    def __init__(self, partitions: PartitionManager, requests: BrokerRequests) -> None:
        self._partitions = partitions
        self._requests = requests

    async def __call__(self, topic_id: UUID, partition: int) -> tuple[int, ErrorCode]:
        try:
            return self._partitions.log_by_id(topic_id, partition).latest_offset().offset, ErrorCode.none
        except KafkaError as error:
            if error.code is not ErrorCode.not_leader_or_follower:
                return -1, error.code
        try:
            return await self._ask(topic_id, partition)
        except PonorError:
            return -1, ErrorCode.not_leader_or_follower

    async def _ask(self, topic_id: UUID, partition: int) -> tuple[int, ErrorCode]:
        image = self._partitions.image
        topic = image.topics_by_id[topic_id]
        leader = image.leader_of(topic.partitions[partition])
        if leader == NO_LEADER:
            return -1, ErrorCode.leader_not_available
        module = request_module(LIST_OFFSETS, VERSION)
        asked = module.ListOffsetsPartition(partition_index=partition, current_leader_epoch=-1, timestamp=LATEST)
        request = module.ListOffsetsRequest(
            replica_id=-1, isolation_level=0,
            topics=(module.ListOffsetsTopic(name=topic.name, partitions=(asked,)),),
        )  # fmt: skip
        answer = await self._requests.ask(leader, LIST_OFFSETS, VERSION, request)
        found = answer.topics[0].partitions[0]
        return found.offset, found.error_code
