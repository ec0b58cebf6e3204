"""The program of a separate process that reads an HDF5 file of weights from standard input.

It does not import colonnade, which would take longer than reading the file.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import sys
from typing import Any

import numpy as np

__all__ = ["ATTRIBUTES"]

ATTRIBUTES = ".attributes"
"""Name of the array that holds the attributes of all groups, as JSON."""


def _main(content: bytes, most: int) -> bytes:
    texts: dict[str, dict[str, Any]] = {}
    arrays: dict[str, Any] = {}
    left = len(content)
    with importlib.import_module("h5py").File(io.BytesIO(content), "r") as file:
        nodes: dict[str, Any] = {"": file}

        def visit(name: str, node: Any) -> None:
            nodes[name] = node
            if len(nodes) > most:
                raise ValueError(f"it holds more than {most:,} arrays and groups")

        file.visititems(visit)
        for name, node in nodes.items():
            if not hasattr(node, "chunks"):
                texts[name] = {key: _text(value) for key, value in node.attrs.items()}
            elif node.dtype.kind in "iuf" and node.shape is not None:
                left -= _claimed(name, node)
                if left < 0:
                    raise ValueError("its arrays claim more bytes than the file has; save it again")
                arrays[name] = node[()]
    buffer = io.BytesIO()
    said = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, **{ATTRIBUTES: said}, **arrays)
    return buffer.getvalue()


def _claimed(name: str, dataset: Any) -> int:
    message = f"its array {name[:80]!r}"
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{message} lies in another file; save the model in one file")
    if dataset.chunks is not None:
        raise ValueError(f"{message} is chunked or compressed; save it contiguous, as Keras does")
    claimed: int = math.prod(dataset.shape) * dataset.dtype.itemsize
    if claimed > dataset.id.get_storage_size():
        raise ValueError(f"{message} claims the shape {dataset.shape}, more than the file holds")
    return claimed


def _text(given: Any) -> Any:
    if isinstance(given, bytes):
        return given.decode()
    if isinstance(given, np.ndarray):
        return [_text(value) for value in given.reshape(-1).tolist()]
    return given if isinstance(given, str) else str(given)


if __name__ == "__main__":
    try:
        sys.stdout.buffer.write(_main(sys.stdin.buffer.read(), int(sys.argv[1])))
    # A damaged file makes h5py raise any type of error
    except Exception as error:  # noqa: BLE001
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
