"""Open a store for analysis: an xarray Dataset, lazy and labelled."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr
import yaml
from xarray.backends import BackendEntrypoint, ZarrBackendEntrypoint

from colonnade.errors import IncompleteError, StoreError, UsageError, one_line, visible
from colonnade.limits import METADATA_BYTES
from colonnade.reading.deviations import scaled as scaled_view
from colonnade.reading.deviations import with_deviations
from colonnade.reading.recovered import recovered
from colonnade.storage.locations import Options
from colonnade.storage.regularfiles import read_regular
from colonnade.store import KEY, Status, Store

__all__ = ["Backend", "open"]

# Merge small chunks down to about so many, up to these bytes and files in a dask chunk
_PIECES = 1000
_PIECE_BYTES = 16 * 2**20
_PIECE_CHUNKS = 64
_COORDINATES = ("column", "output", "input", "other_input", "output_std", "input_std")


def open(  # noqa: A001
    path: str | Path,
    *,
    incomplete: bool = False,
    scaled: bool = False,
    storage_options: Options = None,
) -> xr.Dataset:
    """Open a store as a lazy Dataset whose dask chunks follow the store's.

    If a store has thousands of small chunks, a dask chunk spans several of them. The store's names
    become coordinates, its standard deviations the coordinates `input_std` and `output_std`. The
    attributes are texts and numbers: the formula, the job, versions, fingerprints, times.

    Parameters
    ----------
    path
        The store.
    incomplete
        Open it even if it is not finished: the attribute `incomplete` describes its progress, and
        missing values read as NaN.
    scaled
        Return J[i,j] · input_std[j] / output_std[i] in place of J, and means of it. Arrays that
        cannot be scaled this way, such as norms, are left out.
    storage_options
        Options of the object store, as in a job.

    Raises
    ------
    IncompleteError
        Blocks are missing, and `incomplete` is not set; or the store is still being extended.
    StoreError
        There is no store of colonnade at the path.
    UsageError
        `scaled` is set, and the store's job has no output.scale; or `path` is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(
            f"expected a store's path or URL, not a {type(path).__name__}. Pass the path of the "
            "store, or use the Dataset that cn.open returns for it."
        )
    return xr.open_dataset(
        str(path),
        engine=Backend,
        chunks={},
        incomplete=incomplete,
        scaled=scaled,
        storage_options=storage_options,
    )


class Backend(BackendEntrypoint):
    """The engine of `xarray.open_dataset(path, engine="colonnade")`, which works like `open`."""

    description: ClassVar[str] = "Jacobians in stores of colonnade"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj", "drop_variables", "incomplete", "scaled", "storage_options",
    )  # fmt: skip

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        incomplete: bool = False,
        scaled: bool = False,
        storage_options: Options = None,
    ) -> xr.Dataset:
        """Open a store; parameters and errors are those of `open`."""
        path = os.fspath(filename_or_obj)
        store = Store.open(path, storage_options)
        status, labels = store.status(), store.record.labels
        _refuse_incomplete(path, status, incomplete=incomplete)
        store.record.require_shapes()
        if scaled and not labels.scale:
            raise UsageError(
                f"{path}: scaled needs standard deviations, and the store has none. Name them in "
                "its job (output.scale) and run the job again: no block is computed again."
            )
        dropped = [drop_variables] if isinstance(drop_variables, str) else (drop_variables or ())
        try:
            # Names come from the record: xarray would load their arrays, which nobody has checked
            dataset = xr.open_dataset(
                store.place.zarr(),
                engine=ZarrBackendEntrypoint,
                consolidated=False,
                chunks=None,
                cache=False,
                drop_variables=list(labels.names),
            )
            if "slope" in dataset:
                dataset = dataset.assign(jacobian=recovered(store))
            dataset = dataset.assign_coords(
                {
                    dimension: (dimension, np.array(names), {"long_name": f"{dimension}s' names"})
                    for dimension, names in labels.names.items()
                    if dimension in dataset.dims
                }
            )
            # The gram matrix has the inputs along both of its dimensions
            if "other_input" in dataset.dims and "input" in dataset.coords:
                inputs = dataset["input"].variable
                dataset = dataset.assign_coords(
                    other_input=("other_input", inputs.data, inputs.attrs)
                )
            dataset = _ordered(with_deviations(dataset, labels.scale), store)
            for variable in dataset.variables.values():
                _prefer_fewer_chunks(variable)
            if scaled:
                dataset = scaled_view(_chunked(dataset))
        # xarray decodes attributes too, and damaged ones can make it raise any exception
        except Exception as error:
            raise StoreError(f"{path}: xarray cannot open this store: {one_line(error)}") from error
        dataset.attrs = _attributes(store, dataset, status)
        return dataset.drop_vars(dropped, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return whether a path is a directory with a store of colonnade."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        document = Path(os.fspath(filename_or_obj)) / "zarr.json"
        try:
            return KEY in json.loads(read_regular(document, METADATA_BYTES))["attributes"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False


def _refuse_incomplete(path: str, status: Status, *, incomplete: bool) -> None:
    if status.state == "complete" or incomplete:
        return
    held = status.holder
    remedy = (
        f"It is being written by {held}: wait for its end"
        if held is not None and not held.is_gone
        else "Finish it with the command that made it (colonnade run)"
    )
    raise IncompleteError(
        f"{path} is incomplete: {status.progress}, and its state is {status.state}. {remedy}, or "
        "open it as it is with incomplete=True: missing values read as NaN."
    )


def _ordered(dataset: xr.Dataset, store: Store) -> xr.Dataset:
    """Sort the variables, since a group lists its arrays in any order.

    The tensor comes first, then the other products, their parts by block, and the weights.
    """
    made = [plan.name for plan in reversed(store.record.plans)]
    parts = [name for name in made if name.endswith("_blocks")]
    products = [name for name in made if name not in parts]
    counts = ("nonfinite", "nonfinite_results")
    known = ["jacobian", *products, *parts, *counts, *store.weights, *_COORDINATES]
    place = {name: at for at, name in enumerate(dict.fromkeys(known))}
    data, coords = (
        sorted(map(str, names), key=lambda name: (place.get(name, len(place)), name))
        for names in (dataset.data_vars, dataset.coords)
    )
    return dataset[[*data, *coords]]


def _prefer_fewer_chunks(variable: xr.Variable) -> None:
    """Let a dask chunk span several chunks of an array that has thousands of them."""
    stored = variable.encoding.get("preferred_chunks")
    if not stored or not variable.ndim:
        return
    first = variable.dims[0]
    count = -(-variable.shape[0] // stored[first])
    size = math.prod(stored.values()) * variable.dtype.itemsize
    run = max(1, min(count // _PIECES, _PIECE_CHUNKS, _PIECE_BYTES // size))
    variable.encoding["preferred_chunks"] = {**stored, first: run * stored[first]}


def _chunked(dataset: xr.Dataset) -> xr.Dataset:
    """Convert lazy arrays to dask arrays, as `chunks={}` would."""
    token = uuid.uuid4().hex
    return dataset.assign(
        {
            name: array.variable.chunk(
                array.encoding.get("preferred_chunks", {}), name=f"{name}-{token}"
            )
            for name, array in dataset.data_vars.items()
        }
    )


def _attributes(store: Store, dataset: xr.Dataset, status: Status) -> dict[str, Any]:
    """Return where the data comes from, as texts and numbers, which netCDF attributes can hold."""
    record = store.record
    tensor = dataset["jacobian"].attrs if "jacobian" in dataset else {}
    known = {
        "title": "Jacobian of a network at each column of its input",
        # The tensor's own formula fits the kind of network
        "formula": tensor.get("formula", "jacobian[k,i,j] = ∂Y[i,k] / ∂X[j,k]"),
        "scaled": dataset.attrs.get("scaled"),
        "state": status.state,
        "incomplete": (
            None if status.state == "complete" else f"{status.progress}; missing values read as NaN"
        ),
        "created": record.created,
        "finished": record.finished,
        "job": yaml.safe_dump(record.job.model_dump(mode="json"), sort_keys=False),
        "network_fingerprint": record.network.fingerprint,
        "input_fingerprint": record.input.fingerprint,
        "input_columns_not_finite": record.nonfinite,
        "result_columns_not_finite": record.nonfinite_results,
        "coordinates_left_out": "; ".join(record.labels.left_out) or None,
        "versions": ", ".join(f"{name} {number}" for name, number in record.versions.items()),
    }
    # YAML has escaped its texts, and its line breaks must stay
    return {
        key: visible(value) if isinstance(value, str) and key != "job" else value
        for key, value in known.items()
        if value is not None
    }
