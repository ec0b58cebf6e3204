"""Runs whose workers are on hosts that a real sshd leads to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

import colonnade as cn
import sshd
from colonnade.errors import ClusterError
from support import bits, needs
from test_cli import colonnade


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    needs(sshd.SSHD, "apt-get install openssh-server")
    with sshd.serving(tmp_path_factory.mktemp("sshd")) as found:
        yield found


def test_the_same_job_as_on_this_machine(
    job, server: sshd.Sshd, tmp_path: Path, local_bits
) -> None:
    """Two hosts, two workers each; only the section `cluster` is another one."""
    cluster = server.settings | {
        "hosts": [sshd.HOST, sshd.HOST], "workers_per_host": 2, "interface": "lo",
        "local_directory": str(tmp_path / "scratch"), "memory_per_worker": "1 GiB",
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job() | {"cluster": cluster}))
    done = colonnade("run", tmp_path / "job.yaml")
    assert done.returncode == 0, done.stderr
    assert "ssh cluster: 4 workers, 4 threads in all" in done.stderr
    assert bits(tmp_path / "out.zarr") == local_bits
    left = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path / "scratch") in str(p.info)]
    psutil.wait_procs(left, timeout=30)
    assert not any(process.is_running() for process in left)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"client_keys": ["others"]}, "Permission denied"),
        ({"known_hosts": "no_hosts"}, "Host key is not trusted"),
        ({"known_hosts": "nowhere"}, "nowhere"),
        ({"port": 1}, "Connect call failed|refused"),
        ({"python": "/no/python"}, "failed to start"),
    ],
    ids=str,
)
def test_hosts_that_refuse(job, server: sshd.Sshd, tmp_path: Path, changes, told: str) -> None:
    placed = {
        key: [str(server.folder / path) for path in value] if key == "client_keys" else
        str(server.folder / value) if key == "known_hosts" else value
        for key, value in changes.items()
    }  # fmt: skip
    with pytest.raises(
        ClusterError, match=rf"no cluster by ssh on 127\.0\.0\.1.*({told})"
    ) as caught:
        cn.run(job() | {"cluster": server.settings | placed})
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()
