"""The steps from X to Y that a file defines, and the chain of layers assembled from them.

A chain alternates affine layers and activations. Scalings are folded into the layers: in float64,
rounded once to the type of the layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from colonnade.errors import NetworkError, sanitize

__all__ = ["IDENTITY", "Chain", "Dense", "Scale", "Sigma", "Step", "assemble", "sigma_text"]


class Dense(NamedTuple):
    """y = W x + b, with W (out, in) and b (out,), or None for zeros."""

    W: NDArray[Any]
    b: NDArray[Any] | None = None


class Scale(NamedTuple):
    """y = factor x + offset, elementwise; a single number applies to all elements.

    `text` describes the scaling to the user, unless it is empty.
    """

    factor: ArrayLike = 1.0
    offset: ArrayLike = 0.0
    text: str = ""


class Sigma(NamedTuple):
    """An activation by name and parameters, or None where the file does not state it."""

    given: Mapping[str, Any] | None


Step: TypeAlias = Dense | Scale | Sigma

IDENTITY = {"name": "identity"}


class Chain(NamedTuple):
    """Affine layers in order, with an activation between each two of them.

    Attributes
    ----------
    layers
        The layers, each with W (out, in) and b (out,), or None for zeros.
    activations
        One fewer than layers: a name with parameters, or None where the file does not state it.
    folded
        A description of each scaling that is folded into the layers.
    input_names
        The names of the inputs, one for each, or None where the file gives none.
    """

    layers: tuple[Dense, ...]
    activations: tuple[Mapping[str, Any] | None, ...]
    folded: tuple[str, ...] = ()
    input_names: tuple[str, ...] | None = None


def sigma_text(given: Mapping[str, Any] | None) -> str:
    """Describe an activation in one line."""
    if given is None:
        return "an unknown activation"
    parameters = ", ".join(f"{k}={v:g}" for k, v in given.items() if k != "name")
    return f"{given['name']}({parameters})" if parameters else str(given["name"])


class _Layer:
    """A layer that scalings are folded into."""

    def __init__(self, dense: Dense) -> None:
        self._given = dense
        self._W = dense.W
        self._b: Any = dense.b
        self._touched = False

    def before(self, scale: Scale) -> None:
        """Fold in a scaling of the input: W (a x + d) + b."""
        self._touch()
        factor, offset = _vectors(scale, self._W.shape[1], "inputs")
        self._b = self._b + self._W @ offset
        self._W = self._W * factor

    def after(self, scale: Scale) -> None:
        """Fold in a scaling of the output: a (W x + b) + d."""
        W = self._given.W
        if self._given.b is None and not self._touched and np.ndim(W) == 2:
            offset = np.asarray(scale.offset)
            # A separate bias becomes the layer's, without arithmetic or rounding
            if np.all(np.asarray(scale.factor) == 1) and offset.size in (1, W.shape[0]):
                bias = np.array(np.broadcast_to(offset.reshape(-1), W.shape[:1]))
                self._given, self._b = Dense(W, bias), bias
                return
        self._touch()
        factor, offset = _vectors(scale, self._W.shape[0], "outputs")
        self._W = factor[:, None] * self._W
        self._b = factor * self._b + offset

    def rounded(self) -> Dense:
        """Return the layer, rounded to its original type."""
        if not self._touched:
            return self._given
        given = [array for array in self._given if array is not None]
        dtype = np.result_type(np.float32, *(array.dtype for array in given))
        with np.errstate(over="ignore"):
            return Dense(self._W.astype(dtype), self._b.astype(dtype))

    def _touch(self) -> None:
        if self._touched:
            return
        W, b = self._given
        b = np.zeros(W.shape[:1], np.float32) if b is None else b
        if any(array.dtype.kind not in "iuf" for array in (W, b)):
            raise NetworkError(f"weights must be real numbers, not {W.dtype} and {b.dtype}.")
        if W.ndim != 2 or b.shape != W.shape[:1]:
            raise NetworkError(
                f"a layer has W {W.shape} and b {b.shape}; expected (m, n) and (m,)."
            )
        self._W, self._b, self._touched = W.astype(np.float64), b.astype(np.float64), True


def _vectors(
    scale: Scale, length: int, what: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    found = []
    for given in (scale.factor, scale.offset):
        vector = np.asarray(given, np.float64).reshape(-1)
        if vector.size not in (1, length):
            raise NetworkError(
                f"{scale.text or 'a scaling'} has {vector.size} numbers for the {length} {what} of "
                "its layer; give one number, or one for each."
            )
        found.append(np.broadcast_to(vector, (length,)))
    return found[0], found[1]


def assemble(steps: Iterable[Step]) -> Chain:
    """Assemble the chain from a file's steps; raise NetworkError if they do not form one."""
    layers: list[_Layer] = []
    activations: list[Mapping[str, Any] | None] = []
    folded: list[str] = []
    ahead: list[Scale] = []
    last: Step | None = None  # the last step that is not a scaling
    for step in steps:
        if isinstance(step, Scale):
            folded += [sanitize(step.text, 200)] * bool(step.text)
            if isinstance(last, Dense):
                layers[-1].after(step)
            else:
                ahead.append(step)
            continue
        if isinstance(step, Dense):
            activations += [IDENTITY] * isinstance(last, Dense)
            layers.append(_Layer(step))
            for scale in reversed(ahead):
                layers[-1].before(scale)
            ahead = []
        else:
            _check_place(step, last)
            activations.append(step.given)
        last = step
    if not layers:
        raise NetworkError("it holds no affine layer; a network has at least one.")
    if isinstance(last, Sigma):
        raise NetworkError(
            f"its output passes through {sigma_text(last.given)}; a network must end with an "
            "affine layer. To get the Jacobian before this activation, save the network without it."
        )
    return Chain(tuple(layer.rounded() for layer in layers), tuple(activations), tuple(folded))


def _check_place(sigma: Sigma, last: Step | None) -> None:
    """Raise NetworkError unless an affine layer precedes an activation."""
    text = sigma_text(sigma.given)
    if last is None:
        raise NetworkError(
            f"{text} comes before the first layer; a network must begin with an affine layer. Save "
            "the network without it, and apply it to X beforehand."
        )
    if isinstance(last, Sigma):
        raise NetworkError(
            f"{sigma_text(last.given)} and {text} follow each other without a layer in between. "
            "Save the weights alone, and import both as one activation (network.activation)."
        )
