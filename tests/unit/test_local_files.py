"""CORRECTNESS 11: the local store's own system calls. The simulation of crashes takes their syncing for granted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from s3stream.clock import SystemClock
from s3stream.objectstore.local import LocalStore
from tests.support.object_stores import inline


async def test_correctness_11_content_is_synced_before_it_has_its_name_and_names_before_create_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own calls in their order: an object that exists after a power loss is whole, and one whose
    creation was answered exists."""
    root = tmp_path / "objects"
    steps: list[tuple[str, str, int]] = []
    fsync, link, mkdir = os.fsync, os.link, os.mkdir

    def noted_fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        steps.append(("sync", path, 0 if os.path.isdir(path) else os.fstat(descriptor).st_size))
        fsync(descriptor)

    def noted_link(source: str, target: str) -> None:
        steps.append(("link", os.path.realpath(source), 0))
        link(source, target)

    def noted_mkdir(path: str, mode: int = 0o777) -> None:
        steps.append(("mkdir", os.path.realpath(path), 0))
        mkdir(path, mode)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    monkeypatch.setattr(os, "mkdir", noted_mkdir)
    store = LocalStore(str(root), SystemClock(), inline)
    await store.create("ab/cd/object", [b"some", b"thing"])

    linked = next(index for index, (call, _, _) in enumerate(steps) if call == "link")
    staged = steps[linked][1]
    assert ("sync", staged, len("something")) in steps[:linked], "the content, whole, before the name"
    assert ("sync", str(root / "ab/cd"), 0) in steps[linked + 1 :], "the name, before the answer"
    made = [(index, path) for index, (call, path, _) in enumerate(steps) if call == "mkdir"]
    assert str(root / "ab/cd") in [path for _, path in made]
    for index, path in made:
        if path != os.path.dirname(staged):
            assert ("sync", os.path.dirname(path), 0) in steps[index + 1 :], f"the name of {path}"
    await store.close()
