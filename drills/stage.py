"""Where a drill plays: stores, database, brokers, load and monitor, and what drills do with them.

Owns: the order in which all of it is started and ended, the list of events, what was not as it should be.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from drills.cluster import BrokerProcess, Cluster, DrillFailed, Urls
from drills.events import Event, Kind
from drills.fault_proxy import FaultProxy, Mode
from drills.figures import Figure
from drills.load import Load, LoadShape
from drills.monitor import NO_LEADER, Monitor, await_until
from drills.postgres import PostgresServer
from drills.servers import MinioServer
from drills.wires import Wire, Wires

BUCKET: Final = "ponor"
TOPIC: Final = "load"
LEADERS_SECONDS_MAX: Final = 60.0
DEFAULT_SETTINGS: Final[Mapping[str, str]] = {
    # Several brokers on one machine: the default of a quarter of its memory each is not meant for that.
    "ponor.memory.bytes": str(256 << 20),
    "group.initial.rebalance.delay.ms": "0",
    # The interesting moments (upload, commit, trim) come often.
    "ponor.flush.interval.ms": "5000",
}

BROKERS_ENVIRONMENT: Final[Mapping[str, str]] = {
    # As an installed broker starts: with its modules compiled, also where Python was told not to keep them.
    "PYTHONDONTWRITEBYTECODE": "",
}


@dataclass(frozen=True)
class Options:
    """`rate`: bytes of records a second, over all producers."""

    minutes: float
    brokers: int
    partitions: int = 12
    many: int = 10_000
    """Partitions without load, of the drill that is about their number."""
    rate: float = 1_000_000
    record_bytes: int = 1024
    producers: int = 2
    wal: str = "file"
    metadata: str = "postgresql"
    seed: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    proxied: bool = False
    """The brokers reach the object store through the fault proxy."""
    wired: bool = False
    """Each broker is reached, and reaches others, through proxies of its own. Needs PostgreSQL."""

    @property
    def seconds(self) -> float:
        return self.minutes * 60

    def shape(self, topic: str = TOPIC, **changes: float) -> LoadShape:
        rate = changes.get("rate", self.rate) / self.record_bytes
        return LoadShape(topic, self.partitions, rate, self.record_bytes, self.producers)


class Stage:
    """Made ready by `build`; `folder` holds data that goes away, `logs` what brokers say."""

    def __init__(self, options: Options, folder: Path, logs: Path, say: Callable[[str], None]) -> None:
        self.options = options
        self.random = random.Random(options.seed)
        self.events: list[Event] = []
        self.complaints: list[str] = []
        """What was not as it should be, besides the account."""
        self.measured: list[Figure] = []
        """What the drill itself has measured, besides what follows from events."""
        self.postgres: PostgresServer | None = None
        self.proxy: FaultProxy | None = None
        self.monitor: Monitor
        self.cluster: Cluster
        self.loads: list[Load] = []
        self._folder = folder
        self._logs = logs
        self._say = say
        self.began_at = time.monotonic()
        """What the times of events are counted from."""

    @contextmanager
    def build(self) -> Iterator[Stage]:
        """Everything runs and the load has been acknowledged on every partition."""
        with ExitStack() as stack:
            store = stack.enter_context(MinioServer(self._folder / "minio"))
            assert isinstance(store, MinioServer)
            store.create_bucket(BUCKET)
            port = store.port
            if self.options.proxied:
                self.proxy = stack.enter_context(FaultProxy(store.port))
                port = self.proxy.port
            database = self._database(stack)
            urls = self._urls(store, port, database)
            settings = {**DEFAULT_SETTINGS, **self.options.settings}
            wire = (lambda listener: self._wired(store, database, listener)) if self.options.wired else None
            env = {**store.environment, **BROKERS_ENVIRONMENT}
            self.cluster = Cluster(urls, settings, env, self._logs, wire)
            stack.callback(self.cluster.close)
            self.cluster.add(self.options.brokers)
            self.monitor = Monitor(self.cluster.bootstrap, TOPIC)
            load = self.add_load(self.options.shape())
            stack.callback(self._close_loads)
            load.start()
            self.monitor.start()
            stack.callback(self.monitor.stop)
            self._await_acknowledgements(load)
            self.began_at = time.monotonic()
            yield self

    def _database(self, stack: ExitStack) -> str:
        """Name of the database on PostgreSQL; empty for SQLite."""
        if self.options.metadata == "sqlite":
            return ""
        self.postgres = PostgresServer()
        stack.callback(self.postgres.close)
        self.postgres.start()
        return self.postgres.create_database()

    def _urls(self, store: MinioServer, store_port: int, database: str, database_port: int | None = None) -> Urls:
        """`database_port`, `store_port`: proxies', where there are any."""
        region = store.environment["AWS_REGION"]
        query, own = (f"?endpoint=http://127.0.0.1:{port}&region={region}" for port in (store_port, store.port))
        return Urls(
            self._folder / "data",
            f"s3://{BUCKET}/objects{query}",
            f"sqlite:///{self._folder / 'metadata.db'}"
            if self.postgres is None
            else self.postgres.url(database, port=database_port),
            # Others reach it by the same URL, also while its owner is cut off from its store.
            None if self.options.wal == "file" else f"s3://{BUCKET}/wal{own if self.options.wired else query}",
        )

    def _wired(self, store: MinioServer, database: str, listener_port: int) -> tuple[Urls, Wires]:
        assert self.postgres is not None, "wires need PostgreSQL"
        wires = Wires(self.postgres.port, store.port, listener_port)
        return self._urls(store, wires.port(Wire.STORE), database, wires.port(Wire.DATABASE)), wires

    def add_load(self, shape: LoadShape) -> Load:
        """Its topic is there; nothing is started."""
        load = Load(shape, self.cluster.bootstrap, self._folder)
        load.create_topic()
        self.loads.append(load)
        return load

    def _close_loads(self) -> None:
        for load in self.loads:
            load.close()

    def _await_acknowledgements(self, load: Load) -> None:
        wanted = load.shape.partitions
        if not await_until(lambda: len(set(load.acknowledged()["partition"].tolist())) == wanted, 60, 0.2):
            raise DrillFailed(f"the load was not acknowledged on all {wanted} partitions within a minute")

    # --- events --------------------------------------------------------------------------------

    def event(self, kind: Kind, text: str, partitions: Iterable[int] = ()) -> Event:
        event = Event(kind, time.monotonic(), text, frozenset(partitions))
        self.events.append(event)
        self._say(f"{event.at - self.began_at:6.1f} s  {text}")
        return event

    @contextmanager
    def lasting(self, kind: Kind, text: str, partitions: Iterable[int] = ()) -> Iterator[Event]:
        """An event that ends with the block, when the block does not raise."""
        event = self.event(kind, text, partitions)
        yield event
        if event.ended is None:
            event.ended = time.monotonic()

    def complain(self, text: str) -> None:
        self.complaints.append(text)
        self._say(f"          NOT AS IT SHOULD BE: {text}")

    def measure(self, name: str, values: Sequence[float], unit: str, goal: float | None = None) -> None:
        figure = Figure(name, values, unit, goal)
        self.measured.append(figure)
        self._say(f"          {name}: {', '.join(f'{value:.3g}' for value in values)} {unit}")

    def rest(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))

    # --- brokers -------------------------------------------------------------------------------

    def led_by(self, broker: BrokerProcess) -> list[int]:
        """Partitions of the load."""
        return [part for part, leader in self.monitor.leaders(TOPIC).items() if leader == broker.node_id]

    def await_leaders(self, seconds: float = LEADERS_SECONDS_MAX) -> bool:
        """Every partition of the load is led by a broker that runs; else a complaint."""

        def led() -> bool:
            serving = {broker.node_id for broker in self.cluster.serving}
            leaders = self.monitor.leaders(TOPIC)
            return bool(leaders) and set(leaders.values()) <= serving

        if await_until(led, seconds):
            return True
        leaders = self.monitor.leaders(TOPIC)
        serving = {broker.node_id for broker in self.cluster.serving}
        missing = {part: leader for part, leader in leaders.items() if leader == NO_LEADER or leader not in serving}
        self.complain(f"{len(missing)} partitions without a leader that runs after {seconds:.0f} s: {missing}")
        return False

    def await_share(self, brokers: Iterable[BrokerProcess], seconds: float) -> bool:
        """Each of them leads at least four fifths of an even share, rounded down; else a complaint."""
        wanted = max(1, int(0.8 * self.options.partitions / len(self.cluster.serving)))
        waiting = list(brokers)

        def shared() -> bool:
            leaders = list(self.monitor.leaders(TOPIC).values())
            return all(leaders.count(broker.node_id) >= wanted for broker in waiting)

        if await_until(shared, seconds):
            return True
        names = ", ".join(f"{broker.node_id}: {len(self.led_by(broker))}" for broker in waiting)
        self.complain(f"no share of {wanted} partitions each after {seconds:.0f} s (broker: partitions led) {names}")
        return False

    def restart(self, broker: BrokerProcess) -> None:
        with self.lasting(Kind.START, f"start broker {broker.node_id}"):
            broker.start()
            broker.await_ready()

    def revive(self) -> None:
        """After a drill that broke off: what it has paused or cut off serves again. Raises DrillFailed."""
        if self.proxy is not None:
            self.proxy.set(Mode.PASS)
        for wires in self.cluster.wires.values():
            wires.mend()
        if self.postgres is not None:
            self.postgres.ensure()
        for broker in self.cluster.brokers.values():
            if broker.paused:
                broker.resume()
            elif not broker.running:
                self.restart(broker)
