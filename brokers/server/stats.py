"""Counters of one API and of the server, made once: the hot path only adds."""

from __future__ import annotations

from s3stream.metrics import Metrics


class ApiStats:
    """Of one API."""

    __slots__ = ("queue_seconds", "request_bytes", "requests", "response_bytes", "seconds")

    def __init__(self, metrics: Metrics, api: str) -> None:
        self.requests = metrics.counter("ponor_requests_total", "Requests answered.", api=api)
        self.seconds = metrics.histogram(
            "ponor_request_seconds", "From the last byte of a request to its answer, waits included.", api=api
        )
        self.queue_seconds = metrics.counter(
            "ponor_request_queue_seconds_total", "Time requests waited for earlier ones of their connection.", api=api
        )
        self.request_bytes = metrics.counter("ponor_request_bytes_total", "Bytes of requests.", api=api)
        self.response_bytes = metrics.counter("ponor_response_bytes_total", "Bytes of answers.", api=api)


class ServerStats:
    """Of all connections."""

    def __init__(self, metrics: Metrics) -> None:
        self.accepted = metrics.counter("ponor_connections_accepted_total", "Connections accepted.")
        self.refused = metrics.counter("ponor_connections_refused_total", "Connections refused at the limit.")
        self.idle_closed = metrics.counter("ponor_connections_idle_closed_total", "Closed for doing nothing.")
        self.malformed = metrics.counter(
            "ponor_malformed_requests_total", "Connections closed for a frame that is no valid request."
        )
        self.failed = metrics.counter("ponor_failed_requests_total", "Requests that ended in an unforeseen error.")
        self.pauses = metrics.counter("ponor_receive_pauses_total", "Times a socket was not read because of a bound.")
