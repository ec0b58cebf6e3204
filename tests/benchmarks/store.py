"""What the size of chunks and their codecs cost who writes a store and who reads it.

    python tests/benchmarks/store.py [--gigabytes 1] [--rounds 5] [--chunks …] [--codecs …]

Every store is written by `run` on one cluster, and read in this process from the page cache. Each
figure is the best of the rounds for writing, the median for reading.

write        bytes over the seconds that a worker computes and writes
1 column     one column's block, at random
1,000        that many columns, one after the other
one entry    T[:, i, j]: one entry of all columns' blocks, which is spread over all of the store
error        the largest relative one of numbers above the root mean square, in the first columns
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import Shape, fair, machine, make_job, shared_cluster, table

WORKERS = 2
PIPELINES = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "fused": "zarr.core.codec_pipeline.FusedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


def available(pipeline: str) -> bool:
    import zarr.core.codec_pipeline as built_in  # noqa: PLC0415

    module, _, name = PIPELINES[pipeline].rpartition(".")
    try:
        return hasattr(built_in if module.startswith("zarr.core") else __import__(module), name)
    except ImportError:
        return False


def write_speed(job: dict[str, Any]) -> tuple[float, float]:
    """GB/s of computing and writing together, and seconds of writing alone, for each worker."""
    import colonnade as cn  # noqa: PLC0415
    from colonnade.events import BlockDone  # noqa: PLC0415

    receipts: list[BlockDone] = []
    cn.run(
        job,
        overwrite=True,
        listener=lambda e: receipts.append(e) if isinstance(e, BlockDone) else None,
    )
    written = sum(r.bytes_written for r in receipts)
    seconds = max(r.ended for r in receipts) - min(r.started for r in receipts)
    return written / seconds / 1e9, sum(r.seconds_write for r in receipts) / WORKERS


def reads(path: str, rounds: int) -> dict[str, float]:
    """Median seconds of each way of reading."""
    import numpy as np  # noqa: PLC0415
    import zarr  # noqa: PLC0415

    T = zarr.open_array(f"{path}/jacobian", mode="r")
    p, q, n = T.shape
    rng = np.random.default_rng(2)
    many = min(1000, p)

    def one() -> Any:
        return T[int(rng.integers(p))]

    def thousand() -> Any:
        start = int(rng.integers(p - many + 1))
        return T[start : start + many]

    def entry() -> Any:
        return T[:, int(rng.integers(q)), int(rng.integers(n))]

    found: dict[str, float] = {}
    ways: list[tuple[str, Callable[[], Any], int]] = [
        ("1 column", one, 4 * rounds), ("1,000", thousand, 2 * rounds), ("one entry", entry, rounds)
    ]  # fmt: skip
    for name, way, times in ways:
        taken = []
        for _ in range(times):
            clock = time.perf_counter()
            way()
            taken.append(time.perf_counter() - clock)
        found[name] = statistics.median(taken)
    return found


def largest_error(path: str, job: dict[str, Any]) -> float:
    import numpy as np  # noqa: PLC0415
    import zarr  # noqa: PLC0415

    import colonnade as cn  # noqa: PLC0415

    network = cn.Network.load(job["network"]["weights"], job["network"]["activation"])
    X = np.load(job["input"]["path"], mmap_mode="r")[:, :200]
    exact = cn.jacobian(network, np.asarray(X)).astype(np.float64)
    there = np.abs(exact) > np.sqrt(np.mean(exact**2))
    stored = zarr.open_array(f"{path}/jacobian", mode="r")[: X.shape[1]]
    return float((np.abs(stored - exact)[there] / np.abs(exact[there])).max())


def measure(
    shape: Shape, gigabytes: float, rounds: int, variants: list[dict[str, str]], pipeline: str
) -> list[list[Any]]:
    import zarr  # noqa: PLC0415

    p = int(gigabytes * 1e9) // (shape.q * shape.n * 4)
    root = Path(tempfile.mkdtemp(prefix="colonnade-bench-", dir=os.environ.get("BENCH_DIR")))
    # Workers take it over from the environment, the readers here from the configuration
    os.environ["ZARR_CODEC_PIPELINE__PATH"] = PIPELINES[pipeline]
    rows = []
    try:
        with (
            zarr.config.set({"codec_pipeline.path": PIPELINES[pipeline]}),
            shared_cluster(WORKERS) as cluster,
        ):
            job = make_job(root, shape, p, cluster)
            speed: dict[int, list[tuple[float, float]]] = {}
            for turn in range(rounds):
                for i, variant in enumerate(variants):
                    job["output"] = {"path": str(root / f"out{i}"), **variant}
                    speed.setdefault(i, []).append(write_speed(job))
                    if turn < rounds - 1:
                        shutil.rmtree(root / f"out{i}")
            for i, variant in enumerate(variants):
                path = str(root / f"out{i}")
                stored = sum(f.stat().st_size for f in Path(path, "jacobian").iterdir())
                found = reads(path, rounds)
                rows.append(
                    [
                        variant.get("chunk_size", ""),
                        variant.get("compression", "none"),
                        variant.get("significant_bits", "all"),
                        pipeline,
                        f"{stored / (p * shape.q * shape.n * 4):.2f}",
                        f"{max(s for s, _ in speed[i]):.2f} GB/s",
                        f"{min(w for _, w in speed[i]):.2f} s",
                        *(f"{1e3 * seconds:.1f} ms" for seconds in found.values()),
                        f"{largest_error(path, job):.0e}",
                    ]
                )
    finally:
        shutil.rmtree(root)
        del os.environ["ZARR_CODEC_PIPELINE__PATH"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", default="256,128,64")
    parser.add_argument("--chunks", nargs="+", default=["1MiB", "4MiB", "8MiB", "16MiB", "64MiB"])
    parser.add_argument("--codecs", nargs="+", default=["none"], help="none, lz4, zstd")
    parser.add_argument("--bits", nargs="+", default=["all"], help="significant bits, or all")
    parser.add_argument("--pipelines", nargs="+", default=["zarr"], help=", ".join(PIPELINES))
    given = parser.parse_args()
    fair(threads=1)
    shape = Shape(*map(int, given.shape.split(",")))
    variants = [
        {"chunk_size": chunk, "compression": codec, "block_size": "64MiB"}
        | ({} if bits == "all" else {"significant_bits": bits})
        for codec in given.codecs
        for chunk in given.chunks
        for bits in given.bits
        if codec != "none" or bits == "all"
    ]
    rows = []
    for pipeline in given.pipelines:
        if available(pipeline):
            rows += measure(shape, given.gigabytes, given.rounds, variants, pipeline)
        else:
            print(f"left out: the codec pipeline {pipeline} is not installed")
    head = ["chunks", "codec", "bits", "pipeline", "bytes", "write", "writing", "1 column", "1,000"]
    table(
        f"Writers and readers of {given.gigabytes} GB, {shape} in blocks of 64 MiB; {machine()}",
        [*head, "one entry", "error"],
        rows,
    )


if __name__ == "__main__":
    main()
