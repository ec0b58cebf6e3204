"""Small networks and inputs of prime sizes, for all tests; and what a refusal is."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import socket
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import colonnade as cn
from colonnade import Network
from colonnade.compute.kernel.tiles import Tiles
from colonnade.compute.products import PRODUCTS, BlockAccumulator, make_arrays
from colonnade.errors import ColonnadeError, NetworkError
from colonnade.grid import Grid, Shapes
from colonnade.planning.plan import Work
from colonnade.storage import Place

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


def make_chain(
    sizes: Sequence[int], activations: Any = "tanh", dtype: Any = np.float32, seed: int = 0
) -> Network:
    """A network of these sizes: inputs, hidden units of each layer, outputs."""
    rng = np.random.default_rng(seed)
    layers = [
        (
            (rng.standard_normal((m, n)) / np.sqrt(n)).astype(dtype),
            rng.standard_normal(m).astype(dtype),
        )
        for n, m in pairwise(sizes)
    ]
    return Network.chain(layers, activations)


def make_columns(n: int = N, p: int = P, dtype: Any = np.float32, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, p)).astype(dtype)


def save_network(path: Path, network: Network) -> None:
    np.savez(path, W1=network.W1, b1=network.b1, W2=network.W2, b2=network.b2)


def results(
    network: Network,
    X: np.ndarray,
    dtype: str,
    names: Sequence[str] = tuple(PRODUCTS),
    by: str = "",
) -> dict[str, np.ndarray]:
    """Each array of a store with one block, as a task computes it; `by` blocks where it is said."""
    p = X.shape[1]
    tiles = Tiles(network, X.dtype, dtype)
    values = np.empty((p, network.q), dtype)
    S = tiles.slopes(X, 0, values)
    T = tiles.blocks(S, 0)
    plans = make_arrays(Shapes(p, network.n, network.m, network.q), names, dtype, Grid(p, p, p))
    arrays = {plan.name: np.full(plan.shape, 7, plan.dtype) for plan in plans}
    arrays |= {"jacobian": T, "slope": S.T, "value": values}
    for product in (PRODUCTS[name](tiles.kernel) for name in names):
        if product.name in ("jacobian", "value"):
            continue
        rows = BlockAccumulator(lambda name, start, stop: arrays[name][start:stop])
        product.begin(rows)
        for a, b in ((0, p // 3), (p // 3, p)):
            rows.start = a
            if b > a and product.of_slopes and by != "blocks":
                product.slopes(S[:, a:b], rows)
            elif b > a:
                product.blocks(T[a:b], rows)
        product.end(rows)
        if product.made_of is not None:
            made = product.final(iter([arrays[product.made_of]]), p)
            arrays[product.statistic] = np.asarray(made).astype(dtype)
    return arrays


def make_work(shapes: Shapes) -> Work:
    """What a column of one hidden layer with an elementwise σ takes."""
    n, m, q = shapes.n, shapes.m, shapes.q
    return Work("W2 D1 W1", 2 * m * n * q, 2 * m * n, m)


def put_npy(place: Place, X: np.ndarray) -> None:
    """Write X to a place, as a .npy file."""
    file = io.BytesIO()
    np.save(file, X)
    place.write("", file.getvalue())


def needs(program: str, how: str) -> None:
    """Leave a test out where a program is not installed, and say how to include it.

    With TEST_ALL set nothing is left out: then the program must be there.
    """
    if shutil.which(program) is None:
        told = f"there is no {program} here; to include this: {how}"
        if os.environ.get("TEST_ALL"):
            pytest.fail(told)
        pytest.skip(told)


def needs_root() -> None:
    """Leave a test out, as `needs`, where it cannot become another user."""
    if os.geteuid() != 0:
        told = "only root becomes another user; to include this: run it as root"
        if os.environ.get("TEST_ALL"):
            pytest.fail(told)
        pytest.skip(told)


def check_refusal(error: ColonnadeError) -> str:
    """A refusal has its exit status, and says why in a paragraph without control characters."""
    text = str(error)
    assert error.exit_status in (2, 3)
    assert 20 < len(text) < 3000
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    return text


@dataclass
class BadInputs:
    """What the tests of this session have tried and colonnade has refused.

    Counted are inputs that differ, and of those that were tried not the ones that turned out to be
    good; several commands on one input count once. A traceback is any other error than a refusal.
    """

    refused: set[str] = field(default_factory=set)
    tracebacks: int = 0

    @contextmanager
    def watched(self, given: Any) -> Iterator[None]:
        """Count what happens; without `given`, the input is what the test's parameters say."""
        try:
            yield
        except ColonnadeError:
            name, _, rest = os.environ["PYTEST_CURRENT_TEST"].partition("::")
            kind = rest if given is None else (rest.partition("[")[0], given)
            self.refused.add(hashlib.sha256(repr((name, kind)).encode()).hexdigest())
            raise
        except Exception:
            self.tracebacks += 1
            raise


BAD_INPUTS = BadInputs()
# Kind of fault -> how often it was tried; and how often all was well in the end
TRIED: Counter[str] = Counter()
SURVIVED: Counter[str] = Counter()


def refusal(action: Callable[[], Any], given: Any = None) -> str:
    """What the refusal of an action says; `given` is the bad input, where a test tries many."""
    with pytest.raises(ColonnadeError) as caught, BAD_INPUTS.watched(given):
        action()
    return check_refusal(caught.value)


def frugal_refusal(action: Callable[[], Any]) -> str:
    """What the refusal of an action says, which has taken little memory."""
    tracemalloc.start()
    try:
        said = refusal(action)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    return said


def allowed(action: Callable[[], Any], given: Any = None) -> Any:
    """What an action returns, or None where it is refused; it does nothing else."""
    try:
        with BAD_INPUTS.watched(given):
            return action()
    except ColonnadeError as error:
        check_refusal(error)
        return None


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """All that is below a folder, with the files' content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def no_files(folder: Path) -> list[Path]:
    """What is there and no file: to read it would fail, or take for ever."""
    made = folder / "no files"
    made.mkdir()
    os.mkfifo(made / "pipe")
    (made / "link").symlink_to("pipe")
    (made / "loop").symlink_to("loop")
    # A socket's path is a short one
    with chdir(made), socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    return [made, *made.iterdir()]


def refused_network(path: str | Path, *arguments: Any, **options: Any) -> str:
    """What the refusal of a network's file says."""
    with pytest.raises(NetworkError) as caught:
        Network.load(path, *arguments, **options)
    return str(caught.value)


def check_network(
    network: Network, X: np.ndarray, Y: np.ndarray, J: np.ndarray | None = None
) -> None:
    """Y and J agree with those of another library, to the rounding of float32 or float64."""
    eps = 64 * np.finfo(Y.dtype).eps
    np.testing.assert_allclose(cn.forward(network, X), Y, rtol=eps, atol=eps * abs(Y).max())
    if J is not None:
        np.testing.assert_allclose(cn.jacobian(network, X), J, rtol=eps, atol=eps * abs(J).max())


def bits(path: str | Path) -> dict[str, bytes]:
    """Every file of a store but the group's attributes, which tell of times and ids."""
    root = Path(path)
    files = (file for file in root.rglob("*") if file.is_file())
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in files
        if file != root / "zarr.json"
    }
