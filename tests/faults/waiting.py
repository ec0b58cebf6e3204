"""Waiting for a state, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE = 120.0


def until(reached: Callable[[], bool], what: str) -> None:
    """Wait until something is so; fail after two minutes."""
    end = time.monotonic() + DEADLINE
    while not reached():
        assert time.monotonic() < end, f"not within {DEADLINE:.0f} s: {what}"
        time.sleep(0.003)
