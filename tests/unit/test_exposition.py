"""Metrics as text, read back by Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from brokers.http.exposition import add_process_metrics, exposition
from s3stream.metrics import Metrics


def parsed(metrics: Metrics) -> dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]:
    return {
        family.name: {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(exposition(metrics))
    }


def test_counters_gauges_and_histograms_are_read_back() -> None:
    metrics = Metrics()
    metrics.counter("requests_total", "Requests.", api="Fetch").inc(3)
    metrics.counter("requests_total", "Requests.", api="Produce").inc(0.5)
    metrics.gauge("depth", "Now.", lambda: 7.25)
    histogram = metrics.histogram("wait_seconds", "Time.", (0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 3.0):
        histogram.observe(value)
    found = parsed(metrics)
    assert found["requests"] == {
        ("requests_total", (("api", "Fetch"),)): 3,
        ("requests_total", (("api", "Produce"),)): 0.5,
    }
    assert found["depth"] == {("depth", ()): 7.25}
    assert found["wait_seconds"] == {
        ("wait_seconds_bucket", (("le", "0.1"),)): 2,
        ("wait_seconds_bucket", (("le", "1"),)): 3,
        ("wait_seconds_bucket", (("le", "+Inf"),)): 4,
        ("wait_seconds_sum", ()): 3.65,
        ("wait_seconds_count", ()): 4,
    }


def test_labels_and_help_may_hold_anything() -> None:
    metrics = Metrics()
    metrics.counter("odd_total", "Back\\slash\nand line.", label='a"b\\c\nd').inc()
    assert parsed(metrics)["odd"] == {("odd_total", (("label", 'a"b\\c\nd'),)): 1}


def test_numbers_beyond_the_finite_are_written() -> None:
    metrics = Metrics()
    metrics.gauge("up", "", lambda: float("inf"))
    metrics.gauge("down", "", lambda: float("-inf"))
    metrics.gauge("nothing", "", lambda: float("nan"))
    found = parsed(metrics)
    assert found["up"]["up", ()] == float("inf")
    assert found["down"]["down", ()] == float("-inf")
    assert found["nothing"]["nothing", ()] != found["nothing"]["nothing", ()]


def test_a_process_tells_of_itself() -> None:
    metrics = Metrics()
    add_process_metrics(metrics, "9.9")
    found = parsed(metrics)
    assert found["process_resident_memory_bytes"]["process_resident_memory_bytes", ()] > 1 << 20
    assert found["process_open_fds"]["process_open_fds", ()] > 2
    assert found["ponor_build_info"]["ponor_build_info", (("version", "9.9"),)] == 1
