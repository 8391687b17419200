"""Which consumers a leader sends to a broker of their own rack (KIP-392, CORRECTNESS 17, decision 0130).

Owns: when that is worth it, to whom. Does not own: how a consumer is told (fetch_read.py), what it finds there
(partitions/followed.py).
Invariant: a consumer is sent only to a living broker of its rack that Metadata lists as a replica, only for an offset
that is in objects, and after that not again for a while: whoever comes back is served, so that nobody goes to and fro.
"""

from __future__ import annotations

from collections import OrderedDict

from brokers.config import BrokerConfig
from brokers.handlers.topic_view import can_read, clients_replicas, racks_of
from brokers.limits import REFERRALS_APART_S, REFERRALS_MAX
from brokers.partitions.partition_log import READ_COMMITTED, PartitionLog
from metadata.image import ClusterImage, PartitionImage
from s3stream.metrics import Metrics
from s3stream.seams import Clock
from s3stream.types import NodeId, StreamId

NOBODY: NodeId = -1


class ReadReplicas:
    def __init__(
        self,
        node_id: NodeId,
        lag_bytes: int,
        clock: Clock,
        metrics: Metrics,
        referrals_max: int = REFERRALS_MAX,
    ) -> None:
        self._node_id = node_id
        self._lag_bytes = lag_bytes
        self._clock = clock
        self._referrals_max = referrals_max
        self._sent: OrderedDict[tuple[int, StreamId], float] = OrderedDict()
        """When the consumer on a connection was last sent elsewhere for a stream, oldest first."""
        self._referrals = metrics.counter(
            "ponor_read_replica_referrals_total", "Times a consumer was sent to a broker of its rack."
        )

    def choose(
        self, connection_id: int, rack: str, log: PartitionLog, offset: int, isolation_level: int, image: ClusterImage
    ) -> NodeId:
        """Where the consumer in `rack` should read on from `offset`; NOBODY: here."""
        here = image.nodes.get(self._node_id)
        if (here is not None and here.rack == rack) or not self._far_behind(log, offset, isolation_level):
            return NOBODY
        topic = image.topics_by_id.get(log.topic_id)
        if topic is None or self._was_sent(connection_id, log.stream.stream_id):
            return NOBODY
        found = reader_in_rack(image, topic.partitions[log.partition], rack)
        if found != NOBODY:
            self._remember(connection_id, log.stream.stream_id)
            self._referrals.inc()
        return found

    def _far_behind(self, log: PartitionLog, offset: int, isolation_level: int) -> bool:
        """Only what is in objects is anybody else's, and behind an open transaction committed reads find nothing
        anywhere. Bytes are guessed from the log's mean: exact ones would take a look at its ranges."""
        stream = log.stream
        end = stream.committed_end
        if isolation_level == READ_COMMITTED:
            end = min(end, log.last_stable_offset)
        lag = end - offset
        span = stream.durable_end - stream.start_offset
        return lag > 0 and offset >= stream.start_offset and lag * stream.size_bytes >= self._lag_bytes * span

    def _was_sent(self, connection_id: int, stream_id: StreamId) -> bool:
        sent = self._sent.get((connection_id, stream_id))
        return sent is not None and self._clock.monotonic() - sent < REFERRALS_APART_S

    def _remember(self, connection_id: int, stream_id: StreamId) -> None:
        self._sent.pop((connection_id, stream_id), None)
        self._sent[connection_id, stream_id] = self._clock.monotonic()
        if len(self._sent) > self._referrals_max:
            self._sent.popitem(last=False)


def read_replicas(config: BrokerConfig, clock: Clock, metrics: Metrics) -> ReadReplicas | None:
    """None where consumers are not to be sent anywhere."""
    if not config.rack_aware:
        return None
    return ReadReplicas(config.node_id, config.read_replica_lag_bytes, clock, metrics)


def reader_in_rack(image: ClusterImage, part: PartitionImage, rack: str) -> NodeId:
    """A replica, as consumers are shown them, that lives in `rack` and is there to stay; partitions are spread over
    several by their streams."""
    listed = sorted(clients_replicas(image, part, racks_of(image)))
    able = [one for one in listed if can_read(image, one) and image.nodes[one].rack == rack]
    return able[part.stream_id % len(able)] if able else NOBODY
