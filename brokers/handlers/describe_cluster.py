"""DescribeCluster (KIP-700, KIP-919, KIP-1073)."""

from __future__ import annotations

from typing import Any, Final

from kio.schema.describe_cluster.v2.response import DescribeClusterBroker, DescribeClusterResponse
from kio.schema.errors import ErrorCode
from kio.schema.types import BrokerId
from kio.static.primitive import i8, i32

from brokers.errors import KafkaError
from brokers.handlers.admin import CLUSTER_OPERATIONS, NO_OPERATIONS
from brokers.handlers.context import RequestContext
from brokers.handlers.table import Api
from brokers.handlers.topic_view import shown_controller
from brokers.protocol.messages import NO_TIME

BROKERS: Final = 1
CONTROLLERS: Final = 2


async def handle(ctx: RequestContext, request: Any) -> DescribeClusterResponse:
    image = ctx.services.partitions.image
    fault = _endpoint_fault(request.endpoint_type, ctx.api_version)
    if fault is not None:
        return _answer("", error=fault)
    nodes = tuple(
        DescribeClusterBroker(
            broker_id=BrokerId(node.node_id),
            host=node.host,
            port=i32(node.port),
            rack=node.rack,
            is_fenced=not node.alive,
        )
        for node in image.nodes.values()
        if node.alive or request.include_fenced_brokers
    )
    operations = CLUSTER_OPERATIONS if request.include_cluster_authorized_operations else NO_OPERATIONS
    return _answer(image.cluster_id, nodes, shown_controller(image, ctx.services.node_id), operations)


def _endpoint_fault(endpoint_type: int, version: int) -> KafkaError | None:
    if endpoint_type == BROKERS:
        return None
    if endpoint_type == CONTROLLERS:
        code = ErrorCode.mismatched_endpoint_type
        message = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
    else:
        code, message = ErrorCode.unsupported_endpoint_type, f"Unsupported endpoint type {endpoint_type}"
    return KafkaError(ErrorCode.invalid_request if version == 0 else code, message)


def _answer(
    cluster_id: str,
    nodes: tuple[DescribeClusterBroker, ...] = (),
    controller: int = -1,
    operations: int = NO_OPERATIONS,
    error: KafkaError | None = None,
) -> DescribeClusterResponse:
    return DescribeClusterResponse(
        throttle_time=NO_TIME,
        error_code=error.code if error else ErrorCode.none,
        error_message=error.message if error else None,
        endpoint_type=i8(BROKERS),
        cluster_id=cluster_id,
        controller_id=BrokerId(controller),
        brokers=nodes,
        cluster_authorized_operations=i32(operations),
    )


def error_response(request: Any, code: ErrorCode, version: int) -> DescribeClusterResponse:
    return _answer("", error=KafkaError(code))


API = Api(60, "DescribeCluster", 0, 2, handle, error_response=error_response)
