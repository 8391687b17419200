"""A run on virtual time ends, whatever runs in it."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.mutations import found_out
from tests.support.history import Violation
from tests.support.sim.processes import ProcessLoop
from tests.support.virtual_time import Stuck, run_virtual


async def turn() -> None:
    await asyncio.sleep(0)


async def spin() -> None:
    while True:
        await turn()


async def spin_whatever_it_is_told() -> None:
    while True:
        try:
            await turn()
        except asyncio.CancelledError:
            pass


@pytest.mark.parametrize("spins", (spin, spin_whatever_it_is_told))
def test_what_goes_round_for_ever_is_ended(spins: object) -> None:
    with pytest.raises(Stuck, match="not at its end after 100 turns"):
        run_virtual(spins(), turns_max=100)  # type: ignore[operator]


def test_what_goes_round_beside_it_does_not_keep_a_run_from_failing_with_its_own_error() -> None:
    async def fails() -> None:
        rest.append(asyncio.ensure_future(spin_whatever_it_is_told()))
        await turn()
        raise Violation("an offset was given twice")

    rest: list[object] = []
    with pytest.raises(Violation):
        run_virtual(fails(), turns_max=100)


def test_a_run_of_processes_is_ended_and_buried() -> None:
    loop = ProcessLoop(turns_max=100)
    with pytest.raises(Stuck):
        loop.run_until_complete(spin())
    loop.bury()
    loop.close()


def test_a_broken_rule_is_found_by_the_first_seed_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def run(seed: int) -> None:
        if seed >= 3:
            raise Violation("lost")

    found_out(run, range(5))
    assert capsys.readouterr().out == "seed 3: Violation: lost\n"
    with pytest.raises(pytest.fail.Exception, match="3 runs saw nothing"):
        found_out(run, range(3))


def test_a_broken_program_without_an_end_is_a_failure_and_no_hang() -> None:
    with pytest.raises(pytest.fail.Exception, match="seed 0 has no end"):
        found_out(lambda seed: run_virtual(spin(), turns_max=100), range(5))


def test_a_patch_that_does_not_fit_has_broken_no_rule() -> None:
    def run(seed: int) -> None:
        raise TypeError("takes 2 positional arguments but 3 were given")

    with pytest.raises(TypeError):
        found_out(run, range(5))
