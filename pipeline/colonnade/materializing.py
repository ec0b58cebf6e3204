"""A store of slopes into a store of the tensor, by the pipeline itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from colonnade import clusters
from colonnade.errors import IncompleteError, UsageError
from colonnade.events import Listener, RunFinished, ignore
from colonnade.inputs import Checked
from colonnade.job import Job
from colonnade.job.file import load_job
from colonnade.places.locations import Options, absolute
from colonnade.places.urls import is_url, overlap
from colonnade.run import carry_out, refuse_both
from colonnade.sources import Slopes
from colonnade.store import Store

__all__ = ["materialize"]


def materialize(
    factored: str | Path,
    dense: str | Path,
    overrides: Iterable[str] = (),
    *,
    overwrite: bool = False,
    repair: bool = False,
    listener: Listener = ignore,
    storage_options: Options = None,
) -> RunFinished:
    """Make a store of the tensor from a store of slopes; call it again to resume.

    The numbers are, bit by bit, those that a run with layout dense would have stored on the same
    machine. X is not read, and may have gone.

    Parameters
    ----------
    factored
        A finished store of layout factored, that is trusted: its job says how the cluster is
        started, and from which module an activation is imported.
    dense
        Where the store of the tensor is made.
    overrides
        ``section.key=value`` each, of the sections cluster and output of the store's job.
    overwrite
        Replace another job's store at that place.
    repair
        Verify what is there first, and compute what is damaged again.
    listener
        Called with each event of the run, in this thread.
    storage_options
        Of the object store of `factored`.

    Raises
    ------
    UsageError
        The store has no slopes, or the overrides ask for what is not in it.
    IncompleteError
        The store of slopes is not whole; or blocks failed, and the new one is resumable.
    StoppedError
        SIGINT, SIGTERM or SIGHUP came; the store is resumable.
    """
    clusters.refuse_spawned()
    refuse_both(overwrite=overwrite, repair=repair)
    # Workers, which open it too, may have other directories
    source = Store.open(absolute(str(factored)), storage_options)
    made = source.record.job
    if made.output.layout != "factored" or "jacobian" not in made.output.products:
        raise UsageError(
            f"{factored} holds no slopes (its layout is {made.output.layout}, its products are "
            f"{', '.join(made.output.products)}), so that no tensor can be made of it."
        )
    status = source.status()
    if status.state != "complete":
        raise IncompleteError(
            f"{factored} is not whole: {status.progress}, and it is {status.state}. Finish it with "
            "the command that made it first (colonnade run)."
        )
    job = _job(made, str(dense), overrides)
    located = job.located()
    if overlap(source.path, located.output.path):
        raise UsageError(f"{factored} and {dense} overlap: choose another place for the tensor.")
    record = source.record
    checked = Checked(
        located, source.network(), Slopes(source), record.input, record.labels, source.coordinates()
    )
    return carry_out(
        checked, job.output.path, overwrite=overwrite, repair=repair, listener=listener
    )


def _job(made: Job, dense: str, overrides: Iterable[str]) -> Job:
    """Return the job whose run would make the store."""
    # Sizes of slopes are none of the tensor's
    changes: dict[str, Any] = {
        "path": dense, "layout": "dense", "block_size": "auto", "chunk_size": "auto"
    }  # fmt: skip
    if is_url(dense) != is_url(made.output.path):
        changes["storage_options"] = None
    output = made.output.model_copy(update=changes)
    job = load_job(made.model_copy(update={"output": output}), overrides)
    fixed = {
        "network": job.network == made.network,
        "input": job.input == made.input,
        "output.layout": job.output.layout == "dense",
        "output.dtype": job.output.dtype == made.output.dtype,
        "output.scale": job.output.scale == made.output.scale,
        "output.products": "value" in made.output.products or "value" not in job.output.products,
    }
    wrong = [name for name, kept in fixed.items() if not kept]
    if wrong:
        raise UsageError(
            f"the slopes are there as they are: {', '.join(wrong)} cannot be set here (value is "
            "not computed from slopes). Make the store of the tensor with colonnade run instead."
        )
    return job
