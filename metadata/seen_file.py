"""The broker's durable memory of the database: one small JSON file in its folder (docs/formats/metadata-seen.md).

Invariant: the file is whole or absent; it may lag behind what was seen, never run ahead of it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import structlog

from metadata.history import History, NodeWrites, Proof, Seen
from metadata.limits import SEEN_SAVE_SECONDS
from s3stream.errors import BadSetting
from s3stream.seams import Clock, RunBlocking

log = structlog.get_logger(__name__)

FORMAT: Final = 1


def load(path: Path) -> Seen:
    """What was saved; nothing when there is no file. Raises BadSetting for one that cannot be read."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Seen()
    except OSError as error:
        raise BadSetting(f"metadata: cannot read {path}: {error.strerror}") from error
    try:
        fields: dict[str, Any] = json.loads(text)
        if fields["format"] != FORMAT:
            raise BadSetting(f"metadata: {path} has format {fields['format']}, this release knows {FORMAT}")
        image, node = fields["image"], fields["node"]
        return Seen(
            str(fields["cluster_id"]),
            None if image is None else Proof(int(image["version"]), image["tag"]),
            None if node is None else NodeWrites(**{name: int(node[name]) for name in NodeWrites._fields}),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadSetting(
            f"metadata: {path} is damaged ({error!r}); remove it if the database is known not to have been restored"
        ) from error


def save(path: Path, seen: Seen) -> None:
    """Durable on return. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "format": FORMAT,
        "cluster_id": seen.cluster_id,
        "image": None if seen.image is None else seen.image._asdict(),
        "node": None if seen.node is None else seen.node._asdict(),
    }
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w") as file:
        json.dump(fields, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class SeenKeeper:
    """Brings what was seen to the file, now and then and at the end."""

    def __init__(self, path: Path, history: History, clock: Clock, run_blocking: RunBlocking) -> None:
        self._path = path
        self._history = history
        self._clock = clock
        self._run = run_blocking
        self._saved = Seen()

    async def run(self) -> None:
        """For ever. A disk that fails is the WAL's to report: this memory is a defence in depth."""
        while True:
            await self.save()
            await self._clock.sleep(SEEN_SAVE_SECONDS)

    async def save(self) -> None:
        seen = self._history.seen
        if seen == self._saved or seen.cluster_id is None:
            return
        try:
            await self._run(save, self._path, seen)
        except OSError as error:
            log.warning("metadata seen not saved", path=str(self._path), error=str(error))
        else:
            self._saved = seen
