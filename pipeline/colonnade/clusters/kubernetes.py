"""Pods that Dask's operator for Kubernetes starts, by dask-kubernetes."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import distributed
from distributed.comm.addressing import get_address_host

from colonnade.clusters.base import Deployment, close, library, refusal
from colonnade.errors import ClusterError
from colonnade.job import KubernetesCluster, TlsSettings
from colonnade.planning.plan import Capacity

__all__ = [
    "LABELS",
    "SMALL",
    "capacity",
    "deploy",
    "namespace",
    "reached",
    "specification",
    "unstuck",
]

SMALL = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
"""Resources of a pod that computes nothing: the scheduler's, or that of a run's own process."""
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_GROUP, _VERSION, _PLURAL = "kubernetes.dask.org", "v1", "daskclusters"
LABELS = {"app.kubernetes.io/part-of": "colonnade"}
"""Of the pods of a cluster, by which a NetworkPolicy selects them."""
_EXPOSED = (
    "its pods speak plain TCP, since Dask's operator supports no other, and whatever reaches them "
    "runs code in them: a NetworkPolicy must keep others out "
    "(deploy/kubernetes/networkpolicy.yaml); cluster.security: none ends this warning"
)
# Seconds between looks at a DaskCluster that does not run yet
_LOOK = 2.0
# Seconds that the API has for an answer
_REQUEST = 10


def capacity(settings: KubernetesCluster) -> Capacity:
    """Tell what the pods will give."""
    return Capacity(settings.size, settings.cores, settings.memory)


@contextmanager
def deploy(settings: KubernetesCluster) -> Iterator[Deployment]:
    """Create a DaskCluster, and delete it."""
    if isinstance(settings.security, TlsSettings):
        raise ClusterError(
            "Dask's operator and its client reach the scheduler by plain TCP alone, so that the "
            "pods can be given no certificates (cluster.security): leave it out and let a "
            "NetworkPolicy admit the run's pods alone (deploy/kubernetes/networkpolicy.yaml)."
        )
    operator = library("dask_kubernetes.operator", "kubernetes")
    name = f"colonnade-{uuid.uuid4().hex[:8]}"
    try:
        with unstuck(name, namespace(settings)):
            cluster = operator.KubeCluster(
                custom_cluster_spec=specification(settings, name),
                namespace=namespace(settings),
                resource_timeout=math.ceil(settings.timeout),
                quiet=True,
            )
    # Whatever the cluster's server or its libraries may say
    except Exception as error:
        where = settings.namespace or "the context's namespace"
        raise refusal(f"no cluster in {where} of Kubernetes (cluster)", error) from error
    try:
        with distributed.Client(cluster, set_as_default=False) as client:
            if settings.adaptive is not None:
                cluster.adapt(minimum=settings.adaptive.minimum, maximum=settings.adaptive.maximum)
            yield Deployment(
                client,
                f"Kubernetes ({cluster.namespace}/{name})",
                exposed=_EXPOSED if settings.security == "auto" else "",
                discard=partial(_delete_pod, str(cluster.namespace)),
            )
    finally:
        close(cluster)


def _delete_pod(namespace: str, name: Any, worker: str) -> None:
    """Delete the pod of a worker that is stuck, at once; the operator makes another."""
    del name
    client, _ = reached(namespace)
    host = get_address_host(worker)
    pods = client.CoreV1Api()
    # What keeps the pod, it has lost its blocks already
    with suppress(Exception):
        found = pods.list_namespaced_pod(
            namespace, field_selector=f"status.podIP={host}", _request_timeout=_REQUEST
        )
        for pod in found.items:
            pods.delete_namespaced_pod(
                pod.metadata.name, namespace, grace_period_seconds=0, _request_timeout=_REQUEST
            )


@contextmanager
def unstuck(name: str, namespace: str | None) -> Iterator[None]:
    """Set a DaskCluster running again where the operator's handlers have overtaken each other.

    The one that has seen its service says that it runs, the one that has made that says that it
    is pending, and who waits for the later word waits until his time is over
    (github.com/dask/dask-kubernetes/issues/968).
    """
    client, where = reached(namespace)
    done = threading.Event()

    def look() -> None:
        cluster = (_GROUP, _VERSION, where, _PLURAL, name)
        while not done.wait(_LOOK):
            # What keeps it from looking keeps the run from its cluster, and is told there
            with suppress(Exception):
                found = client.CustomObjectsApi().get_namespaced_custom_object(*cluster)
                if found.get("status", {}).get("phase") != "Pending":
                    continue
                service = client.CoreV1Api().read_namespaced_service(f"{name}-scheduler", where)
                if service.spec.type != "LoadBalancer":
                    running = {"status": {"phase": "Running"}}
                    client.CustomObjectsApi().patch_namespaced_custom_object(*cluster, running)

    threading.Thread(target=look, name=f"{name}-phase", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def namespace(settings: KubernetesCluster) -> str | None:
    """Tell the job's namespace, or within a pod the pod's own; None for the context's."""
    # kr8s takes "default" for a pod's
    if settings.namespace is None and _OWN_NAMESPACE.is_file():
        return _OWN_NAMESPACE.read_text().strip()
    return settings.namespace


def reached(namespace: str | None) -> tuple[Any, str]:
    """Load the API's client, set up as kubectl is, or as a pod is; and which namespace is meant."""
    client, config, kr8s = (
        library(name, "kubernetes") for name in ("kubernetes.client", "kubernetes.config", "kr8s")
    )
    config.load_config()
    return client, str(kr8s.api().namespace) if namespace is None else namespace


def specification(settings: KubernetesCluster, name: str) -> dict[str, Any]:
    """Write the DaskCluster that the operator is asked for."""
    operator = library("dask_kubernetes.operator", "kubernetes")
    memory = str(settings.memory)
    resources = {"cpu": str(settings.cores), "memory": memory}
    spec: dict[str, Any] = operator.make_cluster_spec(
        name,
        image=settings.image,
        n_workers=settings.size,
        resources={"requests": resources, "limits": resources},
        env=dict(settings.env),
        worker_command=[
            "dask", "worker", "--nthreads", str(settings.cores), "--memory-limit", memory,
        ],
    )  # fmt: skip
    spec["metadata"]["labels"] = dict(LABELS)
    # Not a worker's, which may be a whole node
    spec["spec"]["scheduler"]["spec"]["containers"][0]["resources"] = SMALL
    # A dask-scheduler is in no image with a Dask of today
    arguments = spec["spec"]["scheduler"]["spec"]["containers"][0]["args"]
    if arguments[0] == "dask-scheduler":
        arguments[:1] = ["dask", "scheduler"]
    if not settings.dashboard:
        # The HTTP servers stay: the operator asks the scheduler's whether it is ready
        for part in ("scheduler", "worker"):
            spec["spec"][part]["spec"]["containers"][0]["args"].append("--no-dashboard")
    for part in ("scheduler", "worker"):
        pod = spec["spec"][part]["spec"]
        if settings.service_account is not None:
            pod["serviceAccountName"] = settings.service_account
        pod["containers"][0]["envFrom"] = [
            {"secretRef": {"name": secret}} for secret in settings.env_from_secrets
        ]
    return spec
