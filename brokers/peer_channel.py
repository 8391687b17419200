"""This broker's end of the channel between brokers: where it listens, whom it may ask (CORRECTNESS 19, decision 0126).

Owns: the listener's and the connections' life, the address that others are told. Does not own: frames (peers/), what
is asked for (s3stream/tails.py) and told (partitions/words.py).
Invariant: nothing depends on it. Where there is no channel, partitions are flushed before they move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from brokers.config import BrokerConfig
from brokers.partitions.manager import PartitionManager
from brokers.peers.client import Peers
from brokers.peers.server import PeerServer
from metadata.image import PEERS
from s3stream.storage import Storage
from s3stream.tasks import Tasks
from s3stream.types import NodeId, NodeIdentity


class PeerChannel:
    def __init__(
        self, config: BrokerConfig, cluster_id: str, storage: Storage, tasks: Tasks,
        identity: Callable[[], NodeIdentity], partitions: Callable[[], PartitionManager],
    ) -> None:  # fmt: skip
        self._config = config
        self._partitions = partitions
        self._server = PeerServer(cluster_id, identity, storage.tail_batches, partitions, tasks)
        self.peers = Peers(cluster_id, identity, self._address)

    async def listen(self) -> dict[str, str]:
        """Returns what to register, so that others find it. Raises BadSetting."""
        config = self._config
        port = await self._server.start(config.listener.host, config.peers_port)
        return {PEERS: replace(config.advertised, port=port).address}

    async def close(self) -> None:
        await self.peers.close()
        await self._server.close()

    def _address(self, node_id: NodeId) -> tuple[str, int] | None:
        node = self._partitions().image.nodes.get(node_id)
        return None if node is None or not node.alive else node.peers
