"""The definitions in 40 digits; and the bounds, which nothing right exceeds and all wrong does."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np
import pytest

from colonnade import Network
from colonnade.network.activations import ACTIVATIONS, activation
from colonnade.store.rounding import round_mantissa
from colonnade.verification.blockwise import BlockSums
from colonnade.verification.deepreference import make_reference
from colonnade.verification.definitions import DEFINITIONS, sigma, slope_range
from colonnade.verification.everycolumn import EveryColumn, direction
from colonnade.verification.reference import Reference, excess
from support import make_columns, make_network, results
from test_activations import DIGITS, REFERENCE

EPS = float(np.finfo(np.float64).eps)
# fmt: off
CASES: list[dict[str, Any]] = [{"name": name} for name in ACTIVATIONS] + [
    {"name": "elu", "alpha": -2.5}, {"name": "elu", "alpha": 1e30},
    {"name": "celu", "alpha": 0.3}, {"name": "celu", "alpha": 1e-20},
    {"name": "softplus", "beta": 7.0}, {"name": "softplus", "beta": 1e20},
    {"name": "leaky_relu", "negative_slope": -0.5},
    {"name": "hardtanh", "min_val": -0.3, "max_val": 2.0},
]
# fmt: on


def told(given: Any) -> str:
    return "-".join(map(str, given.values())) if isinstance(given, dict) else given.__name__


every_case = pytest.mark.parametrize("case", CASES, ids=told)
MAGNITUDES = (1e-30, 1e-6, 0.01, 1.0, 10.0, 100.0, 1e6, 1e15, 1e30)


def test_every_activation_has_its_definition() -> None:
    assert set(DEFINITIONS) == set(ACTIVATIONS)


@every_case
def test_definitions_in_forty_digits(case: dict[str, Any]) -> None:
    """Off by a few ulp of the result, and of the argument."""
    parameters = dict(activation(**case).parameters)
    rng = np.random.default_rng(7)
    tiny = rng.normal(0, 1, 60) * 10 ** rng.uniform(-30, 5, 60)
    z = np.concatenate([rng.normal(0, 3, 60), rng.normal(0, 40, 60), tiny])
    values = sigma(case["name"], parameters, z)
    slopes = slope_range(case["name"], parameters, z, z)
    np.testing.assert_array_equal(*slopes)
    value, slope = REFERENCE[case["name"]]
    with mp.workdps(DIGITS + 20):
        step = mp.mpf(2) ** -60
        for at, v, s in zip(z, values, slopes[0], strict=True):
            x = mp.mpf(float(at))
            true, steep = mp.mpf(value(x, **parameters)), mp.mpf(slope(x, **parameters))
            turn = abs(mp.mpf(slope(x * (1 + step), **parameters)) - steep) / step
            assert abs(float(v) - true) <= 4 * EPS * (abs(true) + abs(steep * x)) + 1e-300
            assert abs(float(s) - steep) <= 4 * EPS * (abs(steep) + turn) + 1e-200


@every_case
def test_slopes_lie_in_their_range(case: dict[str, Any]) -> None:
    """And the range is no wider than that: its ends are slopes of the interval."""
    name, parameters = case["name"], dict(activation(**case).parameters)
    rng = np.random.default_rng(8)
    low = rng.normal(0, 4, 400)
    high = low + 10 ** rng.uniform(-6, 1, 400)
    least, most = slope_range(name, parameters, low, high)
    inside = low + (high - low) * np.linspace(0, 1, 2001)[:, None]
    slopes, _ = slope_range(name, parameters, inside, inside)
    margin = 8 * EPS * np.abs(slopes).max()
    assert (slopes >= least - margin).all()
    assert (slopes <= most + margin).all()
    # What a step of 1/2000 of the interval may miss at an extremum, or at the end of a kink's side
    missed = np.abs(np.diff(slopes, axis=0)).max(axis=0) + margin
    assert (least >= slopes.min(axis=0) - missed).all()
    assert (most <= slopes.max(axis=0) + missed).all()


def test_both_sides_of_a_kink_count_and_no_others() -> None:
    low, high = np.array([-1.0, 0.0, 0.25, -2.0]), np.array([1.0, 0.0, 0.5, -1e-300])
    least, most = slope_range("relu", {}, low, high)
    assert least.tolist() == [0, 0, 1, 0]
    assert most.tolist() == [1, 1, 1, 0]


OF_COLUMNS = ("jacobian", "slope", "value", "norm", "spectral_norm")


def computed(network: Network, X: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """A column's results each, as a task computes them."""
    found = results(network, X, dtype, ["norm", "spectral_norm"])
    return {name: found[name] for name in OF_COLUMNS}


def worst(network: Network, X: np.ndarray, dtype: str, results: dict[str, np.ndarray]) -> float:
    reference = Reference(network, X.dtype, dtype)
    largest = 0.0
    for k in range(X.shape[1]):
        expected = reference.column(X[:, k])
        largest = max(largest, *(excess(r[k], expected[name]).max() for name, r in results.items()))
    return largest


def worst_sum(network: Network, X: np.ndarray, dtype: str, found: dict[str, np.ndarray]) -> float:
    """The same of a block's statistics, and of what is made of them at the end."""
    reference = Reference(network, X.dtype, dtype)
    sums = BlockSums(reference, SUMS)
    for part in np.array_split(X, 2, axis=1):
        sums.add(part)
    enclosures = sums.enclosures()
    largest = max(excess(found[name][0], enclosures[name]).max() for name in SUMS)
    for name in ("mean", "mean_abs", "gram"):
        (total,) = found[f"{name}_blocks"]
        expected = reference.mean(total, np.abs(total), 1, X.shape[1])
        largest = max(largest, excess(found[name], expected).max())
    return float(largest)


def worst_of_all(
    network: Network,
    X: np.ndarray,
    dtype: str,
    found: dict[str, np.ndarray],
    bits: int | None = None,
) -> float:
    """The same of all columns at once, and of statistics by what they make of a vector."""
    reference = make_reference(network, X.dtype, dtype, bits)
    rows = {name: found[name] for name in ("value", "norm", "spectral_norm") if name in found}
    parts = {name: found[name][0] for name in SUMS if name in found}
    largest = 0.0
    for main in ("jacobian", "slope"):
        if main not in found or (main == "slope" and not network.has_slopes):
            continue
        v = direction(network.n, 3, 1)
        every = EveryColumn(reference, v, 0, X.shape[1], rows, parts, set(), lambda a, b: X[:, a:b])
        every.take(0, X.shape[1] // 3, main, found[main][: X.shape[1] // 3])
        every.take(X.shape[1] // 3, X.shape[1], main, found[main][X.shape[1] // 3 :])
        assert every.covered == X.shape[1]
        errors = every.comparison.errors
        assert errors.keys() == {main, *rows}
        compared = [(name, excess(part, e).max()) for name, part, e in every.parts()]
        known = {"jacobian": {*parts}, "slope": parts.keys() & {"mean_blocks", "gram_blocks"}}
        # Wrong blocks say nothing of sums
        if errors.get("jacobian", 0) <= 1:
            assert {name for name, _ in compared} == known[main]
        largest = max(largest, *errors.values(), *(error for _, error in compared))
    return float(largest)


STATISTICS = ("mean", "mean_abs", "max_abs", "gram")
SUMS = [f"{name}_blocks" for name in STATISTICS]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_case
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_false_alarm(case: dict[str, Any], dtype: str) -> None:
    """At any magnitude, for any types, on either side of kinks and at them, with NaN and inf."""
    rng = np.random.default_rng(5)
    for weights in (np.float32, np.float64):
        for n, m, q in ((5, 7, 3), (2, 31, 17), (17, 5, 2)):
            network = make_network(n, m, q, case, weights, seed=m)
            for x_dtype in (np.float32, np.float64, np.int16):
                kept = [size for size in MAGNITUDES if x_dtype != np.int16 or 1 <= size <= 1000]
                X = np.concatenate(
                    [rng.standard_normal((n, 3)) * size for size in kept], axis=1
                ).astype(x_dtype)  # fmt: skip
                X[:, 1] = 0
                if x_dtype != np.int16:
                    largest, tiny = np.finfo(x_dtype).max, np.finfo(x_dtype).tiny
                    X[0, 2], X[0, 3], X[:, 4], X[:, 5] = np.nan, np.inf, -np.inf, tiny
                    X[:, 6], X[0, 7] = largest, largest / 2
                assert worst(network, X, dtype, computed(network, X, dtype)) <= 1
                assert worst_of_all(network, X, dtype, results(network, X, dtype)) <= 1
                unbiased = Network(network.W1, None, network.W2, None, network.activation)
                assert worst(unbiased, X, dtype, computed(unbiased, X, dtype)) <= 1
                sums = results(network, X, dtype, STATISTICS)
                assert worst_sum(network, X, dtype, sums) <= 1
                usual = X[:, 9:13] if X.shape[1] > 13 else X[:, 3:7]
                sums = results(network, usual, dtype)
                assert worst_sum(network, usual, dtype, sums) <= 1
                assert worst_of_all(network, usual, dtype, sums) <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_false_alarm_in_long_sums(dtype: str) -> None:
    """Inputs that are large and alike, whose rounding errors do not cancel."""
    for n, m, q in ((997, 13, 3), (3, 1009, 5)):
        network = make_network(n, m, q)
        for X in (make_columns(n, 5) + np.float32(100), np.full((n, 2), np.float32(0.1))):
            assert worst(network, X, dtype, computed(network, X, dtype)) <= 1
            found = results(network, X, dtype)
            assert worst_sum(network, X, dtype, found) <= 1
            assert worst_of_all(network, X, dtype, found) <= 1


@pytest.mark.parametrize("bits", [1, 9, 22])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounded_mantissas(dtype: str, bits: int) -> None:
    """Right to the bits that are kept, and compared as closely as that."""
    network, X = make_network(), make_columns(p=3)
    T = computed(network, X, dtype)["jacobian"]
    round_mantissa(T, bits)
    expected = Reference(network, X.dtype, dtype, bits).column(X[:, 0])["jacobian"]
    assert excess(T[0], expected).max() <= 1
    closer = Reference(network, X.dtype, dtype, min(2 * bits, 30)).column(X[:, 0])["jacobian"]
    # 22 bits of 23 are within what float32 rounds in a sum anyway
    assert (excess(T[0], closer).max() > 1) == (bits < 22 or dtype == "float64")


def wrong_entry(T: np.ndarray) -> None:
    for block in T:
        block[np.unravel_index(np.abs(block).argmax(), block.shape)] *= 1.001


def wrong_sign(T: np.ndarray) -> None:
    T *= -1


def transposed(T: np.ndarray) -> None:
    T[...] = T.transpose(0, 2, 1).copy()


def exchanged(T: np.ndarray) -> None:
    T[...] = T[::-1].copy()


# Slopes that turn so fast are not known from z in float32
FAST = [{"name": "elu", "alpha": 1e30}, {"name": "celu", "alpha": 1e-20}]
WRONG = [
    (case, spoil)
    for case in CASES
    for spoil in (wrong_entry, wrong_sign, transposed, exchanged)
    # All blocks of a linear network are the same
    if case not in FAST and (case["name"], spoil) != ("identity", exchanged)
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("case", "spoil"), WRONG, ids=told)
def test_wrong_blocks_are_noticed(case: dict[str, Any], spoil: Any, dtype: str) -> None:
    network = make_network(5, 7, 5, case, dtype)
    X = 6 * make_columns(p=2, dtype=dtype)
    T = computed(network, X, dtype)["jacobian"]
    spoil(T)
    reference = Reference(network, X.dtype, dtype)
    for k in range(2):
        assert excess(T[k], reference.column(X[:, k])["jacobian"]).max() > 1


@pytest.mark.parametrize("name", OF_COLUMNS)
def test_nan_where_it_must_be_and_nowhere_else(name: str) -> None:
    network, X = make_network(), make_columns(p=2)
    right = computed(network, X, "float32")
    X[2, 1] = np.nan
    reference = Reference(network, X.dtype, "float32")
    assert np.isnan(computed(network, X, "float32")[name][1]).all()
    finite, nan = (reference.column(X[:, k])[name] for k in range(2))
    assert excess(right[name][0], finite).max() <= 1
    assert np.isposinf(excess(np.full_like(right[name][0], np.nan), finite)).all()
    assert np.isposinf(excess(right[name][1], nan)).all()


def test_the_others_are_compared_closely() -> None:
    network, X = make_network(), make_columns(p=3)
    right = computed(network, X, "float32")
    assert worst(network, X, "float32", right) <= 1
    for name in ("slope", "value", "norm", "spectral_norm"):
        spoilt = {**right, name: right[name] * np.float32(1.0001)}
        assert worst(network, X, "float32", spoilt) > 1
    right = results(network, X, "float32", STATISTICS)
    assert worst_sum(network, X, "float32", right) <= 1
    for name in SUMS:
        spoilt = {**right, name: right[name] * np.float32(1.0001)}
        assert worst_sum(network, X, "float32", spoilt) > 1
