"""`completion`: click's own completion scripts."""

from __future__ import annotations

import click

from sidecar.cli.options import PROGRAM, examples

VARIABLE = "_TOKEN_SIDECAR_COMPLETE"


@click.command(
    epilog=examples(
        ("token-sidecar completion bash > ~/.local/share/bash-completion/completions/token-sidecar", "bash"),
        ('token-sidecar completion zsh > "${fpath[1]}/_token-sidecar"', "zsh"),
        ("token-sidecar completion fish > ~/.config/fish/completions/token-sidecar.fish", "fish"),
    )
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print a shell's completion script.

    Commands, options and the names of the configured tokens are completed.
    """
    from click.shell_completion import get_completion_class

    from sidecar import cli

    known = get_completion_class(shell)
    if known is None:
        raise click.UsageError(f"click has no completion for {shell}")
    click.echo(known(cli.root, {}, PROGRAM, VARIABLE).source())
