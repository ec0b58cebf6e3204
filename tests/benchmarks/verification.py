"""What `colonnade verify` costs, and how small an error it finds.

    python tests/benchmarks/verification.py [--shape 256,128,64] [--gigabytes 0.3] [--rounds 3]

Every store is written by `run` and verified in this process, from the page cache; the best of the
rounds counts.

checksums    seconds for all checksums alone (`--columns 0`)
all          seconds for checksums and every column
found        whether verify finds an error in one stored column that is not in its sample, whose
             checksum is right: the entry of median size off by so much, or with the wrong sign;
             each entry of the column off by so much; the next column in its place. It counts the
             columns in which the error is found
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import Shape, fair, machine, make_job, shared_cluster, table

WORKERS = 2
TRIED = 5
SMALL = 2000


def best(rounds: int, action: Callable[[], Any]) -> float:
    times = []
    for _ in range(rounds):
        clock = time.perf_counter()
        action()
        times.append(time.perf_counter() - clock)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", default="256,128,64")
    parser.add_argument("--gigabytes", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    fair(threads=1)
    import numpy as np  # noqa: PLC0415 (after `fair`)
    import zarr  # noqa: PLC0415

    import colonnade as cn  # noqa: PLC0415

    shape = Shape(*map(int, given.shape.split(",")))
    root = Path(tempfile.mkdtemp(prefix="colonnade-bench-", dir=os.environ.get("BENCH_DIR")))
    rows: list[tuple[Any, ...]] = []

    def middle(block: Any) -> tuple[int, ...]:
        order = np.abs(block).ravel().argsort()
        return tuple(int(i) for i in np.unravel_index(order[len(order) // 2], block.shape))

    def entry(factor: float) -> Callable[[Any, int], Any]:
        def spoil(tensor: Any, k: int) -> Any:
            block = np.array(tensor[k])
            block[middle(block)] *= factor
            return block

        return spoil

    spoils: dict[str, Callable[[Any, int], Any]] = {
        **{f"an entry by {e:g}": entry(1 + e) for e in (3e-4, 1e-3, 2e-3, 1e-2)},
        "the sign of an entry": entry(-1),
        **{f"a column by {e:g}": lambda T, k, e=e: T[k] * (1 + e) for e in (1e-4, 1e-3)},
        "the next column": lambda T, k: T[k + 1],
    }
    try:
        with shared_cluster(WORKERS) as cluster:
            p = round(given.gigabytes * 1e9 / (4 * shape.q * shape.n))
            job = make_job(root, shape, p, cluster)
            for layout in ("dense", "factored"):
                path = str(root / layout)
                made = cn.run({**job, "output": {"path": path, "layout": layout}})
                checksums = best(given.rounds, lambda path=path: cn.verify(path, columns=0))
                full = best(given.rounds, lambda path=path: cn.verify(path))
                times = (f"{checksums:.2f}", f"{full:.2f}", f"{full / checksums:.1f}")
                rows.append((layout, f"{made.bytes_written / 1e9:.3f} GB", f"{p:,}", *times))
            small = make_job(root, shape, SMALL, cluster)
            path = str(root / "small")
            cn.run({**small, "output": {"path": path}})
        table(
            "seconds to verify",
            ("layout", "stored", "columns", "checksums", "all", "all over checksums"),
            rows,
        )
        array = zarr.open_array(str(root / "small" / "jacobian"), mode="r+")
        tensor = np.array(array[...])
        columns = np.random.default_rng(11).choice(SMALL - 1, TRIED, replace=False).tolist()
        found = []
        for what, spoil in spoils.items():
            count = 0
            for k in columns:
                array[k] = spoil(tensor, k)
                count += bool(cn.verify(path).failures)
                array[k] = tensor[k]
            found.append((what, f"{count} of {TRIED}"))
        table("errors in the stored tensor that are found", ("error", "found"), found)
        print(machine())
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
