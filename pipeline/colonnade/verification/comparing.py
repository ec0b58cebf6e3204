"""Comparing the arrays of a block with what they must be, and naming the columns that are wrong."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from colonnade.verification.findings import Failure
from colonnade.verification.reference import Array, Enclosure, excess

__all__ = ["Comparison", "difference"]

# Failures of one array of a block; beyond, one names all of its columns
_RUNS = 16


def difference(
    stored: NDArray[np.generic], expected: Enclosure, subject: str = ""
) -> tuple[float, str]:
    """Compare an array, and say what its worst entry is and must be.

    Returns
    -------
    The largest error over its bound, and the text.
    """
    error = excess(stored, expected)
    worst = np.unravel_index(int(np.argmax(error)), error.shape)
    entry = f"entry [{', '.join(str(int(i)) for i in worst)}]" if worst else ""
    where = ", ".join(part for part in (subject, entry) if part)
    centre, radius = float(expected.centre[worst]), float(expected.radius[worst])
    must = "must not be finite" if np.isinf(centre) else f"must be {centre:.9g} ± {radius:.2g}"
    return float(error[worst]), f"{where} is {float(stored[worst]):.9g}, and {must}"


class Comparison:
    """Compares the rows of a block's arrays.

    Attributes
    ----------
    errors
        array -> largest error over its bound.
    """

    def __init__(self) -> None:
        self.errors: dict[str, float] = {}
        self._wrong: dict[str, dict[int, tuple[float, str]]] = defaultdict(dict)

    def rows(
        self,
        name: str,
        first: int,
        stored: NDArray[np.generic],
        expected: Enclosure,
        subject: str = "column {k}",
    ) -> Array:
        """Compare rows of an array, of which `first` is the number of the first one's column.

        Parameters
        ----------
        subject
            What a message calls the row of column k.

        Returns
        -------
        The largest error over its bound of each row.
        """
        error: Array = excess(stored, expected).reshape(len(stored), -1).max(axis=1)
        self.errors[name] = max(self.errors.get(name, 0.0), float(error.max(initial=0)))
        for i in np.flatnonzero(error > 1).tolist():
            k = first + i
            row = Enclosure(expected.centre[i], expected.radius[i])
            ratio, cause = difference(np.asarray(stored[i]), row, subject.format(k=k))
            if ratio >= self._wrong[name].get(k, (0.0, ""))[0]:
                self._wrong[name][k] = ratio, cause
        return error

    def failures(self, block: int) -> list[Failure]:
        """Name the columns that are wrong, array by array: those that lie together in one."""
        found = []
        for name, wrong in self._wrong.items():
            columns = np.sort(np.fromiter(wrong, np.int64))
            runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
            if len(runs) > _RUNS:
                runs = [columns]
            for run in runs:
                _, cause = max((wrong[k] for k in run.tolist()), key=lambda given: given[0])
                start, stop = int(run[0]), int(run[-1]) + 1
                if stop - start > len(run):
                    cause = f"{len(run):,} of these columns are wrong; {cause}"
                found.append(Failure(name, block, start, stop, cause))
        return found
