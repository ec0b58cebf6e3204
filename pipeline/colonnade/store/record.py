"""What a store says of itself, in its attribute `colonnade`, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, model_validator

from colonnade.columns import Columns
from colonnade.errors import IncompleteError, shown
from colonnade.job import Job
from colonnade.layout import ArrayPlan, Grid, Shapes
from colonnade.network import Network
from colonnade.products import make_arrays
from colonnade.store.history import MOST_RUNS, RunRecord
from colonnade.store.lease import Holder
from colonnade.words import format_seconds

__all__ = [
    "FORMAT",
    "MOST_FAILED",
    "FailedBlock",
    "Growth",
    "InputRecord",
    "NetworkRecord",
    "Record",
    "Status",
    "input_record",
    "network_record",
    "ranges",
]

FORMAT: Literal[3] = 3
MOST_FAILED = 20
_TOLD = {"created", "finished", "growth", "nonfinite", "versions", "job"}


def _usable(grid: Grid) -> Grid:
    if grid.problem:
        raise ValueError(grid.problem)
    return grid


class NetworkRecord(BaseModel):
    """Which network a store belongs to."""

    model_config = ConfigDict(frozen=True)
    fingerprint: str
    inputs: PositiveInt
    hidden: PositiveInt
    outputs: PositiveInt


class InputRecord(BaseModel):
    """Which X a store belongs to.

    Attributes
    ----------
    fingerprint
        Of its shape, type and values, as `Columns.fingerprint` has it.
    storage
        How it is stored, as `Columns.storage` has it. Who stores it in another way may have changed
        values that are not sampled.
    """

    model_config = ConfigDict(frozen=True)
    fingerprint: str
    columns: int
    dtype: str
    storage: dict[str, Any]

    def differences(self, other: InputRecord) -> list[str]:
        """Say in what another X differs."""
        pairs = {
            "columns": (self.columns, other.columns),
            "type": (self.dtype, other.dtype),
            **{
                key: (self.storage.get(key, "none"), other.storage.get(key, "none"))
                for key in {**self.storage, **other.storage}
            },
        }
        found = [
            f"its {shown(key.replace('_', ' '))} {shown(str(mine), 120)} in the store, "
            f"{shown(str(theirs), 120)} in the job"
            for key, (mine, theirs) in pairs.items()
            if mine != theirs
        ]
        # The fingerprint is of the shape and the type too
        of_values = (self.columns, self.dtype) == (other.columns, other.dtype)
        return found + ["its values"] * (of_values and self.fingerprint != other.fingerprint)


class Growth(BaseModel):
    """The last time that a store was made longer, because X had grown.

    Attributes
    ----------
    columns
        How many there were before.
    begun
        When.
    resized
        Whether all arrays have their new shapes. Until then some have the old ones, and the block
        that was the last may hold no more than the old columns.
    """

    model_config = ConfigDict(frozen=True)
    columns: PositiveInt
    begun: str
    resized: bool = False

    def __str__(self) -> str:
        return f"{shown(self.begun)}, from {self.columns:,} columns"


class FailedBlock(BaseModel):
    """A block that the last run could not compute, and why."""

    model_config = ConfigDict(frozen=True)
    block: Annotated[int, Field(ge=0)]
    cause: str


class Record(BaseModel):
    """What a store says of itself, in its attribute `colonnade`.

    Attributes
    ----------
    state
        writing or complete.
    id
        Of this making of the store, or growth of it, so that a worker never takes one store for
        another.
    arrays
        Those that a task writes a shard of, in this order. A block is done when all are there.
    nonfinite
        How many columns of X hold NaN or an infinity; None while the store is being written.
    growth
        The last one, if there was any.
    failed
        The first blocks that failed in the last run, if it came to its end and some did.
    runs
        The last of those that computed blocks of it and were not killed, oldest first.
    """

    model_config = ConfigDict(frozen=True)
    format: Literal[3] = FORMAT
    state: Literal["writing", "complete"]
    # A part of file names
    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    created: str
    finished: str | None = None
    job: Job
    network: NetworkRecord
    input: InputRecord
    grid: Annotated[Grid, AfterValidator(_usable)]
    arrays: tuple[str, ...]
    nonfinite: Annotated[int, Field(ge=0)] | None = None
    growth: Growth | None = None
    failed: Annotated[tuple[FailedBlock, ...], Field(max_length=MOST_FAILED)] = ()
    versions: dict[str, str]
    runs: Annotated[tuple[RunRecord, ...], Field(max_length=MOST_RUNS)] = ()

    @model_validator(mode="after")
    def _has_grown(self) -> Self:
        growth = self.growth
        grid = self.grid
        if growth is not None and not grid.block_columns <= growth.columns < grid.columns:
            raise ValueError("growth.columns must be from block_columns on, and below columns")
        if growth is not None and not growth.resized and self.state == "complete":
            raise ValueError("a store that is growing is not complete")
        return self

    @property
    def former(self) -> Grid | None:
        """The grid that some arrays may still have, while the store is made longer."""
        if self.growth is None or self.growth.resized:
            return None
        return replace(self.grid, columns=self.growth.columns)

    @property
    def shapes(self) -> Shapes:
        """Sizes of what the store holds."""
        return self._shapes(self.grid)

    @property
    def plans(self) -> tuple[ArrayPlan, ...]:
        """The arrays that a run makes."""
        return self.plans_in(self.grid)

    def plans_in(self, grid: Grid) -> tuple[ArrayPlan, ...]:
        """Plan the arrays that a run makes, in a grid of the store's blocks."""
        output = self.job.output
        return make_arrays(self._shapes(grid), output.products, output.dtype, grid, output.layout)

    def _shapes(self, grid: Grid) -> Shapes:
        network = self.network
        return Shapes(grid.columns, network.inputs, network.hidden, network.outputs)

    def require_shapes(self) -> None:
        """Raise IncompleteError where the arrays' lengths differ, because the store is growing."""
        if self.former is not None:
            raise IncompleteError(
                f"{self.job.output.path} is incomplete: the run that made it longer, as X had "
                "grown, has not come far enough for it to be read. The command that made it "
                "(colonnade run) finishes it."
            )

    def differences(self, job: Job, network: NetworkRecord, x: InputRecord) -> list[str]:
        """Say in what another job differs from the store's; the cluster does not count."""
        found = []
        if self.network != network:
            found.append("the network (its weights or its activation)")
        different = self.input.differences(x)
        if different:
            found.append(f"X ({'; '.join(different)})")
        mine, other = (
            j.output.model_dump(exclude={"path", "storage_options"}) for j in (self.job, job)
        )
        found += [
            f"output.{key} ({_told(mine[key])} in the store, {_told(other[key])} in the job)"
            for key in mine
            if mine[key] != other[key]
        ]
        return found


@dataclass(frozen=True)
class Status:
    """How far a store is."""

    path: str
    record: Record
    missing: tuple[int, ...]
    holder: Holder | None

    @property
    def state(self) -> str:
        """writing, complete, or damaged: it was complete, and blocks have gone since."""
        damaged = self.missing and self.record.state == "complete"
        return "damaged" if damaged else self.record.state

    @property
    def failed(self) -> dict[int, str]:
        """Of the blocks that are missing, the first that the last run could not compute, and why.

        None where a run was killed, or is at work.
        """
        missing = set(self.missing)
        return {f.block: f.cause for f in self.record.failed if f.block in missing}

    @property
    def columns_done(self) -> int:
        """Columns that are there."""
        return self.record.grid.columns - self.record.grid.count(self.missing)

    @property
    def progress(self) -> str:
        """How much is there, in words."""
        grid = self.record.grid
        return (
            f"{grid.blocks - len(self.missing):,} of {grid.blocks:,} blocks are there "
            f"({self.columns_done:,} of {grid.columns:,} columns)"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the status as plain values, for JSON."""
        record, grid = self.record, self.record.grid
        return {
            "path": self.path,
            "state": self.state,
            "columns": grid.columns,
            "columns_done": self.columns_done,
            "blocks": grid.blocks,
            "blocks_done": grid.blocks - len(self.missing),
            "missing": list(self.missing),
            "failed": [
                {"block": block, "start": bounds[0], "stop": bounds[1], "cause": cause}
                for block, cause in self.failed.items()
                for bounds in [grid.bounds(block)]
            ],
            "held_by": self._holder,
            **record.model_dump(mode="json", include=_TOLD),
        }

    @property
    def _holder(self) -> dict[str, Any] | None:
        held = self.holder
        return (
            None
            if held is None
            else {**asdict(held), "seconds_silent": held.silent, "gone": held.is_gone}
        )

    def __str__(self) -> str:
        record, grid = self.record, self.record.grid
        output, network = record.job.output, record.network
        done, columns = grid.blocks - len(self.missing), self.columns_done
        lines = [
            f"store     {self.path}, {self.state}",
            f"blocks    {done:,} of {grid.blocks:,} ({columns:,} of {grid.columns:,} columns)",
            f"holds     {', '.join(output.products)}; {output.layout}, {output.dtype}",
            (
                f"network   n = {network.inputs}, m = {network.hidden}, q = {network.outputs}, "
                f"{record.job.network.activation['name']}; {record.job.network.weights}"
            ),
            f"input     {record.job.input.path}"
            + (f"; {record.nonfinite:,} columns are not finite" if record.nonfinite else ""),
            f"made      {record.created} by colonnade {record.versions.get('colonnade')}"
            + (f", finished {record.finished}" if record.finished else ""),
        ]
        if record.growth:
            lines.append(f"grown     {record.growth}")
        if self.missing:
            lines.insert(2, f"missing   blocks {ranges(self.missing)}")
        lines += [
            f"failed    block {block}: {shown(cause, 500)}" for block, cause in self.failed.items()
        ]
        if self.holder:
            silent = self.holder.silent
            heard = (
                "" if silent is None else f", last heard of {format_seconds(max(silent, 0))} ago"
            )
            told = ", which is dead" if self.holder.is_gone else heard
            lines.insert(1, f"held by   {self.holder}{told}")
        return "\n".join(lines)


def ranges(numbers: Iterable[int], bounds: Callable[[int], tuple[int, int]] | None = None) -> str:
    """Write ascending numbers as people do: 3–7, 12; or what lies within their `bounds`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if bounds is not None:
        runs = [[bounds(a)[0], bounds(b)[1] - 1] for a, b in runs]
    told = [str(a) if a == b else f"{a}–{b}" for a, b in runs]
    return ", ".join(told[:20]) + (f" and {len(told) - 20} more runs" if len(told) > 20 else "")


def _told(value: Any) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value)


def network_record(network: Network) -> NetworkRecord:
    """Describe a network for a store's attributes."""
    return NetworkRecord(
        fingerprint=network.fingerprint, inputs=network.n, hidden=network.m, outputs=network.q
    )


def input_record(columns: Columns, most: int | None = None) -> InputRecord:
    """Describe X, or its first `most` columns, for a store's attributes.

    Reads up to 32 MiB, or samples, of it. X that has grown since a store was made is, up to the
    store's last column, the X that it was made of.
    """
    p = columns.p if most is None else min(most, columns.p)
    return InputRecord(
        fingerprint=columns.fingerprint(p),
        columns=p,
        dtype=columns.dtype.name,
        storage=columns.storage,
    )
