"""For each language of a block the one who looks at it: what is shown is run, or parsed by whoever it is for."""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import asyncpg
import pytest
import yaml

from tests.docs import documents, shell
from tests.docs.pages import ROOT, Block
from tests.promtool import PROMTOOL

if TYPE_CHECKING:
    from tests.postgres import Server

Complaints = Iterator[tuple[Block, str]]


def program(name: str) -> str:
    """Find a program that pip can't install."""
    found = PROMTOOL if name == "promtool" else shutil.which(name)
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is not installed")
    assert found is not None, f"{name} must be there in CI"
    return found


def as_json(blocks: list[Block]) -> Complaints:
    """One value, or one on each line."""
    for block in blocks:
        try:
            json.loads(block.text)
        except ValueError as whole:
            try:
                [json.loads(line) for line in block.text.splitlines()]
            except ValueError:
                yield block, str(whole)


def as_python(blocks: list[Block]) -> Complaints:
    """It compiles, and what it takes from us is there."""
    for block in blocks:
        try:
            tree = ast.parse(block.text)
        except SyntaxError as error:
            yield block, str(error)
            continue
        for statement in ast.walk(tree):
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("sidecar"):
                module = importlib.import_module(statement.module or "")
                yield from (
                    (block, f"{statement.module} has no {name.name}")
                    for name in statement.names
                    if not hasattr(module, name.name)
                )


def as_unit(blocks: list[Block]) -> Complaints:
    """Systemd takes it, as a whole unit or in addition to ours."""
    for block in blocks:
        parser = configparser.RawConfigParser(strict=False)
        parser.optionxform = str  # type: ignore[assignment, method-assign] # as configparser's documentation has it
        try:
            parser.read_string(block.text)
        except configparser.Error as error:
            yield block, str(error)
            continue
        whole = (ROOT / "host" / "token-sidecar.service").read_text(encoding="utf-8")
        text = block.text if "ExecStart" in block.text else f"{whole}\n{block.text}"
        text = text.replace("/opt/token-sidecar/bin/token-sidecar", "/bin/true")
        with TemporaryDirectory() as folder:
            unit = Path(folder) / "page.service"
            unit.write_text(text, encoding="utf-8")
            command = [program("systemd-analyze"), "verify", "--man=no", str(unit)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        # Its users aren't those of this machine.
        yield from (
            (block, line) for line in done.stderr.splitlines() if "page.service" in line and "Unknown" in line
        )


def as_promql(blocks: list[Block]) -> Complaints:
    """Prometheus can parse it."""
    for block in blocks:
        rules = {"groups": [{"name": "page", "rules": [{"record": "page", "expr": block.text}]}]}
        with TemporaryDirectory() as folder:
            file = Path(folder) / "rules.yaml"
            file.write_text(yaml.safe_dump(rules), encoding="utf-8")
            command = [program("promtool"), "check", "rules", str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            yield block, done.stdout + done.stderr


def as_javascript(blocks: list[Block]) -> Complaints:
    """Node can parse it."""
    for block in blocks:
        command = [program("node"), "--check", "-"]
        done = subprocess.run(command, input=block.text, capture_output=True, text=True, check=False)
        if done.returncode:
            yield block, done.stderr


def as_dockerfile(blocks: list[Block]) -> Complaints:
    """Each line is an instruction."""
    instructions = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "USER", "WORKDIR"}
    for block in blocks:
        lines = block.text.replace("\\\n", " ").splitlines()
        yield from ((block, line) for line in lines if line and line.split()[0] not in instructions)


def as_text(blocks: list[Block]) -> Complaints:
    """A picture, or what a program prints; what is typed says so, and is looked at."""
    for block in blocks:
        yield from (
            (block, f"looks typed: {line}") for line in block.text.splitlines() if line.startswith("$ ")
        )


CHECKERS: dict[str, Callable[[list[Block]], Complaints]] = {
    "console": shell.mistakes,
    "dockerfile": as_dockerfile,
    "ini": as_unit,
    "javascript": as_javascript,
    "json": as_json,
    "promql": as_promql,
    "python": as_python,
    "sh": shell.mistakes,
    "text": as_text,
    "yaml": documents.mistakes,
}
"""Language → who looks at all of its blocks. `sql` is looked at by the database itself."""


def as_sql(blocks: list[Block], server: Server) -> Complaints:
    """Postgres can parse it: what is in a function's body is parsed when that is made, and not run."""
    for block in blocks:
        body = f"$page$ BEGIN {block.text}\nEND $page$"
        try:
            server.sql(f"CREATE FUNCTION pg_temp.page() RETURNS void LANGUAGE plpgsql AS {body}")
        except asyncpg.PostgresError as error:
            yield block, str(error)
