"""Web-server log lines as a busy shop writes them: realistic lengths, repeats and skew; each line is unique."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0",
    "curl/8.14.1",
    "Googlebot/2.1 (+http://www.google.com/bot.html)",
)
_PATHS = ("/", "/cart", "/checkout", "/api/v1/items", "/static/app.js", "/static/site.css", "/search", "/login")
_STATUSES = (200, 200, 200, 200, 200, 304, 301, 404, 500)


def lines(seed: int, total_bytes: int) -> Iterator[bytes]:
    """Combined-format lines without the newline, until `total_bytes` are reached. Ends in a dense request number."""
    chance = random.Random(seed)
    written = number = 0
    second = 1_760_000_000
    while written < total_bytes:
        second += chance.random() < 0.02
        hour, minute, rest = second // 3600 % 24, second // 60 % 60, second % 60
        address = f"{chance.randrange(1, 224)}.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(256)}"
        path = chance.choice(_PATHS)
        if path in ("/search", "/api/v1/items"):
            path += f"?q={chance.getrandbits(40):x}&page={chance.randrange(1, 30)}"
        line = (
            f"{address} - - [21/Nov/2026:{hour:02}:{minute:02}:{rest:02} +0000] "
            f'"GET {path} HTTP/1.1" {chance.choice(_STATUSES)} {chance.randrange(90, 60_000)} '
            f'"-" "{chance.choice(_AGENTS)}" {number:010}'
        ).encode()
        yield line
        written += len(line) + 1
        number += 1


def write(path: Path, seed: int, total_bytes: int) -> int:
    """Write the lines to a file; returns how many."""
    count = 0
    with path.open("wb") as output:
        for line in lines(seed, total_bytes):
            output.write(line + b"\n")
            count += 1
    return count
