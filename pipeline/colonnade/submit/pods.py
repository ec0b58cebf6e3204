"""Kubernetes: a Job whose pod runs `colonnade run` with the job file from a ConfigMap.

The pod is the run's own process; Dask's operator creates its scheduler and its workers.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from colonnade.clusters.kubernetes import SMALL, namespace, reached
from colonnade.errors import ClusterError, IncompleteError, one_line, sanitize
from colonnade.job import Job, KubernetesCluster
from colonnade.job.file import unexpanded
from colonnade.submit.base import PATIENCE, POLL

__all__ = ["PodJob"]

_PLACE = "/etc/colonnade"
_WRONG = 2
# Each attempt resumes where the last one ended
_ATTEMPTS = 6
# A wrong job is not tried again; a pre-empted pod does not count as an attempt
_RULES = [
    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [_WRONG]}},
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
]
_SECONDS_KEPT = 7 * 86400
_CLOSING = 40


class PodJob:
    """A run as a Kubernetes Job.

    Parameters
    ----------
    job
        The job to run there, with overrides applied and variables expanded.
    settings
        The job's cluster section.
    prefix
        Prefix of the Job's name.
    """

    def __init__(self, job: Job, settings: KubernetesCluster, prefix: str) -> None:
        self._job = job
        self._settings = settings
        # The pod names the ConfigMap before the ConfigMap exists
        self._name = f"{prefix}-{uuid.uuid4().hex[:8]}"

    @property
    def text(self) -> str:
        """Both manifests, as kubectl accepts them."""
        return yaml.safe_dump_all([self._config_map(), self._manifest()], sort_keys=False)

    def submit(self) -> str:
        """Create the Job, and a ConfigMap that is deleted with the Job."""
        with self._reached() as (batch, core, place):
            made = batch.create_namespaced_job(place, self._manifest())
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": self._name}
            owner["uid"] = made.metadata.uid
            config_map = self._config_map()
            config_map["metadata"]["ownerReferences"] = [owner]
            try:
                core.create_namespaced_config_map(place, config_map)
            except Exception:
                batch.delete_namespaced_job(self._name, place, propagation_policy="Background")
                raise
        return self._name

    def log(self, job_id: str) -> str:
        """Return the command that shows the run's log."""
        named = self._settings.namespace
        return f"kubectl {f'--namespace {named} ' if named else ''}logs job/{job_id}"

    def follow(self, job_id: str) -> int | None:
        """Poll the Job until it is complete or has failed; return the run's exit status, if any."""
        status: int | None = None
        last: ClusterError | None = None
        unanswered = 0
        while unanswered < PATIENCE:
            try:
                with self._reached() as (batch, core, place):
                    chosen = f"job-name={job_id}"
                    pods = core.list_namespaced_pod(place, label_selector=chosen).items
                    status = _exit_status(pods, status)
                    job = batch.read_namespaced_job(job_id, place)
            except ClusterError as error:
                unanswered, last = unanswered + 1, error
            else:
                unanswered = 0
                ended = {c.type for c in job.status.conditions or () if c.status == "True"}
                if "Complete" in ended:
                    return 0
                # Before version 1.26, Kubernetes does not know the rules and tries again
                if "Failed" in ended or status == _WRONG:
                    return status or None
            time.sleep(POLL)
        raise IncompleteError(
            f"the state of the Job {job_id} is unknown: {last} The Job may still be running: "
            "check it with kubectl get job."
        )

    def _pod(self) -> dict[str, Any]:
        settings = self._settings
        container = {
            "name": "colonnade",
            "image": settings.image,
            "command": ["colonnade", "run", f"{_PLACE}/job.yaml"],
            "env": [{"name": name, "value": value} for name, value in settings.env.items()],
            "envFrom": [{"secretRef": {"name": name}} for name in settings.env_from_secrets],
            "resources": SMALL,
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "job", "mountPath": _PLACE, "readOnly": True}],
        }
        spec = {
            "restartPolicy": "Never",
            # Leaves time to delete the cluster after the blocks in flight
            "terminationGracePeriodSeconds": math.ceil(settings.grace) + _CLOSING,
            "containers": [container],
            "volumes": [{"name": "job", "configMap": {"name": self._name}}],
        }
        if settings.service_account is not None:
            spec["serviceAccountName"] = settings.service_account
        return spec

    def _config_map(self) -> dict[str, Any]:
        # The pod expands variables again and must find none
        document = unexpanded(self._job.model_dump(mode="json", exclude_unset=True))
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": self._metadata(),
            "data": {"job.yaml": yaml.safe_dump(document, sort_keys=False, allow_unicode=True)},
        }

    def _manifest(self) -> dict[str, Any]:
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": self._metadata(),
            "spec": {
                "backoffLimit": _ATTEMPTS,
                "podFailurePolicy": {"rules": _RULES},
                "ttlSecondsAfterFinished": _SECONDS_KEPT,
                "template": {
                    "metadata": {"labels": {"app.kubernetes.io/name": "colonnade"}},
                    "spec": self._pod(),
                },
            },
        }

    def _metadata(self) -> dict[str, Any]:
        found = {"name": self._name, "labels": {"app.kubernetes.io/name": "colonnade"}}
        # Without a namespace, kubectl uses the context's
        named = self._settings.namespace
        return found if named is None else {**found, "namespace": named}

    @contextmanager
    def _reached(self) -> Iterator[tuple[Any, Any, str]]:
        """Yield the API of Jobs, the API of pods, and the namespace."""
        named = namespace(self._settings)
        try:
            client, place = reached(named)
            yield client.BatchV1Api(), client.CoreV1Api(), place
        except ClusterError:
            raise
        # urllib3, the configuration and the API have separate hierarchies of exceptions
        except Exception as error:
            where = "" if named is None else f", namespace {named}"
            raise ClusterError(f"Kubernetes{where}: {_cause(error)}.") from error


def _exit_status(pods: list[Any], former: int | None) -> int | None:
    """Return the exit status of the last attempt that has ended; `former` if none has."""
    ended = [
        container.state.terminated
        for pod in pods
        for container in pod.status.container_statuses or ()
        if container.state.terminated is not None
    ]
    if not ended:
        return former
    return int(max(ended, key=lambda found: found.finished_at).exit_code)


def _cause(error: Exception) -> str:
    """Return the API's error in one line: its message is in JSON, after many headers."""
    body = str(getattr(error, "body", ""))
    try:
        return sanitize(str(yaml.safe_load(body)["message"]), 300).rstrip(".")
    except (KeyError, TypeError, yaml.YAMLError):
        return one_line(error).rstrip(".")
