"""The network Y = U σ(W X + b 1ᵀ) + c 1ᵀ: its four arrays and its σ, checked and loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from colonnade.activations import Activation, activation
from colonnade.errors import NetworkError, UsageError
from colonnade.locations import Options
from colonnade.weights import ARRAYS, SHAPES, described, load_weights

__all__ = ["ARRAYS", "Network"]


@dataclass(frozen=True, eq=False)
class Network:
    """A network with one hidden layer, applied to each column of X (n, p) alone.

    Parameters
    ----------
    W1
        (m, n), the first layer, W in the formulas.
    b1
        (m,), or None for zeros.
    W2
        (q, m), the second layer, U in the formulas.
    b2
        (q,), or None for zeros; c in the formulas.
    activation
        A name, a mapping with ``name`` and its parameters, or an `Activation`.

    Raises
    ------
    NetworkError
        The shapes do not fit, or a value is no finite real number.
    UsageError
        The activation is not known.
    """

    W1: NDArray[Any]
    b1: NDArray[Any]
    W2: NDArray[Any]
    b2: NDArray[Any]
    activation: Activation

    def __init__(
        self,
        W1: ArrayLike,
        b1: ArrayLike | None,
        W2: ArrayLike,
        b2: ArrayLike | None,
        activation: str | Mapping[str, Any] | Activation,
    ) -> None:
        given = {
            name: _as_array(name, array)
            for name, array in zip(ARRAYS, (W1, b1, W2, b2), strict=True)
            if array is not None or name in ("W1", "W2")
        }
        _check_shapes(given)
        for bias, weights in (("b1", "W1"), ("b2", "W2")):
            given.setdefault(bias, np.zeros(given[weights].shape[0], np.float32))
        dtype = _common_dtype(given)
        for name, array in given.items():
            converted = np.array(array, dtype, order="C")
            wrong = converted.size - np.count_nonzero(np.isfinite(converted))
            if wrong:
                raise NetworkError(
                    f"{name} holds NaN or infinite values, {wrong:,} of {converted.size:,}; "
                    "weights must be finite."
                )
            converted.flags.writeable = False
            object.__setattr__(self, name, converted)
        object.__setattr__(self, "activation", _as_activation(activation))

    @property
    def m(self) -> int:
        """Hidden units."""
        return int(self.W1.shape[0])

    @property
    def n(self) -> int:
        """Inputs."""
        return int(self.W1.shape[1])

    @property
    def q(self) -> int:
        """Outputs."""
        return int(self.W2.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64, the same for the four arrays."""
        return self.W1.dtype

    def __repr__(self) -> str:
        return f"Network(n={self.n}, m={self.m}, q={self.q}, {self.activation!r}, {self.dtype})"

    @property
    def fingerprint(self) -> str:
        """Name the network by its content: sha256 over σ and the four arrays."""
        digest = hashlib.sha256()
        parameters = sorted(self.activation.parameters.items())
        digest.update(json.dumps([self.activation.name, parameters]).encode())
        for name in ARRAYS:
            array = getattr(self, name)
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return f"sha256:{digest.hexdigest()}"

    @classmethod
    def load(
        cls,
        path: str | Path,
        activation: str | Mapping[str, Any] | Activation,
        names: Mapping[str, str] | None = None,
        storage_options: Options = None,
    ) -> Network:
        """Load the weights from a .npz or .safetensors file.

        Parameters
        ----------
        path
            The file, or its URL in an object store.
        activation
            As for the constructor.
        names
            Which array of the file is which, as ``{"W1": "fc1.weight", …}``; a bias that is left
            out is zero. Without it the file's arrays are W1, b1, W2, b2 by name or, failing
            that, by the only way in which their shapes fit.
        storage_options
            Of the object store, as in a job.

        Raises
        ------
        NetworkError
            The file cannot be read, or does not hold one network with one hidden layer.
        """
        try:
            arrays = load_weights(path, names, storage_options)
            try:
                b1, b2 = arrays.get("b1"), arrays.get("b2")
                return cls(arrays["W1"], b1, arrays["W2"], b2, activation)
            except NetworkError as error:
                raise NetworkError(f"{path}: {error}") from None
        except MemoryError:
            raise NetworkError(f"{path}: these weights do not fit into the memory.") from None


def _as_activation(given: str | Mapping[str, Any] | Activation) -> Activation:
    if isinstance(given, Activation):
        return given
    if isinstance(given, str):
        return activation(given)
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise UsageError(
            f"an activation is a name, or a mapping with a name and its parameters, not {given!r}"
        )
    return activation(**given)


def _as_array(name: str, given: ArrayLike | None) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise NetworkError(f"{name} is no array of numbers: {error}") from error


def _check_shapes(arrays: Mapping[str, NDArray[Any]]) -> None:
    W1, W2 = arrays["W1"], arrays["W2"]
    fits = (
        W1.ndim == 2
        and W2.ndim == 2
        and min(*W1.shape, *W2.shape) > 0
        and W2.shape[1] == W1.shape[0]
        and ("b1" not in arrays or arrays["b1"].shape == W1.shape[:1])
        and ("b2" not in arrays or arrays["b2"].shape == W2.shape[:1])
    )
    if fits:
        return
    hints = []
    if W1.ndim == 2 and W2.ndim == 2 and W2.shape[1] != W1.shape[0]:
        hints.append(f"W2 has {W2.shape[1]} columns where W1 has {W1.shape[0]} rows (hidden units)")
        if W2.shape[0] == W1.shape[1]:
            hints.append("both may be stored input × output: transpose them")
    hint = f" {'; '.join(hints)}." if hints else ""
    raise NetworkError(
        f"these shapes are not those of a network with one hidden layer: {described(arrays)}; "
        f"expected {SHAPES}, none of them empty.{hint}"
    )


def _common_dtype(arrays: Mapping[str, NDArray[Any]]) -> np.dtype[Any]:
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
            raise NetworkError(
                f"{name} is of type {array.dtype}; weights are real numbers of up to 64 bits."
            )
    return np.result_type(np.float32, *(array.dtype for array in arrays.values()))
