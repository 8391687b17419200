"""Commands that look at a deployment's stores without being a broker: what they open, and that they close it.

Does not own: what a command does with them. Invariant: everything that was opened is closed when the command ends,
however it ends; a fault is one line on standard error, and its exit code.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from brokers.component_settings import object_wal_settings
from brokers.config import BrokerConfig, broker_config
from brokers.preflight import sqlite_file
from brokers.threads import Threads
from metadata.store import Metadata, open_metadata
from s3stream.clock import SystemClock
from s3stream.errors import BadSetting, PonorError
from s3stream.metrics import Metrics
from s3stream.objectstore import open_store
from s3stream.seams import ObjectStore
from s3stream.tasks import Tasks
from wal import WalAccess

BAD_SETTING: Final = 2
FAILED: Final = 1
THREADS: Final = 4


@dataclass(frozen=True)
class Stores:
    """Opened when they are asked for."""

    config: BrokerConfig
    clock: SystemClock
    tasks: Tasks
    threads: Threads
    stack: AsyncExitStack
    opened: dict[str, ObjectStore]

    async def metadata(self) -> Metadata:
        """Raises BadSetting, also where there is no database yet: none is made; Unavailable."""
        path = sqlite_file(self.config.metadata_url)
        if path is not None and not path.exists():
            raise BadSetting(f"ponor.metadata.url: {path} does not exist: name the cluster's database")
        store = await open_metadata(
            self.config.metadata_url, clock=self.clock, metrics=Metrics(),
            run_blocking=self.threads.runner("metadata", THREADS),
        )  # fmt: skip
        self.stack.push_async_callback(store.close)
        return store

    def objects(self, url: str) -> ObjectStore:
        """The same store whenever it is asked for again."""
        if url not in self.opened:
            store = open_store(
                url, metrics=Metrics(), clock=self.clock, run_blocking=self.threads.runner("objects", THREADS)
            )
            self.opened[url] = store
            self.stack.push_async_callback(store.close)
        return self.opened[url]

    def wals(self, cluster_id: str) -> WalAccess:
        return WalAccess(
            cluster_id=cluster_id, clock=self.clock, tasks=self.tasks,
            run_blocking=self.threads.runner("wal", THREADS), open_store=self.objects,
            object_settings=object_wal_settings(self.config),
        )  # fmt: skip


@asynccontextmanager
async def stores(config: BrokerConfig) -> AsyncIterator[Stores]:
    async with AsyncExitStack() as stack:
        threads = Threads()
        stack.callback(threads.close)
        tasks = Tasks()
        stack.push_async_callback(tasks.close)
        yield Stores(config, SystemClock(), tasks, threads, stack, {})


def run(settings: Mapping[str, str], command: Callable[[Stores], Awaitable[int]]) -> int:
    """The command's exit code; 2 when a setting is at fault, or it refuses; 1 when something does not answer."""

    async def opened() -> int:
        async with stores(config) as found:
            return await command(found)

    try:
        config = broker_config(settings)
        return asyncio.run(opened())
    except BadSetting as error:
        print(f"ponor: {error}", file=sys.stderr)
        return BAD_SETTING
    except PonorError as error:
        print(f"ponor: {error}", file=sys.stderr)
        return FAILED
