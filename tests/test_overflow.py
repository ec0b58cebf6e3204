"""Results that leave the range of their type, of an X that is finite: counted, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import colonnade as cn
from colonnade import Network
from colonnade.compute.kernel import Kernel
from colonnade.events import BlockDone, RunFinished
from colonnade.progress import describe, measuring
from colonnade.reporting.summary import summarise
from colonnade.store import KEY, Store
from support import N, P, Q, make_chain, make_columns, make_network, save_network

pytestmark = pytest.mark.shared_cluster

# Blocks have 13 columns
LARGE = (0, 12, 13, 57, P - 1)
BLOCKS = {0: 2, 1: 1, 4: 1, 7: 1}


@pytest.fixture
def make(job, tmp_path):
    """Make a job of which the columns `LARGE`, and no others, have a Jacobian of 7e38."""
    network = make_network(activation="softplus")
    W1, b1, W2, b2 = (network.arrays[name].copy() for name in ("W1", "b1", "W2", "b2"))
    # σ′ is near 0 where z is near −100, and 1 where it is near 100
    W1[:, 0], b1[:], W2[...] = 1, -100, 1e38
    X = make_columns()
    X[0] = 0
    X[0, list(LARGE)] = 200
    save_network(tmp_path / "network.npz", Network(W1, b1, W2, b2, "softplus"))
    np.save(tmp_path / "X.npy", X)

    def make_job(**given: Any) -> dict[str, Any]:
        network = {"activation": "softplus"} | given.pop("network", {})
        return job(network=network, **given)

    return make_job


def changed_columns(jacobian: np.ndarray) -> list[int]:
    return np.flatnonzero(~np.isfinite(jacobian).all(axis=(1, 2))).tolist()


def test_they_are_counted_and_told(make, tmp_path) -> None:
    events: list[Any] = []
    with measuring(str(tmp_path / "metrics.prom"), "test", events.append) as listener:
        finished = cn.run(make(), listener=listener)
    ds = cn.open(finished.store)
    assert changed_columns(ds.jacobian.values) == list(LARGE)
    counts = {e.block: e.nonfinite_results for e in events if isinstance(e, BlockDone)}
    assert {block: count for block, count in counts.items() if count} == BLOCKS
    assert {b: n for b, n in enumerate(ds.nonfinite_results.values.tolist()) if n} == BLOCKS
    assert (finished.nonfinite, finished.nonfinite_results) == (0, len(LARGE))
    # Where they are few, the mean may be finite all the same
    assert finished.nonfinite_statistics == ()
    assert describe(finished).endswith("; results of 5 columns not finite")
    store = Store.open(finished.store)
    status = store.status()
    assert "; results of 5 columns are not finite\n" in str(status)
    said = json.loads(json.dumps(status.as_dict()))
    assert (said["nonfinite"], said["nonfinite_results"]) == (0, len(LARGE))
    assert said["nonfinite_statistics"] == []
    warnings = " ".join(summarise(finished.store).warnings)
    assert "Results of 5 columns are NaN or infinite." in warnings
    assert 'colonnade_nonfinite_result_columns{name="test"} 5.0' in (
        (tmp_path / "metrics.prom").read_text()
    )
    again = cn.run(make())
    assert (again.blocks_computed, again.nonfinite_results) == (0, len(LARGE))
    # As is right after a resumption
    for block in (0, 3):
        (Path(finished.store) / "jacobian" / f"c.{block}.0.0").unlink()
    again = cn.run(make())
    assert (again.blocks_computed, again.nonfinite_results) == (2, len(LARGE))


@pytest.mark.parametrize(
    ("output", "count"),
    [
        ({"products": ["value"]}, 5),
        ({"products": ["norm"]}, 5),
        ({"products": ["spectral_norm"]}, 5),
        ({"products": ["mean_abs"]}, 5),
        ({"products": ["jacobian"], "significant_bits": 3, "compression": "lz4"}, 5),
        # What is stored is finite; the tensor that a reader makes of it is not
        ({"products": ["jacobian"], "layout": "factored"}, 0),
        ({"products": ["jacobian"], "dtype": "float64"}, 0),
        ({"products": ["gram"]}, 0),
    ],
)
def test_whatever_is_stored(make, output, count) -> None:
    output = {"block_size": "auto", "chunk_size": "auto"} | output
    finished = cn.run(make(output=output))
    assert finished.nonfinite_results == count
    overflowed = {
        "mean_abs": ("mean_abs",),
        "gram": ("gram",),
        "spectral_norm": ("spectral_norm_max",),
    }
    assert finished.nonfinite_statistics == overflowed.get(output["products"][0], ())


def test_z_that_leaves_the_range(job, tmp_path) -> None:
    """It is infinite, or NaN, as the BLAS has it: so are the slopes of sin NaN.

    Also where no array has a row for the column.
    """
    arrays = {
        "W1": np.full((1, 2), 1e30, "f4"), "b1": np.zeros(1, "f4"),
        "W2": np.ones((1, 1), "f4"), "b2": np.zeros(1, "f4"),
    }  # fmt: skip
    save_network(tmp_path / "network.npz", Network(**arrays, activation="sin"))
    X = np.zeros((2, 23), "f4")
    X[:, [3, 17]] = [[1e10], [-1e10]]
    np.save(tmp_path / "X.npy", X)
    for products in (["jacobian"], ["mean"], ["gram", "norm"]):
        output = {"path": str(tmp_path / f"{products[0]}.zarr"), "products": products}
        finished = cn.run(job(network={"activation": "sin"}, output=output))
        assert (finished.nonfinite, finished.nonfinite_results) == (0, 2), products
        if products != ["jacobian"]:
            assert finished.nonfinite_statistics == (products[0],)
            assert describe(finished).endswith(f"of 2 columns not finite; {products[0]} not finite")
            status = Store.open(finished.store).status()
            assert f"columns are not finite; {products[0]} is not finite\n" in str(status)
            assert f"not finite: {products[0]}." in " ".join(summarise(finished.store).warnings)


def test_a_sum_that_leaves_the_range(job, tmp_path) -> None:
    """Where none of its terms does: one column at the least is counted."""
    network = make_network(dtype=np.float64)
    large = Network(network.W1, network.b1, network.W2 * 1e200, network.b2, "tanh")
    save_network(tmp_path / "network.npz", large)
    finished = cn.run(job(output={"products": ["gram"], "dtype": "float64"}))
    assert finished.nonfinite_results == Store.open(finished.store).grid.blocks
    assert finished.nonfinite_statistics == ("gram",)


def test_a_tensor_made_of_slopes(make, tmp_path) -> None:
    slopes = cn.run(make(output={"layout": "factored", "products": ["jacobian"]}))
    assert slopes.nonfinite_results == 0
    dense = cn.materialize(slopes.store, tmp_path / "dense.zarr", trust=True)
    assert dense.nonfinite_results == len(LARGE)


def test_a_count_that_is_damaged_or_gone_is_repaired(make) -> None:
    store = Path(cn.run(make()).store)
    (store / "nonfinite_results" / "c.0").unlink()
    (store / "nonfinite_results" / "c.1").write_bytes(bytes(12))
    found = {(f.array, f.block) for f in cn.verify(store, columns=P).failures}
    assert {("nonfinite_results", 0), ("nonfinite_results", 1)} <= found
    finished = cn.run(make(), repair=True)
    assert finished.nonfinite_results == len(LARGE)
    found = {f.array for f in cn.verify(store, columns=P).failures}
    assert "nonfinite_results" not in found


def test_a_store_from_before_they_were_counted(job, tmp_path) -> None:
    """It is read, verified, resumed and made longer as ever; its count is not known."""
    store = Path(cn.run(job()).store)
    document = json.loads((store / "zarr.json").read_text())
    for key in ("counts_results", "nonfinite_results", "nonfinite_statistics"):
        del document["attributes"][KEY][key]
    (store / "zarr.json").write_text(json.dumps(document))
    for path in sorted((store / "nonfinite_results").rglob("*"), reverse=True):
        path.unlink()
    (store / "nonfinite_results").rmdir()
    assert Store.open(store).status().as_dict()["nonfinite_results"] is None
    assert "nonfinite_results" not in cn.open(store)
    assert cn.verify(store).sound
    assert cn.run(job()).blocks_computed == 0
    np.save(
        tmp_path / "X.npy", np.concatenate([make_columns(), np.full((N, 7), 3e38, "f4")], axis=1)
    )
    (store / "norm" / "c.2").unlink()
    events: list[Any] = []
    finished = cn.run(job(), listener=events.append)
    assert (finished.state, finished.columns_new) == ("complete", 7)
    assert Store.open(store).status().as_dict()["nonfinite_results"] is None
    # Those of this run are known
    counts = [event.nonfinite_results for event in events if isinstance(event, BlockDone)]
    assert finished.nonfinite_results == sum(counts)
    assert isinstance(events[-1], RunFinished)
    assert not (store / "nonfinite_results").exists()


@given(st.floats(-25, 25), st.floats(-25, 25), st.sampled_from(["f4", "f8"]), st.integers(0, 3))
def test_the_bound_is_one(weights: float, slopes: float, dtype: str, network: int) -> None:
    """What is said to be finite is, and so is all that is made on the way there."""
    made = [
        make_chain((N, Q), []), make_network(), make_chain((N, 7, 11, 2, Q)),
        make_chain((N, 7, 11, Q), ["softmax", "tanh"]),
    ][network]  # fmt: skip
    scale = 10.0 ** (weights * (1 if dtype == "f4" else 8))
    layers = [(layer.W.astype(dtype) * scale, layer.b.astype(dtype)) for layer in made.layers]
    kernel = Kernel(Network.chain(layers, list(made.activations)), dtype, dtype, 13)
    rng = np.random.default_rng(0)
    S = rng.standard_normal((kernel.numbers, 13)) * 10.0 ** (slopes * (1 if dtype == "f4" else 8))
    finite, all_finite = kernel.surely_finite(S.astype(dtype))
    assert finite
    if all_finite:
        with np.errstate(over="raise", invalid="raise"):
            assert np.isfinite(kernel.blocks(S.astype(dtype))).all()
    if max(abs(weights), abs(slopes)) < 2:
        assert all_finite
    S[0, 5] = np.nan
    assert kernel.surely_finite(S.astype(dtype)) == (False, False)
