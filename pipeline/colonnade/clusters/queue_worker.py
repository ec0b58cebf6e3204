"""The process of a queue's job: a Dask worker with a private directory for its files.

    python -m colonnade.clusters.queue_worker SCHEDULER [options of `dask worker`]

A shell script would not suffice: a batch queue may run a job with any shell, and each job removes
the files that killed jobs have left behind.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from distributed.cli.dask_worker import main as dask_worker

from colonnade.clusters.private_directory import private_directory, temporary_directory
from colonnade.errors import ClusterError

_OPTION = "--local-directory"


def main(arguments: Sequence[str]) -> None:
    """Run a worker until it closes by itself or on request.

    Parameters
    ----------
    arguments
        Arguments of `dask worker`; the private directory is created in its local directory.
    """
    rest, parent, field = list(arguments), temporary_directory(), "TMPDIR"
    while _OPTION in rest:
        at = rest.index(_OPTION)
        parent, field = rest[at + 1], "cluster.local_directory"
        del rest[at : at + 2]
    try:
        with private_directory(parent, field) as private:
            dask_worker([*rest, _OPTION, str(private)])
    except ClusterError as error:
        sys.exit(f"colonnade: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
