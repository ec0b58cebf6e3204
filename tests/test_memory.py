"""What a plan says that a worker needs, it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import colonnade as cn
from support import make_columns, make_network, save_network


@pytest.mark.parametrize(
    ("shapes", "cluster", "output"),
    [
        ((4001, 128, 256, 61), {}, {"block_size": "60 MiB"}),
        ((4001, 127, 101, 61), {"threads_per_worker": 3}, {"block_size": "17 MiB"}),
        ((4001, 127, 101, 61), {}, {"block_size": "37 MiB", "compression": "lz4"}),
        ((4001, 127, 101, 61), {}, {"block_size": "37 MiB", "dtype": "float64"}),
        ((20_011, 307, 61, 2), {}, {"block_size": "37 MiB", "products": ["value", "jacobian"]}),
        ((20_011, 61, 1511, 31), {}, {"products": ["norm", "mean"]}),
        ((601, 401, 1511, 397), {}, {"block_size": "37 MiB"}),
        ((20_011, 61, 1511, 31), {"threads_per_worker": 2}, {"products": ["gram"]}),
        ((20_011, 61, 1511, 31), {}, {"products": ["gram", "mean"], "dtype": "float64"}),
        ((20_011, 127, 101, 397), {"threads_per_worker": 5}, {"products": ["mean_abs"]}),
    ],
    ids=[
        "block",
        "threads",
        "compressed",
        "float64",
        "columns of X",
        "norm",
        "weights",
        "gram",
        "gram of float64",
        "tiles",
    ],
)
def test_predicted_within_a_fifth(tmp_path: Path, shapes, cluster, output) -> None:
    p, n, m, q = shapes
    network = make_network(n=n, m=m, q=q)
    save_network(tmp_path / "network.npz", network)
    np.save(tmp_path / "X.npy", make_columns(n, p, np.float32))
    job: dict[str, Any] = {
        "network": {"weights": str(tmp_path / "network.npz"), "activation": "tanh"},
        "input": {"path": str(tmp_path / "X.npy")},
        "output": {"path": str(tmp_path / "out.zarr"), **output},
        "cluster": {"workers": 1, "memory_per_worker": "1 GiB", **cluster},
    }
    needed = cn.plan(job).memory_needed
    taken = cn.run(job).peak_memory
    assert 0.8 * taken <= needed <= 1.2 * taken, cn.plan(job).memory
