"""What the tests share: small networks of prime sizes, their files, and jobs on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, settings

from colonnade import Network
from support import BAD_INPUTS, N, Q, make_columns, make_network, save_network

settings.register_profile(
    "default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if BAD_INPUTS.refused or BAD_INPUTS.tracebacks:
        tried, tracebacks = len(BAD_INPUTS.refused), BAD_INPUTS.tracebacks
        terminalreporter.write_line(f"bad inputs tried: {tried:,}, tracebacks: {tracebacks}")


@pytest.fixture
def network() -> Network:
    return make_network()


@pytest.fixture
def X() -> np.ndarray:  # noqa: N802 (the letter of the mathematics)
    return make_columns()


@pytest.fixture
def job(tmp_path: Path, network: Network, X: np.ndarray) -> Callable[..., dict[str, Any]]:
    """A job on the small network, its files in place; sections are updated by keyword."""
    save_network(tmp_path / "network.npz", network)
    np.save(tmp_path / "X.npy", X)

    def make(**sections: dict[str, Any]) -> dict[str, Any]:
        document: dict[str, Any] = {
            "network": {"weights": str(tmp_path / "network.npz"), "activation": "tanh"},
            "input": {"path": str(tmp_path / "X.npy")},
            "output": {
                "path": str(tmp_path / "out.zarr"),
                # 13 columns a block, 8 blocks, the last of them partial
                "block_size": 13 * Q * N * 4,
                "products": ["jacobian", "value", "norm", "mean"],
            },
            "cluster": {"kind": "local", "workers": 2},
        }
        for section, changes in sections.items():
            document[section] = {**document[section], **changes}
        return document

    return make


@pytest.fixture
def job_file(tmp_path: Path, job: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    def make(**sections: dict[str, Any]) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(job(**sections)))
        return path

    return make


@pytest.fixture(scope="session")
def torch_files(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    """A folder of torch's files, and what torch says of each: X, Y and J."""
    folder = tmp_path_factory.mktemp("torch")
    told: dict[str, dict[str, np.ndarray]] = {}
    with np.load(Path(__file__).parent / "data" / "torch-networks.npz") as archive:
        for key in archive.files:
            name, _, what = key.rpartition("/")
            told.setdefault(name, {})[what] = archive[key]
    for name, arrays in told.items():
        (folder / name).write_bytes(arrays.pop("file").tobytes())
    return folder, told
