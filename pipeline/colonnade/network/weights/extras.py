"""Libraries that some formats need, imported when one is read."""

from __future__ import annotations

from typing import Any

from colonnade import errors

__all__ = ["import_optional"]


def import_optional(module: str, extra: str) -> Any:
    """Import a module that an extra brings; NetworkError where it is not installed."""
    told = f"this format is read with {module.partition('.')[0]}"
    return errors.import_optional(module, extra, errors.NetworkError, told)
