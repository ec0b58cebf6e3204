"""What a store says of itself, in its attribute `colonnade`, and how far it is."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

from colonnade.columns import Columns
from colonnade.errors import shown
from colonnade.job import Job
from colonnade.layout import ArrayPlan, Grid, Shapes
from colonnade.network import Network
from colonnade.products import make_arrays
from colonnade.store.history import MOST_RUNS, RunRecord
from colonnade.store.lease import Holder

__all__ = [
    "FORMAT",
    "InputRecord",
    "NetworkRecord",
    "Record",
    "Status",
    "input_record",
    "network_record",
    "ranges",
    "versions",
]

FORMAT: Literal[3] = 3
_TOLD = {"created", "finished", "nonfinite", "versions", "job"}


def _usable(grid: Grid) -> Grid:
    if grid.problem:
        raise ValueError(grid.problem)
    return grid


class NetworkRecord(BaseModel):
    """Which network a store belongs to."""

    model_config = ConfigDict(frozen=True)
    fingerprint: str
    inputs: PositiveInt
    hidden: tuple[PositiveInt, ...]
    outputs: PositiveInt

    @property
    def sizes(self) -> tuple[int, ...]:
        """Inputs, hidden units of each layer, outputs."""
        return self.inputs, *self.hidden, self.outputs

    @property
    def told(self) -> str:
        """Hidden units, as 512 + 512."""
        return " + ".join(map(str, self.hidden)) or "0"


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


class Record(BaseModel):
    """What a store says of itself, in its attribute `colonnade`.

    Attributes
    ----------
    state
        writing or complete.
    id
        Of this making of the store, so that a worker never takes one store for another.
    arrays
        Those that a task writes a shard of, in this order. A block is done when all are there.
    nonfinite
        How many columns of X hold NaN or an infinity; None while the store is being written.
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
    versions: dict[str, str]
    runs: Annotated[tuple[RunRecord, ...], Field(max_length=MOST_RUNS)] = ()

    @property
    def shapes(self) -> Shapes:
        """Sizes of what it holds."""
        network = self.network
        return Shapes(self.grid.columns, network.inputs, sum(network.hidden), network.outputs)

    @property
    def plans(self) -> tuple[ArrayPlan, ...]:
        """Its arrays that a run makes."""
        output = self.job.output
        return make_arrays(self.shapes, output.products, output.dtype, self.grid, output.layout)

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
            "held_by": asdict(self.holder) if self.holder else None,
            **record.model_dump(mode="json", include=_TOLD),
        }

    def __str__(self) -> str:
        record, grid = self.record, self.record.grid
        output, network = record.job.output, record.network
        done, columns = grid.blocks - len(self.missing), self.columns_done
        lines = [
            f"store     {self.path}, {self.state}",
            f"blocks    {done:,} of {grid.blocks:,} ({columns:,} of {grid.columns:,} columns)",
            f"holds     {', '.join(output.products)}; {output.layout}, {output.dtype}",
            (
                f"network   n = {network.inputs}, m = {network.told}, "
                f"q = {network.outputs}, {record.job.network.told}; {record.job.network.weights}"
            ),
            f"input     {record.job.input.path}"
            + (f"; {record.nonfinite:,} columns are not finite" if record.nonfinite else ""),
            f"made      {record.created} by colonnade {record.versions.get('colonnade')}"
            + (f", finished {record.finished}" if record.finished else ""),
        ]
        if self.missing:
            lines.insert(2, f"missing   blocks {ranges(self.missing)}")
        if self.holder:
            lines.insert(1, f"held by   {self.holder}" + (", which is dead" * self.holder.is_gone))
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
        fingerprint=network.fingerprint, inputs=network.n, hidden=network.hidden, outputs=network.q
    )


def input_record(columns: Columns) -> InputRecord:
    """Describe X for a store's attributes; reads up to 32 MiB, or samples, of it."""
    return InputRecord(
        fingerprint=columns.fingerprint(),
        columns=columns.p,
        dtype=columns.dtype.name,
        storage=columns.storage,
    )


def versions() -> dict[str, str]:
    """Tell what makes this store."""
    packages: Iterable[str] = ("colonnade", "numpy", "zarr", "dask")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
