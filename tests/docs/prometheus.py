"""What is shown of others' configuration around our alerts: Prometheus' own, and Alertmanager's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tests.docs.pages import ROOT
from tests.promtool import complaints_about_configuration

ALERTS = ROOT / "helm" / "token-sidecar" / "files" / "alerts.yaml"
LABELS = {
    "alertname",
    "severity",
    "cluster",
    "namespace",
    "job",
    "instance",
    "pod",
    "token",
    "store",
    "set",
    "provider",
}
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')

Document = dict[str, Any]


def rules() -> dict[str, Document]:
    """Return our alerts, by name."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def configuration(document: Document) -> Iterator[str]:
    """Let Prometheus judge its configuration, with our rules where it names a file of rules."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "prometheus.yaml"
        files = {"rule_files": [str(ALERTS)]} if "rule_files" in document else {}
        # Debian's Prometheus is built without discovery in clusters.
        jobs = [
            {key: value for key, value in job.items() if key != "kubernetes_sd_configs"}
            for job in document["scrape_configs"]
        ]
        file.write_text(yaml.safe_dump({**document, **files, "scrape_configs": jobs}), encoding="utf-8")
        if complaint := complaints_about_configuration(file):
            yield complaint


def alertmanager(document: Document) -> Iterator[str]:
    """Judge a part of Alertmanager's configuration: does it speak of alerts, labels and receivers that there are?"""
    for matcher in _found(document, "matchers", "source_matchers", "target_matchers"):
        yield from _matcher(matcher)
    yield from (
        f"our alerts have no label {name}" for name in _found(document, "equal") if name not in LABELS
    )
    receivers = {one["name"] for one in document.get("receivers", [])}
    yield from (
        f"there is no receiver {name}" for name in _found(document, "receiver") if name not in receivers
    )


def _matcher(text: str) -> Iterator[str]:
    parts = MATCHER.fullmatch(text)
    if parts is None:
        yield f"no matcher: {text}"
        return
    label, _, value = parts.groups()
    if label not in LABELS:
        yield f"our alerts have no label {label}"
    if label == "alertname" and not any(re.fullmatch(value, name) for name in rules()):
        yield f"there is no alert {value}"
    for words in re.findall(r"TokenSidecar\(([\w|]+)\)", value):
        yield from (
            f"there is no alert {word}" for word in words.split("|") if f"TokenSidecar{word}" not in rules()
        )


def _found(part: Any, *keys: str) -> Iterator[str]:
    """Find the texts that stand under these keys, however deep."""
    if isinstance(part, list):
        yield from (text for one in part for text in _found(one, *keys))
    elif isinstance(part, dict):
        for key, value in part.items():
            if key in keys:
                yield from [value] if isinstance(value, str) else value
            else:
                yield from _found(value, *keys)
