"""The examples of reading run as they stand, and find in a store what is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
NAMES = ["nil", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module", params=["whole blocks", "several chunks a block"])
def store(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "digits.zarr"
    sizes = ["output.chunk_size=100 kB"] if "several" in request.param else []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        cn.run("configs/digits.yaml", [f"output.path={path}", "cluster.workers=1", *sizes])
    assert (zarr.open_array(path / "jacobian", mode="r").shards is not None) == bool(sizes)
    return path


@pytest.fixture(scope="module")
def factored(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "slopes.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        told = [
            "cluster.workers=1", "output.layout=factored", "output.products=[jacobian]",
            f"network.output_names=[{','.join(NAMES)}]",
        ]  # fmt: skip
        cn.run("configs/digits.yaml", [f"output.path={path}", *told])
    return path


def tensor() -> np.ndarray:
    """The tensor of digits.yaml by plain NumPy in float64: (column, output, input)."""
    data = ROOT / "configs" / "data"
    X = np.load(data / "digits.npy").astype(np.float64)
    with np.load(data / "digits-network.npz") as file:
        W1, b1, W2 = (file[name].astype(np.float64) for name in ("W1", "b1", "W2"))
    slope = 1 - np.tanh(W1 @ X + b1[:, None]) ** 2
    return np.einsum("ih,hk,hj->kij", W2, slope, W1)


FOUND = re.compile(r"^column 17: output (\w+) answers most to input (\w+): (-?\d+\.\d{4})$", re.M)


def check(told: str, name: Callable[[int], str] = str) -> None:
    """Compare the numbers printed of column 17 with NumPy's."""
    block = tensor()[17]
    i, j = np.unravel_index(np.abs(block).argmax(), block.shape)
    # Else this could not tell the largest from the largest in size
    assert block.argmax() != np.abs(block).argmax()
    (found,) = FOUND.findall(told)
    assert found[:2] == (name(int(i)), str(j))
    # Half of the last digit printed, and float32
    assert float(found[2]) == pytest.approx(block[i, j], abs=6e-5)


def refused(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command that fails says on stderr: one line, and no traceback."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    return line


SLOPES = (
    " holds no array jacobian: a store of layout factored holds slopes, of which it is made as "
    '"Layouts" in the README says, or by colonnade materialize.'
)


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
    check(told)


@pytest.mark.parametrize("name", ["zarr", "tensorstore"])
def test_slopes_are_told(factored: Path, name: str) -> None:
    example = EXAMPLES / f"read_{name}.py"
    assert refused(sys.executable, "-W", "error", example, factored) == f"{factored}{SLOPES}"


@pytest.mark.parametrize("name", ["zarr", "tensorstore", "xarray"])
def test_no_store_is_told(tmp_path: Path, name: str) -> None:
    if name == "xarray":
        needs_engine()
    example, absent = EXAMPLES / f"read_{name}.py", tmp_path / "absent.zarr"
    command = (sys.executable, "-W", "error", example)
    assert refused(*command, absent).startswith(f"{absent}: there is no store.")
    assert refused(*command).startswith("Say which store: python configs/examples/read_")


def test_xarray(store: Path) -> None:
    needs_engine()
    told = said(sys.executable, "-W", "error", EXAMPLES / "read_xarray.py", store)
    check(told)
    strength = np.abs(tensor()).mean(axis=0).sum(axis=1)
    assert told.endswith(f"on average, output {strength.argmax()} answers most\n")


def test_xarray_prints_names_and_reads_slopes(factored: Path) -> None:
    needs_engine()
    told = said(sys.executable, "-W", "error", EXAMPLES / "read_xarray.py", factored)
    check(told, NAMES.__getitem__)
    strength = np.abs(tensor()).mean(axis=0).sum(axis=1)
    assert told.endswith(f"on average, output {NAMES[strength.argmax()]} answers most\n")


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


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder; yields its URL."""
    handler = partial(Ranges, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    needs("npm", "apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("javascript") / "example"
    shutil.copytree(EXAMPLES / "javascript", folder)
    said("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", cwd=folder)
    return folder


def test_javascript(store: Path, installed: Path) -> None:
    with serving(store.parent) as url:
        told = said("node", "read.mjs", f"{url}/{store.name}", cwd=installed)
    assert "state: complete\n" in told
    check(told)


def test_javascript_tells_what_is_not_there(factored: Path, installed: Path) -> None:
    with serving(factored.parent) as url:
        slopes, absent = f"{url}/{factored.name}", f"{url}/absent.zarr"
        assert refused("node", "read.mjs", slopes, cwd=installed) == f"{slopes}{SLOPES}"
        told = refused("node", "read.mjs", absent, cwd=installed)
    assert told == f"{absent}: there is no store."
    assert refused("node", "read.mjs", cwd=installed).startswith("Say which store: node read.mjs")
