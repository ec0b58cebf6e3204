"""How long a run will take is asked of the cluster, and nothing is left of the question."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import colonnade as cn
from colonnade.grid import Shapes
from colonnade.job.file import load_job
from colonnade.planning.plan import Capacity
from colonnade.planning.sizing import PlanRequest, make_plan
from colonnade.running.calibrate import calibrated, sample
from colonnade.running.dispatch import batches
from colonnade.running.prepare import check_job
from support import N, P, make_columns, make_work, refusal, snapshot


def test_the_plan_tells_the_time_and_leaves_nothing(job, tmp_path) -> None:
    cn.run(job())
    before = snapshot(tmp_path)
    planned = cn.plan(job(), calibrate=True)
    assert snapshot(tmp_path) == before
    timed = planned.calibration
    assert timed is not None
    # 8 blocks, of which each thread's first does not count
    assert timed.blocks == 6
    assert min(timed.seconds_read, timed.seconds_compute, timed.seconds_write) > 0
    assert planned.seconds == pytest.approx(8 / 2 * timed.seconds_per_block)
    assert "6 blocks timed" in str(planned)
    assert cn.plan(job()).seconds is None


def test_on_the_command_line(job_file, tmp_path) -> None:
    path = job_file()
    before = snapshot(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "colonnade", "plan", "--calibrate", "--json", path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["seconds"] > 0
    assert told["calibration"]["blocks"] == 6
    assert snapshot(tmp_path) == before


def test_a_block_that_cannot_be_computed(job, tmp_path) -> None:
    X = zarr.create_array(tmp_path / "X.zarr", shape=(N, P), chunks=(N, 13), dtype="f4")
    X[...] = make_columns()
    checked = check_job(load_job(job(input={"path": str(X.store.root)})))
    chunk = tmp_path / "X.zarr" / "c" / "0" / "3"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    before = snapshot(tmp_path)
    told = refusal(lambda: calibrated(checked))
    assert "the calibration has failed at block 3: " in told
    assert snapshot(tmp_path) == before


@given(
    st.integers(1, 10**5),
    st.integers(1, 97),
    st.integers(1, 64),
    st.integers(1, 4),
    st.integers(1, 10**4),
)
def test_the_sample_is_of_the_runs_own_tasks(p, block_columns, workers, threads, x_chunk) -> None:
    plan = make_plan(
        PlanRequest(
            shapes=Shapes(p, 5, 7, 3),
            products=("jacobian",),
            dtype="float32",
            x_itemsize=4,
            x_chunk_columns=x_chunk,
            working_itemsize=4,
            kernel_bytes=1000,
            strip_columns=256,
            compression="none",
            block_size=block_columns * 5 * 3 * 4,
            work=make_work(Shapes(p, 5, 7, 3)),
        ),
        Capacity(workers, threads, None),
    )
    tasks = set(batches(range(plan.grid.blocks), plan.batch))
    blocks = sample(plan)
    taken = list(batches(blocks, plan.batch))
    assert len(taken) == len(set(taken)) <= plan.tasks
    assert set(taken) <= tasks
    assert len(blocks) >= min(plan.grid.blocks, 4 * workers * threads) - plan.batch
    assert (
        np.ptp([task[0] for task in taken]) >= (plan.grid.blocks - plan.batch) // 2
        or len(taken) == 1
    )
