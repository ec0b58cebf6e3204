"""The factored layout beside the dense one: bytes, runs, reads, and statistics over all columns.

    python tests/benchmarks/factored.py [--columns 200000] [--rounds 2] [--reads 100]

Every store is written by `run` on one cluster and read in this process, from the page cache. Of
what is alternated the best of the rounds counts.

run          seconds from a job to its finished store, on a cluster that is there
100 together `reads` reads of 100 neighbouring columns, at random, of what `cn.open` gives
100 apart    a tenth as many of 100 columns, each at random
… by xarray  the same of what xr.open_dataset(path, engine="colonnade") gives: without dask, which
             has whole chunks computed or read of which columns are taken at random
statistics   mean and gram: a run that keeps nothing but these two, which forms no block; beside the
             same blocks formed and averaged, in as many processes, and stored nowhere: by the
             kernel of a dense run, and as one writes it in NumPy
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import Shape, fair, machine, make_job, shared_cluster, table

WORKERS = 2
AT_ONCE = 100


def seconds(action: Callable[[], Any]) -> float:
    clock = time.perf_counter()
    action()
    return time.perf_counter() - clock


def formed(job: dict[str, Any], start: int, stop: int) -> tuple[Any, Any]:
    """Sums of J and of JᵀJ over some columns, of blocks that are formed as a dense run does."""
    import numpy as np  # noqa: PLC0415 (after `fair`)

    import colonnade as cn  # noqa: PLC0415
    from colonnade.compute.kernel.tiles import Tiles, overlapping  # noqa: PLC0415
    from colonnade.compute.products import PRODUCTS, BlockAccumulator  # noqa: PLC0415

    network = cn.Network.load(job["network"]["weights"], job["network"]["activation"])
    X = np.load(job["input"]["path"], mmap_mode="r")
    tiles = Tiles(network, X.dtype, np.float32)
    n, q = network.n, network.q
    sums = {"mean_blocks": np.zeros((1, q, n)), "gram_blocks": np.zeros((1, n, n))}
    rows = BlockAccumulator(lambda name, first, last: sums[name][first:last])
    products = [PRODUCTS[name](tiles.kernel) for name in ("mean", "gram")]
    out = np.empty((tiles.columns, q, n), np.float32)
    for _, a, b in overlapping(start, stop, tiles.columns):
        T = tiles.blocks(tiles.slopes(X[:, a:b], a), a, out[: b - a])
        for product in products:
            product.blocks(T, rows)
    return sums["mean_blocks"], sums["gram_blocks"]


def written(job: dict[str, Any], start: int, stop: int) -> tuple[Any, Any]:
    """Sums of J and of JᵀJ over some columns, as one writes it in NumPy, some hundred at a time."""
    import numpy as np  # noqa: PLC0415 (after `fair`)

    import colonnade as cn  # noqa: PLC0415

    network = cn.Network.load(job["network"]["weights"], job["network"]["activation"])
    X = np.load(job["input"]["path"], mmap_mode="r")
    W, b, U, n = network.W1, network.b1[:, None], network.W2, network.n
    total, gram = np.zeros((network.q, n)), np.zeros((n, n))
    for a in range(start, stop, 256):
        s = 1 - np.tanh(W @ X[:, a : min(a + 256, stop)] + b) ** 2
        T = (U * s.T[:, None, :]) @ W
        total += T.sum(axis=0, dtype=np.float64)
        rows = T.reshape(-1, n).astype(np.float64)
        gram += rows.T @ rows
    return total, gram


def averaged(pool: ProcessPoolExecutor, how: Callable[..., Any], job: Any, p: int) -> None:
    ends = [p * i // WORKERS for i in range(WORKERS + 1)]
    list(pool.map(how, [job] * WORKERS, ends[:-1], ends[1:]))


def stored(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--columns", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--reads", type=int, default=100)
    parser.add_argument("--shape", default="256,128,64")
    given = parser.parse_args()
    fair(threads=1)
    import numpy as np  # noqa: PLC0415
    import xarray as xr  # noqa: PLC0415

    import colonnade as cn  # noqa: PLC0415

    shape, p = Shape(*map(int, given.shape.split(","))), given.columns
    root = Path(tempfile.mkdtemp(prefix="colonnade-bench-", dir=os.environ.get("BENCH_DIR")))
    times: dict[tuple[str, str], float] = {}

    def note(what: str, side: str, action: Callable[[], Any]) -> None:
        times[what, side] = min(seconds(action), times.get((what, side), np.inf))

    try:
        with shared_cluster(WORKERS) as cluster:
            job = make_job(root, shape, p, cluster)

            def run(layout: str, *products: str) -> None:
                name = layout if products == ("jacobian",) else "statistics"
                output = {"path": str(root / name), "layout": layout, "products": list(products)}
                cn.run({**job, "output": output}, overwrite=True)

            spawn = get_context("spawn")
            with ProcessPoolExecutor(WORKERS, mp_context=spawn) as pool:
                for how in (formed, written):
                    averaged(pool, how, job, min(p, 1000))
                for _ in range(given.rounds):
                    for layout in ("dense", "factored"):
                        note("run", layout, lambda layout=layout: run(layout, "jacobian"))
                    for how in (formed, written):
                        note(how.__name__, "dense", lambda how=how: averaged(pool, how, job, p))
                    note("mean and gram", "factored", lambda: run("factored", "mean", "gram"))
        rng = np.random.default_rng(3)
        many = min(AT_ONCE, p)
        starts = rng.integers(p - many + 1, size=given.reads)
        apart = np.sort(rng.integers(p, size=(max(1, given.reads // 10), many)))
        ways = {"": cn.open, " by xarray": partial(xr.open_dataset, engine="colonnade")}
        tensors = {
            (way, layout): opened(root / layout).jacobian
            for way, opened in ways.items()
            for layout in ("dense", "factored")
        }
        for _ in range(given.rounds):
            for (way, layout), T in tensors.items():
                note(f"100 together{way}", layout,
                     lambda T=T: [T[k : k + many].values for k in starts.tolist()])  # fmt: skip
                note(f"100 apart{way}", layout, lambda T=T: [T[k].values for k in apart])
        same = all(
            np.array_equal(tensors[way, "dense"][k], tensors[way, "factored"][k])
            for way in ways
            for k in (*(slice(k, k + many) for k in starts[:3].tolist()), apart[0])
        )
        sizes = {
            "dense": stored(root / "dense/jacobian"),
            "factored": stored(root / "factored/slope"),
        }
    finally:
        shutil.rmtree(root)
    rows: list[list[Any]] = [
        [
            "bytes",
            f"{sizes['dense'] / 1e6:,.1f} MB",
            f"{sizes['factored'] / 1e6:,.1f} MB",
            f"{sizes['dense'] / sizes['factored']:.1f}",
            f"qn / m = {shape.q * shape.n / shape.m:.1f}",
        ]
    ]
    times["mean and gram", "dense"] = times["formed", "dense"]
    times["the same in NumPy", "dense"] = times["written", "dense"]
    times["the same in NumPy", "factored"] = times["mean and gram", "factored"]
    notes = {
        "run": "", "mean and gram": "blocks formed and averaged · a run of the two",
        "the same in NumPy": "as above, by hand",
        **{f"100 together{way}": f"{given.reads} reads" for way in ways},
        **{f"100 apart{way}": f"{len(apart)} reads" for way in ways},
    }  # fmt: skip
    for what, more in notes.items():
        dense, factored = times[what, "dense"], times[what, "factored"]
        cells = [f"{dense:.2f} s", f"{factored:.2f} s", f"{dense / factored:.1f}", more]
        rows.append([what, *cells])
    rows.append(["equal to the bit", "", str(same), "", ""])
    head = ["", "dense", "factored", "ratio", ""]
    table(f"{p:,} columns of {shape}, float32; {machine()}", head, rows)


if __name__ == "__main__":
    main()
