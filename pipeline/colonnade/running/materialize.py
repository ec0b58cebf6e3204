"""Make a store of the tensor from a store of slopes, with the pipeline itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from colonnade import clusters
from colonnade.errors import IncompleteError, UsageError
from colonnade.events import Listener, RunFinished, ignore
from colonnade.job import Job
from colonnade.job.file import load_job, unexpanded
from colonnade.running.prepare import PreparedJob
from colonnade.running.run import carry_out, refuse_both
from colonnade.storage.locations import Options, StorageOptions, absolute
from colonnade.storage.urls import is_url, overlap
from colonnade.store import Store
from colonnade.store.slopes import Slopes

__all__ = ["materialize"]


def materialize(
    factored: str | Path,
    dense: str | Path,
    overrides: Iterable[str] = (),
    *,
    overwrite: bool = False,
    repair: bool = False,
    trust: bool = False,
    imports: bool = False,
    listener: Listener = ignore,
    storage_options: Options = None,
) -> RunFinished:
    """Make a store of the tensor from a store of slopes; call it again to resume.

    The results are bitwise those that a run with layout dense would store on the same machine. X
    is not read and need not exist any more.

    Parameters
    ----------
    factored
        A complete store with layout factored.
    dense
        Path of the tensor's store.
    overrides
        ``section.key=value`` each, of the sections cluster and output.
    overwrite
        Replace another job's store at `dense`.
    repair
        Verify the existing store first, and recompute damaged blocks.
    trust
        Whether to take the cluster and the object stores' options from the store's job, which
        somebody else may have written. If not, the cluster is this machine, or the one that
        `overrides` name.
    imports
        Whether to import, and so run, an activation that is code: only for stores that you trust.
    listener
        Called with each event of the run, in this thread.
    storage_options
        Options for the object stores of `factored` and `dense`.

    Raises
    ------
    UsageError
        The store has no slopes; the overrides ask for something that it cannot give; or its job's
        cluster or code is needed and not allowed.
    IncompleteError
        The store of slopes is incomplete; or blocks failed, and the new store is resumable.
    StoppedError
        SIGINT, SIGTERM or SIGHUP arrived; the store is resumable.
    """
    clusters.refuse_spawned()
    refuse_both(overwrite=overwrite, repair=repair)
    # Workers open it too, and may have another working directory
    source = Store.open(absolute(str(factored)), storage_options)
    made = source.record.job
    if made.output.layout != "factored" or "jacobian" not in made.output.products:
        raise UsageError(
            f"{factored} holds no slopes (its layout is {made.output.layout}, its products are "
            f"{', '.join(made.output.products)}), so the tensor cannot be made from it. Give a "
            "store with output.layout: factored and the product jacobian."
        )
    status = source.status()
    if status.state != "complete":
        raise IncompleteError(
            f"{factored} is incomplete: {status.progress}, and its state is {status.state}. Finish "
            "it first, with the command that made it (colonnade run)."
        )
    if source.imported and not imports:
        raise UsageError(
            f"{factored}: the activation {', '.join(source.imported)} is code, which is not run "
            "unless you allow it, since somebody else may have made the store. If you trust it, "
            "materialize with --import (imports=True)."
        )
    overrides = list(overrides)
    if not trust:
        made = _distrusted(made, str(factored), overrides)
    job = _job(made, str(dense), overrides, storage_options, trust=trust)
    located = job.located()
    if overlap(source.path, located.output.path):
        raise UsageError(f"{factored} and {dense} overlap: choose another path for the tensor.")
    record = source.record
    checked = PreparedJob(
        located,
        source.network(),
        Slopes(source),
        record.input,
        record.labels,
        source.coordinates(),
        trust=trust,
    )
    return carry_out(
        checked, job.output.path, overwrite=overwrite, repair=repair, listener=listener
    )


def _distrusted(made: Job, factored: str, overrides: list[str]) -> Job:
    """Return the job without its storage options; refuse it if its own cluster is needed."""
    chosen = any(re.match(r"\s*cluster\s*(\.\s*kind\s*)?=", override) for override in overrides)
    if made.cluster.kind != "local" and not chosen:
        raise UsageError(
            f"{factored}: its job asks for a cluster of kind {made.cluster.kind}, which is not "
            "used unless you allow it, since somebody else may have written the job. If you trust "
            "the job, materialize with --trust (trust=True); or choose a cluster: "
            "--set cluster.kind=local."
        )
    sections = {
        name: getattr(made, name).model_copy(update={"storage_options": None})
        for name in ("network", "input", "output")
    }
    return made.model_copy(update=sections)


def _job(made: Job, dense: str, overrides: list[str], options: Options, *, trust: bool) -> Job:
    """Return the job whose run makes the tensor's store."""
    # Block and chunk sizes chosen for slopes do not suit the tensor
    changes: dict[str, Any] = {
        "path": dense, "layout": "dense", "block_size": "auto", "chunk_size": "auto"
    }  # fmt: skip
    if is_url(dense) and options:
        changes["storage_options"] = StorageOptions.model_validate(options)
    elif is_url(dense) != is_url(made.output.path):
        changes["storage_options"] = None
    output = made.output.model_copy(update=changes)
    document = unexpanded(made.model_copy(update={"output": output}).model_dump(mode="json"))
    if not trust:
        # Only the overrides choose the cluster; without them, it is this machine
        document["cluster"] = {}
    job = load_job(document, overrides)
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
            f"the slopes are already computed, so {', '.join(wrong)} cannot be changed here "
            "(the product value does not follow from slopes). To change it, make the dense store "
            "with colonnade run instead."
        )
    return job
