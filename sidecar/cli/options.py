"""What the commands' signatures share: options, types of parameters, examples in the help."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

PROGRAM = "token-sidecar"

# Written here once more, because importing sidecar.config takes longer than a whole `healthcheck` may.
CONFIG_VARIABLE = "TOKEN_SIDECAR_CONFIG"
DEFAULT_CONFIG = "/etc/token-sidecar/config.yaml"

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class TokenName(click.ParamType[str]):
    """A token of the configuration; completed from it."""

    name = "token"

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """List the configured names; nothing while the configuration is wrong."""
        from sidecar import config
        from sidecar.errors import ConfigError

        path = ctx.params.get("config") or os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG
        try:
            settings = config.load(Path(path), disk=False).settings
        except ConfigError:
            return []
        # Who the accounts of a set are is known to its source alone.
        names = [*settings.tokens, *(f"{of}/" for of in settings.sets)]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class Span(click.ParamType[float]):
    """A duration such as `90s`, `10m` or `1h30m`, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it as the configuration does."""
        if isinstance(value, float):
            return value
        from sidecar.config.settings import Duration

        try:
            return Duration.parse(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)


def config_option(command: Decorated) -> Decorated:
    """Add `--config`."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        envvar=CONFIG_VARIABLE,
        show_envvar=True,
        default=DEFAULT_CONFIG,
        show_default=True,
        help="The configuration file.",
    )(command)


def json_option(command: Decorated) -> Decorated:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")(command)


def name_argument(command: Decorated) -> Decorated:
    """Add the NAME of a token."""
    return click.argument("name", type=TokenName(), metavar="NAME")(command)


def examples(*lines: tuple[str, str], intro: str = "") -> str:
    """Write a help's last part: command lines, and what each is for."""
    width = max(len(command) for command, _ in lines)
    shown = (f"  {command:<{width}}  # {meaning}" for command, meaning in lines)
    # The backspace tells click not to wrap this paragraph.
    block = "\n".join(["\b", "Examples:", *shown])
    return f"{intro}\n\n{block}" if intro else block
