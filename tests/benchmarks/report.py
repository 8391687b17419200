"""Medians, ratios to Kafka in the same run, spread; as a table, Markdown, JSON and a plot."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import group_join, offset_commits
from tests.benchmarks.members import PROTOCOLS
from tests.benchmarks.shares import ROW as SHARED
from tests.benchmarks.transactions import ROW as TRANSACTIONAL
from tests.benchmarks.workloads import Samples

KAFKA = "Apache Kafka 4.3.0"
PONOR = "Ponor"

# (row, unit) → (goal as text, test of the figure). Ratios are to Kafka, except where the row says otherwise.
GOALS: dict[tuple[str, str], tuple[str, float, bool]] = {
    ("produce 1 KiB, 64 KiB batches, 8 partitions", "CPU-s/GB"): ("≤ 0.5 ×", 0.5, True),
    ("produce 1 KiB, 64 KiB batches, 8 partitions", "MB/s"): ("≥ 1.2 ×", 1.2, False),
    ("fetch hot data", "CPU-s/GB"): ("≤ 0.5 ×", 0.5, True),
    ("produce one 100-byte record a batch", "CPU-us/request"): ("≤ 1.0 ×", 1.0, True),
    ("produce at 5 MB/s, linger 0", "p99 ms"): ("≤ 1.0 ×", 1.0, True),
    ("cold read from MinIO after a restart", "MB/s"): ("≥ 0.7 × bare client", 0.7, False),
    ("start to ready", "s"): ("≤ 1 s", 1.0, True),
    ("resident at rest", "MiB"): ("≤ 120 MiB", 120, True),
    ("peak resident, budget 512 MiB, produce and catch-up", "MiB"): ("≤ 612 MiB", 612, True),
    ("1,000 idle connections", "MiB more"): ("< 30 MiB", 30, True),
    ("2,000 idle partitions", "MiB more"): ("< 50 MiB", 50, True),
    ("orderly stop with a full memtable", "s (file WAL)"): ("≤ 3 s", 3, True),
    ("orderly stop with a full memtable", "s (object WAL)"): ("≤ 3 s", 3, True),
    ("object WAL, one 4 KiB record at a time", "p50 ms"): ("≤ 3 × bare PUT", 3, True),
    ("object WAL, one 4 KiB record at a time", "p99 ms"): ("≤ 5 × bare PUT", 5, True),
    ("object WAL, requests on the acknowledgement path", "PUTs/group"): ("1", 1, True),
    ("object WAL, requests on the acknowledgement path", "GETs/group"): ("0", 0, True),
    ("object WAL, produce 1 KiB, 64 KiB batches", "MB/s"): ("≥ 100", 100, False),
    ("object WAL, produce 1 KiB, 64 KiB batches", "CPU-s/GB"): ("≤ 4", 4, True),
    (TRANSACTIONAL, "× plain"): ("≥ 0.9", 0.9, False),
    (SHARED, "× plain"): ("≥ 0.5", 0.5, False),
    **{(group_join.row(protocol), "s"): ("≤ 1.0 ×", 1.0, True) for protocol in PROTOCOLS},
    **{(offset_commits.row(protocol), "CPU-s/s"): ("≤ 1.0 ×", 1.0, True) for protocol in PROTOCOLS},
}
ABSOLUTE = {"start to ready", "resident at rest", TRANSACTIONAL, SHARED}


@dataclass(frozen=True)
class Row:
    name: str
    unit: str
    ponor: list[float]
    reference: list[float]
    goal: str
    met: bool | None

    @property
    def ratio(self) -> float | None:
        """Median of the ratios of each round, so that what slowed a round slows both sides."""
        pairs = [p / r for p, r in zip(self.ponor, self.reference, strict=False) if r]
        return median(pairs) if pairs else None


def rows(samples: Samples) -> list[Row]:
    result = []
    for (name, unit), systems in samples.values.items():
        ponor = systems.get(PONOR, [])
        reference = systems.get(KAFKA) or systems.get("bare client") or []
        row = Row(name, unit, ponor, reference, "", None)
        if (name, unit) in GOALS and ponor:
            goal, bound, at_most = GOALS[name, unit]
            figure = row.ratio if row.reference and name not in ABSOLUTE else median(ponor)
            met = None if figure is None else (figure <= bound if at_most else figure >= bound)
            row = Row(name, unit, ponor, reference, goal, met)
        result.append(row)
    return result


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    middle = f"{median(values):.3g}" if median(values) < 1000 else f"{median(values):.0f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g} – {max(values):.3g})"


def markdown(table: list[Row], note: str) -> str:
    lines = [
        "| work | unit | Ponor: median (spread) | reference | ratio | goal | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        met = "" if row.met is None else ("yes" if row.met else "**no**")
        cells = [row.name, row.unit, _cell(row.ponor), _cell(row.reference), ratio, row.goal, met]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\n{note}\n"


def save(table: list[Row], folder: Path, note: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(table, note)
    (folder / "bench.md").write_text(text)
    data = [
        {"work": r.name, "unit": r.unit, "ponor": r.ponor, "reference": r.reference, "ratio": r.ratio, "goal": r.goal}
        | {"met": r.met}
        for r in table
    ]
    (folder / "bench.json").write_text(
        json.dumps({"machine": platform.platform(), "note": note, "rows": data}, indent=1)
    )
    _plot([row for row in table if row.ratio is not None], folder / "bench.png")
    return text


def _plot(table: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(table) + 1.5))
    names = [f"{row.name}, {row.unit}" for row in table][::-1]
    axes.barh(names, [row.ratio or 0 for row in table][::-1], color="#2b7a78")
    axes.axvline(1.0, color="#444", linewidth=1)
    axes.set_xlabel("ratio to the reference in the same run (1.0 = equal)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
