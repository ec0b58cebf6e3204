"""Scripts without a main guard, which the worker processes of this machine would run again."""

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
    """Say what to do where a script calls us at its top level and has no main guard.

    Before a process starts: of a script that has one, but calls us beside it, the processes tell.

    Raises
    ------
    UsageError
        The main module is such a script.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
    # What is typed in or given by -c no process imports
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
    """Say what to do where a script without a main guard is run again by its own workers.

    Raises
    ------
    UsageError
        This process is such a worker.
    """
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        # The last line of twenty, from each of the workers
        sys.tracebacklimit = 0
        raise UsageError(_REMEDY)
