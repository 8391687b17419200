"""`make sim`: thousands of runs of the whole cluster, on all cores. Each failing one is named with the command that
repeats it; with `--trace` that command prints what happened.

    make sim ARGS='--seeds 5000'
    make sim ARGS='--minutes 30'
    make sim ARGS='--kind files --first 18 --seeds 1 --trace'
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from typing import Final, NamedTuple

import structlog

from tests.support.sim.cluster import KINDS
from tests.support.sim.course import digest, run_seed

AHEAD: Final = 4
RUNS_MAX: Final = 64
"""Of one process: what is left of dead brokers stays in it, some 4 MiB a run."""


class Outcome(NamedTuple):
    kind: str
    seed: int
    error: str | None
    digest: str
    trace: list[str]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Brokers that die by the dozen say nothing; whoever logs afterwards in this process does."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def one(kind: str, seed: int, keep: bool = False) -> Outcome:
    trace: list[str] = []
    error = None
    with silence():
        try:
            run_seed(seed, kind, trace)
        except Exception as found:
            error = f"{type(found).__name__}: {found}"
    return Outcome(kind, seed, error, digest(trace), trace if keep else [])


Work = tuple[str, int]
"""(kind of WAL, seed)."""


def again(work: Work) -> str:
    """The command that repeats a run and shows what happens in it."""
    return f"make sim ARGS='--kind {work[0]} --first {work[1]} --seeds 1 --trace'"


def _of(work: Work) -> Outcome:
    return one(*work)


def many(works: Iterable[Work], jobs: int) -> Iterator[Outcome]:
    """Outcomes in the order of the work, in processes of their own, a few runs ahead in each."""
    left = iter(works)
    while first := list(islice(left, 1)):
        # Not forked: who asks may have threads. And behind whatever runs beside them: nobody waits for one run.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, spawn, initializer=os.nice, initargs=(5,)) as pool:
            waiting: deque[Future[Outcome]] = deque()
            for work in chain(first, islice(left, RUNS_MAX * jobs - 1)):
                waiting.append(pool.submit(_of, work))
                if len(waiting) >= AHEAD * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def _work(options: argparse.Namespace) -> Iterator[Work]:
    until = time.monotonic() + options.minutes * 60 if options.minutes else None
    seed = options.first
    while time.monotonic() < until if until else seed < options.first + options.seeds:
        yield from ((kind, seed) for kind in options.kind)
        seed += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many (default 2000), of each kind of WAL")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--minutes", type=float, default=0, help="as many seeds as fit, instead of --seeds")
    parser.add_argument("--kind", action="append", choices=KINDS, help="WALs in directories or in objects; both")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--trace", action="store_true", help="print what happened, one run after the other")
    options = parser.parse_args()
    options.kind = options.kind or list(KINDS)
    if options.trace:
        outcomes = [one(kind, seed, keep=True) for kind, seed in _work(options)]
        for outcome in outcomes:
            print(
                "\n".join(outcome.trace),
                f"{outcome.kind} {outcome.seed}: {outcome.error or 'nothing is wrong'}",
                sep="\n",
            )
        return any(outcome.error for outcome in outcomes)
    return _report(options)


def _report(options: argparse.Namespace) -> int:
    runs = failures = 0
    began = time.monotonic()
    for outcome in many(_work(options), options.jobs):
        runs += 1
        if outcome.error:
            failures += 1
            print(f"FAILED {outcome.kind} {outcome.seed}: {outcome.error}", flush=True)
            print(f"  {again((outcome.kind, outcome.seed))}", flush=True)
    print(f"{runs} runs, {failures} failed, {time.monotonic() - began:.0f} s")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
