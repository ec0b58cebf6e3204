"""Libraries that some formats need, imported when one is read."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from colonnade.errors import NetworkError

__all__ = ["needed"]


def needed(module: str, extra: str) -> Any:
    """Import a module that an extra brings; NetworkError where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise NetworkError(
            f"this format is read with {module.partition('.')[0]}, which is not installed: "
            f"pip install 'colonnade[{extra}]'."
        ) from error
