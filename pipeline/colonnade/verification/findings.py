"""What a verification of a store found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from colonnade.errors import IncompleteError, InputError, visible
from colonnade.grid import Grid
from colonnade.store.status import ranges

__all__ = ["Failure", "Verification"]

# Failures that an error names
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """What is wrong with an array: in a block, or of an array that is not written by blocks (None).

    `start` and `stop` bound the columns that are known to be affected.
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
    """What `verify` found.

    Attributes
    ----------
    state
        As the store's status has it: writing, complete or damaged (shards have gone).
    grid
        The store's columns, in blocks.
    shards, chunks
        How many were read and have the right checksums.
    covered
        How many columns were compared with an independent computation: slopes, values and norms
        themselves, blocks through their products with a random vector.
    unknown
        How many of these may overflow, so that any numbers are right.
    sampled
        How many columns were compared number by number, in every array.
    doubted
        How many more, because their product stood out from those of the others.
    sums
        Array of blocks' parts in a statistic -> in how many blocks all columns were added up.
    errors
        array -> largest error over its bound; up to 1 is rounding.
    missing
        Blocks of which a shard is not there.
    failures
        What is there and wrong.
    refused
        Why no column was computed again; None where they were.
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
        """Blocks in which something is wrong."""
        return tuple(sorted({f.block for f in self.failures if f.block is not None}))

    @property
    def sound(self) -> bool:
        """Whether the store is complete, and all that was asked was done and found right."""
        return self.state == "complete" and not self.failures and self.refused is None

    def require(self) -> None:
        """Raise where the store is not sound.

        Raises
        ------
        IncompleteError
            Something is wrong or missing.
        InputError
            What could be checked is right, but X has gone or changed.
        """
        if self.failures:
            blocks = dict.fromkeys(self.missing, "")
            blocks |= {f.block: str(f) for f in reversed(self.failures) if f.block is not None}
            told = "; ".join(str(failure).rstrip(".") for failure in self.failures[:_NAMED])
            more = len(self.failures) - _NAMED
            raise IncompleteError(
                f"{self.path} is damaged: {told}{f'; and {more} more' if more > 0 else ''}. "
                "colonnade run --repair JOB computes it again.",
                {block: cause or "missing" for block, cause in blocks.items()},
            )
        if self.state != "complete":
            told = f"{self._missing} are missing" if self.missing else "it is not finished"
            raise IncompleteError(
                f"{self.path} is {self.state}: {told}; what is there is right. colonnade run JOB "
                "computes what is missing.",
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
                f"  {name:10} largest error {error:.2g} of its bound"
                for name, error in self.errors.items()
            ),
        ]
        lines += [
            f"sums      {name} of {count:,} of {self.grid.blocks:,} blocks computed again"
            for name, count in self.sums.items()
        ]
        if self.missing:
            lines.append(f"missing   {self._missing}")
        lines += [f"wrong     {failure}" for failure in self.failures]
        verdict = "all is right"
        if not self.sound:
            verdict = "what was looked at is right, but not all was"
        elif self.covered < self.grid.columns:
            some = f" and {self.sampled:,} columns" if self.sampled else ""
            verdict = f"all checksums{some} are right"
        if self.failures:
            verdict = "the store is damaged"
        elif self.state != "complete":
            verdict = "what is there is right, but the store is not finished"
        return "\n".join(map(visible, [*lines, f"found     {verdict}"]))

    @property
    def _columns_checked(self) -> str:
        text = (
            f"columns   {self.covered:,} of {self.grid.columns:,} computed again by a random "
            f"product, {self.sampled:,} number by number"
        )
        if self.doubted:
            text += f", and {self.doubted:,} that stood out"
        if self.unknown:
            text += f"; {self.unknown:,} may overflow, so that any numbers are right"
        return text + (f"; {self.refused}" if self.refused else "")

    @property
    def _missing(self) -> str:
        columns = ranges(self.missing, self.grid.bounds)
        return f"blocks {ranges(self.missing)} (columns {columns})"


def _columns(failure: Failure) -> str:
    if failure.stop - failure.start == 1:
        return f"column {failure.start}"
    return f"columns {failure.start} to {failure.stop - 1}"
