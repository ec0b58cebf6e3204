"""Which numbers of a large X stand for all of it: as many as a bounded number of bytes allows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from colonnade.limits import SAMPLE_BYTES

__all__ = ["ReadUnit", "Sample", "samples"]

# Columns, spread evenly over X, the first and the last among them
_COLUMNS = 64


@dataclass(frozen=True, slots=True)
class ReadUnit:
    """What a single number costs: features and columns that are read with it, and their bytes."""

    features: int
    columns: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Columns of one piece, each from the feature `start` to the feature `stop`."""

    start: int
    stop: int
    columns: tuple[int, ...]


def samples(n: int, p: int, piece: ReadUnit) -> list[Sample]:
    """Choose the numbers of X, n × p, which lies in pieces.

    Whole columns where they are cheap. Where a column costs much, the samples lie in fewer pieces,
    and have other features from one to the next.
    """
    columns = _spread(0, p - 1, _COLUMNS)
    # Two pieces always, or one could be all there is
    most = max(2, SAMPLE_BYTES // piece.bytes)
    if len({k // piece.columns for k in columns}) > most:
        ends = [
            (k // piece.columns * piece.columns, min((k // piece.columns + 1) * piece.columns, p))
            for k in _spread(0, p - 1, most)
        ]
        columns = [k for lo, hi in ends for k in _spread(lo, hi - 1, -(-_COLUMNS // most))]
    groups = [tuple(group) for _, group in groupby(columns, lambda k: k // piece.columns)]
    bands = -(-n // piece.features)
    if len(groups) == 1 and bands * piece.bytes > SAMPLE_BYTES:
        groups *= 2
    taken = min(bands, max(1, SAMPLE_BYTES // (len(groups) * piece.bytes)))
    firsts = np.linspace(0, bands - taken, len(groups), dtype=int).tolist()
    return [
        Sample(first * piece.features, min((first + taken) * piece.features, n), group)
        for first, group in zip(firsts, groups, strict=True)
    ]


def _spread(first: int, last: int, count: int) -> list[int]:
    return sorted({*np.linspace(first, last, count, dtype=int).tolist()})
