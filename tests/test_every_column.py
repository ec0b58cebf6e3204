"""Every column at once: what is right never exceeds its bound, and what is wrong stands out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colonnade import Network
from colonnade.compute.products import PRODUCTS
from colonnade.network.activations import ACTIVATIONS, activation
from colonnade.store.rounding import round_mantissa
from colonnade.verification.comparing import Comparison
from colonnade.verification.deepreference import make_reference
from colonnade.verification.everycolumn import Usual, direction
from colonnade.verification.mixing import mixed, mixed_columns
from colonnade.verification.reference import Enclosure, Reference, excess
from colonnade.verification.stored import project
from support import make_chain, make_columns, make_network, results
from test_columnwise import CASES, DEEP
from test_reference import worst, worst_of_all

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def computed(network: Network, X: np.ndarray, dtype: str, names: Any = tuple(PRODUCTS)) -> Any:
    return results(network, X, dtype, names, "" if network.has_slopes else "blocks")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("sizes", "kinds"), DEEP, ids=str)
def test_no_false_alarm_in_deep_networks(sizes: Any, kinds: Any, dtype: str) -> None:
    network = make_chain(sizes, kinds, dtype)
    for scale in (1e-20, 1e-3, 1.0, 100.0, 1e6):
        X = (make_columns(sizes[0], 13, dtype) * np.dtype(dtype).type(scale)).astype(dtype)
        assert worst_of_all(network, X, dtype, computed(network, X, dtype)) <= 1
    X[0, 3], X[1, 5], X[0, 7] = np.nan, np.inf, np.finfo(dtype).max
    assert worst_of_all(network, X, dtype, computed(network, X, dtype)) <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("sizes", "kinds"), DEEP, ids=str)
def test_wrong_columns_of_deep_networks(sizes: Any, kinds: Any, dtype: str) -> None:
    """By their products alone, and with that no norms are compared."""
    network = make_chain(sizes, kinds, dtype)
    X = make_columns(sizes[0], 13, dtype)
    T = computed(network, X, dtype, [])["jacobian"]
    assert worst_of_all(network, X, dtype, {"jacobian": T}) <= 1
    for factor in (-1.0, 0.0, 1.05, np.nan, np.inf):
        wrong = T.copy()
        wrong[7] *= factor
        assert worst_of_all(network, X, dtype, {"jacobian": wrong}) > 1
    wrong = T.copy()
    wrong[6, 1, 0] *= -1
    assert worst_of_all(network, X, dtype, {"jacobian": wrong}) > 1


PRIMES = [1, 2, 3, 5, 7, 13, 31]


@settings(max_examples=40)
@given(data=st.data())
def test_no_false_alarm_in_any_network(data: Any) -> None:
    n, q = data.draw(st.sampled_from(PRIMES)), data.draw(st.sampled_from(PRIMES))
    m = data.draw(st.sampled_from([*PRIMES, 127, 2048]))
    name = data.draw(st.sampled_from(sorted(ACTIVATIONS)))
    types = st.sampled_from(["float32", "float64"])
    dtype, weights, x_dtype = data.draw(types), data.draw(types), data.draw(types)
    # Small ones, kinks exactly at 0 and 3, and saturated units
    scale = data.draw(st.sampled_from([0.0, 1e-6, 1.0, 3.0, 40.0, 1e4]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    W, U = rng.standard_normal((m, n)), rng.standard_normal((q, m))
    if data.draw(st.booleans()):
        W, b = np.round(W), np.zeros(m)
        X = scale * rng.integers(-3, 4, (n, 11))
    else:
        b, X = rng.standard_normal(m), scale * rng.standard_normal((n, 11))
    network = Network(
        W.astype(weights), b.astype(weights), U.astype(weights), np.zeros(q, weights), name
    )
    X = X.astype(x_dtype)
    assert worst_of_all(network, X, dtype, computed(network, X, dtype)) <= 1


@pytest.mark.parametrize("bits", [1, 7, 22])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cut_mantissas(bits: int, dtype: str) -> None:
    network, X = make_network(), make_columns(p=13)
    found = computed(network, X, dtype)
    round_mantissa(found["jacobian"], bits)
    assert worst_of_all(network, X, dtype, found, bits) <= 1
    found["jacobian"][7] *= -1
    del found["slope"]
    assert worst_of_all(network, X, dtype, found, bits) > 1


def test_they_agree_with_those_of_one_column() -> None:
    network, X = make_network(), make_columns(p=13)
    reference = Reference(network, X.dtype, "float32")
    v = direction(network.n, 0, 0)
    found = reference.columns(X, v, ("value", "norm", "spectral_norm")).arrays
    for k in range(13):
        one = reference.column(X[:, k])
        for name in ("slope", "value"):
            np.testing.assert_allclose(found[name].centre[k], one[name].centre, rtol=1e-12)
            np.testing.assert_allclose(found[name].radius[k], one[name].radius, rtol=1e-12)
        block, norm = one["jacobian"].centre, found["norm"].centre[k]
        np.testing.assert_allclose(found["jacobian"].centre[k], block @ v, rtol=1e-12)
        # The errors of one vector, and no more than each entry's
        assert (found["jacobian"].radius[k] < one["jacobian"].radius @ np.abs(v)).all()
        assert norm == pytest.approx(one["norm"].centre, rel=1e-12)
        assert found["norm"].radius[k] < 1e-3 * norm
        assert excess(one["spectral_norm"].centre, Enclosure(
            found["spectral_norm"].centre[k], found["spectral_norm"].radius[k])) <= 1  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_columns_are_mixed_as_one_is(case: Any) -> None:
    """What is done without forming σ′ is what the matrices give."""
    chosen = activation(**({"name": case} if isinstance(case, str) else case))
    rng = np.random.default_rng(3)
    z = rng.standard_normal((11, 5)) * np.array([0.01, 0.3, 1, 3, 9])
    delta, t = 1e-5 * rng.random((11, 5)), rng.standard_normal((11, 5))
    found = mixed_columns(chosen.name, chosen.parameters, z, delta, 1e-15)
    assert found is not None
    assert not found.unknown.any()
    for k in range(5):
        one = mixed(chosen.name, chosen.parameters, z[:, k], delta[:, k], 1e-15)
        np.testing.assert_allclose(found.value[:, k], one.value, rtol=1e-13)
        np.testing.assert_allclose(found.value_error[:, k], one.value_error, rtol=1e-9)
        size = np.abs(t)
        for product, matrix, vector in (
            (found.times(t), one.D, t[:, k]),
            (found.error_times(size), one.error, size[:, k]),
            (found.parts_times(size), one.parts, size[:, k]),
        ):
            expected = matrix @ vector
            tolerance = 1e-9 * np.abs(expected).max() if matrix is not one.D else 1e-13
            np.testing.assert_allclose(product[:, k], expected, rtol=1e-9, atol=tolerance)


def test_products_of_what_is_stored() -> None:
    rng = np.random.default_rng(0)
    T, v = rng.standard_normal((7, 13, 31)).astype(np.float32), direction(31, 0, 0)
    found = project(T, v, sizes=True, norms=True)
    wide = T.astype(np.float64)
    np.testing.assert_allclose(found.product, wide @ v, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.sizes, np.abs(wide) @ np.abs(v), rtol=1e-12)
    np.testing.assert_allclose(found.norm, np.linalg.norm(wide, axis=(1, 2)), rtol=1e-12)


def test_what_stands_out() -> None:
    usual = Usual()
    error = np.full(101, 1e-3)
    error[[3, 50]] = 0.02, 0.5
    error[7] = np.nan
    assert usual.doubts(error) == [50, 3]
    # A block that is wrong as a whole stands out from those before
    assert len(usual.doubts(np.full(11, 0.1))) == 11
    assert usual.doubts(np.full(11, 1e-3)) == []


def test_columns_that_lie_together_are_named_together() -> None:
    comparison = Comparison()
    stored, right = np.ones((101, 3)), Enclosure(np.ones((101, 3)), np.full((101, 3), 1e-6))
    stored[[5, 6, 7, 40], 1] = 2, 3, 2, np.nan
    comparison.rows("value", 1000, stored, right)
    first, second = comparison.failures(9)
    assert (first.start, first.stop, first.block) == (1005, 1008, 9)
    assert first.cause == "column 1006, entry [1] is 3, but must be 1 ± 1e-06"
    assert (second.start, second.stop) == (1040, 1041)
    comparison.rows("value", 1000, np.where(np.arange(101)[:, None] % 2, stored, 7), right)
    (all_of_them,) = comparison.failures(9)
    assert (all_of_them.start, all_of_them.stop) == (1000, 1101)
    assert all_of_them.cause.startswith("53 of these columns are wrong; column 10")


@pytest.mark.parametrize("bits", [None, 7])
@pytest.mark.parametrize("deep", [False, True])
def test_what_overflows_must_not_be_finite(deep: bool, bits: int | None) -> None:
    """J = 1e60 in float32: an infinity is right, and a finite number is wrong."""
    one = ([[1e30]], None)
    layers = [one, one, ([[1.0]], None)] if deep else [one, one]
    network = Network.chain(layers, "identity")
    X = np.full((1, 3), 1e-30, np.float32)
    found = computed(network, X, "float32", ["norm", "mean"])
    assert np.isinf(found["jacobian"]).all()
    reference = make_reference(network, X.dtype, "float32", bits)
    expected = reference.column(X[:, 0])
    for name in ("jacobian", "norm"):
        assert excess(found[name][0], expected[name]).max() <= 1
        for wrong in (0.0, 1.0, np.finfo(np.float32).max):
            stored = np.full_like(found[name][0], wrong)
            assert excess(stored, expected[name]).min() == np.inf, (name, wrong)
    assert worst_of_all(network, X, "float32", found, bits) <= 1


def test_the_largest_numbers_of_float32_do_not_alarm() -> None:
    for size in (1e18, 9e18, 1.8e19, 1.85e19, 1e20, 1e25):
        rng = np.random.default_rng(2)
        W, U = (size * rng.uniform(0.2, 1, shape) for shape in ((7, 5), (3, 7)))
        network = Network(W.astype("f4"), None, U.astype("f4"), None, "identity")
        X = (make_columns(p=11) / np.float32(size)).astype(np.float32)
        found = computed(network, X, "float32")
        assert worst_of_all(network, X, "float32", found) <= 1
        found = {name: found[name] for name in ("jacobian", "norm", "value", "spectral_norm")}
        assert worst(network, X, "float32", found) <= 1
