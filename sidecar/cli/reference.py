"""The page docs/reference/commands.md, written from the commands' own help."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sidecar import cli
from sidecar.cli.options import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 100

_INTRODUCTION = """\
# Commands

<!-- Written from the commands' --help by `make reference`. -->

Errors are one line each on standard error, and [exit codes](errors.md) say what a script may do about them. Secrets
never travel in arguments: they come from files or standard input.
`token-sidecar completion` prints completion scripts for bash, zsh and fish.
"""


def generate() -> str:
    """Write the page, as Markdown."""
    context = click.Context(cli.root, info_name=PROGRAM, **cli.root.context_settings)
    return "\n".join([_INTRODUCTION, *_sections(cli.root, context)])


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    text = _help(command, context)
    yield f"## {context.command_path}\n\n```text\n{text}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield from _sections(found, click.Context(found, info_name=name, parent=context))


def _help(command: click.Command, context: click.Context) -> str:
    formatter = click.HelpFormatter(width=WIDTH)
    command.format_help(context, formatter)
    return "\n".join(line.rstrip() for line in formatter.getvalue().strip().splitlines())
