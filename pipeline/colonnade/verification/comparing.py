"""Compare the arrays of a block with their enclosures, and name the columns that are wrong."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from colonnade.verification.findings import Failure
from colonnade.verification.reference import Array, Enclosure, excess

__all__ = ["Comparison", "difference"]

# Most failures reported for one array of a block; if there are more, one failure covers them all
_RUNS = 16


def difference(
    stored: NDArray[np.generic], expected: Enclosure, subject: str = ""
) -> tuple[float, str]:
    """Compare an array, and describe its worst entry.

    Returns
    -------
    The largest ratio of error to bound, and the description.
    """
    error = excess(stored, expected)
    worst = np.unravel_index(int(np.argmax(error)), error.shape)
    entry = f"entry [{', '.join(str(int(i)) for i in worst)}]" if worst else ""
    where = ", ".join(part for part in (subject, entry) if part)
    centre, radius = float(expected.centre[worst]), float(expected.radius[worst])
    must = "must not be finite" if np.isinf(centre) else f"must be {centre:.9g} ± {radius:.2g}"
    return float(error[worst]), f"{where} is {float(stored[worst]):.9g}, but {must}"


class Comparison:
    """Compares the rows of a block's arrays.

    Attributes
    ----------
    errors
        array -> largest ratio of error to bound.
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
        """Compare rows of an array.

        Parameters
        ----------
        first
            Column number of the first row.
        subject
            What a message calls the row of column k.

        Returns
        -------
        The largest ratio of error to bound in each row.
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
        """Return the wrong columns array by array, one failure for each run of adjacent columns."""
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
