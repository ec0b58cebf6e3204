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
from colonnade.weights import (
    ARRAYS,
    SHAPES,
    Chain,
    Given,
    Scaling,
    described,
    estimator_weights,
    load_weights,
    told_sigma,
)

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

    Attributes
    ----------
    folded
        Scalings that a file told or its user gave, and that are in the layers, in words.

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
    folded: tuple[str, ...]

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
        object.__setattr__(self, "folded", ())

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
        activation: str | Mapping[str, Any] | Activation | None = None,
        names: Mapping[str, str] | None = None,
        storage_options: Options = None,
        *,
        input_mean: Given = None,
        input_std: Given = None,
        output_mean: Given = None,
        output_std: Given = None,
    ) -> Network:
        """Load a network from a file, in the format that its suffix tells.

        Parameters
        ----------
        path
            A .npz, .safetensors, .onnx, .pt, .pth, .keras, .h5 or .skops file, or a .zarr group;
            or its URL in an object store.
        activation
            As for the constructor; not needed where the file tells it.
        names
            Which array of the file is which, as ``{"W1": "fc1.weight", …}``; a bias that is left
            out is zero. Without it the file's arrays are W1, b1, W2, b2 by name or, failing
            that, by the only way in which their shapes fit. Both matrices may be stored as
            (in, out); where the shapes fit either way, the format's convention holds.
        storage_options
            Of the object store, as in a job.
        input_mean, input_std, output_mean, output_std
            What X and Y were scaled with, (n,) and (q,), where the network was trained on
            (x − mean)/std and its output is std y + mean: a number, numbers, the name of an array
            in the file, or the path of a .npy file. They are folded into the layers, as are those
            that the file itself tells.

        Raises
        ------
        NetworkError
            The file cannot be read, does not hold one network with one hidden layer, or tells
            another activation than the given one.
        """
        scaling = Scaling(input_mean, input_std, output_mean, output_std)
        try:
            chain = load_weights(path, names, storage_options, scaling)
            try:
                return cls._of(chain, activation)
            except NetworkError as error:
                raise NetworkError(f"{path}: {error}") from None
        except MemoryError:
            raise NetworkError(f"{path}: these weights do not fit into the memory.") from None

    @classmethod
    def from_sklearn(cls, estimator: Any) -> Network:
        """Take the network of a fitted MLPRegressor or MLPClassifier.

        Parameters
        ----------
        estimator
            It alone, or as the last step of a Pipeline behind StandardScaler, MinMaxScaler,
            MaxAbsScaler or RobustScaler, or in a TransformedTargetRegressor with one of these.
            The scalers are folded in. Of a classifier, Y is the logits: what comes before the
            softmax, or before the logistic function where there are two classes.

        Raises
        ------
        NetworkError
            It is something else, is not fitted, or has not one hidden layer.
        """
        return cls._of(estimator_weights(estimator), None)

    @classmethod
    def _of(cls, chain: Chain, given: str | Mapping[str, Any] | Activation | None) -> Network:
        if len(chain.layers) != 2:
            raise NetworkError(f"it holds {chain}; a network here has one hidden layer.")
        (W1, b1), (W2, b2) = chain.layers
        network = cls(W1, b1, W2, b2, _agreed(chain.activations[0], given))
        object.__setattr__(network, "folded", chain.folded)
        return network


def _agreed(
    found: Mapping[str, Any] | None, given: str | Mapping[str, Any] | Activation | None
) -> Activation:
    """Take the activation that the file tells, which the given one must be, else the given one."""
    if found is None:
        if given is None:
            raise NetworkError(
                "the file does not tell the activation; give it (network.activation: tanh, say)."
            )
        return _as_activation(given)
    told = _as_activation(found)
    if given is None:
        return told
    other = _as_activation(given)
    same = told.name == other.name and np.allclose(
        list(told.parameters.values()), list(other.parameters.values()), rtol=1e-6, atol=0
    )
    if not same:
        pair = [told_sigma({"name": a.name, **a.parameters}) for a in (told, other)]
        raise NetworkError(
            f"the file tells the activation {pair[0]}, and given is {pair[1]}; leave "
            "network.activation out."
        )
    return told


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
