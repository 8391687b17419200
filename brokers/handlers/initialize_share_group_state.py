"""InitializeShareGroupState: the group coordinator begins, or sets anew, what is stored of share-partitions."""

from __future__ import annotations

from typing import Any

from brokers.handlers import share_state
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.shares.records import SharePartitionKey


async def handle(ctx: RequestContext, request: Any) -> Any:
    async def act(key: SharePartitionKey, part: Any) -> dict[str, Any]:
        result = await ctx.services.shares.coordinator.initialize(key, part.state_epoch, part.start_offset)
        return share_state.of_result(result)

    return await share_state.answer(ctx, share_state.INITIALIZE, request, act)


API = Api(
    83, "InitializeShareGroupState", 0, 0, handle, error_response=share_state.refused(share_state.INITIALIZE)
)  # fmt: skip
