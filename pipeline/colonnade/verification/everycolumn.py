"""Check all columns of one block.

The tensor is compared through J_k v with a random v, for each column k and each output: an error in
any entry of a row changes that row's product. Slopes, values and norms are compared number by
number.

The bounds of J_k v hold always and are therefore wide: they allow for the rounding errors of n
entries all adding up, which in practice they never do. Columns whose error stands out from the
others' are therefore compared again number by number, against the bounds of the entries, as the
sampled columns are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colonnade.inputs.matrix import nonfinite
from colonnade.verification.blockwise import BlockSums, ProjectedSums
from colonnade.verification.comparing import Comparison
from colonnade.verification.deepreference import DeepReference
from colonnade.verification.reference import Array, Enclosure, Reference, Results
from colonnade.verification.stored import StoredSums, norm_enclosure, project

__all__ = ["EveryColumn", "Usual", "direction"]

# Numbers of a layer (units × columns) processed at a time: they and their temporaries stay in cache
_STRIP = 2**17
_FEWEST = 64
# An error stands out if it is more than this many times the usual one
_STANDS_OUT = 8.0
# Most columns of a block that are compared again
_DOUBTS = 16
# Errors of earlier blocks from which the usual error is computed
_REMEMBERED = 4096
_PRODUCT = "the product of column {k}'s block with a random vector"


def direction(n: int, seed: int, block: int) -> Array:
    """Draw v, (n,): numbers of 1 to 2 with random signs, so that no entry of J_k is hidden."""
    rng = np.random.default_rng([seed, block, n])
    v: Array = rng.uniform(1, 2, n) * rng.choice((-1.0, 1.0), n)
    return v


class Usual:
    """The usual ratio of error to bound of a store's columns."""

    def __init__(self) -> None:
        self._before = np.zeros(0)

    def doubts(self, error: Array) -> list[int]:
        """Return the columns of a block whose error stands out, the largest error first.

        Errors are compared with the medians of this block and of earlier blocks: in a block that
        is wrong as a whole, no column stands out from the others.
        """
        error = np.where(np.isnan(error), -1.0, error)
        known = error[(error >= 0) & (error < np.inf)]
        usual = [float(np.median(part)) for part in (known, self._before) if len(part)]
        self._before = np.concatenate([self._before, known])[-_REMEMBERED:]
        if not usual:
            return []
        found = np.flatnonzero(error > _STANDS_OUT * min(usual))
        order: list[int] = found[np.argsort(-error[found], kind="stable")].tolist()
        return order


class EveryColumn:
    """Compares a block's arrays with the enclosures of its columns, as the arrays are read.

    Parameters
    ----------
    v
        (n,), the vector that blocks are multiplied with.
    start, stop
        The block's columns.
    rows
        array -> all rows of the block, for the arrays other than `jacobian` and `slope` that
        have a row for each column.
    parts
        array -> the block's part of a statistic.
    in_full
        The parts to enclose entry by entry, which is slow.
    read
        Reads columns start to stop of X; returns None once X has become unreadable.

    Attributes
    ----------
    comparison
        The findings.
    covered
        How many columns were compared: none if σ is imported and mixes the entries of a column.
    unknown
        How many of these may overflow, so that any value is accepted.
    seen, nonfinite
        How many columns of X were read, and how many of these are not finite.
    overflowed
        (B,), whether a stored result of the column is not finite.
    """

    def __init__(
        self,
        reference: Reference | DeepReference,
        v: Array,
        start: int,
        stop: int,
        rows: Mapping[str, NDArray[Any]],
        parts: Mapping[str, NDArray[Any]],
        in_full: set[str],
        read: Callable[[int, int], NDArray[Any] | None],
    ) -> None:
        self.comparison = Comparison()
        self.covered = self.unknown = self.seen = self.nonfinite = 0
        self._reference = reference
        self._v = v
        self._start, self._stop = start, stop
        self._rows = rows
        self._parts = parts
        self._read = read
        # NaN for columns whose error has no meaning
        self._error = np.full(stop - start, np.nan)
        self.overflowed = np.zeros(stop - start, np.bool_)
        self._stored = StoredSums(reference, parts)
        self._sums = None
        if isinstance(reference, Reference):
            self._sums = BlockSums(reference, in_full | ({"mean_blocks"} & parts.keys()))
        self._projected = ProjectedSums(reference, v, parts)

    def take(self, first: int, stop: int, name: str, given: NDArray[Any] | None) -> None:
        """Compare columns `first` to `stop`.

        Parameters
        ----------
        name, given
            `jacobian` or `slope`, and its rows of these columns; `given` is None if they are
            unreadable or the store has no such array.
        """
        step = max(_FEWEST, _STRIP // max(self._reference.units_count, len(self._v)))
        for k in range(first, stop, step):
            end = min(k + step, stop)
            X = self._read(k, end)
            results = None if X is None else self._reference.columns(X, self._v, self._rows)
            if X is None:
                return
            self.seen += end - k
            self.nonfinite += len(nonfinite(X))
            if results is None:
                continue
            self.covered += end - k
            self.unknown += int(np.count_nonzero(results.unknown))
            arrays = dict(results.arrays)
            rows = None if given is None else given[k - first : end - first]
            bad = self.overflowed[k - self._start : end - self._start]
            if name == "slope" and rows is not None:
                self.comparison.rows("slope", k, rows, arrays["slope"])
                bad |= ~np.isfinite(rows).all(axis=1)
            elif name == "jacobian" and rows is not None:
                arrays |= self._tensor(k, rows, results)
            for other, stored in self._rows.items():
                part = stored[k - self._start : end - self._start]
                self.comparison.rows(other, k, part, arrays[other])
                bad |= ~np.isfinite(part).all(axis=tuple(range(1, part.ndim)))
            self._add(results)

    def _tensor(self, k: int, T: NDArray[Any], results: Results) -> dict[str, Enclosure]:
        """Compare blocks T through their products with v; return the norms' enclosures from T.

        The enclosures are empty if the norms follow from the slopes or are not stored.
        """
        reference, expected = self._reference, results.arrays["jacobian"]
        # For networks without slopes, the norms of T give the tightest enclosure
        norms = self._sums is None and bool({"norm", "spectral_norm"} & self._rows.keys())
        found = project(T, self._v, sizes=reference.cut > 0, norms=norms)
        product, radius = found.product, expected.radius
        # The product of a finite block may overflow; that of a nonfinite block is never finite
        for i in np.flatnonzero(~np.isfinite(product).all(axis=1)).tolist():
            self.overflowed[k - self._start + i] |= not np.isfinite(T[i]).all()
        if found.sizes is not None:
            with np.errstate(all="ignore"):
                radius = radius + reference.cut / (1 - reference.cut) * found.sizes
        nan = np.isnan(expected.centre).all(axis=1)
        # One NaN entry makes its row's product NaN, but all entries must be NaN here
        for i in np.flatnonzero(nan).tolist():
            if not np.isnan(T[i]).all():
                product[i] = 0
        error = self.comparison.rows(
            "jacobian", k, product, Enclosure(expected.centre, radius), _PRODUCT
        )
        here = slice(k - self._start, k - self._start + len(T))
        self._error[here] = np.where(nan | results.unknown, np.nan, error)
        self._stored.add(T)
        if found.norm is None:
            return {}
        return norm_enclosure(found.norm, T.shape[1], T.shape[2], reference)

    def _add(self, results: Results) -> None:
        if self._sums is not None and results.slope is not None:
            s, r = results.slope
            self._sums.take(s, np.where(results.unknown, np.inf, r))
        self._projected.take(results)

    def parts(self) -> Iterator[tuple[str, NDArray[Any], Enclosure]]:
        """Yield name, stored part and enclosure for the block's parts of the statistics.

        Some parts are compared as their products with v. Nothing is yielded unless all columns
        were compared.
        """
        if self.covered < self._stop - self._start:
            return
        found = {} if self._sums is None else self._sums.enclosures()
        # Sums of wrong blocks prove nothing
        if self.comparison.errors.get("jacobian", 0.0) <= 1:
            found |= self._stored.enclosures(self._stop - self._start)
        for name, expected in found.items():
            yield name, self._parts[name], expected
        yield from self._projected.compared(self._parts)

    def doubts(self, usual: Usual) -> list[int]:
        """Return the columns whose products stand out; they are not necessarily wrong."""
        return [self._start + i for i in usual.doubts(self._error)[:_DOUBTS]]
