"""`ponor drill NAME …`: plays drills, says how they ended. Exit code 1: a promise was broken; 2: it cannot run here."""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
from pathlib import Path
from typing import Any, Final

from drills.tools import ToolMissing, find_tool

EXTRA: Final = {"confluent_kafka": "confluent-kafka", "kafka": "kafka-python", "matplotlib": "matplotlib",
                "numpy": "numpy"}  # fmt: skip

NEED_POSTGRESQL: Final = frozenset({"database-loss", "partition"})


def main() -> int:
    missing = [package for module, package in EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        return _cannot(f"needs {', '.join(missing)}: pip install 'ponor[drills]' brings all that drills need")
    from drills.catalogue import DRILLS

    arguments = _arguments()
    names = list(DRILLS) if "all" in arguments.names else arguments.names
    unknown = [name for name in names if name not in DRILLS]
    if unknown:
        return _cannot(f"no drill {', '.join(unknown)}; there are {', '.join(DRILLS)}, and all")
    try:
        find_tool("minio")
        if arguments.metadata == "postgresql" or NEED_POSTGRESQL & set(names):
            find_tool("postgresql")
    except ToolMissing as error:
        return _cannot(f"{error}; --metadata sqlite needs no PostgreSQL")
    return max(_play(name, arguments) for name in names)


def _play(name: str, arguments: argparse.Namespace) -> int:
    from drills.catalogue import DRILLS
    from drills.cluster import DrillFailed
    from drills.run import run_drill
    from drills.stage import Options

    drill = DRILLS[name]
    given: dict[str, Any] = {"minutes": drill.minutes, "brokers": 3, "seed": random.randrange(1 << 32)}
    given |= drill.changes
    for option in ("minutes", "brokers", "partitions", "many", "producers", "record_bytes", "wal", "metadata", "seed"):
        value = getattr(arguments, option)
        given |= {} if value is None else {option: value}
    if arguments.rate is not None:
        given["rate"] = arguments.rate * 1e6
    given["settings"] = {**given.get("settings", {}), **dict(text.split("=", 1) for text in arguments.set)}
    options = Options(**given)
    report = arguments.report / name
    print(f"drill {name}: {drill.summary}; seed {options.seed}", flush=True)
    try:
        outcome = run_drill(name, drill, options, report, lambda line: print(line, flush=True))
    except DrillFailed as error:
        print(f"drill {name}: FAILED: {error}", file=sys.stderr)
        return 1
    print((report / "report.md").read_text())
    print(f"drill {name}: {'passed' if outcome.passed else 'FAILED'}: {outcome.account}; {report}/report.html")
    return 0 if outcome.passed else 1


def _arguments() -> argparse.Namespace:
    from drills.catalogue import DRILLS

    drills = "\n".join(f"  {name:18}{drill.summary} ({drill.minutes:g} min)" for name, drill in DRILLS.items())
    parser = argparse.ArgumentParser(
        prog="ponor drill",
        description="Real brokers, MinIO, PostgreSQL and clients under load; every record accounted for.",
        epilog=f"drills:\n{drills}\n  all",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--minutes", type=float, help="how long the drill's events go on")
    parser.add_argument("--brokers", type=int, help="at the start [3]")
    parser.add_argument("--partitions", type=int, help="of the load's topic [12]")
    parser.add_argument("--many", type=int, help="partitions without load, of the drill partitions [10000]")
    parser.add_argument("--rate", type=float, metavar="MB/S", help="of all producers [1]")
    parser.add_argument("--producers", type=int, help="processes [2]")
    parser.add_argument("--record-bytes", type=int, help="[1024]")
    parser.add_argument("--wal", choices=["file", "object"], help="[file; pause: object]")
    parser.add_argument("--metadata", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the brokers")
    parser.add_argument("--report", type=Path, default=Path("drill-results"), metavar="DIR")
    return parser.parse_args()


def _cannot(why: str) -> int:
    print(f"ponor drill: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
