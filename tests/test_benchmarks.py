"""The benchmarks run, tiny: that they measure what they say is for `make bench` to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.mark.parametrize(
    ("script", "arguments", "columns"),
    [
        (
            "kernel.py",
            "--mebibytes 1 --seconds 0.01 --shapes 7,5,3 --peers einsum jax\\ jacrev",
            ["of peak", "einsum ×", "jax jacrev ×"],
        ),
        (
            "end_to_end.py",
            "--gigabytes 0.001 --rounds 1 --shapes 7,5,3 --sides floor colonnade dask.array jax",
            ["of the floor", "× dask.array", "× jax"],
        ),
    ],
)
def test_benchmark(tmp_path: Path, script: str, arguments: str, columns: list[str]) -> None:
    words = [word.replace("\0", " ") for word in arguments.replace("\\ ", "\0").split()]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *words],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head, *_ = (line for line in done.stdout.splitlines() if line.startswith("| (m, n, q)"))
    assert all(column in head for column in columns), head
    row = next(line for line in done.stdout.splitlines() if line.startswith("| (7, 5, 3)"))
    assert row.count("|") == head.count("|")
