"""Refuse scripts without a main guard, which local worker processes would run again."""

from __future__ import annotations

import ast
import multiprocessing
import sys
from pathlib import Path

from colonnade.errors import UsageError

__all__ = ["refuse_spawned", "refuse_unguarded"]

_REMEDY = (
    "colonnade starts worker processes, and each of them imports your script: put the call under "
    "`if __name__ == '__main__':`."
)


def refuse_unguarded() -> None:
    """Refuse a script that calls colonnade at its top level and has no main guard.

    This check comes before any process starts. If a script has a guard but calls colonnade outside
    of it, its worker processes detect that (`refuse_spawned`).

    Raises
    ------
    UsageError
        The main module is such a script.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
    # Worker processes do not import interactive code or that of -c
    if script is None or frame.f_code.co_filename != script:
        return
    try:
        tree = ast.parse(Path(script).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    compared = [
        each
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for each in ast.walk(node)
        if isinstance(each, ast.Name) and each.id == "__name__"
    ]
    if not compared:
        raise UsageError(_REMEDY)


def refuse_spawned() -> None:
    """Refuse to run a script without a main guard again in its own worker processes.

    Raises
    ------
    UsageError
        This process is such a worker.
    """
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        # Each worker prints the message; without the limit, twenty lines of traceback as well
        sys.tracebacklimit = 0
        raise UsageError(_REMEDY)
