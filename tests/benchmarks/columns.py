"""What is read of X for a block of columns, against what is needed, for every format.

    python tests/benchmarks/columns.py [--columns 200000] [--features 64] [--block 2000]

Bytes are those that this process asks the system for (rchar of /proc/self/io). Each block is read
as a worker reads it; X is float32.

one block    a block in the middle, and nothing before it
all          all blocks, one after the other: chunks that several of them share are read once
4 features   the same of 4 features, which lie apart
opening      by `open_columns`, the fingerprint left out
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import fair, machine, table


def bytes_read() -> int:
    """Bytes that this process has asked for so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def cost(action: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes that an action asks for, and what it returns."""
    before = bytes_read()
    counting = bytes_read() - before
    before = bytes_read()
    found = action()
    return bytes_read() - before - counting, found


def write(folder: Path, X: Any, chunk: int) -> dict[str, dict[str, Any]]:
    """Write X, (n, p), in every format; arguments of `open_columns` for each."""
    import h5py  # noqa: PLC0415 (after `fair`)
    import numpy as np  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415
    import xarray as xr  # noqa: PLC0415
    import zarr  # noqa: PLC0415

    n, p = X.shape
    np.save(folder / "features.npy", X)
    np.save(folder / "samples.npy", np.ascontiguousarray(X.T))
    (folder / "shards").mkdir()
    for i, start in enumerate(range(0, p, -(-p // 7))):
        np.save(folder / "shards" / f"{i}.npy", X[:, start : start + -(-p // 7)])
    zarr.create_array(folder / "x.zarr", data=X, chunks=(n, chunk), compressors=None)
    with h5py.File(folder / "contiguous.h5", "w") as file:
        file["X"] = X
    with h5py.File(folder / "chunks.h5", "w") as file:
        file.create_dataset("X", data=X, chunks=(n, chunk), compression="gzip", shuffle=True)
    # Columns are times, latitudes and longitudes, a chunk one time
    times = p // 100
    field = X[:, : times * 100].reshape(n, times, 10, 10).transpose(1, 0, 2, 3)
    ds = xr.Dataset({"X": (("time", "level", "lat", "lon"), field)})
    ds.to_netcdf(folder / "x.nc", encoding={"X": {"chunksizes": (1, n, 10, 10)}})
    frame = pd.DataFrame(X.T, columns=[f"x{i}" for i in range(n)])
    frame.to_parquet(folder / "x.parquet", row_group_size=chunk, compression=None)
    frame.iloc[: p // 10].to_csv(folder / "x.csv", index=False)
    one = {"orientation": "columns_by_features"}
    return {
        ".npy, n × p": {"path": "features.npy"},
        ".npy, p × n": {"path": "samples.npy", **one},
        "folder of .npy": {"path": "shards"},
        "Zarr": {"path": "x.zarr"},
        "HDF5, contiguous": {"path": "contiguous.h5"},
        "HDF5, chunks, gzip": {"path": "chunks.h5"},
        "NetCDF 4": {"path": "x.nc", "array": "X", "features_dim": "level"},
        "Parquet": {"path": "x.parquet"},
        "CSV (a tenth of it)": {"path": "x.csv"},
    }


def main() -> None:
    """Write, read, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--columns", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--block", type=int, default=2000)
    arguments = parser.parse_args()
    fair(1)
    import numpy as np  # noqa: PLC0415

    from colonnade.inputs import open_columns  # noqa: PLC0415

    n, block = arguments.features, arguments.block
    X = np.random.default_rng(0).standard_normal((n, arguments.columns)).astype(np.float32)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, given in write(Path(folder), X, 4 * block + block // 2).items():
            given["path"] = str(Path(folder, given["path"]))
            # Modules, and the index of a CSV, are of the process
            open_columns(**given).read(0, 1)
            opening, columns = cost(lambda g=given: open_columns(**g))
            middle = columns.p // 2 // block * block
            found = []
            for features in (None, [n - 1, 0, n // 2, n // 3]):
                for starts in ([middle], range(0, columns.p - block + 1, block)):
                    x = open_columns(**given, features=features)
                    read, _ = cost(lambda x=x, s=starts: [x.read(k, k + block).shape for k in s])
                    found.append(read / (4 * x.n * block * len(starts)))
            rows.append((name, f"{opening / 1e3:,.0f} kB", *(f"{f:.2f}" for f in found)))
    title = f"X ({n}, {arguments.columns}), blocks of {block}; bytes read over bytes needed"
    head = ("format", "opening", "one block", "all", "4 features: one block", "all")
    table(title, head, rows)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
