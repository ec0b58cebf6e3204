"""Hosts of their own, in network and mount namespaces: cut off, or without the store's disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

import colonnade as cn
import sshd
from colonnade.errors import ClusterError, IncompleteError
from support import bits, needs
from test_disturbed import DISTURB, Processes, begun, processes, wait_for

__all__ = ["processes"]
PYTHON = [sys.executable, "-m"]
# A worker that loses its scheduler ends; whatever looks after a host starts it again
LOOP = 'while :; do "$@"; sleep 0.5; done'
QUICK = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class Network:
    """Hosts on one switch, each in a namespace of its own."""

    def __init__(self) -> None:
        self._name = f"t{uuid.uuid4().hex[:6]}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._hosts: dict[str, str] = {}
        ip("netns", "add", self._name)
        ip("-n", self._name, "link", "add", "br0", "type", "bridge")
        ip("-n", self._name, "link", "set", "br0", "up")

    def add(self, host: str) -> str:
        """Plug a host in; return its address."""
        number = len(self._hosts) + 1
        space, address = f"{self._name}-{host}", f"10.77.0.{number}"
        ip("netns", "add", space)
        ip("link", "add", f"h{number}", "netns", space, "type", "veth", "peer", "name",
           f"s{number}", "netns", self._name)  # fmt: skip
        ip("-n", space, "link", "set", f"h{number}", "name", "eth0")
        ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            ip("-n", space, "link", "set", device, "up")
        ip("-n", self._name, "link", "set", f"s{number}", "master", "br0")
        ip("-n", self._name, "link", "set", f"s{number}", "up")
        self._hosts[host] = f"s{number}"
        return address

    def cut(self, host: str) -> None:
        """Pull a host's plug."""
        ip("-n", self._name, "link", "set", self._hosts[host], "down")

    def plug_in(self, host: str) -> None:
        ip("-n", self._name, "link", "set", self._hosts[host], "up")

    def processes(self, host: str) -> set[int]:
        told = subprocess.run(
            ["ip", "netns", "pids", f"{self._name}-{host}"], capture_output=True, check=True
        )
        return {int(pid) for pid in told.stdout.split()}

    def start(self, host: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["ip", "netns", "exec", f"{self._name}-{host}", *command],
            env=os.environ | QUICK | environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def close(self) -> None:
        # Sessions of sshd are in groups of their own
        for pid in {pid for host in self._hosts for pid in self.processes(host)}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        for host in self._hosts:
            ip("netns", "del", f"{self._name}-{host}")
        ip("netns", "del", self._name)


@pytest.fixture
def network_of_hosts() -> Iterator[Network]:
    needs("ip", "apt-get install iproute2")
    _needs_root()
    network = Network()
    try:
        yield network
    finally:
        network.close()


def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes namespaces; to include this: run the tests as root")


def test_a_host_that_is_cut_off(job, network_of_hosts: Network, tmp_path: Path, local_bits) -> None:
    """In the middle of its block: another host computes it, and the run ends well."""
    hosts = network_of_hosts
    preload = tmp_path / "disturb.py"
    preload.write_text(DISTURB)
    (tmp_path / "wait").touch()
    at = {host: hosts.add(host) for host in ("scheduler", "one", "two", "client")}
    scheduler = f"tcp://{at['scheduler']}:8786"
    hosts.start(
        "scheduler", *PYTHON, "distributed.cli.dask_scheduler", "--host", at["scheduler"],
        "--no-dashboard",
    )  # fmt: skip
    for host in ("one", "two"):
        hosts.start(
            host, "sh", "-c", LOOP, host, *PYTHON, "distributed.cli.dask_worker", scheduler,
            "--host", at[host], "--nthreads", "1", "--no-dashboard", "--preload", str(preload),
            "--local-directory", str(tmp_path / host),
        )  # fmt: skip
    cluster = {"kind": "address", "address": scheduler, "workers": 2}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job() | {"cluster": cluster}))
    run = hosts.start("client", *PYTHON, "colonnade", "run", str(tmp_path / "job.yaml"))
    wait_for(lambda: len(begun(tmp_path)) == 2 or run.poll() is not None)
    hosts.cut("one")
    (tmp_path / "wait").unlink()
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said.decode()
    assert bits(tmp_path / "out.zarr") == local_bits


def test_a_host_that_is_cut_off_comes_back(
    job, network_of_hosts: Network, tmp_path: Path, local_bits
) -> None:
    """By ssh: its workers are started again, and one that stays away does not stop the run."""
    needs(sshd.SSHD, "apt-get install openssh-server")
    hosts = network_of_hosts
    preload = tmp_path / "disturb.py"
    preload.write_text(DISTURB)
    (tmp_path / "wait").touch()
    at = {host: hosts.add(host) for host in ("scheduler", "one", "two", "client")}
    (tmp_path / "ssh").mkdir()
    reached = sshd.prepare(tmp_path / "ssh", [at[host] for host in ("scheduler", "one", "two")])
    for host in ("scheduler", "one", "two"):
        process = hosts.start(host, *sshd.command(reached, at[host]))
        sshd.wait_until_it_listens(reached, process, at[host])
    cluster = reached.settings | {
        "scheduler": at["scheduler"], "hosts": [at["one"], at["two"]], "interface": "eth0",
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job() | {"cluster": cluster}))
    run = hosts.start(
        "client", *PYTHON, "colonnade", "run", str(tmp_path / "job.yaml"),
        DASK_DISTRIBUTED__WORKER__PRELOAD=str(preload),
    )  # fmt: skip
    wait_for(lambda: len(begun(tmp_path)) == 2 or run.poll() is not None)
    before = hosts.processes("one")
    hosts.cut("one")
    # The scheduler gives its block to nobody yet: the other host stands still
    wait_for(lambda: not before & nannies(hosts, "one"))
    hosts.plug_in("one")
    wait_for(lambda: nannies(hosts, "one") - before)
    hosts.cut("two")
    (tmp_path / "wait").unlink()
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said.decode()
    assert bits(tmp_path / "out.zarr") == local_bits


def nannies(hosts: Network, host: str) -> set[int]:
    """Processes that look after workers there."""
    found = set()
    for pid in hosts.processes(host):
        # It may end meanwhile
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if "python" in process.name() and process.children():
                found.add(pid)
    return found


# Workers that are not what the client is, or do not reach what it does

OTHER = """
from colonnade import versions
versions.versions = lambda real=versions.versions: {**real(), "numpy": "1.0.7"}
from colonnade.running import worker
worker.versions = versions.versions
"""


def test_a_worker_of_other_versions(job, processes: Processes, tmp_path: Path) -> None:
    """It is found before anything is made, and named."""
    processes.add_worker()
    processes.preload.write_text(OTHER)
    processes.add_worker()
    cluster = {"kind": "address", "address": processes.address, "workers": 2}
    told = (
        r"the worker tcp://127\.0\.0\.1:\d+ on \S+ has numpy 1\.0\.7 instead of \d+\.\d+\.\d+\. "
        "Install on the workers what the client has"
    )
    with pytest.raises(ClusterError, match=told) as caught:
        cn.run(job() | {"cluster": cluster})
    assert caught.value.exit_status == 2
    assert not (tmp_path / "out.zarr").exists()


def test_a_worker_without_colonnade(job, processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    absent = "import sys; sys.modules['colonnade'] = None"
    (tmp_path / "without" / "sitecustomize.py").write_text(absent)
    worker = subprocess.Popen(
        [*PYTHON, "distributed.cli.dask_worker", processes.address, "--no-nanny", "--no-dashboard"],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "without")}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    cluster = {"kind": "address", "address": processes.address}
    try:
        with pytest.raises(ClusterError, match=r"the worker tcp\S+ has no colonnade of this ver"):
            cn.run(job() | {"cluster": cluster})
    finally:
        worker.kill()
        worker.wait()


def test_a_worker_of_other_versions_that_joins(job, processes: Processes, tmp_path: Path) -> None:
    """It writes nothing, and the run ends."""
    processes.add_worker()
    (tmp_path / "wait").touch()

    def join() -> None:
        wait_for(lambda: begun(tmp_path))
        processes.preload.write_text(OTHER)
        processes.add_worker()

    joining = threading.Thread(target=join)
    joining.start()
    cluster = {"kind": "address", "address": processes.address}
    try:
        with pytest.raises(IncompleteError, match=r"which joined during the run, has numpy 1\.0"):
            cn.run(job() | {"cluster": cluster})
    finally:
        joining.join()
        (tmp_path / "wait").unlink()
    assert begun(tmp_path) == {0}


@pytest.mark.parametrize(
    ("mount", "told"),
    [
        ("mount -t tmpfs none {}", "there is no store"),
        ("mount --bind {0} {0} && mount -o remount,bind,ro {0}", "Read-only file system"),
    ],
    ids=["another disk", "read-only"],
)
def test_a_worker_that_does_not_reach_the_store(
    job, processes: Processes, tmp_path: Path, mount: str, told: str
) -> None:
    needs("unshare", "apt-get install util-linux")
    _needs_root()
    out = tmp_path / "out"
    out.mkdir()
    processes.add_worker()
    worker = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f'{mount.format(out)} && exec "$@"', "sh", *PYTHON,
         "distributed.cli.dask_worker", processes.address, "--no-nanny", "--no-dashboard"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    cluster = {"kind": "address", "address": processes.address, "workers": 2}
    try:
        with pytest.raises(
            IncompleteError, match=rf"the worker tcp\S+ does not reach the store and X: .*{told}"
        ):
            cn.run(job(output={"path": str(out / "x.zarr")}) | {"cluster": cluster})
    finally:
        worker.kill()
        worker.wait()
    # On the worker that does reach it
    assert cn.run(job(output={"path": str(out / "x.zarr")}) | {"cluster": cluster | {"workers": 1}})
