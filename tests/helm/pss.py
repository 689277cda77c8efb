"""The Pod Security Standards' profile "restricted", as far as a manifest shows it.

From the standards' own table of controls; `httpGet.host` of probes and hooks is one of them since 1.34.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""Every kind of volume that the profile allows."""

HANDLERS = ("startupProbe", "livenessProbe", "readinessProbe")


def violations(pod: dict[str, Any]) -> list[str]:
    """Name everything in a pod that admission under "restricted" would refuse."""
    spec = pod["spec"]
    found = [f"{key}: true" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    for volume in spec.get("volumes") or []:
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            found.append(f"volume {volume['name']}: {', '.join(sorted(kinds))}")
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        found += [
            f"{container['name']}: {said}"
            for said in _container(container, spec.get("securityContext") or {})
        ]
    return found


def _container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext") or {}
    context = {**pod, **own}
    capabilities = own.get("capabilities", {})
    added = set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}
    forbidden = {
        "runAsNonRoot isn't true": context.get("runAsNonRoot") is not True,
        "runs as root": context.get("runAsUser") == 0,
        "has no seccomp profile": context.get("seccompProfile", {}).get("type")
        not in {"RuntimeDefault", "Localhost"},
        "allowPrivilegeEscalation isn't false": own.get("allowPrivilegeEscalation") is not False,
        "is privileged": own.get("privileged"),
        "unmasks /proc": own.get("procMount", "Default") != "Default",
        "doesn't drop all capabilities": "ALL" not in capabilities.get("drop", []),
        f"adds capabilities {sorted(added)}": added,
        "has a hostPort": any(port.get("hostPort") for port in container.get("ports") or []),
    }
    yield from (said for said, so in forbidden.items() if so)
    for name in HANDLERS:
        yield from _host(name, container.get(name) or {})
    for name, hook in (container.get("lifecycle") or {}).items():
        yield from _host(name, hook)


def _host(name: str, handler: dict[str, Any]) -> Iterator[str]:
    if any(handler.get(kind, {}).get("host") for kind in ("httpGet", "tcpSocket")):
        yield f"{name} names a host"
