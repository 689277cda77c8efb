"""The workflows that a maintainer may switch on: what they say, since they run elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from image.size import instructions

PROJECT = Path(__file__).parents[2]
FILES = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
REGISTRIES = re.compile(r"\b(?:ghcr|quay|gcr|docker|k8s|pypi)\.(?:io|org)\b|public\.ecr", re.IGNORECASE)
OFF = re.compile(r"vars\.(TESTS|RELEASES) == 'on'")
RELEASE = "release.yml"


def parsed(path: Path) -> dict[Any, Any]:
    """Read a workflow; YAML's `on` is a boolean to this reader."""
    document: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def steps(path: Path) -> Iterator[dict[str, Any]]:
    """Go through the steps of all jobs."""
    for job in parsed(path)["jobs"].values():
        yield from job["steps"]


def named(path: Path) -> str:
    """Name a file as people do."""
    return path.name


def test_the_workflows_are_there() -> None:
    """One tests, one releases."""
    assert [path.name for path in FILES] == [RELEASE, "test.yml"]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_nothing_runs_until_it_is_switched_on(path: Path) -> None:
    """Each job hangs on a variable of the repository, or on a job that does; and ends when it hangs."""
    document = parsed(path)
    assert document["permissions"] == {"contents": "read"}
    assert "workflow_dispatch" in document[True]
    for job in document["jobs"].values():
        assert job.get("needs") in document["jobs"] or OFF.search(job["if"])
        assert job["timeout-minutes"] <= 60
        assert set(job.get("permissions", {"contents": "read"}).items()) <= {
            ("contents", "read"),
            ("id-token", "write"),
        }


@pytest.mark.parametrize("path", FILES, ids=named)
def test_actions_are_named_by_version_and_no_registry_by_host(path: Path) -> None:
    """Nobody made a commit up: a maintainer pins them, and says where to push."""
    text = path.read_text(encoding="utf-8")
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert [each for each in used if not re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", each)] == []
    assert "git ls-remote" in text
    assert REGISTRIES.search(text) is None


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_expression_is_pasted_into_a_script(path: Path) -> None:
    """What comes from outside reaches a shell by its environment: a tag's name can't be a command."""
    assert [step["run"] for step in steps(path) if "${{" in step.get("run", "")] == []
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_the_release_keeps_the_dockerfile_s_promises() -> None:
    """Both architectures, a pinned base, SBOM, provenance, signatures; with arguments and targets that exist."""
    (build,) = [
        each["with"] for each in steps(PROJECT / ".github/workflows" / RELEASE) if each.get("id") == "build"
    ]
    assert build["platforms"].split(",") == ["linux/amd64", "linux/arm64"]
    assert (build["sbom"], build["provenance"]) == (True, "mode=max")
    given = {line.partition("=")[0] for line in build["build-args"].splitlines()}
    known = {each.text.partition("=")[0] for each in instructions() if each.name == "ARG"}
    assert given - {"SOURCE_DATE_EPOCH"} <= known
    assert {"PYTHON_DIGEST", "VERSION", "REVISION"} <= given
    document = parsed(PROJECT / ".github/workflows" / RELEASE)
    targets = {each["target"] for each in document["jobs"]["image"]["strategy"]["matrix"]["include"]}
    assert targets == {each.stage for each in instructions() if each.name == "FROM"} - {"build"}
    assert f"PYTHON={document['env']['PYTHON']}" in [
        each.text for each in instructions() if each.name == "ARG"
    ]
    scripts = "\n".join(each.get("run", "") for each in steps(PROJECT / ".github/workflows" / RELEASE))
    assert scripts.count("cosign sign --yes") == 2
    assert "helm package --dependency-update" in scripts
