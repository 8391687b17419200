"""The local object store at power loss (CORRECTNESS 11): stopped between any two system calls, with what was not
synced lost in any combination. What was acknowledged is there; what was not is whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from s3stream.clock import SystemClock
from s3stream.errors import AlreadyExists, NotFound
from s3stream.objectstore.files import LocalFiles
from s3stream.objectstore.local import LocalStore
from s3stream.types import Buffers
from tests.support.object_stores import inline

SEEDS = range(6)


class JournalFiles(LocalFiles):
    """Does what it is asked, and writes down every step that a crash can separate from the next."""

    def __init__(self) -> None:
        self.journal: list[tuple[str, ...]] = []
        self.contents: dict[str, bytes] = {}

    def write_new(self, path: str, data: Buffers) -> None:
        self.contents[path] = b"".join(data)
        self.journal.append(("create", path))
        super().write_new(path, data)
        self.journal.append(("sync file", path))

    def link(self, source: str, target: str) -> None:
        super().link(source, target)
        self.journal.append(("link", target, source))

    def remove(self, path: str) -> None:
        if os.path.exists(path):
            self.journal.append(("remove", path))
        super().remove(path)

    def make_directory(self, path: str) -> None:
        if not os.path.isdir(path):
            self.journal.append(("make directory", path))
        super().make_directory(path)

    def sync_directory(self, path: str) -> None:
        super().sync_directory(path)
        self.journal.append(("sync directory", path))


def after_crash(files: JournalFiles, stop: int, random: Random, target: Path, root: Path) -> None:
    """Lays out in `target` one of the states that the disk may be in when the machine stops after `stop` steps.

    A change of a directory survives for certain if that directory was synced later, else by chance; a file's content
    likewise, else some beginning of it is there.
    """
    names: dict[str, str] = {}
    for number, (what, *paths) in enumerate(files.journal[:stop]):
        later = files.journal[number + 1 : stop]
        directory = os.path.dirname(paths[0])
        survives = ("sync directory", directory) in later or random.random() < 0.5
        if what in ("create", "make directory") and survives:
            names[paths[0]] = paths[0]
        elif what == "link" and survives:
            names[paths[0]] = paths[1]
        elif what == "remove" and survives:
            names.pop(paths[0], None)
    for path in sorted(names):
        parents = [str(parent) for parent in Path(path).parents if root in parent.parents or parent == root]
        if not all(parent in names for parent in parents):
            continue  # its directory's own name is gone
        place = target / Path(path).relative_to(root.parent)
        content = files.contents.get(names[path])
        if content is None:
            place.mkdir()
            continue
        if ("sync file", names[path]) not in files.journal[:stop]:
            content = content[: random.randrange(len(content) + 1)]
        place.write_bytes(content)


class Run:
    """A store under a journal, and the step at which each of its calls returned."""

    def __init__(self, folder: Path, files: JournalFiles) -> None:
        self.root = folder / "run" / "objects"
        (folder / "run").mkdir()
        self.files = files
        self.store = LocalStore(str(self.root), SystemClock(), inline, files)
        self.created: dict[str, tuple[int, bytes]] = {}
        self.deletions: dict[str, tuple[int, int]] = {}

    async def create(self, key: str, data: bytes) -> None:
        await self.store.create(key, [data[:3], data[3:]])
        self.created[key] = (len(self.files.journal), data)

    async def delete(self, key: str) -> None:
        began = len(self.files.journal)
        await self.store.delete([key])
        self.deletions[key] = (began, len(self.files.journal))

    async def violations(self, folder: Path) -> list[str]:
        """Every crash point with every seed; what is wrong at each."""
        found = []
        for stop in range(len(self.files.journal) + 1):
            for seed in SEEDS:
                place = folder / f"{stop}-{seed}"
                place.mkdir()
                after_crash(self.files, stop, Random(f"{stop} {seed}"), place, self.root)
                store = LocalStore(str(place / "objects"), SystemClock(), inline)
                found += [f"step {stop} seed {seed}: {problem}" for problem in await self._problems(store, stop)]
        return found

    async def _problems(self, store: LocalStore, stop: int) -> list[str]:
        problems = []
        listed = [info.key async for info in store.list("")]
        for key, (returned, data) in self.created.items():
            try:
                content = bytes(await store.get(key))
            except NotFound:
                content = None
            began, ended = self.deletions.get(key, (1 << 30, 1 << 30))
            if content is not None and content != data:
                problems.append(f"{key} is torn")
            if content is None and returned <= stop <= began:
                problems.append(f"{key} was created and is gone")
            if content is not None and ended <= stop:
                problems.append(f"{key} was deleted and is back")
            if (key in listed) != (content is not None):
                problems.append(f"{key} is listed and unreadable, or the reverse")
        return problems


async def workload(run: Run) -> None:
    await run.create("aa/one", b"the first object")
    await run.create("aa/two", b"the second object")
    await run.create("bb/cc/three", b"the third object")
    await run.delete("aa/one")
    await run.create("aa/four", b"the fourth object")


async def test_acknowledged_objects_survive_a_power_loss_at_every_step(tmp_path: Path) -> None:
    run = Run(tmp_path, JournalFiles())
    await workload(run)
    assert len(run.files.journal) > 30
    assert await run.violations(tmp_path) == []


class ForgetfulDirectories(JournalFiles):
    def sync_directory(self, path: str) -> None:
        """What object_store's own local file system does: nothing."""


class ForgetfulFiles(JournalFiles):
    def write_new(self, path: str, data: Buffers) -> None:
        super().write_new(path, data)
        self.journal.pop()


@pytest.mark.parametrize("files", [ForgetfulDirectories, ForgetfulFiles])
async def test_the_model_finds_a_store_that_does_not_sync(files: type[JournalFiles], tmp_path: Path) -> None:
    run = Run(tmp_path, files())
    await workload(run)
    assert await run.violations(tmp_path) != []


async def test_what_is_found_to_exist_is_durable_before_it_is_reported(tmp_path: Path) -> None:
    """A create that is cut off after its link, and repeated: "exists" is read, found equal, taken for success."""
    run = Run(tmp_path, JournalFiles())
    await run.create("aa/other", b"makes the directory")
    store, files = run.store, run.files

    def cut_off(path: str) -> None:
        raise OSError("the machine is slow, the caller gives up")

    files.sync_directory = cut_off  # type: ignore[method-assign]
    with pytest.raises(Exception, match="gives up"):
        await store.create("aa/one", [b"the object"])
    del files.sync_directory
    with pytest.raises(AlreadyExists):
        await store.create("aa/one", [b"the object"])
    run.created["aa/one"] = (len(files.journal), b"the object")
    assert await run.violations(tmp_path) == []
