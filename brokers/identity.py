"""Who owns a broker's folder: `DIR/broker-<id>/meta.json`, written once, checked at every start.

Owns: the file's format (docs/formats/meta.md). Invariant: a folder of another node, another cluster or a newer
format is refused before anything is touched.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from s3stream.errors import BadSetting

FORMAT: Final = 1
FILE: Final = "meta.json"


@dataclass(frozen=True, slots=True)
class Identity:
    node_id: int
    cluster_id: str


def read_identity(folder: Path, node_id: int) -> Identity | None:
    """What the folder says of itself, None when it is new. Raises BadSetting."""
    path = folder / FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadSetting(f"ponor.data.dir: cannot read {path}: {error.strerror}") from error
    found = _parse(path, text)
    if found.node_id != node_id:
        raise BadSetting(
            f"ponor.data.dir: {folder} belongs to node {found.node_id}, not to node {node_id}: set node.id to "
            f"{found.node_id}, or name another folder"
        )
    return found


def _parse(path: Path, text: str) -> Identity:
    try:
        fields: dict[str, Any] = json.loads(text)
        version = fields["format"]
        if version > FORMAT:
            raise BadSetting(
                f"ponor.data.dir: {path} has format {version}, this release knows {FORMAT}: it was written by a newer "
                "Ponor. Start that one, or name another folder"
            )
        return Identity(int(fields["node_id"]), str(fields["cluster_id"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BadSetting(
            f"ponor.data.dir: {path} is damaged ({error!r}): restore it, or name another folder"
        ) from error


def check_cluster(folder: Path, found: Identity | None, cluster_id: str, metadata_url: str) -> None:
    if found is not None and found.cluster_id != cluster_id:
        raise BadSetting(
            f"ponor.data.dir: {folder} belongs to cluster {found.cluster_id}, but ponor.metadata.url {metadata_url} is "
            f"cluster {cluster_id}: point one of the two at the other's cluster"
        )


def write_identity(folder: Path, identity: Identity) -> None:
    """Durable on return."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"format": FORMAT, "node_id": identity.node_id, "cluster_id": identity.cluster_id}
    temporary = folder / (FILE + ".new")
    with temporary.open("w") as file:
        json.dump(fields, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / FILE)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
