"""Stores that an earlier version made are read, verified and finished.

`data/stores-0.1.zip` holds three of the network and the X of `support`, in blocks of 13 columns:
two are complete, one of them factored; the run of the third was killed, and two blocks are missing.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import colonnade as cn
from colonnade.store import Store
from support import bits

PRODUCTS = ["jacobian", "value", "mean", "gram", "norm"]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    folder = tmp_path / "earlier"
    with zipfile.ZipFile(Path(__file__).parent / "data" / "stores-0.1.zip") as archive:
        archive.extractall(folder)
    return folder


def again(job: Any, path: Path, **output: Any) -> dict[str, Any]:
    """The job of such a store."""
    output = {"path": str(path), "block_size": 13 * 3 * 5 * 4, "products": PRODUCTS} | output
    made: dict[str, Any] = job(network={"output_names": ["rain", "snow", "hail"]}, output=output)
    return made


def test_what_is_complete_is_read(job, earlier: Path, tmp_path: Path) -> None:
    made = cn.run(again(job, tmp_path / "new.zarr"))
    assert made.blocks_computed == made.blocks
    new, old = cn.open(tmp_path / "new.zarr"), cn.open(earlier / "complete.zarr")
    # What has been added since then
    assert [name for name in new if name not in old] == ["nonfinite_results"]
    for name in (*old.data_vars, *old.coords):
        np.testing.assert_array_equal(new[name], old[name], err_msg=name)
    dense, factored = old.jacobian, cn.open(earlier / "factored.zarr").jacobian
    np.testing.assert_array_equal(dense, factored)
    status = Store.open(earlier / "complete.zarr").status()
    assert (status.state, status.record.nonfinite_results) == ("complete", None)


@pytest.mark.parametrize(("name", "array"), [("complete", "jacobian"), ("factored", "slope")])
def test_it_is_verified_and_repaired(job, earlier: Path, name: str, array: str) -> None:
    """With the job's X: the one that the store names is not here."""
    store = earlier / f"{name}.zarr"
    layout = {"layout": "factored", "products": ["jacobian"]} if name == "factored" else {}
    document = again(job, store, **layout)
    before = bits(store)
    assert cn.run(document, repair=True).blocks_computed == 0
    assert bits(store) == before
    # A wrong number with a right checksum
    zarr.open_array(store / array, mode="r+")[17] *= -1
    assert bits(store) != before
    assert cn.run(document, repair=True).blocks_computed == 1
    assert bits(store) == before


def test_what_is_not_is_finished(job, earlier: Path) -> None:
    status = Store.open(earlier / "partial.zarr").status()
    assert (status.state, status.missing) == ("writing", (3, 6))
    made = cn.run(again(job, earlier / "partial.zarr"))
    assert (made.state, made.blocks_computed) == ("complete", 2)
    assert bits(earlier / "partial.zarr") == bits(earlier / "complete.zarr")
