"""YAML with comments, to standard output or into a directory."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from sidecar.errors import UsageError

OURS = "# Written by `token-sidecar render"
WIDTH = 110
_WRAPPER = textwrap.TextWrapper(WIDTH - 2, break_long_words=False, break_on_hyphens=False)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and no aliases."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def header(command: str, *paragraphs: str) -> str:
    """Write a page's first lines: where it comes from, and what to do with it."""
    lines = [f"{OURS} {command}`."]
    for paragraph in filter(None, paragraphs):
        lines += ["#", *(f"# {line}" for line in _WRAPPER.wrap(paragraph))]
    return "\n".join(lines) + "\n"


def dump(*documents: Any) -> str:
    """Write YAML documents."""
    return "---\n".join(
        yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True) for one in documents
    )


def write(directory: Path, files: Mapping[str, str]) -> None:
    """Write files that nobody else wrote. Raises `UsageError` for one that somebody did."""
    directory.mkdir(parents=True, exist_ok=True)
    _check(directory / name for name in files)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
        click.echo(f"{directory / name} is written")


def _check(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(OURS):
            raise UsageError(f"{path} is there and was not written by this command; name another directory")
