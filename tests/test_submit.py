"""`colonnade submit`: a run as a job of a real Slurm, and what other queues are given."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import pytest
import yaml

from colonnade import run
from colonnade.errors import IncompleteError
from colonnade.job.file import load_job
from colonnade.submit import prepare, queues
from colonnade.submit.base import Handover
from slurm import PARTITION, Slurm
from support import N, Q, check_refusal, make_columns, needs, refusal
from test_cli import COLONNADE, colonnade, has_shards, until
from test_run import bits

DEPLOY = Path(__file__).parent.parent / "deploy"
JobFile = Callable[..., Path]


@pytest.fixture
def queued(job_file: JobFile, tmp_path: Path, slurm: Slurm) -> Iterator[JobFile]:
    """A job whose cluster is a real Slurm's, with its logs beside it."""

    def make(cluster: Mapping[str, Any] = {}, **sections: dict[str, Any]) -> Path:
        slurms = {
            "kind": "slurm", "queue": PARTITION, "memory": "1 GiB", "walltime": "00:10:00",
            "log_directory": str(tmp_path / "logs"),
        }  # fmt: skip
        return job_file(cluster={**slurms, **cluster}, **sections)

    yield make
    slurm.cancel_all()


def submitted(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COLONNADE, "submit", str(path), "--wait"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def locally(job: Callable[..., dict[str, Any]], tmp_path: Path, **output: Any) -> Path:
    """The same job, run on this machine."""
    there = tmp_path / "here.zarr"
    run(job(output={"path": str(there), **output}))
    return there


def test_a_run_in_the_queue(queued: JobFile, job, tmp_path: Path) -> None:
    done = colonnade("submit", queued(), "--wait")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+\n", done.stdout)
    log = tmp_path / "logs" / f"colonnade-job-{done.stdout.strip()}.log"
    assert f"log: {log}" in done.stderr
    assert "is complete: 8 of 8 blocks computed in this run" in log.read_text()
    assert bits(tmp_path / "out.zarr") == bits(locally(job, tmp_path))


@pytest.mark.parametrize(
    "disturb",
    [
        pytest.param(["scontrol", "requeue"], id="pre-empted"),
        # What Slurm does a little before the walltime's end, as the script has asked it to
        pytest.param(["scancel", "--batch", "--signal=USR1"], id="out of time"),
    ],
)
def test_a_run_that_is_queued_again_goes_on(
    queued: JobFile, job, slurm: Slurm, tmp_path: Path, disturb: list[str]
) -> None:
    output = {"block_size": Q * N * 4}
    path = queued(output=output)
    np.save(tmp_path / "X.npy", make_columns(p=1009))
    with submitted(path) as process:
        assert process.stdout is not None
        job_id = process.stdout.readline().strip()
        reached = has_shards(tmp_path, 5)
        until(reached, process)
        slurm.call(*disturb, job_id)
        _, said = process.communicate(timeout=200)
    log = (tmp_path / "logs" / f"colonnade-job-{job_id}.log").read_text()
    assert process.returncode == 0, said + log
    assert "stopped by SIGTERM" in log
    assert "of them done already" in log
    assert "Restarts=1 " in slurm.call("scontrol", "show", "job", job_id)
    assert bits(tmp_path / "out.zarr") == bits(locally(job, tmp_path, **output))


def test_a_run_that_fails_has_its_own_status(queued: JobFile, tmp_path: Path) -> None:
    """Status 3 where blocks failed, 2 where the store is another job's."""
    path = queued(input={"nonfinite": "fail"})
    X = make_columns()
    X[1, 17] = np.nan
    np.save(tmp_path / "X.npy", X)
    done = colonnade("submit", path, "--wait")
    assert done.returncode == 3
    job_id = done.stdout.strip()
    assert f"job {job_id} has ended with status 3" in done.stderr
    log = tmp_path / "logs" / f"colonnade-job-{job_id}.log"
    assert str(log) in done.stderr
    assert "is incomplete: block 1 (columns 13 to 25) failed" in log.read_text()

    other = colonnade("submit", path, "--wait", "--set", "output.dtype=float64")
    assert other.returncode == 2
    assert (
        "the store of another job"
        in log.with_stem(f"colonnade-job-{other.stdout.strip()}").read_text()
    )


def test_a_run_that_never_was(queued: JobFile, slurm: Slurm) -> None:
    path = queued(cluster={"job_extra_directives": ["--hold"]})
    with submitted(path) as process:
        assert process.stdout is not None
        job_id = process.stdout.readline().strip()
        slurm.call("scancel", job_id)
        _, said = process.communicate(timeout=100)
    assert process.returncode == 3
    assert "is not complete" in said


def test_what_is_wrong_never_reaches_the_queue(
    queued: JobFile, slurm: Slurm, tmp_path: Path
) -> None:
    path = queued()
    (tmp_path / "X.npy").unlink()
    before = slurm.jobs()
    done = colonnade("submit", path)
    assert done.returncode == 2
    assert "X.npy" in done.stderr
    assert slurm.jobs() == before
    assert not (tmp_path / "logs").exists()


def test_what_the_queue_says_is_told(queued: JobFile) -> None:
    done = colonnade("submit", queued(), "--set", "cluster.queue=nowhere")
    assert done.returncode == 2
    assert "sbatch has not accepted the job" in done.stderr
    assert "invalid partition" in done.stderr.lower()


def test_the_batch_file_for_one_node(job, slurm: Slurm, tmp_path: Path) -> None:
    text = (DEPLOY / "slurm" / "colonnade.sbatch").read_text()
    text = text.replace("PARTITION", PARTITION).replace("cpus-per-task=16", "cpus-per-task=2")
    text = text.replace("#SBATCH --account=ACCOUNT\n", "").replace("--mem=32G", "--mem=3G")
    script, path = tmp_path / "colonnade.sbatch", tmp_path / "job.yaml"
    script.write_text(text)
    path.write_text(yaml.safe_dump(job()))
    command = tmp_path / "colonnade"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m colonnade "$@"\n')
    command.chmod(0o755)
    slurm.call(
        "sbatch", "--wait", f"--chdir={tmp_path}", f"--export=ALL,COLONNADE={command}",
        str(script), str(path),
    )  # fmt: skip
    assert bits(tmp_path / "out.zarr") == bits(locally(job, tmp_path))


def test_the_nightly_entry(slurm: Slurm, tmp_path: Path) -> None:
    """Debian has no scrontab; its options are those of sbatch, which tells whether they do."""
    text = (DEPLOY / "slurm" / "scrontab").read_text().replace("PARTITION", PARTITION)
    text = text.replace("#SCRON --account=ACCOUNT\n", "").replace("/PATH/TO", str(tmp_path))
    *options, entry = [line for line in text.splitlines() if not line.startswith("# ")]
    given = [option.removeprefix("#SCRON ") for option in options]
    assert given != options
    slurm.call("sbatch", "--test-only", *given, "--wrap=true")
    assert re.fullmatch(
        rf"30 1 \* \* \* {tmp_path}/bin/colonnade run {tmp_path}/nightly.yaml", entry
    )


@pytest.mark.parametrize("kind", ["slurm", "pbs", "sge", "lsf"])
def test_what_a_queue_is_given(
    job_file: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("COLONNADE_DATE", "2026-03-01T23:59:00Z")
    needs("shellcheck", "apt-get install shellcheck")
    cluster = {
        "kind": kind, "memory": "3 GiB", "cores": 7, "queue": "long", "account": "me",
        "walltime": "1-02:03:00", "job_script_prologue": ["module load python"],
        "log_directory": str(tmp_path / "logs"),
    }  # fmt: skip
    path = job_file(cluster=cluster)
    done = colonnade("submit", path, "--print", "--set", "output.path=a b.zarr")
    assert done.returncode == 0, done.stderr
    header = [
        line for line in done.stdout.splitlines() if re.match(r"#(SBATCH|PBS|\$|BSUB) ", line)
    ]
    told = " ".join(header)
    assert all(word in told for word in ("long", "me", "26:03", "colonnade-job"))
    # Of the run's own process, not of a worker
    assert not re.search(r"\b7\b", told)
    assert f"colonnade run {path} --set 'output.path=a b.zarr' &" in done.stdout
    # Queued again after midnight, it goes on with the same store
    assert "\nexport COLONNADE_DATE=2026-03-01T23:59:00+00:00\n" in done.stdout
    script = tmp_path / "script.sh"
    script.write_text(done.stdout)
    checked = subprocess.run(
        ["shellcheck", str(script)], capture_output=True, text=True, check=False
    )
    assert checked.stdout == ""
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("given", ["~/logs", "logs"])
def test_where_the_logs_lie(
    job_file: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """The home is known here: a queue and a quoted path in its script know of no tilde."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = job_file(cluster={"kind": "slurm", "memory": "1 GiB", "log_directory": given})
    handover = prepare(path).handover
    assert handover.log("7") == str(tmp_path / "logs" / "colonnade-job-7.log")
    assert f"#SBATCH --output={tmp_path}/logs/colonnade-job-%j.log" in handover.text
    assert "~" not in handover.text


@pytest.mark.parametrize(
    "cluster",
    [
        {"kind": "local"},
        {"kind": "address", "address": "tcp://127.0.0.1:8786"},
        {"kind": "ssh", "hosts": ["a"]},
        {"kind": "gateway", "address": "https://dask.example.org"},
    ],
    ids=lambda cluster: cluster["kind"],
)
def test_kinds_without_a_queue(job, tmp_path: Path, cluster: dict[str, Any]) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**job(), "cluster": cluster}))
    said = refusal(lambda: prepare(path), cluster)
    assert f"cluster.kind {cluster['kind']} has no queue" in said
    assert "systemd" in said


def test_a_queue_that_is_not_here(
    job_file: JobFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = job_file(cluster={"kind": "lsf", "memory": "1 GiB"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refusal(prepare(path).handover.submit)
    assert "bsub cannot be run here" in said


@pytest.fixture
def squeue(
    job_file: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Handover]:
    """A run in the queue that a script in place of squeue tells of; it is asked without pauses."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(queues, "POLL", 0.0)
    monkeypatch.setattr(queues, "_SECONDS", 2.0)

    def make(text: str) -> Handover:
        command = tmp_path / "squeue"
        command.write_text(f"#!/bin/sh\ncd {tmp_path}\necho >>asked\n{text}\n")
        command.chmod(0o755)
        cluster = {"kind": "slurm", "memory": "1 GiB", "log_directory": str(tmp_path)}
        return prepare(job_file(cluster=cluster)).handover

    return make


def test_a_queue_that_is_slow_for_a_while(squeue: Callable[[str], Handover]) -> None:
    """One answer that comes too late, one that is none: the run is followed to its end."""
    handover = squeue(
        """case $(wc -l <asked) in
        1) exec sleep 60 ;;
        2) echo "Socket timed out on send/recv operation" >&2; exit 1 ;;
        3) echo RUNNING ;;
        *) echo 143 >colonnade-job-7.status ;;
        esac"""
    )
    assert handover.follow("7") == 143


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exec sleep 60", "timed out after 0.2 seconds"),
        ("echo 'no controller' >&2; exit 1", "no controller"),
    ],
)
def test_a_queue_that_never_answers(
    squeue: Callable[[str], Handover],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    said: str,
) -> None:
    """What becomes of the job is not known then: no status says that nothing was changed."""
    monkeypatch.setattr(queues, "PATIENCE", 3)
    monkeypatch.setattr(queues, "_SECONDS", 0.2 if "sleep" in text else 60.0)
    handover = squeue(text)
    with pytest.raises(IncompleteError) as caught:
        handover.follow("7")
    told = check_refusal(caught.value)
    assert "squeue does not report the state of job 7: " in told
    assert said in told
    assert "The job may still be running" in told
    assert str(tmp_path / "colonnade-job-7.log") in told


KUBERNETES = {
    "kind": "kubernetes", "image": "registry.example.org/colonnade:1", "memory": "3 GiB",
    "namespace": "science", "service_account": "colonnade", "workers": 3,
    "env": {"PRICE": "$5"}, "env_from_secrets": ["bucket"],
}  # fmt: skip


def test_what_kubernetes_is_given(job_file: JobFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLONNADE_DATE", "2026-03-01T23:59:00Z")
    path = job_file(cluster=KUBERNETES, output={"path": "s3://bucket/{date}/a$$b{{c}}.zarr"})
    done = colonnade("submit", path, "--print", "--set", "output.dtype=float64")
    assert done.returncode == 0, done.stderr
    config_map, manifest = yaml.safe_load_all(done.stdout)
    for document in (config_map, manifest):
        kubernetes_validate.validate(document, "1.34", strict=True)
        assert document["metadata"]["namespace"] == "science"
    assert manifest["spec"]["backoffLimit"] > 0
    pod = manifest["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["serviceAccountName"] == "colonnade"
    assert pod["volumes"][0]["configMap"]["name"] == config_map["metadata"]["name"]
    [container] = pod["containers"]
    assert container["env"] == [{"name": "PRICE", "value": "$5"}]
    assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    # What the pod reads is the job as it was given here
    here = load_job(path, ["output.dtype=float64"])
    assert here.output.path == "s3://bucket/2026-03-01/a$b{c}.zarr"
    # and of its own night
    monkeypatch.setenv("COLONNADE_DATE", "2026-03-02")
    assert load_job(yaml.safe_load(config_map["data"]["job.yaml"])) == here


def test_a_kubernetes_that_is_not_here(
    job_file: JobFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    said = refusal(prepare(job_file(cluster=KUBERNETES)).handover.submit)
    assert said.startswith("Kubernetes, namespace science: ")
