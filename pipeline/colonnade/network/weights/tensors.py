"""Read weights from safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from colonnade.errors import NetworkError, one_line
from colonnade.network.weights.loaded import Loaded, declared_names

__all__ = ["load_safetensors"]

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


def load_safetensors(path: str | Path, file: IO[bytes]) -> Loaded:
    """Read all tensors of a file; raise NetworkError if it cannot be read."""
    arrays: dict[str, NDArray[Any]] = {}
    try:
        content = file.read()
        tensors = deserialize(content)  # type: ignore[no-untyped-call]
        # For a duplicate key, deserialize takes the last value, other readers the first: refuse it
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end], object_pairs_hook=_unique)
        # deserialize returns the tensors in no defined order
        for name, tensor in sorted(tensors):
            if tensor["dtype"] == "BF16":
                # NumPy has no bfloat16; it is the upper half of a float32
                array = (np.frombuffer(tensor["data"], "<u2").astype("<u4") << 16).view("<f4")
            elif tensor["dtype"] in _SAFETENSORS:
                array = np.frombuffer(tensor["data"], _SAFETENSORS[tensor["dtype"]])
            else:
                raise ValueError(f"{name} is of type {tensor['dtype']}; save it as F32 or F64")
            arrays[name] = array.reshape(tensor["shape"])
    except (OSError, SafetensorError, ValueError) as error:
        message = f"{path}: this cannot be read as safetensors: {one_line(error)}"
        raise NetworkError(message) from error
    return Loaded(arrays, input_names=declared_names(header.get("__metadata__") or {}))
