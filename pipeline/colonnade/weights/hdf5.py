"""The arrays and texts of an HDF5 file, read by a process of its own.

The HDF5 library is not made for files that may be anybody's: damaged ones make it loop for ever or
crash. This file is also that process's program, so that it imports nothing of colonnade.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import subprocess
import sys
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_hdf5"]

_MOST_OBJECTS = 10_000
# A gigabyte takes a few
_MOST_SECONDS = 60
_ATTRIBUTES = ".attributes"

Texts = dict[str, dict[str, Any]]


def read_hdf5(file: IO[bytes]) -> tuple[dict[str, NDArray[Any]], Texts]:
    """Read all numbers by their paths, and the texts among the attributes of each group.

    Links are not followed: they may lead to other files.

    Raises
    ------
    ValueError
        It is no HDF5 file, or a damaged one; or an array claims more than there is, is compressed,
        or lies elsewhere.
    """
    try:
        done = subprocess.run(  # noqa: S603 (this file)
            [sys.executable, "-P", __file__],
            input=file.read(),
            capture_output=True,
            timeout=_MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it took HDF5 more than {_MOST_SECONDS} s, as damaged files do") from None
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ValueError(told[0] if told else "it made HDF5 crash, as damaged files do")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as archive:
        arrays = {name: np.asarray(archive[name]) for name in archive.files}
    return arrays, json.loads(arrays.pop(_ATTRIBUTES).tobytes())


def _main(content: bytes) -> bytes:
    texts: Texts = {}
    arrays: dict[str, Any] = {}
    left = len(content)
    with importlib.import_module("h5py").File(io.BytesIO(content), "r") as file:
        nodes: dict[str, Any] = {"": file}

        def visit(name: str, node: Any) -> None:
            nodes[name] = node
            if len(nodes) > _MOST_OBJECTS:
                raise ValueError(f"it holds more than {_MOST_OBJECTS:,} arrays and groups")

        file.visititems(visit)
        for name, node in nodes.items():
            if not hasattr(node, "chunks"):
                texts[name] = {key: _text(value) for key, value in node.attrs.items()}
            elif node.dtype.kind in "iuf" and node.shape is not None:
                left -= _claimed(name, node)
                if left < 0:
                    raise ValueError("its arrays claim more than there is")
                arrays[name] = node[()]
    buffer = io.BytesIO()
    said = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, **{_ATTRIBUTES: said}, **arrays)
    return buffer.getvalue()


def _claimed(name: str, dataset: Any) -> int:
    told = f"its array {name[:80]!r}"
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{told} lies in another file")
    if dataset.chunks is not None:
        raise ValueError(f"{told} is chunked or compressed, as Keras does not write it")
    claimed: int = math.prod(dataset.shape) * dataset.dtype.itemsize
    if claimed > dataset.id.get_storage_size():
        raise ValueError(f"{told} claims the shape {dataset.shape}, more than is there")
    return claimed


def _text(given: Any) -> Any:
    if isinstance(given, bytes):
        return given.decode()
    if isinstance(given, np.ndarray):
        return [_text(value) for value in given.reshape(-1).tolist()]
    return given if isinstance(given, str) else str(given)


if __name__ == "__main__":
    try:
        sys.stdout.buffer.write(_main(sys.stdin.buffer.read()))
    # h5py raises whatever the damage happens to break
    except Exception as error:  # noqa: BLE001
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
