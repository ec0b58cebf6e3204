"""The examples of reading run as they stand, and find in a store what is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import colonnade as cn
from support import needs

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "configs" / "examples"


@pytest.fixture(scope="module", params=["whole blocks", "several chunks a block"])
def store(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "digits.zarr"
    sizes = ["output.chunk_size=100 kB"] if "several" in request.param else []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        cn.run("configs/digits.yaml", [f"output.path={path}", "cluster.workers=1", *sizes])
    assert (zarr.open_array(path / "jacobian", mode="r").shards is not None) == bool(sizes)
    return path


def expected(store: Path) -> str:
    block = cn.open(store).jacobian[17].values
    i, j = np.unravel_index(block.argmax(), block.shape)
    return f"column 17: output {i} answers most to input {j}: {block[i, j]:.4f}\n"


def said(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs_engine() -> None:
    """Leave out what an install from before the entry point lacks; with TEST_ALL, fail."""
    if "colonnade" not in xr.backends.list_engines():
        told = "xarray does not know the engine colonnade; to include this: pip install -e ."
        (pytest.fail if os.environ.get("TEST_ALL") else pytest.skip)(told)


@pytest.mark.parametrize("name", ["zarr", "tensorstore"])
def test_python(store: Path, name: str) -> None:
    example = EXAMPLES / f"read_{name}.py"
    assert "colonnade" not in re.findall(r"import (\w+)", example.read_text())
    told = said(sys.executable, "-W", "error", example, store)
    assert "state: complete\n" in told
    assert told.endswith(expected(store))


def test_xarray(store: Path) -> None:
    needs_engine()
    told = said(sys.executable, "-W", "error", EXAMPLES / "read_xarray.py", store)
    assert expected(store) in told
    strength = np.abs(cn.open(store).jacobian.values).mean(axis=0).sum(axis=1)
    assert told.endswith(f"on average, output {strength.argmax()} answers most\n")


class Ranges(SimpleHTTPRequestHandler):
    """Python's server, and range requests, which it lacks."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first = int(asked[1]) if asked[1] else len(data) - int(asked[2])
        stop = int(asked[2]) + 1 if asked[1] and asked[2] else len(data)
        self.send_response(206)
        self.send_header("Content-Length", str(len(data[first:stop])))
        self.end_headers()
        self.wfile.write(data[first:stop])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def served(store: Path) -> Iterator[str]:
    handler = partial(Ranges, directory=str(store.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{store.name}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    needs("npm", "apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("javascript") / "example"
    shutil.copytree(EXAMPLES / "javascript", folder)
    said("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", cwd=folder)
    return folder


def test_javascript(store: Path, served: str, installed: Path) -> None:
    told = said("node", "read.mjs", served, cwd=installed)
    assert "state: complete\n" in told
    assert told.endswith(expected(store))
