"""Patterns that clients send: RE2's syntax, as Kafka's, and its linear time, so that none holds the event loop."""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode

from brokers.errors import KafkaError


def compile_pattern(text: str, what: str) -> Any:
    """Raises INVALID_REGULAR_EXPRESSION, which names `what`."""
    import re2  # only here: few ask, and it takes a while to load

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except re2.error as error:
        raise KafkaError(
            ErrorCode.invalid_regular_expression,
            f"{what} is not a valid regular expression: {error.args[0].decode()}.",
        ) from None
