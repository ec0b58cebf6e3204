"""The bytes of a shard, laid out in advance so that the kernel computes results in place.

An array whose only codecs are `bytes` and `crc32c`, sharded or not, is stored as

    chunk 0 | crc | gap | chunk 1 | crc | gap | …   (offset, size) of each chunk | crc
    one chunk alone:   chunk | crc

A general encoder copies a block for its checksums, and again to assemble the shard. Here the kernel
writes into views of the shard itself, and only the checksums remain to be filled in. The gap, fewer
than `_ALIGNMENT` zero bytes, keeps the views aligned; the offsets in the index make it legal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

__all__ = ["ShardBuffer", "ShardLayout"]

_ALIGNMENT = 64
_CRC_BYTES = 4
# Index entry of an absent chunk
_EMPTY = np.uint64(2**64 - 1)


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """Byte offsets in the shards of an array that is chunked along its first axis only.

    Attributes
    ----------
    chunks
        Chunks per shard.
    rows
        Length of a chunk along the first axis.
    row_shape
        Lengths along the other axes.
    dtype
        Little-endian.
    sharded
        Whether there is an index; without one, a shard is one chunk.
    """

    chunks: int
    rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sharded: bool

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk, without its checksum."""
        return self.rows * math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def stride(self) -> int:
        """Bytes from the start of one chunk to that of the next."""
        return math.ceil((self.chunk_bytes + _CRC_BYTES) / _ALIGNMENT) * _ALIGNMENT

    @property
    def index_start(self) -> int:
        """Offset of a full shard's index: the end of the last chunk's checksum."""
        return (self.chunks - 1) * self.stride + self.chunk_bytes + _CRC_BYTES

    @property
    def nbytes(self) -> int:
        """Bytes of a whole shard."""
        return self.index_start + (16 * self.chunks + _CRC_BYTES if self.sharded else 0)


class ShardBuffer:
    """Memory for one shard, reused for the next.

    Parameters
    ----------
    layout
        Layout of the array's shards.
    fill
        The array's fill value, for rows of a partial last chunk beyond the end of the array.
    """

    def __init__(self, layout: ShardLayout, fill: float) -> None:
        self.layout = layout
        self._fill = fill
        # Aligned, as the layout's gaps assume
        raw = np.empty(layout.nbytes + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        self._bytes = raw[start : start + layout.nbytes]

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return a view of rows `start` to `stop`, (stop - start, …), which must share a chunk."""
        layout = self.layout
        chunk = start // layout.rows
        offset = chunk * layout.stride
        shape = (layout.rows, *layout.row_shape)
        whole = self._bytes[offset : offset + layout.chunk_bytes].view(layout.dtype).reshape(shape)
        first = chunk * layout.rows
        if stop > first + layout.rows:
            raise ValueError(f"rows {start} to {stop} lie in two chunks of {layout.rows}")
        return whole[start - first : stop - first]

    def seal(self, rows: int) -> NDArray[np.uint8]:
        """Fill in checksums and index after the first `rows` rows are written; return the bytes."""
        layout = self.layout
        used = math.ceil(rows / layout.rows)
        if rows < used * layout.rows:
            self.rows(rows, used * layout.rows)[...] = self._fill
        for chunk in range(used):
            start = chunk * layout.stride
            self._checksum(start, start + layout.chunk_bytes)
            # Clear the gap, so that a block's bytes do not depend on the previous block's
            self._bytes[start + layout.chunk_bytes + _CRC_BYTES : start + layout.stride] = 0
        if not layout.sharded:
            return self._bytes
        end = (used - 1) * layout.stride + layout.chunk_bytes + _CRC_BYTES
        index = np.full((layout.chunks, 2), _EMPTY, "<u8")
        index[:used, 0] = np.arange(used) * layout.stride
        index[:used, 1] = layout.chunk_bytes + _CRC_BYTES
        # Right after a partial shard's last chunk, so that chunks beyond the array take no space
        stop = end + index.nbytes
        self._bytes[end:stop] = index.view(np.uint8).ravel()
        self._checksum(end, stop)
        return self._bytes[: stop + _CRC_BYTES]

    def _checksum(self, start: int, stop: int) -> None:
        crc = google_crc32c.value(self._bytes[start:stop])
        self._bytes[stop : stop + _CRC_BYTES] = np.array([crc], "<u4").view(np.uint8)
