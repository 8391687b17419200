"""`ponor node forget NODE`: says what is lost with a node whose WAL is gone, and with --accept-loss gives it up."""

from __future__ import annotations

from collections.abc import Mapping

from brokers import forgetting
from brokers.cli.offline import FAILED, Stores, run
from brokers.forgetting import Lost, Plan
from metadata.cluster_types import Loss
from s3stream.types import NodeId


def forget(settings: Mapping[str, str], node_id: NodeId, accept_loss: bool) -> int:
    async def command(stores: Stores) -> int:
        metadata = await stores.metadata()
        config = stores.config
        plan = await forgetting.plan(
            metadata, node_id, stores.wals(metadata.cluster_id), stores.clock, config.lease_ms / 1000,
            config.wal_bytes_max,
        )  # fmt: skip
        if not plan.lost:
            print(f"node {node_id}: nothing is lost: {_left(plan)}. Nothing was changed")
            return FAILED
        for one in plan.lost:
            print(_line(one, plan.gap))
        if not accept_loss:
            print(f"{len(plan.lost)} partitions. Nothing was changed: --accept-loss gives the records up, for good")
            return 0
        losses = await forgetting.give_up(plan, metadata, stores.objects(config.object_store_url))
        for loss in losses:
            print(_given_up(loss))
        print(f"{len(losses)} partitions go on without the records of node {node_id}; brokers open them now")
        return 0

    return run(settings, command)


def _left(plan: Plan) -> str:
    if not plan.holdings.streams:
        return "it has no partitions open"
    return f"its WAL holds everything of its {len(plan.holdings.streams)} partitions, and brokers that run recover it"


def _line(lost: Lost, gap: int) -> str:
    stream = lost.stream
    return (
        f"{stream.topic}-{stream.partition}: lost is every record from offset {lost.start} on; the partition would go "
        f"on at offset {lost.start + gap} under leader epoch {stream.snapshot.epoch + 1} ({lost.reason})"
    )


def _given_up(loss: Loss) -> str:
    return (
        f"{loss.topic}-{loss.partition}: gave up offsets [{loss.start}, {loss.end}); goes on at {loss.end} under "
        f"leader epoch {loss.leader_epoch}"
    )
