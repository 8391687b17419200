"""What a drill hands back: one page as Markdown and as HTML, from the same blocks. Pure, except for `save`."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drills.account import Account
from drills.events import Event
from drills.figures import Figure
from drills.series import Pause

PLOT: Final = "plot.png"
VALUES_SHOWN_MAX: Final = 12
_STYLE: Final = (
    "body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}th,td{border:1px solid #ccc;padding:.25em .7em;text-align:left}"
    "th{background:#f2f2f2}img{max-width:100%}"
)


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Image:
    """`name`: of a file beside the page; in HTML it is part of the page."""

    name: str
    text: str


Block = Heading | Paragraph | Table | Image


@dataclass(frozen=True)
class Outcome:
    """`began`: what the events' times are counted from. `pauses`: the longest of each partition in the whole run."""

    name: str
    summary: str
    parameters: Sequence[tuple[str, str]]
    began: float
    events: Sequence[Event]
    figures: Sequence[Figure]
    pauses: Sequence[Pause]
    account: Account
    complaints: Sequence[str]

    @property
    def passed(self) -> bool:
        """Every promise held, and everything happened that was to happen. Figures decide nothing."""
        return not self.account.problems and not self.complaints


def blocks(outcome: Outcome) -> list[Block]:
    account = outcome.account
    balance = [
        ["produced", str(account.produced)],
        ["acknowledged", str(account.acknowledged)],
        ["failed", str(account.failed)],
        ["read", str(account.read)],
        ["lost", str(account.lost)],
        ["duplicated (idempotent producers)", str(account.duplicated)],
        ["repeated (other producers)", str(account.repeated)],
    ]
    problems = [*account.problems, *outcome.complaints]
    found: list[Block] = [
        Heading(1, f"Drill {outcome.name}: {'passed' if outcome.passed else 'FAILED'}"),
        Paragraph(outcome.summary),
        Table(["", ""], [list(parameter) for parameter in outcome.parameters]),
        Heading(2, "Account"),
        Table(["records", "count"], balance),
        *([Table(["problem"], [[problem] for problem in problems])] if problems else [Paragraph("No problems.")]),
        Heading(2, "Figures"),
        Table(["what", "values", "goal", "met"], [_figure_row(figure) for figure in outcome.figures]),
        Heading(2, "Over time"),
        Image(PLOT, "throughput, latency, consumer lag and leaders over time, with the events"),
        Heading(2, "Events"),
        Table(["", "at", "for", "event"], _event_rows(outcome)),
        Heading(2, "Longest pause of each partition, as its producers saw it"),
        Table(["partition", "ms", "at"], _pause_rows(outcome)),
    ]
    return found


def _figure_row(figure: Figure) -> list[str]:
    values = sorted(figure.values)
    if len(values) > 1:
        middle = values[len(values) // 2]
        each = ", ".join(_number(value) for value in figure.values) if len(values) <= VALUES_SHOWN_MAX else "…"
        shown = f"{_number(values[-1])} (worst of {len(values)}; median {_number(middle)}; {each})"
    else:
        shown = _number(values[0])
    goal = "" if figure.goal is None else f"≤ {_number(figure.goal)} {figure.unit}"
    met = {True: "yes", False: "no", None: ""}[figure.met]
    return [figure.name, f"{shown} {figure.unit}", goal, met]


def _event_rows(outcome: Outcome) -> list[list[str]]:
    rows = []
    for number, event in enumerate(outcome.events, 1):
        lasted = "" if event.ended is None else f"{_number(event.seconds)} s"
        rows.append([str(number), f"{event.at - outcome.began:.1f} s", lasted, event.text])
    return rows


def _pause_rows(outcome: Outcome) -> list[list[str]]:
    longest = sorted(outcome.pauses, key=lambda pause: -pause.seconds)
    return [[str(p.partition), f"{p.seconds * 1e3:.0f}", f"{p.begin - outcome.began:.1f} s"] for p in longest]


def _number(value: float) -> str:
    if math.isinf(value):
        return "never"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


# --- two spellings -----------------------------------------------------------------------------


def to_markdown(page: Sequence[Block]) -> str:
    return "\n\n".join(_markdown(block) for block in page) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Image(name, text):
            return f"![{text}]({name})"
        case Table(head, rows):
            lines = [head, ["---"] * len(head), *rows]
            return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def to_html(page: Sequence[Block], title: str, images: dict[str, bytes]) -> str:
    """One file: images are in it. `images`: PNG, by name."""
    body = "\n".join(_html(block, images) for block in page)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _html(block: Block, images: dict[str, bytes]) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Image(name, text):
            data = base64.b64encode(images[name]).decode()
            return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'
        case Table(head, rows):
            top = "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>" if any(head) else ""
            lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
            return f"<table>{top}{''.join(lines)}</table>"


def save(outcome: Outcome, plot: bytes, folder: Path) -> str:
    """Writes report.md, report.html and the plot; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    page = blocks(outcome)
    text = to_markdown(page)
    (folder / PLOT).write_bytes(plot)
    (folder / "report.md").write_text(text)
    (folder / "report.html").write_text(to_html(page, f"Drill {outcome.name}", {PLOT: plot}))
    return text
