"""Plan a job; if asked, time some of its blocks on its cluster and discard their results."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from distributed.comm.core import CommClosedError

from colonnade import clusters
from colonnade.errors import IncompleteError, UsageError
from colonnade.events import BlockDone, BlockFailed, ignore
from colonnade.job.file import JobLike, load_job
from colonnade.planning.plan import Calibration, Plan
from colonnade.running.prepare import PreparedJob, check_job
from colonnade.running.retries import compute
from colonnade.signals.stopping import Stop, stoppable
from colonnade.store import Store, hold

__all__ = ["calibrated", "plan", "sample"]

# Fewest blocks per thread; the first of each is not counted, since it also builds the kernel
_BLOCKS = 4


def plan(job: JobLike, overrides: Iterable[str] = (), *, calibrate: bool = False) -> Plan:
    """Plan a run without changing anything.

    Parameters
    ----------
    job
        A job file's path, or a mapping or `Job` of the same content.
    overrides
        ``section.key=value`` each.
    calibrate
        Start or reach the job's cluster and time some blocks there, in a temporary store beside
        the output's, so that the plan includes an estimate of the run's time.

    Raises
    ------
    UsageError
        The job has a problem that `run` would report before it starts, except an existing store.
    """
    checked = check_job(load_job(job, overrides).located())
    planned = checked.plan(clusters.expected_capacity(checked.job.cluster))
    if not calibrate:
        return planned
    clusters.refuse_spawned()
    return calibrated(checked)


def calibrated(checked: PreparedJob) -> Plan:
    """Plan a job on its cluster, and time some of its blocks there.

    Raises
    ------
    UsageError
        The cluster is not available, or a block cannot be computed or written.
    StoppedError
        SIGINT, SIGTERM or SIGHUP arrived.
    """
    with stoppable() as stop, _failing(), clusters.connect(checked.job.cluster) as cluster:
        planned = checked.plan(cluster.capacity)
        output = checked.job.output
        beside = output.model_copy(update={"path": _beside(output.path)})
        job = checked.job.model_copy(update={"output": beside})
        run = uuid.uuid4().hex
        store = Store.create(planned, checked.network, job, checked.x, run=run)
        try:
            done = _computed(cluster, store, planned, run, stop, checked)
        finally:
            store.delete()
    return replace(planned, calibration=_mean(done, cluster.capacity.total_threads))


@contextmanager
def _failing() -> Iterator[None]:
    """Turn a lost scheduler or a failed disk into a UsageError: nothing can be resumed."""
    try:
        yield
    except CommClosedError as error:
        raise UsageError(
            "the calibration has failed: the scheduler is lost. Run the command again."
        ) from error
    except (IncompleteError, OSError) as error:
        raise UsageError(f"the calibration has failed: {str(error).rstrip('.')}.") from error


def _beside(path: str) -> str:
    """Return a path beside a store; on a disk, the store's next run deletes a leftover there."""
    folder, _, name = path.rstrip("/").rpartition("/")
    hidden = f".{name}.{uuid.uuid4().hex}"
    # The store is a whole bucket: beside it are other buckets, not the user's files
    return f"{path.rstrip('/')}/{hidden}" if folder.endswith(":/") else f"{folder}/{hidden}"


def sample(plan: Plan) -> list[int]:
    """Choose the blocks of some of the run's tasks, spread evenly over the run.

    Tasks are taken whole, because neighbouring blocks share what they read of X.
    """
    tasks = min(plan.tasks, -(-_BLOCKS // plan.batch) * plan.capacity.total_threads)
    starts = [i * plan.tasks // tasks * plan.batch for i in range(tasks)]
    return [b for s in starts for b in range(s, min(s + plan.batch, plan.grid.blocks))]


def _computed(
    cluster: clusters.Cluster, store: Store, plan: Plan, run: str, stop: Stop, checked: PreparedJob
) -> list[BlockDone]:
    done = []
    with hold(store.place, run) as lease:
        settings = store.record.job.cluster
        guard = checked.guard(store, lease, store.missing(), ignore)
        for event in compute(
            cluster, store, lease, sample(plan), plan.batch, settings, stop, ignore, guard,
            checked.stamp,
        ):  # fmt: skip
            if isinstance(event, BlockFailed):
                raise UsageError(
                    f"the calibration has failed at block {event.block}: {event.cause}"
                )
            done.append(event)
    if guard.cause is not None:
        raise UsageError(
            f"the calibration has failed: X has changed during it ({guard.cause}). Run the "
            "command again."
        )
    return done


def _mean(done: list[BlockDone], threads: int) -> Calibration:
    counted = sorted(done, key=lambda receipt: receipt.started)[threads:] or done

    def mean(part: str) -> float:
        return statistics.fmean(getattr(receipt, part) for receipt in counted)

    return Calibration(
        len(counted), mean("seconds_read"), mean("seconds_compute"), mean("seconds_write")
    )
