"""Format numbers and times for people."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["counted", "format_bytes", "format_seconds", "now"]


def counted(number: int, what: str) -> str:
    """Format a number of things: 1 block, 2 blocks."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def format_bytes(size: float) -> str:
    """Format bytes: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if round(size) < 1024 or unit == "TiB":
            return f"{size:,.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def format_seconds(seconds: float) -> str:
    """Format a duration: 0.21 s, 12 min, 3.4 h."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < most * size:
            number = seconds / size
            return f"{number:.2g} {unit}" if number < 100 else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def now(precision: str = "seconds") -> str:
    """Return the current time in UTC, in ISO 8601 format."""
    return datetime.now(UTC).isoformat(timespec=precision)
