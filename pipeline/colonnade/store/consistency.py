"""Check that a store's arrays are those that its record describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import zarr

from colonnade.errors import StoreError, sanitize
from colonnade.grid import ArrayPlan, Grid, count_plan
from colonnade.store import arrays
from colonnade.store.metadata import KEY, REMEDY, why
from colonnade.store.record import Record

__all__ = ["array_plans", "check"]


def array_plans(record: Record, grid: Grid) -> tuple[ArrayPlan, ...]:
    """Plan the arrays of a store, except the weights, for a grid of its blocks."""
    return (*record.plans_in(grid), *(count_plan(name, grid) for name in record.counts))


def check(path: str, record: Record, array: Callable[[str], zarr.Array[Any]]) -> None:
    """Refuse a store whose arrays, opened by name with `array`, do not match its record.

    Raises
    ------
    StoreError
        An array does not match the record, or the record contradicts itself.
    """
    damaged = f"{path}: the store's attribute {KEY!r} is damaged"
    if record.input.columns != record.grid.columns:
        raise StoreError(f"{damaged}: input.columns and grid.columns differ. {REMEDY}")
    sizes = record.shapes
    problem = record.labels.problem({"input": sizes.n, "output": sizes.q})
    if problem:
        raise StoreError(f"{damaged}: its labels do not fit: {problem}. {REMEDY}")
    if record.arrays != tuple(p.name for p in array_plans(record, record.grid) if p.per_block):
        raise StoreError(f"{damaged}: its arrays are not those of its products. {REMEDY}")
    found = _problem(record, array)
    if found is not None:
        name, disagreement = found
        raise StoreError(
            f"{path}: the store is damaged: its array {name} {sanitize(disagreement, 300)}; its "
            f"attribute {KEY!r} describes another array. {REMEDY}"
        )


def _problem(record: Record, array: Callable[[str], zarr.Array[Any]]) -> tuple[str, str] | None:
    """Return the name of the first array that does not match, and how it differs."""
    grid = record.grid
    weights = arrays.weights_plans(
        record.network.sizes, "float64" if array("W1").dtype == np.float64 else "float32"
    )
    planned = [*array_plans(record, grid), *weights]
    # While a store grows, an array may still have its former shape
    earlier = {p.name: p for p in (array_plans(record, record.former) if record.former else ())}
    for plan in planned:
        found = array(plan.name)
        try:
            problem = arrays.disagreement(found, plan, record.job.output)
            before = earlier.get(plan.name)
            if problem and before and not arrays.disagreement(found, before, record.job.output):
                continue
        except NotImplementedError as error:  # chunks on an irregular grid
            problem = why(error)
        if problem:
            return plan.name, problem
    sizes = {"column": grid.columns, "input": record.shapes.n, "output": record.shapes.q}
    for dimension in record.labels.copied:
        try:
            found = array(dimension)
        # A run killed while it rewrites coordinates leaves none; the next run writes them
        except StoreError:
            continue
        problem = arrays.coordinate_disagreement(found, sizes[dimension])
        if problem:
            return dimension, problem
    return None
