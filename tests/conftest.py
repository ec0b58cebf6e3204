"""What the tests share: small networks of prime sizes, their files, and jobs on them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, settings

import colonnade as cn
import slurm as slurms
from colonnade import Network
from colonnade.signals.stopping import SIGNALS
from support import (
    BAD_INPUTS,
    SURVIVED,
    TRIED,
    N,
    Q,
    bits,
    make_columns,
    make_network,
    needs,
    save_network,
)

settings.register_profile(
    "default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")

LOCAL = {"kind": "local", "workers": 2}


def pytest_configure(config: pytest.Config) -> None:
    # A signal that is ignored here, under nohup, say, would be ignored by all that is started
    for signum in SIGNALS:
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    config.addinivalue_line("markers", "shared_cluster: jobs run on a cluster kept for all tests")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what one of several processes has counted over to the one that tells it."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["bad_inputs"] = (sorted(BAD_INPUTS.refused), BAD_INPUTS.tracebacks)
        output["faults"] = (dict(TRIED), dict(SURVIVED))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", {})
    refused, tracebacks = output.get("bad_inputs", ((), 0))
    BAD_INPUTS.refused |= {*refused}
    BAD_INPUTS.tracebacks += tracebacks
    tried, survived = output.get("faults", ({}, {}))
    TRIED.update(tried)
    SURVIVED.update(survived)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if BAD_INPUTS.refused or BAD_INPUTS.tracebacks:
        tried, tracebacks = len(BAD_INPUTS.refused), BAD_INPUTS.tracebacks
        terminalreporter.write_line(f"bad inputs tried: {tried:,}, tracebacks: {tracebacks}")
    if not TRIED:
        return
    terminalreporter.section("faults survived, of those tried")
    for kind in sorted(TRIED):
        terminalreporter.write_line(f"{SURVIVED[kind]:5} of {TRIED[kind]:5}  {kind}")
    total = f"{SURVIVED.total():5} of {TRIED.total():5}  in all, of {len(TRIED)} kinds"
    terminalreporter.write_line(total)


@pytest.fixture
def network() -> Network:
    return make_network()


@pytest.fixture
def X() -> np.ndarray:  # noqa: N802 (the letter of the mathematics)
    return make_columns()


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[dict[str, Any]]:
    """The settings of a cluster of two workers that is kept for all tests: none waits for it."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield {"kind": "address", "address": cluster.scheduler_address, "workers": 2}


@pytest.fixture
def job(
    tmp_path: Path, network: Network, X: np.ndarray, request: pytest.FixtureRequest
) -> Callable[..., dict[str, Any]]:
    """A job on the small network, its files in place; sections are updated by keyword.

    It runs on a cluster of its own, or, in files marked so, on the shared one.
    """
    shared = request.node.get_closest_marker("shared_cluster") is not None
    cluster = request.getfixturevalue("shared_cluster") if shared else LOCAL
    return make_jobs(tmp_path, network, X, cluster)


@pytest.fixture(scope="session")
def local_bits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What that job's store holds on a local cluster: so must any other's, bit by bit."""
    folder = tmp_path_factory.mktemp("local")
    document = make_jobs(folder, make_network(), make_columns(), LOCAL)()
    return bits(cn.run(document).store)


def make_jobs(
    folder: Path, network: Network, X: np.ndarray, cluster: dict[str, Any]
) -> Callable[..., dict[str, Any]]:
    save_network(folder / "network.npz", network)
    np.save(folder / "X.npy", X)

    def make(**sections: dict[str, Any]) -> dict[str, Any]:
        document: dict[str, Any] = {
            "network": {"weights": str(folder / "network.npz"), "activation": "tanh"},
            "input": {"path": str(folder / "X.npy")},
            "output": {
                "path": str(folder / "out.zarr"),
                # 13 columns a block, 8 blocks, the last of them partial
                "block_size": 13 * Q * N * 4,
                "products": ["jacobian", "value", "norm", "mean"],
            },
            "cluster": {**(LOCAL if "kind" in sections.get("cluster", {}) else cluster)},
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


@pytest.fixture(scope="session")
def slurm() -> Iterator[slurms.Slurm]:
    """A Slurm of two nodes with two cores each, to which Slurm's commands lead."""
    for program in slurms.PROGRAMS:
        needs(program, "apt-get install slurm-wlm munge")
    with slurms.running() as found:
        yield found
