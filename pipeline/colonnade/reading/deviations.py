"""The Jacobian in units of standard deviations, as a view of the stored arrays."""

from __future__ import annotations

import numpy as np
import xarray as xr

__all__ = ["scaled", "with_deviations"]

_NAMES = {"input": "input_std", "output": "output_std"}
# Arrays that are no derivatives are the same in both views
_UNSCALED = {"W1", "b1", "W2", "b2", "value", "slope", "nonfinite", "nonfinite_results"}


def with_deviations(dataset: xr.Dataset, scale: dict[str, tuple[float, ...]]) -> xr.Dataset:
    """Add standard deviations, by dimension, as coordinates `input_std` and `output_std`."""
    return dataset.assign_coords(
        {
            _NAMES[dimension]: (
                dimension, np.array(std), {"long_name": f"standard deviation of the {dimension}s"}
            )
            for dimension, std in scale.items()
            if dimension in dataset.dims
        }
    )  # fmt: skip


def scaled(dataset: xr.Dataset) -> xr.Dataset:
    """Scale every array of Jacobians by the coordinates `input_std` and `output_std`.

    J[i,j] · input_std[j] / output_std[i] is the change of output i, in its standard deviations,
    per standard deviation of input j. The stored norms and gram matrix do not determine those of
    the scaled Jacobian, and are left out.
    """
    factor = xr.ones_like(dataset["W2"][:, 0] * dataset["W1"][0], dtype=float)
    text = "J"
    if "input_std" in dataset.coords:
        factor, text = factor * dataset["input_std"], "J[i,j] · input_std[j]"
    if "output_std" in dataset.coords:
        factor, text = factor / dataset["output_std"], f"{text} / output_std[i]"
    factor = factor.transpose("output", "input").load()
    views, left_out = {}, []
    for name, array in dataset.data_vars.items():
        if array.dims[-2:] == ("output", "input"):
            # Round once, to the stored type
            view = array.variable * factor.variable.astype(array.dtype)
            view.attrs = array.attrs | {"scaled": text}
            view.encoding = {
                key: array.encoding[key] for key in ["preferred_chunks"] if key in array.encoding
            }
            views[name] = view
        elif name not in _UNSCALED:
            left_out.append(str(name))
    text += f"; left out, since unscaled: {', '.join(left_out)}" if left_out else ""
    return dataset.drop_vars(left_out).assign(views).assign_attrs(scaled=text)
