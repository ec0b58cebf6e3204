"""Kubernetes: a Job whose pod runs `colonnade run`, on the job file from a ConfigMap.

The pod is the run's own process; Dask's operator makes the scheduler and the workers for it.
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
# Each attempt goes on where the last one ended
_ATTEMPTS = 6
# Where the job is wrong, another attempt changes nothing; a pod that is pre-empted counts as none
_RULES = [
    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [_WRONG]}},
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
]
_SECONDS_KEPT = 7 * 86400
_CLOSING = 40


class PodJob:
    """A run as a Job of Kubernetes.

    Parameters
    ----------
    job
        As it is to run there: its overrides applied, its variables expanded.
    settings
        Its cluster.
    prefix
        What the Job's name begins with.
    """

    def __init__(self, job: Job, settings: KubernetesCluster, prefix: str) -> None:
        self._job = job
        self._settings = settings
        # The pod has to be told beforehand what the ConfigMap is called
        self._name = f"{prefix}-{uuid.uuid4().hex[:8]}"

    @property
    def text(self) -> str:
        """Both manifests, as kubectl takes them."""
        return yaml.safe_dump_all([self._config_map(), self._manifest()], sort_keys=False)

    def submit(self) -> str:
        """Create the Job, and the ConfigMap that goes with it when it is deleted."""
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
        """Tell where the run's log is."""
        named = self._settings.namespace
        return f"kubectl {f'--namespace {named} ' if named else ''}logs job/{job_id}"

    def follow(self, job_id: str) -> int | None:
        """Ask for the Job until it is complete or has failed."""
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
                # A Kubernetes before 1.26 does not know the rules, and tries again
                if "Failed" in ended or status == _WRONG:
                    return status or None
            time.sleep(POLL)
        raise IncompleteError(
            f"it is not known how the Job {job_id} is: {last} The Job may go on all the same."
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
            # For the cluster to be deleted after the blocks in flight
            "terminationGracePeriodSeconds": math.ceil(settings.grace) + _CLOSING,
            "containers": [container],
            "volumes": [{"name": "job", "configMap": {"name": self._name}}],
        }
        if settings.service_account is not None:
            spec["serviceAccountName"] = settings.service_account
        return spec

    def _config_map(self) -> dict[str, Any]:
        # A second expansion, in the pod, must find nothing to expand
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
        # Without it, kubectl takes the context's
        named = self._settings.namespace
        return found if named is None else {**found, "namespace": named}

    @contextmanager
    def _reached(self) -> Iterator[tuple[Any, Any, str]]:
        """Reach the API's Jobs and pods, and the namespace."""
        named = namespace(self._settings)
        try:
            client, place = reached(named)
            yield client.BatchV1Api(), client.CoreV1Api(), place
        except ClusterError:
            raise
        # urllib3, the configuration and the API have an error tree each
        except Exception as error:
            where = "" if named is None else f", namespace {named}"
            raise ClusterError(f"Kubernetes{where}: {_told(error)}.") from error


def _exit_status(pods: list[Any], before: int | None) -> int | None:
    """Find the exit status of the last attempt that has ended."""
    ended = [
        container.state.terminated
        for pod in pods
        for container in pod.status.container_statuses or ()
        if container.state.terminated is not None
    ]
    if not ended:
        return before
    return int(max(ended, key=lambda found: found.finished_at).exit_code)


def _told(error: Exception) -> str:
    """Tell in a line what the API answers; it says why in JSON, at the end of many headers."""
    body = str(getattr(error, "body", ""))
    try:
        return sanitize(str(yaml.safe_load(body)["message"]), 300).rstrip(".")
    except (KeyError, TypeError, yaml.YAMLError):
        return one_line(error).rstrip(".")
