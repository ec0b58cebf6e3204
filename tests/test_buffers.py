"""Memory that threads keep for what they do again and again."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from colonnade.buffers import Buffers, made_once


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


def test_what_threads_share_is_made_once() -> None:
    made: list[int] = []
    first, second, go_on = threading.Event(), threading.Event(), threading.Event()

    class Shared:
        @made_once
        def thing(self) -> list[int]:
            (second if made else first).set()
            made.append(1)
            go_on.wait()
            return made

    shared = Shared()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(lambda: shared.thing)
        first.wait()
        two = pool.submit(lambda: shared.thing)
        # Let in, it would come at once
        assert not second.wait(0.2)
        go_on.set()
        assert one.result() is two.result() is made
    assert made == [1]
