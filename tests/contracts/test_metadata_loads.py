"""Load reports and replica lists asked for anew, on every metadata engine."""

from __future__ import annotations

from uuid import UUID

import pytest

from metadata.cluster_types import Placement
from metadata.store import Metadata
from s3stream.errors import Fenced
from tests.support.metadata import clock, metadata

__all__ = ["clock", "metadata"]

ONE, TWO = UUID(int=1), UUID(int=2)


async def test_a_report_replaces_the_one_before_and_moves_no_image(metadata: Metadata) -> None:
    first = (await metadata.register_node(1, "memory:1", {})).identity
    second = (await metadata.register_node(2, "memory:2", {})).identity
    version = (await metadata.load_image()).version
    await metadata.report_load(second, "b")
    await metadata.report_load(first, "a")
    await metadata.report_load(first, "a, later")
    found = await metadata.load_reports()
    assert [(row.node_id, row.node_epoch, row.report) for row in found] == [(1, 1, "a, later"), (2, 1, "b")]
    assert (await metadata.load_image()).version == version


async def test_a_replaced_incarnation_reports_nothing_any_more(metadata: Metadata) -> None:
    old = (await metadata.register_node(1, "memory:1", {})).identity
    await metadata.report_load(old, "old")
    new = (await metadata.register_node(1, "memory:1", {})).identity
    with pytest.raises(Fenced):
        await metadata.report_load(old, "zombie")
    await metadata.report_load(new, "new")
    assert [(row.node_epoch, row.report) for row in await metadata.load_reports()] == [(2, "new")]


async def test_what_a_user_asks_for_anew_is_in_the_next_image_and_costs_other_topics_nothing(
    metadata: Metadata,
) -> None:
    made = await metadata.create_topic("a", ONE, [[0, 1], [1, 0]])
    await metadata.create_topic("b", TWO, [[0]])
    before = await metadata.load_image()
    await metadata.place({made.partitions[1].stream_id: Placement((2, 1, 3), 2), 4711: Placement((1,), 1)})
    after = await metadata.load_image(before)
    assert after.version > before.version
    assert [(part.replicas, part.assigned) for part in after.topics["a"].partitions] == [((0, 1), 0), ((2, 1, 3), 2)]
    assert after.topics["b"] is before.topics["b"]
