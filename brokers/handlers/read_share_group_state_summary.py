"""ReadShareGroupStateSummary: where share-partitions begin, for those who describe groups; fences nobody."""

from __future__ import annotations

from typing import Any

from brokers.handlers import share_state
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.shares.records import SharePartitionKey


async def handle(ctx: RequestContext, request: Any) -> Any:
    async def act(key: SharePartitionKey, part: Any) -> dict[str, Any]:
        return share_state.of_summary(await ctx.services.shares.coordinator.summary(key))

    return await share_state.answer(ctx, share_state.SUMMARY, request, act)


API = Api(
    87, "ReadShareGroupStateSummary", 0, 1, handle, error_response=share_state.refused(share_state.SUMMARY)
)  # fmt: skip
