"""Small networks and inputs of prime sizes, for all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from colonnade import Network

# n, m, q and p are unequal primes, so that a swapped dimension shows
N, M, Q, P = 5, 7, 3, 101


def make_network(
    n: int = N,
    m: int = M,
    q: int = Q,
    activation: Any = "tanh",
    dtype: Any = np.float32,
    seed: int = 0,
) -> Network:
    rng = np.random.default_rng(seed)
    W1 = (rng.standard_normal((m, n)) / np.sqrt(n)).astype(dtype)
    W2 = (rng.standard_normal((q, m)) / np.sqrt(m)).astype(dtype)
    b1, b2 = rng.standard_normal(m).astype(dtype), rng.standard_normal(q).astype(dtype)
    return Network(W1, b1, W2, b2, activation)


def make_columns(n: int = N, p: int = P, dtype: Any = np.float32, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, p)).astype(dtype)


def save_network(path: Path, network: Network) -> None:
    np.savez(path, W1=network.W1, b1=network.b1, W2=network.W2, b2=network.b2)
