"""`seed`: a human's new consent, from wherever it was given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.cli import common, planting
from sidecar.cli.options import config_option, examples, json_option, name_argument
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.ports import Seeding

FORMATS = ("raw", "json", "gmail-sdk", "google-authorized-user", "dotenv")


@click.command(
    epilog=examples(
        ("token-sidecar seed gmail --file token.json", "what a client library wrote"),
        ("kubectl get secret … | token-sidecar seed gmail", "from standard input"),
        ("token-sidecar seed gmail", "ask for it, without showing it"),
    )
)
@name_argument
@click.option(
    "--file",
    "path",
    metavar="PATH|-",
    type=click.Path(allow_dash=True, dir_okay=False),
    help="Holds the refresh token, bare or in JSON. [default: standard input]",
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(FORMATS),
    help="How the file is laid out. [default: recognised from its content]",
)
@click.option(
    "--force", is_flag=True, help="Take a refresh token that was used before; that may kill the grant."
)
@config_option
@json_option
def seed(
    name: str, path: str | None, layout: str | None, config: Path, *, force: bool, as_json: bool
) -> None:
    """Give a token a new refresh token.

    It starts a new lineage: death, doubt and back-off of the old one end with it. The running daemon uses
    it at once; without one it goes into the store, for the daemon to find. A refresh token that this
    store has seen used is refused, because sending it again may make the provider revoke everything.
    """
    from sidecar.server.wire import SeedRequest

    settings = common.load(config, token=name)
    if not settings.profiles[name].needs_refresh_token:
        raise UsageError(
            f"{name}: the grant {settings.profiles[name].grant} has no refresh token, so there is no seed"
        )
    seeding = _read(name, path, layout, living=settings.profiles[name].lives_by_itself)
    reply = planting.plant(config, settings, name, SeedRequest(seeding, force=force))
    planting.show(reply, as_json=as_json)


def _read(name: str, path: str | None, layout: str | None, *, living: bool) -> Seeding:
    import time

    from sidecar import seeds

    if path is None and sys.stdin.isatty():
        typed: str = click.prompt(f"Refresh token of {name}", hide_input=True, err=True)
        data, where, written = typed.encode(), "what you typed", time.time()
    else:
        data, where, written = common.read_input(path or "-")
    return seeds.parse(data, where=where, name=layout, written_at=written, living=living)
