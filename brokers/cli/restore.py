"""`ponor metadata restore-fence`: says what a restored database lacks, and with --accept-loss brings it past that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from brokers import restoring
from brokers.cli.offline import Stores, run
from brokers.restoring import Survey

LINES_MAX: Final = 100
"""Of one kind: a bucket may hold millions of objects."""


def restore_fence(settings: Mapping[str, str], accept_loss: bool) -> int:
    async def command(stores: Stores) -> int:
        config = stores.config
        metadata = await stores.metadata()
        objects = stores.objects(config.object_store_url)
        wals = stores.wals(metadata.cluster_id)
        await restoring.refuse_if_used(metadata, stores.clock, config.lease_ms / 1000)
        found = await restoring.survey(metadata, objects, config.wal_url, wals)
        _show(found)
        if not accept_loss:
            print("Nothing was changed: --accept-loss gives up what was written since the backup, for good")
            return 0
        losses = await restoring.restore(found, metadata, objects, wals, config.wal_bytes_max)
        for loss in losses:
            print(f"{loss.topic}-{loss.partition}: records up to offset {loss.start} stay; it goes on at {loss.end}")
        print(
            f"{len(losses)} partitions go on behind gaps. Move WAL directories of before away (docs/runbooks/"
            "restore-metadata.md), then start the brokers"
        )
        return 0

    return run(settings, command)


def _show(found: Survey) -> None:
    for node_id, epoch in sorted(found.node_epochs.items()):
        print(f"node {node_id}: its WAL on objects goes up to node epoch {epoch}")
    _lines("unknown object, written since the backup", found.unknown)
    _lines("unknown object that is damaged, so that its streams are not known", found.damaged)
    _lines(
        "lost: its object was deleted since the backup",
        [f"{one.topic}-{one.partition} offsets [{one.start}, {one.end}) ({one.key})" for one in found.unreadable],
    )
    ends = [
        f"{name[0]}-{name[1]}: objects have records up to offset {end}"
        for stream_id, end in sorted(found.stream_ends.items())
        if (name := found.known.names.get(stream_id)) is not None
    ]
    _lines("lost, as far as objects show", ends)


def _lines(what: str, items: list[str]) -> None:
    for item in items[:LINES_MAX]:
        print(f"{what}: {item}")
    if len(items) > LINES_MAX:
        print(f"{what}: {len(items) - LINES_MAX} more")
