"""What a run does with its store, in every state of it."""

from __future__ import annotations

from itertools import product

import pytest

from colonnade.running.decision import Action, Existing, decide

# finished, grown, labelled, overwrite, damaged -> action
TABLE = {
    (True, False, True, False, False): Action.NOTHING,
    (True, False, False, False, False): Action.RELABEL,
    (False, False, True, False, False): Action.RESUME,
    (False, False, False, False, False): Action.RESUME,
    (True, True, True, False, False): Action.GROW,
    (True, True, False, False, False): Action.GROW,
    (False, True, True, False, False): Action.GROW,
    (False, True, False, False, False): Action.GROW,
}


@pytest.mark.parametrize("state", list(product([True, False], repeat=5)), ids=str)
def test_every_state(state: tuple[bool, ...]) -> None:
    *existing, overwrite, damaged = state
    action = decide(Existing(*existing), overwrite=overwrite, damaged=damaged)
    if overwrite:
        assert action is Action.REPLACE
    elif damaged:
        assert action is Action.REPAIR
    else:
        assert action is TABLE[state]


@pytest.mark.parametrize("overwrite", [True, False])
def test_where_there_is_no_store(overwrite: bool) -> None:
    assert decide(None, overwrite=overwrite) is Action.CREATE


def test_what_needs_a_cluster() -> None:
    assert {action for action in Action if not action.computes} == {Action.NOTHING, Action.RELABEL}
    assert {action for action in Action if action.creates} == {Action.CREATE, Action.REPLACE}
