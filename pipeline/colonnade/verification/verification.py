"""Verify a store: all of its checksums, and all of its columns against an independent derivative.

Every chunk of every array is read, one at a time, by zarr, which checks its crc32c; that finds what
a disk or a copy has changed. What was computed wrongly has right checksums: for that, every
column is compared with `reference`, which shares nothing with the kernel, its block through the
product with a random vector (`everycolumn`); columns spread over the store, and those whose product
stands out, are compared number by number. Statistics are compared with the blocks' parts that they
are made of, and these with all columns of their blocks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from colonnade.compute.blas import one_blas_thread
from colonnade.errors import StoreError, UsageError
from colonnade.events import BlockChecked, Listener, ignore
from colonnade.grid import Grid
from colonnade.inputs import InputMatrix
from colonnade.network.network import Network
from colonnade.storage.locations import Options
from colonnade.store import Store
from colonnade.verification.checks import Checks
from colonnade.verification.findings import Failure, Verification

__all__ = ["Failure", "Verification", "check", "verify"]


def verify(
    path: str | Path,
    *,
    columns: int = 64,
    seed: int = 0,
    imports: bool = False,
    trust: bool = False,
    listener: Listener = ignore,
    storage_options: Options = None,
) -> Verification:
    """Check every checksum and every column of a store, the latter in an independent way.

    Parameters
    ----------
    path
        The store, finished or not; of one that is not, what is there is verified.
    columns
        How many columns to compare number by number: the first, the last, and others spread evenly
        over the store, each chosen at random within its part. Error bounds are those of
        `reference`. With 0, checksums are all that is checked.
    seed
        Of that choice, and of the vectors that blocks are multiplied with. Who may want to deceive
        must not know it.
    imports
        Whether to import, and run, an activation that is code: do so for stores that you trust.
    trust
        Whether X is reached as the store's job says. A job that is another's could name a server
        of theirs, to which your credentials would be sent. Else X is read where it is a file of
        this machine, or lies in the store's own bucket, or on a server that you name: by an
        endpoint in `storage_options` or in the environment. No code is imported for it.
    listener
        Called with a `BlockChecked` for each block, in this thread.
    storage_options
        Of the object store, as in a job; of X's, too, unless the store's job is trusted.

    Returns
    -------
    What was found. Nothing that is wrong with the numbers raises; `Verification.require` does.

    Raises
    ------
    StoreError
        There is no store of colonnade at the path, or its metadata is damaged.
    IncompleteError
        A run that made it longer has been stopped before all of its arrays were.
    UsageError
        columns or seed is negative.
    """
    store = Store.open(path, storage_options)
    try:
        return check(
            store, columns=columns, seed=seed, imports=imports, trust=trust, listener=listener
        )
    except OSError as error:
        raise StoreError(f"{path}: the store cannot be read: {error}.") from error


def check(
    store: Store,
    X: InputMatrix | None = None,
    network: Network | None = None,
    *,
    columns: int = 64,
    seed: int = 0,
    imports: bool = False,
    trust: bool = False,
    listener: Listener = ignore,
) -> Verification:
    """Verify an open store, as `verify` does.

    X and network, if they are known to be the store's own, are taken where the store's job names
    another place, or its weights are damaged; then its activation is known as well.
    """
    if columns < 0 or seed < 0:
        raise UsageError(f"columns and seed must be 0 or more, not {columns} and {seed}.")
    store.record.require_shapes()
    checks = Checks(store)
    checks.open(X, network, imports=imports or network is not None, trust=trust)
    checks.labels()
    status, grid = store.status(), store.grid
    absent = set(status.missing)
    checks.chosen = _chosen(grid, absent, columns, seed)
    checks.seed = seed if columns else None
    # Many small products: threads of a BLAS would wait for each other
    with one_blas_thread():
        for block in range(grid.blocks):
            if block not in absent:
                checks.block(block)
            listener(BlockChecked(block, *grid.bounds(block), grid.columns))
    if status.record.state == "complete":
        checks.final(whole=not absent)
    return Verification(
        path=store.path,
        state=status.state,
        grid=grid,
        shards=checks.shards,
        chunks=checks.chunks,
        covered=checks.covered,
        unknown=checks.unknown,
        sampled=checks.sampled,
        doubted=checks.doubted,
        sums=dict(checks.sums),
        errors=checks.errors,
        missing=status.missing,
        failures=tuple(checks.failures),
        refused=checks.refused,
    )


def _chosen(grid: Grid, absent: set[int], count: int, seed: int) -> dict[int, list[int]]:
    """Block -> columns of it to compute again, of the blocks that are there."""
    p, size = grid.columns - grid.count(absent), grid.block_columns
    present = [block for block in range(grid.blocks) if block not in absent]
    edges = np.linspace(0, p, min(count, p) + 1).astype(int)
    chosen = np.random.default_rng(seed).integers(edges[:-1], edges[1:])
    chosen[:1] = 0
    chosen[1:][-1:] = p - 1
    blocks: dict[int, list[int]] = {}
    for k in chosen.tolist():
        # Only a last block has fewer columns
        block = present[k // size]
        blocks.setdefault(block, []).append(block * size + k % size)
    return blocks
