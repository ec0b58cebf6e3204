"""The Zarr group that a run makes: create it, write a block, list what is there, finish it.

Metadata is written by one process, the run's; a task writes whole shards and nothing else. What
is done is asked of the store: a block is done when its shard of the main array is there.
"""

from __future__ import annotations

import errno
import json
import math
import platform
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
import zarr.core.sync
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype

from colonnade.columns import Columns, open_columns
from colonnade.errors import StoreError
from colonnade.job import Job
from colonnade.network import ARRAYS, Network
from colonnade.plan import ArrayPlan, Grid, Plan
from colonnade.shards import ShardBuffer, ShardLayout

__all__ = ["InputRecord", "NetworkRecord", "Record", "Status", "Store"]

FORMAT: Literal[1] = 1
KEY = "colonnade"

_Z = "Σ_l W1[h,l] X[l,k] + b1[h]"
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "jacobian": {
        "long_name": "Jacobian of the network's outputs with respect to its inputs, at each column",
        "formula": f"jacobian[k,i,j] = ∂y_i/∂x_j = Σ_h W2[i,h] σ′(z[h,k]) W1[h,j], z[h,k] = {_Z}",
    },
    "value": {
        "long_name": "output of the network at each column",
        "formula": f"value[k,i] = y_i = Σ_h W2[i,h] σ(z[h,k]) + b2[i], z[h,k] = {_Z}",
    },
    "norm": {
        "long_name": "Frobenius norm of the Jacobian at each column",
        "formula": "norm[k] = sqrt(Σ_ij jacobian[k,i,j]²)",
    },
    "mean": {
        "long_name": "mean of the Jacobian over all columns",
        "formula": "mean[i,j] = Σ_k jacobian[k,i,j] / p = Σ_h W2[i,h] (Σ_k σ′(z[h,k]) / p) W1[h,j]",
    },
    "slope_sum": {
        "long_name": "sum of the slopes over the columns of each block",
        "formula": f"slope_sum[b,h] = Σ_(k in block b) σ′(z[h,k]), z[h,k] = {_Z}",
    },
    "W1": {"long_name": "weights of the first layer, W"},
    "b1": {"long_name": "bias of the first layer, b"},
    "W2": {"long_name": "weights of the second layer, U"},
    "b2": {"long_name": "bias of the second layer, c"},
}
_WEIGHT_DIMENSIONS = {
    "W1": ("hidden", "input"),
    "b1": ("hidden",),
    "W2": ("output", "hidden"),
    "b2": ("output",),
}


class NetworkRecord(BaseModel):
    """Which network a store belongs to."""

    model_config = ConfigDict(frozen=True)
    fingerprint: str
    inputs: int
    hidden: int
    outputs: int


class InputRecord(BaseModel):
    """Which X a store belongs to."""

    model_config = ConfigDict(frozen=True)
    fingerprint: str
    columns: int
    dtype: str


class Record(BaseModel):
    """What a store says of itself, in its attribute `colonnade`.

    Attributes
    ----------
    state
        writing or complete.
    id
        Of this making of the store, so that a worker never takes one store for another.
    arrays
        Those that a task writes a shard of, in this order; the last one's shards tell which
        blocks are done.
    """

    model_config = ConfigDict(frozen=True)
    format: Literal[1] = FORMAT
    state: Literal["writing", "complete"]
    id: str
    created: str
    finished: str | None = None
    job: Job
    network: NetworkRecord
    input: InputRecord
    grid: Grid
    arrays: tuple[str, ...]
    versions: dict[str, str]

    @property
    def main(self) -> str:
        """The array whose shards tell which blocks are done."""
        return self.arrays[-1]

    def differences(self, job: Job, network: NetworkRecord, x: InputRecord) -> list[str]:
        """Say in what another job differs from the store's; the cluster does not count."""
        found = []
        if self.network != network:
            found.append("the network (its weights or its activation)")
        if self.input != x:
            found.append("X")
        mine, other = (j.output.model_dump(exclude={"path"}) for j in (self.job, job))
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

    @property
    def state(self) -> str:
        """writing, complete, or damaged: it was complete, and blocks have gone since."""
        damaged = self.missing and self.record.state == "complete"
        return "damaged" if damaged else self.record.state

    def as_dict(self) -> dict[str, Any]:
        """Return the status as plain values, for JSON."""
        record, grid = self.record, self.record.grid
        return {
            "path": self.path,
            "state": self.state,
            "columns": grid.columns,
            "columns_done": grid.columns - grid.count(self.missing),
            "blocks": grid.blocks,
            "blocks_done": grid.blocks - len(self.missing),
            "missing": list(self.missing),
            **record.model_dump(mode="json", include={"created", "finished", "versions", "job"}),
        }

    def __str__(self) -> str:
        record, grid = self.record, self.record.grid
        output, network = record.job.output, record.network
        done, columns = grid.blocks - len(self.missing), grid.columns - grid.count(self.missing)
        lines = [
            f"store     {self.path}, {self.state}",
            f"blocks    {done:,} of {grid.blocks:,} ({columns:,} of {grid.columns:,} columns)",
            f"holds     {', '.join(output.products)}; {output.layout}, {output.dtype}",
            (
                f"network   n = {network.inputs}, m = {network.hidden}, q = {network.outputs}, "
                f"{record.job.network.activation['name']}; {record.job.network.weights}"
            ),
            f"input     {record.job.input.path}",
            f"made      {record.created} by colonnade {record.versions.get('colonnade')}"
            + (f", finished {record.finished}" if record.finished else ""),
        ]
        if self.missing:
            lines.insert(2, f"missing   blocks {_ranges(self.missing)}")
        return "\n".join(lines)


def _ranges(numbers: tuple[int, ...]) -> str:
    """Write ascending numbers as people do: 3–7, 12."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    told = [str(a) if a == b else f"{a}–{b}" for a, b in runs]
    return ", ".join(told[:20]) + (f" and {len(told) - 20} more runs" if len(told) > 20 else "")


def _told(value: Any) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value)


class Store:
    """A store at a path, as it was when it was opened."""

    def __init__(self, path: str, group: zarr.Group, record: Record) -> None:
        self.path = path
        self.record = record
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {}

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store that exists.

        Raises
        ------
        StoreError
            There is none, or what is there is not of this format.
        """
        store = cls.find(path)
        if store is None:
            raise StoreError(f"{path}: there is no store.")
        return store

    @classmethod
    def find(cls, path: str | Path) -> Store | None:
        """Open a store, or return None where nothing is at its path.

        Raises
        ------
        StoreError
            Something else is there.
        """
        place = Path(path)
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            return None
        foreign = f"{path}: this is no store of colonnade"
        if not place.is_dir():
            raise StoreError(f"{foreign}, but a file.")
        try:
            group = zarr.open_group(str(path), mode="r+", use_consolidated=False)
            attributes = group.attrs.asdict()
        # zarr raises whatever damaged metadata happens to break
        except Exception as error:
            raise StoreError(f"{foreign}: {_reason(error)}.") from error
        if KEY not in attributes:
            raise StoreError(f"{foreign}: the Zarr group there has no attribute {KEY!r}.")
        made = attributes[KEY]
        if isinstance(made, Mapping) and made.get("format") != FORMAT:
            raise StoreError(
                f"{path}: the store has format {made.get('format')!r}; this version of colonnade "
                f"reads format {FORMAT}."
            )
        try:
            record = Record.model_validate(made)
        except ValidationError as error:
            where = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
            raise StoreError(
                f"{path}: the store's attribute {KEY!r} is damaged: {where}."
            ) from error
        return cls(str(path), group, record)

    @classmethod
    def create(
        cls, plan: Plan, network: Network, job: Job, x: InputRecord, old: Store | None = None
    ) -> Store:
        """Make the arrays at the job's output path and write the weights.

        Parameters
        ----------
        old
            The store to replace.

        Raises
        ------
        StoreError
            The place cannot be written to, or holds something else than a store.
        """
        place = Path(job.output.path)
        record = Record(
            state="writing",
            id=uuid.uuid4().hex,
            created=_now(),
            job=job,
            network=network_record(network),
            input=x,
            grid=plan.grid,
            arrays=tuple(array.name for array in plan.arrays if array.per_block),
            versions=_versions(),
        )
        # Made beside its place and moved there in one step: nobody ever sees half a store
        making = place.with_name(f".{place.name}.{record.id}")
        try:
            making.parent.mkdir(parents=True, exist_ok=True)
            _make(making, plan, network, record)
            _move(making, place, old)
        except OSError as error:
            raise StoreError(f"{place}: the store cannot be made: {_reason(error)}.") from error
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return cls.open(place)

    @property
    def grid(self) -> Grid:
        """How its columns fall into blocks."""
        return self.record.grid

    def network(self) -> Network:
        """Rebuild the network from the store's own arrays."""
        W1, b1, W2, b2 = (self.read(name) for name in ARRAYS)
        return Network(W1, b1, W2, b2, self.record.job.network.activation)

    def columns(self) -> Columns:
        """Open X where the store's job says that it is."""
        x = self.record.job.input
        return open_columns(x.path, x.array, x.orientation)

    def done(self) -> set[int]:
        """Blocks whose shard of every array is there: one listing of each array's keys."""
        return set.intersection(*(self._present(name) for name in self.record.arrays))

    def is_whole(self) -> bool:
        """Whether the store says that it is complete, and what `finish` wrote is there."""
        finals = set(self.record.job.output.products) - set(self.record.arrays)
        return self.record.state == "complete" and all(self._present(name) for name in finals)

    def _present(self, name: str) -> set[int]:
        array = self._array(name)
        encode = array.metadata.encode_chunk_key
        shards = -(-array.shape[0] // (array.shards or array.chunks)[0])
        present = zarr.core.sync.sync(_list(array))
        rest = (0,) * (array.ndim - 1)
        return {block for block in range(shards) if encode((block, *rest)) in present}

    def is_current(self) -> bool:
        """Whether the store at the path is still this one; another run may have replaced it."""
        try:
            document = json.loads((Path(self.path) / "zarr.json").read_bytes())
            return bool(document["attributes"][KEY]["id"] == self.record.id)
        except (OSError, ValueError, KeyError):
            return False

    def status(self) -> Status:
        """Ask the store how far it is."""
        done = self.done()
        missing = (block for block in range(self.grid.blocks) if block not in done)
        return Status(self.path, self.record, tuple(missing))

    def buffer(self, name: str) -> ShardBuffer:
        """Make a buffer for one shard of an array, to be filled and given to `write`."""
        return ShardBuffer(_layout(self._array(name)), fill=np.nan)

    def write(self, block: int, buffers: Mapping[str, ShardBuffer]) -> int:
        """Write a block's shard of each array, the main array's last; return their numbers' bytes.

        A buffer of the array's own codecs is written as it is; zarr encodes the others.
        """
        written = 0
        for name in self.record.arrays:
            array, buffer = self._array(name), buffers[name]
            start = block * (array.shards or array.chunks)[0]
            stop = min(start + (array.shards or array.chunks)[0], array.shape[0])
            if _is_raw(array):
                key = array.metadata.encode_chunk_key((block, *(0,) * (array.ndim - 1)))
                _put(array, key, buffer.seal(stop - start))
            else:
                array[start:stop] = buffer.rows(0, stop - start)
            written += array.dtype.itemsize * (stop - start) * math.prod(array.shape[1:])
        return written

    def read(self, name: str) -> NDArray[Any]:
        """Read one array whole; for the small ones."""
        return np.asarray(self._array(name)[...])

    def adopt(self, job: Job) -> None:
        """Take over a resumed run's job: its files may have moved, its cluster may be another."""
        if job != self.record.job or self.record.state != "writing":
            self._update(job=job, state="writing", finished=None)

    def finish(self, results: Mapping[str, NDArray[Any]]) -> None:
        """Write what is known at the end alone, then say that the store is complete."""
        for name, result in results.items():
            self._array(name)[...] = result
        self._update(state="complete", finished=_now())

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            array = self._group.get(name)
            if not isinstance(array, zarr.Array):
                raise StoreError(f"{self.path}: the store has no array {name!r}.")
            # Else a block of zeros (saturated slopes) would leave no key, and never be done
            self._arrays[name] = array.with_config({"write_empty_chunks": True})
        return self._arrays[name]

    def _update(self, **changes: Any) -> None:
        if not self.is_current():
            raise StoreError(f"{self.path}: another run has made the store anew.")
        self.record = self.record.model_copy(update=changes)
        self._group.update_attributes({KEY: self.record.model_dump(mode="json")})


def _is_raw(array: zarr.Array[Any]) -> bool:
    """Whether the array's chunks are its numbers and a crc32c, as `shards` lays them out."""
    metadata: Any = array.metadata.to_dict()
    codecs = list(metadata["codecs"])
    raw = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    if array.shards is not None:
        inner = codecs[0]["configuration"]
        ends = inner["index_location"] == "end" and list(inner["index_codecs"]) == raw
        return ends and list(inner["codecs"]) == raw
    return codecs == raw


def _layout(array: zarr.Array[Any]) -> ShardLayout:
    rows, chunk = (array.shards or array.chunks)[0], array.chunks[0]
    dtype = np.dtype(array.dtype).newbyteorder("<")
    if not _is_raw(array):
        return ShardLayout(1, rows, array.shape[1:], dtype, sharded=False)
    return ShardLayout(
        rows // chunk, chunk, array.shape[1:], dtype, sharded=array.shards is not None
    )


def _put(array: zarr.Array[Any], key: str, data: NDArray[np.uint8]) -> None:
    buffer = default_buffer_prototype().buffer.from_array_like(data)
    path = f"{array.path}/{key}"
    if hasattr(array.store, "set_sync"):
        array.store.set_sync(path, buffer)
    else:
        zarr.core.sync.sync(array.store.set(path, buffer))


def _make(path: Path, plan: Plan, network: Network, record: Record) -> None:
    group = zarr.create_group(path, attributes={KEY: record.model_dump(mode="json")})
    for array in plan.arrays:
        _create(group, array, record.job.output.compression)
    for name in ARRAYS:
        _create_weights(group, name, getattr(network, name))


def _move(making: Path, place: Path, old: Store | None) -> None:
    """Put a new store in its place in one step, and delete the old one."""
    aside = None
    rival = StoreError(f"{place}: another run has just made a store here.")
    if old is not None:
        if not old.is_current():
            raise rival
        aside = place.with_name(f".{place.name}.{old.record.id}")
        place.rename(aside)
    try:
        making.rename(place)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise rival from error
        raise
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


async def _list(array: zarr.Array[Any]) -> set[str]:
    return {key async for key in array.store.list_dir(array.path)}


def network_record(network: Network) -> NetworkRecord:
    """Describe a network for a store's attributes."""
    return NetworkRecord(
        fingerprint=network.fingerprint, inputs=network.n, hidden=network.m, outputs=network.q
    )


def input_record(columns: Columns) -> InputRecord:
    """Describe X for a store's attributes; reads up to 32 MiB, or 64 columns, of it."""
    return InputRecord(
        fingerprint=columns.fingerprint(), columns=columns.p, dtype=columns.dtype.name
    )


def _create(
    group: zarr.Group, plan: ArrayPlan, compression: Literal["none", "lz4", "zstd"]
) -> None:
    compressors: list[Any] = [Crc32cCodec()]
    if compression != "none" and plan.per_block:
        compressors.insert(0, BloscCodec(cname=compression, clevel=5, shuffle="shuffle"))
    group.create_array(
        plan.name,
        shape=plan.shape,
        dtype=plan.dtype,
        chunks=plan.chunks,
        shards=plan.shards if plan.shards != plan.chunks else None,
        compressors=compressors,
        filters=None,
        fill_value=np.nan,
        # One directory an array: listing what is done is one scan, however many blocks there are
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=plan.dimensions,
        attributes=_ATTRIBUTES[plan.name],
    )


def _create_weights(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=np.nan,
        dimension_names=_WEIGHT_DIMENSIONS[name],
        attributes=_ATTRIBUTES[name],
    )
    array[...] = values


def _versions() -> dict[str, str]:
    packages: Iterable[str] = ("colonnade", "numpy", "zarr", "dask")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")
