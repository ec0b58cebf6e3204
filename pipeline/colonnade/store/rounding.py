"""Numbers rounded to a few significant bits, so that what is left of them compresses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["round_mantissa"]

# Bytes that are rounded at a time: they and their temporaries stay in cache
_SLICE_BYTES = 2**18
_MANTISSA = {4: 23, 8: 52}


def round_mantissa(values: NDArray[Any], bits: int) -> None:
    """Round numbers in place to `bits` bits behind the leading one, ties to even.

    The error of a normal number is at most 2^-(bits + 1) of it (Delaunay et al., 2019, "Evaluation
    of lossless and lossy algorithms for the compression of scientific datasets in netCDF-4 or HDF5
    files", section 2, on bit rounding). That holds of the largest numbers too, which are rounded
    towards zero where the nearest would be an infinity. Infinities and NaN stay what they are.

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
    # With all kept bits set; from half a step above it on, the nearest would be an infinity
    largest = np.finfo(values.dtype).max.view(kind) & kept
    beyond = (largest | kind.type(1 << (drop - 1))).view(values.dtype)
    flat = values.reshape(-1)
    for start in range(0, flat.size, _SLICE_BYTES // size):
        part = flat[start : start + _SLICE_BYTES // size]
        # NaN is not less either
        strange = ~(np.abs(part) < beyond)
        held = part[strange]
        whole = part.view(kind)
        whole += ((whole >> kind.type(drop)) & one) + half
        whole &= kept
        if held.size:
            cut = np.copysign(largest.view(values.dtype), held)
            part[strange] = np.where(np.isfinite(held), cut, held)
