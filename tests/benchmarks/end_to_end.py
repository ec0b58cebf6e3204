"""A run's steady state over a floor: the same GEMMs and plain writes of the same bytes.

    python tests/benchmarks/end_to_end.py [--gigabytes 2] [--rounds 5] [--sides …]

Sides take turns, A B A B, and the best of each counts: writes of gigabytes are bimodal on virtual
machines, where memory that was not touched lately costs ten times as much.

floor       processes that each multiply S′ᵀ K into one buffer and write() it, and nothing else
colonnade   `run`, from its first task's start to its last receipt, on one cluster for all rounds
dask.array  map_blocks with einsum, and to_zarr, on that cluster
jax         a loop over batches, jit(vmap(jacrev)), each written to Zarr, on both cores
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import Shape, fair, machine, make_job, make_network, missing, shared_cluster, table

WORKERS = 2


def floor_worker(rank: int, shape: Shape, blocks: int, B: int, folder: str, gate: Any) -> None:
    import numpy as np  # noqa: PLC0415 (in a process of its own)

    m, qn = shape.m, shape.q * shape.n
    rng = np.random.default_rng(rank)
    S = rng.random((m, B), np.float32)
    K = rng.random((m, qn), np.float32)
    out = np.empty((B, qn), np.float32)
    np.matmul(S.T, K, out=out)
    gate.wait()
    for block in range(rank, blocks, WORKERS):
        np.matmul(S.T, K, out=out)
        with open(f"{folder}/{block}", "wb", buffering=0) as file:
            file.write(out)
    gate.wait()


def floor(shape: Shape, blocks: int, B: int, folder: Path) -> float:
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(WORKERS + 1)
    processes = [
        context.Process(target=floor_worker, args=(rank, shape, blocks, B, str(folder), gate))
        for rank in range(WORKERS)
    ]
    for process in processes:
        process.start()
    gate.wait()
    clock = time.perf_counter()
    gate.wait()
    seconds = time.perf_counter() - clock
    for process in processes:
        process.join()
    return seconds


def colonnade(job: dict[str, Any]) -> float:
    import colonnade as cn  # noqa: PLC0415
    from colonnade.events import BlockDone  # noqa: PLC0415

    receipts: list[BlockDone] = []
    cn.run(job, listener=lambda e: receipts.append(e) if isinstance(e, BlockDone) else None)
    busy: dict[str, float] = {}
    for part in ("read", "compute", "write"):
        busy[part] = sum(getattr(r, f"seconds_{part}") for r in receipts) / WORKERS
    seconds = max(r.ended for r in receipts) - min(r.started for r in receipts)
    told = ", ".join(f"{part} {spent:.2f}" for part, spent in busy.items())
    print(f"    colonnade {seconds:.2f} s a worker: {told}", file=sys.stderr)
    return seconds


def dask_array(network: Any, X: Any, B: int, path: Path, scheduler: str) -> float:
    import dask.array as da  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    from distributed import Client  # noqa: PLC0415

    W, b, U = network.W1, network.b1, network.W2

    def block(x: Any) -> Any:
        S = 1 - np.tanh(x @ W.T + b) ** 2
        return np.einsum("ih,kh,hj->kij", U, S, W, optimize=True)

    q, n = U.shape[0], W.shape[1]
    with Client(scheduler):
        columns = da.from_array(np.ascontiguousarray(X.T), chunks=(B, n))
        T = columns.map_blocks(
            block, chunks=(columns.chunks[0], (q,), (n,)), new_axis=2, dtype=np.float32
        )
        clock = time.perf_counter()
        T.to_zarr(str(path))
        return time.perf_counter() - clock


def jax_worker(network: Any, X: Any, B: int, path: str, result: Any) -> None:
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    import zarr  # noqa: PLC0415

    W, b, U = (jnp.asarray(a) for a in (network.W1, network.b1, network.W2))
    blocks = jax.jit(jax.vmap(jax.jacrev(lambda x: U @ jnp.tanh(W @ x + b))))
    p, q, n = X.shape[1], U.shape[0], W.shape[1]
    T = zarr.create_array(path, shape=(p, q, n), chunks=(B, q, n), dtype="f4", compressors=None)
    columns = np.ascontiguousarray(X.T)
    blocks(columns[:B]).block_until_ready()
    clock = time.perf_counter()
    for k in range(0, p, B):
        T[k : k + B] = np.asarray(blocks(columns[k : k + B]))
    result.put(time.perf_counter() - clock)


def jax_loop(network: Any, X: Any, B: int, path: Path) -> float:
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=jax_worker, args=(network, X, B, str(path), result))
    process.start()
    seconds = float(result.get())
    process.join()
    return seconds


def measure(
    shape: Shape,
    gigabytes: float,
    rounds: int,
    sides: list[str],
    extra: dict[str, Any],
    cluster: dict[str, Any],
) -> list[Any]:
    import numpy as np  # noqa: PLC0415

    import colonnade as cn  # noqa: PLC0415

    p = int(gigabytes * 1e9) // (shape.q * shape.n * 4)
    root = Path(tempfile.mkdtemp(prefix="colonnade-bench-", dir=os.environ.get("BENCH_DIR")))
    job = make_job(root, shape, p, cluster)
    job["output"] |= extra
    network = make_network(shape, np.float32)
    X = np.load(root / "X.npy", mmap_mode="r")
    # The grid asks for the cluster's memory, which the plan of an address does not know
    grid = cn.plan(job | {"cluster": {"workers": WORKERS}}).grid
    B = grid.block_columns
    out = root / "out"
    run: dict[str, Callable[[], float]] = {
        "floor": lambda: floor(shape, grid.blocks, B, out),
        "colonnade": lambda: colonnade(job),
        "dask.array": lambda: dask_array(network, X, B, out, cluster["address"]),
        "jax": lambda: jax_loop(network, X, B, out),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    try:
        for _ in range(rounds):
            for side in sides:
                times[side].append(run[side]())
                shutil.rmtree(root / "out")
    finally:
        shutil.rmtree(root)
    best = {side: min(found) for side, found in times.items()}
    print(f"    all: { {s: [round(t, 2) for t in f] for s, f in times.items()} }", file=sys.stderr)
    return [
        shape,
        f"{p:,}",
        f"{grid.blocks} × {B}",
        *(f"{best[side]:.2f} s" for side in sides),
        *(f"{best['floor'] / best['colonnade']:.2f}" for _ in "1" if "floor" in sides),
        *(f"{best[s] / best['colonnade']:.1f}" for s in ("dask.array", "jax") if s in sides),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", default=["floor", "colonnade", "dask.array", "jax"])
    parser.add_argument("--set", nargs="*", default=[], help="key=value of the output section")
    parser.add_argument("--shapes", nargs="*", default=["256,128,64", "512,124,128"])
    given = parser.parse_args()
    fair(threads=1)
    for name in missing(side for side in given.sides if side == "jax"):
        print(f"left out: {name} is not installed (pip install {name})")
        given.sides.remove(name)
    extra = dict(pair.split("=", 1) for pair in given.set)
    shapes = [Shape(*map(int, text.split(","))) for text in given.shapes]
    with shared_cluster(WORKERS) as cluster:
        rows = [
            measure(shape, given.gigabytes, given.rounds, given.sides, extra, cluster)
            for shape in shapes
        ]
    head = ["(m, n, q)", "columns", "blocks", *given.sides]
    head += ["of the floor"] if "floor" in given.sides else []
    head += [f"× {side}" for side in ("dask.array", "jax") if side in given.sides]
    table(f"End to end, {given.gigabytes} GB, best of {given.rounds}; {machine()}", head, rows)


if __name__ == "__main__":
    main()
