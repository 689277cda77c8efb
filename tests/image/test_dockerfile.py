"""The Dockerfile's promises, by its text: no engine is at hand where tests run. tests/pod runs what comes of it."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from image.size import DOCKERFILE, Instruction, instructions
from sidecar import cli

PROJECT = Path(__file__).parents[2]
PARSED = instructions()
RUNTIMES = ("debug", "image")


def of(stage: str, name: str) -> list[str]:
    """Return the texts of a stage's instructions of this name."""
    return [each.text for each in PARSED if (each.stage, each.name) == (stage, name)]


def exec_form(text: str) -> list[str]:
    """Return the words of an instruction in exec form; the shell form is no JSON."""
    words = json.loads(text)
    assert all(isinstance(word, str) for word in words)
    return list(words)


def test_both_bases_are_one_and_can_be_pinned() -> None:
    """The tag is an argument with a default, the digest one without: nobody made one up."""
    froms = {each.stage: each.text for each in PARSED if each.name == "FROM"}
    base = "${PYTHON}${PYTHON_DIGEST}"
    assert froms == {"build": f"{base} AS build", "debug": f"{base} AS debug", "image": "scratch AS image"}
    assert of("", "ARG") == ["PYTHON=python:3.13-slim", "PYTHON_DIGEST="]
    assert "sha256:" not in "".join(each.text for each in PARSED)


def test_the_last_stage_is_the_image_and_runs_nothing() -> None:
    """It begins with nothing and copies one tree: neither shell nor package manager can be left in a layer."""
    assert PARSED[-1].stage == "image"
    names = [each.name for each in PARSED if each.stage == "image"]
    assert not {"RUN", "ADD", "SHELL", "ONBUILD", "VOLUME"} & set(names)
    assert of("image", "COPY") == ["--from=build /rootfs/ /"]


@pytest.mark.parametrize("stage", RUNTIMES)
def test_it_runs_as_a_number_without_a_shell(stage: str) -> None:
    """User and group are numbers other than 0; entry point, command and health check are in exec form."""
    (user,) = of(stage, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    (entry,) = of(stage, "ENTRYPOINT")
    (command,) = of(stage, "CMD")
    (check,) = of(stage, "HEALTHCHECK")
    options, _, probe = check.partition(" CMD ")
    assert exec_form(entry) == ["token-sidecar"]
    assert exec_form(command) == ["run"]
    program, verb, which = exec_form(probe)
    assert (program, verb in cli.COMMANDS, which) == ("token-sidecar", True, "live")
    assert {option.partition("=")[0] for option in options.split()} >= {"--interval", "--timeout"}


def test_the_variant_differs_in_what_lies_beside_alone() -> None:
    """Whatever says how the daemon runs is the same in both."""
    for name in ("USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"):
        assert of("debug", name) == of("image", name)
    environments = [shlex.split(of(stage, "ENV")[0]) for stage in RUNTIMES]
    assert len({tuple(word for word in words if not word.startswith("PATH=")) for words in environments}) == 1
    assert "PYTHONDONTWRITEBYTECODE=1" in environments[0]
    assert "RUNTIME_DIRECTORY=/run/token-sidecar" in environments[0]


def test_the_image_says_what_it_is() -> None:
    """The labels of the OCI's image specification that somebody looks for."""
    labels = {word.partition("=")[0].rpartition(".")[2] for word in shlex.split(of("image", "LABEL")[0])}
    assert labels >= {"title", "description", "licenses", "version", "revision", "created", "source"}
    arguments = {word.partition("=")[0] for word in of("image", "ARG")}
    assert arguments == {"VERSION", "REVISION", "CREATED", "SOURCE"}


def test_what_is_copied_is_there_and_may_enter() -> None:
    """Each source is in the checkout and named in .dockerignore, which keeps out everything else."""
    ignore = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    sources = [word for text in of("build", "COPY") for word in shlex.split(text)[:-1]]
    for source in sources:
        assert (PROJECT / source).exists()
        assert any(each == source.rstrip("/") or each.startswith(source) for each in allowed), source
    assert not [
        path for path in (".git", "tests", ".venv", ".env") for rule in allowed if fnmatch.fnmatch(path, rule)
    ]


def test_every_set_of_requirements_can_enter() -> None:
    """The default set and the smallest are there with their hashes, and so are the tools of the build."""
    (default,) = of("build", "ARG")
    commands = " ".join(of("build", "RUN"))
    assert default == "REQUIREMENTS=all"
    assert commands.count("--require-hashes") == 2
    for name in ("all", "run", "build"):
        text = (PROJECT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        assert "--hash=sha256:" in text
        assert f"!requirements/{name}.txt" in (PROJECT / ".dockerignore").read_text(encoding="utf-8")


def test_comments_and_continued_lines_are_read(tmp_path: Path) -> None:
    """What the other tests stand on: the reader joins lines, leaves out comments, and knows the stages."""
    path = tmp_path / "Dockerfile"
    path.write_text("ARG A=1\n# no\nFROM x AS one\nRUN a \\\n # kept\\\n && b\n\nUSER 1\n", encoding="utf-8")
    assert instructions(path)[:2] == [Instruction("", "ARG", "A=1"), Instruction("one", "FROM", "x AS one")]
    assert instructions(path)[-1] == Instruction("one", "USER", "1")
    assert DOCKERFILE == PROJECT / "Dockerfile"


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_image_is_within_its_budget(tmp_path: Path) -> None:
    """The build stage runs as it is written, and what it adds weighs no more than 80 MB."""
    done = subprocess.run(
        [sys.executable, PROJECT / "image" / "size.py", tmp_path], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all that we add" in done.stdout
