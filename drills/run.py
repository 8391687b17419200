"""One drill from its first process to its report."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from drills.account import Account, add
from drills.catalogue import Drill
from drills.client_log import Entries
from drills.cluster import DrillFailed
from drills.events import Kind, of_kind
from drills.figures import figures
from drills.load import Load
from drills.plots import plot
from drills.report import Outcome, save
from drills.series import longest_pauses
from drills.settlement import settle_load
from drills.stage import Options, Stage

CALM_SECONDS: Final = 3.0
"""Before the first event and after the last."""


def run_drill(name: str, drill: Drill, options: Options, report: Path, say: Callable[[str], None]) -> Outcome:
    """Plays it and writes its report to `report`, with what the brokers said. Raises DrillFailed when it cannot be
    played or judged."""
    logs = report / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    folder = Path(tempfile.mkdtemp(prefix="ponor-drill-"))
    try:
        stage = Stage(options, folder, logs, say)
        with stage.build():
            outcome, picture = _play(name, drill, stage, say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    save(outcome, picture, report)
    return outcome


def _play(name: str, drill: Drill, stage: Stage, say: Callable[[str], None]) -> tuple[Outcome, bytes]:
    began = stage.began_at
    stage.rest(CALM_SECONDS)
    try:
        drill.play(stage)
    except DrillFailed as error:
        # What had happened until then is judged all the same.
        stage.complain(str(error))
        stage.revive()
    stage.rest(CALM_SECONDS)
    ended = time.monotonic()
    samples = [sample for sample in stage.monitor.samples if sample.at < ended]
    for load in stage.loads:
        load.stop_producers()
        load.stop_consumers()
    say(f"the load has ended after {ended - began:.0f} s; reading everything back")
    account = _settle(stage)
    options, load = stage.options, stage.loads[0]
    acknowledged = load.acknowledged()
    outcome = Outcome(
        name=name,
        summary=drill.summary,
        parameters=_parameters(stage),
        began=began,
        events=stage.events,
        figures=[*figures(stage.events, acknowledged, options.partitions), *stage.measured],
        pauses=longest_pauses(acknowledged, options.partitions, began, ended),
        account=account,
        complaints=stage.complaints,
    )
    picture = plot(
        acknowledged, load.seen(), samples, stage.events, options.partitions, began, ended,
        options.record_bytes,
    )  # fmt: skip
    return outcome, picture


def _settle(stage: Stage) -> Account:
    """Read as it is, then again after an orderly stop and start of every broker, from object storage alone: both must
    show what clients were told."""
    first = [load.read_all() for load in stage.loads]
    accounts = [
        settle_load(load.logs(log, committed)) for load, (log, committed) in zip(stage.loads, first, strict=True)
    ]
    account = add(accounts)
    running = stage.cluster.serving
    for broker in running:
        if broker.stop():
            account.problems.append(f"broker {broker.node_id} did not stop in good order at the end")
    for broker in running:
        broker.start()
    for broker in running:
        broker.await_ready()
    for load, (log, _) in zip(stage.loads, first, strict=True):
        account.problems.extend(_differences(load, log))
    return account


def _differences(load: Load, log: Entries) -> list[str]:
    stored, committed = load.read_all()
    problem = "" if _same(log, stored) else f"{load.shape.topic} reads otherwise after a restart of all brokers"
    told = load.logs(stored, committed)
    lost = {part: offset for part, offset in told.told_committed.items() if committed.get(part, -1) < offset}
    offsets = f"committed offsets are gone after a restart of all brokers: {lost}" if lost else ""
    return [text for text in (problem, offsets) if text]


def _same(one: Entries, other: Entries) -> bool:
    columns = ["partition", "offset", "producer", "sequence"]
    return bool(np.array_equal(np.sort(one[columns]), np.sort(other[columns])))


def _parameters(stage: Stage) -> list[tuple[str, str]]:
    options = stage.options
    shape = stage.loads[0].shape
    settings = ", ".join(f"{name}={value}" for name, value in options.settings.items())
    began = datetime.now(UTC) - timedelta(seconds=time.monotonic() - stage.began_at)
    found = [
        ("began", began.strftime("%Y-%m-%d %H:%M:%S.%f UTC")),
        ("brokers at the start", str(options.brokers)),
        ("partitions", str(options.partitions)),
        (
            "load",
            f"{options.rate / 1e6:.3g} MB/s in records of {shape.record_bytes} bytes; {shape.producers} producers",
        ),
        ("write-ahead log", options.wal),
        ("metadata", options.metadata),
        ("seed", str(options.seed)),
        ("machine", f"{platform.machine()}, {platform.system()} {platform.release()}"),
    ]
    throttled = sorted(told for load in stage.loads for told in load.throttled())
    for event in of_kind(stage.events, Kind.OUTAGE):
        during = [seconds for at, seconds in throttled if event.at <= at < event.at + event.seconds]
        longest = f", at most {max(during):.1f} s" if during else ""
        found.append((f"throttled answers: {event.text}", f"{len(during)}{longest}"))
    return [*found, ("settings", settings)] if settings else found
