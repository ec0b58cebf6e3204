"""Open a store for analysis: an xarray Dataset, lazy and labelled."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from colonnade.errors import IncompleteError, StoreError, reason
from colonnade.locations import Options
from colonnade.recovered import recovered
from colonnade.store import Store

__all__ = ["open"]


def open(  # noqa: A001
    path: str | Path,
    *,
    incomplete: bool = False,
    storage_options: Options = None,
) -> xr.Dataset:
    """Open a store as a lazy Dataset whose dask chunks follow the store's.

    Parameters
    ----------
    path
        The store.
    incomplete
        Open it even if it is not finished: its attribute `incomplete` says how far it is, and
        what is missing reads as NaN.
    storage_options
        Of the object store, as in a job.

    Raises
    ------
    IncompleteError
        Blocks are missing, and `incomplete` is not set; or the store is just growing.
    StoreError
        There is no store of colonnade at the path.
    """
    store = Store.open(path, storage_options)
    status = store.status()
    whole = status.state == "complete"
    if not whole and not incomplete:
        held = status.holder
        remedy = (
            f"It is being written by {held}: wait for its end"
            if held is not None and not held.is_gone
            else "Finish it with the command that made it (colonnade run)"
        )
        raise IncompleteError(
            f"{path} is not whole: {status.progress} and it is {status.state}; what is missing "
            f"reads as NaN. {remedy}, or open it as it is with incomplete=True."
        )
    store.record.require_shapes()
    try:
        dataset: xr.Dataset = xr.open_zarr(store.place.zarr(), consolidated=False)
    # xarray decodes attributes too, and raises whatever damaged ones happen to break
    except Exception as error:
        raise StoreError(f"{path}: xarray cannot open this store: {reason(error)}") from error
    if "slope" in dataset:
        # With the chunks that it prefers
        dataset = dataset.assign(jacobian=recovered(store)).chunk()
    if not whole:
        dataset.attrs["incomplete"] = f"{status.progress}; what is missing reads as NaN"
    return dataset
