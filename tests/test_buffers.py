"""Memory that threads keep for what they do again and again."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from colonnade.buffers import Buffers


def test_the_same_memory_for_a_name() -> None:
    buffers = Buffers()
    large = buffers.array("a", (7, 5), np.float64)
    large[...] = 3
    small = buffers.array("a", (3, 2), np.float32)
    assert np.shares_memory(large, small)
    assert (small.shape, small.dtype, small.flags.c_contiguous) == ((3, 2), np.float32, True)
    assert not np.shares_memory(large, buffers.array("b", (7, 5), np.float64))
    assert not np.shares_memory(large, buffers.array("a", (11, 5), np.float64))


def test_each_thread_and_each_process_has_its_own() -> None:
    buffers = Buffers()
    mine = buffers.array("a", (7,), np.float64)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(buffers.array, "a", (7,), np.float64).result()
    assert not np.shares_memory(mine, other)
    sent = pickle.loads(pickle.dumps(buffers))  # noqa: S301 (its own)
    assert not np.shares_memory(mine, sent.array("a", (7,), np.float64))
