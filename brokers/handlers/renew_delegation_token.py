"""RenewDelegationToken: there is none that could be (as on Kafka's PLAINTEXT listener)."""

from __future__ import annotations

from brokers.handlers import table
from brokers.handlers.admin import refuse_token
from brokers.handlers.context import RequestContext


def handle(ctx: RequestContext) -> None:
    refuse_token(ctx, "RenewDelegationToken")


API = table.Api(39, "RenewDelegationToken", 1, 2, handle, kind=table.HOT)
