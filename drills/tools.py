"""Programs from outside that drills and tests need: where they are, and the command that brings them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

KAFKA_VERSION = "4.3.0"
_NEEDS = {
    "minio": "Go",
    "versitygw": "Go",
    "kafka": "Java 17 or newer, and Maven",
    "kcat": "apt-get, as root",
    "postgresql": "apt-get as root, or pip",
}


class ToolMissing(LookupError):
    """Says which program is absent and the command that brings it."""


def find_tool(name: str) -> Path:
    """The program (for kafka: the folder of its jars; for postgresql: of its programs). Looked for in PONOR_TOOLS,
    ~/.cache/ponor, then PATH; Debian's PostgreSQL, which is on no PATH, first.

    Raises ToolMissing.
    """
    assert name in _NEEDS, f"{name!r} is not one of {', '.join(_NEEDS)}"
    if name == "postgresql":
        return _postgresql()
    for folder in _folders():
        found = _kafka_in(folder) if name == "kafka" else _program_in(folder, name)
        if found is not None:
            return found
    on_path = None if name == "kafka" else shutil.which(name)
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


def _kafka_in(folder: Path) -> Path | None:
    jars = folder / f"kafka-{KAFKA_VERSION}"
    tools = jars / f"kafka-tools-{KAFKA_VERSION}.jar"
    return jars if tools.is_file() and shutil.which("java") else None
