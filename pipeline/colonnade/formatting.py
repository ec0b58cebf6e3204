"""Numbers and times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["counted", "format_bytes", "format_seconds", "now"]


def counted(number: int, what: str) -> str:
    """Write a number of things as people do: 1 block, 2 blocks."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def format_bytes(size: float) -> str:
    """Write bytes as people do: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if round(size) < 1024 or unit == "TiB":
            return f"{size:,.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def format_seconds(seconds: float) -> str:
    """Write a time as people do: 0.21 s, 12 min, 3.4 h."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < most * size:
            number = seconds / size
            return f"{number:.2g} {unit}" if number < 100 else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def now(precision: str = "seconds") -> str:
    """Write the time as ISO 8601 does, in UTC."""
    return datetime.now(UTC).isoformat(timespec=precision)
