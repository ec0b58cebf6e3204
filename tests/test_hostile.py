"""Job files that mean harm, and the command line on whatever would fill the memory or hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import colonnade as cn
from colonnade.job.file import load_job
from support import N, allowed, no_files, refusal, snapshot

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghijklmnopqrstuvwxy", "bcdefghijklmnopqrstuvwxyz", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [*{old}, *{old}, *{old}]}}\n"
    for old, new in zip("abcdefghijklmnopqrstuvwxy", "bcdefghijklmnopqrstuvwxyz", strict=True)
)
VALID = "network: {weights: w, activation: tanh}\ninput: {path: x}\noutput: {path: o, %s}\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (LAUGHS, "it expands to more than 100,000 values"),
        (MERGES, "it expands to more than 100,000 values"),
        ("output: &a {path: *a}", "recursive"),
        ("[" * 30_000, "recursion"),
        ("{a: " * 10_000, "recursion"),
        ("- " * 20_000, "recursion"),
        ("? " * 20_000, "recursion"),
        ("!!python/object/apply:os.system [touch pwned]", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !!python/object/new:os.mkdir [pwned]", "could not determine a constructor"),
        ('"\\e[2J": 1\n"\\e[2J": 2', "'\\x1b[2J' is written twice"),
        (f"a: *{'x' * 50_000}", "found undefined alias"),
        (f"a: !{'x' * 50_000} 3", "could not determine a constructor"),
        ("a: " + "9" * 50_000, "this is not YAML"),
        (VALID % ("block_size: " + "9" * 4000), "output.block_size: given 9999"),
        (VALID % ("block_size: '" + "9" * 400 + "'"), "output.block_size: given '999"),
        (VALID % ("block_size: '1" + " " * 60_000 + "x'"), "output.block_size: given '1 "),
        (VALID % "block_size: .nan", "output.block_size: given nan"),
        (VALID % "chunk_size: -.inf", "output.chunk_size: given -inf"),
        (VALID % ("dtype: '" + "${" * 30_000 + "'"), "output.dtype: given '${${"),
        (VALID % ("dtype: '${" + "A" * 60_000 + "}'"), "the environment has no variable 'AAA"),
        (VALID.replace("tanh", "a" * 50_000) % "", "network.activation: given 'aaa"),
        (VALID.replace("tanh", "{name: elu, " + "a" * 1000 + ": 3}") % "", "elu has no parameter"),
        (VALID % ("x" * 1000 + ": 3"), "unknown key"),
        ("\n".join(f"k{i}: {i}" for i in range(5000)), "and 4983 more"),
        ("a: \0", "unacceptable character"),
        (b"\xff\xfe" + "network: {}".encode("utf-16-le"), "'utf-8' codec can't decode"),
        ("", "this one has none"),
        ("# " + "x" * 100_000_000, "it has more than 65,536 bytes"),
    ],
    ids=lambda value: None if value is None else str(value[:20]),
)
def test_job_files(tmp_path, monkeypatch, content: str | bytes, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert told in refusal(lambda: load_job("job.yaml"))
    assert list(snapshot(tmp_path)) == ["job.yaml"]


def test_what_is_no_file(tmp_path) -> None:
    told = "this job file cannot be read: it is not a regular file"
    for path in (*no_files(tmp_path), Path("/dev/zero")):
        assert told in refusal(lambda path=path: load_job(path))
    long = tmp_path / ("x" * 300)
    assert "this job file cannot be read: " in refusal(lambda: load_job(long))
    (tmp_path / "job.yaml").write_text(VALID % "dtype: float32")
    (tmp_path / "link.yaml").symlink_to("job.yaml")
    assert load_job(tmp_path / "link.yaml") == load_job(tmp_path / "job.yaml")


@settings(max_examples=700)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    refusal(lambda: load_job(path), content)


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([10**400, -(2**64), 1e308, "9" * 500, "${", "$", "\0", "\x1b[2J", "~", "/"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below),
    max_leaves=6,
)  # fmt: skip
PLACES = [
    ("network", "weights"), ("network", "activation"), ("network", "names"), ("input", "path"),
    ("input", "array"), ("input", "orientation"), ("output", "path"), ("output", "layout"),
    ("output", "dtype"), ("output", "block_size"), ("output", "chunk_size"),
    ("output", "compression"), ("output", "significant_bits"), ("output", "products"),
    ("cluster", "kind"),
    ("cluster", "workers"), ("cluster", "threads_per_worker"), ("cluster", "memory_per_worker"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where hypothesis' examples have their files, which nothing changes."""
    return tmp_path_factory.mktemp("hostile")


@settings(max_examples=600)
@given(place=st.sampled_from(PLACES), value=nested)
def test_any_value_anywhere(folder, place: tuple[str, str], value: Any) -> None:
    """Plans touch nothing, whatever the job says."""
    document = {
        "network": {"weights": str(folder / "w.npz"), "activation": "tanh"},
        "input": {"path": str(folder / "X.npy")}, "output": {"path": str(folder / "o.zarr")},
        "cluster": {},
    }  # fmt: skip
    document[place[0]][place[1]] = value
    allowed(lambda: cn.plan(document), (place, value))
    assert not snapshot(folder)


def test_paths_that_no_system_call_takes(job, tmp_path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    long = str(tmp_path / ("x" * 300 + ".npz"))
    for path in (long, str(tmp_path / "loop" / "x.npz"), str(tmp_path / "loop")):
        for section, key in (("network", "weights"), ("input", "path")):
            refusal(lambda changes={section: {key: path}}: cn.plan(job(**changes)))
        allowed(lambda path=path: cn.plan(job(output={"path": path})))
        refusal(lambda path=path: cn.open(path))
    assert "File name too long" in refusal(lambda: cn.run(job(output={"path": long})))
    assert sorted(os.listdir(tmp_path)) == ["X.npy", "loop", "network.npz"]  # noqa: PTH208


# What follows would take all memory, or all time: in a process that has little of either


def limited(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # The shell sets the limit: Python would have to fork this process, threads of JAX and all
    return subprocess.run(
        ["sh", "-c", 'ulimit -v 4194304; exec "$0" "$@"',
         sys.executable, "-m", "colonnade", *map(str, arguments)],
        text=True, capture_output=True, check=False, timeout=60,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


Spoil = Callable[[Path], None]


def zip_bomb(path: Path) -> None:
    """8 GiB of zeros, really, in 8 MB."""
    press = zlib.compressobj(wbits=-15)
    piece = press.compress(bytes(2**24)) + press.flush(zlib.Z_FULL_FLUSH)
    with zipfile.ZipFile(path / "network.npz", "w") as archive:
        entry = zipfile.ZipInfo("W1.npy")
        archive.writestr(entry, piece * 512 + zlib.compress(b"", wbits=-15))
        entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, 2**33


def sparse_weights(path: Path) -> None:
    """As many zeros as the header says, which a file system keeps in no room at all."""
    said = {"dtype": "F32", "shape": [2**16, 2**16], "data_offsets": [0, 2**34]}
    header = json.dumps({"W1": said}).encode()
    (path / "network.npz").unlink()
    with (path / "network.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**34)
    change(path, lambda job: job["network"].update(weights=str(path / "network.safetensors")))


def chunk_of_everything(path: Path) -> None:
    zarr.create_array(path / "x.zarr", shape=(N, 101), chunks=(N, 10**12), dtype="f4")
    change(path, lambda job: job["input"].update(path=str(path / "x.zarr")))


def laughs(path: Path) -> None:
    with (path / "job.yaml").open("a") as file:
        file.write(LAUGHS)


def pipe_for_x(path: Path) -> None:
    (path / "X.npy").unlink()
    os.mkfifo(path / "X.npy")


def change(path: Path, by: Callable[[dict[str, Any]], None]) -> None:
    document = yaml.safe_load((path / "job.yaml").read_text())
    by(document)
    (path / "job.yaml").write_text(yaml.safe_dump(document))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (zip_bomb, "would unpack to 8,589,934,592"),
        (sparse_weights, "do not fit into the memory"),
        (chunk_of_everything, "take 20,000,000,000,000 bytes to read"),
        (laughs, "expands to more than 100,000 values"),
        (pipe_for_x, "neither a file nor a directory"),
    ],
)
def test_the_command_line(job_file, tmp_path: Path, spoil: Spoil, told: str) -> None:
    path = job_file()
    spoil(tmp_path)
    before = sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*"))
    done = limited("plan", path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert told in done.stderr
    assert done.stderr.startswith("colonnade: ")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
