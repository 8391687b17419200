"""DeleteShareGroupState: a share-partition is forgotten, because its group is, or no longer reads it."""

from __future__ import annotations

from typing import Any

from brokers.handlers import share_state
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.shares.records import SharePartitionKey


async def handle(ctx: RequestContext, request: Any) -> Any:
    async def act(key: SharePartitionKey, part: Any) -> dict[str, Any]:
        return share_state.of_result(await ctx.services.shares.coordinator.delete(key))

    return await share_state.answer(ctx, share_state.DELETE, request, act)


API = Api(86, "DeleteShareGroupState", 0, 0, handle, error_response=share_state.refused(share_state.DELETE))
