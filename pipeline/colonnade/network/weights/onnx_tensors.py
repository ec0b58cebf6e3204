"""Read the constant tensors of an ONNX model, after comparing their sizes with the data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.errors import sanitize
from colonnade.network.weights.extras import import_optional

__all__ = ["read_tensors"]

# ONNX's type number -> bytes of an element, for the types of weights, shapes and switches
_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_EXTERNAL = 1


def read_tensors(
    tensors: Iterable[tuple[str, Any]], folder: Path | None
) -> dict[str, NDArray[Any]]:
    """Read named tensors, and leave out those that do not hold numbers.

    Parameters
    ----------
    tensors
        Names and `onnx.TensorProto`.
    folder
        Folder that must contain the model's external data, or None to refuse external data.

    Raises
    ------
    ValueError
        The size of a tensor does not match its data, or its data lies outside the folder.
    """
    external: dict[Path, int] = {}
    found = {}
    for name, tensor in tensors:
        size = _SIZES.get(tensor.data_type)
        if size is None:
            continue
        shape = tuple(tensor.dims)
        if any(length < 0 for length in shape):
            raise ValueError(
                f"its tensor {sanitize(name)} has the shape {shape}; no length may be negative"
            )
        claimed = math.prod(shape) * size
        if tensor.data_location == _EXTERNAL:
            tensor = _with_data(tensor, name, claimed, folder, external)  # noqa: PLW2901
        elif tensor.HasField("raw_data"):
            _check(name, shape, claimed, len(tensor.raw_data))
        else:
            count = max(
                len(field)
                for field in (tensor.float_data, tensor.double_data, tensor.int32_data,
                              tensor.int64_data, tensor.uint64_data)
            )  # fmt: skip
            _check(name, shape, claimed, count * size)
        array = import_optional("onnx.numpy_helper", "onnx").to_array(tensor)
        # NumPy has no bfloat16
        found[name] = array.astype(np.float32) if array.dtype.kind == "V" else array
    return found


def _check(name: str, shape: tuple[int, ...], claimed: int, there: int) -> None:
    if claimed != there:
        raise ValueError(
            f"its tensor {sanitize(name)} claims the shape {shape}, {claimed:,} bytes, but its "
            f"data has {there:,}"
        )


def _with_data(
    tensor: Any, name: str, claimed: int, folder: Path | None, external: dict[Path, int]
) -> Any:
    """Return a copy of a tensor that includes its external data."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    declared, location = f"its tensor {sanitize(name)} lies in", said.get("location", "")
    if folder is None:
        raise ValueError(
            f"{declared} another file, {sanitize(location)}; save the model in one file"
        )
    path = (folder / location).resolve()
    outside = not path.is_relative_to(folder.resolve()) or ".." in Path(location).parts
    if outside or Path(location).is_absolute() or not location:
        raise ValueError(
            f"{declared} {sanitize(repr(location))}, outside the model's folder; save the model "
            "in one file"
        )
    if not path.is_file():
        raise ValueError(
            f"{declared} {sanitize(location)}, which is not a file; save the model in one file"
        )
    try:
        offset, length = (int(said.get(key, default)) for key, default in
                          (("offset", 0), ("length", claimed)))  # fmt: skip
    except ValueError:
        raise ValueError(
            f"{declared} {sanitize(location)}, at an offset or length that is not an integer"
        ) from None
    size = path.stat().st_size
    _check(name, tuple(tensor.dims), claimed, length)
    if offset < 0 or offset + claimed > size:
        raise ValueError(
            f"{declared} {sanitize(location)} at byte {offset}, but the file ends at byte {size:,}"
        )
    # Tensors that share bytes could take far more memory than the file has
    external[path] = external.get(path, 0) + claimed
    if external[path] > size:
        raise ValueError(
            f"its tensors claim more bytes than {sanitize(location)} has; save the model in one "
            "file"
        )
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(claimed)
    whole = type(tensor)()
    whole.dims.extend(tensor.dims)
    whole.data_type, whole.raw_data = tensor.data_type, data
    return whole
