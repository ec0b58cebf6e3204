"""What is asked of Dask's libraries for each kind of cluster, without reaching one."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import dask
import jsonschema
import pytest
import yaml
from distributed import LocalCluster

import colonnade as cn
from colonnade import clusters
from colonnade.clusters import kubernetes, queues, ssh
from colonnade.errors import ClusterError
from colonnade.job.file import load_job
from support import refusal
from test_job import DEPLOYED

dask_jobqueue = pytest.importorskip("dask_jobqueue")


def settings(job: Any, kind: str, **changes: Any) -> Any:
    return load_job(job() | {"cluster": DEPLOYED[kind] | changes}).cluster


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("slurm", (3, 2, 3 * 2**30)), ("pbs", (3, 2, 3 * 2**30)), ("sge", (3, 2, 3 * 2**30)),
        ("lsf", (3, 2, 3 * 2**30)), ("ssh", (6, 3, 2**30)), ("kubernetes", (2, 2, 3 * 2**30)),
        ("gateway", (1, 1, None)),
    ],
)  # fmt: skip
def test_a_plan_without_its_cluster(job, kind: str, expected: tuple[Any, ...]) -> None:
    capacity = clusters.expected_capacity(settings(job, kind))
    found = (capacity.workers, capacity.threads_per_worker, capacity.memory_per_worker)
    assert found == expected
    assert cn.plan(job() | {"cluster": DEPLOYED[kind]}).capacity == capacity


SCRIPTS = {
    "slurm": [
        "#SBATCH -J colonnade", "#SBATCH -p long", "#SBATCH -A us", "#SBATCH --cpus-per-task=2",
        "#SBATCH --mem=3G", "#SBATCH -t 36:00:00", "#SBATCH --constraint=icelake",
    ],
    "pbs": [
        "#PBS -N colonnade", "#PBS -q long", "#PBS -A us", "#PBS -l select=1:ncpus=2:mem=3072MB",
        "#PBS -l walltime=36:00:00", "#PBS --constraint=icelake",
    ],
    "sge": [
        "#$ -N colonnade", "#$ -q long", "#$ -P us", "#$ -l h_rt=36:00:00",
        "#$ --constraint=icelake",
    ],
    "lsf": [
        "#BSUB -J colonnade", "#BSUB -q long", '#BSUB -P "us"', "#BSUB -n 2", "#BSUB -W 36:00",
        "#BSUB --constraint=icelake",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", SCRIPTS)
def test_the_job_of_a_worker(job, kind: str, tmp_path) -> None:
    """One process of as many threads as cores, that leaves before its time is up."""
    found = settings(job, kind, log_directory=str(tmp_path / "logs"))
    given = queues.arguments(found) | {"config_name": kind}
    Job = getattr(dask_jobqueue, f"{kind.upper()}Cluster").job_cls
    script = Job("tcp://10.0.0.1:8786", name="w", **given).job_script().splitlines()
    assert set(SCRIPTS[kind]) <= set(script)
    *_, first, second, command = (line for line in script if line)
    assert (first, second) == ("module load python", ". ~/env")
    words = command.split()
    assert words[:4] == ["python3", "-m", "colonnade.clusters.queue_worker", "tcp://10.0.0.1:8786"]
    options = dict(itertools.pairwise(words))
    assert (options["--nthreads"], options["--memory-limit"]) == ("2", "3.00GiB")
    assert (options["--interface"], options["--local-directory"]) == ("ib0", "/scratch")
    # 36 h: between 15 and 5 minutes before the end
    assert (options["--lifetime"], options["--lifetime-stagger"]) == ("129000s", "300s")


def test_a_short_job_leaves_early_as_well(job) -> None:
    extra = queues.arguments(settings(job, "slurm", walltime=600))["worker_extra_args"]
    assert extra[:4] == ["--lifetime", "540s", "--lifetime-stagger", "30s"]


@pytest.mark.parametrize("walltime", ["12:00:00", 43200, "0-12:00:00"])
def test_times_as_yaml_reads_them(job, walltime) -> None:
    """Which takes 12:00:00 for a number."""
    found = settings(job, "lsf", walltime=walltime)
    assert queues.arguments(found)["walltime"] == "12:00"


def test_what_hosts_of_ssh_are_told(job) -> None:
    found = settings(job, "ssh")
    with dask.config.set({"distributed.comm.timeouts.tcp": "21s", "gateway.auth.kwargs": "x"}):
        assert ssh.connection(found) == {
            "port": 2222, "username": "me", "client_keys": ["keys/mine"],
            "known_hosts": "keys/hosts", "login_timeout": 60, "keepalive_interval": 7,
            "keepalive_count_max": 3,
        }  # fmt: skip
        worker = ssh.document(found, None, "worker", "tls://c:1")
        scheduler = ssh.document(found, None, "scheduler")
        for document in (worker, scheduler):
            assert document["config"]["distributed"]["comm"]["timeouts"]["tcp"] == "21s"
    assert worker["options"] == {
        "scheduler": "tls://c:1", "number": 2, "nthreads": 3, "memory_limit": 2**30,
        "interface": "eth1", "timeout": 60,
    }  # fmt: skip
    assert scheduler["options"] == {"interface": "eth1", "dashboard": True}
    for document in (worker, scheduler):
        assert document["local_directory"] == "/scratch"
        # What other parts of Dask are told is not for hosts
        assert set(document["config"]) <= {"distributed", "temporary-directory"}


def test_the_cluster_of_kubernetes(job) -> None:
    dask_kubernetes = pytest.importorskip("dask_kubernetes")
    found = kubernetes.specification(settings(job, "kubernetes"), "colonnade-1")
    (definition,) = Path(dask_kubernetes.__file__).parent.rglob("crds/daskcluster.yaml")
    (version,) = yaml.safe_load(definition.read_text())["spec"]["versions"]
    jsonschema.validate(found, version["schema"]["openAPIV3Schema"])
    assert found["kind"] == "DaskCluster"
    assert found["metadata"] == {"name": "colonnade-1", "labels": kubernetes.LABELS}
    assert found["spec"]["worker"]["replicas"] == 2
    resources = {"cpu": "2", "memory": str(3 * 2**30)}
    for part in ("scheduler", "worker"):
        pod = found["spec"][part]["spec"]
        assert pod["serviceAccountName"] == "runner"
        (container,) = pod["containers"]
        assert container["image"] == "example.org/colonnade:1"
        # A scheduler takes the same, whatever its workers are
        assert (container["resources"] == {"requests": resources, "limits": resources}) == (
            part == "worker"
        )
        assert container["env"] == [{"name": "LEVEL", "value": "3"}, {"name": "A", "value": "b"}]
        assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
        # `dask-worker` and `dask-scheduler` are in no distribution any more
        assert container["args"][:2] == ["dask", part]
    options = found["spec"]["worker"]["spec"]["containers"][0]["args"]
    assert options[2:6] == ["--nthreads", "2", "--memory-limit", str(3 * 2**30)]


@pytest.mark.parametrize(
    ("kind", "library", "extra"),
    [
        ("lsf", "dask_jobqueue", "jobqueue"), ("ssh", "asyncssh", "ssh"),
        ("kubernetes", "dask_kubernetes", "kubernetes"), ("gateway", "dask_gateway", "gateway"),
    ],
)  # fmt: skip
def test_a_library_that_is_missing(job, monkeypatch, kind: str, library: str, extra: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ClusterError, match=rf"pip install 'colonnade\[{extra}\]'"):
        cn.run(job() | {"cluster": DEPLOYED[kind]})


def test_workers_that_go_as_soon_as_they_came(job, tmp_path: Path) -> None:
    """Nothing is known of how large a block may be then; the store is not begun."""
    with LocalCluster(
        n_workers=1, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
    ) as running:
        scheduler = running.scheduler
        count = scheduler.handlers["ncores"]

        async def counted_last(*arguments: Any, **options: Any) -> Any:
            answer = count(*arguments, **options)
            for worker in list(scheduler.workers):
                await scheduler.remove_worker(worker, stimulus_id="test")
            return answer

        scheduler.handlers["ncores"] = counted_last
        cluster = {"kind": "address", "address": running.scheduler_address, "workers": 1}
        said = refusal(lambda: cn.run(job(cluster=cluster)))
    assert f"the workers of {cluster['address']} left right after they joined" in said
    assert not (tmp_path / "out.zarr").exists()


def test_a_machine_without_the_queue(job, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="there is no bsub on this machine: start the run where"):
        cn.run(job() | {"cluster": DEPLOYED["lsf"]})
