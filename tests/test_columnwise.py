"""σ that mix a column's entries: against their definitions in 40 digits, and in networks."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np
import pytest

import colonnade as cn
from colonnade.errors import UsageError
from colonnade.network.activations import COLUMNWISE, activation
from colonnade.network.activations.formulas import LowRank
from colonnade.verification.deepreference import make_reference
from colonnade.verification.mixing import mixed
from colonnade.verification.reference import excess
from support import make_chain, make_columns
from test_activations import DIGITS

DTYPES = (np.float32, np.float64)


def softmax(z: list[Any]) -> list[Any]:
    e = [mp.exp(x) for x in z]
    return [x / sum(e) for x in e]


def layer_norm(z: list[Any], eps: Any) -> list[Any]:
    mean = sum(z) / len(z)
    std = mp.sqrt(sum((x - mean) ** 2 for x in z) / len(z) + eps)
    return [(x - mean) / std for x in z]


def l2_normalize(z: list[Any], eps: Any) -> list[Any]:
    length = max(mp.sqrt(sum(x * x for x in z)), eps)
    return [x / length for x in z]


REFERENCE = {
    "l2_normalize": l2_normalize,
    "layer_norm": layer_norm,
    "log_softmax": lambda z: [x - mp.log(sum(mp.exp(y) for y in z)) for x in z],
    "softmax": softmax,
}


def derivative(name: str, z: list[Any], y: list[Any], i: int, j: int, eps: Any = None) -> Any:
    """∂y_i/∂z_j."""
    if name == "softmax":
        return y[i] * ((i == j) - y[j])
    if name == "log_softmax":
        return (i == j) - mp.exp(y[j])
    if name == "l2_normalize":
        length = mp.sqrt(sum(x * x for x in z))
        return ((i == j) - y[i] * y[j]) / length if length > eps else (i == j) / eps
    m, mean = len(z), sum(z) / len(z)
    std = mp.sqrt(sum((x - mean) ** 2 for x in z) / m + eps)
    return ((i == j) - mp.mpf(1) / m - y[i] * y[j] / m) / std


# Worst error allowed of σ, and of an entry of σ′ against the parts that it is a sum of, in units of
# eps: as often as entries are summed or differences of large ones are taken
BOUND = 12


def columns(dtype: Any) -> np.ndarray:
    """Of all magnitudes; large and alike; with ties, zeros and what would overflow."""
    rng = np.random.default_rng(4)
    f = np.finfo(dtype)
    scales = np.array([1e-20, 1e-6, 1e-3, 0.1, 1, 3, 30, 1e3, 1e10])
    usual = rng.standard_normal((7, len(scales))) * scales
    alike = 4096 + rng.standard_normal((7, 3)) * [1e-2, 1, 100]
    edges = np.zeros((7, 4))
    edges[:, 1] = 5
    edges[0, 2] = 50
    edges[3, 3], edges[4, 3] = f.max / 4, -f.max / 8
    return np.concatenate([usual, alike, edges], axis=1).astype(dtype)


def test_the_table_is_complete() -> None:
    assert set(REFERENCE) == set(COLUMNWISE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COLUMNWISE)
def test_accuracy(name: str, dtype: Any) -> None:
    chosen, z = activation(name), columns(dtype)
    with np.errstate(all="raise"):
        value, slope = chosen.value(z), chosen.slope(z)
    assert isinstance(slope, LowRank)
    assert {part.dtype for part in (value, *slope)} == {np.dtype(dtype)}
    eps = float(np.finfo(dtype).eps)
    d, A, B = (part.astype(object) for part in slope)
    with mp.workdps(DIGITS):
        given = {k: mp.mpf(float(v)) for k, v in chosen.parameters.items()}
        for k in range(z.shape[1]):
            exact = [mp.mpf(float(x)) for x in z[:, k]]
            y = REFERENCE[name](exact, **given)
            # What rounding z by half an ulp would do as well
            reach = max(abs(x) for x in exact) if name != "l2_normalize" else 0
            for i in range(7):
                for j in range(7):
                    true = derivative(name, exact, y, i, j, **given)
                    terms = [
                        mp.mpf(float(a * b)) for a, b in zip(A[:, i, k], B[:, j, k], strict=True)
                    ]
                    terms += [mp.mpf(float(d[i, k]))] * (i == j)
                    size = sum(abs(term) for term in terms) + abs(true)
                    allowed = BOUND * eps * (1 + reach) * size + float(np.finfo(dtype).tiny)
                    assert abs(sum(terms) - true) <= allowed, (k, i, j)
            for i in range(7):
                moves = 1 + min(abs(y[i]), 1) * reach + reach * (name == "log_softmax")
                if name == "layer_norm":
                    moves += reach / max(mp.sqrt(given["eps"]), reach / 1e4)
                assert abs(mp.mpf(float(value[i, k])) - y[i]) <= BOUND * eps * moves, (k, i)


@pytest.mark.parametrize("name", COLUMNWISE)
def test_nan_and_shapes(name: str) -> None:
    chosen = activation(name)
    z = make_columns(7, 5)
    z[3, 2] = np.nan
    others = np.arange(5) != 2
    value, slope = chosen.value(z), chosen.slope(z)
    assert isinstance(slope, LowRank)
    assert np.isnan(value[:, 2]).all()
    assert np.isfinite(value[:, others]).all()
    whole = np.einsum("mk,ml->mlk", slope.d, np.eye(7)) + np.einsum("rmk,rlk->mlk", *slope[1:])
    assert np.isnan(whole[:, :, 2]).all()
    assert np.isfinite(whole[:, :, others]).all()
    np.testing.assert_array_equal(chosen.value(z[:, 0]), value[:, 0])
    np.testing.assert_array_equal(chosen.value(np.asfortranarray(z))[:, 0], value[:, 0])


def test_names_and_parameters() -> None:
    assert activation("LayerNorm") == activation("layer_norm", eps=1e-5)
    assert activation("LogSoftmax").columnwise
    with pytest.raises(UsageError, match="eps > 0"):
        activation("layer_norm", eps=0.0)


CASES = [*COLUMNWISE, {"name": "layer_norm", "eps": 0.5}, {"name": "l2_normalize", "eps": 1.5}]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_definitions_enclose_what_moves(case: Any) -> None:
    """σ and σ′ anywhere within δ of z lie where they are said to lie; and not much more does."""
    chosen = activation(**({"name": case} if isinstance(case, str) else case))
    rng = np.random.default_rng(3)
    for scale in (0.01, 1.0, 9.0):
        z = rng.standard_normal(11) * scale
        for reach in (1e-9, 1e-4):
            delta = reach * scale * rng.random(11)
            found = mixed(chosen.name, chosen.parameters, z, delta, 1e-15)
            assert (found.error <= 1e3 * reach * (found.parts.max() + 1) / min(scale, 1)).all()
            for _ in range(20):
                there = mixed(chosen.name, chosen.parameters, z + delta * rng.uniform(-1, 1, 11),
                              0 * delta, 1e-15)  # fmt: skip
                assert (np.abs(there.D - found.D) <= found.error).all()
                assert (np.abs(there.value - found.value) <= found.value_error).all()


DEEP = [((5, 7, 3), [c]) for c in CASES] + [
    ((5, 7, 11, 3), ["relu", "tanh"]), ((5, 7, 11, 13, 3), ["softmax", "gelu", "layer_norm"]),
    ((2, 31, 3), ["log_softmax"]), ((5, 3), []),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("sizes", "kinds"), DEEP, ids=str)
def test_bounds_hold_and_catch(sizes: Any, kinds: Any, dtype: str) -> None:
    """No false alarm, at any magnitude, and what is wrong by a hundredth is noticed."""
    network = make_chain(sizes, kinds, dtype)
    for scale in (1e-20, 1e-3, 1.0, 100.0, 1e6):
        X = (make_columns(sizes[0], 5, dtype) * np.dtype(dtype).type(scale)).astype(dtype)
        reference = make_reference(network, X.dtype, dtype)
        T, Y = cn.jacobian(network, X, dtype), cn.forward(network, X)
        for k in range(5):
            expected = reference.column(X[:, k])
            results = {"jacobian": T[k], "value": Y[:, k], "norm": np.linalg.norm(T[k])}
            for name, stored in results.items():
                assert excess(np.asarray(stored), expected[name]).max() <= 1, (scale, k, name)
            if scale == 1.0:
                wrong = T[k].copy()
                wrong[np.unravel_index(np.abs(wrong).argmax(), wrong.shape)] *= 1.01
                assert excess(wrong, expected["jacobian"]).max() > 1
    X[0, 0] = np.nan
    assert np.isnan(reference.column(X[:, 0])["jacobian"].centre).all()
