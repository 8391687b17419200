"""UpdateFeatures (KIP-584): each finalized feature has the one level that is built: it can be asked for, no other can.

Errors are those of Kafka's FeatureControlManager, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode
from kio.schema.update_features.v1 import response as v1
from kio.schema.update_features.v2.response import UpdateFeaturesResponse

from brokers.errors import KafkaError
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.handlers.topic_view import shown_controller
from brokers.protocol.messages import NO_TIME

UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3
WITHOUT_RESULTS: Final = 2
"""First version whose answer tells of the whole request alone."""
ALL_FAILED: Final = "The update failed for all features since the following feature had an error:"


async def handle(ctx: RequestContext, request: Any) -> UpdateFeaturesResponse | v1.UpdateFeaturesResponse:
    levels = ctx.services.partitions.image.features
    controller = shown_controller(ctx.services.partitions.image, ctx.services.node_id)
    names = [update.feature for update in request.feature_updates]
    try:
        for update in request.feature_updates:
            _check(update.feature, update.max_version_level, _kind(update), levels, controller)
    except KafkaError as error:
        return _response(ctx.api_version, error.code, f"{ALL_FAILED} {error.message}")
    return _response(ctx.api_version, ErrorCode.none, None, names)


def _kind(update: Any) -> int:
    if hasattr(update, "upgrade_type"):
        kind: int = update.upgrade_type
        return kind
    return SAFE_DOWNGRADE if update.allow_downgrade else UPGRADE


def _check(name: str, level: int, kind: int, levels: Mapping[str, int], controller: int) -> None:
    reason = None
    known = levels.get(name)
    if kind not in (UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE):
        reason = "The controller does not support the given upgrade type."
    elif level < 0:
        reason = "A feature version cannot be less than 0."
    elif known is None:
        reason = f"Local controller {controller} does not support this feature."
    elif level != known:
        reason = f"Local controller {controller} only supports versions {known}-{known}"
    if reason is not None:
        message = f"Invalid update version {level} for feature {name}. {reason}"
        raise KafkaError(ErrorCode.invalid_update_version, message)


def _response(
    version: int, code: ErrorCode, message: str | None, names: list[str] | None = None
) -> UpdateFeaturesResponse | v1.UpdateFeaturesResponse:
    if version >= WITHOUT_RESULTS:
        return UpdateFeaturesResponse(throttle_time=NO_TIME, error_code=code, error_message=message)
    return v1.UpdateFeaturesResponse(
        throttle_time=NO_TIME,
        error_code=code,
        error_message=message,
        results=tuple(
            v1.UpdatableFeatureResult(feature=name, error_code=ErrorCode.none, error_message="NONE")
            for name in names or ()
        ),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> UpdateFeaturesResponse | v1.UpdateFeaturesResponse:
    return _response(version, code, None)


API = Api(57, "UpdateFeatures", 0, 2, handle, raw=True, error_response=error_response)
