"""Errors told to clients, counted in one place."""

from __future__ import annotations

from functools import lru_cache

from kio.schema.errors import ErrorCode

from s3stream.metrics import Counter, Metrics


@lru_cache(maxsize=1024)
def error_counter(metrics: Metrics, api: str, code: int) -> Counter:
    """The counter of one code in one API's answers. Kept: asking costs as little as adding."""
    name = ErrorCode(code).name
    return metrics.counter("ponor_request_errors_total", "Error codes in answers.", api=api, error=name)


def count_error(metrics: Metrics, api: str, code: int) -> None:
    error_counter(metrics, api, code).value += 1
