"""The contents of a report: read from a store, or estimated from some of its columns."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import visible
from colonnade.formatting import counted
from colonnade.limits import REPORT_NORMS, REPORT_SAMPLE_BYTES
from colonnade.reading import open as open_store
from colonnade.storage.locations import Options
from colonnade.store import Status, Store

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Part", "Summary", "summarise"]

# Sampled columns: runs of neighbours, because neighbours share chunks
_RUNS, _NEIGHBOURS = 16, 64
# Columns shown, those with the largest norms
_LARGEST = 6


@dataclass(frozen=True)
class Part:
    """An array of the report; `sampled` columns gave an estimate, None the exact numbers."""

    values: NDArray[Any]
    sampled: int | None = None


@dataclass(frozen=True)
class Summary:
    """What a report shows of a store.

    Attributes
    ----------
    outputs, inputs
        Their names, or numbers.
    mean, mean_abs
        (q, n).
    norms
        ‖J_k‖_F, (columns,).
    spectrum
        Eigenvalues of mean JᵀJ, descending, (n,).
    direction
        Eigenvector of the largest one, (n,): the input direction that moves the outputs most.
    largest
        Columns with the largest norms, each with its label, its norm and its block (q, n).
    searched
        Number of columns that were searched for them; None for all.
    warnings
        One text each.
    """

    status: Status
    outputs: list[str]
    inputs: list[str]
    mean: Part | None
    mean_abs: Part | None
    norms: Part | None
    spectrum: Part | None
    direction: NDArray[Any] | None
    largest: list[tuple[str, float, NDArray[Any]]]
    searched: int | None
    warnings: list[str]


def summarise(path: str | Path, storage_options: Options = None) -> Summary:
    """Read what a report shows of a store.

    Raises
    ------
    StoreError
        There is no store of colonnade at the path, or it cannot be read.
    """
    status = Store.open(path, storage_options).status()
    dataset = open_store(path, incomplete=True, storage_options=storage_options)
    sample = _sample(dataset)
    mean = _stored(dataset, "mean") or _over(sample, lambda T: np.nanmean(T, axis=0))
    mean_abs = _stored(dataset, "mean_abs") or _over(
        sample, lambda T: np.nanmean(np.abs(T), axis=0)
    )
    norms = _norms(dataset) or _over(sample, lambda T: np.sqrt(np.sum(T * T, axis=(1, 2))))
    spectrum, direction = _spectrum(_stored(dataset, "gram") or _over(sample, _gram))
    largest, searched = _largest(dataset, sample)
    found = Summary(
        status=status,
        outputs=_names(dataset, "output", status.record.network.outputs),
        inputs=_names(dataset, "input", status.record.network.inputs),
        mean=mean,
        mean_abs=mean_abs,
        norms=norms,
        spectrum=spectrum,
        direction=direction,
        largest=largest,
        searched=searched,
        warnings=[],
    )
    found.warnings.extend(_warnings(found))
    return found


def _names(dataset: xr.Dataset, dimension: Hashable, size: int) -> list[str]:
    if dimension in dataset.coords:
        return [visible(str(name)) for name in dataset.coords[dimension].values]
    return [str(i) for i in range(size)]


def _stored(dataset: xr.Dataset, name: str) -> Part | None:
    if name not in dataset:
        return None
    values = dataset[name].values
    # All NaN: not written yet, because the store is not finished
    return None if np.isnan(values).all() else Part(values.astype(np.float64))


@dataclass(frozen=True)
class _Sample:
    columns: NDArray[np.int64]
    blocks: NDArray[np.float64]


def _sample(dataset: xr.Dataset) -> _Sample | None:
    """Read the blocks of columns spread over the tensor; keep the finite ones."""
    if "jacobian" not in dataset:
        return None
    J = dataset.jacobian
    p, q, n = J.shape
    neighbours = max(1, min(_NEIGHBOURS, REPORT_SAMPLE_BYTES // (_RUNS * q * n * 8)))
    starts = {*np.linspace(0, max(0, p - neighbours), _RUNS, dtype=int).tolist()}
    columns = np.unique([k for s in starts for k in range(s, min(s + neighbours, p))])
    blocks = np.concatenate(
        [
            J.isel(column=slice(int(run[0]), int(run[-1]) + 1)).values
            for run in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
        ]
    ).astype(np.float64)
    finite = np.isfinite(blocks).all(axis=(1, 2))
    return _Sample(columns[finite], blocks[finite]) if finite.any() else None


def _over(sample: _Sample | None, of: Any) -> Part | None:
    return None if sample is None else Part(of(sample.blocks), len(sample.columns))


def _gram(T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of JᵀJ over the columns of T (B, q, n): (n, n)."""
    flat = T.reshape(-1, T.shape[2])
    gram: NDArray[np.float64] = flat.T @ flat / len(T)
    return gram


def _spectrum(gram: Part | None) -> tuple[Part | None, NDArray[Any] | None]:
    if gram is None or not np.isfinite(gram.values).all():
        return None, None
    values, vectors = np.linalg.eigh(gram.values)
    direction = vectors[:, -1]
    direction = direction * np.sign(direction[np.argmax(np.abs(direction))])
    return Part(np.maximum(values[::-1], 0), gram.sampled), direction


def _norms(dataset: xr.Dataset) -> Part | None:
    if "norm" not in dataset:
        return None
    norm = dataset.norm
    p = norm.sizes["column"]
    if p <= REPORT_NORMS:
        return Part(norm.values.astype(np.float64))
    piece = REPORT_NORMS // 64
    starts = np.linspace(0, p - piece, 64, dtype=int)
    read = [norm.isel(column=slice(int(s), int(s) + piece)).values for s in starts]
    return Part(np.concatenate(read).astype(np.float64), 64 * piece)


def _largest(
    dataset: xr.Dataset, sample: _Sample | None
) -> tuple[list[tuple[str, float, NDArray[Any]]], int | None]:
    """Find the columns with the largest norms; also return how many were searched, None for all."""
    if sample is None:
        return [], None
    labelled = "column" in dataset.coords

    def label(k: int) -> str:
        return f"column {k:,}" + (f": {dataset.column[k].values}" if labelled else "")

    if "norm" not in dataset or dataset.norm.sizes["column"] > REPORT_NORMS:
        norms = np.sqrt(np.sum(sample.blocks**2, axis=(1, 2)))
        order = np.argsort(norms)[::-1][:_LARGEST]
        found = [(label(int(sample.columns[i])), float(norms[i]), sample.blocks[i]) for i in order]
        return found, len(sample.columns)
    norms = dataset.norm.values.astype(np.float64)
    finite = np.where(np.isfinite(norms), norms, -1.0)
    order = np.argsort(finite)[::-1][:_LARGEST]
    found = [
        (label(int(k)), float(norms[k]), dataset.jacobian.isel(column=int(k)).values)
        for k in order
        if finite[k] >= 0
    ]
    return found, None


def _warnings(found: Summary) -> list[str]:
    status, record = found.status, found.status.record
    warnings = []
    if status.state != "complete":
        warnings.append(
            f"The store is incomplete: {status.progress}. The page leaves out what is missing."
        )
    if record.nonfinite:
        warnings.append(
            f"NaN or infinite values are in {counted(record.nonfinite, 'column')} of X. The "
            "results there are NaN or limits of σ′, and means over all columns may be NaN too."
        )
    if record.nonfinite_results:
        warnings.append(
            f"Results of {counted(record.nonfinite_results, 'column')} are NaN or infinite. Where "
            f"X is finite, the results exceed the range of {record.job.output.dtype}."
        )
    if record.nonfinite_statistics:
        names = ", ".join(record.nonfinite_statistics)
        warnings.append(f"Statistics over all columns with values that are not finite: {names}.")
    touched = [run.started for run in record.runs if run.touched]
    if touched:
        warnings.append(
            f"X was written to during the run of {touched[-1]}. The columns in its fingerprint did "
            "not change, but others may have."
        )
    failed = record.runs[-1].failed if record.runs else 0
    if failed:
        warnings.append(f"{counted(failed, 'block')} failed in the last run.")
    if found.norms is not None:
        finite = found.norms.values[np.isfinite(found.norms.values)]
        still = np.count_nonzero(finite == 0)
        if still:
            share = still / len(finite)
            warnings.append(
                f"The Jacobian is zero at {share:.2%} of the examined columns: σ is flat there."
            )
        if len(finite) and finite.max() > 100 * max(np.median(finite), np.finfo(float).tiny):
            warnings.append(
                "The largest norm is more than a hundred times the median: some columns lie far "
                "from the others, or near a kink of σ."
            )
    return warnings
