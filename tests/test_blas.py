"""One BLAS thread while blocks are computed, whichever thread computes them."""

from __future__ import annotations

import os
import subprocess
import sys

# Where another thread set a limit before, threadpoolctl 3.8 does nothing for this one
IN_THREADS = """
import threading
import numpy
from threadpoolctl import threadpool_info
from colonnade.compute.blas import one_blas_thread

def threads():
    return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}

def alone():
    with one_blas_thread():
        told.append(threads())
    told.append(threads())

def first():
    with one_blas_thread():
        entered.set()
        let_go.wait(60)
    left.set()

told, before = [], threads()
alone()
for _ in range(2):
    thread = threading.Thread(target=alone)
    thread.start()
    thread.join()
with one_blas_thread():
    import scipy.linalg  # another BLAS
    with one_blas_thread():
        told.append(threads())
told.append(threads())
entered, let_go, left = (threading.Event() for _ in range(3))
threading.Thread(target=first).start()
entered.wait(60)
with one_blas_thread():
    let_go.set()
    left.wait(60)
    told.append(threads())
told.append(threads())
assert told == [{1}, before] * 5, (before, told)
"""


def test_every_thread_limits_it_and_the_last_one_restores_it() -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", IN_THREADS],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
