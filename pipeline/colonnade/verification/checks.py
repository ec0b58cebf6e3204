"""Check a store array by array and block by block, and collect the findings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.compute.products import PRODUCTS
from colonnade.errors import NetworkError, StoreError, UsageError
from colonnade.inputs import InputMatrix
from colonnade.inputs.coordinates import coordinate_beside
from colonnade.inputs.name_matching import MatchError, pair
from colonnade.network.network import Network
from colonnade.store import Store, input_record, network_record
from colonnade.verification.blockwise import column_cost
from colonnade.verification.comparing import Comparison, difference
from colonnade.verification.deepreference import DeepReference, make_reference
from colonnade.verification.everycolumn import EveryColumn, Usual, direction
from colonnade.verification.findings import Failure
from colonnade.verification.reference import Enclosure, Reference

__all__ = ["Checks"]

# Budget for enclosing sums over whole blocks entry by entry, in evaluations of a slope by its
# definition: a few seconds
_SLOPES = 2**22
_SUMMED = {p.made_of for p in PRODUCTS.values() if p.made_of and not p.largest}
_COMPARED = {p.made_of for p in PRODUCTS.values() if p.made_of and p.largest}


@dataclass
class Checks:
    """The checks of one store, and their findings.

    Attributes
    ----------
    chosen
        Block -> its columns to compare number by number.
    seed
        Seed of the vectors that blocks are multiplied with; None skips the check of all columns.
    """

    store: Store
    chosen: dict[int, list[int]] = field(default_factory=dict)
    seed: int | None = None
    shards: int = 0
    chunks: int = 0
    covered: int = 0
    unknown: int = 0
    sampled: int = 0
    doubted: int = 0
    sums: Counter[str] = field(default_factory=Counter)
    errors: dict[str, float] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    refused: str | None = None
    _counted: set[int] = field(default_factory=set)
    _overflowed: set[int] = field(default_factory=set)
    _X: InputMatrix | None = None
    _reference: Reference | DeepReference | None = None
    _slopes_left: int = _SLOPES
    _usual: Usual = field(default_factory=Usual)
    # Of the per-block arrays from which a run computes its final statistics: the sums of their
    # rows and of the rows' absolute values, and the largest values
    _total: dict[str, Any] = field(default_factory=lambda: defaultdict(float))
    _terms: dict[str, Any] = field(default_factory=lambda: defaultdict(float))
    _largest: dict[str, Any] = field(default_factory=lambda: defaultdict(float))

    def open(
        self, X: InputMatrix | None, network: Network | None, *, imports: bool, trust: bool
    ) -> None:
        """Check the weights and X, which are needed to recompute columns."""
        self._counted = self.store.counted()
        self._overflowed = self.store.counted("nonfinite_results")
        network = self._network(imports=imports) or network
        try:
            X = self.store.columns(trust=trust) if X is None else X
            found = input_record(X, self.store.grid.columns)
        # UsageError: for example, the extra that reads X is not installed
        except (UsageError, OSError, ValueError) as error:
            self.refused = (
                "X cannot be read, so no column was recomputed; make it readable and verify "
                f"again: {error}"
            )
            return
        record = self.store.record
        different = record.input.differences(found)
        if different:
            self.refused = (
                f"{record.job.input.path} is not the X that the store was made from "
                f"({'; '.join(different)}), so no column was recomputed; restore that X and "
                "verify again"
            )
        elif self.refused:
            return
        elif network is None:
            self.refused = (
                "the weights are damaged, so no column was recomputed; repair the store, then "
                "verify again"
            )
        else:
            self._X = X
            output = record.job.output
            bits = output.significant_bits
            self._reference = make_reference(network, X.dtype, output.dtype, bits)

    def labels(self) -> None:
        """Read the coordinates, and compare them with the store's record and with X."""
        labels = self.store.record.labels
        for name in (*labels.names, *labels.copied):
            try:
                stored = self._whole(name)
            except (StoreError, ValueError) as error:
                self._fail(name, None, str(error))
                continue
            if name in labels.names and tuple(map(str, stored)) != labels.names[name]:
                self._fail(name, None, "its names differ from those in the store's record")
            elif name in labels.copied and not self._is_own(name, stored):
                self._fail(name, None, "its values differ from those of X's own coordinate")
        self._order_of_names()

    def _order_of_names(self) -> None:
        """Compare the names of the inputs with X's: each derivative must have its own label."""
        named = self.store.record.labels.input_names
        with suppress(MatchError):
            if self._X is not None and pair(named, self._X.feature_names).moved:
                cause = (
                    "it has the names of X's features in another order, so derivatives stand "
                    "under wrong names; recreate the store with colonnade run --overwrite JOB"
                )
                self._fail("input", None, cause)

    def _is_own(self, dimension: Any, stored: NDArray[Any]) -> bool:
        """Whether a coordinate equals the one in X's own store; True if X has none to read."""
        try:
            own = None if self._X is None else coordinate_beside(self._X, dimension)
            if own is None:
                return True
            return np.array_equal(own.read(0, own.size), stored, equal_nan=own.dtype.kind == "f")
        except (UsageError, OSError, ValueError):
            return True

    def block(self, block: int) -> None:
        """Read a block's shards and compare all columns, the chosen ones number by number."""
        start, stop = self.store.grid.bounds(block)
        plans = [plan for plan in self.store.record.plans if plan.per_block]
        main = next((p.name for p in plans if p.name in ("jacobian", "slope")), None)
        rows, parts = self._rows_and_parts(block, main)
        counted = self._count("nonfinite", block, self._counted)
        of_results = self._count("nonfinite_results", block, self._overflowed)
        every = self._every(block, rows, parts)
        kept: dict[int, NDArray[Any]] = {}
        at = start
        for first, given in self._shard(main, block) if main is not None else ():
            end = first + len(given)
            for k in self.chosen.get(block, []):
                if first <= k < end:
                    # A view would keep the whole chunk in memory
                    kept[k] = given[k - first].copy()
            if every is not None and main is not None:
                every.take(at, first, main, None)
                every.take(first, end, main, given)
            at = end
        if every is not None:
            every.take(at, stop, main or "", None)
        comparison = Comparison() if every is None else every.comparison
        doubts = [] if every is None else every.doubts(self._usual)
        for k in dict.fromkeys((*self.chosen.get(block, []), *doubts)):
            arrays = {name: part[k - start] for name, part in rows.items()}
            if k in kept and main is not None:
                arrays[main] = kept[k]
            elif k in doubts and main is not None:
                arrays[main] = self.store.read_rows(main, k, k + 1)[0]
            if not self._in_full(k, arrays, comparison):
                break
            self.sampled += k in self.chosen.get(block, [])
            self.doubted += k in doubts
        for name, error in comparison.errors.items():
            self.errors[name] = max(self.errors.get(name, 0.0), error)
        self.failures += comparison.failures(block)
        if every is not None:
            self.covered += every.covered
            self.unknown += every.unknown
            self._parts(block, every, parts, counted, of_results)

    def _rows_and_parts(
        self, block: int, main: str | None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Read the small arrays: those with a row for each column, and the block's statistics."""
        start, stop = self.store.grid.bounds(block)
        rows: dict[str, NDArray[Any]] = {}
        parts: dict[str, NDArray[Any]] = {}
        for plan in self.store.record.plans:
            if not plan.per_block or plan.name == main:
                continue
            found = [given for _, given in self._shard(plan.name, block)]
            for given in found:
                self._gather(plan.name, given)
            if plan.dimensions[0] != "column":
                if found:
                    parts[plan.name] = found[0][0]
            elif sum(map(len, found)) == stop - start:
                rows[plan.name] = found[0] if len(found) == 1 else np.concatenate(found)
        return rows, parts

    def _every(
        self, block: int, rows: dict[str, NDArray[Any]], parts: dict[str, NDArray[Any]]
    ) -> EveryColumn | None:
        """Start the check of all columns of a block; None if columns are not to be checked."""
        if self._reference is None or self.seed is None:
            return None
        (start, stop), network = self.store.grid.bounds(block), self.store.record.network
        # These can only be enclosed entry by entry, so check as many blocks as the budget allows
        in_full = {"gram_blocks", "mean_abs_blocks", "max_abs_blocks"} & parts.keys()
        if "jacobian" in self.store.record.arrays:
            in_full -= {"mean_abs_blocks", "max_abs_blocks"}
        m = sum(network.hidden)
        cost = (stop - start) * column_cost(network.inputs, m, network.outputs, in_full)
        if block not in self.chosen or cost > self._slopes_left:
            in_full = set()
        elif in_full:
            self._slopes_left -= cost
        v = direction(network.inputs, self.seed, block)
        return EveryColumn(self._reference, v, start, stop, rows, parts, in_full, self._read)

    def _in_full(self, k: int, arrays: dict[str, NDArray[Any]], comparison: Comparison) -> bool:
        """Compare all numbers of a column; return False if X cannot be read."""
        x = self._read(k, k + 1)
        if x is None or self._reference is None:
            return False
        expected = self._reference.column(x[:, 0])
        for name, stored in arrays.items():
            one = Enclosure(expected[name].centre[None], expected[name].radius[None])
            comparison.rows(name, k, np.asarray(stored)[None], one)
        return True

    def final(self, *, whole: bool) -> None:
        """Check the arrays that a run writes at its end against the parts of all blocks."""
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
                f"the activation {', '.join(self.store.imported)} is code, which is not run "
                "because the store may come from a stranger, so no column was recomputed; if you "
                "trust the code, verify with --import (imports=True)"
            )
            return None
        try:
            network = self.store.network_of(arrays)
        except NetworkError as error:
            self._fail(", ".join(names), None, str(error))
            return None
        if network_record(network) != self.store.record.network:
            self._fail(
                ", ".join(names),
                None,
                "their fingerprint differs from the one in the store's record",
            )
            return None
        return network

    def _whole(self, name: str) -> NDArray[Any]:
        values = self.store.read_rows(name)
        self.shards += 1
        self.chunks += 1
        return values

    def _shard(self, name: str, block: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the number of the first row and the rows of each readable chunk of a shard."""
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
        """Accumulate rows from which a run computes its final statistics."""
        with np.errstate(all="ignore"):
            if name in _SUMMED:
                self._total[name] = self._total[name] + rows.sum(axis=0)
                self._terms[name] = self._terms[name] + np.abs(rows).sum(axis=0)
            elif name in _COMPARED:
                self._largest[name] = np.maximum(self._largest[name], rows.max(axis=0))

    def _parts(
        self,
        block: int,
        every: EveryColumn,
        stored: dict[str, NDArray[Any]],
        counted: int | None,
        of_results: int | None,
    ) -> None:
        """Compare a block's parts of the statistics and its counts, which need all columns."""
        start, stop = self.store.grid.bounds(block)
        compared = set()
        for name, part, expected in every.parts():
            self._compare(name, block, (start, stop), part, expected)
            compared.add(name)
        self.sums.update(compared & stored.keys())
        if every.seen < stop - start:
            return
        if counted not in (None, every.nonfinite):
            cause = f"it counts {counted:,} columns of X that are not finite"
            self._fail("nonfinite", block, f"{cause}, but there are {every.nonfinite:,}")
        self._results(block, every, stored, of_results)

    def _results(
        self,
        block: int,
        every: EveryColumn,
        parts: dict[str, NDArray[Any]],
        counted: int | None,
    ) -> None:
        """Compare the block's count of columns with nonfinite results with the stored arrays."""
        start, stop = self.store.grid.bounds(block)
        if not self.store.record.counts_results or every.covered < stop - start:
            return
        # The stored results are wrong, so their count proves nothing
        if self.failures and self.failures[-1].block == block:
            return
        found = int(np.count_nonzero(every.overflowed))
        # A sum may overflow although none of its terms does
        alone = any(not np.isfinite(part).all() for part in parts.values())
        found = max(found, int(alone))
        # Without the tensor, entries that are not stored may have overflowed
        at_least = "" if "jacobian" in self.store.record.arrays else "at least "
        if counted is not None and (counted < found or (counted > found and not at_least)):
            cause = f"it counts {counted:,} columns whose results are not finite"
            self._fail("nonfinite_results", block, f"{cause}, but there are {at_least}{found:,}")

    def _count(self, name: str, block: int, written: set[int]) -> int | None:
        """Read a block's count, which is only written if it is not 0; None if it is damaged."""
        if block not in written:
            return 0
        counts = [int(count[0]) for _, count in self._shard(name, block)]
        return counts[0] if counts else None

    def _read(self, start: int, stop: int) -> NDArray[Any] | None:
        if self._X is None:
            return None
        try:
            return self._X.read(start, stop)
        except (OSError, ValueError) as error:
            self._X, self.refused = (
                None,
                (
                    "X cannot be read any longer, so the other columns were not recomputed; make "
                    f"it readable and verify again: {error}"
                ),
            )
            return None

    def _compare(
        self,
        name: str,
        block: int | None,
        columns: tuple[int, int],
        stored: NDArray[Any],
        expected: Enclosure,
    ) -> None:
        error, cause = difference(stored, expected)
        self.errors[name] = max(self.errors.get(name, 0.0), error)
        if error > 1:
            self._fail(name, block, cause, columns)

    def _fail(
        self, name: str, block: int | None, cause: str, columns: tuple[int, int] | None = None
    ) -> None:
        grid = self.store.grid
        if columns is None:
            columns = (0, grid.columns) if block is None else grid.bounds(block)
        self.failures.append(Failure(name, block, *columns, cause))
