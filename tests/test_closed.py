"""What other users of the host can do to a run: nothing."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import colonnade as cn
from attacker import Listening, attack, family, listening
from colonnade.clusters import connection, kubernetes, local
from colonnade.clusters.private_directory import private_directory
from colonnade.errors import ClusterError
from colonnade.events import ClusterExposed, ClusterReady
from colonnade.progress import describe
from conftest import make_jobs
from held import held
from slurm import Slurm
from support import make_columns, make_network, needs, needs_root, refusal
from test_cli import colonnade
from test_disturbed import wait_for
from test_job import DEPLOYED
from test_security import certify

KINDS = ["local", "slurm"]
DEPLOY = Path(__file__).parents[1] / "deploy" / "kubernetes"


@dataclass(frozen=True)
class Place:
    """Where a run of some kind of cluster keeps its private directories, and its environment."""

    folder: Path
    kind: str

    def __post_init__(self) -> None:
        for directory in {self.temporary, self.scratch}:
            directory.mkdir()
            # Another user has been here before
            before = directory / "dask-scratch-space"
            before.mkdir()
            before.chmod(0o777)
            shutil.chown(before, "nobody")

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def scratch(self) -> Path:
        """Where workers keep their files."""
        return self.folder / "scratch" if self.kind == "slurm" else self.temporary

    @property
    def keys(self) -> Path:
        return self.folder / "cache" / "colonnade" if self.kind == "slurm" else self.temporary

    @property
    def environment(self) -> dict[str, str]:
        return {"TMPDIR": str(self.temporary), "XDG_CACHE_HOME": str(self.folder / "cache")}

    def private(self) -> list[Path]:
        """The private directories that there are."""
        folders = {self.temporary, self.scratch, self.keys}
        return sorted(path for folder in folders for path in folder.glob("colonnade-*"))

    def job(self, **cluster: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {"kind": self.kind, "workers": 2}
        if self.kind == "slurm":
            settings |= {
                "cores": 1, "memory": "1 GiB", "walltime": "00:10:00", "interface": "lo",
                "log_directory": str(self.folder / "logs"), "local_directory": str(self.scratch),
            }  # fmt: skip
        jobs = make_jobs(self.folder, make_network(), make_columns(), settings | cluster)
        return jobs() | {"cluster": settings | cluster}


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Place]]:
    """Make the place of a kind of cluster, and start what it needs."""
    needs_root()
    started: list[Slurm] = []

    def make(kind: str) -> Place:
        if kind == "slurm":
            started.append(request.getfixturevalue("slurm"))
        return Place(tmp_path, kind)

    yield make
    for slurm in started:
        slurm.cancel_all()


def processes(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """A run's own and its children, and those of its jobs in Slurm."""
    found = family(run.pid)
    for process in psutil.process_iter():
        # It may have gone, or be somebody's who lets nobody look
        with suppress(psutil.Error):
            environment = process.environ()
            here = environment.get("SLURM_CONF") == os.environ.get("SLURM_CONF", "")
            if here and "SLURM_JOB_ID" in environment:
                found.append(process)
    return found


def keys(place: Place) -> dict[str, str]:
    """The run's certificate and key."""
    (key,) = place.keys.glob("colonnade-*/key.pem")
    return {"key": key.read_text(), "cert": key.with_name("certificate.pem").read_text()}


def dask_ports(heard: Listening) -> set[int]:
    """The ports that do not answer HTTP: a scheduler's, two nannies', two workers'."""
    found = set(heard.ports) - {port for _, port in heard.http()}
    assert len(found) == 5
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_user_runs_code(place: Callable[[str], Place], kind: str) -> None:
    """With the run's own certificates the same attack gets into every process."""
    where = place(kind)
    with held(where.job(), where.folder, **where.environment) as (run, _):
        heard = listening(processes(run))
        ran = {"-".join(name.split("-")[:2]) for name in attack(heard.ports, keys(where))}
        assert ran == {f"{port}-trusted" for port in dask_ports(heard)}


@pytest.mark.parametrize("kind", KINDS)
def test_without_security_every_process_is_open(place: Callable[[str], Place], kind: str) -> None:
    """So the attack above is one."""
    where = place(kind)
    with held(where.job(security="none"), where.folder, **where.environment) as (run, _):
        heard = listening(processes(run))
        ran = attack(heard.ports)
        assert {int(name.split("-")[0]) for name in ran} == dask_ports(heard)
        assert {name.split("-")[1] for name in ran} == {"plain"}
        ways = {name.split("-", 2)[2] for name in ran}
        assert ways == {
            "submit", "run", "run_on_scheduler", "message-run", "message-run_function",
        }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_other_users_see(place: Callable[[str], Place], kind: str) -> None:
    """Of keys nothing, of scratch files nothing, and HTTP on loopback alone."""
    where = place(kind)
    with held(where.job(), where.folder, **where.environment) as (run, dashboard):
        found = processes(run)
        private = where.private()
        # A local run has one for all; in Slurm keys, scheduler and each worker have one each
        assert len(private) == (4 if kind == "slurm" else 1)
        for path in private:
            assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (os.getuid(), 0o700)
        (key,) = where.keys.glob("colonnade-*/key.pem")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in key.parent.glob("*.pem")}
        assert modes == {"key.pem": 0o600, "certificate.pem": 0o600}

        # What /proc shows, and what the queue keeps
        secrets = [line for line in key.read_text().splitlines() if len(line) > 20]
        assert secrets
        shown = [" ".join(process.cmdline()) for process in found]
        shown += [" ".join(process.environ().values()) for process in found]
        if kind == "slurm":
            for job_id in where_jobs():
                shown.append(subprocess.run(
                    ["scontrol", "write", "batch_script", job_id, "-"],
                    capture_output=True, text=True, check=True,
                ).stdout)  # fmt: skip
                assert "--tls-key" in shown[-1]
            shown += [path.read_text() for path in (where.folder / "logs").iterdir()]
        assert not [text for text in shown for secret in secrets if secret in text]

        # Files that Dask holds open below a scratch space lie in a private directory
        locks = {file for process in found for file in open_locks(process)}
        assert len(locks) == 3
        assert all(any(path in lock.parents for path in private) for lock in locks)
        for folder in (where.temporary, where.scratch):
            assert not list((folder / "dask-scratch-space").iterdir())

        http = listening(found).http()
        # The scheduler's and two workers'
        assert len(http) == 3
        assert {host for host, _ in http} == {"127.0.0.1"}
        assert dashboard in {f"http://127.0.0.1:{port}/status" for _, port in http}
    wait_for(lambda: not where.private())


def where_jobs() -> list[str]:
    done = subprocess.run(
        ["squeue", "--noheader", "--format=%i"], capture_output=True, text=True, check=True
    )
    found = done.stdout.split()
    assert len(found) == 2
    return found


def open_locks(process: psutil.Process) -> set[Path]:
    """Lock files of Dask's that a process has open."""
    names = (Path(file.path) for file in process.open_files())
    return {path for path in names if path.suffix == ".dirlock"}


@pytest.mark.parametrize("kind", KINDS)
def test_no_dashboard_no_http(place: Callable[[str], Place], kind: str) -> None:
    where = place(kind)
    document = where.job(dashboard=False)
    with held(document, where.folder, **where.environment) as (run, dashboard):
        heard = listening(processes(run))
        assert len(heard.addresses) == len(dask_ports(heard)) == 5
        assert dashboard == "none"


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_run_removes_what_a_killed_one_left(
    place: Callable[[str], Place], kind: str
) -> None:
    """And leaves those alone that live."""
    where = place(kind)
    jobs = [where.job(workers=1) for _ in range(3)]
    for number, document in enumerate(jobs):
        document["output"] |= {"path": str(where.folder / f"{number}.zarr")}
    with held(jobs[0], where.folder, **where.environment) as (_, _):
        of_living = set(where.private())
        with held(jobs[1], where.folder, **where.environment) as (killed, _):
            left = {path for path in where.private() if f"-{killed.pid}-" in path.name}
            assert {path.parent for path in left} == {where.temporary, where.keys}
            killed.send_signal(signal.SIGKILL)
            killed.wait()
        assert left <= set(where.private())
        (where.folder / "job.yaml").write_text(yaml.safe_dump(jobs[2]))
        done = colonnade("run", where.folder / "job.yaml", env=os.environ | where.environment)
        assert done.returncode == 0, done.stderr
        assert not left & set(where.private())
        assert of_living <= set(where.private())


def test_whose_directories_are_leftovers(tmp_path: Path) -> None:
    """Those of this host, or of another boot of it, whose process has gone."""
    with private_directory(tmp_path, "TMPDIR") as mine:
        host, boot, namespace, pid, started, made = re.fullmatch(
            r"colonnade-(\w{8})-(\w{8})-(\d+)-(\d+)-(\d+)-(\w{8})", mine.name
        ).groups()  # type: ignore[union-attr]
        assert (int(pid), int(started) > 0) == (os.getpid(), True)
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        other = "0" * 8
        dead = [
            (host, boot, namespace, gone.pid, started, made),
            # The process has another's number
            (host, boot, namespace, pid, int(started) + 1, made),
            (host, other, namespace, pid, started, made),
        ]
        # A host of the same name, which shares the file system
        living = (host, other, namespace, pid, started, "bbbbbbbb")
        kept = [
            living,
            # It cannot be locked
            (host, other, namespace, pid, started, "cccccccc"),
            (other, boot, namespace, gone.pid, started, made),
            (host, boot, int(namespace) + 1, gone.pid, started, made),
            (host, boot, namespace, pid, started, "aaaaaaaa"),
            (host, boot, namespace, gone.pid, started, "mine"),
        ]
        for parts in (*dead, *kept):
            (tmp_path / f"colonnade-{'-'.join(map(str, parts))}").mkdir()
        for parts in (dead[-1], living):
            (tmp_path / f"colonnade-{'-'.join(map(str, parts))}" / "lock").touch()
        held = (tmp_path / f"colonnade-{'-'.join(map(str, living))}" / "lock").open()
        fcntl.flock(held, fcntl.LOCK_EX)
        with held, private_directory(tmp_path, "TMPDIR"):
            pass
        found = {path.name for path in tmp_path.iterdir()} - {mine.name}
        assert found == {f"colonnade-{'-'.join(map(str, parts))}" for parts in kept}


def test_what_looks_like_a_leftover_and_is_another_users(tmp_path: Path) -> None:
    needs_root()
    with private_directory(tmp_path, "TMPDIR") as mine:
        name = mine.name
    (tmp_path / name.replace(f"-{os.getpid()}-", "-4194305-")).mkdir()
    (theirs,) = tmp_path.iterdir()
    shutil.chown(theirs, "nobody")
    valued = tmp_path / "valued"
    valued.mkdir()
    (tmp_path / name.replace(f"-{os.getpid()}-", "-4194306-")).symlink_to(valued)
    with private_directory(tmp_path, "TMPDIR"):
        pass
    assert theirs.exists()
    assert valued.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_where_anyone_may_rename(place: Callable[[str], Place], kind: str) -> None:
    where = place(kind)
    folder = where.folder / "open"
    folder.mkdir()
    folder.chmod(0o777)
    if kind == "slurm":
        with pytest.raises(ClusterError, match=r"no sticky bit \(cluster\.shared_directory\)"):
            cn.run(where.job(shared_directory=str(folder)))
        return
    (where.folder / "job.yaml").write_text(yaml.safe_dump(where.job()))
    done = colonnade("run", where.folder / "job.yaml", env=os.environ | {"TMPDIR": str(folder)})
    assert done.returncode == 2
    assert "no sticky bit (TMPDIR): name another directory, or chmod +t it" in done.stderr
    assert not list(folder.iterdir())


def test_nobody_changes_a_job_before_it_is_submitted(
    place: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its script is in a directory that others cannot enter."""
    where = place("slurm")
    sbatch, seen = shutil.which("sbatch"), where.folder / "seen"
    (where.folder / "bin").mkdir()
    spy = where.folder / "bin" / "sbatch"
    spy.write_text(f"""#!/bin/sh
stat -c "%a %u" "$(dirname "$1")" >>{seen}
exec {sbatch} "$@"
""")
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}{os.pathsep}{os.environ['PATH']}")
    assert cn.run(where.job(workers=1)).state == "complete"
    assert seen.read_text() == f"700 {os.getuid()}\n"


def test_a_shared_directory_of_any_name(place: Callable[[str], Place]) -> None:
    """Its path becomes part of a line of shell."""
    where = place("slurm")
    shared = where.folder / "a b'c;d"
    document = where.job(workers=1, shared_directory=str(shared))
    assert cn.run(document).state == "complete"
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_certificates_of_ones_own(place: Callable[[str], Place], kind: str) -> None:
    needs("openssl", "apt-get install openssl")
    where = place(kind)
    security = certify(where.folder, "mine")
    trusted = {name: Path(security[name]).read_text() for name in ("cert", "key")}
    document = where.job(security=security)
    with held(document, where.folder, **where.environment) as (run, _):
        heard = listening(processes(run))
        ran = attack(heard.ports, trusted)
        assert {name.split("-")[1] for name in ran} == {"trusted"}
        assert {int(name.split("-")[0]) for name in ran} == dask_ports(heard)
        assert not list(where.folder.rglob("colonnade-*/*.pem"))


def test_certificates_that_cannot_be_read(job: Callable[..., dict[str, Any]]) -> None:
    security = dict.fromkeys(("ca_file", "cert", "key"), "nowhere.pem")
    said = refusal(lambda: cn.run(job(cluster={"kind": "local", "security": security})))
    assert "the certificates cannot be read (cluster.security)" in said


def test_without_cryptography(job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    said = refusal(lambda: cn.run(job()))
    assert "no certificates can be made for this run (cluster.security: auto)" in said
    assert "pip install cryptography" in said
    assert not (tmp_path / "out.zarr").exists()
    # It is needed for nothing else
    assert cn.run(job(cluster={"kind": "local", "security": "none"})).state == "complete"


# Kubernetes


def test_pods_take_no_certificates(job: Callable[..., dict[str, Any]]) -> None:
    security = dict.fromkeys(("ca_file", "cert", "key"), "a.pem")
    cluster = DEPLOYED["kubernetes"] | {"security": security}
    said = refusal(lambda: cn.run(job() | {"cluster": cluster}))
    assert "pods cannot use certificates (cluster.security)" in said
    assert "networkpolicy.yaml" in said


def test_a_cluster_that_is_exposed_says_so(job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything else is done with it."""

    class Exposed:
        @staticmethod
        @connection.contextmanager
        def deploy(settings: Any) -> Iterator[Any]:
            with local.deploy(settings) as found:
                yield connection.Deployment(found.client, "Kubernetes", exposed="it is open")

    monkeypatch.setitem(connection._KINDS, "local", Exposed)
    events: list[Any] = []
    cn.run(job(), listener=events.append)
    exposed = [event for event in events if isinstance(event, ClusterExposed)]
    assert [describe(event) for event in exposed] == ["warning: Kubernetes: it is open"]
    ready = next(event for event in events if isinstance(event, ClusterReady))
    assert events.index(exposed[0]) < events.index(ready)


def test_the_policy_selects_the_pods_of_runs() -> None:
    policy = yaml.safe_load((DEPLOY / "networkpolicy.yaml").read_text())["spec"]
    assert policy["podSelector"] == {"matchLabels": kubernetes.LABELS}
    own, operator = policy["ingress"]
    cronjob = yaml.safe_load((DEPLOY / "cronjob.yaml").read_text())
    labels = cronjob["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    admitted = [source["podSelector"]["matchLabels"] for source in own["from"]]
    assert admitted == [kubernetes.LABELS, labels]
    assert {port["port"] for port in operator["ports"]} == {8786, 8787}
