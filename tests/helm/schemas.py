"""Validates manifests against the schemas of Kubernetes' releases, offline and strictly.

`kubernetes_validate.validate` reads a release's definitions anew for each manifest; here each is read once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource

NATIVE = tuple(f"1.{minor}" for minor in range(29, 38))
"""The releases that have native sidecars, and a schema."""

FOREIGN = ("monitoring.coreos.com/",)
"""Groups that Kubernetes itself doesn't have: Prometheus' operator."""


def mistakes(manifest: dict[str, Any], release: str) -> list[str]:
    """Say what that release would not accept; misspelt fields too."""
    if manifest["apiVersion"].startswith(FOREIGN):
        return []
    group, _, version = manifest["apiVersion"].rpartition("/")
    prefix = f"{group.partition('.')[0]}-" if group else ""
    name = f"{manifest['kind'].lower()}-{prefix}{version}.json"
    place = f"{release}: {manifest['kind']} {manifest['metadata']['name']}"
    return [
        f"{place}: {error.json_path}: {error.message}"
        for error in _validator(release, name).iter_errors(manifest)
    ]


@cache
def _validator(release: str, name: str) -> Any:
    folder = f"kubernetes-json-schema/v{release}.0-local-strict"
    schema = utils.schema_contents(f"{folder}/{name}", release)
    registry = _definitions(release, f"{folder}/_definitions.json")
    return jsonschema.Draft202012Validator(schema, registry=Resource.from_contents(schema) @ registry)


@cache
def _definitions(release: str, file: str) -> Any:
    registry: Registry[Any] = Registry()
    return Resource.from_contents(utils.schema_contents(file, release)) @ registry
