"""Where settings come from, as names and texts: a TOML file, `PONOR_…` variables, flags. Later ones win.

Owns: spelling. Does not own: which settings there are and what they may be (config_def, config.py).
Imports little: this runs before a broker's first import that costs something.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from brokers.config import unknown_setting
from brokers.config_def import BROKER_CONFIGS
from s3stream.errors import BadSetting

PREFIX: Final = "PONOR_"


def variable_of(name: str) -> str:
    """ponor.flush.bytes → PONOR_FLUSH_BYTES, num.partitions → PONOR_NUM_PARTITIONS."""
    return PREFIX + name.removeprefix("ponor.").replace(".", "_").upper()


VARIABLES: Final[Mapping[str, str]] = {variable_of(name): name for name in BROKER_CONFIGS}
assert len(VARIABLES) == len(BROKER_CONFIGS), "two settings share a variable"
NOT_SETTINGS: Final = frozenset({"PONOR_TOOLS", "PONOR_REQUIRE_TOOLS"})
"""Variables of the tests, which start brokers."""


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings of the `PONOR_…` variables. Raises BadSetting for one that is no setting's."""
    found: dict[str, str] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        name = VARIABLES.get(variable)
        if name is None:
            from difflib import get_close_matches

            near = get_close_matches(variable, VARIABLES, n=1, cutoff=0.0)[0]
            raise BadSetting(f"unknown variable {variable}: the nearest is {near}; unset it or correct its name")
        found[name] = text
    return found


def from_toml(path: Path) -> dict[str, str]:
    """Settings of a TOML file, as `"num.partitions" = 3`, dotted keys or tables. Raises BadSetting."""
    import tomllib

    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise BadSetting(f"--config: cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"--config: {path} is not TOML: {error}") from error
    found: dict[str, str] = {}
    for name, value in _flatten("", tables):
        if name not in BROKER_CONFIGS:
            raise BadSetting(f"{path}: {unknown_setting(name, BROKER_CONFIGS)}")
        found[name] = _text(path, name, value)
    return found


def _flatten(prefix: str, tables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _text(path: Path, name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_text(path, name, item) for item in value)
    if isinstance(value, str | int | float):
        return str(value)
    raise BadSetting(f"{path}: {name} cannot be a {type(value).__name__}")


def from_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Settings of `--set NAME=VALUE`. Raises BadSetting."""
    found: dict[str, str] = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise BadSetting(f"--set {assignment!r}: write it as NAME=VALUE")
        if name not in BROKER_CONFIGS:
            raise BadSetting(f"--set: {unknown_setting(name, BROKER_CONFIGS)}")
        found[name] = value
    return found


def from_flags(flags: Mapping[str, object | None]) -> dict[str, str]:
    """Settings of flags that were given."""
    return {name: str(value) for name, value in flags.items() if value is not None}


def check_shared(settings: Mapping[str, str]) -> None:
    """Several brokers are one cluster only over stores that all their processes reach. Raises BadSetting."""
    for name in ("ponor.object.store.url", "ponor.metadata.url"):
        url = settings.get(name, "")
        if url.startswith("memory:") or url in ("sqlite://", "sqlite:///:memory:"):
            raise BadSetting(f"{name}: {url} is one process's own; several brokers need one that they share")


def own_wal(settings: Mapping[str, str], number: int, brokers: int) -> dict[str, str]:
    """A directory has one writer: of several brokers each has a folder of its own in it."""
    url = settings.get("ponor.wal.url", "")
    if brokers > 1 and url.startswith("file:"):
        return {**settings, "ponor.wal.url": f"{url.rstrip('/')}/broker-{number}"}
    return dict(settings)


def own_rack(settings: Mapping[str, str], number: int, racks: str | None) -> dict[str, str]:
    """`racks`: names joined by commas, given to the brokers in turn. Raises BadSetting."""
    if racks is None:
        return dict(settings)
    names = [name.strip() for name in racks.split(",")]
    if not all(names):
        raise BadSetting(f"--racks {racks!r}: write it as NAME,NAME")
    return {**settings, "broker.rack": names[number % len(names)]}
