"""What deploy/ promises: each file is checked by what will read it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from colonnade import __version__
from colonnade.job.file import load_job
from support import needs

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
# The oldest that knows all that is asked of it, and the newest whose schemas are at hand
VERSIONS = ["1.31", "1.34"]
SCRIPTS = [
    DEPLOY / "slurm" / "colonnade.sbatch",
    *sorted((ROOT / "tests" / "k8s").glob("*.sh")),
]


def call(*command: str | Path, **options: Any) -> str:
    """What a program prints, which must be content."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def documents(path: Path) -> Iterator[dict[str, Any]]:
    return (document for document in yaml.safe_load_all(path.read_text()) if document)


MANIFESTS = sorted(
    set(KUBERNETES.glob("*.yaml")) - {KUBERNETES / "kustomization.yaml", KUBERNETES / "job.yaml"}
)
KUSTOMIZATION = next(documents(KUBERNETES / "kustomization.yaml"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts(script: Path) -> None:
    needs("shellcheck", "apt-get install shellcheck")
    assert call("shellcheck", script) == ""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_manifests(manifest: Path, version: str) -> None:
    for document in documents(manifest):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_manifest_is_found() -> None:
    cronjob = next(documents(KUBERNETES / "cronjob.yaml"))
    cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["serviceAcountName"] = "colonnade"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(cronjob, VERSIONS[-1], strict=True)


def test_the_kustomization_lists_what_is_there() -> None:
    assert sorted(KUSTOMIZATION["resources"]) == [path.name for path in MANIFESTS]
    [generated] = KUSTOMIZATION["configMapGenerator"]
    assert all((KUBERNETES / name).is_file() for name in generated["files"])
    [image] = KUSTOMIZATION["images"]
    assert image["newTag"] == __version__
    job = next(documents(KUBERNETES / "job.yaml"))
    assert job["cluster"]["image"] == f"{image['newName']}:{__version__}"


def test_what_the_kustomization_builds() -> None:
    # There is no package that could be asked for: Debian's kubectl shuts out all others
    if not (kubectl := shutil.which("kubectl")):
        pytest.skip("there is no kubectl here")
    built = list(yaml.safe_load_all(call(kubectl, "kustomize", KUBERNETES)))
    assert len(built) == len(MANIFESTS) + 1
    for document in built:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
        assert document["metadata"]["namespace"] == KUSTOMIZATION["namespace"]
    by_kind = {document["kind"]: document for document in built}
    pod = by_kind["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"REGISTRY/colonnade:{__version__}"
    # With a hash of its content behind it, which the pod must be given as well
    assert pod["volumes"][0]["configMap"]["name"] == by_kind["ConfigMap"]["metadata"]["name"]
    (subject,) = by_kind["RoleBinding"]["subjects"]
    assert (
        subject["name"]
        == pod["serviceAccountName"]
        == by_kind["ServiceAccount"]["metadata"]["name"]
    )


def test_a_schedule_runs_one_at_a_time_and_keeps_few() -> None:
    spec = next(documents(KUBERNETES / "cronjob.yaml"))["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert 0 < spec["successfulJobsHistoryLimit"] <= spec["failedJobsHistoryLimit"] < 10


def test_the_role_has_the_least_rights() -> None:
    rules = next(documents(KUBERNETES / "role.yaml"))["rules"]
    for rule in rules:
        assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert "secrets" not in rule["resources"]
        if rule["apiGroups"] != ["kubernetes.dask.org"]:
            assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_the_jobs_in_it_are_jobs() -> None:
    load_job(KUBERNETES / "job.yaml")


def test_the_dockerfile() -> None:
    assert call(Path(sys.executable).with_name("hadolint"), DEPLOY / "docker" / "Dockerfile") == ""


def test_the_image_is_not_root_and_its_base_is_pinned() -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "10001:10001"


def test_the_image_holds_what_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = list(project["dependencies"])
    for extra in ("cloud", "dashboard", "kubernetes"):
        asked += project["optional-dependencies"][extra]
    wanted = {found.name.lower(): found for found in map(Requirement, asked)}
    lines = (DEPLOY / "docker" / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins.keys() == wanted.keys()
    assert all(wanted[name].specifier.contains(version) for name, version in pins.items())


def test_units(tmp_path: Path) -> None:
    needs("systemd-analyze", "apt-get install systemd")
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text().replace("/opt/colonnade/bin/colonnade", sys.executable)
        for name in (unit.name, unit.name.replace("@", "@digits")):
            (tmp_path / name).write_text(text)
    found = sorted(tmp_path.glob("*digits*"))
    assert len(found) == 2
    assert call("systemd-analyze", "verify", "--man=no", *found) == ""


def test_a_wrong_unit_is_found(tmp_path: Path) -> None:
    needs("systemd-analyze", "apt-get install systemd")
    unit = tmp_path / "wrong.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nRestrt=no\n")
    assert "Restrt" in call("systemd-analyze", "verify", "--man=no", unit)


def test_the_timer() -> None:
    needs("systemd-analyze", "apt-get install systemd")
    text = (DEPLOY / "systemd" / "colonnade@.timer").read_text()
    calendar = re.search(r"^OnCalendar=(.*)$", text, re.MULTILINE)
    assert calendar is not None
    assert "Next elapse" in call("systemd-analyze", "calendar", calendar[1])
