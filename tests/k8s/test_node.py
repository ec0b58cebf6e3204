"""The deploy files and `colonnade submit` on a real Kubernetes node: `make test-kubernetes`."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import colonnade as cn
import s3
from colonnade.clusters import kubernetes
from colonnade.job import KubernetesCluster
from colonnade.job.file import load_job
from support import N, Q, make_columns, make_network, save_network
from test_cli import colonnade

NODE = os.environ.get("KUBERNETES_NODE", "")
pytestmark = [
    pytest.mark.skipif(not NODE, reason="no Kubernetes node here; make test-kubernetes has one"),
    pytest.mark.timeout(900),
]

ROOT = Path(__file__).parent.parent.parent
IMAGE = "localhost/colonnade:node"
ACCOUNT = "system:serviceaccount:colonnade:colonnade"
BUCKET = f"s3://{s3.BUCKET}"
# A block each, so that a run can be caught in its middle
COLUMNS = 2003


def kubectl(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(
        ["kubectl", *arguments], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(reached: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 300
    while not (found := reached()):
        assert time.monotonic() < deadline, f"not within five minutes: {what}\n{state()}"
        time.sleep(0.2)
    return found


def state() -> str:
    pods = kubectl("get", "all,events,daskclusters", "--output=wide")
    return pods + kubectl("logs", "--selector=app.kubernetes.io/name=colonnade", "--tail=50")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    folder = tmp_path_factory.mktemp("s3")
    with s3.serving(folder, NODE) as running, pytest.MonkeyPatch.context() as monkeypatch:
        s3.set_credentials(monkeypatch)
        save_network(folder / "network.npz", make_network())
        np.save(folder / "X.npy", make_columns(p=COLUMNS))
        place = running.place(BUCKET)
        for name in ("network.npz", "X.npy"):
            place.write(name, (folder / name).read_bytes())
        yield running


@pytest.fixture(scope="module")
def job(server: s3.Server) -> dict[str, Any]:
    """deploy's job file, filled in."""
    found = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "job.yaml").read_text())
    for section, key in (("network", "weights"), ("input", "path"), ("output", "path")):
        found[section][key] = found[section][key].replace("BUCKET", s3.BUCKET)
        found[section]["storage_options"] = server.options
    found["output"]["block_size"] = Q * N * 4
    # A core for each worker, and part of one for the run
    workers = min(2, (os.cpu_count() or 2) - 1)
    found["cluster"].update(image=IMAGE, workers=workers, memory="600 MiB", timeout=240)
    return found


@pytest.fixture(scope="module")
def expected(job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run on this machine makes of the same job."""
    there = tmp_path_factory.mktemp("here") / "out.zarr"
    output = {**job["output"], "path": str(there), "storage_options": None}
    cn.run({**job, "output": output, "cluster": {"kind": "local", "workers": 2}})
    files = (path for path in there.rglob("*") if path.is_file())
    return s3.shards({str(path.relative_to(there)): path.read_bytes() for path in files})


@pytest.fixture(scope="module")
def applied(job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("kubernetes")
    for path in (ROOT / "deploy" / "kubernetes").iterdir():
        (folder / path.name).write_text(path.read_text())
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    name, tag = IMAGE.split(":")
    kustomization["images"][0].update(newName=name, newTag=tag)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    kubectl("create", "namespace", "colonnade")
    kubectl(
        "create", "secret", "generic", "colonnade-env",
        f"--from-literal=AWS_ACCESS_KEY_ID={s3.KEY}",
        f"--from-literal=AWS_SECRET_ACCESS_KEY={s3.SECRET}",
    )  # fmt: skip
    built = list(yaml.safe_load_all(kubectl("kustomize", str(folder))))
    for document in built:
        # Debian's Kubernetes is of before CronJob's last change of name
        if document["kind"] == "CronJob":
            document["apiVersion"] = "batch/v1beta1"
    kubectl("apply", "--validate=false", "--filename=-", given=yaml.safe_dump_all(built))


def blocks(server: s3.Server, url: str) -> int:
    place = server.place(f"{url}/jacobian")
    return sum(
        "/c." in meta["path"] for metas in place._store.list(place._prefix) for meta in metas
    )


@pytest.mark.usefixtures("applied")
def test_the_rights_of_a_run() -> None:
    def may(*action: str) -> bool:
        done = subprocess.run(
            ["kubectl", "auth", "can-i", f"--as={ACCOUNT}", *action],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout.strip() == "yes"

    assert may("create", "daskclusters.kubernetes.dask.org")
    assert may("list", "pods")
    assert not may("create", "pods")
    assert not may("get", "secrets")
    assert not may("list", "pods", "--namespace=default")


@pytest.mark.usefixtures("applied")
def test_a_night(server: s3.Server, job: dict[str, Any], expected: dict[str, bytes]) -> None:
    """The CronJob's own Job, started now, with a worker's pod deleted in its middle."""
    url = job["output"]["path"]
    kubectl("create", "job", "--from=cronjob/colonnade-nightly", "now")
    until(lambda: blocks(server, url) > 50, "the first blocks")
    workers = kubectl("get", "pods", "--selector=dask.org/component=worker", "--output=name")
    victim = workers.split()[0]
    kubectl("delete", victim, "--grace-period=0", "--force", "--wait=false")
    before = blocks(server, url)
    assert before < COLUMNS
    print(f"deleted {victim} of {len(workers.split())} with {before} of {COLUMNS} blocks done")

    def ended() -> bool:
        status = json.loads(kubectl("get", "job", "now", "--output=json"))["status"]
        assert not status.get("failed"), state()
        return bool(status.get("succeeded"))

    until(ended, "the end of the Job")
    print(kubectl("logs", "job/now"))
    assert s3.shards(server.keys(url)) == expected
    until(lambda: not kubectl("get", "daskclusters", "--output=name"), "the cluster to go")


@pytest.mark.usefixtures("applied")
def test_a_job_that_is_submitted(
    server: s3.Server, job: dict[str, Any], expected: dict[str, bytes], tmp_path: Path
) -> None:
    url = f"{BUCKET}/{uuid.uuid4().hex}"
    cluster = {**job["cluster"], "namespace": "colonnade", "service_account": "colonnade"}
    path = tmp_path / "Digits job.yaml"
    path.write_text(yaml.safe_dump({**job, "cluster": cluster}))
    started = time.monotonic()
    done = colonnade("submit", path, "--wait", "--set", f"output.path={url}")
    print(f"from submit to done: {time.monotonic() - started:.1f} s")
    assert done.returncode == 0, done.stderr + state()
    assert done.stdout.startswith("colonnade-digits-job-")
    assert s3.shards(server.keys(url)) == expected


@pytest.mark.usefixtures("applied")
def test_a_cluster_that_its_operator_leaves_pending(job: dict[str, Any]) -> None:
    def phase() -> str:
        found = json.loads(kubectl("get", "daskcluster", name, "--output=json"))
        return str(found.get("status", {}).get("phase"))

    name = f"colonnade-{uuid.uuid4().hex[:8]}"
    settings = load_job(job).cluster
    assert isinstance(settings, KubernetesCluster)
    made = kubernetes.specification(settings, name)
    made["metadata"]["namespace"] = "colonnade"
    kubectl("apply", "--validate=false", "--filename=-", given=yaml.safe_dump(made))
    try:
        with kubernetes.unstuck(name, "colonnade"):
            for _ in range(2):
                until(lambda: phase() == "Running", "the cluster's phase")
                pending = json.dumps({"status": {"phase": "Pending"}})
                kubectl("patch", "daskcluster", name, "--type=merge", f"--patch={pending}")
            until(lambda: phase() == "Running", "the cluster's phase")
    finally:
        kubectl("delete", "daskcluster", name)


@pytest.mark.usefixtures("applied")
def test_a_submitted_job_that_fails_has_its_own_status(job: dict[str, Any], tmp_path: Path) -> None:
    cluster = {**job["cluster"], "namespace": "colonnade", "service_account": "colonnade"}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**job, "cluster": cluster}))
    done = colonnade("submit", path, "--wait", "--set", f"input.path={BUCKET}/nothing.npy")
    assert done.returncode == 2
