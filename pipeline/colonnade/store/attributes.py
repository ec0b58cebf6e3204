"""Attributes of a store's arrays: what they hold, and by which formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from colonnade.network.network import Network

__all__ = ["TENSOR", "attributes"]

TENSOR = "np.einsum('kh,ih,hj->kij', slope, W2, W1)"
"""The tensor as a NumPy expression of the arrays of a store of slopes."""

_Z = "Σ_l W1[h,l] X[l,k] + b1[h]"
_ATTRIBUTES: Mapping[str, Mapping[str, Any]] = {
    "jacobian": {
        "long_name": "Jacobian of the network's outputs with respect to its inputs, at each column",
        "formula": f"jacobian[k,i,j] = ∂y_i/∂x_j = Σ_h W2[i,h] σ′(z[h,k]) W1[h,j], z[h,k] = {_Z}",
    },
    "slope": {
        "long_name": "slopes of the hidden units at each column, of which the Jacobian is made",
        "formula": f"slope[k,h] = σ′(z[h,k]), z[h,k] = {_Z}",
        "jacobian": TENSOR,
    },
    "value": {
        "long_name": "output of the network at each column",
        "formula": f"value[k,i] = y_i = Σ_h W2[i,h] σ(z[h,k]) + b2[i], z[h,k] = {_Z}",
    },
    "norm": {
        "long_name": "Frobenius norm of the Jacobian at each column",
        "formula": "norm[k] = sqrt(Σ_ij jacobian[k,i,j]²)",
    },
    "mean": {
        "long_name": "mean of the Jacobian over all columns",
        "formula": "mean[i,j] = Σ_k jacobian[k,i,j] / p = Σ_h W2[i,h] (Σ_k σ′(z[h,k]) / p) W1[h,j]",
    },
    "mean_blocks": {
        "long_name": "sum of the Jacobian over the columns of each block",
        "formula": "mean_blocks[b,i,j] = Σ_(k in block b) jacobian[k,i,j]",
    },
    "mean_abs": {
        "long_name": "mean absolute value of the Jacobian over all columns",
        "formula": "mean_abs[i,j] = Σ_k |jacobian[k,i,j]| / p",
    },
    "mean_abs_blocks": {
        "long_name": "sum of the absolute values of the Jacobian over the columns of each block",
        "formula": "mean_abs_blocks[b,i,j] = Σ_(k in block b) |jacobian[k,i,j]|",
    },
    "max_abs": {
        "long_name": "largest absolute value of the Jacobian over all columns",
        "formula": "max_abs[i,j] = max_k |jacobian[k,i,j]|",
    },
    "max_abs_blocks": {
        "long_name": "largest absolute value of the Jacobian over the columns of each block",
        "formula": "max_abs_blocks[b,i,j] = max_(k in block b) |jacobian[k,i,j]|",
    },
    "gram": {
        "long_name": "mean of JᵀJ over all columns",
        "formula": "gram[j,l] = Σ_ki jacobian[k,i,j] jacobian[k,i,l] / p",
    },
    "gram_blocks": {
        "long_name": "sum of JᵀJ over the columns of each block",
        "formula": "gram_blocks[b,j,l] = Σ_(k in block b) Σ_i jacobian[k,i,j] jacobian[k,i,l]",
    },
    "spectral_norm": {
        "long_name": "largest singular value of the Jacobian at each column",
        "formula": "spectral_norm[k] = max_(‖v‖=1) ‖jacobian[k] v‖",
    },
    "spectral_norm_max": {
        "long_name": "largest singular value of the Jacobian over all columns",
        "formula": "spectral_norm_max = max_k spectral_norm[k]",
    },
    "nonfinite": {
        "long_name": "number of columns of X that are not finite in each block that is done",
        "formula": "nonfinite[b] = number of k in block b with NaN or ±∞ among X[:,k]",
    },
    "nonfinite_results": {
        "long_name": "number of columns whose results are not finite in each block that is done",
        "formula": (
            "nonfinite_results[b] = number of k in block b with NaN or ±∞ among the results of "
            "column k; 1 at least where the block's part in a statistic holds one"
        ),
    },
}


def attributes(name: str, network: Network) -> dict[str, Any]:
    """Return the attributes of an array in the store of a network."""
    if name[0] in "Wb" and name[1:].isdecimal():
        what = "weights" if name[0] == "W" else "bias"
        return {"long_name": f"{what} of layer {name[1:]}, from the input on"}
    said = dict(_ATTRIBUTES[name])
    if not network.has_slopes:
        said |= _general(len(network.layers)).get(name, {})
    return said


def _general(layers: int) -> dict[str, dict[str, str]]:
    """Return the formulas of deeper networks and of a σ that mixes the entries of a column."""
    z = "z1 = W1 X[:,k] + b1" + "".join(
        f", z{i} = W{i} σ(z{i - 1}) + b{i}" for i in range(2, layers + 1)
    )
    chain = "".join(f"W{i} D{i - 1}[k] " for i in range(layers, 1, -1))
    return {
        "jacobian": {"formula": f"jacobian[k] = {chain}W1, Dl[k] = ∂σ(zl)/∂zl, {z}"},
        "value": {"formula": f"value[k] = z{layers}, {z}"},
        "mean": {"formula": "mean[i,j] = Σ_k jacobian[k,i,j] / p"},
    }
