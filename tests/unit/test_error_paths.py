"""tools/error_paths.py: which error paths there are, and what is said of those that no test ran."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parent.parent.parent / "tools" / "error_paths.py"
SOURCE = """
import os

if not os.sep:
    raise SystemExit

class Store:
    def read(self, path):
        try:
            return open(path)
        except (OSError,
                ValueError) as error:
            raise Unavailable(
                path) from error
        except KeyError:
            pass
        else:
            raise faults.Gone

    async def close(self):
        def inner():
            raise
        inner()
"""
PATHS = [
    ("5", "-", "raise SystemExit"),
    ("13", "Store.read", "except (OSError, ValueError)"),
    ("13", "Store.read", "raise Unavailable"),
    ("16", "Store.read", "except KeyError"),
    ("18", "Store.read", "raise faults.Gone"),
    ("22", "Store.close.inner", "raise"),
]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("error_paths", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_error_paths_are_raises_and_handlers_by_function(tool: ModuleType) -> None:
    found = [(str(path.line), path.function or "-", path.text) for path in tool.error_paths("a.py", SOURCE)]
    assert found == PATHS


def test_what_is_missed_must_be_listed_and_what_is_listed_must_be_there(tool: ModuleType) -> None:
    paths = list(tool.error_paths("a.py", SOURCE))
    listed = tool.read_list(
        """
        # It needs another operating system.
        a.py -: raise SystemExit
        # By chance.
        a.py Store.read: except KeyError
        # Was there once.
        a.py Store.write: raise Unavailable
        """
    )
    verdict = tool.judge(paths, {"a.py": {5, 13}}, listed)
    assert [path.key for path in verdict.missing] == [
        "a.py Store.read: except (OSError, ValueError)",
        "a.py Store.read: raise Unavailable",
    ]
    assert verdict.needless == ["a.py Store.read: except KeyError"]
    assert verdict.unknown == ["a.py Store.write: raise Unavailable"]


def test_an_entry_stands_for_one_path_of_several_that_look_alike(tool: ModuleType) -> None:
    source = "def check(x):\n    if x:\n        raise Bad(1)\n    raise Bad(2)\n"
    paths = list(tool.error_paths("b.py", source))
    once = Counter({"b.py check: raise Bad": 1})
    assert [path.line for path in tool.judge(paths, {"b.py": {3, 4}}, once).missing] == [4]
    twice = tool.judge(paths, {"b.py": {3, 4}}, once + once)
    assert (twice.missing, twice.needless, twice.unknown) == ([], [], [])


def test_the_list_gives_a_reason_for_each_group(tool: ModuleType) -> None:
    blocks = tool.LISTED.read_text().strip().split("\n\n")
    assert len(blocks) > 1 and all(block.startswith("#") for block in blocks)
    assert sum(tool.read_list(blocks[0]).values()) == 0, "the first says what the list is"
