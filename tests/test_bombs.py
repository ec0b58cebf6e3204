"""Chunks of some kilobytes that unpack to hundreds of megabytes: refused before they do."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.codecs.numcodecs import BZ2, LZ4, LZMA, Zlib

import colonnade as cn
from colonnade import Network
from colonnade.errors import UsageError
from colonnade.inputs import open_columns
from colonnade.store import Store
from support import N, P, frugal_refusal, make_columns

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")

# More than `frugal_refusal` allows, by half
SIZE = 3 * 2**25
ZEROS = bytes(2**20)


def streamed(compressor: Any) -> bytes:
    """Zeros, as many as no test has room for."""
    return b"".join(compressor.compress(ZEROS) for _ in range(SIZE // len(ZEROS))) + (
        compressor.flush()
    )


def zstd_frame(declared: int | None, blocks: int) -> bytes:
    """A frame of blocks that each stand for 128 KiB of zeros, by RFC 8878."""
    head = b"\x00\x38" if declared is None else b"\xe0" + declared.to_bytes(8, "little")
    block = [((2**17 << 3) | (1 << 1) | (i == blocks - 1)).to_bytes(3, "little") + b"\0"
             for i in range(blocks)]  # fmt: skip
    return (0xFD2FB528).to_bytes(4, "little") + head + b"".join(block)


BOMBS: dict[str, Callable[[], bytes]] = {
    "zlib": lambda: streamed(zlib.compressobj(1)),
    "gzip": lambda: streamed(zlib.compressobj(1, wbits=31)),
    "many gzip": lambda: gzip.compress(ZEROS) * (SIZE // len(ZEROS)),
    "bz2": lambda: streamed(bz2.BZ2Compressor(1)),
    "lzma": lambda: streamed(lzma.LZMACompressor(preset=0)),
    "zstd": lambda: zstd_frame(SIZE, SIZE // 2**17),
    "zstd of no size": lambda: zstd_frame(None, SIZE // 2**17),
    "many zstd": lambda: zstd_frame(2**17, 1) * (SIZE // 2**17),
    "blosc": lambda: numcodecs.Blosc("zstd", shuffle=0, typesize=1).encode(np.zeros(SIZE, "u1")),
    "lz4": lambda: numcodecs.LZ4().encode(np.zeros(SIZE, "u1")),
}


@cache
def made(bomb: str) -> bytes:
    return BOMBS[bomb]()


V2 = {
    "zlib": numcodecs.Zlib(), "gzip": numcodecs.GZip(), "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(), "zstd": numcodecs.Zstd(), "blosc": numcodecs.Blosc(),
    "lz4": numcodecs.LZ4(),
}  # fmt: skip
# Made in the tests, since some of them warn
V3 = {
    "zlib": Zlib, "gzip": GzipCodec, "bz2": BZ2, "lzma": LZMA, "zstd": ZstdCodec,
    "blosc": BloscCodec, "lz4": LZ4,
}  # fmt: skip


def save(path: Path, codec: str, kind: str, **options: Any) -> Path:
    """X in chunks of all features and 50 columns: as v2, v3, or in shards."""
    shutil.rmtree(path, ignore_errors=True)
    if kind == "filter":
        # A filter may compress, too
        options |= {"filters": [numcodecs.Shuffle(4), V2[codec]], "compressors": None}
    else:
        options |= {"compressors": [V2[codec] if kind == "v2" else V3[codec]()]}
    if kind == "shards":
        options |= {"shards": (N, 100)}
    version = 2 if kind in ("v2", "filter") else 3
    zarr.create_array(path, data=make_columns(), chunks=(N, 50), zarr_format=version, **options)
    return path


@pytest.mark.parametrize("kind", ["v2", "filter", "v3", "shards"])
@pytest.mark.parametrize("codec", V2)
def test_what_is_no_bomb_is_read(tmp_path: Path, codec: str, kind: str) -> None:
    found = open_columns(save(tmp_path / "X.zarr", codec, kind))
    np.testing.assert_array_equal(found.read(0, P), make_columns())


@pytest.mark.parametrize("kind", ["v2", "filter", "v3", "shards"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_zarr(tmp_path: Path, bomb: str, kind: str) -> None:
    path = save(tmp_path / "X.zarr", bomb.split()[1 if bomb.startswith("many") else 0], kind)
    content = made(bomb)
    chunk = path / ("0.0" if kind in ("v2", "filter") else "c/0/0")
    if kind == "shards":
        # Two inner chunks, the second of them missing; the index says where, with its checksum
        content += sealed(np.array([0, len(content), *[2**64 - 1] * 2], "<u8").tobytes())
    chunk.write_bytes(content)
    found = open_columns(path)
    said = frugal_error(lambda: found.read(0, 3))
    assert "unpacks to" in said
    assert "where its array has room for" in said


def frugal_error(action: Callable[[], Any]) -> str:
    def telling() -> None:
        try:
            action()
        except ValueError as error:
            raise UsageError(str(error)) from error

    return frugal_refusal(telling)


def test_weights_in_zarr(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "w.zarr")
    for name, shape in {"W1": (7, 5), "b1": (7,), "W2": (3, 7), "b2": (3,)}.items():
        group.create_array(name, data=np.ones(shape, "f4"), compressors=GzipCodec())
    assert Network.load(tmp_path / "w.zarr", activation="tanh").n == N
    (tmp_path / "w.zarr" / "W1" / "c" / "0" / "0").write_bytes(made("gzip"))
    said = frugal_refusal(lambda: Network.load(tmp_path / "w.zarr", activation="tanh"))
    assert "unpacks to more than" in said


def test_a_store(job: Callable[..., Any], tmp_path: Path) -> None:
    """Also where its checksums are right, as those of somebody who made it for this purpose."""
    cn.run(job(output={"compression": "zstd", "products": ["jacobian"]}))
    (tmp_path / "out.zarr" / "jacobian" / "c.0.0.0").write_bytes(sealed(made("blosc")))
    found = Store.open(tmp_path / "out.zarr")
    assert "where its array has room for" in frugal_error(lambda: found.read_rows("jacobian", 0, 1))
    failures = cn.verify(tmp_path / "out.zarr").failures
    assert [(failure.array, failure.block) for failure in failures] == [("jacobian", 0)]


def sealed(content: bytes) -> bytes:
    return content + numcodecs.CRC32C().encode(content)[-4:].tobytes()


def test_a_coordinate_of_a_store(job: Callable[..., Any], tmp_path: Path) -> None:
    """xarray reads coordinates whole when it opens a store; ours are not compressed."""
    X = xr.DataArray(make_columns(), dims=("lev", "time"), coords={"time": np.arange(P) / 8})
    X.to_dataset(name="X").to_zarr(tmp_path / "X.zarr", consolidated=False)
    where = {"path": str(tmp_path / "X.zarr"), "features_dim": "lev", "column_dims": ["time"]}
    cn.run(job(input=where))
    store = tmp_path / "out.zarr"
    assert cn.open(store).column.size == P
    document = json.loads((store / "column" / "zarr.json").read_text())
    bomb = {"name": "gzip", "configuration": {"level": 1}}
    for change, cause in (
        ({"codecs": [document["codecs"][0], bomb]}, "other codecs than a checksum"),
        ({"shape": [2**40]}, "has the shape"),
        ({"data_type": "bool"}, "has the type"),
    ):
        (store / "column" / "zarr.json").write_text(json.dumps(document | change))
        (store / "column" / "c" / "0").write_bytes(made("gzip"))
        assert cause in frugal_refusal(lambda: cn.open(store))


def save_hdf5(path: Path, X: np.ndarray, chunk: bytes, filters: Callable[[Any], None]) -> Path:
    """What is of X's shape, in one chunk, whose bytes are these."""
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk(X.shape)
    filters(created)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple(X.shape)
        made = h5py.h5d.create(file.id, b"X", h5py.h5t.IEEE_F32LE, space, created)
        made.write_direct_chunk((0, 0), chunk)
    return path


def test_hdf5(tmp_path: Path) -> None:
    """HDF5 doubles its buffer until the stream ends, whatever size the chunk is to have."""

    def deflate(created: Any) -> None:
        created.set_deflate(1)

    X = make_columns(p=20_011)
    found = open_columns(save_hdf5(tmp_path / "X.h5", X, zlib.compress(X), deflate))
    np.testing.assert_array_equal(found.read(0, X.shape[1]), X)
    # Neither compressed twice nor longer than the chunk: 400 KB, which stand for 400 MiB
    compressor = zlib.compressobj(9)
    first, again = (
        compressor.compress(ZEROS) + compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    bomb = first + again * 400
    assert len(bomb) < X.nbytes * 2
    found = open_columns(save_hdf5(tmp_path / "bomb.h5", X, bomb, deflate))
    said = frugal_error(lambda: found.read(0, 3))
    assert "by deflate, where its array has room for" in said


def test_hdf5_changed_after_it_was_compressed(tmp_path: Path) -> None:
    """Shuffled bytes of a stream are none: the check would not see what they unpack to."""

    def filters(created: Any) -> None:
        created.set_deflate(1)
        created.set_shuffle()

    path = save_hdf5(tmp_path / "X.h5", make_columns(), b"0", filters)
    assert "store it again with" in frugal_refusal(lambda: open_columns(path))
