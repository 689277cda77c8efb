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
OFF = re.compile(r"vars\.(TESTS|RELEASES|AUDIT) == 'on'")
RELEASE = "release.yml"
AUDIT = "audit.yml"


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
    """One audits, one releases, one tests."""
    assert [path.name for path in FILES] == [AUDIT, RELEASE, "test.yml"]


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
    assert [
        each for each in used if not re.fullmatch(r"[\w-]+(/[\w-]+){1,2}@(v\d+|[0-9a-f]{40})", each)
    ] == []
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


def test_vulnerabilities_are_looked_for_each_day_and_before_a_release() -> None:
    """`make audit` can't be skipped over or forgiven, and nothing is released without it; bills come with each."""
    daily, release = (parsed(PROJECT / ".github/workflows" / name) for name in (AUDIT, RELEASE))
    assert daily[True]["schedule"]
    assert release["jobs"]["image"]["needs"] == "supply"
    assert release["jobs"]["charts"]["needs"] == "image"
    for job in (daily["jobs"]["audit"], release["jobs"]["supply"]):
        commands = [each["run"] for each in job["steps"] if "run" in each]
        assert [command.split()[:2] for command in commands] == [["make", "audit"], ["make", "sbom"]]
        assert not [each for each in [job, *job["steps"]] if "continue-on-error" in each]
        assert not [each for each in job["steps"] if "if" in each]
    assert set(re.findall(r"requirements/(\w+)\.txt", str(release["jobs"]["supply"]))) == {"all", "build"}


def test_each_architecture_s_image_has_a_bill() -> None:
    """CycloneDX for whatever the image is built for, attached and signed."""
    found = list(steps(PROJECT / ".github/workflows" / RELEASE))
    (build,) = [each["with"] for each in found if each.get("id") == "build"]
    (bills,) = [each["run"] for each in found if "cosign attest" in each.get("run", "")]
    built = {platform.removeprefix("linux/") for platform in build["platforms"].split(",")}
    (written,) = re.findall(r"for architecture in ([^;]+);", bills)
    assert set(written.split()) == built
    assert "--type cyclonedx" in bills
