"""Rounding to a few bits: to the nearest, ties to even, and nothing else is touched."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from colonnade.store.rounding import round_mantissa


@pytest.mark.parametrize(("dtype", "most"), [("float32", 22), ("float64", 51)])
@given(data=st.data())
def test_is_mpmaths_rounding(dtype, most, data) -> None:
    values = data.draw(
        hnp.arrays(dtype, 7, elements=hnp.from_dtype(np.dtype(dtype), allow_subnormal=False))
    )
    bits = data.draw(st.integers(1, most))
    rounded = values.copy()
    round_mantissa(rounded, bits)
    # The leading bit is one more, in mpmath's count
    with mpmath.workprec(bits + 1), np.errstate(over="ignore"):
        for given_, got in zip(values.tolist(), rounded.tolist(), strict=True):
            nearest = np.dtype(dtype).type(float(+mpmath.mpf(given_))).item()
            if math.isinf(nearest) and math.isfinite(given_):
                nearest = largest(dtype, bits)
            # mpmath knows no negative zero
            np.testing.assert_equal(got, math.copysign(nearest, given_))


def largest(dtype: str, bits: int) -> float:
    """The largest finite number with so many bits behind the leading one."""
    return (2 - 2.0**-bits) * 2.0 ** (np.finfo(dtype).maxexp - 1)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 22), ("float64", 51)])
def test_what_is_finite_stays_finite(dtype, most) -> None:
    """And within the bound that holds of all others."""
    top = np.finfo(dtype).max
    for bits in range(1, most + 1):
        kept = np.dtype(dtype).type(largest(dtype, bits))
        values = np.array([top, -top, np.nextafter(kept, top), kept], dtype)
        rounded = values.copy()
        round_mantissa(rounded, bits)
        np.testing.assert_array_equal(rounded, [kept, -kept, kept, kept])
        error = np.abs(values.astype(np.longdouble) - rounded) / np.abs(values)
        assert error.max() <= np.longdouble(2) ** -(bits + 1), bits


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_bit_of_what_is_no_number_stays(dtype) -> None:
    kind = np.dtype(dtype.replace("float", "u" + "int"))
    size = kind.itemsize * 8
    exponent = {32: 0x7F8 << 20, 64: 0x7FF << 52}[size]
    strange = np.array([exponent, exponent | 1, (1 << (size - 1)) - 1, (1 << size) - 1], kind)
    values = strange.view(dtype).copy()
    round_mantissa(values, 3)
    np.testing.assert_array_equal(values.view(kind), strange)


def test_more_than_a_slice() -> None:
    values = np.random.default_rng(0).standard_normal((1009, 7, 61)).astype("f4")
    rounded = values.copy()
    round_mantissa(rounded, 7)
    error = np.abs(rounded - values) / np.abs(values)
    assert 2**-9 < error.max() <= 2**-8
    again = rounded.copy()
    round_mantissa(again, 7)
    np.testing.assert_array_equal(again, rounded)
