"""What a listener can be told. Frozen; made once by `brokers/broker.py`."""

from __future__ import annotations

from dataclasses import dataclass

from brokers import limits


@dataclass(frozen=True, slots=True)
class ServerSettings:
    host: str = "127.0.0.1"
    port: int = 9092
    """0: any free port, then known from `KafkaServer.port`."""
    listener: str = "PLAINTEXT"
    request_bytes_max: int = limits.FRAME_BYTES_MAX
    """socket.request.max.bytes"""
    idle_max_ms: int = 600_000
    """connections.max.idle.ms. -1: never."""
    connections_max: int = limits.CONNECTIONS_MAX
    """max.connections"""
    backlog: int = 1024
    requests_in_flight_max: int = limits.REQUESTS_IN_FLIGHT_MAX
    frame_stall_ms: int = limits.FRAME_STALL_MS
