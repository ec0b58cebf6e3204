"""How long a run will take, from some of its blocks: computed on its cluster, and thrown away."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from colonnade import clusters
from colonnade.checked import CheckedJob
from colonnade.dispatch import Batch, Lost, dispatch
from colonnade.errors import UsageError
from colonnade.events import BlockDone
from colonnade.plan import Calibration, Plan
from colonnade.stopping import stoppable
from colonnade.store import Store
from colonnade.task import Address, Failed, compute_blocks

__all__ = ["calibrated", "sample"]

# Of each thread, at the least; the first does not count, since the kernel is made for it
_BLOCKS = 4


def calibrated(checked: CheckedJob) -> Plan:
    """Plan a job on its cluster, and time some of its blocks there.

    They are written to a store beside the job's, which is deleted in the end.

    Raises
    ------
    UsageError
        The cluster cannot be had, or a block cannot be computed or written.
    StoppedError
        SIGINT, SIGTERM or SIGHUP came.
    """
    with stoppable() as stop, clusters.connect(checked.job.cluster) as cluster:
        planned = checked.plan(cluster.capacity)
        output = checked.job.output
        name = f".{Path(output.path).name}.calibration.{uuid.uuid4().hex}"
        beside = output.model_copy(update={"path": str(Path(output.path).with_name(name))})
        job = checked.job.model_copy(update={"output": beside})
        store = Store.create(planned, checked.network, job, checked.x)
        try:
            address = Address(store.path, store.record.id, uuid.uuid4().hex)
            compute = partial(compute_blocks, address)
            threads = cluster.capacity.total_threads
            done: list[BlockDone] = []
            for _, receipts in dispatch(cluster.client, compute, sample(planned), threads):
                stop.check()
                done += _successful(receipts)
        finally:
            store.delete()
    return replace(planned, calibration=_mean(done, threads))


def sample(plan: Plan) -> Sequence[Batch]:
    """Tasks of the run, spread evenly over it: neighbouring blocks share what they read of X."""
    tasks = min(plan.tasks, -(-_BLOCKS // plan.batch) * plan.capacity.total_threads)
    starts = [i * plan.tasks // tasks * plan.batch for i in range(tasks)]
    return [tuple(range(s, min(s + plan.batch, plan.grid.blocks))) for s in starts]


def _successful(receipts: Sequence[BlockDone | Failed] | Lost) -> list[BlockDone]:
    if isinstance(receipts, Lost):
        raise UsageError(f"the calibration has failed: {receipts}")
    done = []
    for receipt in receipts:
        if isinstance(receipt, Failed):
            raise UsageError(
                f"the calibration has failed at block {receipt.block}: {receipt.cause}"
            )
        done.append(receipt)
    return done


def _mean(done: list[BlockDone], threads: int) -> Calibration:
    counted = sorted(done, key=lambda receipt: receipt.started)[threads:] or done

    def mean(part: str) -> float:
        return statistics.fmean(getattr(receipt, part) for receipt in counted)

    return Calibration(
        len(counted), mean("seconds_read"), mean("seconds_compute"), mean("seconds_write")
    )
