"""Which error paths the tests ran: python tools/error_paths.py, after `make test COVERAGE=1`.

An error path is a `raise` statement, or the first statement of an `except` block, of the product's packages. Each has
to have been executed in the tests' own process, unless tools/error_paths.txt names it and says why not. The list is
checked too: an entry that matches nothing any more fails, one whose path was executed is pointed out.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).parent.parent
PACKAGES = ("s3stream", "wal", "cache", "metadata", "brokers")
LISTED = ROOT / "tools" / "error_paths.txt"


@dataclass(frozen=True)
class ErrorPath:
    file: str
    line: int
    function: str
    """Qualified name; empty at the module's top."""
    text: str
    """`raise Unavailable` or `except OSError`: lines move, this does not."""

    @property
    def key(self) -> str:
        return f"{self.file} {self.function or '-'}: {self.text}"


def error_paths(file: str, source: str) -> Iterator[ErrorPath]:
    yield from _within(ast.parse(source, file), file, "")


def _within(node: ast.AST, file: str, function: str) -> Iterator[ErrorPath]:
    for child in ast.iter_child_nodes(node):
        inner = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}" if function else child.name
        elif isinstance(child, ast.Raise):
            yield ErrorPath(file, child.lineno, function, f"raise {_name(child.exc)}".rstrip())
        elif isinstance(child, ast.ExceptHandler):
            yield ErrorPath(file, child.body[0].lineno, function, f"except {_name(child.type)}".rstrip())
        yield from _within(child, file, inner)


def _name(expression: ast.expr | None) -> str:
    """Of the exception, without its arguments."""
    if expression is None:
        return ""
    return ast.unparse(expression.func if isinstance(expression, ast.Call) else expression)


def read_list(text: str) -> Counter[str]:
    """Keys, as often as they stand there. `#` begins a reason, which holds for the entries below it."""
    lines = (line.strip() for line in text.splitlines())
    return Counter(line for line in lines if line and not line.startswith("#"))


@dataclass
class Verdict:
    missing: list[ErrorPath]
    """Not executed, and not listed."""
    needless: list[str]
    """Listed, and executed by now: by chance, or for good."""
    unknown: list[str]
    """Listed, and not in the source any more."""


def judge(paths: list[ErrorPath], missed_lines: dict[str, set[int]], listed: Counter[str]) -> Verdict:
    missed = [path for path in paths if path.line in missed_lines[path.file]]
    there, left = Counter(path.key for path in paths), Counter(listed)
    missing = []
    for path in missed:
        if left[path.key] > 0:
            left[path.key] -= 1
        else:
            missing.append(path)
    unknown = [key for key in listed if listed[key] > there[key]]
    needless = sorted(key for key in left.elements() if key not in unknown)
    return Verdict(missing, needless, sorted(unknown))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(ROOT / ".coverage"), help="what coverage recorded")
    options = parser.parse_args()
    coverage = Coverage(data_file=options.data)
    coverage.load()
    paths: list[ErrorPath] = []
    missed: dict[str, set[int]] = {}
    for source in sorted(source for package in PACKAGES for source in (ROOT / package).rglob("*.py")):
        file = source.relative_to(ROOT).as_posix()
        found = list(error_paths(file, source.read_text()))
        if found:
            paths += found
            missed[file] = set(coverage.analysis2(str(source))[3])
    verdict = judge(paths, missed, read_list(LISTED.read_text()))
    for path in verdict.missing:
        say(f"{path.file}:{path.line}: no test runs this: {path.text} (in {path.function or 'the module'})")
    for key in verdict.unknown:
        say(f"tools/error_paths.txt: there is no such error path: {key}")
    for key in verdict.needless:
        say(f"tools/error_paths.txt: was run this time: {key}")
    failed = bool(verdict.missing or verdict.unknown)
    executed = len(paths) - sum(path.line in missed[path.file] for path in paths)
    say(f"error paths: {executed} of {len(paths)} run; {'FAILED' if failed else 'the rest is listed with its reason'}")
    return 1 if failed else 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
