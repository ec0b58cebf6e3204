"""The arrays and texts of an HDF5 file, read by a process of its own.

The HDF5 library is not made for files that may be anybody's: damaged ones make it loop for ever or
crash.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from colonnade.limits import KERAS_OBJECTS, KERAS_SECONDS
from colonnade.network.weights.hdf5_program import ATTRIBUTES

__all__ = ["read_hdf5"]

_PROGRAM = Path(__file__).with_name("hdf5_program.py")

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
        done = subprocess.run(  # noqa: S603 (our own program)
            [sys.executable, "-P", str(_PROGRAM), str(KERAS_OBJECTS)],
            input=file.read(),
            capture_output=True,
            timeout=KERAS_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it took HDF5 more than {KERAS_SECONDS} s, as damaged files do") from None
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ValueError(told[0] if told else "it made HDF5 crash, as damaged files do")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as archive:
        arrays = {name: np.asarray(archive[name]) for name in archive.files}
    return arrays, json.loads(arrays.pop(ATTRIBUTES).tobytes())
