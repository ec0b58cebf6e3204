"""The network: affine layers with a σ between each two, checked and loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from colonnade.errors import NetworkError, UsageError
from colonnade.network.activations import Activation, activation
from colonnade.network.weights import (
    Chain,
    Given,
    Matrices,
    Scaling,
    array_names,
    estimator_weights,
    load_weights,
    told_sigma,
)
from colonnade.network.weights.shapes import as_array, check_shapes, common_dtype
from colonnade.storage.locations import Options

__all__ = ["GivenActivation", "Layer", "Network", "array_names"]

GivenActivation: TypeAlias = str | Mapping[str, Any] | Activation


class Layer(NamedTuple):
    """An affine layer, W x + b: W (outputs, inputs) and b (outputs,)."""

    W: NDArray[Any]
    b: NDArray[Any]


@dataclass(frozen=True, eq=False, init=False)
class Network:
    """A network, applied to each column of X (n, p) alone; with one hidden layer, or `chain`.

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
    layers
        From X on.
    activations
        One between each two layers.
    folded
        Scalings that a file told or its user gave, and that are in the layers, in words.
    input_names
        (n,), where the file or the estimator tells them, in the order of the first layer's columns.

    Raises
    ------
    NetworkError
        The shapes do not fit, or a value is no finite real number.
    UsageError
        The activation is not known, or what is imported for it is none.
    """

    layers: tuple[Layer, ...]
    activations: tuple[Activation, ...]
    folded: tuple[str, ...]
    input_names: tuple[str, ...] | None

    def __init__(
        self,
        W1: ArrayLike,
        b1: ArrayLike | None,
        W2: ArrayLike,
        b2: ArrayLike | None,
        activation: GivenActivation,
    ) -> None:
        self._set([(W1, b1), (W2, b2)], [activation])

    @classmethod
    def chain(
        cls,
        layers: Iterable[tuple[ArrayLike, ArrayLike | None]],
        activations: GivenActivation | Sequence[GivenActivation],
    ) -> Network:
        """Make a network of any depth: W_L σ(… W_2 σ(W_1 x + b_1) + b_2 …) + b_L.

        Parameters
        ----------
        layers
            W (outputs, inputs) and b (outputs,), or None for zeros, of each layer from X on. A
            single one, without hidden units, is a network too.
        activations
            One for all hidden layers, or one for each.

        Raises
        ------
        NetworkError, UsageError
            As for the constructor.
        """
        network = cls.__new__(cls)
        network._set(list(layers), activations)
        return network

    def _set(
        self,
        layers: Sequence[tuple[ArrayLike, ArrayLike | None]],
        activations: GivenActivation | Sequence[GivenActivation],
    ) -> None:
        names = array_names(len(layers))
        given = {
            name: as_array(name, array)
            for name, array in zip(names, (a for layer in layers for a in layer), strict=True)
            if array is not None or name[0] == "W"
        }
        check_shapes(given, len(layers))
        dtype = common_dtype(given)
        arrays = []
        for name in names:
            array = given.get(name)
            if array is None:
                array = np.zeros(len(given[f"W{name[1:]}"]), dtype)
            converted = np.array(array, dtype, order="C")
            wrong = converted.size - np.count_nonzero(np.isfinite(converted))
            if wrong:
                raise NetworkError(
                    f"{name} holds NaN or infinite values, {wrong:,} of {converted.size:,}; "
                    "weights must be finite."
                )
            converted.flags.writeable = False
            arrays.append(converted)
        made = tuple(Layer(W, b) for W, b in zip(arrays[::2], arrays[1::2], strict=True))
        object.__setattr__(self, "layers", made)
        object.__setattr__(self, "activations", _as_activations(activations, len(made) - 1))
        object.__setattr__(self, "folded", ())
        object.__setattr__(self, "input_names", None)
        for sigma, m in zip(self.activations, self.hidden, strict=True):
            sigma.check(m)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Inputs, the hidden units of each layer, outputs."""
        return (int(self.layers[0].W.shape[1]), *(len(layer.b) for layer in self.layers))

    @property
    def hidden(self) -> tuple[int, ...]:
        """Hidden units of each hidden layer."""
        return self.sizes[1:-1]

    @property
    def m(self) -> int:
        """Hidden units, of all layers."""
        return sum(self.hidden)

    @property
    def n(self) -> int:
        """Inputs."""
        return self.sizes[0]

    @property
    def q(self) -> int:
        """Outputs."""
        return self.sizes[-1]

    @property
    def has_slopes(self) -> bool:
        """Whether σ′ at a column is a vector of m numbers: one hidden layer, σ elementwise."""
        return len(self.activations) == 1 and not self.activations[0].columnwise

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """W1, b1, W2, b2 and so on, by name."""
        names = array_names(len(self.layers))
        return dict(zip(names, (a for layer in self.layers for a in layer), strict=True))

    @property
    def W1(self) -> NDArray[Any]:  # noqa: N802 (the names of the mathematics)
        """The first layer's weights, (m, n); as the next three, of one hidden layer alone."""
        return self._pair[0].W

    @property
    def b1(self) -> NDArray[Any]:
        """The first layer's bias, (m,)."""
        return self._pair[0].b

    @property
    def W2(self) -> NDArray[Any]:  # noqa: N802
        """The second layer's weights, (q, m)."""
        return self._pair[1].W

    @property
    def b2(self) -> NDArray[Any]:
        """The second layer's bias, (q,)."""
        return self._pair[1].b

    @property
    def activation(self) -> Activation:
        """σ, where there is one."""
        return self.activations[len(self._pair) - 2]

    @property
    def _pair(self) -> tuple[Layer, ...]:
        if len(self.layers) != 2:
            raise NetworkError(
                f"this network has {len(self.hidden)} hidden layers, not one: look at its layers "
                "and activations."
            )
        return self.layers

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64, the same for all arrays."""
        return self.layers[0].W.dtype

    def __repr__(self) -> str:
        m = " + ".join(map(str, self.hidden)) or "0"
        told = ", ".join(repr(sigma) for sigma in self.activations)
        return f"Network(n={self.n}, m={m}, q={self.q}, {told or 'affine'}, {self.dtype})"

    @property
    def fingerprint(self) -> str:
        """Name the network by its content: sha256 over its activations and arrays."""
        digest = hashlib.sha256()
        for sigma, m in zip(self.activations, self.hidden, strict=True):
            digest.update(json.dumps(sigma.identity(m)).encode())
        for name, array in self.arrays.items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return f"sha256:{digest.hexdigest()}"

    @classmethod
    def load(
        cls,
        path: str | Path,
        activation: GivenActivation | Sequence[GivenActivation] | None = None,
        names: Mapping[str, str] | None = None,
        storage_options: Options = None,
        *,
        matrices: Matrices | None = None,
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
            As for `chain`: one for all hidden layers, or a list; not needed where the file tells
            them.
        names
            Which array of the file is which, as ``{"W1": "fc1.weight", …}``; a bias that is left
            out is zero. Without it the file's arrays are W1, b1, W2, b2 and so on by name or,
            failing that, by the only way in which their shapes fit.
        matrices
            "in_by_out" or "out_by_in": how a file of arrays alone stores its matrices. Without it
            the shapes tell; where they fit either way, the names do (a `kernel` is in × out, a
            `weight` out × in), and else the format's convention holds.
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
            The file cannot be read, does not hold one network, or tells another activation than
            the given one.
        """
        scaling = Scaling(input_mean, input_std, output_mean, output_std)
        try:
            chain = load_weights(path, names, storage_options, scaling, matrices)
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
            It is something else, or is not fitted.
        """
        return cls._of(estimator_weights(estimator), None)

    @classmethod
    def _of(
        cls, chain: Chain, given: GivenActivation | Sequence[GivenActivation] | None
    ) -> Network:
        network = cls.chain(chain.layers, _agreed(chain.activations, given))
        object.__setattr__(network, "folded", chain.folded)
        # Names of something else, where they are more or fewer
        if len(chain.input_names or ()) == network.n:
            object.__setattr__(network, "input_names", chain.input_names)
        return network


def _agreed(
    found: Sequence[Mapping[str, Any] | None],
    given: GivenActivation | Sequence[GivenActivation] | None,
) -> list[Activation]:
    """Take the activations that the file tells, which the given ones must be, else the latter."""
    if given is None:
        if None in found:
            raise NetworkError(
                "the file does not tell the activation; give it (network.activation: tanh, say)."
            )
        return [_as_activation(told) for told in found if told is not None]
    asked = _as_activations(given, len(found))
    return [
        sigma if told is None else _same(_as_activation(told), sigma)
        for told, sigma in zip(found, asked, strict=True)
    ]


def _same(told: Activation, given: Activation) -> Activation:
    same = told.name == given.name and np.allclose(
        list(told.parameters.values()), list(given.parameters.values()), rtol=1e-6, atol=0
    )
    if not same:
        pair = [told_sigma({"name": a.name, **a.parameters}) for a in (told, given)]
        raise NetworkError(
            f"the file tells the activation {pair[0]}, and given is {pair[1]}; leave "
            "network.activation out."
        )
    return told


def _as_activations(
    given: GivenActivation | Sequence[GivenActivation], count: int
) -> tuple[Activation, ...]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        if len(given) != count:
            raise UsageError(
                f"{len(given)} activations are given, and the weights have {count + 1} layers, "
                f"which take {count}: one between each two."
            )
        return tuple(_as_activation(each) for each in given)
    if count == 0:
        raise NetworkError(
            "the weights are of a single layer, W1, behind which no activation stands. If that is "
            "meant, give an empty list of activations."
        )
    return (_as_activation(given),) * count


def _as_activation(given: GivenActivation) -> Activation:
    if isinstance(given, Activation):
        return given
    if isinstance(given, str):
        return activation(given)
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise UsageError(
            f"an activation is a name, or a mapping with a name and its parameters, not {given!r}"
        )
    return activation(**given)
