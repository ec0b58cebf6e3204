"""Limit the bytes to which a chunk of a Zarr array decodes: a few MB may unpack to terabytes.

Zarr and numcodecs check a chunk's size only after decompressing it. For codecs that store the size
(zstd, Blosc, LZ4), this module reads it first; data of the others (zlib, gzip, bz2, LZMA) is
decompressed here, up to the limit.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import zarr
from numcodecs.abc import Codec
from numcodecs.compat import ensure_contiguous_ndarray
from zarr.codecs import ShardingCodec

from colonnade.formatting import counted
from colonnade.limits import CHUNK_INFLATION, LABEL_BYTES

__all__ = ["bounded", "inflated"]

# Inner codecs may add a checksum, or slightly enlarge incompressible data
_SLACK = 4096
_NO_ZSTD = ValueError("a chunk is damaged: it is not a complete zstd frame")
# Largest decompressed size of a zstd block
_ZSTD_BLOCK = 2**17
# A frame without a size is estimated from its blocks. They may be small: count 1/16 of the maximum
_ZSTD_SPLIT = 16


def bounded(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return an equal array that raises ValueError if a chunk decodes to too many bytes."""
    metadata: Any = array.metadata
    if metadata.zarr_format == 2:
        # Filters may use an intermediate dtype of up to 8 bytes
        width = 8 if metadata.filters else _width(array.dtype)
        most = _most(math.prod(array.chunks), width)
        filters = metadata.filters and [_Bounded(codec, most) for codec in metadata.filters]
        compressor = metadata.compressor and _Bounded(metadata.compressor, most)
        metadata = replace(metadata, compressor=compressor, filters=filters)
    else:
        metadata = replace(metadata, codecs=tuple(map(_bounded_codec, metadata.codecs)))
    opened = array.async_array
    return zarr.Array(type(opened)(metadata, opened.store_path, opened.config))


def _width(dtype: np.dtype[Any]) -> int:
    """Return the bytes of a number, or the limit for a text of variable length."""
    return LABEL_BYTES if dtype.kind in "OT" else dtype.itemsize


def _most(numbers: int, width: int) -> int:
    return CHUNK_INFLATION * numbers * width + _SLACK


class _Bounded(Codec):  # type: ignore[misc]
    """A compressor or filter of a v2 array, with a size limit."""

    # zarr reads this attribute from the class
    codec_id = "bounded"

    def __init__(self, codec: Any, most: int) -> None:
        self.codec_id = codec.codec_id
        self._codec, self._most = codec, most

    def encode(self, buf: Any) -> Any:
        return self._codec.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        found = _decoded(self._codec, buf, self._most)
        return self._codec.decode(buf, out) if found is None else found

    def get_config(self) -> Any:
        return self._codec.get_config()


def _bounded_codec(codec: Any) -> Any:
    if isinstance(codec, ShardingCodec):
        inner = tuple(map(_bounded_codec, codec.codecs))
        index = tuple(map(_bounded_codec, codec.index_codecs))
        return replace(codec, codecs=inner, index_codecs=index)
    name = _name(codec)
    if name not in _SIZES and name not in _STREAMS:
        return codec
    made = object.__new__(_bounded_class(codec.__class__))
    made.__dict__.update(codec.__dict__)
    return made


@cache
def _bounded_class(kind: Any) -> Any:
    class Bounded(kind):  # type: ignore[misc]
        """A codec of a v3 array, with a size limit."""

        def _decode_sync(self, chunk: Any, spec: Any) -> Any:
            found = self._stopped(chunk, spec)
            return super()._decode_sync(chunk, spec) if found is None else found

        async def _decode_single(self, chunk: Any, spec: Any) -> Any:
            found = await asyncio.to_thread(self._stopped, chunk, spec)
            return await super()._decode_single(chunk, spec) if found is None else found

        def _stopped(self, chunk: Any, spec: Any) -> Any:
            most = _most(math.prod(spec.shape), _width(spec.dtype.to_native_dtype()))
            found = _decoded(self, chunk.as_numpy_array(), most)
            return None if found is None else spec.prototype.buffer.from_bytes(found)

    return Bounded


def _name(codec: Any) -> str:
    """Return the name of a codec of numcodecs or Zarr."""
    named = getattr(codec, "codec_id", None) or codec.to_dict()["name"]
    return str(named).removeprefix("numcodecs.")


def _decoded(codec: Any, chunk: Any, most: int) -> bytes | None:
    """Decompress a chunk up to `most` bytes; None if its own codec can do so safely."""
    name = _name(codec)
    if name not in _SIZES and name not in _STREAMS:
        return None
    data = memoryview(ensure_contiguous_ndarray(chunk).view(np.uint8))
    if name in _STREAMS:
        return inflated(data, most, _STREAMS[name](codec), name)
    size = _SIZES[name](data)
    if size > most:
        raise _too_large(name, f"{size:,}", len(data), most)
    return None


def inflated(data: Any, most: int, start: Callable[[], Any], name: str) -> bytes | None:
    """Decompress concatenated streams; None if one of them is damaged or truncated.

    In that case the codec itself decompresses no more than this function, and reports the error.

    Parameters
    ----------
    start
        Create a decompressor of zlib, bz2 or lzma.

    Raises
    ------
    ValueError
        The streams decompress to more than `most` bytes.
    """
    parts, left, size = [], data, 0
    while len(left):
        stream = start()
        try:
            parts.append(stream.decompress(left, most + 1 - size))
        except (zlib.error, lzma.LZMAError, OSError, EOFError):
            return None
        size += len(parts[-1])
        if size > most:
            raise _too_large(name, f"more than {most:,}", len(data), most)
        if not stream.eof:
            return None
        # Streams may be padded with zeros
        left = stream.unused_data.lstrip(b"\0")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(name: str, size_text: str, size: int, most: int) -> ValueError:
    return ValueError(
        f"a chunk of {counted(size, 'byte')} unpacks to {size_text} bytes by {name}, where its "
        f"array has room for {most:,}: the chunk is damaged, or crafted to exhaust memory"
    )


def _zstd_size(data: memoryview) -> int:
    """Return the decompressed size that zstd frames declare: RFC 8878, section 3.1."""
    at, size = 0, 0

    def number(count: int) -> int:
        nonlocal at
        if at + count > len(data):
            raise _NO_ZSTD
        at += count
        return int.from_bytes(data[at - count : at], "little")

    while at < len(data):
        magic = number(4)
        if magic >> 4 == 0x184D2A5:
            # A skippable frame
            number(number(4))
            continue
        if magic != 0xFD2FB528:
            raise _NO_ZSTD
        said = number(1)
        single = said >> 5 & 1
        number((1 - single) + (0, 1, 2, 4)[said & 3])
        flag = said >> 6
        declared = number((single, 2, 4, 8)[flag]) + 256 * (flag == 1)
        known = bool(flag or single)
        blocks, last = 0, 0
        while not last:
            head = number(3)
            last, kind, length = head & 1, head >> 1 & 3, head >> 3
            number(1 if kind == 1 else length)
            blocks += _ZSTD_BLOCK // _ZSTD_SPLIT if kind == 2 else length
        number(4 * (said >> 2 & 1))
        size += declared if known else blocks
    return size


_SIZES: dict[str, Callable[[memoryview], int]] = {
    "zstd": _zstd_size,
    "blosc": lambda data: int.from_bytes(data[4:8], "little"),
    "lz4": lambda data: int.from_bytes(data[:4], "little"),
}
_STREAMS: dict[str, Callable[[Any], Callable[[], Any]]] = {
    "zlib": lambda _: zlib.decompressobj,
    "gzip": lambda _: partial(zlib.decompressobj, 31),
    "bz2": lambda _: bz2.BZ2Decompressor,
    "lzma": lambda codec: partial(_lzma, codec),
}


def _lzma(codec: Any) -> Any:
    config = getattr(codec, "codec_config", None) or codec.get_config()
    form = config.get("format", lzma.FORMAT_XZ)
    filters = config.get("filters") if form == lzma.FORMAT_RAW else None
    return lzma.LZMADecompressor(format=form, filters=filters)
