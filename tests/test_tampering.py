"""Stores that somebody, or some defect, has made wrong behind right checksums: what verify finds.

Every number is changed through zarr, which writes the checksum of what it is given, in a column
that is not among those that verify compares number by number.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr

import colonnade as cn
from colonnade.errors import ColonnadeError
from colonnade.inputs import open_columns
from colonnade.store import Store
from colonnade.verification.verification import _chosen
from support import bits, make_columns, make_network, save_network
from test_verify import change, flip

pytestmark = pytest.mark.shared_cluster

# q = n, so that a block can be transposed
N = Q = 5
M, P = 7, 2003
B, C = 93, 31  # columns of a block and of a chunk
PRODUCTS = ["jacobian", "value", "norm", "spectral_norm", "mean", "mean_abs", "max_abs", "gram"]
STORES: dict[str, dict[str, Any]] = {
    "float32": {"products": PRODUCTS},
    "plain": {"products": ["jacobian", "mean", "gram"]},
    "float64": {"products": PRODUCTS, "dtype": "float64"},
    "nan": {"products": ["jacobian", "value", "norm"]},
    "rounded": {"products": PRODUCTS, "significant_bits": 9, "compression": "zstd"},
    "factored": {"products": PRODUCTS, "layout": "factored"},
}


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, shared_cluster: dict[str, Any]
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Each store that is going to be spoilt, with its job."""
    folder = tmp_path_factory.mktemp("tampering")
    save_network(folder / "network.npz", make_network(N, M, Q))
    X, spoilt = make_columns(N, P), make_columns(N, P)
    # Not finite, and not in the block that is spoilt; a statistic would be NaN
    spoilt[1, 3] = np.nan
    group = zarr.open_group(folder / "X.zarr", mode="w")
    for name, values in (("X", X), ("spoilt", spoilt)):
        array = group.create_array(
            name, data=values, chunks=(N, 500), dimension_names=("feature", "column")
        )
        assert array.shape == X.shape
    group.create_array("column", data=np.arange(P) * 0.5, dimension_names=("column",))
    found = {}
    for name, output in STORES.items():
        job = {
            "network": {
                "weights": str(folder / "network.npz"),
                "activation": "tanh",
                "input_names": [f"in{i}" for i in range(N)],
                "output_names": [f"out{i}" for i in range(Q)],
            },
            "input": {
                "path": str(folder / "X.zarr"),
                "array": "spoilt" if name == "nan" else "X",
            },
            "output": {
                "path": str(folder / f"{name}.zarr"),
                "block_size": B * (M if name == "factored" else Q * N) * 4,
                "chunk_size": C * (M if name == "factored" else Q * N) * 4,
                **output,
            },
            "cluster": shared_cluster,
        }
        if name == "float64":
            job["output"] |= {"block_size": B * Q * N * 8, "chunk_size": C * Q * N * 8}
        assert cn.run(job).state == "complete"
        found[name] = folder / f"{name}.zarr", job
    return found


def column_of(store: Path) -> int:
    """A column that is not compared number by number, and neither are its neighbours."""
    grid = Store.open(store).grid
    sampled = {k for columns in _chosen(grid, set(), 64, 0).values() for k in columns}
    free = (k for k in range(1000, P) if not sampled & {k - 1, k, k + 1, k + 2})
    return next(k for k in free if k % B < B - 4)


Spoil = Callable[[Path, int], Any]


def column(name: str, spoil: Callable[[np.ndarray, int], Any]) -> Spoil:
    """Change an array of the store; `spoil` has it, and the number of the column."""
    return lambda store, k: change(store, name, lambda T: spoil(T, k))


def largest(J: np.ndarray) -> tuple[Any, ...]:
    return np.unravel_index(int(np.abs(J).argmax()), J.shape)


def times(factor: float) -> Callable[[np.ndarray, int], None]:
    return lambda T, k: T.__setitem__(k, T[k] * factor)


def entry_times(factor: float) -> Callable[[np.ndarray, int], None]:
    return lambda T, k: T[k].__setitem__(largest(T[k]), T[k][largest(T[k])] * factor)


def entry_is(value: float) -> Callable[[np.ndarray, int], None]:
    return lambda T, k: T[k].__setitem__(largest(T[k]), value)


def bit(number: int) -> Callable[[np.ndarray, int], None]:
    """Flip a bit of the column's largest number: 31 is the sign, 23 the exponent's lowest."""

    def spoil(T: np.ndarray, k: int) -> None:
        at = (k, *largest(T[k]))
        T.view(np.uint32)[at] ^= np.uint32(1 << number)

    return spoil


def neighbours(T: np.ndarray, k: int) -> None:
    T[[k, k + 1]] = T[[k + 1, k]]


def neighbours_own(T: np.ndarray, k: int) -> None:
    T[k] = T[k + 1]


def exchanged(axis: int) -> Callable[[np.ndarray, int], None]:
    def spoil(T: np.ndarray, k: int) -> None:
        order = [1, 0, *range(2, T.shape[1 + axis])]
        T[k] = np.take(T[k], order, axis=axis)

    return spoil


def negative_row(T: np.ndarray, k: int) -> None:
    T[k, 2] *= -1


def part(spoil: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray, int], None]:
    """Spoil a block's part in a statistic."""
    return lambda parts, k: spoil(parts[k // B])


def copied(name: str, pattern: str = "c.{}.0.0") -> Spoil:
    """Put the shard of the block before in a block's place."""

    def spoil(store: Path, k: int) -> None:
        block = k // B
        shutil.copy(store / name / pattern.format(block - 1), store / name / pattern.format(block))

    return spoil


def blocks_exchanged(store: Path, k: int) -> None:
    one, other = (store / "jacobian" / f"c.{k // B + i}.0.0" for i in range(2))
    before = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(before)


def chunk_copied(store: Path, k: int) -> None:
    """The bytes of a chunk, its checksum with them, in the place of another of the same shard."""
    path, size = store / "jacobian" / f"c.{k // B}.0.0", C * Q * N * 4 + 4
    data = bytearray(path.read_bytes())
    data[:size] = data[size : 2 * size]
    path.write_bytes(data)


def record(edit: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Edit what the store says of itself."""

    def spoil(store: Path, _: int) -> None:
        document = json.loads((store / "zarr.json").read_text())
        edit(document["attributes"]["colonnade"])
        (store / "zarr.json").write_text(json.dumps(document))

    return spoil


def shard(edit: Callable[[Path], Any]) -> Spoil:
    return lambda store, k: edit(store / "jacobian" / f"c.{k // B}.0.0")


def x_of(store: Path) -> zarr.Group:
    return zarr.open_group(store.parent / "X.zarr", mode="r+")


def x_changed(store: Path, k: int) -> None:
    X: Any = x_of(store)["X"]
    X[2, k] = X[2, k] + np.float32(1)


def x_moved(store: Path, _: int) -> None:
    (store.parent / "X.zarr").rename(store.parent / "moved.zarr")


def x_and_fingerprint_changed(store: Path, k: int) -> None:
    """Changed in the block, and the record with it, as if it were the store's own X."""
    X: Any = x_of(store)["X"]
    X[2, k] = X[2, k] + np.float32(1)
    now = open_columns(str(store.parent / "X.zarr"), "X").fingerprint()
    record(lambda r: r["input"].__setitem__("fingerprint", now))(store, k)


class Tampering(NamedTuple):
    """What is done to a store, and what is found: the array that is wrong, or what is said of it.

    `within` is the reason why nothing is found.
    """

    spoil: Spoil
    found: str = ""
    store: str = "float32"
    within: str = ""


ROUNDING = "no larger than what rounding may do in another order of summation"
TAMPERING: dict[str, Tampering] = {
    # The blocks
    "the sign of an entry": Tampering(column("jacobian", entry_times(-1)), "jacobian"),
    "the sign of a row": Tampering(column("jacobian", negative_row), "jacobian"),
    "the sign of a column": Tampering(column("jacobian", times(-1)), "jacobian"),
    "a doubled column": Tampering(column("jacobian", times(2)), "jacobian"),
    "a column of zeros": Tampering(column("jacobian", times(0)), "jacobian"),
    "a column off by a thousandth": Tampering(column("jacobian", times(1.001)), "jacobian"),
    "an entry off by a thousandth": Tampering(column("jacobian", entry_times(1.001)), "jacobian"),
    "an entry off by a thousand ulp": Tampering(
        column("jacobian", entry_times(1 + 1000 * 2.0**-23)), "jacobian"
    ),
    "two neighbours exchanged": Tampering(column("jacobian", neighbours), "jacobian"),
    "the neighbour's block": Tampering(column("jacobian", neighbours_own), "jacobian"),
    "two outputs exchanged": Tampering(column("jacobian", exchanged(0)), "jacobian"),
    "two inputs exchanged": Tampering(column("jacobian", exchanged(1)), "jacobian"),
    "a transposed block": Tampering(
        column("jacobian", lambda T, k: T.__setitem__(k, T[k].T.copy())), "jacobian"
    ),
    "rows in reverse": Tampering(
        column("jacobian", lambda T, k: T.__setitem__(k, T[k, :, ::-1].copy())), "jacobian"
    ),
    "the exponent's lowest bit": Tampering(column("jacobian", bit(23)), "jacobian"),
    "the mantissa's highest bit": Tampering(column("jacobian", bit(22)), "jacobian"),
    "a bit in the mantissa's middle": Tampering(column("jacobian", bit(12)), "jacobian"),
    "the mantissa's tenth bit": Tampering(column("jacobian", bit(9)), "jacobian"),
    "the mantissa's lowest bit": Tampering(column("jacobian", bit(0)), "", "plain", ROUNDING),
    "the same bit, where |J| is summed": Tampering(column("jacobian", bit(0)), "mean_abs_blocks"),
    "a column of NaN": Tampering(column("jacobian", times(np.nan)), "jacobian"),
    "an entry that is NaN": Tampering(column("jacobian", entry_is(np.nan)), "jacobian"),
    "an entry that is infinite": Tampering(column("jacobian", entry_is(np.inf)), "jacobian"),
    "numbers where there must be NaN": Tampering(
        column("jacobian", lambda T, _: T.__setitem__((3, 1, 1), 0)), "jacobian", "nan"
    ),
    "two blocks exchanged": Tampering(blocks_exchanged, "jacobian"),
    "another block's shard": Tampering(copied("jacobian"), "jacobian"),
    "another chunk's bytes": Tampering(chunk_copied, "jacobian"),
    "float64 by way of float32": Tampering(
        column("jacobian", lambda T, k: T.__setitem__(k, T[k].astype(np.float32))),
        "jacobian", "float64",
    ),
    "more bits cut than it says": Tampering(
        column("jacobian", lambda T, k: T[k].view(np.uint32).__iand__(np.uint32(0xFFFF0000))),
        "jacobian", "rounded",
    ),
    "cut numbers off by a millionth": Tampering(
        column("jacobian", times(1 + 1e-6)), "", "rounded", "they are as exact as it says",
    ),
    # What is beside them
    "the neighbour's value": Tampering(column("value", neighbours_own), "value"),
    "a value's sign": Tampering(column("value", entry_times(-1)), "value"),
    "a value that is NaN": Tampering(column("value", entry_is(np.nan)), "value"),
    "a negative norm": Tampering(column("norm", times(-1)), "norm"),
    "the neighbour's norm": Tampering(column("norm", neighbours_own), "norm"),
    "a norm off by a thousandth": Tampering(column("norm", times(1.001)), "norm"),
    "a negative spectral norm": Tampering(column("spectral_norm", times(-1)), "spectral_norm"),
    "a tenfold spectral norm": Tampering(column("spectral_norm", times(10)), "spectral_norm"),
    "a spectral norm off by a thousandth": Tampering(
        column("spectral_norm", times(1.001)),
        within="of a column that is not sampled it lies between bounds, |J|/√r and |J|",
    ),
    # Statistics
    "a part of the mean": Tampering(
        column("mean_blocks", part(lambda part: part.__setitem__((2, 1), part[2, 1] + 1e-3))),
        "mean_blocks",
    ),
    "a part of the mean of |J|": Tampering(
        column("mean_abs_blocks", part(lambda part: part.__imul__(1.001))), "mean_abs_blocks"
    ),
    "a smaller part of max |J|": Tampering(
        column("max_abs_blocks", part(lambda part: part.__imul__(0.999))), "max_abs_blocks"
    ),
    "an asymmetric part of the gram": Tampering(
        column("gram_blocks", part(lambda part: part.__setitem__((0, 1), part[0, 1] * 1.01 + 0.1))),
        "gram_blocks",
    ),
    "a part of the gram": Tampering(
        column("gram_blocks", part(lambda part: part.__imul__(1.001))), "gram_blocks"
    ),
    "the mean": Tampering(column("mean", lambda mean, _: mean.__imul__(1.001)), "mean"),
    "max |J|": Tampering(column("max_abs", lambda most, _: most.__imul__(0.999)), "max_abs"),
    "an asymmetric gram": Tampering(
        column("gram", lambda gram, _: gram.__setitem__((0, 1), gram[0, 1] + 0.01)), "gram"
    ),
    # The slopes
    "the neighbour's slopes": Tampering(column("slope", neighbours_own), "slope", "factored"),
    "a negative slope": Tampering(column("slope", entry_times(-1)), "slope", "factored"),
    "a slope beyond σ′": Tampering(column("slope", entry_is(1.5)), "slope", "factored"),
    "a slope of 0": Tampering(column("slope", entry_is(0)), "slope", "factored"),
    "a slope off by a thousandth": Tampering(
        column("slope", entry_times(1.001)), "slope", "factored"
    ),
    "two units exchanged": Tampering(
        column("slope", lambda S, k: S.__setitem__(k, S[k, [1, 0, *range(2, M)]])),
        "slope", "factored",
    ),
    "a slope's lowest bit": Tampering(column("slope", bit(0)), "", "factored", ROUNDING),
    # What they are made of
    "a bit of a weight": Tampering(
        column("W1", lambda W, _: W.view(np.uint32).__ixor__(np.uint32(1))), "W1, b1, W2, b2"
    ),
    "a bias": Tampering(column("b2", lambda b, _: b.__imul__(1.5)), "W1, b1, W2, b2"),
    "X changed": Tampering(x_changed, "not the X that the store was made from"),
    "X changed, and its fingerprint": Tampering(x_and_fingerprint_changed, "jacobian"),
    "X moved away": Tampering(x_moved, "X cannot be read"),
    # Names, counts, and what the store says of itself
    "names permuted": Tampering(
        lambda store, _: change(
            store, "input", lambda names: names.__setitem__(slice(None), names[::-1].copy())
        ),
        "input",
    ),
    "a coordinate altered": Tampering(
        column("column", lambda numbers, k: numbers.__setitem__(k, -1)), "column"
    ),
    "a wrong count of columns not finite": Tampering(
        column("nonfinite", lambda counts, k: counts.__setitem__(k // B, 2)), "nonfinite", "nan"
    ),
    "no count of columns not finite": Tampering(
        lambda store, _: (store / "nonfinite" / "c.0").unlink(), "nonfinite", "nan"
    ),
    "said to be unfinished": Tampering(
        record(lambda r: r.__setitem__("state", "writing")), "the store is not finished"
    ),
    "another grid": Tampering(
        record(lambda r: r["grid"].__setitem__("block_columns", B - 1)), "StoreError"
    ),
    "another activation": Tampering(
        record(lambda r: r["job"]["network"].__setitem__("activation", "sigmoid")),
        "W1, b1, W2, b2",
    ),
    # Bytes
    "a flipped bit of a chunk": Tampering(shard(lambda path: flip(path, 5)), "jacobian"),
    "a flipped bit of an index": Tampering(shard(lambda path: flip(path, -9)), "jacobian"),
    "a truncated shard": Tampering(
        shard(lambda path: path.write_bytes(path.read_bytes()[:-100])), "jacobian"
    ),
    "a missing shard": Tampering(shard(Path.unlink), "everything stored is right"),
}  # fmt: skip


@pytest.fixture
def spoilt(places: Any, tmp_path: Path) -> Callable[[Tampering], tuple[Path, dict[str, Any], int]]:
    """Spoil a copy of a store and of its X."""

    def make(tampering: Tampering) -> tuple[Path, dict[str, Any], int]:
        whole, job = places[tampering.store]
        store = Path(shutil.copytree(whole, tmp_path / "out.zarr"))
        shutil.copytree(whole.parent / "X.zarr", tmp_path / "X.zarr")
        here = {
            **job,
            "input": {**job["input"], "path": str(tmp_path / "X.zarr")},
            "output": {**job["output"], "path": str(store)},
        }
        record(lambda r: r["job"]["input"].__setitem__("path", str(tmp_path / "X.zarr")))(store, 0)
        k = column_of(store)
        tampering.spoil(store, k)
        return store, here, k

    return make


@pytest.mark.parametrize("name", TAMPERING)
def test_what_is_found(name: str, spoilt: Any) -> None:
    tampering = TAMPERING[name]
    store, _, k = spoilt(tampering)
    if tampering.found.endswith("Error"):
        with pytest.raises(ColonnadeError) as caught:
            cn.verify(store)
        assert type(caught.value).__name__ == tampering.found
        return
    found = cn.verify(store)
    if tampering.within:
        assert found.sound, found
        return
    assert not found.sound
    assert "all is right" not in str(found)
    if not found.failures:
        assert tampering.found in str(found)
        return
    arrays = {failure.array for failure in found.failures}
    if tampering.spoil is x_and_fingerprint_changed:
        # Of another X everything is wrong
        assert {(f.block, f.start <= k < f.stop) for f in found.failures} == {(k // B, True)}
        assert arrays > {"jacobian", "value", "norm", "mean_blocks"}
        return
    assert arrays == {tampering.found}, found
    if all(f.block is not None for f in found.failures) and tampering.found in ("value", "slope"):
        assert {(f.start, f.stop) for f in found.failures} == {(k, k + 1)}


def test_how_many_kinds_there_are() -> None:
    assert len(TAMPERING) >= 42
    assert sum(bool(tampering.within) for tampering in TAMPERING.values()) == 4


@pytest.mark.parametrize("store", STORES)
def test_nothing_is_wrong_where_nothing_was_done(places: Any, store: str) -> None:
    grid = Store.open(places[store][0]).grid
    assert (grid.block_columns, grid.chunk_columns) == (B, C)
    for seed in range(3):
        found = cn.verify(places[store][0], seed=seed)
        assert found.sound, found
        assert (found.covered, found.unknown, found.sampled) == (P, 0, 64)
        sums = {"mean_blocks", "gram_blocks", "mean_abs_blocks", "max_abs_blocks"}
        products = STORES[store]["products"]
        sums = {name for name in sums if name.removesuffix("_blocks") in products}
        assert found.sums == dict.fromkeys(sums, grid.blocks)
        assert str(found).endswith("found     all is right")


@pytest.mark.parametrize(
    "name",
    [
        "the sign of an entry", "an entry off by a thousandth", "two neighbours exchanged",
        "a column of NaN", "the neighbour's norm", "a part of the gram", "a slope of 0",
        "a wrong count of columns not finite", "names permuted", "a coordinate altered",
    ],
)  # fmt: skip
def test_what_is_repaired(name: str, spoilt: Any, places: Any) -> None:
    tampering = TAMPERING[name]
    store, job, _ = spoilt(tampering)
    assert not cn.verify(store).sound
    finished = cn.run(job, repair=True)
    assert finished.blocks_computed <= 2
    assert bits(store) == bits(places[tampering.store][0])
    assert cn.verify(store).sound
