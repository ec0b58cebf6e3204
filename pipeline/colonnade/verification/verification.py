"""Verify a store: all of its checksums, and all of its columns against an independent derivative.

zarr reads every chunk of every array, one at a time, and checks its crc32c. This finds bytes that a
disk or a copy has changed. Wrongly computed numbers have right checksums, so every column is also
compared with `reference`, which shares no code with the kernel. Blocks are compared through their
product with a random vector (`everycolumn`). A sample of columns spread over the store, and the
columns whose product stands out, are compared number by number. Statistics are compared with the
per-block parts that they are computed from, and these parts with all columns of their blocks.
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
from colonnade.verification.findings import Verification

__all__ = ["check", "verify"]


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
    """Check every checksum of a store, and every column against an independent computation.

    Parameters
    ----------
    path
        The store. The blocks of an unfinished store that are there are verified.
    columns
        How many columns to compare number by number: the first, the last, and others chosen at
        random, one from each of equal parts of the store. Error bounds are those of `reference`.
        With 0, only checksums are checked.
    seed
        Seed of that choice, and of the vectors that blocks are multiplied with. Keep it secret
        from anybody who might prepare a store to pass.
    imports
        Whether to import and run an activation that is code. Set it only for stores that you
        trust.
    trust
        Whether to reach X as the store's job says. A stranger's job could name a server to which
        your credentials would be sent. Without trust, X is read only if it is a file on this
        machine, lies in the store's own bucket, or lies on a server that you name by an endpoint
        in `storage_options` or in the environment. No code is imported for it.
    listener
        Called with a `BlockChecked` for each block, in this thread.
    storage_options
        Options of the store's object storage, as in a job. They apply to X, too, unless the
        store's job is trusted.

    Returns
    -------
    The findings. Wrong numbers do not raise here; `Verification.require` raises for them.

    Raises
    ------
    StoreError
        There is no store of colonnade at the path, its metadata is damaged, or it cannot be read.
    IncompleteError
        A run was stopped while it extended the store, before it had extended all arrays.
    UsageError
        columns or seed is negative.
    """
    store = Store.open(path, storage_options)
    try:
        return check(
            store, columns=columns, seed=seed, imports=imports, trust=trust, listener=listener
        )
    except OSError as error:
        raise StoreError(
            f"{path}: the store cannot be read: {error}. Make it readable and verify again."
        ) from error


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

    Pass X and network if they are known to be the store's own. This X then replaces the one that
    the store's job names. The network replaces damaged weights; because its activation is known,
    an imported activation may run.
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
    # The products are small: with several BLAS threads, they would mostly wait for each other
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
    """Choose columns of the blocks that are there: block -> columns to compare in full."""
    p, size = grid.columns - grid.count(absent), grid.block_columns
    present = [block for block in range(grid.blocks) if block not in absent]
    edges = np.linspace(0, p, min(count, p) + 1).astype(int)
    chosen = np.random.default_rng(seed).integers(edges[:-1], edges[1:])
    chosen[:1] = 0
    chosen[1:][-1:] = p - 1
    blocks: dict[int, list[int]] = {}
    for k in chosen.tolist():
        # k counts the columns that are there; only the last block may have fewer than `size`
        block = present[k // size]
        blocks.setdefault(block, []).append(block * size + k % size)
    return blocks
