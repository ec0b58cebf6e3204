"""Pods that Dask's Kubernetes operator starts, through dask-kubernetes."""

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

__all__ = [
    "LABELS",
    "SMALL",
    "deploy",
    "namespace",
    "reached",
    "specification",
    "unstuck",
]

SMALL = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
"""Resources of a pod that computes nothing: the scheduler's, or the run's own process's."""
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_GROUP, _VERSION, _PLURAL = "kubernetes.dask.org", "v1", "daskclusters"
LABELS = {"app.kubernetes.io/part-of": "colonnade"}
"""Labels of a cluster's pods, by which a NetworkPolicy selects them."""
_EXPOSED = (
    "its pods use plain TCP, because Dask's operator supports no TLS, and any process that can "
    "connect to them can run code in them: restrict access by a NetworkPolicy "
    "(deploy/kubernetes/networkpolicy.yaml); cluster.security: none ends this warning"
)
# Seconds between two polls of a DaskCluster that does not run yet
_LOOK = 2.0
# Timeout of a request to the API, in seconds
_REQUEST = 10


@contextmanager
def deploy(settings: KubernetesCluster) -> Iterator[Deployment]:
    """Create a DaskCluster, and delete it on exit."""
    if isinstance(settings.security, TlsSettings):
        raise ClusterError(
            "Dask's operator and its client connect to the scheduler by plain TCP only, so the "
            "pods cannot use certificates (cluster.security): leave the setting out, and let a "
            "NetworkPolicy admit only the run's pods (deploy/kubernetes/networkpolicy.yaml)."
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
    # The API server and its client libraries may raise any exception
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
    """Delete a stuck worker's pod at once; the operator creates another."""
    del name
    client, _ = reached(namespace)
    host = get_address_host(worker)
    pods = client.CoreV1Api()
    # If the pod stays, its worker has lost its blocks anyway
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
    """Set a DaskCluster's phase to Running if a race in the operator leaves it Pending.

    The handler that creates the scheduler's service sets Pending, and the handler that sees the
    service sets Running. In the wrong order the phase stays Pending, and the client waits until
    its timeout (github.com/dask/dask-kubernetes/issues/968).
    """
    client, where = reached(namespace)
    done = threading.Event()

    def look() -> None:
        cluster = (_GROUP, _VERSION, where, _PLURAL, name)
        while not done.wait(_LOOK):
            # An error here also occurs in the run's own requests, which report it
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
    """Return the job's namespace, or within a pod the pod's own; None for the context's."""
    # kr8s assumes "default" within a pod
    if settings.namespace is None and _OWN_NAMESPACE.is_file():
        return _OWN_NAMESPACE.read_text().strip()
    return settings.namespace


def reached(namespace: str | None) -> tuple[Any, str]:
    """Return the API client, configured like kubectl or from the pod, and the namespace's name."""
    client, config, kr8s = (
        library(name, "kubernetes") for name in ("kubernetes.client", "kubernetes.config", "kr8s")
    )
    config.load_config()
    return client, str(kr8s.api().namespace) if namespace is None else namespace


def specification(settings: KubernetesCluster, name: str) -> dict[str, Any]:
    """Return the DaskCluster resource to create."""
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
    # By default the scheduler has a worker's resources, which may fill a node
    spec["spec"]["scheduler"]["spec"]["containers"][0]["resources"] = SMALL
    # Images with a current Dask have no command dask-scheduler
    arguments = spec["spec"]["scheduler"]["spec"]["containers"][0]["args"]
    if arguments[0] == "dask-scheduler":
        arguments[:1] = ["dask", "scheduler"]
    if not settings.dashboard:
        # The HTTP servers stay: the operator uses the scheduler's as its readiness probe
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
