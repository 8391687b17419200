"""A rule is taken out, and a simulation has to notice: the search for the seed that does.

A simulation that finds nothing in a broken program says nothing of a whole one. The seeds given bound the search: when
a simulation changes so much that none of them meets the broken rule, it has become weaker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from tests.support.virtual_time import Stuck

Break = Callable[[pytest.MonkeyPatch], None]
MISFITS = (TypeError, AttributeError, NameError)
"""What a patch raises that was written for another form of the code: it has broken no rule."""


def found_out(run: Callable[[int], object], seeds: Iterable[int]) -> None:
    """Run the broken program until a seed fails. `run` returns when nothing is wrong."""
    tried = 0
    for seed in seeds:
        tried += 1
        try:
            run(seed)
        except MISFITS as error:
            error.add_note(f"seed {seed}: the patch does not fit the code")
            raise
        except Stuck as error:
            # It may be the broken rule that goes round for ever, and it may be a patch that only raises, in a loop that
            # tries again. Nobody can tell them apart here: break the rule in a way that ends.
            pytest.fail(f"seed {seed} has no end: {error}")
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}")
            return
    pytest.fail(f"{tried} runs saw nothing")
