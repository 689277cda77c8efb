"""A workload with the sidecar in it: a part of somebody's own, to be merged into it, or a whole example."""

from __future__ import annotations

from sidecar.cli.render.options import Wish, Workload
from sidecar.cli.render.shape import Json, Shape


def part(workload: Workload, containers: tuple[str, ...], parts: Shape, namespace: str = "") -> Json:
    """Write what is to be merged into a workload: lists are merged by name, so that nothing is lost."""
    readers = [{"name": name, "volumeMounts": [parts.mount]} for name in containers]
    template = {
        "metadata": {"annotations": parts.annotations},
        "spec": {
            "initContainers": parts.init_containers,
            "containers": [*readers, *parts.containers],
            "volumes": parts.volumes,
        },
    }
    spec = {"template": template}
    metadata = {"name": workload.name, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": workload.api,
        "kind": workload.kind,
        "metadata": metadata,
        "spec": {"jobTemplate": {"spec": spec}} if workload.kind == "CronJob" else spec,
    }


def example(wish: Wish, parts: Shape, groups: list[int]) -> Json:
    """Write a whole Deployment, whose application prints what it finds; its pod is in the outputs' groups."""
    labels = {"app.kubernetes.io/name": "app", "app.kubernetes.io/instance": wish.name}
    application = {
        "name": "app",
        "image": "busybox:1.37",
        "command": ["sh", "-c", f"while ls -l {wish.directory}; do sleep 60; done"],
        "securityContext": parts.init_containers[0]["securityContext"],
        "volumeMounts": [parts.mount],
    }
    account = {"serviceAccountName": wish.service_account} if wish.service_account else {}
    security: Json = {"fsGroup": groups[0]} if groups else {}
    security |= {"supplementalGroups": groups[1:]} if groups[1:] else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "app", "namespace": wish.namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": parts.annotations},
                "spec": {
                    **account,
                    **({"securityContext": security} if security else {}),
                    "automountServiceAccountToken": False,
                    "initContainers": parts.init_containers,
                    "containers": [application, *parts.containers],
                    "volumes": parts.volumes,
                },
            },
        },
    }
