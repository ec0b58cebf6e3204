"""σ and σ′ against their textbook definitions in 40 digits, at every magnitude a float has."""

from __future__ import annotations

import math
import pickle
from functools import cache, partial

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colonnade.errors import UsageError
from colonnade.network.activations import ACTIVATIONS, activation, formulas

DTYPES = (np.float32, np.float64)
DIGITS = 40

with mp.workdps(DIGITS):
    KAPPA = mp.sqrt(2 / mp.pi)
    SELU_ALPHA = mp.mpf("1.6732632423543772848170429916717")
    SELU_SCALE = mp.mpf("1.0507009873554804934193349852946")


def logistic(z):
    return 1 / (1 + mp.exp(-z))


def softplus(z):
    return mp.log1p(mp.exp(z))


def gelu_u(z):
    return KAPPA * (z + mp.mpf("0.044715") * z**3)


def gelu_du(z):
    return KAPPA * (1 + mp.mpf("0.134145") * z**2)


def cdf(z):
    # mpmath cannot take the largest floats; 0 or 1 in more digits than are kept
    return mp.ncdf(max(-1e6, min(z, 1e6)))


def tanhshrink(z):
    # the difference where it has digits left, three terms of its series elsewhere
    return z - mp.tanh(z) if abs(z) > 1e-6 else z**3 / 3 - 2 * z**5 / 15 + 17 * z**7 / 315


# σ and σ′ as a textbook has them, where that does not need hundreds of digits.
# fmt: off
REFERENCE = {
    "celu": (lambda z, alpha: z if z > 0 else alpha * mp.expm1(z / alpha),
        lambda z, alpha: 1 if z > 0 else mp.exp(z / alpha)),
    "elu": (lambda z, alpha: z if z > 0 else alpha * mp.expm1(z),
        lambda z, alpha: 1 if z > 0 else alpha * mp.exp(z)),
    "gaussian": (lambda z: mp.exp(-z * z), lambda z: -2 * z * mp.exp(-z * z)),
    "gelu": (lambda z: z * cdf(z), lambda z: cdf(z) + z * mp.npdf(z)),
    "gelu_tanh": (lambda z: z * logistic(2 * gelu_u(z)),
        lambda z: logistic(2 * gelu_u(z)) + z * gelu_du(z) * mp.sech(gelu_u(z)) ** 2 / 2),
    "hard_sigmoid": (lambda z: min(max(z + 3, 0), 6) / mp.mpf(6),
        lambda z: mp.mpf(1) / 6 if -3 < z < 3 else 0),
    "hard_swish": (lambda z: z * min(max(z + 3, 0), 6) / 6,
        lambda z: 0 if z <= -3 else 1 if z >= 3 else z / 3 + mp.mpf(1) / 2),
    "hardtanh": (lambda z, min_val, max_val: min(max(z, min_val), max_val),
        lambda z, min_val, max_val: int(min_val < z < max_val)),
    "identity": (lambda z: z, lambda z: 1),  # noqa: ARG005
    "leaky_relu": (lambda z, negative_slope: z if z > 0 else negative_slope * z,
        lambda z, negative_slope: 1 if z > 0 else negative_slope),
    "log_sigmoid": (lambda z: -mp.log1p(mp.exp(-z)), lambda z: 1 / (1 + mp.exp(z))),
    "mish": (lambda z: z * mp.tanh(softplus(z)),
        lambda z: mp.tanh(softplus(z)) + z * mp.sech(softplus(z)) ** 2 * logistic(z)),
    "relu": (lambda z: max(z, 0), lambda z: int(z > 0)),
    "relu6": (lambda z: min(max(z, 0), 6), lambda z: int(0 < z < 6)),
    "selu": (lambda z: SELU_SCALE * (z if z > 0 else SELU_ALPHA * mp.expm1(z)),
        lambda z: SELU_SCALE * (1 if z > 0 else SELU_ALPHA * mp.exp(z))),
    "sigmoid": (logistic, lambda z: logistic(z) * logistic(-z)),
    "silu": (lambda z: z * logistic(z), lambda z: logistic(z) * (1 + z * logistic(-z))),
    "sin": (mp.sin, mp.cos),
    "softplus": (lambda z, beta: softplus(beta * z) / beta, lambda z, beta: logistic(beta * z)),
    "softsign": (lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2),
    "tanh": (mp.tanh, lambda z: mp.sech(z) ** 2),
    "tanhshrink": (tanhshrink, lambda z: mp.tanh(z) ** 2),
}

# Worst error allowed, in ulp of the true result: σ, σ′ in float32, σ, σ′ in float64.
BOUNDS = {
    "celu": (4, 4, 2, 2), "elu": (4, 4, 2, 2), "gaussian": (5, 11, 3, 7),
    "gelu": (11, 12, 9, 10), "gelu_tanh": (14, 14, 9, 11), "hard_sigmoid": (2, 1, 2, 1),
    "hard_swish": (3, 2, 3, 2), "hardtanh": (0, 0, 0, 0), "identity": (0, 0, 0, 0),
    "leaky_relu": (1, 0, 1, 0), "log_sigmoid": (5, 5, 3, 4), "mish": (12, 13, 8, 11),
    "relu": (0, 0, 0, 0), "relu6": (0, 0, 0, 0), "selu": (5, 5, 5, 5),
    "sigmoid": (5, 8, 4, 6), "silu": (11, 11, 7, 9), "sin": (1, 1, 1, 1),
    "softplus": (5, 5, 3, 4), "softsign": (3, 6, 3, 6), "tanh": (3, 7, 3, 7),
    "tanhshrink": (5, 6, 5, 5),
}
# fmt: on

# Around a zero of σ or σ′ that no formula hits to an ulp, an error counts in eps times this scale.
CROSSINGS = {
    ("gelu", "slope"): (-2.0, -0.4, 0.5),
    ("gelu_tanh", "slope"): (-2.0, -0.4, 0.5),
    ("hard_swish", "slope"): (-2.0, -1.0, 0.5),
    ("mish", "slope"): (-2.5, -0.6, 0.5),
    ("silu", "slope"): (-3.0, -0.6, 0.5),
    ("sin", "slope"): (-math.inf, math.inf, 1.0),
    ("sin", "value"): (-math.inf, math.inf, 1.0),
}

# Parameters beside the defaults; powers of two where z is multiplied, as z is then not rounded.
VARIANTS = [
    *((name, {}) for name in REFERENCE),
    ("celu", {"alpha": 0.5}),
    ("elu", {"alpha": 2.0}),
    ("elu", {"alpha": -0.25}),
    ("hardtanh", {"min_val": -2.0, "max_val": 0.1}),
    ("leaky_relu", {"negative_slope": 3.0}),
    ("leaky_relu", {"negative_slope": 0.0}),
    ("softplus", {"beta": 8.0}),
]


@cache
def grid(dtype):
    """Every region in which some formula could fail; for both signs of z."""
    f = np.finfo(dtype)
    deep = np.sqrt(-math.log(f.smallest_subnormal))  # exp(−deep²) is the last number above 0
    logs = math.log10(f.smallest_subnormal), math.log10(f.max)
    rng = np.random.default_rng(20)
    z = [
        np.linspace(0, 13, 157),
        rng.normal(0, 2, 150),
        rng.uniform(0, 1.1, 40) * deep,
        rng.uniform(0, 1.1, 40) * deep * math.sqrt(2),
        rng.uniform(0.9, 1.02, 40) * deep * math.sqrt(2),
        rng.uniform(0, 1.1, 40) * deep**2,
        rng.uniform(0.8, 1.02, 40) * deep**2,
        10 ** rng.uniform(*logs, 80),
        10 ** rng.uniform(-3, 1, 80),
        [f.max, f.max / 2, f.tiny, f.tiny / 2, f.smallest_subnormal, 3 * f.smallest_subnormal],
    ]
    kinks = np.array([0, 0.1, 0.5, 1, 1.25, 2, 3, 6, 8, 16, 24, 40, 54], dtype)
    around = [kinks, np.nextafter(kinks, dtype(np.inf)), np.nextafter(kinks, dtype(-np.inf))]
    z = np.concatenate([np.asarray(part).astype(dtype) for part in [*z, *around]])
    return np.concatenate([z, -z])


def error(got, want, dtype, unit=0):
    """|got − want| in ulp of want, or in `unit` where that is more; beyond max, inf is right."""
    f = np.finfo(dtype)
    exponent = mp.frexp(want)[1] if want else -9999
    ulp = mp.ldexp(1, max(exponent - f.nmant - 1, f.minexp - f.nmant))
    limit = mp.ldexp(1, int(f.maxexp))
    got = mp.sign(got) * limit if np.isinf(got) else mp.mpf(float(got))
    want = max(-limit, min(limit, want))
    return float(abs(got - want) / max(ulp, unit))


def worst(name, parameters, what, z):
    """The largest error of σ or σ′ at the points z, and where it is."""
    chosen = activation(name, **parameters)
    with np.errstate(all="raise"):
        got = getattr(chosen, what)(z)
    assert got.dtype == z.dtype
    reference = REFERENCE[name][what == "slope"]
    low, high, scale = CROSSINGS.get((name, what), (0, 0, 0))
    unit = float(np.finfo(z.dtype).eps) * scale
    with mp.workdps(DIGITS):
        given = {k: mp.mpf(float(z.dtype.type(v))) for k, v in chosen.parameters.items()}
        errors = [
            error(g, mp.mpf(reference(mp.mpf(float(x)), **given)), z.dtype, unit * (low < x < high))
            for x, g in zip(z, got, strict=True)
        ]
    at = int(np.argmax(errors))
    return errors[at], z[at]


def test_reference_is_complete_and_differentiates_itself():
    assert set(REFERENCE) == set(ACTIVATIONS)
    with mp.workdps(DIGITS):
        for name, formula in ACTIVATIONS.items():
            value, slope = (partial(f, **formula.parameters) for f in REFERENCE[name])
            for z in ("-4.1", "-1.3", "-0.7", "0.4", "2.2", "7.9"):
                assert abs(mp.diff(value, mp.mpf(z)) - slope(mp.mpf(z))) < 1e-15, (name, z)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_accuracy(name, parameters, dtype):
    for what in ("value", "slope"):
        bound = BOUNDS[name][2 * (dtype is np.float64) + (what == "slope")]
        found, at = worst(name, parameters, what, grid(dtype))
        case = f"{name} {parameters or ''} {what} {dtype.__name__}"
        print(f"{case}: {found:.2f} ulp at {at!r}, bound {bound}")  # noqa: T201
        assert found <= bound, (case, at)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_with_and_without_a_fast_cosh(monkeypatch, dtype, fast):
    monkeypatch.setattr(formulas, "FAST_COSH", fast)
    test_accuracy("tanh", {}, dtype)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), name=st.sampled_from(sorted(REFERENCE)))
def test_accuracy_at_any_float(data, dtype, name):
    width = np.finfo(dtype).bits
    anywhere = st.floats(width=width, allow_nan=False, allow_infinity=False)
    near = st.floats(-100, 100, width=width)
    z = data.draw(st.lists(anywhere | near, min_size=1, max_size=5))
    for what in ("value", "slope"):
        bound = BOUNDS[name][2 * (dtype is np.float64) + (what == "slope")]
        assert worst(name, {}, what, np.array(z, dtype))[0] <= bound


# σ′ at the kinks, as PyTorch 2.13 gives it.
KINKS = [
    ("celu", {"alpha": 2.0}, [0.0], [1.0]),
    ("elu", {"alpha": 2.0}, [0.0, -0.0], [2.0, 2.0]),
    ("hard_sigmoid", {}, [-3.0, 3.0], [0.0, 0.0]),
    ("hard_swish", {}, [-3.0, 3.0], [0.0, 1.0]),
    ("hardtanh", {}, [-1.0, 1.0], [0.0, 0.0]),
    ("hardtanh", {"min_val": -2.0, "max_val": 0.5}, [-2.0, 0.5], [0.0, 0.0]),
    ("leaky_relu", {}, [0.0, -0.0], [0.01, 0.01]),
    ("relu", {}, [0.0, -0.0], [0.0, 0.0]),
    ("relu6", {}, [0.0, 6.0], [0.0, 0.0]),
    ("selu", {}, [0.0, -0.0], [1.7580993408473766, 1.7580993408473766]),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "parameters", "z", "slope"), KINKS)
def test_kinks(name, parameters, z, slope, dtype):
    got = activation(name, **parameters).slope(np.array(z, dtype))
    np.testing.assert_allclose(got, np.array(slope, dtype), rtol=2 * np.finfo(dtype).eps, atol=0)


inf = math.inf
# σ(−inf), σ(inf), σ′(−inf), σ′(inf)
# fmt: off
LIMITS = {
    "celu": (-1, inf, 0, 1), "elu": (-1, inf, 0, 1), "gaussian": (0, 0, 0, 0),
    "gelu": (0, inf, 0, 1), "gelu_tanh": (0, inf, 0, 1), "hard_sigmoid": (0, 1, 0, 0),
    "hard_swish": (0, inf, 0, 1), "hardtanh": (-1, 1, 0, 0), "identity": (-inf, inf, 1, 1),
    "leaky_relu": (-inf, inf, 0.01, 1), "log_sigmoid": (-inf, 0, 1, 0), "mish": (0, inf, 0, 1),
    "relu": (0, inf, 0, 1), "relu6": (0, 6, 0, 0), "sigmoid": (0, 1, 0, 0),
    "selu": (-1.7580993408473766, inf, 0, 1.0507009873554805), "silu": (0, inf, 0, 1),
    "softplus": (0, inf, 0, 1), "softsign": (-1, 1, 0, 0), "tanh": (-1, 1, 0, 0),
    "tanhshrink": (-inf, inf, 1, 1),
}
# fmt: on


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LIMITS)
def test_limits_and_nan(name, dtype):
    chosen, z = activation(name), np.array([-inf, inf, np.nan], dtype)
    with np.errstate(all="raise"):
        got = [*chosen.value(z), *chosen.slope(z)]
    assert np.isnan(got[2])
    assert np.isnan(got[5])
    np.testing.assert_allclose(got[:2] + got[3:5], np.array(LIMITS[name], dtype), rtol=2e-7)


def test_sin_has_no_limit():
    assert set(ACTIVATIONS) - set(LIMITS) == {"sin"}
    with np.errstate(invalid="ignore"):
        assert np.isnan(activation("sin").value([inf, -inf, np.nan])).all()
        assert np.isnan(activation("sin").slope([inf, -inf, np.nan])).all()


def test_no_slope_on_the_negative_side_leaves_no_nan():
    flat = activation("leaky_relu", negative_slope=0)
    assert flat.value(-inf) == flat.slope(-inf) == 0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_layouts_types_and_input(name):
    chosen = activation(name)
    z = np.random.default_rng(3).normal(0, 3, (331, 217))  # more than two blocks, and prime
    before = z.copy()
    for f in (chosen.value, chosen.slope):
        whole = f(z)
        assert not np.shares_memory(whole, z)
        np.testing.assert_array_equal(z, before)
        np.testing.assert_array_equal(f(np.asfortranarray(z)), whole)
        assert f(np.asfortranarray(z)).flags.f_contiguous
        np.testing.assert_array_equal(f(z[::2, ::-3]), whole[::2, ::-3])
        np.testing.assert_array_equal(f(z[7, 11]), whole[7, 11])
        np.testing.assert_array_equal(f(z.astype(">f8")), whole)
        assert f(z[:0]).shape == (0, 217)
        assert f(np.float32(1)).dtype == np.float32
        assert f([-1, 2]).dtype == np.float64
        with pytest.raises(TypeError):
            f([1j])


def test_is_a_value():
    one, other = activation("elu", alpha=2), activation("ELU", alpha=2.0)
    assert one == other == pickle.loads(pickle.dumps(one))  # noqa: S301
    assert len({one, other, activation("elu"), activation("celu", alpha=2)}) == 3
    assert dict(one.parameters) == {"alpha": 2.0}
    assert pickle.loads(pickle.dumps(one)).slope(-0.0) == 2  # noqa: S301
    with pytest.raises(AttributeError):
        one.name = "relu"


# fmt: off
ALIASES = {
    "swish": "silu", "Logistic": "sigmoid", "linear": "identity", "logsigmoid": "log_sigmoid",
    "gelu_new": "gelu_tanh", "gelu_approximate": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "hardsigmoid": "hard_sigmoid", "hardswish": "hard_swish", "hard_tanh": "hardtanh",
    "LeakyRelu": "leaky_relu", "hard_silu": "hard_swish", "expit": "sigmoid",
} | {name.upper(): name for name in ACTIVATIONS}
# fmt: on


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_names_elsewhere(alias, name):
    assert activation(alias) == activation(name)
    assert activation(alias).name == name


@pytest.mark.parametrize(
    ("name", "parameters", "texts"),
    [
        ("geluu", {}, ["'geluu'", "nearest: gelu", "known: celu, elu,"]),
        ("xyzzy", {}, ["'xyzzy'", "known: celu, elu,"]),
        ("elu", {"alhpa": 1.0}, ["'alhpa'", "alpha=1"]),
        ("relu", {"alpha": 1.0}, ["'alpha'", "none"]),
        ("elu", {"alpha": math.nan}, ["alpha", "nan", "alpha=1"]),
        ("elu", {"alpha": inf}, ["alpha", "inf"]),
        ("elu", {"alpha": 1e39}, ["alpha", "1e+39"]),
        ("elu", {"alpha": 10**400}, ["alpha"]),
        ("elu", {"alpha": "2"}, ["alpha", "'2'"]),
        ("elu", {"alpha": True}, ["alpha", "True"]),
        ("celu", {"alpha": 0.0}, ["alpha > 0", "alpha=0"]),
        ("softplus", {"beta": -1.0}, ["beta > 0", "beta=-1"]),
        ("softplus", {"beta": 1e-40}, ["beta", "1e-40"]),
        ("hardtanh", {"min_val": 1.0}, ["min_val < max_val", "min_val=1, max_val=1"]),
    ],
)
def test_refusals(name, parameters, texts):
    with pytest.raises(UsageError) as caught:
        activation(name, **parameters)
    for text in texts:
        assert text in str(caught.value)
