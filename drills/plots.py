"""The curves of a drill as one picture: four panels over the same time, the events as numbered lines through them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from drills.client_log import Entries
from drills.events import Event, Kind
from drills.monitor import Sample
from drills.series import Bins, lag, latency_ms, rate

BINS_MAX: Final = 600
_GREEN, _BLUE, _RED, _GREY = "#2b7a78", "#33658a", "#b23a48", "#888888"


def plot(
    acknowledged: Entries, read: Entries, samples: Sequence[Sample], events: Sequence[Event], partitions: int,
    begin: float, end: float, record_bytes: int,
) -> bytes:  # fmt: skip
    """PNG. `read`: what the consumers beside the load saw. Times are counted from `begin`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bins = Bins(begin, end, max(0.5, (end - begin) / BINS_MAX))
    at = bins.edges[:-1] - begin
    figure, panels = pyplot.subplots(4, 1, sharex=True, figsize=(12, 11))
    throughput, latency, behind, leaders = panels
    throughput.plot(at, rate(acknowledged, bins) * record_bytes / 1e6, color=_GREEN, label="acknowledged")
    throughput.plot(at, rate(read, bins) * record_bytes / 1e6, color=_BLUE, linewidth=0.8, label="read")
    throughput.set_ylabel("MB/s")
    latency.plot(at, latency_ms(acknowledged, bins, 50), color=_GREEN, label="p50")
    latency.plot(at, latency_ms(acknowledged, bins, 99), color=_RED, linewidth=0.8, label="p99")
    latency.set_yscale("log")
    latency.set_ylabel("ms to the acknowledgement")
    behind.plot(at, lag(acknowledged, read, bins, partitions), color=_BLUE, label="consumer lag")
    behind.set_ylabel("records")
    _leaders(leaders, samples, begin)
    leaders.set_ylabel("leaders")
    leaders.set_xlabel("seconds")
    for panel in panels:
        _mark(panel, events, begin)
        panel.legend(loc="upper left", fontsize=8)
        panel.set_xlim(0, end - begin)
    for number, event in enumerate(events, 1):
        if event.kind is not Kind.MOVE:  # hundreds
            throughput.annotate(
                str(number), (event.at - begin, 1.02), xycoords=("data", "axes fraction"), fontsize=8, ha="center"
            )
    figure.tight_layout()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100)
    pyplot.close(figure)
    return out.getvalue()


def _leaders(panel: Any, samples: Sequence[Sample], begin: float) -> None:
    at = np.array([sample.at - begin for sample in samples])
    for broker in sorted({broker for sample in samples for broker in sample.leaders}):
        counts = [sample.leaders.get(broker, 0) for sample in samples]
        label = "nobody" if broker < 0 else f"broker {broker}"
        panel.step(at, counts, where="post", label=label, color=_RED if broker < 0 else None)
    panel.set_ylim(bottom=-0.5)


def _mark(panel: Any, events: Sequence[Event], begin: float) -> None:
    for event in events:
        panel.axvline(event.at - begin, color=_GREY, linewidth=0.7, linestyle=":")
        if event.kind is Kind.OUTAGE or event.kind is Kind.PAUSE:
            panel.axvspan(event.at - begin, event.at - begin + event.seconds, color=_RED, alpha=0.08)
