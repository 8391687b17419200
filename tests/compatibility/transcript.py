"""What Kafka 4.3 answered, kept beside the tests; and how two sets of answers differ.

A file in answers/ holds one scenario: label → API versions → answer, versions in a row with the same answer
together. `pytest tests/compatibility --record` writes them, from the Kafka that runs beside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

Notes = dict[str, dict[int, Any]]
"""label → API version → answer, as Broker.notes."""

FOLDER = Path(__file__).with_name("answers")
MISSING = "nothing"


class Difference(NamedTuple):
    label: str
    version: int
    path: str
    kafka: Any
    other: Any

    def __str__(self) -> str:
        where = f"{self.label!r} v{self.version} {self.path}"
        return f"{where}: Kafka {json.dumps(self.kafka)}, here {json.dumps(self.other)}"


def stored(scenario: str) -> Notes:
    grouped = json.loads((FOLDER / f"{scenario}.json").read_text())
    return {
        label: {version: answer for span, answer in spans.items() for version in _versions(span)}
        for label, spans in grouped.items()
    }


def store(scenario: str, notes: Notes) -> None:
    FOLDER.mkdir(exist_ok=True)
    grouped = {label: dict(_spans(versions)) for label, versions in notes.items()}
    lines = [f"{json.dumps(label)}: {{\n{_rows(spans)}\n}}" for label, spans in grouped.items()]
    (FOLDER / f"{scenario}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _rows(spans: dict[str, Any]) -> str:
    return ",\n".join(f" {json.dumps(span)}: {json.dumps(answer, sort_keys=True)}" for span, answer in spans.items())


def _versions(span: str) -> range:
    low, _, high = span.partition(" to ")
    return range(int(low), int(high or low) + 1)


def _spans(versions: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    left = sorted(versions)
    while left:
        low = high = left.pop(0)
        while left and left[0] == high + 1 and versions[left[0]] == versions[low]:
            high = left.pop(0)
        yield (f"{low}" if low == high else f"{low} to {high}"), versions[low]


def differences(kafka: Notes, other: Notes) -> Iterator[Difference]:
    for label in [*kafka, *(label for label in other if label not in kafka)]:
        theirs, ours = kafka.get(label, {}), other.get(label, {})
        for version in sorted({*theirs, *ours}):
            pair = theirs.get(version, MISSING), ours.get(version, MISSING)
            for path, one, two in _leaves("", *pair):
                yield Difference(label, version, path, one, two)


def _leaves(path: str, one: Any, two: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(two, dict):
        for key in [*one, *(key for key in two if key not in one)]:
            yield from _leaves(f"{path}.{key}", one.get(key, MISSING), two.get(key, MISSING))
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for index, (left, right) in enumerate(zip(one, two, strict=True)):
            yield from _leaves(f"{path}[{index}]", left, right)
    elif one != two:
        yield path, one, two
