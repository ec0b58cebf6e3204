"""Runs whose workers are on hosts that a real sshd leads to."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import colonnade as cn
import sshd
from attacker import Listening, attack, family, listening
from colonnade.clusters import ssh
from colonnade.errors import ClusterError
from colonnade.job.file import load_job
from held import held
from support import bits, needs, needs_root
from test_cli import COLONNADE, colonnade
from test_disturbed import DISTURB, begun, wait_for
from test_security import certify

SECRET = "hunter2-correct-horse"  # noqa: S105 (nobody's)


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
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"client_keys": ["others"]}, "Permission denied"),
        ({"known_hosts": "no_hosts"}, "Host key is not trusted"),
        ({"known_hosts": "nowhere"}, "nowhere"),
        ({"port": 1}, "Connect call failed|refused"),
        ({"python": "/no/python"}, "/no/python failed to start: .*/no/python"),
        # It finds no packages
        (
            {"python": f"{sys.executable} -I -S"},
            r"-S, has no colonnade, .*install .* name another Python \(cluster\.python\)",
        ),
        # It never answers
        ({"python": "cat #", "timeout": 3}, r"does not start within 3 s \(cluster\.timeout\)"),
        ({"interface": "none0"}, "none0"),
        ({"local_directory": "/dev/null/x"}, r"\(cluster\.local_directory\)"),
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
    wait_for(lambda: not processes_of(server))


def test_one_of_two_hosts_refuses(job, server: sshd.Sshd, tmp_path: Path) -> None:
    """It is the one that is named."""
    cluster = server.settings | {"scheduler": sshd.HOST, "hosts": [sshd.HOST, "no-host.invalid"]}
    with pytest.raises(ClusterError, match=r"no cluster by ssh on no-host\.invalid"):
        cn.run(job() | {"cluster": cluster})
    assert not (tmp_path / "out.zarr").exists()


# A run in the middle of its blocks


def processes_of(server: sshd.Sshd) -> list[psutil.Process]:
    """Everything that sshd has started: processes of sessions, the Pythons and their workers."""
    return psutil.Process(server.pid).children(recursive=True)


def launched(server: sshd.Sshd) -> dict[int, psutil.Process]:
    """The processes that the launcher has started, by their numbers; not their workers."""
    found = {}
    for process in processes_of(server):
        # It may end meanwhile
        with suppress(psutil.NoSuchProcess):
            command = process.cmdline()
            if "colonnade.clusters.ssh_host" in " ".join(command) and "python" in command[0]:
                found[process.pid] = process
    return found


@contextmanager
def in_the_middle(
    folder: Path,
    document: dict[str, Any],
    look: Callable[[subprocess.Popen[str]], Any],
    code: str = DISTURB,
    **env: str,
) -> Iterator[subprocess.Popen[str]]:
    """Let a run stand still in its first blocks, having looked at it since its start."""
    (folder / "wait").touch()
    (folder / "disturb.py").write_text(code)
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    # To the workers this comes as a part of Dask's configuration
    env["DASK_DISTRIBUTED__WORKER__PRELOAD"] = str(folder / "disturb.py")
    run = subprocess.Popen(
        [*COLONNADE, "run", str(folder / "job.yaml")],
        env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while not begun(folder):
            assert run.poll() is None, run.communicate()
            look(run)
        yield run
    finally:
        (folder / "wait").unlink(missing_ok=True)
        run.kill()
        run.communicate()


def nothing(run: subprocess.Popen[str]) -> None:
    del run


def unfolded(text: bytes) -> bytes:
    """Return a text, and what parts of it are in base64."""
    parts = re.findall(rb"[\w+/-]{40,}", text)
    return text + b"".join(base64.urlsafe_b64decode(part[: len(part) // 4 * 4]) for part in parts)


def test_nothing_secret_is_on_a_command_line(job, server: sshd.Sshd, tmp_path: Path) -> None:
    """Nor in an environment; and yet Dask's configuration comes to the workers."""
    (tmp_path / "dask.yaml").write_text(
        yaml.safe_dump({
            "gateway": {"auth": {"kwargs": {"password": SECRET}}},
            "distributed": {"marker": SECRET},
        })
    )  # fmt: skip
    seen: set[int] = set()

    def look(run: subprocess.Popen[str]) -> None:
        me = psutil.Process(run.pid)
        for process in (me, *me.children(recursive=True), *processes_of(server)):
            seen.add(process.pid)
            for file in ("cmdline", "environ"):
                with suppress(OSError):
                    text = unfolded(Path(f"/proc/{process.pid}/{file}").read_bytes())
                    assert SECRET.encode() not in text
                    assert b"PRIVATE KEY" not in text

    document = job() | {"cluster": server.settings}
    with in_the_middle(tmp_path, document, look, DASK_CONFIG=str(tmp_path / "dask.yaml")) as run:
        look(run)
        # The run, two sessions of sshd, a scheduler, a nanny and its worker
        assert len(seen) >= 6
        (tmp_path / "wait").unlink()
        said = run.communicate()
    assert run.returncode == 0, said


def test_scratch_space_is_private(job, server: sshd.Sshd, tmp_path: Path) -> None:
    """Dask takes a directory of this name, whoever has made it."""
    scratch = tmp_path / "scratch"
    (scratch / "dask-scratch-space").mkdir(parents=True)
    (scratch / "dask-scratch-space").chmod(0o777)
    scratch.chmod(0o1777)
    cluster = server.settings | {"local_directory": str(scratch)}
    with in_the_middle(tmp_path, job() | {"cluster": cluster}, nothing) as run:
        made = set(scratch.iterdir()) - {scratch / "dask-scratch-space"}
        # The scheduler's, and the workers'
        assert len(made) == 2
        assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}
        assert any("worker" in path.name for each in made for path in each.rglob("*"))
        assert not list((scratch / "dask-scratch-space").iterdir())
        # OpenSSL reads certificates from files
        assert not list(scratch.rglob("dask.*"))
        (tmp_path / "wait").unlink()
        said = run.communicate()
        assert run.returncode == 0, said
    assert [path.name for path in scratch.iterdir()] == ["dask-scratch-space"]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_run_that_is_ended(
    job, server: sshd.Sshd, tmp_path: Path, signum: signal.Signals
) -> None:
    """Although a block still waits."""
    scratch = tmp_path / "scratch"
    cluster = server.settings | {
        "hosts": [sshd.HOST, sshd.HOST], "local_directory": str(scratch), "grace": 1,
    }  # fmt: skip
    with in_the_middle(tmp_path, job() | {"cluster": cluster}, nothing) as run:
        there = processes_of(server)
        assert len(launched(server)) == 3
        run.send_signal(signum)
        run.communicate()
        assert run.returncode == (-signum if signum == signal.SIGKILL else 128 + signum)
        _, alive = psutil.wait_procs(there, timeout=60)
        assert not alive
        assert not list(scratch.iterdir())


def test_lost_workers_are_started_again(job, server: sshd.Sshd, tmp_path: Path, local_bits) -> None:
    """With the process that looks after them, and with the connection to their host."""
    cluster = server.settings | {"hosts": [sshd.HOST, sshd.HOST]}
    with in_the_middle(tmp_path, job() | {"cluster": cluster}, nothing) as run:
        wait_for(lambda: len(begun(tmp_path)) == 2)
        before = launched(server)
        # Workers alone have children
        kept = [p for p in before.values() if p.children()]
        assert (len(before), len(kept)) == (3, 2)
        kept[0].kill()
        wait_for(lambda: len(launched(server)) == 3 and not kept[0].is_running())
        session = kept[1].parent()
        while "sshd" not in session.name():
            session = session.parent()
        session.kill()
        wait_for(lambda: not kept[1].is_running())
        wait_for(lambda: len(set(launched(server)) - set(before)) == 2)
        (tmp_path / "wait").unlink()
        said = run.communicate()
        assert run.returncode == 0, said
    assert bits(tmp_path / "out.zarr") == local_bits


# A worker that a file tells to leave, and its nanny with it
LEAVES = """
import threading
def dask_setup(worker):
    def watch():
        while not os.path.exists(f"{FOLDER}/leave-{os.getpid()}"):
            time.sleep(0.01)
        worker.loop.add_callback(worker.close, executor_wait=False)
    threading.Thread(target=watch, daemon=True).start()
"""


def test_a_worker_that_leaves_is_started_again(
    job, server: sshd.Sshd, tmp_path: Path, local_bits
) -> None:
    """By the process that looks after it, while that one's other worker goes on."""

    def workers() -> set[int]:
        (keeper,) = (p for p in launched(server).values() if len(p.children()) > 1)
        found = set()
        for process in keeper.children():
            # One that has ended, or is a zombie, is none
            with suppress(psutil.NoSuchProcess):
                if "spawn_main" in " ".join(process.cmdline()):
                    found.add(process.pid)
        return found

    cluster = server.settings | {"workers_per_host": 2}
    code = f"{DISTURB}\nFOLDER = {str(tmp_path)!r}\n{LEAVES}"
    with in_the_middle(tmp_path, job() | {"cluster": cluster}, nothing, code) as run:
        before, processes = workers(), set(launched(server))
        assert len(before) == 2
        leaver, other = sorted(before)
        (tmp_path / f"leave-{leaver}").touch()
        wait_for(lambda: len(workers() - {leaver}) == 2)
        assert other in workers()
        assert set(launched(server)) == processes
        (tmp_path / "wait").unlink()
        said = run.communicate()
        assert run.returncode == 0, said
    assert bits(tmp_path / "out.zarr") == local_bits


def test_a_host_that_refuses_is_left_in_peace(
    job, server: sshd.Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often workers are asked for, it is tried once, and then after a while."""
    monkeypatch.setattr(ssh, "_PAUSE", 1000.0)

    async def ask() -> tuple[int, str]:
        tried = 0

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal tried
            tried += 1
            del reader
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.2", server.port):
            changes = {"hosts": ["127.0.0.2"], "python": "python3"}
            settings = load_job(job() | {"cluster": server.settings | changes}).cluster
            hosts = ssh._Hosts(settings, None, None)
            with pytest.raises(ClusterError, match=r"no cluster by ssh on 127\.0\.0\.2"):
                await hosts.start_workers("tcp://127.0.0.1:1", time.monotonic() + 60)
            for _ in range(100):
                hosts._start_workers()
                await asyncio.sleep(0.001)
            told = hosts.trouble()
            await hosts.close()
        return tried, told

    tried, told = asyncio.run(ask())
    assert tried == 1
    assert re.fullmatch(r" The hosts say: 127\.0\.0\.2: .*[Cc]onnection .*\.", told)


# Sockets


def heard_of(run: subprocess.Popen[str], server: sshd.Sshd) -> Listening:
    """Where the processes of a run listen."""
    return listening([*family(run.pid), *processes_of(server)])


def on_loopback(server: sshd.Sshd) -> dict[str, Any]:
    """Where the attacker comes from."""
    return server.settings | {"interface": "lo"}


def dask_ports(heard: Listening) -> set[int]:
    """The ports that do not answer HTTP: a scheduler's, a nanny's and its worker's."""
    found = set(heard.ports) - {port for _, port in heard.http()}
    assert len(found) == 3
    return found


def test_no_other_user_runs_code(job, server: sshd.Sshd, tmp_path: Path) -> None:
    needs_root()
    with held(job() | {"cluster": on_loopback(server)}, tmp_path) as (run, _):
        assert dask_ports(heard := heard_of(run, server))
        assert attack(heard.ports) == set()


def test_without_security_every_process_is_open(job, server: sshd.Sshd, tmp_path: Path) -> None:
    """So the attack above is one."""
    needs_root()
    cluster = on_loopback(server) | {"security": "none"}
    with held(job() | {"cluster": cluster}, tmp_path) as (run, _):
        heard = heard_of(run, server)
        ran = attack(heard.ports)
        assert {int(name.split("-")[0]) for name in ran} == dask_ports(heard)
        assert {name.split("-")[1] for name in ran} == {"plain"}


def test_certificates_of_ones_own(job, server: sshd.Sshd, tmp_path: Path) -> None:
    """The hosts need not have the files: what they hold goes there."""
    needs("openssl", "apt-get install openssl")
    needs_root()
    security = certify(tmp_path, "mine")
    trusted = {name: Path(security[name]).read_text() for name in ("cert", "key")}
    cluster = on_loopback(server) | {"security": security}
    with held(job() | {"cluster": cluster}, tmp_path) as (run, _):
        for path in security.values():
            Path(path).unlink()
        heard = heard_of(run, server)
        ran = attack(heard.ports, trusted)
        assert {name.split("-")[1] for name in ran} == {"trusted"}
        assert {int(name.split("-")[0]) for name in ran} == dask_ports(heard)


@pytest.mark.parametrize("dashboard", [True, False])
def test_pages_are_served_on_loopback_or_not_at_all(
    job, server: sshd.Sshd, tmp_path: Path, dashboard: bool
) -> None:
    cluster = server.settings | {"dashboard": dashboard}
    with held(job() | {"cluster": cluster}, tmp_path) as (run, told):
        heard = heard_of(run, server)
        assert dask_ports(heard)
        pages = [f"http://{host}:{port}/status on 127.0.0.1" for host, port in heard.http()]
        assert pages == ([told] if dashboard else [])
        assert told.startswith("http://127.0.0.1:" if dashboard else "none")
