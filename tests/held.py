"""A run in a process of its own that stands still while its cluster is up.

As a program: the run of the job at a path, which writes its dashboard to standard output when its
workers are there, and goes on when its standard input ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import colonnade as cn
from colonnade.events import ClusterReady


@contextmanager
def held(
    document: dict[str, Any], folder: Path, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Hold a run: its process, and what it says of its dashboard. At the end it must end well."""
    path = folder / "held.json"
    path.write_text(json.dumps(document))
    process = subprocess.Popen(
        [sys.executable, __file__, str(path)], env=os.environ | environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        dashboard = process.stdout.readline().strip()
        assert dashboard, process.communicate()[1]
        yield process, dashboard
        killed = process.poll() is not None
        _, said = process.communicate(timeout=120)
        assert killed or process.returncode == 0, said
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def main() -> None:
    def hold(event: Any) -> None:
        if isinstance(event, ClusterReady):
            print(event.dashboard, flush=True)  # noqa: T201 (to who started this)
            sys.stdin.read()

    cn.run(json.loads(Path(sys.argv[1]).read_text()), listener=hold)


if __name__ == "__main__":
    main()
