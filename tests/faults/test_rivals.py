"""Two runs on one store, at the same time and one after the other has begun."""

from __future__ import annotations

import pytest

from faults.lab import DONE, INCOMPLETE, WRONG, Lab


@pytest.mark.rounds(3)
@pytest.mark.parametrize("staggered", [False, True], ids=["together", "staggered"])
def test_rivals(lab: Lab, staggered: bool) -> None:
    first = lab.start()
    if staggered:
        lab.some_moment(first, most=10)
    second = lab.start()
    lab.fault(f"a rival, {'staggered' if staggered else 'at the same time'}")
    statuses = [driver.ended(DONE, WRONG, INCOMPLETE) for driver in (first, second)]
    assert DONE in statuses
    lab.look()
    lab.finish()


@pytest.mark.rounds(2)
def test_a_rival_that_replaces_the_store(lab: Lab) -> None:
    first = lab.start()
    lab.some_moment(first, most=10)
    second = lab.start("--overwrite")
    lab.fault("a rival with --overwrite")
    for driver in (first, second):
        driver.ended(DONE, WRONG, INCOMPLETE)
    lab.look()
    lab.finish()
