"""Shards that are laid out by hand against zarr's own encoder and decoders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

from colonnade.store.shards import ShardBuffer, ShardLayout


def make_array(path: Path, p: int, rows: int, chunks: int, row_shape: Any, dtype: Any) -> Any:
    return zarr.create_array(
        path,
        shape=(p, *row_shape),
        dtype=dtype,
        chunks=(rows, *row_shape),
        shards=(rows * chunks, *row_shape) if chunks > 1 else None,
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=np.nan,
        config={"write_empty_chunks": True},
    )


def put(array: Any, layout: ShardLayout, values: np.ndarray) -> None:
    """Write an array shard by shard, each with the same buffer."""
    buffer = ShardBuffer(layout, np.nan)
    B = layout.rows * layout.chunks
    for block in range(math.ceil(len(values) / B)):
        part = values[block * B : (block + 1) * B]
        for start in range(0, len(part), layout.rows):
            stop = min(start + layout.rows, len(part))
            buffer.rows(start, stop)[...] = part[start:stop]
        key = array.metadata.encode_chunk_key((block, *(0,) * (array.ndim - 1)))
        target = Path(array.store.root) / key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(buffer.seal(len(part)).tobytes())


@given(
    p=st.integers(1, 60),
    rows=st.sampled_from([1, 2, 3, 7, 16]),
    chunks=st.sampled_from([1, 2, 3, 5]),
    row_shape=st.sampled_from([(), (3,), (5, 3), (1, 1), (17,)]),
    dtype=st.sampled_from(["<f4", "<f8"]),
)
def test_readers_find_what_was_put(tmp_path_factory, p, rows, chunks, row_shape, dtype) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.zarr"
    values = np.random.default_rng(p).standard_normal((p, *row_shape)).astype(dtype)
    array = make_array(path, p, rows, chunks, row_shape, dtype)
    put(array, ShardLayout(chunks, rows, row_shape, np.dtype(dtype), sharded=chunks > 1), values)
    np.testing.assert_array_equal(array[...], values)
    for k in {0, p // 2, p - 1}:
        np.testing.assert_array_equal(array[k], values[k])
    read = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    ).result()
    np.testing.assert_array_equal(read.read().result(), values)
    np.testing.assert_array_equal(read[p - 1].read().result(), values[p - 1])


@pytest.mark.parametrize("chunks", [1, 3])
def test_padding_reads_as_the_fill_value(tmp_path: Path, chunks: int) -> None:
    """Another reader may decode a whole chunk, beyond the array's end."""
    array = make_array(tmp_path / "a.zarr", 5, 4, chunks, (3,), "<f4")
    put(array, ShardLayout(chunks, 4, (3,), np.dtype("<f4"), sharded=chunks > 1), np.ones((5, 3)))
    array.resize((8, 3))
    assert np.isnan(array[5:]).all()
    assert (array[:5] == 1).all()


def test_unsharded_bytes_are_those_of_zarr(tmp_path: Path) -> None:
    values = np.arange(21, dtype="<f4").reshape(7, 3)
    mine = make_array(tmp_path / "mine.zarr", 7, 7, 1, (3,), "<f4")
    zarrs = make_array(tmp_path / "zarrs.zarr", 7, 7, 1, (3,), "<f4")
    put(mine, ShardLayout(1, 7, (3,), np.dtype("<f4"), sharded=False), values)
    zarrs[...] = values
    files = [
        (tmp_path / name / "c" / "0" / "0").read_bytes() for name in ("mine.zarr", "zarrs.zarr")
    ]
    assert files[0] == files[1]


def test_views_are_aligned_and_stay_within_a_chunk() -> None:
    buffer = ShardBuffer(ShardLayout(3, 7, (5,), np.dtype("<f8"), sharded=True), np.nan)
    for start in (0, 7, 14):
        assert buffer.rows(start, start + 7).ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="two chunks"):
        buffer.rows(5, 9)


def test_a_shard_does_not_depend_on_the_one_before_it() -> None:
    """Nor on what its memory held: between chunks and their checksums there are gaps."""
    layout = ShardLayout(3, 7, (5,), np.dtype("<f4"), sharded=True)

    def fill(buffer: ShardBuffer, rows: int, value: float) -> bytes:
        for start in range(0, rows, 7):
            buffer.rows(start, min(start + 7, rows))[...] = value
        return buffer.seal(rows).tobytes()

    expected = fill(ShardBuffer(layout, np.nan), 21, 1.0)
    used = ShardBuffer(layout, np.nan)
    # Its index ends up where the next shard has a gap
    fill(used, 5, 2.0)
    assert fill(used, 21, 1.0) == expected
