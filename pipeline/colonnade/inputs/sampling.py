"""Choose a sample of a large X that takes a bounded number of bytes to read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from colonnade.limits import SAMPLE_BYTES

__all__ = ["ReadUnit", "Sample", "samples"]

# Columns of a sample, spread evenly over X, including the first and the last
_COLUMNS = 64


@dataclass(frozen=True, slots=True)
class ReadUnit:
    """The smallest read: the features and columns that one number brings along, and their bytes."""

    features: int
    columns: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Some columns of one read unit, each from feature `start` to feature `stop`."""

    start: int
    stop: int
    columns: tuple[int, ...]


def samples(n: int, p: int, piece: ReadUnit) -> list[Sample]:
    """Choose samples of X, n × p, which is stored in read units like `piece`.

    Cheap columns are sampled whole. Expensive columns are sampled from fewer read units, and each
    sample covers different features.
    """
    columns = _spread(0, p - 1, _COLUMNS)
    # At least two units, so that a sample never comes from a single one
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
