"""Runbooks name what exists: metrics, settings, pages."""

from __future__ import annotations

import re
from pathlib import Path

from brokers.config_def import BROKER_CONFIGS

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
SOURCE = "\n".join(
    path.read_text()
    for package in ("brokers", "s3stream", "wal", "cache", "metadata")
    for path in (ROOT / package).rglob("*.py")
)


def named(pattern: str) -> set[tuple[str, str]]:
    return {(page.name, found) for page in PAGES for found in re.findall(pattern, page.read_text())}


def test_metrics_exist() -> None:
    names = named(r"\bponor_[a-z_]+[a-z]\b")
    assert len(names) > 20
    assert [each for each in names if f'"{each[1]}"' not in SOURCE] == []


def test_settings_exist() -> None:
    names = named(r"`(ponor\.[a-z.]+)`")
    assert names
    assert [each for each in names if each[1] not in BROKER_CONFIGS] == []


def test_pages_that_are_linked_or_named_by_an_error_exist() -> None:
    there = {page.name for page in PAGES}
    assert {link for _, link in named(r"\]\(([a-z-]+\.md)\)")} <= there
    named_by_errors = set(re.findall(r"docs/runbooks/([a-z-]+\.md)", SOURCE))
    assert named_by_errors and named_by_errors <= there
