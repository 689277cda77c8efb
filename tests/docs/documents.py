"""What is shown as YAML: each document is one of the things that we know, and right as such."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import jsonschema
import yaml
from kubernetes_validate import utils

from sidecar import config
from sidecar.config import schema
from sidecar.errors import ConfigError
from tests.docs import prometheus
from tests.docs.pages import ROOT, Block
from tests.helm import schemas

RELEASE = schemas.NATIVE[-1]
CHART = ROOT / "helm" / "token-sidecar"
ELSEWHERE = ("helm.toolkit.fluxcd.io/", "kustomize.config.k8s.io/", "monitoring.coreos.com/", "argoproj.io/")
"""Groups of manifests whose schemas aren't here: they are looked at as any object is."""

OTHERS = {
    "a chart": {"apiVersion", "name", "version", "dependencies", "description", "type"},
    "a Helm plugin": {"apiVersion", "type", "name", "version", "runtime", "runtimeConfig"},
    "a kustomization": {"resources", "components", "patches", "namespace"},
    "values of another chart": {"podLabels", "podAnnotations"},
}
"""What belongs to others, and the keys that the pages use of it."""

PARTS = [f"io.k8s.api.core.v1.{name}" for name in ("Container", "PodSpec", "PodTemplateSpec")]
PARTS += ["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]
"""Parts of a pod's manifest, of which some keys may be shown alone."""

Document = dict[str, Any]


def mistakes(blocks: list[Block]) -> Iterator[tuple[Block, str]]:
    """Say what isn't valid, and what isn't known as anything."""
    for block in blocks:
        yield from ((block, mistake) for mistake in judge(block.text))


def judge(text: str) -> Iterator[str]:
    """Say what is wrong with a text of one document or more."""
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        yield from _template(text) if "{{" in text else (f"not YAML: {error}",)
        return
    for document in documents:
        yield from _judged(document) if isinstance(document, dict) else ("not a mapping",)


def _template(text: str) -> Iterator[str]:
    """Of a template of a chart, what it includes has to be defined; tests/helm render whole ones."""
    helpers = "".join(file.read_text(encoding="utf-8") for file in (CHART / "templates").glob("*.tpl"))
    included = re.findall(r'include "([^"]+)"', text)
    if not included:
        yield "neither YAML nor a template that includes one of ours"
    for name in included:
        if f'define "{name}"' not in helpers:
            yield f"the chart defines no {name}"


def _judged(document: Document) -> Iterator[str]:
    if "tokens" in document:
        yield from _configuration(yaml.safe_dump(document))
    elif "token-sidecar" in document:
        yield from _values(document["token-sidecar"])
    elif all(isinstance(part, dict) and "token-sidecar" in part for part in document.values()):
        yield from (mistake for chart in document.values() for mistake in _values(chart["token-sidecar"]))
    elif {"apiVersion", "kind"} <= document.keys():
        yield from _manifest(document)
    elif "scrape_configs" in document:
        yield from prometheus.configuration(document)
    elif document.keys() & {"route", "inhibit_rules"}:
        yield from prometheus.alertmanager(document)
    elif not any(document.keys() <= known for known in OTHERS.values()):
        yield from _fragment(document)


def _configuration(text: str) -> Iterator[str]:
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)", text), "value")
    with NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            config.load(
                Path(file.name), env={"RUNTIME_DIRECTORY": "/run/token-sidecar", **variables}, disk=False
            )
        except ConfigError as error:
            yield from error.problems


def _values(values: Document) -> Iterator[str]:
    yield from _errors(_chart(), values)
    if "tokens" in values.get("config", {}):
        yield from _configuration(yaml.safe_dump(values["config"]))


@cache
def _chart() -> Document:
    read: Document = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return read


def _manifest(manifest: Document) -> Iterator[str]:
    if manifest["apiVersion"].startswith(ELSEWHERE):
        if "name" not in manifest.get("metadata", {}):
            yield f"a {manifest['kind']} without metadata.name"
        return
    yield from schemas.mistakes(manifest, RELEASE)
    if manifest["kind"] == "ConfigMap" and "config.yaml" in manifest.get("data", {}):
        yield from _configuration(manifest["data"]["config.yaml"])


def _fragment(document: Document) -> Iterator[str]:
    """Judge by the first family in which something has all of these keys, and kindest of what has them there."""
    for family in _families():
        known = [part for part in family if document.keys() <= part["properties"].keys()]
        if known:
            yield from min((list(_errors(part, document)) for part in known), key=len)
            return
    yield f"nothing that is known has the keys {', '.join(document)}"


@cache
def _families() -> list[list[Document]]:
    """Return the schemas of what a part may be shown of: our configuration, a pod, our values; none requires a key."""
    whole = schema.generate()
    groups = [part["anyOf"][-1] if "anyOf" in part else part for part in whole["$defs"].values()]
    ours = [{"$defs": whole["$defs"], **group} for group in groups if "properties" in group]
    file = f"kubernetes-json-schema/v{RELEASE}.0-local-strict/_definitions.json"
    definitions = utils.schema_contents(file, RELEASE)["$defs"]
    theirs = [{"$defs": definitions, **definitions[name]} for name in PARTS]
    return [[_without_needs(part) for part in family] for family in (ours, theirs, [_chart()])]


def _without_needs(part: Document) -> Document:
    return {key: value for key, value in part.items() if key not in {"required", "oneOf"}}


def _errors(part: Document, document: Document) -> Iterator[str]:
    dialect = jsonschema.validators.validator_for(part, default=jsonschema.Draft202012Validator)
    return (f"{error.json_path}: {error.message}" for error in dialect(part).iter_errors(document))
