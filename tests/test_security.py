"""Certificates, listening sockets, and secrets that must not be written down."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import colonnade as cn
from colonnade.errors import ClusterError, JobError
from colonnade.events import ClusterReady
from colonnade.job.file import load_job
from support import N, Q

# TLS


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def certify(folder: Path, name: str) -> dict[str, str]:
    """Make a certificate that an authority of its own has signed."""
    ca, ca_key = folder / f"{name}-ca.pem", folder / f"{name}-ca.key"
    cert, key, asked = (folder / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", ca_key, "-out", ca)
    openssl(*new, "-subj", "/CN=localhost", "-keyout", key, "-out", asked)
    openssl("x509", "-req", "-days", "2", "-in", asked, "-CA", ca, "-CAkey", ca_key,
            "-CAcreateserial", "-out", cert)  # fmt: skip
    return {"ca_file": str(ca), "cert": str(cert), "key": str(key)}


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """A scheduler with a worker that speak TLS alone: its address, certificates, and others'."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("tls")
    mine, others = certify(folder, "mine"), certify(folder, "others")
    file = folder / "scheduler.json"
    options = [
        "--tls-ca-file", mine["ca_file"], "--tls-cert", mine["cert"], "--tls-key", mine["key"],
        "--protocol", "tls", "--scheduler-file", str(file), "--no-dashboard",
    ]  # fmt: skip
    parts = {"dask_scheduler": ["--port", "0", "--host", "127.0.0.1"],
             "dask_worker": ["--nthreads", "1", "--no-nanny"]}  # fmt: skip
    running = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{part}", *own, *options],
            stderr=subprocess.DEVNULL,
        )
        for part, own in parts.items()
    ]
    try:
        while not file.exists() or not file.read_text().endswith("}"):
            assert running[0].poll() is None
        yield json.loads(file.read_text())["address"], mine, others
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_a_client_with_certificates(encrypted, job, tmp_path, monkeypatch) -> None:
    address, mine, _ = encrypted
    assert address.startswith("tls://")
    # Relative paths, which workers in other directories need not follow
    tls = {key: os.path.relpath(path, tmp_path) for key, path in mine.items()}
    monkeypatch.chdir(tmp_path)
    document = job() | {"cluster": {"kind": "address", "address": address, "tls": tls}}
    assert cn.run(document).state == "complete"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tls": None}, r"asks for certificates: name them in cluster\.tls"),
        ({"tls": "others"}, r"no Dask scheduler answers at tls://.*certificates \(cluster\.tls\)"),
        ({"tls": {"cert": "nowhere.pem"}}, r"certificates cannot be read \(cluster\.tls\)"),
        ({"tls": {"key": __file__}}, r"certificates cannot be read \(cluster\.tls\)"),
        ({"plain": True}, r"no Dask scheduler answers at tcp://.*has the address tls://"),
    ],
    ids=str,
)
def test_a_client_without_them_is_refused(encrypted, job, tmp_path, changes, told: str) -> None:
    address, mine, others = encrypted
    cluster: dict[str, Any] = {"kind": "address", "address": address, "timeout": 2}
    if "plain" in changes:
        cluster["address"] = address.replace("tls://", "tcp://")
    elif changes["tls"] is not None:
        cluster["tls"] = others if changes["tls"] == "others" else {**mine, **changes["tls"]}
    with pytest.raises(ClusterError, match=told) as caught:
        cn.run(job() | {"cluster": cluster})
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()


def test_certificates_are_for_encrypted_addresses(job) -> None:
    tls = {"ca_file": "a", "cert": "b", "key": "c"}
    for address in ("tls://h:1", "wss://h:1"):
        load_job(job() | {"cluster": {"kind": "address", "address": address, "tls": tls}})
    with pytest.raises(JobError, match="certificates are for an address of tls://"):
        load_job(job() | {"cluster": {"kind": "address", "address": "tcp://h:1", "tls": tls}})


# Sockets


def test_a_local_cluster_listens_to_this_machine_alone(job) -> None:
    heard: list[str] = []
    me = psutil.Process()
    others = set(me.children(recursive=True))

    def look(event: Any) -> None:
        if isinstance(event, ClusterReady):
            for process in {me, *me.children(recursive=True)} - others:
                found = process.net_connections("inet")
                heard.extend(c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN)

    cn.run(job(), listener=look)
    # The scheduler, its dashboard, and two workers with a page each
    assert len(heard) >= 6
    assert set(heard) == {"127.0.0.1"}


# Secrets

SECRET = "hunter2-correct-horse"  # noqa: S105 (nobody's)


def colonnade(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "colonnade", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "SECRET": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET},
    )  # fmt: skip


def written(folder: Path) -> str:
    """All that lies in a folder but the job, and the names of it."""
    files = [path for path in folder.rglob("*") if path.name != "job.yaml"]
    return "".join(
        f"{path} {path.read_bytes().decode('latin-1') if path.is_file() else ''}" for path in files
    )


URLS = ("s3://key:%s@bucket/x", "tcp://user:%s@h:1", "https://%s@h/x", "tls://%s:@h:8786")
PLACES = (
    ("network", "weights"), ("network", "activation"), ("input", "path"), ("input", "orientation"),
    ("output", "path"), ("output", "dtype"), ("output", "block_size"), ("output", "products"),
    ("cluster", "kind"), ("cluster", "address"), ("cluster", "token"), ("input", "storage_options"),
)  # fmt: skip


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_no_secret_is_told(job, monkeypatch, place: tuple[str, str], url: str) -> None:
    """Whether it stands in the job, in a part of it, or in a variable that the job names."""
    monkeypatch.setenv("SECRET", SECRET)
    for value in (url % SECRET, url % "${SECRET}", {"secret": url % SECRET}, [url % "${SECRET}"]):
        document = job()
        if place[0] == "cluster" and place[1] != "kind":
            document["cluster"] = {"kind": "address", "address": "tcp://h:1"}
        document[place[0]][place[1]] = value
        with pytest.raises(JobError) as caught:
            load_job(document)
        assert SECRET not in str(caught.value)
        assert SECRET not in str(caught.value.__cause__) + str(caught.value.__context__)


@pytest.mark.parametrize(
    "place", [p for p in PLACES if p[1] not in ("weights", "path")], ids=".".join
)
def test_no_variable_is_told(job, monkeypatch, place: tuple[str, str]) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    document = job(output={"compression": "zstd"})
    document[place[0]][place[1]] = "${SECRET}"
    with pytest.raises(JobError) as caught:
        load_job(document)
    assert SECRET not in str(caught.value)


def test_no_secret_is_written(job_file, tmp_path: Path) -> None:
    """From end to end: on both outputs, in the store, and in what is left of a refused job."""
    path = job_file(output={"block_size": 13 * Q * N * 4})
    said = ""
    for arguments in (("plan", "--json"), ("run",), ("run", "--debug")):
        done = colonnade(tmp_path, arguments[0], path, *arguments[1:])
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    for url, secret, key in (
        (URLS[0], SECRET, "input.path"),
        (URLS[0], "${SECRET}", "output.path"),
        (URLS[1], "${SECRET}", "cluster.address"),
    ):
        given = ("--set", f"{key}={url % secret}")
        kind = ("--set", "cluster={kind: address}") if "cluster" in key else ()
        for debug in ((), ("--debug",)):
            done = colonnade(tmp_path, "run", path, *kind, *given, *debug)
            assert done.returncode == (1 if debug else 2)
            said += done.stdout + done.stderr
    assert "no user or password in an address" in said
    assert "://…@" in said
    assert SECRET not in said
    assert not re.search(SECRET, written(tmp_path))
    job = yaml.safe_load(path.read_text())
    assert (Path(job["output"]["path"]) / "zarr.json").is_file()
