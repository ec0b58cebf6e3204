"""Draw pictures as SVG: pure functions from numbers to markup; the page sets the colours."""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

__all__ = ["area", "bars", "heat_map", "histogram", "number", "scale_of"]

_WIDTH = 520
# Most cells of a picture along an axis; if there are more, neighbours are merged
_MOST_CELLS = 256
_POSITIVE, _NEGATIVE = (200, 66, 20), (30, 90, 200)


def number(value: float) -> str:
    """Format a number briefly: 0.0123, 1.2e-05, 1,234."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2e}"


def scale_of(*matrices: NDArray[np.floating]) -> float:
    """Return the largest finite absolute value, or 1 if that is zero or does not exist."""
    finite = [np.abs(matrix[np.isfinite(matrix)]) for matrix in matrices]
    return max((float(part.max()) for part in finite if part.size), default=0.0) or 1.0


def heat_map(
    matrix: NDArray[np.floating],
    rows: Sequence[str],
    columns: Sequence[str],
    scale: float,
    *,
    label: str,
    small: bool = False,
) -> Markup:
    """Draw a matrix (rows, columns): the hue is the sign, the strength |value| / scale.

    If there are more cells than pixels, a pixel shows its cell of the largest magnitude.
    """
    values, row_step, column_step = _thinned(np.asarray(matrix, np.float64))
    count, width = values.shape
    row_names, column_names = rows[::row_step], columns[::column_step]
    left = 8 if small else min(150, 12 + 6.4 * max(len(_short(name)) for name in row_names))
    slanted = not small and max(len(_short(name)) for name in column_names) > 4
    below = 8 if small else (70 if slanted else 34)
    inner = _WIDTH - left - 8
    height = min(420.0, max(60.0 if small else 90.0, inner / width * count))
    frame = {"x": left, "y": 4, "width": inner, "height": height}
    parts = [
        _tag("rect", class_="frame", **frame),
        _tag(
            "image",
            preserveAspectRatio="none",
            href=_png(_coloured(values, scale)),
            data_values=_packed(values),
            data_rows=json.dumps(list(row_names), ensure_ascii=False),
            data_columns=json.dumps(list(column_names), ensure_ascii=False),
            **frame,
        ),
    ]
    if not small:
        for i in _ticks(count, int(height // 13)):
            y = 8 + (i + 0.5) * height / count
            parts.append(_text(left - 5, y, _short(row_names[i]), "end"))
        for j in _ticks(width, 16 if slanted else 12):
            x = left + (j + 0.5) * inner / width
            parts.append(_text(x, height + 18, _short(column_names[j]), turned=slanted))
    return _svg(height + below + 8, label, parts, class_="heat")


def histogram(values: NDArray[np.floating], *, label: str, unit: str) -> Markup:
    """Draw the distribution of values ≥ 0, on a log scale if they span decades."""
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    logarithmic = positive.size > 0 and positive.max() > 100 * positive.min()
    counted = np.log10(positive) if logarithmic else finite
    counts, edges = np.histogram(counted, bins=48)
    edges = 10**edges if logarithmic else edges
    hints = [
        f"{number(a)} to {number(b)}: {count:,} columns"
        for count, a, b in zip(counts, edges[:-1], edges[1:], strict=True)
    ]
    ticks = [(i / 48, number(edges[i])) for i in (0, 12, 24, 36, 48)]
    return _columns_chart(
        counts.astype(float),
        hints,
        ticks,
        label=label,
        unit=unit + ", log scale" * bool(logarithmic),
    )


def bars(values: Sequence[float], names: Sequence[str], *, label: str) -> Markup:
    """Draw named values as horizontal bars, of either sign."""
    left, row = min(170.0, 12 + 6.6 * max(len(_short(name)) for name in names)), 18
    inner, height = _WIDTH - left - 70, row * len(values) + 6
    largest = max(abs(value) for value in values) or 1.0
    signed = min(values) < 0
    zero = left + (inner / 2 if signed else 0)
    unit = inner / (2 if signed else 1) / largest
    parts = []
    for i, (value, name) in enumerate(zip(values, names, strict=True)):
        y, length = 4 + i * row, abs(value) * unit
        parts += [
            _text(left - 6, y + 11, _short(name), "end"),
            _tag(
                "rect",
                _tag("title", f"{name}: {number(value)}"),
                class_="negative" if value < 0 else "positive",
                x=zero - length if value < 0 else zero,
                y=y,
                width=max(length, 0.5),
                height=13,
            ),
            _text(zero + max(value, 0) * unit + 4, y + 11, number(value), "start"),
        ]
    return _svg(height, label, parts)


def area(counts: Sequence[float], interval: float, *, label: str, unit: str) -> Markup:
    """Draw a rate over time, from counts in intervals of `interval` seconds."""
    rates = np.asarray(counts, float) / interval
    hints = [
        f"{i * interval:g} to {(i + 1) * interval:g} s: {number(rate)} {unit}"
        for i, rate in enumerate(rates)
    ]
    total = len(rates) * interval
    ticks = [(part, f"{number(part * total)} s") for part in (0, 0.25, 0.5, 0.75, 1)]
    return _columns_chart(rates, hints, ticks, label=label, unit=unit)


def _columns_chart(
    heights: NDArray[np.floating],
    hints: Sequence[str],
    ticks: Sequence[tuple[float, str]],
    *,
    label: str,
    unit: str,
) -> Markup:
    left, inner, height = 58, _WIDTH - 58 - 22, 170
    largest = float(heights.max()) or 1.0
    step = inner / len(heights)
    parts = []
    for part in (0.0, 0.5, 1.0):
        y = 8 + height * (1 - part)
        parts.append(_tag("line", class_="grid", x1=left, x2=left + inner, y1=y, y2=y))
        parts.append(_text(left - 6, y + 4, number(part * largest), "end"))
    for i, (value, hint) in enumerate(zip(heights, hints, strict=True)):
        tall = height * float(value) / largest
        parts.append(
            _tag(
                "rect",
                _tag("title", hint),
                class_="bar",
                x=left + i * step,
                y=8 + height - tall,
                width=max(step - 0.7, 0.5),
                height=tall,
            )
        )
    parts += [_text(left + part * inner, 194, text) for part, text in ticks]
    parts.append(_text(left + inner / 2, 213, unit))
    return _svg(222, label, parts)


def _svg(height: float, label: str, parts: Iterable[Markup], **attributes: str) -> Markup:
    box = f"0 0 {_WIDTH} {height:.0f}"
    return _tag("svg", *parts, viewBox=box, role="img", aria_label=label, **attributes)


def _text(x: float, y: float, text: str, anchor: str = "middle", *, turned: bool = False) -> Markup:
    if turned:
        turn = f"rotate(-45 {x:.1f} {y:.1f})"
        return _tag("text", text, x=x, y=y, text_anchor="end", transform=turn)
    return _tag("text", text, x=x, y=y, text_anchor=anchor)


def _tag(name: str, *inside: str, **attributes: str | float) -> Markup:
    """Return an element; its contents and attributes are escaped unless they are markup."""
    written = Markup(" ").join(
        Markup('{}="{}"').format(
            key.rstrip("_").replace("_", "-"),
            f"{value:.1f}" if isinstance(value, float) else value,
        )
        for key, value in attributes.items()
    )
    return Markup("<{0} {1}>{2}</{0}>").format(name, written, Markup("").join(inside))


def _ticks(count: int, most: int) -> list[int]:
    return list(range(0, count, -(-count // max(1, most))))


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"


def _thinned(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int, int]:
    """Merge cells into pixels, each with the value of the largest magnitude, or NaN."""
    steps = [-(-size // _MOST_CELLS) for size in values.shape]
    padded = np.pad(
        values, [(0, -size % step) for size, step in zip(values.shape, steps, strict=True)]
    )
    a, b = padded.shape[0] // steps[0], padded.shape[1] // steps[1]
    cells = padded.reshape(a, steps[0], b, steps[1]).transpose(0, 2, 1, 3).reshape(a, b, -1)
    chosen = np.argmax(np.where(np.isnan(cells), np.inf, np.abs(cells)), axis=2)
    return np.take_along_axis(cells, chosen[:, :, None], axis=2)[:, :, 0], steps[0], steps[1]


def _coloured(values: NDArray[np.float64], scale: float) -> NDArray[np.uint8]:
    """Return RGBA pixels: transparent at zero, to suit any background; grey where NaN."""
    pixels = np.empty((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.where((values < 0)[..., None], _NEGATIVE, _POSITIVE)
    strength = np.abs(np.nan_to_num(values, posinf=scale, neginf=-scale)) / scale
    pixels[..., 3] = np.round(255 * np.minimum(strength, 1) ** 0.8)
    pixels[np.isnan(values)] = (128, 128, 128, 120)
    return pixels


def _png(pixels: NDArray[np.uint8]) -> str:
    """Encode RGBA pixels (height, width, 4) as the data URI of a PNG (ISO/IEC 15948)."""
    height, width, _ = pixels.shape
    # Each row begins with its filter type; 0 is none
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes()))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _packed(values: NDArray[np.float64]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()
