"""What stands beside the pods: the ConfigMap, the state Secrets, and what the pods' account may do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sidecar.cli.render.configured import PORT, RESTARTABLE, STATE_DIRECTORY, Configured
from sidecar.cli.render.names import fitting
from sidecar.cli.render.options import DEFAULTS, Wish
from sidecar.cli.render.shape import LONGEST_IN_VOLUME, Json
from sidecar.errors import UsageError

VERBS = {
    "state": ["get", "patch"],
    "outputs": ["get", "patch"],
    "seeds": ["get"],
    **{f"{kind}s": ["get", "patch"] for kind in RESTARTABLE},
}


def objects(wish: Wish, configured: Configured, config_map: Json | None = None) -> Iterator[Json]:
    """Make every object; `config_map` in place of the plain one. Raises `UsageError` for what can't work."""
    yield config_map or {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(wish),
        "data": {"config.yaml": configured.text},
    }
    if configured.uses and wish.service_account is None:
        raise UsageError(
            "the configuration makes the daemon talk to Kubernetes; name the ServiceAccount that the pods run as "
            "with --service-account, so that it gets the permissions"
        )
    for namespace, uses in configured.uses.items():
        yield from (_state(wish, namespace, name) for name in uses.get("state", ()))
        yield _role(wish, namespace, uses)
        yield _binding(wish, namespace)


def parameters(wish: Wish, configured: Configured, containers: tuple[str, ...], label: str) -> Json:
    """Make the ConfigMap that `helm/token-sidecar-injector` reads: the configuration, and what isn't usual.

    Raises `UsageError` for what can't be said there.
    """
    _check_injectable(wish, configured)
    said = {
        "image": (wish.image, DEFAULTS.image),
        "runAsUser": (str(wish.user), str(DEFAULTS.user)),
        "runAsGroup": (str(wish.group), str(DEFAULTS.group)),
        "tokensDirectory": (wish.directory, DEFAULTS.directory),
        "secrets": (" ".join(f"{name}:{path}" for name, path in sorted(wish.secrets.items())), ""),
        "kubernetes": (str(bool(configured.uses)).lower(), "false"),
        "containers": (" ".join(containers), ""),
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(wish, labels={label: "true"}),
        "data": {
            **{key: value for key, (value, default) in said.items() if value != default},
            "config.yaml": configured.text,
        },
    }


def _check_injectable(wish: Wish, configured: Configured) -> None:
    fixed = {
        "--classic": not wish.native,
        "--any-user": wish.user is None,
        "--exec-probes": wish.exec_probes,
        "--cpu": wish.cpu != DEFAULTS.cpu,
        "--memory": wish.memory != DEFAULTS.memory,
        "--memory-limit": wish.memory_limit != DEFAULTS.memory_limit,
        "server.port": configured.port != PORT,
        "state_dir": configured.state_dir != STATE_DIRECTORY,
    }
    for what, asked in fixed.items():
        if asked:
            raise UsageError(
                f"{what}: is the same for all that an injector injects: its values say it; leave it out"
            )
    for name, path in wish.secrets.items():
        if len(name) > LONGEST_IN_VOLUME or not re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", name):
            raise UsageError(
                f"--mount: the injector names a volume after Secret {name!r}: give the Secret a name of small letters, "
                f"digits and `-`, at most {LONGEST_IN_VOLUME}"
            )
        if re.search(r"[\s,:]", path):
            raise UsageError(
                f"--mount: the injector reads {path!r} from a list: name a path without space, comma and colon"
            )


def _state(wish: Wish, namespace: str, name: str) -> Json:
    """A Secret without data: whoever applies it again takes nothing away."""
    keep = {"helm.sh/resource-policy": "keep"}
    labels = {"app.kubernetes.io/component": "state"}
    metadata = _metadata(wish, name=name, namespace=namespace, labels=labels)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**metadata, "annotations": keep},
        "type": "Opaque",
    }


def _role(wish: Wish, namespace: str, uses: Mapping[str, list[str]]) -> Json:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": _metadata(wish, name=_role_name(wish, namespace), namespace=namespace),
        "rules": [
            {
                "apiGroups": ["apps" if kind.removesuffix("s") in RESTARTABLE else ""],
                "resources": [kind if kind.removesuffix("s") in RESTARTABLE else "secrets"],
                "resourceNames": uses[kind],
                "verbs": verbs,
            }
            for kind, verbs in VERBS.items()
            if kind in uses
        ],
    }


def _binding(wish: Wish, namespace: str) -> Json:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(wish, name=_role_name(wish, namespace), namespace=namespace),
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": _role_name(wish, namespace),
        },
        "subjects": [
            {"kind": "ServiceAccount", "name": wish.service_account, "namespace": wish.namespace},
        ],
    }


def _role_name(wish: Wish, namespace: str) -> str:
    """Name a Role: applications of one name in several namespaces may ask for things in the same other one."""
    return wish.name if namespace == wish.namespace else fitting(f"{wish.name}-{wish.namespace}")


def _metadata(
    wish: Wish, *, name: str = "", namespace: str = "", labels: Mapping[str, str] | None = None
) -> Json:
    own = {"app.kubernetes.io/name": "token-sidecar", "app.kubernetes.io/instance": wish.name}
    return {
        "name": name or wish.name,
        "namespace": namespace or wish.namespace,
        "labels": {**own, **(labels or {})},
    }
