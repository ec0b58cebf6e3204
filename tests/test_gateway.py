"""Runs on a cluster that a real Dask Gateway starts."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

import colonnade as cn
from colonnade.errors import ClusterError
from support import bits

PASSWORD = "test-password-never-told"  # noqa: S105 (nobody's)
DASK = [sys.executable, "-m", "dask"]

CONF = """\
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.SimpleAuthenticator.password = {password!r}
c.DaskGateway.address = "127.0.0.1:0"
c.Proxy.address = "127.0.0.1:{port}"
c.UnsafeLocalBackend.clusters_directory = {clusters!r}
c.UnsafeLocalBackend.inherited_environment = ["PATH", "PYTHONPATH"]
c.ClusterConfig.scheduler_cmd = {dask!r} + ["scheduler"]
c.ClusterConfig.worker_cmd = {dask!r} + ["worker"]
from dask_gateway_server.options import Integer, Options
c.Backend.cluster_options = Options(Integer("worker_cores", default=2))
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway that starts clusters on this machine: its address."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "clusters").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "conf.py").write_text(
        CONF.format(
            password=PASSWORD, port=port, clusters=str(folder / "clusters"), dask=DASK
        )
    )  # fmt: skip
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask_gateway_server", "-f", folder / "conf.py"],
            stdout=output, stderr=output, cwd=folder,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while b"200 GET /api/v1/routes" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the gateway does not start: " + log.read_text()[-2000:])
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(autouse=True, scope="module")
def _defaults() -> None:
    # Its defaults would go with what `dask.config.set` takes back, were it imported within
    pytest.importorskip("dask_gateway")


def test_the_same_job_as_on_this_machine(job, gateway: str, tmp_path: Path, local_bits) -> None:
    """The password is the environment's, by way of Dask's configuration."""
    events: list[object] = []
    cluster = {
        "kind": "gateway", "address": gateway, "auth": "basic", "workers": 2,
        "options": {"worker_cores": 1},
    }  # fmt: skip
    with dask.config.set({"gateway.auth.kwargs.password": PASSWORD}):
        assert cn.run(job() | {"cluster": cluster}, listener=events.append).state == "complete"
    assert bits(tmp_path / "out.zarr") == local_bits
    assert PASSWORD not in str(events)
    assert PASSWORD.encode() not in (tmp_path / "out.zarr/zarr.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "401|Unauthorized"),
        ({"options": {"cores": 1}}, "cores"),
        ({"address": "http://127.0.0.1:1"}, "Cannot connect"),
    ],
    ids=["no password", "no such option", "no gateway"],
)
def test_a_gateway_that_refuses(job, gateway: str, changes, told: str) -> None:
    password = PASSWORD if "options" in changes else None
    cluster = {"kind": "gateway", "address": gateway, "auth": "basic"} | changes
    with (
        dask.config.set({"gateway.auth.kwargs.password": password}),
        pytest.raises(ClusterError, match=rf"no cluster from http://127.*({told})") as caught,
    ):
        cn.run(job() | {"cluster": cluster})
    assert caught.value.exit_status == 2
