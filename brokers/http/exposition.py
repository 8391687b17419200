"""Metrics in Prometheus' text format 0.0.4, and the process's own figures.

Pure but for /proc: the registry holds plain numbers, this writes them down.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator
from typing import Final

from s3stream.metrics import Counter, Family, Gauge, Histogram, Metric, Metrics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition(metrics: Metrics) -> str:
    lines: list[str] = []
    for family in metrics.families():
        lines.append(f"# HELP {family.name} {_escape_help(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for values, metric in family.children.items():
            lines.extend(_samples(family, values, metric))
    lines.append("")
    return "\n".join(lines)


def _samples(family: Family, values: tuple[str, ...], metric: Metric) -> Iterator[str]:
    pairs = [f'{label}="{_escape(value)}"' for label, value in zip(family.labels, values, strict=True)]
    if isinstance(metric, Histogram):
        yield from _histogram(family.name, pairs, metric)
    elif isinstance(metric, Gauge):
        yield f"{family.name}{_braces(pairs)} {_number(metric.current())}"
    else:
        assert isinstance(metric, Counter)
        yield f"{family.name}{_braces(pairs)} {_number(metric.value)}"


def _histogram(name: str, pairs: list[str], metric: Histogram) -> Iterator[str]:
    total = 0
    for bound, count in zip(metric.bounds, metric.counts, strict=False):
        total += count
        le = f'le="{_number(bound)}"'
        yield f"{name}_bucket{_braces([*pairs, le])} {total}"
    total += metric.counts[-1]
    infinite = 'le="+Inf"'
    yield f"{name}_bucket{_braces([*pairs, infinite])} {total}"
    yield f"{name}_sum{_braces(pairs)} {_number(metric.sum)}"
    yield f"{name}_count{_braces(pairs)} {total}"


def _braces(pairs: list[str]) -> str:
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def client_exposition(samples: Iterable[tuple[str, bool, Iterable[tuple[str, str]], float]]) -> str:
    """What clients have pushed: (name, whether it only grows, labels, value), by name."""
    lines: list[str] = []
    last = None
    for name, grows, labels, value in samples:
        if name != last:
            last = name
            lines.append(f"# TYPE {name} {'counter' if grows else 'gauge'}")
        pairs = [f'{label}="{_escape(text)}"' for label, text in labels]
        lines.append(f"{name}{_braces(pairs)} {_number(value)}")
    lines.append("")
    return "\n".join(lines)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def add_process_metrics(metrics: Metrics, version: str) -> None:
    """What Prometheus' own client libraries export of a process, under the same names."""
    began = time.time()
    metrics.gauge("process_start_time_seconds", "Start of the process, seconds since 1970.").set(began)
    # A gauge in form, so that it can be read when it is asked for; it only grows.
    metrics.gauge("process_cpu_seconds_total", "User and system CPU time of all threads.", _cpu_seconds)
    metrics.gauge("process_resident_memory_bytes", "Resident memory.", _resident_bytes)
    metrics.gauge("process_open_fds", "Open file descriptors.", _open_fds)
    metrics.gauge("process_max_fds", "Most file descriptors this process may open.", _fds_max)
    metrics.gauge("ponor_build_info", "Always 1; the label names the release.", version=version).set(1)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _resident_bytes() -> float:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _open_fds() -> float:
    try:
        return float(len(os.listdir("/proc/self/fd")))
    except OSError:
        return float("nan")


def _fds_max() -> float:
    return float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
