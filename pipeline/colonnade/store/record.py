"""The record in which a store describes itself: its attribute `colonnade`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, model_validator

from colonnade.compute.products import PRODUCTS, make_arrays
from colonnade.errors import IncompleteError, sanitize
from colonnade.grid import ArrayPlan, Grid, Shapes
from colonnade.inputs import InputMatrix
from colonnade.inputs.labels import Labels
from colonnade.job import Job
from colonnade.limits import FAILURES_KEPT, RUNS_KEPT
from colonnade.network.network import Network
from colonnade.store.history import RunRecord

__all__ = [
    "FORMAT",
    "FailedBlock",
    "Growth",
    "InputRecord",
    "NetworkRecord",
    "Record",
    "input_record",
    "network_record",
]

FORMAT: Literal[3] = 3
# Characters of the longest list that an error message quotes
_MOST_TOLD = 60


def _usable(grid: Grid) -> Grid:
    if grid.problem:
        raise ValueError(grid.problem)
    return grid


def _declared_activation(job: Job) -> Job:
    if job.network.activation is None:
        raise ValueError("it does not state the activation")
    return job


class NetworkRecord(BaseModel):
    """The network that a store was computed with."""

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
    def hidden_text(self) -> str:
        """Hidden units of the layers as text: 512 + 512."""
        return " + ".join(map(str, self.hidden)) or "0"


class InputRecord(BaseModel):
    """The X that a store was computed from.

    Attributes
    ----------
    fingerprint
        `InputMatrix.fingerprint`: of its shape, type and values.
    storage
        `InputMatrix.storage`: how it is stored. If that changes, values that the fingerprint does
        not sample may have changed too.
    """

    model_config = ConfigDict(frozen=True)
    fingerprint: str
    columns: int
    dtype: str
    storage: dict[str, Any]

    def differences(self, other: InputRecord) -> list[str]:
        """Describe how another X differs."""
        pairs = {
            "columns": (self.columns, other.columns),
            "type": (self.dtype, other.dtype),
            **{
                key: (self.storage.get(key), other.storage.get(key))
                for key in {**self.storage, **other.storage}
            },
        }
        found = [
            f"its {sanitize(key.replace('_', ' '))}{_both(mine, theirs)}"
            for key, (mine, theirs) in pairs.items()
            if mine != theirs
        ]
        # The fingerprint covers the shape and the type too
        of_values = (self.columns, self.dtype) == (other.columns, other.dtype)
        return found + ["its values"] * (of_values and self.fingerprint != other.fingerprint)


def _both(mine: Any, theirs: Any) -> str:
    """Describe two values; empty if one is long or nested (codecs), and so not worth reading."""
    texts = [_plain(value) for value in (mine, theirs)]
    return "" if None in texts else f" {texts[0]} in the store, {texts[1]} in the job"


def _plain(value: Any) -> str | None:
    if isinstance(value, dict):
        return None
    if isinstance(value, list):
        message = f"[{', '.join(map(str, value))}]"
        nested = any(isinstance(each, dict | list) for each in value)
        return None if nested or len(message) > _MOST_TOLD else sanitize(message)
    return "none" if value is None else sanitize(str(value))


class Growth(BaseModel):
    """The last extension of a store, after X had grown.

    Attributes
    ----------
    columns
        Number of columns before.
    begun
        When it began.
    resized
        Whether all arrays have their new shapes. Until then some have the former ones, and the
        former last block may hold the former columns only.
    """

    model_config = ConfigDict(frozen=True)
    columns: PositiveInt
    begun: str
    resized: bool = False

    def __str__(self) -> str:
        return f"{sanitize(self.begun)}, from {self.columns:,} columns"


class FailedBlock(BaseModel):
    """A block that the last run could not compute, and why."""

    model_config = ConfigDict(frozen=True)
    block: Annotated[int, Field(ge=0)]
    cause: str


class Record(BaseModel):
    """The record in which a store describes itself: its attribute `colonnade`.

    Attributes
    ----------
    state
        writing or complete.
    id
        New whenever the store is created or grows, so that a worker never mistakes one store for
        another.
    arrays
        Arrays to which a task writes a shard, in this order. A block is done when all its shards
        exist.
    folded
        Scalings of X and Y that are folded into the weights, in words.
    nonfinite
        Number of columns of X that hold NaN or an infinity; None while the store is being written.
    counts_results
        Whether columns whose results are not finite are counted too. Older stores have no array
        for this count and get none: their count is unknown.
    nonfinite_results
        Number of columns whose results are not finite; None while the store is being written, and
        where it is unknown.
    nonfinite_statistics
        Statistics over all columns that hold NaN or an infinity.
    labels
        Names and scales, which a later run of the job may change.
    growth
        The last extension, if any.
    failed
        The first blocks that failed in the last run, if that run was not killed.
    runs
        The last runs that computed blocks and were not killed, oldest first.
    """

    model_config = ConfigDict(frozen=True)
    format: Literal[3] = FORMAT
    state: Literal["writing", "complete"]
    # A part of file names
    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    created: str
    finished: str | None = None
    job: Annotated[Job, AfterValidator(_declared_activation)]
    network: NetworkRecord
    folded: tuple[str, ...] = ()
    input: InputRecord
    grid: Annotated[Grid, AfterValidator(_usable)]
    arrays: tuple[str, ...]
    nonfinite: Annotated[int, Field(ge=0)] | None = None
    counts_results: bool = False
    nonfinite_results: Annotated[int, Field(ge=0)] | None = None
    nonfinite_statistics: Annotated[tuple[str, ...], Field(max_length=len(PRODUCTS))] = ()
    labels: Labels = Labels()
    growth: Growth | None = None
    failed: Annotated[tuple[FailedBlock, ...], Field(max_length=FAILURES_KEPT)] = ()
    versions: dict[str, str]
    runs: Annotated[tuple[RunRecord, ...], Field(max_length=RUNS_KEPT)] = ()

    @property
    def activations(self) -> dict[str, Any] | list[dict[str, Any]]:
        """σ as its name and parameters, or a list with those of each hidden layer."""
        return self.job.network.activation or []

    @model_validator(mode="after")
    def _has_grown(self) -> Self:
        growth = self.growth
        grid = self.grid
        if growth is not None and not grid.block_columns <= growth.columns < grid.columns:
            raise ValueError("growth.columns must be at least block_columns and less than columns")
        if growth is not None and not growth.resized and self.state == "complete":
            raise ValueError("a store that is growing cannot be complete")
        return self

    @property
    def counts(self) -> tuple[str, ...]:
        """Names of the arrays that count, for each block, the columns that are not finite."""
        return ("nonfinite", "nonfinite_results") if self.counts_results else ("nonfinite",)

    @property
    def former(self) -> Grid | None:
        """The grid that some arrays may still have while the store grows."""
        if self.growth is None or self.growth.resized:
            return None
        return replace(self.grid, columns=self.growth.columns)

    @property
    def shapes(self) -> Shapes:
        """Numbers of columns, inputs, hidden units and outputs."""
        return self._shapes(self.grid)

    @property
    def plans(self) -> tuple[ArrayPlan, ...]:
        """The arrays that a run makes."""
        return self.plans_in(self.grid)

    def plans_in(self, grid: Grid) -> tuple[ArrayPlan, ...]:
        """Plan the arrays that a run makes, for a grid of the store's blocks."""
        output = self.job.output
        return make_arrays(self._shapes(grid), output.products, output.dtype, grid, output.layout)

    def _shapes(self, grid: Grid) -> Shapes:
        network = self.network
        return Shapes(grid.columns, network.inputs, sum(network.hidden), network.outputs)

    def require_shapes(self) -> None:
        """Raise IncompleteError if the arrays' lengths differ because the store is growing."""
        if self.former is not None:
            raise IncompleteError(
                f"{self.job.output.path} is incomplete: X has grown, and the run that extends the "
                "store has not resized all of its arrays yet. Finish it with the command that made "
                "it (colonnade run)."
            )

    def differences(self, job: Job, network: NetworkRecord, x: InputRecord) -> list[str]:
        """Describe how another job differs; its cluster, names and scales do not count."""
        found = []
        if self.network != network:
            found.append("the network (its weights or its activation)")
        different = self.input.differences(x)
        if different:
            found.append(f"X ({'; '.join(different)})")
        mine, other = (
            j.output.model_dump(exclude={"path", "storage_options", "scale"})
            for j in (self.job, job)
        )
        found += [
            f"output.{key} ({_plain_text(mine[key])} in the store, "
            f"{_plain_text(other[key])} in the job)"
            for key in mine
            if mine[key] != other[key]
        ]
        return found


def _plain_text(value: Any) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value)


def network_record(network: Network) -> NetworkRecord:
    """Describe a network for a store's attributes."""
    return NetworkRecord(
        fingerprint=network.fingerprint, inputs=network.n, hidden=network.hidden, outputs=network.q
    )


def input_record(columns: InputMatrix, most: int | None = None) -> InputRecord:
    """Describe X, or its first `most` columns, for a store's attributes.

    Reads up to 32 MiB of X: all of it, or samples. If X has grown since a store was made, its
    record up to the store's last column equals the store's.
    """
    p = columns.p if most is None else min(most, columns.p)
    return InputRecord(
        fingerprint=columns.fingerprint(p),
        columns=p,
        dtype=columns.dtype.name,
        storage=columns.storage,
    )
