"""WriteShareGroupState: who leads a partition stores deliveries that are complete, or to be done again."""

from __future__ import annotations

from typing import Any

from brokers.handlers import share_state
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.shares.messages import StateWrite
from brokers.shares.records import SharePartitionKey


async def handle(ctx: RequestContext, request: Any) -> Any:
    async def act(key: SharePartitionKey, part: Any) -> dict[str, Any]:
        said = StateWrite(
            part.state_epoch, part.leader_epoch, part.start_offset, part.delivery_complete_count,
            share_state.batches_of(part),
        )  # fmt: skip
        return share_state.of_result(await ctx.services.shares.coordinator.write(key, said))

    return await share_state.answer(ctx, share_state.WRITE, request, act)


API = Api(85, "WriteShareGroupState", 0, 1, handle, error_response=share_state.refused(share_state.WRITE))
