"""Optional libraries of some formats, imported when a file of the format is read."""

from __future__ import annotations

from typing import Any

from colonnade import errors

__all__ = ["import_optional"]


def import_optional(module: str, extra: str) -> Any:
    """Import a module that an extra installs; raise NetworkError if that fails."""
    message = f"this format is read with {module.partition('.')[0]}"
    return errors.import_optional(module, extra, errors.NetworkError, message)
