"""Read the arrays and text attributes of an HDF5 file in a separate process.

The HDF5 library is not safe for untrusted files: damaged ones make it loop forever or crash.
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
    """Read all numeric arrays by path, and the attributes of each group as text.

    Links are not followed, because they may lead to other files.

    Raises
    ------
    ValueError
        The file is not HDF5 or is damaged; or an array claims more bytes than the file has, is
        chunked or compressed, or lies in another file.
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
        raise ValueError(
            f"HDF5 took more than {KERAS_SECONDS} s, as it does on damaged files; save it again"
        ) from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ValueError(
            lines[0] if lines else "HDF5 crashed, as it does on damaged files; save it again"
        )
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as archive:
        arrays = {name: np.asarray(archive[name]) for name in archive.files}
    return arrays, json.loads(arrays.pop(ATTRIBUTES).tobytes())
