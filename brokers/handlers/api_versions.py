"""ApiVersions: what this broker speaks (KIP-35, KIP-511) and which features are finalized (KIP-584).

Invariant: lists exactly the APIs of `table.py`, in the versions Kafka 4.3 lists; the body is made once for each
(version, features) and kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from kio.schema.api_versions.v4.response import (
    ApiVersion,
    ApiVersionsResponse,
    FinalizedFeatureKey,
    SupportedFeatureKey,
)
from kio.schema.errors import ErrorCode
from kio.static.primitive import i16, i64

from brokers.handlers import table
from brokers.handlers.context import RequestContext
from brokers.handlers.errors import count_error
from brokers.protocol.apis import API_VERSIONS, APIS, PRODUCE, PRODUCE_LISTED_MIN
from brokers.protocol.messages import NO_TIME, decode_request, encode_response

_SOFTWARE: Final = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")
"""What a client may call itself, and its version (KIP-511)."""


def handle(ctx: RequestContext) -> None:
    version = ctx.api_version
    request = decode_request(API_VERSIONS, version, ctx.body)
    if version >= 3 and not _names_itself_well(request):
        count_error(ctx.services.metrics, "ApiVersions", ErrorCode.invalid_request)
        ctx.respond([_error_body(version, ErrorCode.invalid_request)])
        return
    if version >= 3:
        ctx.services.telemetry.introduced(
            ctx.connection_id, request.client_software_name, request.client_software_version
        )
    image = ctx.services.partitions.image
    ctx.respond([_body(version, tuple(sorted(image.features.items())), image.version)])


def _names_itself_well(request: Any) -> bool:
    names = (request.client_software_name, request.client_software_version)
    return all(_SOFTWARE.fullmatch(name) for name in names)


@lru_cache(maxsize=16)
def _body(version: int, features: tuple[tuple[str, int], ...], epoch: int) -> bytes:
    return encode_response(API_VERSIONS, version, describe(dict(features), epoch))


def describe(features: Mapping[str, int], epoch: int) -> ApiVersionsResponse:
    """The whole answer. A feature's only supported level is the finalized one: nothing else is built."""
    finalized = sorted((name, i16(level)) for name, level in features.items() if level)
    return ApiVersionsResponse(
        error_code=ErrorCode.none,
        api_keys=tuple(_row(key) for key in table.SERVED),
        throttle_time=NO_TIME,
        supported_features=tuple(
            SupportedFeatureKey(name=name, min_version=level, max_version=level) for name, level in finalized
        ),
        finalized_features_epoch=i64(epoch),
        finalized_features=tuple(
            FinalizedFeatureKey(name=name, max_version_level=level, min_version_level=level)
            for name, level in finalized
        ),
        zk_migration_ready=False,
    )


def _row(key: int) -> ApiVersion:
    api = APIS[key]
    low = PRODUCE_LISTED_MIN if key == PRODUCE else api.min
    return ApiVersion(api_key=i16(key), min_version=i16(low), max_version=i16(api.max))


def _error_body(version: int, code: ErrorCode, rows: tuple[ApiVersion, ...] = ()) -> bytes:
    response = ApiVersionsResponse(error_code=code, api_keys=rows, throttle_time=NO_TIME)
    return encode_response(API_VERSIONS, version, response)


def unsupported_version_body() -> bytes:
    """Version 0, naming what ApiVersions itself can do, so that the client asks again (KIP-511)."""
    return _error_body(0, ErrorCode.unsupported_version, (_row(API_VERSIONS),))


API = table.Api(18, "ApiVersions", 0, 4, handle, kind=table.HOT, unsupported=unsupported_version_body)
