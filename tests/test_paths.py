"""Any name that a file system allows: for the store, for what lies above it, and for every file."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
import zarr
from safetensors.numpy import save_file

import colonnade as cn
from colonnade import Network
from colonnade.inputs import open_columns
from colonnade.store import Store
from support import bits, make_columns, make_network, refusal, save_network

# What URLs, shells, globs, dask, fsspec and pyarrow take for something else than a name
NAMES = [
    "a#b", "a?b", "50%", "%23", "two words", "a:b", "file:b", "s3:b", "memory::b", "-b", "~b", "*",
    "[b]", "a&b=c", "a\\b", "$HOME", "'\"", "…é✓", "..b", "b.", "a#b?c%20d:[e]*",
]  # fmt: skip
# A run takes a second: those that differ most
STORE_NAMES = ["a#b", "a?b", "memory::b", "-b", "~b", "…é✓", "a#b?c%20d:[e]*"]


def listing(folder: Path, *below: Path) -> set[Path]:
    """All files and folders, but what is in those of `below`."""
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if not any(other in path.parents for other in below)
    }


@pytest.fixture
def folder(tmp_path: Path, name: str) -> Path:
    made = tmp_path / "outer" / name
    made.mkdir(parents=True)
    save_network(made / f"{name}.npz", make_network())
    np.save(made / f"{name}.npy", make_columns())
    return made


def document(name: str, cluster: dict[str, Any], **output: Any) -> dict[str, Any]:
    return {
        "network": {"weights": f"./{name}.npz", "activation": "tanh"},
        "input": {"path": f"./{name}.npy"},
        "output": {
            "path": f"./{name}.zarr",
            "block_size": 13 * 3 * 5 * 4,
            "products": ["jacobian", "value", "norm", "mean"],
            **output,
        },
        "cluster": cluster,
    }


@pytest.mark.parametrize("name", STORE_NAMES)
def test_a_store_of_any_name(
    folder: Path, name: str, shared_cluster: dict[str, Any], local_bits: dict[str, bytes]
) -> None:
    """In the current directory and its parents, too; and nothing is put anywhere else."""
    outer = folder.parent
    before = listing(outer)
    with chdir(folder):
        cn.run(document(name, shared_cluster))
        path = folder / f"{name}.zarr"
        assert bits(path) == local_bits
        assert Store.open(path).status().state == "complete"
        assert cn.verify(f"./{name}.zarr").sound
        assert cn.report(f"./{name}.zarr", f"{name}.html") == Path(f"{name}.html")
        slopes = f"slopes {name}.zarr"
        cn.run(document(name, shared_cluster, path=f"./{slopes}", layout="factored"))
        cn.materialize(f"./{slopes}", f"./dense {name}.zarr", trust=True)
        with cn.open(f"./{name}.zarr") as ds, cn.open(folder / f"dense {name}.zarr") as other:
            np.testing.assert_array_equal(ds.jacobian.values, other.jacobian.values)
    stores = [folder / f"{kind}{name}.zarr" for kind in ("", "slopes ", "dense ")]
    made = {path.relative_to(outer) for path in [*stores, folder / f"{name}.html"]}
    assert listing(outer, *stores) == before | made


@pytest.mark.parametrize("name", NAMES)
def test_x_of_any_name(folder: Path, name: str) -> None:
    X = make_columns()
    table = pd.DataFrame(X.T, columns=list("abcde"))
    table.to_parquet(folder / f"{name}.parquet")
    table.to_csv(folder / f"{name}.csv", index=False)
    zarr.create_array(zarr.storage.LocalStore(folder / f"{name}.zarr"), data=X)
    with h5py.File(os.fsencode(folder / f"{name}.h5"), "w") as file:
        file["X"] = X
    (folder / f"{name}.d").mkdir()
    np.save(folder / f"{name}.d" / f"{name}.npy", X)
    before = listing(folder.parent)
    with chdir(folder):
        for suffix in ("npy", "parquet", "csv", "zarr", "h5", "d"):
            found = open_columns(f"./{name}.{suffix}")
            np.testing.assert_array_equal(found.read(0, X.shape[1]).astype(np.float32), X)
    assert listing(folder.parent) == before


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_any_name(folder: Path, name: str) -> None:
    network, X = make_network(), make_columns()
    save_file(network.arrays, folder / f"{name}.safetensors")
    group = zarr.create_group(zarr.storage.LocalStore(folder / f"{name}.zarr"))
    for key, array in network.arrays.items():
        group.create_array(key, data=array)
    before = listing(folder.parent)
    with chdir(folder):
        for suffix in ("npz", "safetensors", "zarr"):
            loaded = Network.load(f"./{name}.{suffix}", activation="tanh")
            np.testing.assert_array_equal(cn.jacobian(loaded, X), cn.jacobian(network, X))
    assert listing(folder.parent) == before


def test_commands_on_any_name(tmp_path: Path, local_bits: dict[str, bytes]) -> None:
    """Each in a process of its own; what begins with - comes after --, as everywhere."""
    name = NAMES[-1]
    folder = tmp_path / name / "-b"
    folder.mkdir(parents=True)
    save_network(folder / f"{name}.npz", make_network())
    np.save(folder / f"{name}.npy", make_columns())
    (folder / f"-{name}.yaml").write_text(
        yaml.safe_dump(document(name, {"kind": "local", "workers": 2}))
    )
    before = listing(tmp_path)

    def colonnade(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "colonnade", *arguments],
            cwd=folder, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    store = f"{name}.zarr"
    colonnade("run", "--metrics", f"-{name}.prom", "--log", "plain", "--", f"-{name}.yaml")
    colonnade("plan", "--", f"-{name}.yaml")
    colonnade("status", store)
    colonnade("verify", store)
    colonnade("report", store, "-o", f"-{name}.html")
    assert bits(folder / store) == local_bits
    made = [f"-{name}.prom", f"-{name}.html", store]
    assert listing(tmp_path, folder / store) == before | {
        (folder / each).relative_to(tmp_path) for each in made
    }


def test_a_directory_without_a_name_in_text(tmp_path: Path, shared_cluster: dict[str, Any]) -> None:
    """Bytes that are no UTF-8 stand in no job and no store: the refusal says so."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    save_network(folder / "x.npz", make_network())
    np.save(folder / "x.npy", make_columns())
    with chdir(folder):
        said = refusal(lambda: cn.run(document("x", shared_cluster)))
    assert "UTF-8" in said
    assert {path.name for path in folder.iterdir()} == {"x.npz", "x.npy"}
