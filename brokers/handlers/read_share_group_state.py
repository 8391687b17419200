"""ReadShareGroupState: who leads a partition from now on asks what is stored of it; who led it before is fenced."""

from __future__ import annotations

from typing import Any

from brokers.handlers import share_state
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.shares.records import SharePartitionKey


async def handle(ctx: RequestContext, request: Any) -> Any:
    async def act(key: SharePartitionKey, part: Any) -> dict[str, Any]:
        read = await ctx.services.shares.coordinator.read(key, part.leader_epoch)
        return share_state.of_read(read, ctx.api_version)

    return await share_state.answer(ctx, share_state.READ, request, act)


API = Api(84, "ReadShareGroupState", 0, 0, handle, error_response=share_state.refused(share_state.READ))
