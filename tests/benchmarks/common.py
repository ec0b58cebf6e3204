"""What the benchmarks share: fair BLAS settings, networks of a shape, medians, tables."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Set before NumPy is imported: one BLAS thread a process, and the processor's own kernels
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def fair(threads: int) -> None:
    """Start this program again with the environment that is fair to every side."""
    wanted = {name: str(threads) for name in THREADS}
    if any(name in os.environ for name in UNSET) or any(
        os.environ.get(name) != value for name, value in wanted.items()
    ):
        environment = {k: v for k, v in os.environ.items() if k not in UNSET} | wanted
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606


@dataclass(frozen=True)
class Shape:
    """A network's sizes, in the order in which the tables name them."""

    m: int
    n: int
    q: int

    def __str__(self) -> str:
        return f"({self.m}, {self.n}, {self.q})"


SHAPES = [
    Shape(256, 128, 64),
    Shape(64, 64, 10),
    Shape(512, 256, 128),
    Shape(1024, 784, 10),
    Shape(512, 124, 128),
    Shape(512, 556, 368),
    Shape(128, 20, 1),
    Shape(2048, 64, 1000),
    Shape(191, 300, 37),
]


def make_network(shape: Shape, dtype: Any, activation: str = "tanh") -> Any:
    """A random network whose pre-activations have a spread of about one."""
    import numpy as np  # noqa: PLC0415 (after `fair`)

    import colonnade as cn  # noqa: PLC0415

    rng = np.random.default_rng(0)
    W = (rng.standard_normal((shape.m, shape.n)) / shape.n**0.5).astype(dtype)
    U = (rng.standard_normal((shape.q, shape.m)) / shape.m**0.5).astype(dtype)
    b = rng.standard_normal(shape.m).astype(dtype)
    return cn.Network(W, b, U, np.zeros(shape.q, dtype), activation)


def make_chain(sizes: Sequence[int], activation: str, dtype: Any) -> Any:
    """A random network of several hidden layers, as `make_network` makes one of one."""
    import numpy as np  # noqa: PLC0415

    import colonnade as cn  # noqa: PLC0415

    rng = np.random.default_rng(0)
    layers = [
        ((rng.standard_normal((m, n)) / n**0.5).astype(dtype), rng.standard_normal(m).astype(dtype))
        for n, m in itertools.pairwise(sizes)
    ]
    return cn.Network.chain(layers, activation)


def blas() -> str:
    """Which BLAS ran, with which kernel, on how many threads."""
    from threadpoolctl import threadpool_info  # noqa: PLC0415

    found = [
        f"{i['internal_api']} {i['version']} {i.get('architecture', '')} ×{i['num_threads']}"
        for i in threadpool_info()
        if i["user_api"] == "blas"
    ]
    return ", ".join(sorted(set(found)))


def interleaved(sides: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Median seconds of each side, taken in turn A B A B, for about `seconds` a side."""
    for side in sides.values():
        side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    end = time.perf_counter() + seconds * len(sides)
    while time.perf_counter() < end or len(next(iter(times.values()))) < 3:
        for name, side in sides.items():
            clock = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - clock)
    return {name: statistics.median(found) for name, found in times.items()}


@contextmanager
def shared_cluster(workers: int) -> Iterator[dict[str, Any]]:
    """A local cluster, as a job's cluster section, that all rounds of a benchmark use.

    Rounds that each start their own would wait for seconds between one side's last write and the
    other side's first; virtual machines give free memory back meanwhile, and only the side that
    has not waited writes to pages that are there.
    """
    import distributed  # noqa: PLC0415

    with distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield {"kind": "address", "address": cluster.scheduler_address, "workers": workers}


def make_job(folder: Path, shape: Shape, p: int, cluster: dict[str, Any]) -> dict[str, Any]:
    """Write a network and X, float32, to a folder, and return the job that reads them."""
    import numpy as np  # noqa: PLC0415

    network = make_network(shape, np.float32)
    X = np.random.default_rng(1).standard_normal((shape.n, p)).astype(np.float32)
    np.savez(folder / "network.npz", W1=network.W1, b1=network.b1, W2=network.W2, b2=network.b2)
    np.save(folder / "X.npy", X)
    return {
        "network": {"weights": str(folder / "network.npz"), "activation": "tanh"},
        "input": {"path": str(folder / "X.npy")},
        "output": {"path": str(folder / "out")},
        "cluster": cluster,
    }


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a Markdown table."""
    told = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *told]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    print(f"\n{title}\n")
    print(line(head))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in told:
        print(line(row))
    sys.stdout.flush()


def missing(names: Iterable[str]) -> list[str]:
    """Name the peers that are not installed."""
    from importlib.util import find_spec  # noqa: PLC0415

    return [name for name in names if find_spec(name) is None]


def machine() -> str:
    """Say where this ran."""
    import numpy as np  # noqa: PLC0415
    import zarr  # noqa: PLC0415

    processor = subprocess.run(
        ["lscpu"], capture_output=True, text=True, check=False
    ).stdout.partition("Model name:")[2].split("\n")[0].strip()  # fmt: skip
    python = sys.version.split()[0]
    return (
        f"{os.cpu_count()} cores {processor}; Python {python}, NumPy {np.__version__}, "
        f"zarr {zarr.__version__}; {blas()}"
    )
