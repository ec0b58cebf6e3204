"""The network Y = U σ(W X + b 1ᵀ) + c 1ᵀ: its four arrays and its σ, checked and loaded."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, permutations
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, deserialize

from colonnade.activations import Activation, activation
from colonnade.errors import NetworkError, UsageError, reason, shown
from colonnade.locations import Options, storage_texts
from colonnade.npyheader import MAGIC, read_header
from colonnade.places import place_at
from colonnade.urls import is_url

__all__ = ["ARRAYS", "Network"]

ARRAYS = ("W1", "b1", "W2", "b2")
"""The names of the four arrays, in files, in stores and in the API."""

_SHAPES = "W1 (m, n), b1 (m,), W2 (q, m), b2 (q,)"
_REMEDY = "Say which is which with network.names: {W1: …, b1: …, W2: …, b2: …}."


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
        suffix = Path(path).suffix
        loader = _LOADERS.get(suffix.lower())
        if loader is None:
            raise NetworkError(
                f"{path}: the format {suffix or 'of a file without suffix'} is not known; "
                f"weights are read from {' and '.join(_LOADERS)} files."
            )
        try:
            with _opened(path, storage_options) as file:
                arrays = loader(path, file)
            try:
                chosen = _choose(arrays, dict(names) if names else None)
                b1, b2 = chosen.get("b1"), chosen.get("b2")
                return cls(chosen["W1"], b1, chosen["W2"], b2, activation)
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


def _described(arrays: Mapping[str, NDArray[Any]]) -> str:
    return _listed(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())


def _listed(texts: Iterable[str]) -> str:
    """Tell the first of a file's arrays: it may hold any number of them, under any names."""
    told = [shown(text) for text in islice(texts, 13)]
    return ", ".join(told if len(told) < 13 else [*told[:12], "…"])


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
        f"these shapes are not those of a network with one hidden layer: {_described(arrays)}; "
        f"expected {_SHAPES}, none of them empty.{hint}"
    )


def _common_dtype(arrays: Mapping[str, NDArray[Any]]) -> np.dtype[Any]:
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
            raise NetworkError(
                f"{name} is of type {array.dtype}; weights are real numbers of up to 64 bits."
            )
    return np.result_type(np.float32, *(array.dtype for array in arrays.values()))


def _choose(
    arrays: dict[str, NDArray[Any]], names: dict[str, str] | None
) -> dict[str, NDArray[Any]]:
    """Find W1, b1, W2, b2 among the arrays of a file."""
    if names is not None:
        if not {"W1", "W2"} <= set(names) <= set(ARRAYS):
            raise NetworkError(
                f"network.names gives {', '.join(names)}; it must give W1 and W2, and may give b1 "
                "and b2."
            )
        absent = [f"{key} = {shown(name)!r}" for key, name in names.items() if name not in arrays]
        if absent:
            raise NetworkError(
                f"network.names asks for {', '.join(absent)}; the file holds {_listed(arrays)}."
            )
        return {key: arrays[name] for key, name in names.items()}
    if not {"W1", "W2"} <= set(arrays):
        return _choose_by_shape(arrays)
    # A single number, a count of training steps for one, is no part of any network
    more = {name for name, array in arrays.items() if name not in ARRAYS and array.ndim > 0}
    if not more:
        return {name: arrays[name] for name in ARRAYS if name in arrays}
    raise NetworkError(
        f"besides W1, b1, W2 and b2 there is {_listed(sorted(more))}: another layer, a scaling, "
        f"a bias under another name? Without it this would be another network. "
        f"The file holds {_described(arrays)}. {_REMEDY}"
    )


def _choose_by_shape(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    vectors = [name for name, array in arrays.items() if array.ndim == 1]
    found = f"The file holds {_described(arrays) or 'no array'}."
    if len(matrices) != 2 or len(vectors) > 2 or len(arrays) != len(matrices) + len(vectors):
        raise NetworkError(
            f"a network with one hidden layer has two matrices and up to two vectors. "
            f"{found} {_REMEDY}"
        )
    ways = []
    for first, second in permutations(matrices):
        W1, W2 = arrays[first], arrays[second]
        if W2.shape[1] != W1.shape[0]:
            continue
        for b1, b2 in permutations([*vectors, None, None][:2]):
            fits_b1 = b1 is None or arrays[b1].shape == W1.shape[:1]
            fits_b2 = b2 is None or arrays[b2].shape == W2.shape[:1]
            way = {"W1": first, "b1": b1, "W2": second, "b2": b2}
            if fits_b1 and fits_b2 and way not in ways:
                ways.append(way)
    if len(ways) == 1:
        return {key: arrays[name] for key, name in ways[0].items() if name is not None}
    fit = "more than one way" if ways else "no way"
    raise NetworkError(f"the shapes fit {_SHAPES} in {fit}. {found} {_REMEDY}")


# Weights hardly compress. Saved anew with np.savez, a file that does is read whatever its size.
_ALWAYS_READ = 256 * 2**20
_MOST_INFLATION = 20
# Of an object, which is held whole beside its arrays
_MOST_FETCHED = 2**32


def _check_entries(archive: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError where an archive of so many bytes claims much more than it holds."""
    entries = archive.infolist()
    names = Counter(entry.filename.removesuffix(".npy") for entry in entries)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"it holds {_listed(twice)} more than once")
    inflated = sum(entry.file_size for entry in entries)
    if inflated > max(_ALWAYS_READ, _MOST_INFLATION * size):
        raise ValueError(
            f"it has {size:,} bytes and would unpack to {inflated:,}; if that is meant, save it "
            "uncompressed, with np.savez"
        )
    for entry in entries:
        # The other methods unpack to any size at once, whatever size the entry claims
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{shown(entry.filename)} is compressed as np.savez does not")
        with archive.open(entry) as file:
            if file.read(len(MAGIC)) != MAGIC:
                continue
            file.seek(0)
            try:
                read_header(file, entry.file_size)
            except ValueError as error:
                raise ValueError(f"{shown(entry.filename)}: {error}") from error


def _opened(path: str | Path, storage_options: Options) -> IO[bytes]:
    """Open a file of weights, or fetch an object whole."""
    try:
        if is_url(path):
            return io.BytesIO(
                place_at(path, storage_texts(storage_options)).read("", _MOST_FETCHED)
            )
        if Path(path).is_file():
            return Path(path).open("rb")
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long, say; no permission
        told = error if is_url(path) else error.strerror
        raise NetworkError(f"{path}: {told} (network.weights).") from None
    except ValueError as error:
        raise NetworkError(f"{path}: these weights are too large: {error}.") from None
    raise NetworkError(f"{path}: there is no such file (network.weights).")


def _load_npz(path: str | Path, file: IO[bytes]) -> dict[str, NDArray[Any]]:
    try:
        # np.load takes what is no zip for a pickle, and leaves a damaged one open
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no zip archive, or not a whole one")
        with zipfile.ZipFile(file) as entries:
            _check_entries(entries, file.seek(0, io.SEEK_END))
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except MemoryError:
        raise
    # zipfile and zlib raise whatever the damage happens to break
    except Exception as error:
        told = f"{path}: this cannot be read as a .npz archive: {reason(error)}"
        raise NetworkError(told) from error


_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError("a key of its header is written twice")
    return keys


def _load_safetensors(path: str | Path, file: IO[bytes]) -> dict[str, NDArray[Any]]:
    arrays = {}
    try:
        content = file.read()
        tensors = deserialize(content)  # type: ignore[no-untyped-call]
        # of a key that is written twice, deserialize takes the last, other readers the first
        end = 8 + int.from_bytes(content[:8], "little")
        json.loads(content[8:end], object_pairs_hook=_unique)
        # in no order of its own
        for name, tensor in sorted(tensors):
            if tensor["dtype"] == "BF16":
                # NumPy has no bfloat16; it is the upper half of a float32
                array = (np.frombuffer(tensor["data"], "<u2").astype("<u4") << 16).view("<f4")
            elif tensor["dtype"] in _SAFETENSORS:
                array = np.frombuffer(tensor["data"], _SAFETENSORS[tensor["dtype"]])
            else:
                raise ValueError(f"{name} is of type {tensor['dtype']}")
            arrays[name] = array.reshape(tensor["shape"])
    except (OSError, SafetensorError, ValueError) as error:
        told = f"{path}: this cannot be read as safetensors: {reason(error)}"
        raise NetworkError(told) from error
    return arrays


_LOADERS: dict[str, Callable[[str | Path, IO[bytes]], dict[str, NDArray[Any]]]] = {
    ".npz": _load_npz,
    ".safetensors": _load_safetensors,
}
