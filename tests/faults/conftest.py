"""How many faults, from which seeds; and what the fault suite's tests share.

`FAULTS` is the part of the whole suite that runs: 1 is all of it, the default, 0, one round of each
kind at most. `SEED` is the first seed: what went wrong in a test, `SEED=… pytest tests/faults -k …`
does again.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.cluster import Cluster
from faults.lab import Disk, Lab, Truth, make_truth

PART = float(os.environ.get("FAULTS", "0"))
SEED = int(os.environ.get("SEED", "0"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "rounds(n, quick=1): seeds that the whole fault suite tries, and its quick part"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("rounds")
        assert marker is not None
        rounds = math.ceil(PART * marker.args[0])
        rounds = max(marker.kwargs.get("quick", 1), rounds)
        metafunc.parametrize("seed", range(SEED, SEED + rounds))


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """The job's files, and what an undisturbed run makes of them."""
    return make_truth(tmp_path_factory.mktemp("truth"))


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    """Two workers with their nannies and a scheduler, all in good health, kept for all tests."""
    _cluster.heal()
    return _cluster


@pytest.fixture
def local(tmp_path: Path, truth: Truth, seed: int) -> Iterator[Lab]:
    """A job of which each run starts its own cluster."""
    with Lab(tmp_path, truth, seed) as lab:
        yield lab


@pytest.fixture
def lab(tmp_path: Path, truth: Truth, seed: int, cluster: Cluster) -> Iterator[Lab]:
    """A job on the cluster that is kept."""
    with Lab(tmp_path, truth, seed, cluster) as lab:
        yield lab


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    """A disk of 16 MiB, which goes with the namespace that it is mounted in."""
    place = tmp_path_factory.mktemp("disk")
    for options in (["-m"], ["-U", "-r", "-m"]):
        holder = subprocess.Popen(
            ["unshare", *options, "sh", "-c",
             'mount -t tmpfs -o size=16M none "$0" && echo mounted && exec cat', str(place)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        with holder:
            assert holder.stdout is not None
            if holder.stdout.readline() == "mounted\n":
                user = ["-U", "--preserve-credentials"] if "-U" in options else []
                prefix = ["nsenter", "-t", str(holder.pid), *user, "-m", "--"]
                yield Disk(prefix, place, Path(f"/proc/{holder.pid}/root{place}"))
                holder.kill()
                return
    pytest.skip("no disk to fill: this user may not mount a tmpfs, not even in a namespace")
