"""Open the network and X that a job names, and check that they fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from colonnade.compute.kernel import kernel_bytes, scratch_bytes, slope_numbers, working_dtype
from colonnade.compute.kernel.order import cheapest
from colonnade.compute.kernel.tiles import STRIP, tile_columns
from colonnade.compute.products import kept_bytes, needs_blocks
from colonnade.errors import InputError, NetworkError, StoreError, TooLargeError, listed, sanitize
from colonnade.events import FeaturesOrdered, Listener
from colonnade.grid import Grid, Shapes
from colonnade.inputs import InputMatrix, open_columns
from colonnade.inputs.labels import Coordinate, Dimension, Labels
from colonnade.inputs.name_matching import MatchError, Pairing, difference, match_key, pair
from colonnade.job import SCALINGS, Job
from colonnade.network.network import Network
from colonnade.planning.plan import Capacity, Feature, Plan, Work
from colonnade.planning.sizing import PlanRequest, make_plan
from colonnade.running.input_guard import InputGuard, stamp_of
from colonnade.running.labels import find_labels, network_names
from colonnade.storage.urls import is_url, overlap
from colonnade.store import InputRecord, Lease, Store, input_record
from colonnade.store.slopes import Slopes, SlopesAddress

__all__ = ["PreparedJob", "check_job"]

_NO_NAMES = Pairing()
# Most names in an event
_FEW = 12


@dataclass(frozen=True)
class PreparedJob:
    """A job whose files have been opened and fit together.

    Attributes
    ----------
    columns
        X, or slopes from which the store is made instead.
    x
        The description of X.
    pairing
        Which feature of X belongs to which input of the network.
    trust
        Whether the job is trusted: written by the user who runs it, or declared so.
    stamp
        The stamp by which workers recognise X; empty if X was written to while it was opened.
    """

    job: Job
    network: Network
    columns: InputMatrix | Slopes
    x: InputRecord
    labels: Labels
    coordinates: dict[Dimension, Coordinate]
    pairing: Pairing = _NO_NAMES
    trust: bool = True
    stamp: str = ""

    def guard(
        self, store: Store, lease: Lease, missing: list[int], listener: Listener
    ) -> InputGuard:
        """Return a guard of X for the time in which a store's missing blocks are computed."""
        asked = self.job.input.asked
        # Slopes need no guard: they check their store themselves
        reopen = None if isinstance(self.columns, Slopes) else (lambda: open_columns(**asked))
        return InputGuard(reopen, self.x, store, lease, missing, listener)

    def first(self, columns: int) -> InputRecord:
        """Describe the first `columns` columns of X: X before it grew.

        Raises
        ------
        InputError
            X cannot be read.
        """
        # The store of slopes describes its X, which may no longer exist
        if columns >= self.x.columns or isinstance(self.columns, Slopes):
            return self.x
        return _described(self.columns, columns)

    @property
    def reordered(self) -> FeaturesOrdered | None:
        """The event for X's features being put into the network's order; None if they are not."""
        pairing = self.pairing
        if pairing.order is None:
            return None
        names = tuple(sanitize(name) for name in (pairing.features or ())[:_FEW])
        return FeaturesOrdered(self.job.input.path, self.network.n, pairing.moved, names)

    @property
    def slopes(self) -> SlopesAddress | None:
        """The address of the store of slopes that replaces X, if there is one."""
        return SlopesAddress.of(self.columns.store) if isinstance(self.columns, Slopes) else None

    def plan(self, capacity: Capacity, grid: Grid | None = None) -> Plan:
        """Plan the job for a cluster; `grid` is that of an existing store.

        Raises
        ------
        TooLargeError
            The plan does not fit a worker's memory, or a store.
        """
        network, output = self.network, self.job.output
        tile = tile_columns(network, output.dtype)
        x_itemsize = self.columns.copies * self.columns.dtype.itemsize
        if isinstance(self.columns, Slopes):
            x_itemsize = -(-x_itemsize * network.m // network.n)
        x_dtype = np.dtype(self.x.dtype)
        shapes = Shapes(p=self.columns.p, n=network.n, m=network.m, q=network.q)
        kept = kernel_bytes(
            network,
            output.dtype,
            tile,
            blocks=needs_blocks(output.products, output.layout, elementwise=network.has_slopes),
        )
        if network.has_slopes:
            kept += kept_bytes(output.products, shapes)
        request = PlanRequest(
            shapes=shapes,
            work=Work(
                order=str(cheapest(network.sizes)),
                flops=cheapest(network.sizes).flops,
                forward_flops=2 * sum(layer.W.size for layer in network.layers[:-1]),
                slope_numbers=slope_numbers(network),
                scratch_bytes=scratch_bytes(network, output.dtype, tile),
                has_slopes=network.has_slopes,
            ),
            products=output.products,
            dtype=output.dtype,
            layout=output.layout,
            compression=output.compression,
            x_itemsize=x_itemsize,
            x_chunk_columns=self.columns.chunk_columns,
            working_itemsize=working_dtype(network, x_dtype, output.dtype).itemsize,
            kernel_bytes=kept,
            strip_columns=STRIP,
            tile_columns=tile,
            objects=is_url(output.path) or is_url(self.columns.path),
            block_size=output.block_size,
            chunk_size=output.chunk_size,
        )
        plan = make_plan(request, capacity, grid)
        if plan.grid.problem:
            anew = "" if grid is None else "Recreate the store (--overwrite). "
            raise TooLargeError(
                f"{plan.grid.problem}. {anew}Raise output.block_size and output.chunk_size."
            )
        return replace(plan, features=_features(self.pairing, network.n))


def check_job(job: Job) -> PreparedJob:
    """Open the files that a job names and check that they fit; nothing is changed.

    Raises
    ------
    UsageError
        The files are invalid, or do not fit each other.
    """
    _refuse_overlap(job)
    settings = job.network
    network = Network.load(
        settings.weights,
        settings.activation,
        settings.names,
        settings.storage_options,
        matrices=settings.matrices,
        **{key: getattr(settings, key) for key in SCALINGS},
    )
    # The store's record names the activations, whether the job or the network's file gives them
    described: Any = [{"name": sigma.name, **sigma.parameters} for sigma in network.activations]
    described = described[0] if len(described) == 1 else described
    job = job.model_copy(update={"network": settings.model_copy(update={"activation": described})})
    x = job.input
    _refuse_factored(job, network)
    names = network_names(job, network)
    columns = open_columns(**x.asked)
    if columns.n != network.n:
        raise InputError(_shapes_side_by_side(job, network, columns, names))
    pairing = _paired(job, names, columns)
    if pairing.order is not None:
        # Set the order in the job, so that workers and verify read X in this order too
        features = _selection(columns, pairing.order)
        job = job.model_copy(update={"input": x.model_copy(update={"features": features})})
        columns = open_columns(**job.input.asked)
    sizes = {"input": network.n, "output": network.q}
    labels, coordinates = find_labels(job, columns, pairing, sizes)
    before = _stamp(columns)
    found = _described(columns)
    stamp = before if _stamp(columns) == before else ""
    return PreparedJob(job, network, columns, found, labels, coordinates, pairing, stamp=stamp)


def _stamp(columns: InputMatrix) -> str:
    try:
        return stamp_of(columns.stamps())
    except (OSError, ValueError) as error:
        raise InputError(f"{columns.path}: X cannot be read: {error}") from error


def _paired(job: Job, names: tuple[str, ...] | None, columns: InputMatrix) -> Pairing:
    """Match X's features with the network's inputs; raise InputError if their names differ."""
    try:
        return pair(names, columns.feature_names, numbered=columns.numbered)
    except MatchError as error:
        settings = job.network
        remedy = (
            "leave network.input_names out, and rename the coordinate when you read the store: "
            "cn.open(…).assign_coords(input=[…])"
            if settings.input_names is not None
            else f"give X's names in the network's order with network.input_names, which replaces "
            f"the names in {settings.weights}"
        )
        raise InputError(
            f"{columns.path}: {error}. Features are matched by name, so X and the network must "
            "have the same names, in any order. Choose other features with input.features, or "
            "rename them. If X's features are the network's inputs, in the network's order, "
            f"{remedy}."
        ) from None


def _selection(columns: InputMatrix, order: tuple[int, ...]) -> tuple[int | str, ...]:
    """Return X's features in another order, as for `input.features`: by name if possible."""
    names = [(columns.feature_names or ())[at] for at in order]
    held = columns.source.all_names or ()
    if all(names) and len(set(held)) == len(held):
        return tuple(names)
    chosen = range(columns.n) if columns.features is None else columns.features
    return tuple(chosen[at] for at in order)


def _features(pairing: Pairing, n: int) -> tuple[Feature, ...]:
    """List the network's inputs, each with X's feature; empty if neither side has names."""
    if pairing.names is None:
        return ()
    order, none = pairing.order or range(n), (None,) * n
    pairs = zip(pairing.inputs or none, pairing.features or none, order, strict=True)
    return tuple(Feature(*each) for each in pairs)


def _described(columns: InputMatrix, most: int | None = None) -> InputRecord:
    try:
        return input_record(columns, most)
    except (OSError, ValueError, MemoryError) as error:
        raise InputError(f"{columns.path}: X cannot be read: {error}") from error


def _refuse_overlap(job: Job) -> None:
    """Refuse an output that overlaps an input: --overwrite would delete the run's own input."""
    output = job.output.path
    for key, read in (("input.path", job.input.path), ("network.weights", job.network.weights)):
        if overlap(read, output):
            raise StoreError(
                f"output.path {output} and {key} {read} overlap: the output must lie apart from "
                "the files that the run reads. Choose another output.path."
            )


def _refuse_factored(job: Job, network: Network) -> None:
    if job.output.layout == "dense" or network.has_slopes:
        return
    mixing = next((s.name for s in network.activations if s.columnwise), None)
    why = (
        f"this one has {len(network.hidden)} hidden layers"
        if len(network.hidden) != 1
        else f"{mixing} mixes the entries of a column, so that its slope is a matrix"
    )
    raise NetworkError(
        "output.layout: factored stores a vector of slopes for each column, from which "
        "U Diag(s′) W is made. It needs a network with one hidden layer and an elementwise "
        f"activation, but {why}. Set output.layout: dense."
    )


def _shapes_side_by_side(
    job: Job, network: Network, columns: InputMatrix, names: tuple[str, ...] | None
) -> str:
    other = "columns_by_features"
    if job.input.orientation == other:
        other = "features_by_columns"
    hint = ""
    if columns.p == network.n and " read as " in columns.described:
        hint = f" X fits the other way round: set input.orientation: {other}."
    elif columns.n > network.n:
        hint = " Choose the network's inputs, in the network's order, with input.features."
        if names is not None and columns.feature_names is not None:
            hint = f" Choose the network's inputs with input.features: [{listed(names)}]."
            if not {*map(match_key, names)} <= {*map(match_key, columns.feature_names)}:
                hint = f" By name, {difference(names, columns.feature_names)}."
    return (
        f"the network takes n = {network.n} inputs, but X has n = {columns.n} rows "
        f"(features): {', '.join(f'{name} {a.shape}' for name, a in network.arrays.items())} in "
        f"{job.network.weights}; X {columns.described}, in {job.input.path}.{hint}"
    )
