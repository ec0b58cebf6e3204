"""The checks of a store, array by array and block by block, and what they find."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.columns import Columns
from colonnade.columns.pairing import MatchError, pair
from colonnade.errors import NetworkError, StoreError, UsageError
from colonnade.matrix import nonfinite
from colonnade.network import Network
from colonnade.products import PRODUCTS
from colonnade.store import Store, input_record, network_record
from colonnade.verify.blockwise import BlockSums, column_cost
from colonnade.verify.deepreference import DeepReference, make_reference
from colonnade.verify.findings import Failure
from colonnade.verify.reference import Enclosure, Reference, excess

__all__ = ["Checks"]

# Slopes that are computed again for whole blocks, to compare their sums: a few seconds' worth
_SLOPES = 2**22
# Slopes at a time, each a few complex numbers
_STRIP = 2**18
_SUMMED = {p.made_of for p in PRODUCTS.values() if p.made_of and not p.largest}
_COMPARED = {p.made_of for p in PRODUCTS.values() if p.made_of and p.largest}


@dataclass
class Checks:
    """The checks of one store, and what they find.

    Attributes
    ----------
    chosen
        Block -> columns of it to compute again.
    """

    store: Store
    chosen: dict[int, list[int]] = field(default_factory=dict)
    shards: int = 0
    chunks: int = 0
    sampled: int = 0
    sums: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    refused: str | None = None
    _counted: set[int] = field(default_factory=set)
    _overflowed: set[int] = field(default_factory=set)
    _X: Columns | None = None
    _reference: Reference | DeepReference | None = None
    _slopes_left: int = _SLOPES
    # Of the arrays that something is made of at the end: the sum of their rows and of these rows'
    # absolute values, and the largest
    _total: dict[str, Any] = field(default_factory=lambda: defaultdict(float))
    _terms: dict[str, Any] = field(default_factory=lambda: defaultdict(float))
    _largest: dict[str, Any] = field(default_factory=lambda: defaultdict(float))

    def open(
        self, X: Columns | None, network: Network | None, *, imports: bool, trust: bool
    ) -> None:
        """Check the weights and X, without which no column can be computed again."""
        self._counted = self.store.counted()
        self._overflowed = self.store.counted("nonfinite_results")
        network = self._network(imports=imports) or network
        try:
            X = self.store.columns(trust=trust) if X is None else X
            found = input_record(X, self.store.grid.columns)
        # The extra that reads X is not installed, say
        except (UsageError, OSError, ValueError) as error:
            self.refused = f"X cannot be read, so that no column was computed again: {error}"
            return
        record = self.store.record
        different = record.input.differences(found)
        if different:
            self.refused = (
                f"{record.job.input.path} is not the X that the store was made of "
                f"({'; '.join(different)}), so that no column was computed again"
            )
        elif self.refused:
            return
        elif network is None:
            self.refused = "the weights are damaged, so that no column was computed again"
        else:
            self._X = X
            output = record.job.output
            bits = output.significant_bits
            self._reference = make_reference(network, X.dtype, output.dtype, bits)

    def labels(self) -> None:
        """Read the coordinates, and compare names with those of the record."""
        labels = self.store.record.labels
        for name in (*labels.names, *labels.copied):
            try:
                stored = self._whole(name)
            except (StoreError, ValueError) as error:
                self._fail(name, None, str(error))
                continue
            if name in labels.names and tuple(map(str, stored)) != labels.names[name]:
                self._fail(name, None, "its names are not those of the store's record")
        self._order_of_names()

    def _order_of_names(self) -> None:
        """Compare the inputs' names with those of X: each number must stand under its own."""
        named = self.store.record.labels.input_names
        with suppress(MatchError):
            if self._X is not None and pair(named, self._X.feature_names).moved:
                cause = (
                    "its names are those of X's features in another order, so that derivatives "
                    "stand under wrong names; make the store anew with colonnade run --overwrite"
                )
                self._fail("input", None, cause)

    def block(self, block: int) -> None:
        """Read a block's shards, and compare its columns that were chosen."""
        kept: dict[int, dict[str, NDArray[Any]]] = {k: {} for k in self.chosen.get(block, [])}
        parts: dict[str, NDArray[Any]] = {}
        for plan in (plan for plan in self.store.record.plans if plan.per_block):
            of_columns = plan.dimensions[0] == "column"
            for start, rows in self._shard(plan.name, block):
                self._gather(plan.name, rows)
                if not of_columns:
                    parts[plan.name] = rows[0]
                for k in kept if of_columns else ():
                    if start <= k < start + len(rows):
                        # A view would keep the chunk
                        kept[k][plan.name] = rows[k - start].copy()
        self._parts(block, parts)
        self._counts(block, kept)
        for k, arrays in kept.items():
            x = self._read(k, k + 1)
            if x is None or self._reference is None:
                return
            self.sampled += 1
            if len(nonfinite(x)) and block not in self._counted:
                self._fail("nonfinite", block, "it is not counted that X is not finite", (k, k + 1))
            expected = self._reference.column(x[:, 0])
            for name, stored in arrays.items():
                self._compare(name, block, (k, k + 1), stored, expected[name])

    def _counts(self, block: int, kept: dict[int, dict[str, NDArray[Any]]]) -> None:
        """Read a block's counts; results that are not finite must be counted."""
        for name, blocks in (("nonfinite", self._counted), ("nonfinite_results", self._overflowed)):
            if block in blocks:
                for _ in self._shard(name, block):
                    pass
        if block in self._overflowed or not self.store.record.counts_results:
            return
        for k, arrays in kept.items():
            if not all(np.isfinite(stored).all() for stored in arrays.values()):
                cause = "it is not counted that results are not finite"
                self._fail("nonfinite_results", block, cause, (k, k + 1))

    def final(self, *, whole: bool) -> None:
        """Check what was written at the end, against the parts of all blocks."""
        store, grid = self.store, self.store.grid
        if not store.is_whole():
            absent = [plan.name for plan in store.record.plans if store.is_absent(plan)]
            for name in absent:
                self._fail(name, None, "it is missing")
            return
        failed = {failure.array for failure in self.failures}
        for product in (PRODUCTS[name] for name in store.record.job.output.products):
            if product.made_of is None:
                continue
            name = product.statistic
            try:
                stored = self._whole(name)
            except ValueError as error:
                self._fail(name, None, str(error))
                continue
            if not whole or product.made_of in failed:
                continue
            if product.largest:
                centre = np.asarray(self._largest[product.made_of], np.float64)
                expected = Enclosure(centre, np.full(centre.shape, np.finfo(np.float64).tiny))
            elif self._reference is None:
                continue
            else:
                total, terms = self._total[product.made_of], self._terms[product.made_of]
                expected = self._reference.mean(total, terms, grid.blocks, grid.columns)
            self._compare(name, None, (0, grid.columns), stored, expected)

    def _network(self, *, imports: bool) -> Network | None:
        arrays = {}
        names = self.store.weights
        for name in names:
            try:
                arrays[name] = self._whole(name)
            except ValueError as error:
                self._fail(name, None, str(error))
        if len(arrays) < len(names):
            return None
        if self.store.imported and not imports:
            self.refused = (
                f"the activation {', '.join(self.store.imported)} is code, which a store that may "
                "be another's does not make run, so that no column was computed again; verify "
                "with --import, if you trust it"
            )
            return None
        try:
            network = self.store.network_of(arrays)
        except NetworkError as error:
            self._fail(", ".join(names), None, str(error))
            return None
        if network_record(network) != self.store.record.network:
            self._fail(", ".join(names), None, "their fingerprint is not the store's")
            return None
        return network

    def _whole(self, name: str) -> NDArray[Any]:
        values = self.store.read_rows(name)
        self.shards += 1
        self.chunks += 1
        return values

    def _shard(self, name: str, block: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the chunks of a shard that can be read, each with its first row."""
        bad: list[tuple[int, int, str]] = []
        try:
            chunks = self.store.chunks(name, block)
        except ValueError as error:
            self._fail(name, block, str(error))
            return
        for start, stop in chunks:
            try:
                rows = self.store.read_rows(name, start, stop)
            except ValueError as error:
                bad.append((start, stop, str(error)))
                continue
            self.chunks += 1
            yield start, rows
        if not bad:
            self.shards += 1
        elif name.endswith("_blocks"):
            self._fail(name, block, bad[0][2])
        else:
            self._fail(name, block, bad[0][2], (bad[0][0], bad[-1][1]))

    def _gather(self, name: str, rows: NDArray[Any]) -> None:
        """Take note of rows that something is made of at the end."""
        with np.errstate(all="ignore"):
            if name in _SUMMED:
                self._total[name] = self._total[name] + rows.sum(axis=0)
                self._terms[name] = self._terms[name] + np.abs(rows).sum(axis=0)
            elif name in _COMPARED:
                self._largest[name] = np.maximum(self._largest[name], rows.max(axis=0))

    def _parts(self, block: int, stored: dict[str, NDArray[Any]]) -> None:
        """Compare a block's parts in the statistics, which take all of its columns.

        Of whole blocks, as many as there is time for.
        """
        start, stop = self.store.grid.bounds(block)
        network = self.store.record.network
        m = sum(network.hidden)
        cost = (stop - start) * column_cost(network.inputs, m, network.outputs, stored)
        if not stored or block not in self.chosen or cost > self._slopes_left:
            return
        # Only of one hidden layer are they known closely
        if not isinstance(self._reference, Reference):
            return
        sums = BlockSums(self._reference, stored)
        step = max(1, _STRIP // m)
        for first in range(start, stop, step):
            X = self._read(first, min(first + step, stop))
            if X is None:
                return
            sums.add(X)
        self._slopes_left -= cost
        self.sums += 1
        for name, expected in sums.enclosures().items():
            self._compare(name, block, (start, stop), stored[name], expected)

    def _read(self, start: int, stop: int) -> NDArray[Any] | None:
        if self._X is None:
            return None
        try:
            return self._X.read(start, stop)
        except (OSError, ValueError) as error:
            self._X, self.refused = None, f"X cannot be read any more: {error}"
            return None

    def _compare(
        self,
        name: str,
        block: int | None,
        columns: tuple[int, int],
        stored: NDArray[Any],
        expected: Enclosure,
    ) -> None:
        error = excess(stored, expected)
        worst = np.unravel_index(int(np.argmax(error)), error.shape)
        largest = float(error[worst])
        self.errors[name] = max(self.errors.get(name, 0.0), largest)
        if largest <= 1:
            return
        column = f"column {columns[0]}" if columns[1] - columns[0] == 1 else ""
        entry = f"entry [{', '.join(str(int(i)) for i in worst)}]" if worst else ""
        where = ", ".join(part for part in (column, entry) if part)
        cause = (
            f"{where} is {float(stored[worst]):.9g}, and must be "
            f"{float(expected.centre[worst]):.9g} ± {float(expected.radius[worst]):.2g}"
        )
        self._fail(name, block, cause, columns)

    def _fail(
        self, name: str, block: int | None, cause: str, columns: tuple[int, int] | None = None
    ) -> None:
        grid = self.store.grid
        if columns is None:
            columns = (0, grid.columns) if block is None else grid.bounds(block)
        self.failures.append(Failure(name, block, *columns, cause))
