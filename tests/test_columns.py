"""X on a disk: every format reads the same columns, touches little, and says what is wrong."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs import Delta

from colonnade.errors import InputError, visible
from colonnade.inputs import base, open_columns, sampling
from colonnade.inputs.sampling import ReadUnit
from colonnade.storage.npy import file as npyfile
from colonnade.storage.npy import header as npyheader
from support import make_columns

N, P = 7, 29
WINDOWS = [(0, P), (0, 1), (P - 1, P), (3, 11), (12, 13), (11, 24), (5, 5)]


def save_npy(path: Path, stored: np.ndarray) -> None:
    np.save(path, stored)


def save_npy2(path: Path, stored: np.ndarray) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.asfortranarray(stored), version=(2, 0))


def save_zarr(path: Path, stored: np.ndarray, **options: Any) -> None:
    options = {"chunks": (3, 4), "zarr_format": 3} | options
    # zarr writes v3 arrays of foreign bytes no differently, but warns
    native = (
        stored if options["zarr_format"] == 2 else stored.astype(stored.dtype.newbyteorder("="))
    )
    zarr.create_array(path, data=native, overwrite=True, **options)


def save_hdf5(path: Path, stored: np.ndarray, **options: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=stored, **options)


FORMATS: dict[str, tuple[str, Callable[..., None], dict[str, Any]]] = {
    "npy": ("x.npy", save_npy, {}),
    "npy, version 2, Fortran": ("x.NPY", save_npy2, {}),
    "zarr v2": ("x.zarr", save_zarr, {"zarr_format": 2}),
    "zarr v2, F": ("x.zarr", save_zarr, {"zarr_format": 2, "order": "F", "chunks": (2, 5)}),
    "zarr v3": ("x.zarr", save_zarr, {}),
    "zarr v3, one chunk": ("x", save_zarr, {"chunks": (100, 100), "compressors": None}),
    "zarr v3, split rows": ("x.zarr", save_zarr, {"chunks": (1, 8)}),
    "zarr v3, shards": ("x.zarr", save_zarr, {"chunks": (2, 3), "shards": (4, 9)}),
    "directory named .npy": ("x.npy", save_zarr, {}),
    "hdf5": ("x.h5", save_hdf5, {}),
    "hdf5, chunks": ("x.HDF5", save_hdf5, {"chunks": (3, 4)}),
    "hdf5, gzip": (
        "x.h5",
        save_hdf5,
        {"chunks": (2, 5), "compression": "gzip", "shuffle": True, "fletcher32": True},
    ),
}
ORIENTATIONS = ("features_by_columns", "columns_by_features")
counted = pytest.mark.skipif(
    not Path("/proc/self/io").exists(), reason="the system does not count what is read"
)


def bytes_read(action: Callable[[], Any]) -> int:
    """Bytes that an action asks the system for."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = so_far()
    asking = so_far() - before
    before = so_far()
    action()
    return so_far() - before - asking


@pytest.fixture(params=FORMATS)
def save(request, tmp_path) -> Callable[..., base.InputMatrix]:
    """Save X (n, p) in each of the formats, either way round, and open it."""
    name, writer, options = FORMATS[request.param]

    def saved(X: np.ndarray, orientation: Any = "features_by_columns") -> base.InputMatrix:
        stored = X if orientation == "features_by_columns" else X.T
        writer(tmp_path / name, stored, **options)
        return open_columns(tmp_path / name, orientation=orientation)

    return saved


@pytest.fixture
def X() -> np.ndarray:  # noqa: N802 (the letter of the mathematics)
    return make_columns(N, P, np.float32)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_reads_exactly_these_columns(save, X, orientation) -> None:
    source = save(X, orientation)
    assert (source.n, source.p, source.dtype) == (N, P, np.float32)
    for start, stop in WINDOWS:
        part = source.read(start, stop)
        assert type(part) is np.ndarray
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part, X[:, start:stop], strict=True)
        # an array of its own: neither read-only nor a view of a mapping, nor shared
        part[...] = np.nan
        base = part if part.base is None else part.base
        assert base.base is None
        assert not isinstance(base, np.memmap)
    np.testing.assert_array_equal(source.read(0, P), X, strict=True)


@pytest.mark.parametrize(
    "dtype", ["f8", "f4", "f2", ">f8", ">f4", "i1", "u8", "<i4", ">i2", "bool"]
)
def test_dtypes(save, X, dtype) -> None:
    given = np.abs(9 * X).astype(dtype)
    source = save(given, ORIENTATIONS[len(dtype) % 2])
    part = source.read(3, 11)
    assert part.dtype == source.dtype
    assert part.dtype.newbyteorder("=") == given.dtype.newbyteorder("=")
    np.testing.assert_array_equal(part, given[:, 3:11])


shapes = st.tuples(st.integers(1, 9), st.integers(1, 23))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes, chunks=shapes, shard=st.integers(0, 3), version=st.sampled_from([2, 3]),
       by_columns=st.booleans(), data=st.data())  # fmt: skip
def test_any_chunks(tmp_path, shape, chunks, shard, version, by_columns, data) -> None:
    stored = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    shards = {"shards": (chunks[0] * shard, chunks[1])} if shard and version == 3 else {}
    save_zarr(tmp_path / "x.zarr", stored, chunks=chunks, zarr_format=version, **shards)
    source = open_columns(tmp_path / "x.zarr", orientation=ORIENTATIONS[by_columns])
    X = stored.T if by_columns else stored
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, X.shape[1])] * 2)))
    np.testing.assert_array_equal(source.read(start, stop), X[:, start:stop], strict=True)
    np.save(tmp_path / "x.npy", X)
    assert open_columns(tmp_path / "x.npy").fingerprint() == source.fingerprint()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_fingerprint_is_that_of_the_content(save, X, orientation, tmp_path, monkeypatch) -> None:
    np.save(tmp_path / "other.npy", X.astype(">f4"))
    other = open_columns(tmp_path / "other.npy")
    source = save(X, orientation)
    assert re.fullmatch("sha256:[0-9a-f]{64}", source.fingerprint())
    assert source.fingerprint() == other.fingerprint()
    whole = source.fingerprint()
    monkeypatch.setattr(base, "_WHOLE_BYTES", X.nbytes)
    assert source.fingerprint() == whole
    monkeypatch.setattr(base, "_WHOLE_BYTES", X.nbytes - 1)
    monkeypatch.setattr(sampling, "_COLUMNS", 5)
    assert source.fingerprint() == other.fingerprint() != whole
    monkeypatch.setattr(sampling, "_COLUMNS", P + 1)  # more than there are: all, each once
    assert source.fingerprint() == whole


def test_fingerprint_tells_everything_apart(tmp_path, X) -> None:
    different = [X, X[::-1], X[:, ::-1], X[:, :-1], X[:-1], X.T, X.astype("f8"), X.view("i4")]
    different += [X.reshape(1, -1), X.reshape(-1, 1)]
    for place in itertools.product((0, N - 1), (0, 13, P - 1)):
        changed = X.copy()
        changed[place] = np.nextafter(changed[place], np.float32(9))
        different.append(changed)
    for i, other in enumerate(different):
        np.save(tmp_path / f"{i}.npy", other)
    found = {open_columns(tmp_path / f"{i}.npy").fingerprint() for i in range(len(different))}
    assert len(found) == len(different)


def test_fingerprint_of_much_samples_both_ends(tmp_path, X, monkeypatch) -> None:
    monkeypatch.setattr(base, "_WHOLE_BYTES", 100)
    monkeypatch.setattr(sampling, "_COLUMNS", 4)
    np.save(tmp_path / "x.npy", X)
    source = open_columns(tmp_path / "x.npy")
    before = source.fingerprint()
    noticed = []
    for k in range(P):
        changed = X.copy()
        changed[-1, k] += 1
        np.save(tmp_path / "x.npy", changed)
        if source.fingerprint() != before:
            noticed.append(k)
    assert noticed == [0, 9, 18, P - 1]


def test_fingerprint_of_dear_chunks(tmp_path, X, monkeypatch) -> None:
    """Noticed is a change in one of two chunks, which lie at opposite corners of X."""
    monkeypatch.setattr(base, "_WHOLE_BYTES", 100)
    monkeypatch.setattr(sampling, "SAMPLE_BYTES", 1)
    monkeypatch.setattr(sampling, "_COLUMNS", 4)
    save_zarr(tmp_path / "x.zarr", X, chunks=(3, 10))
    before = open_columns(tmp_path / "x.zarr").fingerprint()
    noticed = []
    for i, k in itertools.product(range(N), range(P)):
        changed = X.copy()
        changed[i, k] += 1
        save_zarr(tmp_path / "x.zarr", changed, chunks=(3, 10))
        if open_columns(tmp_path / "x.zarr").fingerprint() != before:
            noticed.append((i, k))
    assert noticed == [(0, 0), (0, 9), (1, 0), (1, 9), (2, 0), (2, 9), (6, 20), (6, 28)]


pieces = st.builds(ReadUnit, st.integers(1, 50), st.integers(1, 50), st.integers(1, 10**4))


@given(n=st.integers(1, 100), p=st.integers(1, 1000), piece=pieces,
       budget=st.integers(1, 10**6), most=st.integers(2, 70))  # fmt: skip
def test_samples_cost_what_they_may(n, p, piece, budget, most) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "SAMPLE_BYTES", budget)
        patch.setattr(sampling, "_COLUMNS", most)
        chosen = sampling.samples(n, p, piece)
    read = {
        (i // piece.features, k // piece.columns)
        for sample in chosen
        for i in range(sample.start, sample.stop)
        for k in sample.columns
    }
    assert len(read) * piece.bytes <= max(budget, 2 * piece.bytes)
    numbers = {k for sample in chosen for k in sample.columns}
    assert {0, p - 1} <= numbers <= set(range(p))
    assert all(0 <= sample.start < sample.stop <= n for sample in chosen)
    assert (chosen[0].start, chosen[-1].stop) == (0, n)


def sparse_npy(path: Path, shape: tuple[int, int], order: str = "C") -> Path:
    """Zeros, which a file system keeps in no room at all."""
    with path.open("wb") as file:
        said = {"descr": "<f4", "fortran_order": order == "F", "shape": shape}
        np.lib.format.write_array_header_1_0(file, said)
        file.truncate(file.tell() + 4 * shape[0] * shape[1])
    return path


@counted
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("shape", [(71, 10**10 + 39), (10**10 + 39, 71), (100_003, 10**7)])
def test_fingerprint_of_terabytes_of_npy(tmp_path, shape, order) -> None:
    source = open_columns(sparse_npy(tmp_path / "x.npy", shape, order))
    assert bytes_read(source.fingerprint) <= 2**28 + 64 * 1000  # the headers


@counted
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("chunks", [(8, 1000), (1, 40_009), (3, 997), (8, 40_009)])
def test_fingerprint_of_large_chunks(tmp_path, monkeypatch, chunks, version) -> None:
    """Of 1.3 MB, whatever the chunks, a few of the chunks are read, each once."""
    monkeypatch.setattr(base, "_WHOLE_BYTES", 100)
    monkeypatch.setattr(sampling, "SAMPLE_BYTES", 200_000)
    X = make_columns(8, 40_009)
    save_zarr(tmp_path / "x.zarr", X, chunks=chunks, compressors=None, zarr_format=version)
    source = open_columns(tmp_path / "x.zarr")
    size = 4 * chunks[0] * chunks[1]
    documents = 64 * 2 * 2000
    assert bytes_read(source.fingerprint) <= max(200_000, 2 * size) + documents


def test_storage(save, X, tmp_path) -> None:
    """It tells what a copy keeps, and what storing it anew in another way changes."""
    source = save(X)
    copy = tmp_path / "copy" / Path(source.path).name
    copy.parent.mkdir()
    if Path(source.path).is_dir():
        shutil.copytree(source.path, copy)
        zarr.open_array(copy, mode="r+").attrs["history"] = "copied"
    else:
        shutil.copy(source.path, copy)
    assert open_columns(copy).storage == source.storage
    assert json.loads(json.dumps(source.storage)) == source.storage


def test_storages_tell_everything_apart(tmp_path, X) -> None:
    np.save(tmp_path / "x.npy", X)
    found = [open_columns(tmp_path / "x.npy").storage]
    for options in (
        {}, {"chunks": (3, 5)}, {"compressors": None}, {"shards": (6, 8)}, {"fill_value": 1},
        {"compressors": zarr.codecs.ZstdCodec(level=5)},
        {"zarr_format": 2}, {"zarr_format": 2, "order": "F"}, {"zarr_format": 2, "chunks": (3, 5)},
        {"zarr_format": 2, "compressors": None}, {"zarr_format": 2, "filters": Delta("f4")},
    ):  # fmt: skip
        save_zarr(tmp_path / "x.zarr", X, **options)
        found.append(open_columns(tmp_path / "x.zarr").storage)
    assert all(a != b for a, b in itertools.combinations(found, 2))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_read_touches_no_other_chunk(tmp_path, X, orientation) -> None:
    stored = X if orientation == "features_by_columns" else X.T
    path = tmp_path / "x.zarr"
    chunks = (3, 4) if orientation == "features_by_columns" else (4, 3)
    save_zarr(path, stored, chunks=chunks)
    source = open_columns(path, orientation=orientation)
    # only the chunks of columns 8 to 15 stay what they are
    across, along = (0, 1) if orientation == "features_by_columns" else (1, 0)
    kept = []
    for chunk in (file for file in (path / "c").rglob("*") if file.is_file()):
        place = [int(part) for part in chunk.relative_to(path / "c").parts]
        if place[along] in (2, 3):
            kept.append(place[across])
        else:
            chunk.write_bytes(b"garbage")
    assert sorted(kept) == [0, 0, 1, 1, 2, 2]
    for start, stop in [(8, 16), (9, 10), (11, 13)]:
        np.testing.assert_array_equal(source.read(start, stop), X[:, start:stop])
    for start, stop in [(7, 16), (8, 17), (0, P)]:
        with pytest.raises(ValueError, match="cannot be read"):
            source.read(start, stop)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_neighbouring_blocks_read_a_chunk_once(tmp_path, X, orientation) -> None:
    stored = X if orientation == "features_by_columns" else X.T
    path = tmp_path / "x.zarr"
    save_zarr(path, stored, chunks=(2, 11) if orientation == "features_by_columns" else (11, 2))
    source = open_columns(path, orientation=orientation)
    assert source.chunk_columns == 11

    def forget(chunk: int) -> None:
        for file in (path / "c").rglob("*"):
            place = file.relative_to(path / "c").parts
            along = 1 if orientation == "features_by_columns" else 0
            if file.is_file() and int(place[along]) == chunk:
                file.write_bytes(b"garbage")

    for start in range(0, P, 3):
        stop = min(start + 3, P)
        np.testing.assert_array_equal(source.read(start, stop), X[:, start:stop], strict=True)
        # whatever is read from now on must not come from the files of these columns again
        for chunk in range(-(-stop // 11)):
            forget(chunk)
    with pytest.raises(ValueError, match="cannot be read"):
        source.read(0, 3)


def group(path: Path, version: int, **arrays: np.ndarray) -> Path:
    made = zarr.create_group(path, zarr_format=version, overwrite=True)
    for name, array in arrays.items():
        made.create_array(name.replace("__", "/"), data=array)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_groups(tmp_path, X, version) -> None:
    path = group(tmp_path / "g.zarr", version, X=X, time=X[0], cube=X[None])
    np.testing.assert_array_equal(open_columns(path).read(3, 5), X[:, 3:5])
    group(path, version, A=2 * X, X=X, deep__B=3 * X)
    for name, factor in {"X": 1, "A": 2, "deep/B": 3}.items():
        np.testing.assert_array_equal(open_columns(path, name).read(3, 5), factor * X[:, 3:5])
    np.testing.assert_array_equal(open_columns(path / "deep").read(3, 5), 3 * X[:, 3:5])
    for name, problem in {
        None: "2 of its arrays could be X (A, X); name it with input.array, or several as a list, "
        "[A, X]; ",
        "B": "there is no array 'B'; ",
        "deep": "there is no array 'deep'; ",
    }.items():
        assert refused(path, name) == f"{problem}the group holds A {X.shape}, X {X.shape}."
    assert "'..'" in refused(path, "../g.zarr")
    group(path, version, **{f"A{i}": X for i in range(7)})
    assert refused(path).startswith(
        "7 of its arrays could be X (A0, A1, A2, A3, A4, …); name it with input.array, or several "
        "as a list, [A0, A1, A2]; "
    )
    group(path, version, time=X[0])
    assert refused(path) == (
        f"none of its arrays could be X; name it with input.array; the group holds time ({P},)."
    )
    assert refused(path, "time") == f"X must be a matrix that is not empty; its shape is ({P},)."
    group(path, version)
    assert refused(path).endswith("the group holds no array.")


def refused(path: str | Path, array: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        open_columns(path, array)
    text, named = str(caught.value), visible(str(path))
    assert text.startswith(f"{named}: ")
    assert "unsafely" not in text  # NumPy's advice for what is no .npy file
    return text.removeprefix(f"{named}: ")


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 5), (0, 3), (3, 0)])
@pytest.mark.parametrize("kind", ["npy", 2, 3])
def test_what_is_no_matrix(tmp_path, shape, kind) -> None:
    if kind == "npy":
        np.save(tmp_path / "x.npy", np.ones(shape))
    else:
        zarr.create_array(tmp_path / "x.npy", shape=shape, dtype="f8", zarr_format=kind)
    text = refused(tmp_path / "x.npy")
    assert text == f"X must be a matrix that is not empty; its shape is {shape}."


@pytest.mark.parametrize("dtype", ["c8", "c16", "g", "U3", "S3", "M8[s]", "m8[s]", "f4,f8"])
def test_wrong_dtypes(tmp_path, dtype) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3), dtype))
    told = f"X is of type {np.dtype(dtype)}; it must hold real numbers of up to 64 bits."
    assert refused(tmp_path / "x.npy") == told
    if dtype in ("c8", "U3", "M8[s]"):
        zarr.create_array(tmp_path / "x.zarr", shape=(2, 3), dtype=dtype, zarr_format=2)
        assert refused(tmp_path / "x.zarr") == told


class Evil:
    """Unpickled, it makes a directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path("pwned"),)


def test_pickles_are_never_loaded(tmp_path, monkeypatch, X) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    source = open_columns("x.npy")
    np.save("x.npy", np.array([[Evil()]], object))
    assert "Python objects in dtype" in refused("x.npy")
    with pytest.raises(ValueError, match="Python objects in dtype"):
        source.read(0, 1)
    Path("x.npy").write_bytes(pickle.dumps(Evil()))
    assert "the magic string is not correct" in refused("x.npy")
    assert not Path("pwned").exists()
    pickle.loads(Path("x.npy").read_bytes())  # noqa: S301 (shows that it would have)
    assert Path("pwned").exists()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(999)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x93NUM", b"garbage" * 99, b"PK\x03\x04" + bytes(99), header("(" * 300),
        *(header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}")
          for shape in ("(3, -5)", f"(3, {10**30})", "(True, 5)", "(3, 5", "(3, 500)")),
        header("{'descr': 'zz', 'fortran_order': False, 'shape': (3, 5)}"),
        header("{'descr': '<f8', 'fortran_order': 3, 'shape': (3, 5)}"),
    ],
)  # fmt: skip
def test_damaged_npy_headers(tmp_path, content) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    assert refused(tmp_path / "x.npy").startswith("this cannot be read as a .npy file: ")


@given(cut=st.integers(0, 128 + 4 * N * P - 1))
def test_truncated_npy(tmp_path_factory, cut) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.npy"
    np.save(path, make_columns(N, P))
    assert path.stat().st_size == 128 + 4 * N * P
    path.write_bytes(path.read_bytes()[:cut])
    assert refused(path).startswith("this cannot be read as a .npy file: ")


LAYOUTS = {"C": np.ascontiguousarray, "F": np.asfortranarray}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.tuples(st.integers(1, 13), st.sampled_from([1, 5, 1031, 4111])),
       order=st.sampled_from("CF"), dtype=st.sampled_from(["<f4", ">f8", ">i2", "bool"]),
       piece=st.sampled_from([1, 9000, 2**20]), data=st.data())  # fmt: skip
def test_any_window_of_a_npy(tmp_path, monkeypatch, shape, order, dtype, piece, data) -> None:
    """Rows that lie close together are read at once, others one by one."""
    monkeypatch.setattr(npyfile, "_PIECE", piece)
    shape = data.draw(st.permutations(shape))
    stored = (9 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    np.save(tmp_path / "x.npy", LAYOUTS[order](stored))
    orientation = data.draw(st.sampled_from(ORIENTATIONS))
    X = stored if orientation == "features_by_columns" else stored.T
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, X.shape[1])] * 2)))
    part = open_columns(tmp_path / "x.npy", orientation=orientation).read(start, stop)
    np.testing.assert_array_equal(part, X[:, start:stop], strict=True)


@counted
@pytest.mark.parametrize("order", "CF")
def test_a_read_of_a_npy_takes_its_bytes_alone(tmp_path, order) -> None:
    """Of 280 GB."""
    source = open_columns(sparse_npy(tmp_path / "x.npy", (N, 10**10 + 39), order))
    for columns_read in (1, 1009):
        start = source.p - columns_read
        assert bytes_read(lambda s=start: source.read(s, source.p)) <= 4 * N * columns_read + 1000


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("columns_read", [1, 1019, 2039])
def test_a_npy_truncated_while_it_is_read(tmp_path, order, orientation, columns_read) -> None:
    """Between its header and its numbers: no signal ends the process, as with a mapping."""
    X = make_columns(N, 2039)
    path = tmp_path / "x.npy"
    np.save(path, LAYOUTS[order](X if orientation == "features_by_columns" else X.T))
    with path.open("rb", buffering=0) as file:
        found = npyheader.read_header(file, path.stat().st_size)
        os.truncate(path, path.stat().st_size - 3)
        window = (slice(None), slice(2039 - columns_read, None))
        window = window if orientation == "features_by_columns" else window[::-1]
        with pytest.raises(ValueError, match="it has changed, or is truncated"):
            npyfile.read_window(file, found, window)


@pytest.mark.parametrize("columns_read", [1, P])
def test_a_npy_truncated_between_reads(tmp_path, X, columns_read) -> None:
    np.save(tmp_path / "x.npy", X)
    source = open_columns(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", 300)
    with pytest.raises(ValueError, match=r"x\.npy .*812 bytes, and only 172 are there"):
        source.read(P - columns_read, P)


def test_what_is_no_input(tmp_path, X, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for missing in ("x.npy", "x.zarr", "ftp://bucket/x.zarr", "a\0b"):
        assert refused(missing) == "there is no such file or directory (input.path)."
    Path("dangling.npy").symlink_to("nowhere")
    assert refused("dangling.npy") == "there is no such file or directory (input.path)."
    np.savez("x.npz", X=X)
    assert refused("x.npz").endswith("cannot be read in part: save X alone with np.save.")
    for name in ("x.txt", "x"):
        Path(name).write_text("1,2")
        assert refused(name).startswith("this format is not known; X is read from .npy, Zarr, ")
    Path("d.zarr").mkdir()
    for content in (None, "notes.txt"):
        if content:
            Path("d.zarr", content).write_text("x")
        assert refused("d.zarr") == (
            "this directory holds neither a Zarr array nor a Zarr group, nor .npy files; "
            "give the path of one of these (input.path)."
        )
    Path("d.zarr/zarr.json").write_text("nonsense")
    assert refused("d.zarr").startswith("this cannot be read as Zarr: ")
    np.save("x.npy", X)
    save_zarr(Path("x.zarr"), X)
    assert refused("x.npy", "X") == "a .npy file holds one array; leave out input.array ('X')."
    assert refused("x.zarr", "X") == "this is a single Zarr array; leave out input.array ('X')."


def test_a_source_that_changes_is_noticed(save, X) -> None:
    source = save(X)
    path = Path(source.path)
    save(X + 1)  # what looks the same cannot be told, and is read as it is
    np.testing.assert_array_equal(source.read(3, 5), X[:, 3:5] + 1)
    for other in (X[:, :-1], X[:-1], X.astype("f8")):
        save(other)
        with pytest.raises(ValueError, match=re.escape(f"it was ({N}, {P}) float32, and is")):
            source.read(3, 5)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    # a Zarr array that has gone must not read as zeros
    for use in (lambda: source.read(3, 5), source.fingerprint):
        with pytest.raises(FileNotFoundError):
            use()


def test_what_goes_while_it_is_read_does_not_read_as_zeros(X, tmp_path, monkeypatch) -> None:
    """Between the opening of the array and the reading of its chunks."""
    path = tmp_path / "x.zarr"
    save_zarr(path, X)
    source = open_columns(path)
    getitem = zarr.Array.__getitem__

    def vanish(array: zarr.Array, window: object) -> object:
        path.rename(tmp_path / "away.zarr")
        return getitem(array, window)

    monkeypatch.setattr(zarr.Array, "__getitem__", vanish)
    with pytest.raises(FileNotFoundError):
        source.read(3, 5)
