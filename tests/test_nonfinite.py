"""NaN and infinities in X: counted, told, kept from spreading, and refused where that is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import colonnade as cn
from colonnade.errors import IncompleteError, StoreError
from colonnade.events import BlockDone, BlockFailed
from colonnade.inputs.matrix import nonfinite
from colonnade.progress import describe
from colonnade.store import Store
from support import N, P, make_columns

pytestmark = pytest.mark.shared_cluster

# Column -> feature -> value; blocks have 13 columns
SPOILT = {0: {2: np.nan}, 12: {0: np.inf, 4: np.nan}, 13: {4: -np.inf}, P - 1: {3: np.nan}}
BLOCKS = {0: 2, 1: 1, 7: 1}


@pytest.fixture
def make(job, tmp_path):
    """Make a job whose X is spoilt."""
    X = make_columns()
    for k, values in SPOILT.items():
        for j, value in values.items():
            X[j, k] = value
    np.save(tmp_path / "spoilt.npy", X)

    def make_job(**given: Any) -> dict[str, Any]:
        return job(input={"path": str(tmp_path / "spoilt.npy"), **given})

    return make_job


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i4", "u1", "bool"])
def test_columns_that_are_not_finite(dtype) -> None:
    X = np.ones((N, P), dtype)
    assert not nonfinite(X).size
    if X.dtype.kind == "f":
        for k, values in SPOILT.items():
            for j, value in values.items():
                X[j, k] = value
        # Finite, though its sum is not
        X[:, 5] = np.finfo(dtype).max
        assert nonfinite(X).tolist() == list(SPOILT)
        assert nonfinite(X[:, 13:P]).tolist() == [0, P - 14]


def test_they_are_counted_and_the_others_are_as_ever(make, job, tmp_path) -> None:
    expected = cn.open(cn.run(make(path=str(tmp_path / "X.npy"))).store).load()
    assert Store.open(expected.encoding["source"]).record.nonfinite == 0
    job = make()
    job["output"]["path"] = str(tmp_path / "spoilt.zarr")
    events: list[Any] = []
    finished = cn.run(job, listener=events.append)
    counts = {e.block: e.nonfinite for e in events if isinstance(e, BlockDone) and e.nonfinite}
    assert counts == BLOCKS
    assert finished.nonfinite == len(SPOILT)
    # The fourth, an infinity, saturates σ
    counts = "; 4 columns of X not finite; results of 3 columns not finite; mean not finite"
    assert describe(finished).endswith(counts)
    status = Store.open(finished.store).status()
    assert status.as_dict()["nonfinite"] == len(SPOILT)
    assert "spoilt.npy; 4 columns are not finite\n" in str(status)
    ds = cn.open(finished.store)
    good = [k for k in range(P) if k not in SPOILT]
    for name in ("jacobian", "value", "norm"):
        np.testing.assert_array_equal(ds[name][good], expected[name][good])
    # An infinity may saturate an activation and leave no trace but in the count
    assert ds["value"][[0, 12, P - 1]].isnull().all()
    assert {b: n for b, n in enumerate(ds.nonfinite.values.tolist()) if n} == BLOCKS
    assert cn.verify(finished.store).sound
    again = cn.run(job)
    assert (again.blocks_computed, again.nonfinite) == (0, len(SPOILT))
    assert describe(again).endswith(f"nothing to compute{counts}")


def test_the_count_is_right_after_a_resumption(make) -> None:
    store = Path(cn.run(make()).store)
    for block in (0, 3):
        (store / "jacobian" / f"c.{block}.0.0").unlink()
    finished = cn.run(make())
    assert (finished.blocks_computed, finished.nonfinite) == (2, len(SPOILT))


def test_a_count_that_is_damaged_or_gone_is_repaired(make) -> None:
    store = Path(cn.run(make()).store)
    (store / "nonfinite" / "c.0").unlink()
    (store / "nonfinite" / "c.1").write_bytes(bytes(12))
    with pytest.raises(StoreError, match=r"nonfinite is damaged.*--repair"):
        Store.open(store).nonfinite()
    found = cn.verify(store, columns=P)
    assert {(failure.array, failure.block) for failure in found.failures} == {
        ("nonfinite", 0), ("nonfinite", 1)
    }  # fmt: skip
    finished = cn.run(make(), repair=True)
    assert (finished.blocks_computed, finished.nonfinite) == (2, len(SPOILT))
    assert cn.verify(store, columns=P).sound


def test_asked_to_fail_their_blocks_do_and_the_others_do_not(make, tmp_path) -> None:
    events: list[Any] = []
    with pytest.raises(IncompleteError) as caught:
        cn.run(make(nonfinite="fail"), listener=events.append)
    assert caught.value.exit_status == 3
    assert set(caught.value.failures) == set(BLOCKS)
    for block, (k, value, j) in {
        0: (0, "nan", 2),
        1: (13, "-inf", 4),
        7: (P - 1, "nan", 3),
    }.items():
        assert (
            f"column {k} of X has {value} as its feature {j}. Accept it"
            in (caught.value.failures[block])
        )
    assert str(caught.value).startswith(f"{tmp_path / 'out.zarr'} is incomplete: block 0")
    assert {e.block for e in events if isinstance(e, BlockFailed)} == set(BLOCKS)
    # The way that the message names
    finished = cn.run(make())
    assert (finished.blocks_computed, finished.nonfinite) == (len(BLOCKS), len(SPOILT))
    with pytest.raises(StoreError, match=r"4 columns of X that are not finite.*nonfinite: fail"):
        cn.run(make(nonfinite="fail"))
