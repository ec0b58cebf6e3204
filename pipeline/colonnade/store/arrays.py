"""The arrays of a store: what they say of themselves, their codecs, how a shard gets there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import zarr
import zarr.core.sync
from numpy.typing import NDArray
from zarr.abc.store import SuffixByteRequest
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, ObjectStore

from colonnade.errors import ColonnadeError
from colonnade.grid import ArrayPlan
from colonnade.inputs.labels import Coordinate, Labels
from colonnade.job import OutputSettings
from colonnade.network.network import Network
from colonnade.store.attributes import attributes
from colonnade.store.shards import ShardBuffer, ShardLayout

__all__ = [
    "check_index",
    "chunks",
    "clear_orphans",
    "coordinate_disagreement",
    "create",
    "create_coordinate",
    "create_labels",
    "create_weights",
    "disagreement",
    "make_buffer",
    "present",
    "read",
    "remove",
    "take",
    "total",
    "weights_plans",
    "write",
]

_WEIGHTS = re.compile("([Wb])([1-9][0-9]*)")


# 8 MiB, or 4: a reader loads a coordinate whole
_COORDINATE_CHUNK = 2**20
# zarr's LocalStore writes a file under this name, then gives it its own
_PARTIAL = ".partial"


def create(group: zarr.Group, plan: ArrayPlan, output: OutputSettings, network: Network) -> None:
    """Create an array as it is planned, with a checksum behind every chunk."""
    compressors: list[Any] = [Crc32cCodec()]
    said = attributes(plan.name, network)
    if plan.name == "jacobian" and output.significant_bits is not None:
        said["significant_bits"] = output.significant_bits
    if output.compression != "none" and plan.per_block:
        # Bits of one weight side by side: exponents repeat, and so do mantissas that are rounded
        compressors.insert(0, BloscCodec(cname=output.compression, clevel=5, shuffle="bitshuffle"))
    group.create_array(
        plan.name,
        shape=plan.shape,
        dtype=plan.dtype,
        chunks=plan.chunks,
        shards=plan.shards if plan.shards != plan.chunks else None,
        compressors=compressors,
        filters=None,
        fill_value=plan.fill_value,
        # One directory an array: listing what is done is one scan, however many blocks there are
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=plan.dimensions,
        attributes=said,
    )


def create_weights(group: zarr.Group, plan: ArrayPlan, network: Network) -> None:
    """Write one of the weights, in one chunk."""
    values = network.arrays[plan.name]
    array = group.create_array(
        plan.name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=np.nan,
        dimension_names=plan.dimensions,
        attributes=attributes(plan.name, network),
    )
    array[...] = values


def create_labels(group: zarr.Group, labels: Labels) -> None:
    """Write the names of outputs and inputs, so that they are coordinates to xarray."""
    for dimension, names in labels.names.items():
        array = group.create_array(
            dimension,
            shape=(len(names),),
            # To readers that know no texts, the names are in the group's attributes
            dtype="string",
            chunks=(len(names),),
            compressors=[Crc32cCodec()],
            filters=None,
            dimension_names=(dimension,),
            attributes={"long_name": f"names of the {dimension}s"},
        )
        array[...] = np.array(names, dtype=object)


def create_coordinate(group: zarr.Group, dimension: str, coordinate: Coordinate) -> None:
    """Copy numbers along a dimension of X from its own store."""
    size = coordinate.size
    array = group.create_array(
        dimension,
        shape=(size,),
        dtype=coordinate.dtype,
        chunks=(min(size, _COORDINATE_CHUNK),),
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=np.nan if coordinate.dtype.kind == "f" else 0,
        dimension_names=(dimension,),
        attributes=coordinate.attributes,
        config={"write_empty_chunks": True},
    )
    for start in range(0, size, _COORDINATE_CHUNK):
        stop = min(start + _COORDINATE_CHUNK, size)
        array[start:stop] = coordinate.read(start, stop)


def weights_plans(sizes: tuple[int, ...], dtype: str) -> list[ArrayPlan]:
    """How the arrays of a network are stored: inputs, hidden units of each layer, outputs."""
    hidden = len(sizes) - 2
    inner = ["hidden"] if hidden == 1 else [f"hidden{i}" for i in range(1, hidden + 1)]
    dimensions = ["input", *inner, "output"]
    plans = []
    for i in range(1, len(sizes)):
        for name, ends in ((f"W{i}", (i, i - 1)), (f"b{i}", (i,))):
            shape, told = tuple(sizes[e] for e in ends), tuple(dimensions[e] for e in ends)
            plans.append(ArrayPlan(name, shape, shape, shape, told, dtype, per_block=False))
    return plans


def disagreement(array: zarr.Array[Any], plan: ArrayPlan, output: OutputSettings) -> str | None:
    """Say in what an array is not the one that was planned, if it is not."""
    metadata: Any = array.metadata
    compressed = output.compression != "none" and plan.per_block
    pairs = {
        "shape": (array.shape, plan.shape),
        "shards": (array.shards or array.chunks, plan.shards),
        "chunks": (array.chunks, plan.chunks),
        "dimensions": (metadata.dimension_names or (), plan.dimensions),
        "type": (str(array.dtype), plan.dtype),
        "fill value": (str(array.fill_value), str(plan.fill_value)),
    }
    for what, (found, expected) in pairs.items():
        if found != expected:
            return f"has the {what} {found}, not {expected}"
    if not _is_raw(array, compressed=compressed):
        return f"has other codecs than those of compression {output.compression}"
    weights = _WEIGHTS.fullmatch(plan.name)
    if metadata.encode_chunk_key((0,)) != ("c/0" if weights else "c.0"):
        return "has its chunks under other names"
    return None


def coordinate_disagreement(array: zarr.Array[Any], size: int) -> str | None:
    """Say in what an array is other than a coordinate of so many values, as they are written."""
    if array.shape != (size,):
        return f"has the shape {array.shape}, not {(size,)}"
    if array.dtype.kind not in "iuf":
        return f"has the type {array.dtype}, and is no coordinate of numbers"
    metadata: Any = array.metadata.to_dict()
    if [codec["name"] for codec in metadata["codecs"]] != ["bytes", "crc32c"]:
        return "has other codecs than a checksum"
    return None


def make_buffer(array: zarr.Array[Any]) -> ShardBuffer:
    """Make a buffer for one shard of an array."""
    return ShardBuffer(_layout(array), fill=np.nan)


def write(array: zarr.Array[Any], block: int, buffer: ShardBuffer) -> int:
    """Write a block's shard; return the bytes of its numbers.

    A buffer whose layout is the array's own is written as it is; zarr encodes the others.
    """
    start = block * (array.shards or array.chunks)[0]
    stop = min(start + (array.shards or array.chunks)[0], array.shape[0])
    part = buffer.rows(0, 1)
    if _is_raw(array):
        _put(array, array.metadata.encode_chunk_key(_key(array, block)), buffer.seal(stop - start))
    else:
        array[start:stop] = buffer.rows(0, stop - start)
    return part.nbytes * (stop - start)


def present(array: zarr.Array[Any]) -> set[int]:
    """Find the blocks whose shard of an array is there: one listing of its keys.

    The only number of an array without dimensions counts as block 0.
    """
    keys = _names(array)
    if not array.shape:
        return {0} if "c" in keys else set()
    shards = -(-array.shape[0] // (array.shards or array.chunks)[0])
    name = re.compile(r"c\.(0|[1-9][0-9]*)" + r"\.0" * (array.ndim - 1))
    found = (int(match[1]) for match in map(name.fullmatch, keys) if match)
    return {block for block in found if block < shards}


def clear_orphans(node: zarr.Array[Any] | zarr.Group) -> None:
    """Delete what killed processes left half written."""
    for key in zarr.core.sync.sync(_list(node)):
        if key.endswith(_PARTIAL):
            zarr.core.sync.sync(node.store.delete(f"{node.path}/{key}".lstrip("/")))


def chunks(array: zarr.Array[Any], block: int) -> list[tuple[int, int]]:
    """First row, and the one after the last, of each chunk that a block's shard must hold."""
    rows, chunk = (array.shards or array.chunks)[0], array.chunks[0]
    end = min((block + 1) * rows, array.shape[0])
    return [(start, min(start + chunk, end)) for start in range(block * rows, end, chunk)]


def read(array: zarr.Array[Any], start: int = 0, stop: int | None = None) -> NDArray[Any]:
    """Read rows of an array; ValueError where a checksum is wrong, or bytes are.

    OSError where they are in an object store that is out of reach.
    """
    with _readable(array):
        return np.asarray(array[start:stop] if array.ndim else array[...])


def take(array: zarr.Array[Any], numbers: NDArray[np.intp]) -> NDArray[Any]:
    """Read the rows of these numbers; errors are those of `read`."""
    with _readable(array):
        return np.asarray(array.oindex[numbers])


@contextmanager
def _readable(array: zarr.Array[Any]) -> Iterator[None]:
    """Tell what goes wrong while an array is read, as `read` does."""
    try:
        yield
    except (ColonnadeError, MemoryError):
        raise
    except OSError as error:
        # What cannot be reached is not damaged
        if isinstance(array.store, ObjectStore):
            raise
        raise ValueError(str(error)) from error
    # Damaged bytes make zarr and its codecs raise whatever they please
    except Exception as error:
        told = str(error).partition(". Stored:")[0]
        raise ValueError(" ".join(told.split()) or type(error).__name__) from error


def total(array: zarr.Array[Any]) -> int:
    """Sum an array of counts, one a chunk, of which few were written; ValueError as for `read`."""
    return sum(int(read(array, block, block + 1)[0]) for block in sorted(present(array)))


def check_index(array: zarr.Array[Any], block: int) -> None:
    """Raise ValueError where a block's shard leaves out a chunk, which would read as NaN.

    Its checksum, and those of the chunks, are checked where they are read.
    """
    if array.shards is None:
        return
    size = 16 * (array.shards[0] // array.chunks[0]) + 4
    path = f"{array.path}/{array.metadata.encode_chunk_key(_key(array, block))}"
    try:
        tail = zarr.core.sync.sync(
            array.store.get(path, default_buffer_prototype(), SuffixByteRequest(size))
        )
    except OSError as error:
        if isinstance(array.store, ObjectStore):
            raise
        raise ValueError(f"the shard cannot be read: {error}") from error
    if tail is None or len(tail) < size:
        raise ValueError("the shard is shorter than its index")
    index = np.frombuffer(tail.to_bytes()[:-4], "<u8").reshape(-1, 2)
    absent = int((index[: len(chunks(array, block))] == 2**64 - 1).any(axis=1).sum())
    if absent:
        raise ValueError(f"the index of the shard leaves out {absent} of its chunks")


def remove(array: zarr.Array[Any], block: int) -> None:
    """Delete a block's shard, if it is there."""
    path = f"{array.path}/{array.metadata.encode_chunk_key(_key(array, block))}"
    zarr.core.sync.sync(array.store.delete(path))


def _key(array: zarr.Array[Any], block: int) -> tuple[int, ...]:
    return (block, *(0,) * (array.ndim - 1)) if array.ndim else ()


def _is_raw(array: zarr.Array[Any], *, compressed: bool = False) -> bool:
    """Whether the array's chunks are its numbers and a crc32c, as `shards` lays them out.

    Or, if they are to be compressed, that with Blosc between the two.
    """
    metadata: Any = array.metadata.to_dict()
    codecs = list(metadata["codecs"])
    raw = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    if array.shards is not None:
        inner = codecs[0]["configuration"]
        if inner["index_location"] != "end" or list(inner["index_codecs"]) != raw:
            return False
        codecs = list(inner["codecs"])
    if compressed and [codec["name"] for codec in codecs] == ["bytes", "blosc", "crc32c"]:
        del codecs[1]
        return codecs == raw
    return codecs == raw and not compressed


def _layout(array: zarr.Array[Any]) -> ShardLayout:
    rows, chunk = (array.shards or array.chunks)[0], array.chunks[0]
    dtype = np.dtype(array.dtype).newbyteorder("<")
    if not _is_raw(array):
        return ShardLayout(1, rows, array.shape[1:], dtype, sharded=False)
    return ShardLayout(
        rows // chunk, chunk, array.shape[1:], dtype, sharded=array.shards is not None
    )


def _put(array: zarr.Array[Any], key: str, data: NDArray[np.uint8]) -> None:
    buffer = default_buffer_prototype().buffer.from_array_like(data)
    path = f"{array.path}/{key}"
    if hasattr(array.store, "set_sync"):
        array.store.set_sync(path, buffer)
    else:
        zarr.core.sync.sync(array.store.set(path, buffer))


def _names(array: zarr.Array[Any]) -> Iterable[str]:
    """Names of an array's files; zarr makes of each a path, which takes seconds of 100,000."""
    if not isinstance(array.store, LocalStore):
        return zarr.core.sync.sync(_list(array))
    with suppress(FileNotFoundError):
        return os.listdir(array.store.root / array.path)  # noqa: PTH208 (the same)
    return ()


async def _list(node: zarr.Array[Any] | zarr.Group) -> set[str]:
    return {key async for key in node.store.list_dir(node.path)}
