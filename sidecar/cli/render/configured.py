"""The configuration as pods get it, and what it makes the daemon ask of Kubernetes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from sidecar import config
from sidecar.config import durability
from sidecar.config.context import Context
from sidecar.config.kubernetes import secret_place
from sidecar.config.mounts import Mounts
from sidecar.config.settings import RolloutRestart
from sidecar.errors import ConfigError

STATE_DIRECTORY = "/run/token-sidecar"
PORT = 9640
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
RESTARTABLE = RolloutRestart.WORKLOADS

Uses = dict[str, dict[str, list[str]]]
"""Namespace → kind of use (`state`, `outputs`, `seeds`, `deployments`, …) → names."""


class Configured(msgspec.Struct, frozen=True):
    """A valid configuration, ready for a ConfigMap."""

    text: str
    state_dir: str
    host: str
    port: int
    files: tuple[str, ...]
    """Outputs that are files."""
    groups: tuple[int, ...]
    """Who owns them, where a number says it."""
    uses: Uses


def read(path: Path, namespace: str) -> Configured:
    """Check a configuration as `check --no-disk` does, for pods of a namespace.

    Raises `ConfigError` with everything that is wrong with it.
    """
    loaded = config.load(path, env=_environment(namespace), disk=False, also=_check_durable)
    settings, server = loaded.settings, loaded.context.tree.get("server")
    files = [output for token in settings.entries.values() for output in token.outputs if output.file]
    return Configured(
        text=_with_defaults(path.read_text(encoding="utf-8-sig")),
        state_dir=str(settings.state_dir),
        host=settings.server.host if server is not None and server.get("host") else "::",
        port=_port(settings),
        files=tuple(str(output.file) for output in files),
        groups=tuple(sorted({output.group for output in files if isinstance(output.group, int)})),
        uses=_uses_of(settings, namespace),
    )


def _environment(namespace: str) -> dict[str, str]:
    """Give the variables that every sidecar has, and those of this machine for what is written as `${NAME}`."""
    pod = {
        "POD_NAMESPACE": namespace,
        "POD_NAME": "pod",
        "POD_UID": "0",
        "RUNTIME_DIRECTORY": STATE_DIRECTORY,
    }
    return {name: value for name, value in os.environ.items() if name != "STATE_DIRECTORY"} | pod


def _check_durable(settings: config.Settings, context: Context) -> None:
    """Report a store that ends with the pod: there, `state_dir` is in memory, and no default is anywhere else."""
    if settings.store.sqlite_path is not None and settings.store.url_file is None:
        in_memory = Mounts({Path(os.path.realpath(settings.state_dir)): "tmpfs"})
        durability.check(settings, in_memory, context)


def _port(settings: config.Settings) -> int:
    if settings.server.port:
        return settings.server.port
    raise ConfigError(f"{settings.path}: server.port: 0 is no port that probes could ask; write a number")


def _with_defaults(text: str) -> str:
    """Add what pods need where the file doesn't say it; every value stays as it is written, variables too."""
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    server = _member(root, "server", _mapping())
    if isinstance(server, yaml.MappingNode):
        _member(server, "host", yaml.ScalarNode("tag:yaml.org,2002:str", "::", style='"'))
        _member(server, "port", yaml.ScalarNode("tag:yaml.org,2002:int", str(PORT)))
    _member(root, "state_dir", yaml.ScalarNode("tag:yaml.org,2002:str", STATE_DIRECTORY))
    return str(yaml.serialize(root, Dumper=yaml.SafeDumper, width=110, allow_unicode=True))


def _member(mapping: yaml.MappingNode, key: str, default: yaml.Node) -> yaml.Node:
    found: yaml.Node | None = next((value for name, value in mapping.value if name.value == key), None)
    if found is not None:
        return found
    mapping.value.append((yaml.ScalarNode("tag:yaml.org,2002:str", key), default))
    return default


def _mapping() -> yaml.MappingNode:
    return yaml.MappingNode("tag:yaml.org,2002:map", [], flow_style=True)


def _uses_of(settings: config.Settings, namespace: str) -> Uses:
    found: Uses = {}
    named = {(where or namespace, kind, name) for where, kind, name in _uses(settings)}
    for where, kind, name in sorted(named):
        found.setdefault(where, {}).setdefault(kind, []).append(name)
    return found


def _uses(settings: config.Settings) -> Iterator[tuple[str, str, str]]:
    """Find every object that the daemon asks for: its namespace (empty: the pod's own), the kind of use, its name."""
    for name, token in settings.tokens.items():
        if settings.store.scheme == "kubernetes":
            place = secret_place(settings.store.url or "")
            yield place.namespace, "state", place.secret_of(name)
        secrets = [("outputs", output.kubernetes_secret) for output in token.outputs]
        secrets += [("seeds", token.seed.kubernetes_secret)] if token.seed else []
        yield from ((secret.namespace or "", kind, secret.name) for kind, secret in secrets if secret)
        for restart in (hook.rollout_restart for hook in token.after_refresh):
            if restart is not None:
                kind, workload = restart.workload
                yield restart.namespace or "", f"{kind}s", workload
