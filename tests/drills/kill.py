"""The kill drill: kill -9 of the broker at random moments, the object store killed and paused, nothing lost.

    python -m tests.drills.kill --seconds 600 --report drill-results/

Bounded in `make test` (tests/integration/test_durability.py), longer in `make drill`.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

from drills.account import Account, History, Place, settle, settle_commits
from tests.drills.load import LiveReader, NumberedProducer, read_all, read_commits
from tests.support.ponor_process import PonorProcess
from tests.support.servers import MinioServer, minio_server

IDEMPOTENT, PLAIN = "idempotent", "plain"
PARTITIONS = 4


@dataclass
class Outcome:
    seed: int
    kills: int
    store_faults: int
    account: Account
    seconds: float

    def markdown(self) -> str:
        problems = "\n".join(f"- {problem}" for problem in self.account.problems) or "none"
        return (
            f"# Kill drill\n\nSeed {self.seed}, {self.seconds:.0f} s, {self.kills} kills of the broker, "
            f"{self.store_faults} faults of the object store.\n\n{self.account}\n\nProblems: {problems}\n"
        )


class KillDrill:
    """One run. The seed decides every moment and every fault."""

    def __init__(self, broker: PonorProcess, store: MinioServer, seed: int, say: Callable[[str], None]) -> None:
        self._broker = broker
        self._store = store
        self._seed = seed
        self._random = random.Random(seed)
        self._say = say
        self._history = History()
        self._topics = {IDEMPOTENT: PARTITIONS, PLAIN: PARTITIONS}

    def run(self, seconds: float, kills_min: int = 0) -> Outcome:
        begin = time.monotonic()
        bootstrap = self._broker.bootstrap
        self._create_topics()
        producers = [
            NumberedProducer(
                self._history, self._broker.bootstrap, topic, PARTITIONS, topic == IDEMPOTENT, f"{topic}-{n}"
            )
            for topic in (IDEMPOTENT, PLAIN)
            for n in range(2)
        ]
        reader = LiveReader(self._history, bootstrap, self._topics)
        for thread in (*producers, reader):
            thread.start()
        kills, faults = self._harm(begin + seconds, kills_min)
        for producer in producers:
            producer.stop()
        for producer in producers:
            producer.join(180)
        reader.stop()
        reader.join(90)
        problems = [
            f"{producer.name}: {producer.unflushed} records unanswered" for producer in producers if producer.unflushed
        ]
        account = self._settle(problems)
        return Outcome(self._seed, kills, faults, account, time.monotonic() - begin)

    def _create_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self._broker.bootstrap})
        futures = admin.create_topics([NewTopic(name, count, 1) for name, count in self._topics.items()])
        for future in futures.values():
            future.result(30)

    def _harm(self, deadline: float, kills_min: int) -> tuple[int, int]:
        kills = faults = 0
        while time.monotonic() < deadline or kills < kills_min:
            time.sleep(self._random.uniform(0.0, 1.2))
            mend = self._harm_store()
            faults += mend is not None
            # Half of the time the broker dies while the store is away, uploads and commits under way.
            if mend is not None and self._random.random() < 0.5:
                mend()
                mend = None
            self._say(f"kill {kills + 1}")
            self._broker.kill()
            kills += 1
            if mend is not None:
                mend()
            self._broker.start()
        return kills, faults

    def _harm_store(self) -> Callable[[], None] | None:
        """What makes the store whole again, when it was harmed."""
        fault = self._random.random()
        if fault < 0.15:
            self._say("object store paused")
            self._store.pause()
            time.sleep(self._random.uniform(0.2, 2.0))
            return self._store.resume
        if fault < 0.25:
            self._say("object store killed")
            self._store.kill()
            time.sleep(self._random.uniform(0.0, 1.0))
            return self._store.restart
        return None

    def _settle(self, problems: list[str]) -> Account:
        """Read twice: as recovered, then, after an orderly stop and start, from object storage alone."""
        self._broker.kill()
        self._broker.start()
        recovered = read_all(self._broker.bootstrap, self._topics)
        account = settle(self._history, recovered, [IDEMPOTENT])
        problems += settle_commits(self._history.committed, read_commits(self._broker.bootstrap, self._topics))
        self._broker.stop()
        self._broker.start()
        stored = read_all(self._broker.bootstrap, self._topics)
        if self._broker.metric("ponor_read_bytes_total", source="memtable"):
            problems.append("the last read was to come from object storage alone, and came from memory too")
        problems += settle_commits(self._history.committed, read_commits(self._broker.bootstrap, self._topics))
        if not self._history.committed:
            problems.append("no offset was committed: the drill proves nothing of them")
        if stored != recovered:
            problems += _differences(recovered, stored)
        account.problems.extend(problems)
        return account


def _differences(recovered: dict[Place, str], stored: dict[Place, str]) -> list[str]:
    places = sorted(place for place in recovered.keys() | stored.keys() if recovered.get(place) != stored.get(place))
    return [f"{len(places)} places differ between memory and object storage, first {places[:3]}"]


def kill_drill(
    folder: Path, seconds: float, seed: int, kills_min: int = 0, say: Callable[[str], None] = print
) -> Outcome:
    """Run the drill in `folder` on a MinIO and a broker of its own."""
    with minio_server(folder / "minio") as store:
        store.create_bucket("ponor")
        # Small flushes: the interesting moments (upload, commit, trim) come often.
        settings = {"ponor.flush.bytes": str(1 << 20), "ponor.flush.interval.ms": "500"}
        broker = PonorProcess(
            folder / "ponor", object_store=store.url("ponor"), env=store.environment, settings=settings
        )
        broker.start()
        try:
            return KillDrill(broker, store, seed, say).run(seconds, kills_min)
        finally:
            broker.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--report", type=Path, default=Path("drill-results"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ponor-drill-"))
    try:
        outcome = kill_drill(folder, options.seconds, options.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "kill.md").write_text(outcome.markdown())
    print(outcome.markdown())
    raise SystemExit(1 if outcome.account.problems else 0)


if __name__ == "__main__":
    main()
