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
            (
                "--mebibytes 1 --seconds 0.01 --shapes 7,5,3 --peers einsum jax\\ jacrev "
                "--chains 5,7,11,3 --chain-columns 13"
            ),
            ["of peak", "einsum ×", "jax jacrev ×"],
        ),
        (
            "end_to_end.py",
            "--gigabytes 0.001 --rounds 1 --shapes 7,5,3 --sides floor colonnade dask.array jax",
            ["of the floor", "× dask.array", "× jax"],
        ),
    ],
)
def test_against_others(tmp_path: Path, script: str, arguments: str, columns: list[str]) -> None:
    done = benchmark(tmp_path, script, arguments)
    head, *_ = (line for line in done.splitlines() if line.startswith("| (m, n, q)"))
    assert all(column in head for column in columns), head
    row = next(line for line in done.splitlines() if line.startswith("| (7, 5, 3)"))
    assert row.count("|") == head.count("|")


def benchmark(tmp_path: Path, script: str, arguments: str) -> str:
    words = [word.replace("\0", " ") for word in arguments.replace("\\ ", "\0").split()]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *words],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_chunks_and_codecs(tmp_path: Path) -> None:
    told = benchmark(
        tmp_path,
        "store.py",
        "--gigabytes 0.001 --rounds 1 --shape 7,5,3 --chunks 8KiB 1MiB --codecs none lz4 "
        "--bits all 8 --pipelines zarr fused zarrs",
    )
    rows = [line.split("|") for line in told.splitlines() if line.startswith("| ")]
    pipelines = [name for name in ("zarr", "fused", "zarrs") if f"pipeline {name} is" not in told]
    assert "zarr" in pipelines
    # Not rounded before it is written as it is: three for each size of chunks
    assert len(rows) == 1 + 6 * len(pipelines)
    assert {row[4].strip() for row in rows[1:]} == set(pipelines)


def test_what_is_read_of_x(tmp_path: Path) -> None:
    told = benchmark(tmp_path, "columns.py", "--columns 3001 --features 7 --block 100")
    rows = [line.split("|") for line in told.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 9
    assert all(float(row[4]) > 0 for row in rows[1:])


def test_factored(tmp_path: Path) -> None:
    told = benchmark(tmp_path, "factored.py", "--columns 1100 --rounds 1 --reads 10 --shape 7,5,3")
    rows = {line.split("|")[1].strip(): line for line in told.splitlines() if line[:2] == "| "}
    reads = {"100 together", "100 apart"}
    measured = {"bytes", "run"} | reads | {f"{read} by xarray" for read in reads}
    measured |= {"mean and gram", "the same in NumPy"}
    assert {*rows} - {""} == {*measured, "equal to the bit"}
    assert "True" in rows["equal to the bit"]
    assert "qn / m = 2.1" in rows["bytes"]


def test_scale(tmp_path: Path) -> None:
    told = benchmark(tmp_path, "scale.py", "--columns 64 --tasks 50 --blocks 1000 --rounds 1")
    rows = [line.split("|") for line in told.splitlines() if line.startswith("| ")]
    growth = [row[1].strip() for row in rows if row[1].strip() in {"64", "256", "1,024"}]
    assert growth == ["64", "256", "1,024"]
    for title in ("Growth", "Dispatch of 50 tasks", "1,000 blocks of one column", "Start"):
        assert title in told


def test_verification(tmp_path: Path) -> None:
    output = benchmark(tmp_path, "verification.py", "--gigabytes 0.001 --rounds 1 --shape 11,7,5")
    rows = {line.split("|")[1].strip(): line for line in output.splitlines() if line[:2] == "| "}
    assert {"dense", "factored"} < {*rows}
    assert "5 of 5" in rows["the next column"]
