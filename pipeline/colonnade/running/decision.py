"""What a run does with its store: decided from the store's state, before anything changes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Action", "Existing", "decide"]


class Action(Enum):
    """What a run does with its store."""

    CREATE = "create the store"
    REPLACE = "create the store in place of the existing one"
    RESUME = "compute the missing blocks, and finish"
    GROW = "extend the store to the columns that X has gained, and resume"
    REPAIR = "discard the damaged blocks, and resume"
    RELABEL = "write other names and scales"
    NOTHING = "leave the store as it is"

    @property
    def creates(self) -> bool:
        """Whether the run makes a new store."""
        return self in (Action.CREATE, Action.REPLACE)

    @property
    def computes(self) -> bool:
        """Whether the run needs a cluster."""
        return self not in (Action.RELABEL, Action.NOTHING)


@dataclass(frozen=True)
class Existing:
    """The state of a store of the run's job.

    Attributes
    ----------
    finished
        It is complete, and all of its files exist.
    grown
        X has more columns than it.
    labelled
        It has the job's names and scales.
    """

    finished: bool
    grown: bool
    labelled: bool


def decide(existing: Existing | None, *, overwrite: bool, damaged: bool = False) -> Action:
    """Decide what a run does.

    Parameters
    ----------
    existing
        The store at the job's path; None if there is none.
    overwrite
        Whether an existing store is to be replaced.
    damaged
        Whether verification has found damage in it.
    """
    if existing is None:
        return Action.CREATE
    if overwrite:
        return Action.REPLACE
    if damaged:
        return Action.REPAIR
    if existing.grown:
        return Action.GROW
    if not existing.finished:
        return Action.RESUME
    return Action.NOTHING if existing.labelled else Action.RELABEL
