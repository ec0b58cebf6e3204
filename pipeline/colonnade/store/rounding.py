"""Round numbers to a few significant bits, so that they compress well."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["round_mantissa"]

# Bytes rounded at a time, so that they and their temporaries stay in cache
_SLICE_BYTES = 2**18
_MANTISSA = {4: 23, 8: 52}


def round_mantissa(values: NDArray[Any], bits: int) -> None:
    """Round numbers in place to `bits` bits after the leading one, ties to even.

    The relative error of a normal number is at most 2^-(bits + 1) (Delaunay et al., 2019,
    "Evaluation of lossless and lossy algorithms for the compression of scientific datasets in
    netCDF-4 or HDF5 files", section 2, on bit rounding). This includes the largest numbers, which
    are rounded towards zero where the nearest would be an infinity. Infinities and NaN stay as they
    are.

    Parameters
    ----------
    values
        Any shape, C-contiguous, float32 or float64.
    bits
        From 1 to 22, or to 51 for float64.
    """
    size = values.dtype.itemsize
    kind = np.dtype(f"u{size}")
    drop = _MANTISSA[size] - bits
    half, one = kind.type((1 << (drop - 1)) - 1), kind.type(1)
    kept = ~kind.type((1 << drop) - 1)
    # The largest rounded number; half a step above it, numbers begin to round to infinity
    largest = np.finfo(values.dtype).max.view(kind) & kept
    beyond = (largest | kind.type(1 << (drop - 1))).view(values.dtype)
    flat = values.reshape(-1)
    for start in range(0, flat.size, _SLICE_BYTES // size):
        part = flat[start : start + _SLICE_BYTES // size]
        # Negated, so that it includes NaN
        strange = ~(np.abs(part) < beyond)
        held = part[strange]
        whole = part.view(kind)
        whole += ((whole >> kind.type(drop)) & one) + half
        whole &= kept
        if held.size:
            cut = np.copysign(largest.view(values.dtype), held)
            part[strange] = np.where(np.isfinite(held), cut, held)
