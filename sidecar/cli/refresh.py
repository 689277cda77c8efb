"""`refresh`: what to do after a 401."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.cli import common
from sidecar.cli.options import config_option, examples, json_option, name_argument
from sidecar.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config import Settings


@click.command(
    epilog=examples(
        ("token-sidecar refresh gmail --rejected-file /run/tokens/gmail.json", "after a 401"),
        ("echo $TOKEN | token-sidecar refresh gmail --rejected-file -", "the same, from a variable"),
        ("token-sidecar refresh gmail", "whatever the present token is worth"),
    )
)
@name_argument
@click.option(
    "--rejected-file",
    metavar="PATH|-",
    type=click.Path(allow_dash=True, dir_okay=False),
    help="Holds the access token that was refused, bare or in any of our formats.",
)
@config_option
@json_option
def refresh(name: str, rejected_file: str | None, config: Path, *, as_json: bool) -> None:
    """Replace an access token that was refused.

    Name the token that was refused with --rejected-file: if it was replaced already, nothing is done, and
    that is said at once. So any number of scripts may call this for the same 401, and the provider is
    called once.

    The running daemon does it; without one, this command does, and publishes the new token to the
    outputs. While a daemon elsewhere is refreshing it, its answer is waited for, up to five minutes. A
    grant that was found dead is tried once more. Exit code 3 says that a human must consent
    again, 4 that it may work later.
    """
    from sidecar.server.client import NotRunning
    from sidecar.tokens import fingerprint

    settings = common.load(config, token=name)
    rejected = None
    if rejected_file is not None:
        data, where, _ = common.read_input(rejected_file)
        rejected = fingerprint(_access_token(data, where, settings, name))
    try:
        reply = common.control(settings).refresh(name, rejected=rejected)
    except NotRunning:
        from sidecar.cli import offline

        reply = offline.refresh(config, name, rejected)
    if as_json:
        common.print_json(
            {
                "refreshed": reply.refreshed,
                "message": reply.message,
                "fingerprint": reply.fingerprint,
                "expires_at": reply.expires_at,
            }
        )
    else:
        click.echo(reply.message)


def _access_token(data: bytes, where: str, settings: Settings, name: str) -> str:
    """Find the access token in what an application read it from. Raises `UsageError`, quoting nothing."""
    for found in _readings(data, settings, name):
        if found is not None:
            return found
    raise UsageError(
        f"{where} holds no access token that could be recognised; give the bare token, or the file itself"
    )


def _readings(data: bytes, settings: Settings, name: str) -> Iterator[str | None]:
    from sidecar import formats

    # First as this token's own outputs are laid out, since `fields` may have renamed its members.
    own = (formats.for_target(target) for target in settings.tokens[name].outputs)
    for layout in (*own, *formats.READERS):
        try:
            yield layout.decode(data).access_token
        except FormatError:
            continue
