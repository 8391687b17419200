"""Drills in which something dies, stands still or is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle
from typing import Final

from drills.cluster import BrokerProcess
from drills.events import Kind
from drills.fault_proxy import Mode
from drills.monitor import NO_LEADER, await_until
from drills.stage import TOPIC, Stage
from drills.wires import Wire

CYCLE_SECONDS: Final = 20.0
"""A kill or a pause, the takeover, the return, and a time in peace."""
PAUSE_SECONDS: Final = 12.0
"""Four leases: long enough for a verdict, a takeover, and clients that give the paused broker up."""
SLOW_SECONDS: Final = 0.5
READY_AGAIN_SECONDS_MAX: Final = 60.0


def kill(stage: Stage) -> None:
    """kill -9 of a broker at a random moment, and its return, again and again; at least one."""
    deadline = time.monotonic() + stage.options.seconds
    first = True
    while first or time.monotonic() < deadline:
        first = False
        stage.rest(stage.random.uniform(0.1, 0.3) * CYCLE_SECONDS)
        broker = _victim(stage)
        partitions = stage.led_by(broker)
        text = f"kill -9 broker {broker.node_id}, leader of {len(partitions)} partitions"
        event = stage.event(Kind.KILL, text, partitions)
        broker.kill()
        if len(stage.cluster.serving) > 0 and stage.await_leaders():
            event.ended = time.monotonic()
        # Before, while and after its partitions found another home.
        stage.rest(stage.random.uniform(0.0, 0.2) * CYCLE_SECONDS)
        stage.restart(broker)
        stage.await_leaders()


def _victim(stage: Stage) -> BrokerProcess:
    """One that leads something, where there is one: others lose nothing but a connection."""
    leading = [broker for broker in stage.cluster.serving if stage.led_by(broker)]
    return stage.random.choice(leading or list(stage.cluster.serving))


def pause(stage: Stage) -> None:
    """SIGSTOP for four leases, then the broker wakes as a zombie that still believes it leads."""
    deadline = time.monotonic() + stage.options.seconds
    first = True
    while first or time.monotonic() < deadline:
        first = False
        stage.rest(stage.random.uniform(0.1, 0.3) * CYCLE_SECONDS)
        broker = _victim(stage)
        partitions = stage.led_by(broker)
        text = f"SIGSTOP broker {broker.node_id}, leader of {len(partitions)} partitions"
        with stage.lasting(Kind.PAUSE, text, partitions):
            broker.pause()
            _await_takeover(stage, broker, partitions)
            stage.event(Kind.NOTE, f"SIGCONT broker {broker.node_id}")
            broker.resume()
        if not await_until(broker.ready, READY_AGAIN_SECONDS_MAX):
            stage.complain(f"broker {broker.node_id} was not ready again a minute after it woke")
        stage.await_leaders()


def _await_takeover(stage: Stage, broker: BrokerProcess, partitions: list[int]) -> None:
    """For as long as the pause is. A paused owner of a WAL on a disk keeps its lock, and so its partitions; one of a
    WAL on objects loses them."""
    began = time.monotonic()

    def left() -> int:
        leaders = stage.monitor.leaders(TOPIC)
        return sum(leaders.get(partition, NO_LEADER) in (NO_LEADER, broker.node_id) for partition in partitions)

    taken = await_until(lambda: left() == 0, PAUSE_SECONDS)
    kept = 0 if taken else left()
    stage.event(Kind.NOTE, f"{len(partitions) - kept} of {len(partitions)} partitions have another leader")
    if stage.options.wal != "file" and kept:
        stage.complain(f"{kept} partitions of broker {broker.node_id} were not taken over")
    stage.rest(PAUSE_SECONDS - (time.monotonic() - began))


def partition(stage: Stage) -> None:
    """A broker is cut off without a word, by turns from everything, and from database and store alone while its clients
    still reach it: four leases long, then the wires are mended."""
    deadline = time.monotonic() + stage.options.seconds
    rounds: list[tuple[Wire, ...]] = [tuple(Wire), (Wire.DATABASE, Wire.STORE)]
    for wires in cycle(rounds):
        stage.rest(stage.random.uniform(0.1, 0.3) * CYCLE_SECONDS)
        broker = _victim(stage)
        partitions = stage.led_by(broker)
        names = ", ".join(wire.value for wire in wires)
        text = f"broker {broker.node_id}, leader of {len(partitions)} partitions, cut off from {names}"
        with stage.lasting(Kind.PAUSE, text, partitions):
            stage.cluster.wires[broker.node_id].cut(wires)
            _await_takeover(stage, broker, partitions)
            stage.event(Kind.NOTE, f"broker {broker.node_id} is reached again")
            stage.cluster.wires[broker.node_id].mend()
        if not await_until(broker.ready, READY_AGAIN_SECONDS_MAX):
            stage.complain(f"broker {broker.node_id} was not ready again a minute after it was reached")
        stage.await_leaders()
        if time.monotonic() > deadline:
            return


def database_loss(stage: Stage) -> None:
    """PostgreSQL is away twice: at the load's rate, which the WAL's bound holds for that long, and at four times the
    rate, which it may not: producers are throttled then, and nothing is lost. What is uploaded need not stay in memory
    either way."""
    assert stage.postgres is not None, "the drill asks for PostgreSQL"
    load, minutes = stage.loads[0], stage.options.minutes
    stage.rest(5)
    for surge in (False, True):
        load.surge(surge)
        how = "at four times the rate" if surge else "at the load's rate"
        with stage.lasting(Kind.OUTAGE, f"PostgreSQL away for {minutes:g} minutes, {how}"):
            stage.postgres.stop()
            stage.rest(minutes * 60)
            stage.event(Kind.NOTE, "each broker: " + _retained(stage))
            stage.postgres.start()
        load.surge(False)
        stage.rest(10)
        if not await_until(lambda: all(broker.ready() for broker in stage.cluster.serving), READY_AGAIN_SECONDS_MAX):
            stage.complain("not all brokers were ready a minute after the database came back")


def _retained(stage: Stage) -> str:
    """How far the WALs are from their bound, and what has left memory: the latter keeps the former the only bound."""
    found = []
    for broker in stage.cluster.serving:
        wal, uploaded, memory, resident = (
            broker.metric(name) / 1e6
            for name in (
                "ponor_wal_retained_bytes",
                "ponor_uploaded_uncommitted_bytes",
                "ponor_memtable_bytes",
                "process_resident_memory_bytes",
            )
        )
        used, queued = broker.metric("ponor_wal_used_ratio"), broker.metric("ponor_commits_queued")
        found.append(
            f"WAL {wal:.0f} MB ({used:.0%} of its bound), {queued:.0f} commits queued with {uploaded:.0f} MB, "
            f"{memory:.0f} MB of records in memory, {resident:.0f} MB resident"
        )
    return "; ".join(found)


def storage_brownout(stage: Stage) -> None:
    """The object store refuses (503), is slow, and hangs: a third of the time each, with peace between."""
    proxy = stage.proxy
    assert proxy is not None, "the drill asks for the fault proxy"
    proxy.latency_seconds = SLOW_SECONDS
    faults: dict[str, Callable[[], None]] = {
        "answers 503": lambda: proxy.set(Mode.REFUSE),
        f"is slower by {SLOW_SECONDS} s": lambda: proxy.set(Mode.SLOW),
        "hangs": lambda: proxy.set(Mode.HANG),
    }
    part = stage.options.seconds / len(faults)
    for text, begin in faults.items():
        stage.rest(part / 4)
        with stage.lasting(Kind.OUTAGE, f"the object store {text}"):
            begin()
            stage.rest(part / 2)
            proxy.set(Mode.PASS)
        stage.rest(part / 4)


BACKLOG: Final = "backlog"
BACKLOG_FACTOR: Final = 5


def catch_up(stage: Stage) -> None:
    """A topic is filled at five times the load's rate for a third of the time; then a new consumer reads it from its
    start, beside the load."""
    third = stage.options.seconds / 3
    shape = stage.options.shape(BACKLOG, rate=stage.options.rate * BACKLOG_FACTOR)
    backlog = stage.add_load(shape)
    with stage.lasting(Kind.NOTE, f"a backlog is written for {third:.0f} s"):
        backlog.start_producers()
        stage.rest(third)
        backlog.stop_producers()
    count = len(backlog.acknowledged())
    stage.rest(third / 2)
    text = f"a consumer reads {count} records, {count * stage.options.record_bytes / 1e6:.0f} MB"
    with stage.lasting(Kind.READING, text) as event:
        backlog.start_consumer("catch-up")
        if not await_until(lambda: len(backlog.seen()) >= count, max(120.0, stage.options.seconds), 0.25):
            stage.complain(f"the backlog was not read: {len(backlog.seen())} of {count} records")
            event.ended = float("inf")
    stage.rest(third / 2)
