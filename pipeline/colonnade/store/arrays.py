"""The arrays of a store: create, check, read and list them, and write their shards."""

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


# 4 or 8 MiB a chunk: readers load a coordinate whole anyway
_COORDINATE_CHUNK = 2**20
# zarr's LocalStore writes a file with this suffix, then renames it
_PARTIAL = ".partial"


def create(group: zarr.Group, plan: ArrayPlan, output: OutputSettings, network: Network) -> None:
    """Create a planned array, with a checksum after every chunk."""
    compressors: list[Any] = [Crc32cCodec()]
    said = attributes(plan.name, network)
    if plan.name == "jacobian" and output.significant_bits is not None:
        said["significant_bits"] = output.significant_bits
    if output.compression != "none" and plan.per_block:
        # Bitshuffle puts bits of equal significance side by side: exponents repeat, and so do
        # rounded mantissas
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
        # One directory per array: one scan lists the finished blocks, however many there are
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=plan.dimensions,
        attributes=said,
    )


def create_weights(group: zarr.Group, plan: ArrayPlan, network: Network) -> None:
    """Write a weight matrix or a bias as one chunk."""
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
    """Write the names of outputs and inputs, which xarray reads as coordinates."""
    for dimension, names in labels.names.items():
        array = group.create_array(
            dimension,
            shape=(len(names),),
            # Readers without strings find the names in the group's attributes
            dtype="string",
            chunks=(len(names),),
            compressors=[Crc32cCodec()],
            filters=None,
            dimension_names=(dimension,),
            attributes={"long_name": f"names of the {dimension}s"},
        )
        array[...] = np.array(names, dtype=object)


def create_coordinate(group: zarr.Group, dimension: str, coordinate: Coordinate) -> None:
    """Copy a numeric coordinate of X from X's own store."""
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
    """Plan the arrays of a network with these inputs, hidden units of each layer, and outputs."""
    hidden = len(sizes) - 2
    inner = ["hidden"] if hidden == 1 else [f"hidden{i}" for i in range(1, hidden + 1)]
    dimensions = ["input", *inner, "output"]
    plans = []
    for i in range(1, len(sizes)):
        for name, ends in ((f"W{i}", (i, i - 1)), (f"b{i}", (i,))):
            shape, names = tuple(sizes[e] for e in ends), tuple(dimensions[e] for e in ends)
            plans.append(ArrayPlan(name, shape, shape, shape, names, dtype, per_block=False))
    return plans


def disagreement(array: zarr.Array[Any], plan: ArrayPlan, output: OutputSettings) -> str | None:
    """Describe how an array differs from its plan; None if it does not."""
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
    """Describe how an array differs from a coordinate of `size` values; None if it does not."""
    if array.shape != (size,):
        return f"has the shape {array.shape}, not {(size,)}"
    if array.dtype.kind not in "iuf":
        return f"has the type {array.dtype}, not an integer or floating-point type"
    metadata: Any = array.metadata.to_dict()
    if [codec["name"] for codec in metadata["codecs"]] != ["bytes", "crc32c"]:
        return "has other codecs than a checksum"
    return None


def make_buffer(array: zarr.Array[Any]) -> ShardBuffer:
    """Make a buffer for one shard of an array."""
    return ShardBuffer(_layout(array), fill=np.nan)


def write(array: zarr.Array[Any], block: int, buffer: ShardBuffer) -> int:
    """Write a block's shard; return the bytes of its numbers, without checksums or compression.

    A buffer with the array's own layout is written as it is; zarr encodes any other.
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
    """List the blocks whose shard of an array exists, from one listing of its keys.

    The single number of an array without dimensions counts as block 0.
    """
    keys = _names(array)
    if not array.shape:
        return {0} if "c" in keys else set()
    shards = -(-array.shape[0] // (array.shards or array.chunks)[0])
    name = re.compile(r"c\.(0|[1-9][0-9]*)" + r"\.0" * (array.ndim - 1))
    found = (int(match[1]) for match in map(name.fullmatch, keys) if match)
    return {block for block in found if block < shards}


def clear_orphans(node: zarr.Array[Any] | zarr.Group) -> None:
    """Delete the partial files that killed processes left."""
    for key in zarr.core.sync.sync(_list(node)):
        if key.endswith(_PARTIAL):
            zarr.core.sync.sync(node.store.delete(f"{node.path}/{key}".lstrip("/")))


def chunks(array: zarr.Array[Any], block: int) -> list[tuple[int, int]]:
    """Return (first row, last row + 1) of each chunk that a block's shard must hold."""
    rows, chunk = (array.shards or array.chunks)[0], array.chunks[0]
    end = min((block + 1) * rows, array.shape[0])
    return [(start, min(start + chunk, end)) for start in range(block * rows, end, chunk)]


def read(array: zarr.Array[Any], start: int = 0, stop: int | None = None) -> NDArray[Any]:
    """Read rows of an array.

    A wrong checksum or damaged bytes raise ValueError, an unreachable object store OSError.
    """
    with _readable(array):
        return np.asarray(array[start:stop] if array.ndim else array[...])


def take(array: zarr.Array[Any], numbers: NDArray[np.intp]) -> NDArray[Any]:
    """Read the rows with these numbers; errors are those of `read`."""
    with _readable(array):
        return np.asarray(array.oindex[numbers])


@contextmanager
def _readable(array: zarr.Array[Any]) -> Iterator[None]:
    """Turn what goes wrong while an array is read into the errors of `read`."""
    try:
        yield
    except (ColonnadeError, MemoryError):
        raise
    except OSError as error:
        # An array that is out of reach is not damaged
        if isinstance(array.store, ObjectStore):
            raise
        raise ValueError(str(error)) from error
    # Damaged bytes can make zarr and its codecs raise any exception
    except Exception as error:
        text = str(error).partition(". Stored:")[0]
        raise ValueError(" ".join(text.split()) or type(error).__name__) from error


def total(array: zarr.Array[Any]) -> int:
    """Sum an array of counts, reading only the chunks that exist; ValueError as for `read`."""
    return sum(int(read(array, block, block + 1)[0]) for block in sorted(present(array)))


def check_index(array: zarr.Array[Any], block: int) -> None:
    """Raise ValueError if a block's shard leaves out a chunk, which would read as NaN.

    Checksums, of the index and of the chunks, are checked when the rows are read.
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
    """Delete a block's shard, if it exists."""
    path = f"{array.path}/{array.metadata.encode_chunk_key(_key(array, block))}"
    zarr.core.sync.sync(array.store.delete(path))


def _key(array: zarr.Array[Any], block: int) -> tuple[int, ...]:
    return (block, *(0,) * (array.ndim - 1)) if array.ndim else ()


def _is_raw(array: zarr.Array[Any], *, compressed: bool = False) -> bool:
    """Return whether a chunk is its numbers and a crc32c, as `shards` lays them out.

    With `compressed`, whether it is that with Blosc between the two.
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
    """List an array's files; not through zarr, whose Path for each takes seconds for 100,000."""
    if not isinstance(array.store, LocalStore):
        return zarr.core.sync.sync(_list(array))
    with suppress(FileNotFoundError):
        return os.listdir(array.store.root / array.path)  # noqa: PTH208 (a Path per name is slow)
    return ()


async def _list(node: zarr.Array[Any] | zarr.Group) -> set[str]:
    return {key async for key in node.store.list_dir(node.path)}
