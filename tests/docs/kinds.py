"""For each language of a block the one who looks at it: what is shown is run, or parsed by whoever it is for."""

from __future__ import annotations

import ast
import configparser
import importlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import asyncpg
import yaml

from tests.docs import documents, shell, tools
from tests.docs.pages import ROOT, Block

if TYPE_CHECKING:
    from tests.postgres import Server

Complaints = Iterator[tuple[Block, str]]


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
        told = tools.look(text, "page.service", "systemd-analyze", "verify", "--man=no").stderr.splitlines()
        # Its users aren't those of this machine, and what it wants may not be here.
        yield from ((block, line) for line in told if "page.service" in line and "Unknown" in line)


def as_promql(blocks: list[Block]) -> Complaints:
    """Prometheus can parse it."""
    for block in blocks:
        rules = {"groups": [{"name": "page", "rules": [{"record": "page", "expr": block.text}]}]}
        if said := tools.refused(yaml.safe_dump(rules), "rules.yaml", "promtool", "check", "rules"):
            yield block, said


def as_javascript(blocks: list[Block]) -> Complaints:
    """Node can parse it."""
    for block in blocks:
        if said := tools.refused(block.text, "page.js", "node", "--check"):
            yield block, said


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
