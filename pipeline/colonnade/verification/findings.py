"""The findings of a verification, and how they are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from colonnade.errors import IncompleteError, InputError, visible
from colonnade.grid import Grid
from colonnade.store.status import ranges

__all__ = ["Failure", "Verification"]

# Failures that an error message lists
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """What is wrong with an array, in one block of it if the array is written by blocks.

    `block` is None for other arrays. `start` and `stop` bound the columns that are affected.
    """

    array: str
    block: int | None
    start: int
    stop: int
    cause: str

    def __str__(self) -> str:
        place = "" if self.block is None else f"block {self.block} ({_columns(self)}), "
        return f"{place}{self.array}: {self.cause}"


@dataclass(frozen=True)
class Verification:
    """The findings of `verify`.

    Attributes
    ----------
    state
        State of the store: writing, complete or damaged (shards have disappeared).
    grid
        The store's columns, in blocks.
    shards, chunks
        How many were read and have the right checksums.
    covered
        How many columns were compared with an independent computation: slopes, values and norms
        number by number, blocks through their products with a random vector.
    unknown
        How many of these may overflow, so that any value is accepted.
    sampled
        How many columns were compared number by number in every array.
    doubted
        How many more columns were compared so because their product stood out.
    sums
        Per-block part of a statistic -> in how many blocks it was compared with all columns.
    errors
        array -> largest ratio of error to bound; up to 1 is rounding.
    missing
        Blocks with a missing shard.
    failures
        What is stored and wrong.
    refused
        Why no columns, or not all of them, were recomputed; None if they were.
    """

    path: str
    state: str
    grid: Grid
    shards: int
    chunks: int
    covered: int
    unknown: int
    sampled: int
    doubted: int
    sums: dict[str, int]
    errors: dict[str, float]
    missing: tuple[int, ...]
    failures: tuple[Failure, ...]
    refused: str | None

    @property
    def damaged(self) -> tuple[int, ...]:
        """The numbers of the blocks that have failures."""
        return tuple(sorted({f.block for f in self.failures if f.block is not None}))

    @property
    def sound(self) -> bool:
        """Whether the store is complete and every requested check was done and passed."""
        return self.state == "complete" and not self.failures and self.refused is None

    def require(self) -> None:
        """Raise if the store is not sound.

        Raises
        ------
        IncompleteError
            Something is wrong or missing.
        InputError
            Every check that was possible passed, but columns could not be recomputed: for
            example, X is missing or has changed.
        """
        if self.failures:
            blocks = dict.fromkeys(self.missing, "")
            blocks |= {f.block: str(f) for f in reversed(self.failures) if f.block is not None}
            problem = "; ".join(str(failure).rstrip(".") for failure in self.failures[:_NAMED])
            more = len(self.failures) - _NAMED
            raise IncompleteError(
                f"{self.path} is damaged: {problem}{f'; and {more} more' if more > 0 else ''}. "
                "Repair it with colonnade run --repair JOB.",
                {block: cause or "missing" for block, cause in blocks.items()},
            )
        if self.state != "complete":
            problem = f"{self._missing} are missing" if self.missing else "it is not finished"
            raise IncompleteError(
                f"{self.path} is {self.state}: {problem}; everything stored is right. Finish it "
                "with colonnade run JOB.",
                dict.fromkeys(self.missing, "missing"),
            )
        if self.refused is not None:
            raise InputError(
                f"{self.path}: all checksums are right, but {self.refused.rstrip('.')}."
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the findings as plain values, for JSON."""
        names = (
            "path", "state", "sound", "shards", "chunks",
            "covered", "unknown", "sampled", "doubted", "sums",
        )  # fmt: skip
        return {
            **{name: getattr(self, name) for name in names},
            "columns": self.grid.columns,
            "blocks": self.grid.blocks,
            # JSON has no infinity
            "errors": {k: v if math.isfinite(v) else None for k, v in self.errors.items()},
            "missing": list(self.missing),
            "damaged": list(self.damaged),
            "failures": [
                {name: getattr(failure, name) for name in Failure.__slots__}
                for failure in self.failures
            ],
            "refused": self.refused,
        }

    def __str__(self) -> str:
        lines = [
            f"store     {self.path}, {self.state}",
            f"checksums of {self.chunks:,} chunks in {self.shards:,} shards are right",
            self._columns_checked,
            *(
                f"  {name:10} largest error is {error:.2g} of its bound"
                for name, error in self.errors.items()
            ),
        ]
        lines += [
            f"sums      {name} of {count:,} of {self.grid.blocks:,} blocks recomputed"
            for name, count in self.sums.items()
        ]
        if self.missing:
            lines.append(f"missing   {self._missing}")
        lines += [f"wrong     {failure}" for failure in self.failures]
        verdict = "all is right"
        if not self.sound:
            verdict = "everything checked is right, but not everything could be checked"
        elif self.covered < self.grid.columns:
            some = f" and {self.sampled:,} columns" if self.sampled else ""
            verdict = f"all checksums{some} are right"
        if self.failures:
            verdict = "the store is damaged"
        elif self.state != "complete":
            verdict = "everything stored is right, but the store is not finished"
        return "\n".join(map(visible, [*lines, f"found     {verdict}"]))

    @property
    def _columns_checked(self) -> str:
        text = (
            f"columns   {self.covered:,} of {self.grid.columns:,} compared through a random "
            f"product, {self.sampled:,} number by number"
        )
        if self.doubted:
            text += f", and {self.doubted:,} that stood out"
        if self.unknown:
            text += f"; {self.unknown:,} may overflow, so any value is accepted"
        return text + (f"; {self.refused}" if self.refused else "")

    @property
    def _missing(self) -> str:
        columns = ranges(self.missing, self.grid.bounds)
        return f"blocks {ranges(self.missing)} (columns {columns})"


def _columns(failure: Failure) -> str:
    if failure.stop - failure.start == 1:
        return f"column {failure.start}"
    return f"columns {failure.start} to {failure.stop - 1}"
