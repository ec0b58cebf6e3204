"""The network: affine layers with an activation σ between each two; its checks and loaders."""

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
    sigma_text,
)
from colonnade.network.weights.shapes import as_array, check_shapes, common_dtype
from colonnade.storage.locations import Options

__all__ = [
    "GivenActivation",
    "Layer",
    "Network",
]

GivenActivation: TypeAlias = str | Mapping[str, Any] | Activation


class Layer(NamedTuple):
    """An affine layer W x + b, with W (outputs, inputs) and b (outputs,)."""

    W: NDArray[Any]
    b: NDArray[Any]


@dataclass(frozen=True, eq=False, init=False)
class Network:
    """A network that maps each column of X (n, p) by itself.

    The constructor makes one hidden layer; `chain` makes any depth.

    Parameters
    ----------
    W1
        (m, n), weights of the first layer; W in the formulas.
    b1
        (m,), bias of the first layer; None for zeros.
    W2
        (q, m), weights of the second layer; U in the formulas.
    b2
        (q,), bias of the second layer; None for zeros; c in the formulas.
    activation
        A name, a mapping with ``name`` and its parameters, or an `Activation`.

    Attributes
    ----------
    layers
        The layers, in order from X.
    activations
        The activations, one between each two layers.
    folded
        A description of each scaling, from the file or the user, that is folded into the layers.
    input_names
        (n,), in the order of the first layer's columns, or None where neither the file nor the
        estimator gives them.

    Raises
    ------
    NetworkError
        The shapes do not fit, or a value is not a finite real number.
    UsageError
        The activation is unknown, or the imported object is not an activation.
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
            single layer, without hidden units, is allowed.
        activations
            One activation for all hidden layers, or a list with one for each.

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
                    "weights must be finite. Check the training, or the export, of this network."
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
        """Number of inputs, of hidden units of each hidden layer, and of outputs."""
        return (int(self.layers[0].W.shape[1]), *(len(layer.b) for layer in self.layers))

    @property
    def hidden(self) -> tuple[int, ...]:
        """Number of hidden units of each hidden layer."""
        return self.sizes[1:-1]

    @property
    def m(self) -> int:
        """Number of hidden units, summed over the layers."""
        return sum(self.hidden)

    @property
    def n(self) -> int:
        """Number of inputs."""
        return self.sizes[0]

    @property
    def q(self) -> int:
        """Number of outputs."""
        return self.sizes[-1]

    @property
    def has_slopes(self) -> bool:
        """Whether σ′ at a column is a vector (m,): one hidden layer with an elementwise σ."""
        return len(self.activations) == 1 and not self.activations[0].columnwise

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name: W1, b1, W2, b2 and so on."""
        names = array_names(len(self.layers))
        return dict(zip(names, (a for layer in self.layers for a in layer), strict=True))

    @property
    def W1(self) -> NDArray[Any]:  # noqa: N802 (the names of the mathematics)
        """The first layer's weights, (m, n).

        W1, b1, W2, b2 and `activation` raise NetworkError unless there is one hidden layer.
        """
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
        """The σ of the only hidden layer."""
        return self.activations[len(self._pair) - 2]

    @property
    def _pair(self) -> tuple[Layer, ...]:
        if len(self.layers) != 2:
            raise NetworkError(
                f"this network has {len(self.hidden)} hidden layers, not one; use its attributes "
                "layers and activations."
            )
        return self.layers

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of all arrays: float32 or float64."""
        return self.layers[0].W.dtype

    def __repr__(self) -> str:
        m = " + ".join(map(str, self.hidden)) or "0"
        text = ", ".join(repr(sigma) for sigma in self.activations)
        return f"Network(n={self.n}, m={m}, q={self.q}, {text or 'affine'}, {self.dtype})"

    @property
    def fingerprint(self) -> str:
        """The sha256 of the activations and arrays, which identifies what the network computes."""
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
        """Load a network from a file; the suffix selects the format.

        Parameters
        ----------
        path
            A .npz, .safetensors, .onnx, .pt, .pth, .keras, .h5 or .skops file, or a .zarr group;
            or the URL of one in an object store.
        activation
            As for `chain`: one for all hidden layers, or a list. May be left out where the file
            states the activations.
        names
            The file's array for each of the network's, as ``{"W1": "fc1.weight", …}``; an omitted
            bias is zero. Without `names`, arrays called W1, b1, W2, b2 and so on are taken by
            name; other arrays are assigned by shape, if their shapes fit in exactly one way.
        matrices
            "in_by_out" or "out_by_in": how a file that holds only arrays stores its matrices.
            Without it, the shapes decide. Where they fit either way, the names decide (a `kernel`
            is in × out, a `weight` out × in), and then the format's convention.
        storage_options
            Options of the object store, as in a job.
        input_mean, input_std, output_mean, output_std
            The scaling of X (n,) and Y (q,) in training: the network was trained on
            (x − mean)/std, and its output is std y + mean. Each is a number, a sequence of
            numbers, the name of an array in the file, or the path of a .npy file. They are folded
            into the layers, together with the scalings that the file itself holds.

        Raises
        ------
        NetworkError
            The file cannot be read, does not hold one network, or states another activation than
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
            raise NetworkError(
                f"{path}: these weights do not fit into the memory of this process; run where "
                "there is more."
            ) from None

    @classmethod
    def from_sklearn(cls, estimator: Any) -> Network:
        """Make a network from a fitted MLPRegressor or MLPClassifier.

        Parameters
        ----------
        estimator
            The MLP, alone, as the last step of a Pipeline after StandardScaler, MinMaxScaler,
            MaxAbsScaler or RobustScaler, or in a TransformedTargetRegressor with one of these.
            The scalers are folded in. For a classifier, Y is the logits: the input of the softmax
            or, for two classes, of the logistic function.

        Raises
        ------
        NetworkError
            The estimator is of another kind, or is not fitted.
        """
        return cls._of(estimator_weights(estimator), None)

    @classmethod
    def _of(
        cls, chain: Chain, given: GivenActivation | Sequence[GivenActivation] | None
    ) -> Network:
        network = cls.chain(chain.layers, _agreed(chain.activations, given))
        object.__setattr__(network, "folded", chain.folded)
        # Another number of names cannot be those of the inputs
        if len(chain.input_names or ()) == network.n:
            object.__setattr__(network, "input_names", chain.input_names)
        return network


def _agreed(
    found: Sequence[Mapping[str, Any] | None],
    given: GivenActivation | Sequence[GivenActivation] | None,
) -> list[Activation]:
    """Return the activations of the file, which must equal the given ones.

    Where the file states none, return the given one.
    """
    if given is None:
        if None in found:
            raise NetworkError(
                "the file does not state the activation; give it, for example "
                "network.activation: tanh."
            )
        return [_as_activation(declared) for declared in found if declared is not None]
    asked = _as_activations(given, len(found))
    return [
        sigma if declared is None else _same(_as_activation(declared), sigma)
        for declared, sigma in zip(found, asked, strict=True)
    ]


def _same(declared: Activation, given: Activation) -> Activation:
    same = declared.name == given.name and np.allclose(
        list(declared.parameters.values()), list(given.parameters.values()), rtol=1e-6, atol=0
    )
    if not same:
        pair = [sigma_text({"name": a.name, **a.parameters}) for a in (declared, given)]
        raise NetworkError(
            f"the file states the activation {pair[0]}, but {pair[1]} is given; leave "
            "network.activation out."
        )
    return declared


def _as_activations(
    given: GivenActivation | Sequence[GivenActivation], count: int
) -> tuple[Activation, ...]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        if len(given) != count:
            raise UsageError(
                f"{len(given)} activations are given, but the weights have {count + 1} layers, "
                f"which take {count}: one between each two. Give a list of that length, or one "
                "activation for all."
            )
        return tuple(_as_activation(each) for each in given)
    if count == 0:
        raise NetworkError(
            "the weights have a single layer, W1, and no activation follows the last layer. If one "
            "layer is intended, give an empty list of activations."
        )
    return (_as_activation(given),) * count


def _as_activation(given: GivenActivation) -> Activation:
    if isinstance(given, Activation):
        return given
    if isinstance(given, str):
        return activation(given)
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise UsageError(
            "an activation must be a name, or a mapping with a name and its parameters, not "
            f"{given!r}; write tanh, for example, or {{name: leaky_relu, negative_slope: 0.01}}"
        )
    return activation(**given)
