from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sidecar import __version__, cli, config
from sidecar.cli import options

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"


def commands(
    group: click.Group = cli.root, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Go through all commands, each with its words on the command line."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def loaded_by(*arguments: str) -> set[str]:
    """Run a command and tell which modules it imported."""
    code = (
        f"import sys; from sidecar import cli; cli.main({list(arguments)!r}); "
        "print(chr(10) + ' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {module.partition(".")[0] for module in done.stdout.splitlines()[-1].split()}


def test_summaries_are_the_first_sentence_of_each_commands_own_help() -> None:
    """The list of commands is written without importing them, and says what they say themselves."""
    context = click.Context(cli.root)
    found = {name: cli.root.get_command(context, name) for name in cli.COMMANDS}

    assert {name: (one.help or "").splitlines()[0] for name, one in found.items() if one} == cli.COMMANDS


def test_every_command_teaches_by_example() -> None:
    """Each command's help ends with examples."""
    without = [
        words for words, command in commands() if not isinstance(command, click.Group) and not command.epilog
    ]

    assert without == ["providers list", "store list"]


def test_help_is_quick() -> None:
    """The list of commands is shown without loading anything big."""
    assert not loaded_by("--help") & {"anyio", "httpx2", "msgspec", "yaml", "rich", "starlette", "asyncio"}


def test_healthcheck_is_quick(tmp_path: Path) -> None:
    """A health check parses no configuration whose state_dir is plain to see."""
    (tmp_path / "config.yaml").write_text(f"state_dir: {tmp_path}\n", encoding="utf-8")

    assert not loaded_by("healthcheck", "--config", str(tmp_path / "config.yaml")) & {
        "anyio",
        "asyncio",
        "httpx2",
        "rich",
        "starlette",
        "structlog",
        "yaml",
    }


def test_the_configurations_place_is_the_same_everywhere() -> None:
    """What the options name is what the configuration's loader would take."""
    assert options.CONFIG_VARIABLE == config.VARIABLE
    assert str(config.DEFAULT_PATH) == options.DEFAULT_CONFIG


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints name and version."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"token-sidecar {__version__}\n"


def test_no_secret_can_be_given_as_an_argument() -> None:
    """Whatever takes a secret takes a file: arguments are seen by every user of the machine."""
    names = {name for _, command in commands() for parameter in command.params for name in parameter.opts} - {
        "--help"
    }

    assert not {name for name in names if "secret" in name or "token" in name or "password" in name}
