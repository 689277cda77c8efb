"""Renders charts with the real Helm, and remembers what it rendered."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CHARTS = Path(__file__).parents[2] / "helm"
RELEASE, NAMESPACE = "basketball", "basketball-api"
KUBERNETES = "1.36.0"

Manifest = dict[str, Any]
Values = Mapping[str, Any]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class HelmError(Exception):
    """Helm refused; the text is what it said."""


class Helm:
    """The program, with a home of its own."""

    def __init__(self, binary: Path, home: Path) -> None:
        self._binary = binary
        self._environment = {
            "HOME": str(home),
            "PATH": os.environ.get("PATH", os.defpath),
            "HELM_CACHE_HOME": str(home / "cache"),
            "HELM_CONFIG_HOME": str(home / "config"),
            "HELM_DATA_HOME": str(home / "data"),
        }
        self._rendered: dict[tuple[str, ...], str] = {}

    def run(self, *arguments: str, given: str = "") -> str:
        """Run a command; returns what it printed. Raises `HelmError`."""
        return _printed([str(self._binary), *arguments], env=self._environment, input=given, timeout=30)

    def script(self, text: str, folder: Path, **environment: str) -> str:
        """Run a script of a shell in which `helm` is this program; returns what it printed. Raises `HelmError`."""
        return _printed(
            ["/bin/bash", "-ec", f'helm() {{ {shlex.quote(str(self._binary))} "$@"; }}\n{text}'],
            cwd=folder,
            env={**self._environment, **environment},
            timeout=60,
        )

    def text(
        self,
        chart: Path,
        values: Values | None = None,
        *,
        kubernetes: str = KUBERNETES,
        namespace: str = NAMESPACE,
    ) -> str:
        """Render a chart, once for each set of values."""
        given = json.dumps(values or {})
        key = (str(chart), given, kubernetes, namespace)
        if key not in self._rendered:
            self._rendered[key] = self.run(
                *("template", RELEASE, str(chart), "--namespace", namespace, "--values", "-"),
                *("--kube-version", kubernetes),
                *("--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"),
                given=given,
            )
        return self._rendered[key]

    def template(
        self,
        chart: Path,
        values: Values | None = None,
        *,
        kubernetes: str = KUBERNETES,
        namespace: str = NAMESPACE,
    ) -> list[Manifest]:
        """Render a chart to its manifests."""
        text = self.text(chart, values, kubernetes=kubernetes, namespace=namespace)
        return [document for document in yaml.load_all(text, Loader=_LOADER) if document]


def merged(one: Values, other: Values) -> dict[str, Any]:
    """Merge values as Helm does: mappings key by key, everything else whole."""
    shared = {key for key in one if isinstance(one[key], Mapping) and isinstance(other.get(key), Mapping)}
    return {**one, **other, **{key: merged(one[key], other[key]) for key in shared}}


def copy(folder: Path, *charts: str) -> Path:
    """Copy charts to where their dependencies may be built, which is not the checkout."""
    for chart in charts:
        shutil.copytree(CHARTS / chart, folder / chart, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
    return folder


def one(manifests: list[Manifest], kind: str, *, name: str | None = None) -> Manifest:
    """Return the only manifest of a kind, or the only one of that name."""
    [found] = [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind and name in (None, manifest["metadata"]["name"])
    ]
    return found


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Find every pod, and every workload's: what it is in, and the pod with its metadata."""
    for manifest in manifests:
        where = f"{manifest['kind']} {manifest['metadata']['name']}"
        match manifest["kind"]:
            case "Pod":
                yield where, manifest
            case "CronJob":
                yield where, manifest["spec"]["jobTemplate"]["spec"]["template"]
            case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
                yield where, manifest["spec"]["template"]
            case _:
                pass


def pod(manifests: list[Manifest]) -> Manifest:
    """Return the application's pod: the one that isn't `helm test`'s."""
    [found] = [pod for where, pod in pods(manifests) if not where.startswith("Pod ")]
    return found


def ours(pod: Manifest) -> Manifest:
    """Return the last of our containers: the sidecar, or what fetches tokens and ends."""
    containers = [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
    return dict([one for one in containers if one["name"].startswith("token-sidecar")][-1])


def sidecar(pod: Manifest) -> Manifest:
    """Return the container that keeps the tokens fresh."""
    found = ours(pod)
    assert found["name"] == "token-sidecar"
    return found


def _printed(command: list[str], **how: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, check=False, **how
    )
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout
