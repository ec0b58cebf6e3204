"""What grows with p and what does not: time a column, memory, tasks a second, and the start.

    python tests/benchmarks/scale.py [--columns 20000] [--tasks 2000] [--blocks 100000]

growth     p times 1, 4 and 16 on one cluster: seconds a column, peak memory of the workers
dispatch   tasks that do nothing, through the run's own way of sending them, over client.map
blocks     many blocks of a tiny network, one a task and in batches: blocks a second, the memory of
           the process that holds scheduler and client, while they are computed, and the seconds
           in which their store opens for reading
start      from the command to the first block's start, on a cluster of its own
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import Shape, fair, machine, make_job, shared_cluster, table

WORKERS = 2
# Much to compute and little to write, so that the disk does not decide
SHAPE = Shape(4096, 32, 16)
TINY = Shape(7, 5, 3)


@contextmanager
def folder() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="colonnade-bench-", dir=os.environ.get("BENCH_DIR")))
    try:
        yield root
    finally:
        shutil.rmtree(root)


def resident() -> int:
    """Bytes of this process that are in memory now."""
    import psutil  # noqa: PLC0415

    return int(psutil.Process().memory_info().rss)


def steady(job: dict[str, Any]) -> tuple[float, int, list[tuple[float, int]]]:
    """Seconds of all tasks, peak memory of a worker, and this process's memory over time."""
    import colonnade as cn  # noqa: PLC0415
    from colonnade.events import BlockDone  # noqa: PLC0415

    # No lists: their growth would count as the run's
    started, ended, peak = float("inf"), 0.0, 0
    memory: list[tuple[float, int]] = []
    every = 0

    def listen(event: Any) -> None:
        nonlocal started, ended, peak, every
        if isinstance(event, BlockDone):
            started, ended = min(started, event.started), max(ended, event.ended)
            peak = max(peak, event.peak_memory)
            every += 1
            if every % 500 == 0:
                memory.append((time.perf_counter(), resident()))

    cn.run(job, overwrite=True, listener=listen)
    return ended - started, peak, memory


def growth(columns: int, rounds: int) -> None:
    factors = (1, 4, 16)
    seconds: dict[int, list[float]] = {f: [] for f in factors}
    peaks: dict[int, int] = {}
    with folder() as root:
        for factor in factors:
            (root / str(factor)).mkdir()
        # One cluster for each, or the largest p would have set the peak for all
        for factor in factors:
            with shared_cluster(WORKERS) as cluster:
                job = make_job(root / str(factor), SHAPE, columns * factor, cluster)
                # Blocks of the same size, or they would grow with p
                job["output"]["block_size"] = "1MiB"
                for _ in range(rounds):
                    taken, peaks[factor], _memory = steady(job)
                    seconds[factor].append(taken / (columns * factor))
                    shutil.rmtree(root / str(factor) / "out")
    best = {factor: min(found) for factor, found in seconds.items()}
    table(
        f"Growth, {SHAPE}, blocks of 1 MiB, best of {rounds}; {machine()}",
        ["p", "µs a column", "over the first", "peak of a worker", "over the first"],
        [
            [
                f"{columns * factor:,}",
                f"{1e6 * best[factor]:.1f}",
                f"{best[factor] / best[1]:.3f}",
                f"{peaks[factor] / 2**20:.0f} MiB",
                f"{peaks[factor] / peaks[1]:.3f}",
            ]
            for factor in factors
        ],
    )


def dispatching(tasks: int, rounds: int) -> None:
    import distributed  # noqa: PLC0415

    from colonnade.running.dispatch import batches, dispatch, in_flight  # noqa: PLC0415

    class Patient:
        def goes_on(self) -> bool:
            return True

        def workers(self, number: int) -> None:
            assert number == WORKERS

    most, watch = in_flight(WORKERS), Patient()
    # A function that every worker has, and that gives back what it is given
    nothing = tuple
    ratios, rates = [], []
    with shared_cluster(WORKERS) as cluster, distributed.Client(cluster["address"]) as client:
        for _ in range(rounds):
            clock = time.perf_counter()
            futures = client.map(nothing, list(batches(range(tasks), 1)), pure=False)
            client.gather(futures)
            bare = time.perf_counter() - clock
            del futures
            clock = time.perf_counter()
            todo = batches(range(tasks), 1)
            came = sum(1 for _ in dispatch(client, nothing, todo, most, watch))
            ours = time.perf_counter() - clock
            assert came == tasks, came
            ratios.append(bare / ours)
            rates.append((tasks / bare, tasks / ours))
    table(
        f"Dispatch of {tasks:,} tasks that do nothing, median of {rounds}",
        ["client.map", "colonnade", "colonnade over client.map"],
        [
            [
                *(f"{statistics.median(r):.0f}/s" for r in zip(*rates, strict=True)),
                f"{statistics.median(ratios):.2f}",
            ]
        ],
    )


def opened(store: Path) -> float:
    """Seconds in which a store opens, as xarray has it."""
    import colonnade as cn  # noqa: PLC0415

    clock = time.perf_counter()
    with cn.open(store):
        return time.perf_counter() - clock


def many_blocks(blocks: int) -> None:
    rows = []
    with folder() as root, shared_cluster(WORKERS) as cluster:
        job = make_job(root, TINY, blocks, cluster)
        job["output"] |= {"block_size": TINY.q * TINY.n * 4, "chunk_size": TINY.q * TINY.n * 4}
        taken, _, memory = steady(job)
        quarter = len(memory) // 4
        told = (
            [memory[i][1] / 2**20 for i in (quarter, 2 * quarter, 3 * quarter, -1)]
            if quarter
            else []
        )
        opening = statistics.median(opened(Path(job["output"]["path"])) for _ in range(5))
        quarters = ", ".join(f"{m:.0f}" for m in told)
        rows.append([f"{blocks:,}", f"{blocks / taken:.0f}", quarters, f"{opening:.2f}"])
    table(
        f"{blocks:,} blocks of one column, {TINY}",
        ["blocks", "blocks a second", "MiB of scheduler and client at each quarter", "s to open"],
        rows,
    )


# Prints the seconds from its own start to that of the first block
FIRST = """
import json, sys, time
clock = time.time()
import colonnade as cn
def listen(event):
    if type(event).__name__ == "BlockDone" and not found:
        found.append(event.started)
found = []
if __name__ == "__main__":
    cn.run(json.loads(sys.argv[1]), overwrite=True, listener=listen)
    print(found[0] - clock)
"""


def start(rounds: int) -> None:
    with folder() as root:
        job = make_job(root, TINY, 1000, {"kind": "local", "workers": WORKERS})
        script = root / "first.py"
        script.write_text(FIRST)
        taken = []
        for _ in range(rounds):
            done = subprocess.run(
                [sys.executable, script, json.dumps(job)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            taken.append(float(done.stdout))
    table(
        f"Start, a local cluster of {WORKERS} workers, median of {rounds}",
        ["from the command to the first block"],
        [[f"{statistics.median(taken):.2f} s"]],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--columns", type=int, default=8192, help="the smallest p of growth")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    fair(threads=1)
    growth(given.columns, given.rounds)
    dispatching(given.tasks, given.rounds)
    many_blocks(given.blocks)
    start(given.rounds)


if __name__ == "__main__":
    main()
