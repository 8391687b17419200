"""Programs from outside that drills and tests need: where they are, and the command that brings them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

KAFKA_VERSION = "4.3.0"
OLD_KAFKA_VERSION = "2.1.1"
OLD_LIBRDKAFKA_VERSION = "1.8.2"
_JARS = {
    "kafka": (f"kafka-{KAFKA_VERSION}", f"kafka-tools-{KAFKA_VERSION}.jar"),
    "kafka-streams": (f"kafka-streams-{KAFKA_VERSION}", f"kafka-streams-{KAFKA_VERSION}.jar"),
    "kafka-connect": (f"kafka-connect-{KAFKA_VERSION}", f"connect-mirror-{KAFKA_VERSION}.jar"),
    "kafka-old": (f"kafka-{OLD_KAFKA_VERSION}", f"kafka-tools-{OLD_KAFKA_VERSION}.jar"),
}
"""Folders of jars, and one by which each is known."""
_NEEDS = dict.fromkeys(_JARS, "Java 17 or newer, and Maven") | {
    "minio": "Go",
    "versitygw": "Go",
    "kcat": "apt-get, as root",
    "postgresql": "apt-get as root, or pip",
    "librdkafka-old": "pip, on x86-64",
}


class ToolMissing(LookupError):
    """Says which program is absent and the command that brings it."""


def find_tool(name: str) -> Path:
    """The program (for kafka and the like: the folder of the jars; for postgresql: of its programs; for librdkafka: the
    library).
    Looked for in PONOR_TOOLS, ~/.cache/ponor, then PATH; Debian's PostgreSQL, which is on no PATH, first.

    Raises ToolMissing.
    """
    assert name in _NEEDS, f"{name!r} is not one of {', '.join(_NEEDS)}"
    if name == "postgresql":
        return _postgresql()
    for folder in _folders():
        if name == "librdkafka-old":
            found = _library_in(folder / f"librdkafka-{OLD_LIBRDKAFKA_VERSION}")
        else:
            found = _jars_in(folder, *_JARS[name]) if name in _JARS else _program_in(folder, name)
        if found is not None:
            return found
    on_path = None if name in _JARS else shutil.which(name)
    if on_path is None:
        raise ToolMissing(f"{name} is not installed; python3 tools/install.py {name} brings it (needs {_NEEDS[name]})")
    return Path(on_path)


def _postgresql() -> Path:
    """The newest of Debian's, else what the wheel brought, else what is on the PATH. Raises ToolMissing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    for folder in _folders():
        found = found or sorted((folder / "postgresql").glob("*/pginstall*/bin/initdb"))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path is None:
        raise ToolMissing(
            f"postgresql is not installed; python tools/install.py postgresql brings it (needs {_NEEDS['postgresql']})"
        )
    return Path(on_path).resolve().parent


def _folders() -> list[Path]:
    named = os.environ.get("PONOR_TOOLS")
    return [*([Path(named)] if named else []), Path.home() / ".cache" / "ponor"]


def _program_in(folder: Path, name: str) -> Path | None:
    for path in (folder / "bin" / name, folder / name):
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None


def _jars_in(folder: Path, name: str, witness: str) -> Path | None:
    jars = folder / name
    return jars if (jars / witness).is_file() and shutil.which("java") else None


def _library_in(folder: Path) -> Path | None:
    return next(folder.glob("confluent_kafka.libs/librdkafka-*"), None)
