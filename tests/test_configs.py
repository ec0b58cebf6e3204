"""The shipped jobs, on their real input, against a reference in float64 by autodiff."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
import yaml
import zarr

import colonnade as cn
from colonnade.job import Job
from colonnade.job.file import load_job
from support import N, make_columns, make_network, save_network

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
README = (ROOT / "README.md").read_text()


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        path = tmp_path_factory.mktemp("digits") / "digits.zarr"
        finished = cn.run("configs/digits.yaml", [f"output.path={path}"])
    assert finished.blocks_computed == finished.blocks > 1
    return path


def test_digits_agree_with_autodiff_in_float64(digits: Path) -> None:
    with np.load("configs/data/digits-network.npz") as weights:
        W, b, U, c = (weights[name].astype(np.float64) for name in ("W1", "b1", "W2", "b2"))
    X = np.load("configs/data/digits.npy").astype(np.float64)
    with jax.enable_x64(True):
        reference = np.asarray(
            jax.vmap(jax.jacfwd(lambda x: U @ jnp.tanh(W @ x + b) + c))(jnp.asarray(X.T))
        )
    with xr.open_zarr(digits, consolidated=False) as ds:
        T = ds.jacobian
        assert T.dims == ("column", "output", "input")
        assert T.shape == (1797, 10, 64)
        assert T.dtype == np.float32
        # Relative to each block's largest entry
        scale = np.abs(reference).max(axis=(1, 2), keepdims=True)
        assert (np.abs(T.values - reference) / scale).max() < 1e-5
        np.testing.assert_allclose(ds.norm, np.linalg.norm(reference, axis=(1, 2)), rtol=1e-5)
        np.testing.assert_allclose(ds["mean"], reference.mean(axis=0), rtol=1e-4, atol=1e-6)
        Y = U @ np.tanh(W @ X + b[:, None]) + c[:, None]
        np.testing.assert_allclose(ds.value, Y.T, rtol=1e-4, atol=1e-5)


def test_digits_outputs_are_those_of_a_trained_network(digits: Path) -> None:
    from sklearn.datasets import load_digits  # noqa: PLC0415 (slow, and needed here alone)

    images, labels = load_digits(return_X_y=True)
    np.testing.assert_allclose(np.load("configs/data/digits.npy"), images.T / 16, atol=1e-7)
    assert (cn.open(digits).value.argmax("output") == labels).mean() > 0.97


def test_patches_are_made_and_run(tmp_path: Path) -> None:
    """Every 101st patch: the whole of them takes a minute."""
    made = tmp_path / "patches.zarr"
    subprocess.run(
        [sys.executable, "configs/make_patches.py", "--every", "101", "--out", made],
        check=True,
        capture_output=True,
    )
    X = zarr.open_array(made, mode="r")
    assert X.shape == (64, 5265)
    finished = cn.run(
        "configs/patches.yaml", [f"input.path={made}", f"output.path={tmp_path / 'out.zarr'}"]
    )
    ds = cn.open(finished.store)
    assert set(ds) >= {"value", "norm", "mean"}
    assert "jacobian" not in ds
    network = cn.Network.load(
        "configs/data/patches-network.safetensors",
        "relu",
        load_job("configs/patches.yaml").network.names,  # type: ignore[union-attr]
    )
    T = cn.jacobian(network, np.asarray(X[:]), dtype=np.float64)
    np.testing.assert_allclose(ds["mean"], T.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ds.norm, np.linalg.norm(T, axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_jobs_are_valid(path: Path) -> None:
    load_job(path)


def yaml_blocks(text: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)


def test_the_readmes_job_file_shows_every_key() -> None:
    """Commented keys count: uncommented, the file is valid and names all there is."""
    block = next(b for b in yaml_blocks(README) if "network:" in b)
    load_job(yaml.safe_load(block))
    whole = yaml.safe_load(re.sub(r"(?m)^(\s*)# (?=\w+:)", r"\1", block))
    # Which two do not go together
    alone = {key: value for key, value in whole["input"].items() if key != "orientation"}
    job = load_job(whole | {"input": alone})
    for section in Job.model_fields:
        fields = type(getattr(job, section)).model_fields
        assert set(whole[section]) == set(fields), section


def test_the_readmes_clusters_are_valid() -> None:
    """Each with the job file's other sections: no other word changes with the cluster."""
    whole, *others = (yaml.safe_load(block) for block in yaml_blocks(README))
    kinds = [load_job(whole | block).cluster.kind for block in others if "cluster" in block]
    assert kinds == ["address", "slurm", "ssh", "kubernetes", "gateway"]


def _make_climate(folder: Path) -> None:
    """Columns that are stacked of three dimensions, and their store."""
    shape = {"time": 3, "lev": N, "lat": 2, "lon": 5}
    coordinates = {name: np.arange(size) for name, size in shape.items()}
    T = make_columns(N, 30).reshape(N, 3, 2, 5).transpose(1, 0, 2, 3)
    X = xr.Dataset({"T": (tuple(shape), T)}, coordinates)
    X.to_zarr(folder / "climate.zarr", zarr_format=3, consolidated=False)
    save_network(folder / "climate.npz", make_network())
    cn.run(
        {
            "network": {"weights": str(folder / "climate.npz"), "activation": "tanh"},
            "input": {
                "path": str(folder / "climate.zarr"), "array": "T", "features_dim": "lev",
                "column_dims": ["time", "lat", "lon"],
            },
            "output": {"path": str(folder / "out/climate.zarr"), "products": ["norm"]},
            "cluster": {"workers": 1},
        }
    )  # fmt: skip


def test_the_readmes_python_runs(digits: Path, tmp_path: Path) -> None:
    """Each block in the README, as it stands, where the demo's store is at its place."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "digits.zarr").symlink_to(digits)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    factored = ["output.layout=factored", f"output.path={tmp_path / 'factored.zarr'}"]
    cn.run(ROOT / "configs" / "digits.yaml", factored)
    _make_climate(tmp_path)
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stderr}"
