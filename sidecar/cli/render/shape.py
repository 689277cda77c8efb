"""What a pod gets: the sidecar's container, its volumes, and the application's mount.

`helm/token-sidecar` says the same in its template language; tests render both and compare.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from sidecar.cli.render.configured import LOOPBACK, Configured
from sidecar.cli.render.options import Wish
from sidecar.errors import UsageError

Json = dict[str, Any]

CONTAINER = "token-sidecar"
TOKENS, STATE, CONFIG = "token-sidecar-tokens", "token-sidecar-state", "token-sidecar-config"
API = "token-sidecar-kube-api-access"
CONFIG_FILE = "/etc/token-sidecar/config.yaml"
LONGEST_IN_VOLUME = 40

PROBES = {
    "startupProbe": (
        "startup",
        "/startupz",
        {"periodSeconds": 2, "failureThreshold": 450, "timeoutSeconds": 5},
    ),
    "livenessProbe": ("live", "/livez", {"periodSeconds": 10, "failureThreshold": 3, "timeoutSeconds": 5}),
    "readinessProbe": ("ready", "/readyz", {"periodSeconds": 5, "failureThreshold": 2, "timeoutSeconds": 5}),
}


class Shape(msgspec.Struct, frozen=True):
    """The parts that a pod gets."""

    init_containers: list[Json]
    containers: list[Json]
    """None for a native sidecar."""
    volumes: list[Json]
    mount: Json
    """Of each container that reads tokens."""
    annotations: dict[str, str]


def shape(wish: Wish, configured: Configured) -> Shape:
    """Make the parts. Raises `UsageError` for what can't work."""
    if not wish.exec_probes and configured.host in LOOPBACK:
        raise UsageError(
            f"server.host: kubelet can't reach {configured.host}; leave it out, or ask for --exec-probes"
        )
    for file in configured.files:
        if not file.startswith(f"{wish.directory.rstrip('/')}/"):
            raise UsageError(
                f"no volume is mounted where output {file} is; write it below {wish.directory}, or name its directory "
                "with --directory"
            )
    common = _container(wish, configured)
    config = ["--config", CONFIG_FILE]
    daemon = {"name": CONTAINER, "args": ["run", *config], **common, **_daemon(wish, configured.port)}
    if wish.native:
        init, beside = [{**daemon, "restartPolicy": "Always"}], []
    else:
        once = {"name": f"{CONTAINER}-once", "args": ["run", "--once", "--wait", "5m", *config], **common}
        init, beside = [once], [daemon]
    digest = hashlib.sha256(configured.text.encode()).hexdigest()
    return Shape(
        init_containers=init,
        containers=beside,
        volumes=_volumes(wish, configured),
        mount={"name": TOKENS, "mountPath": wish.directory, "readOnly": True},
        annotations={"checksum/token-sidecar": digest},
    )


def _container(wish: Wish, configured: Configured) -> Json:
    mounts: list[Json] = [
        {"name": TOKENS, "mountPath": wish.directory},
        {"name": STATE, "mountPath": configured.state_dir},
        {"name": CONFIG, "mountPath": "/etc/token-sidecar", "readOnly": True},
    ]
    if configured.uses:
        account = "/var/run/secrets/kubernetes.io/serviceaccount"
        mounts.append({"name": API, "mountPath": account, "readOnly": True})
    mounts += [
        {"name": _volume_of(secret), "mountPath": path, "readOnly": True}
        for secret, path in sorted(wish.secrets.items())
    ]
    return {
        "image": wish.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in (
                ("POD_NAME", "metadata.name"),
                ("POD_NAMESPACE", "metadata.namespace"),
                ("POD_UID", "metadata.uid"),
            )
        ],
        "resources": {
            "requests": {"cpu": wish.cpu, "memory": wish.memory},
            "limits": {"memory": wish.memory_limit},
        },
        "securityContext": {
            "runAsNonRoot": True,
            **({} if wish.user is None else {"runAsUser": wish.user}),
            **({} if wish.group is None else {"runAsGroup": wish.group}),
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _daemon(wish: Wish, port: int) -> Json:
    """What only a container that goes on running has."""
    return {
        "ports": [{"name": "token-sidecar", "containerPort": port, "protocol": "TCP"}],
        **{
            name: {**_handler(wish, question, path, port), **timing}
            for name, (question, path, timing) in PROBES.items()
        },
    }


def _handler(wish: Wish, question: str, path: str, port: int) -> Json:
    if wish.exec_probes:
        return {"exec": {"command": ["token-sidecar", "healthcheck", question]}}
    return {"httpGet": {"path": path, "port": port}}


def _volumes(wish: Wish, configured: Configured) -> list[Json]:
    volumes: list[Json] = [
        {"name": TOKENS, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": STATE, "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}},
        {"name": CONFIG, "configMap": {"name": wish.name}},
    ]
    if configured.uses:
        volumes.append({"name": API, "projected": {"sources": _account()}})
    return volumes + [
        {"name": _volume_of(secret), "secret": {"secretName": secret}} for secret in sorted(wish.secrets)
    ]


def _account() -> list[Json]:
    """The pod's own token, for the sidecar alone: what kubelet would give to every container."""
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]


def _volume_of(secret: str) -> str:
    """Name a Secret's volume; a Secret may have a longer name than a volume can have."""
    if re.fullmatch("[a-z0-9-]+", secret) and len(secret) <= LONGEST_IN_VOLUME:
        return f"token-sidecar-secret-{secret}"
    return f"token-sidecar-secret-{hashlib.sha256(secret.encode()).hexdigest()[:8]}"
