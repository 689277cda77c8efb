"""What `seed` and `login` share: a refresh token's way to the running daemon, else into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.cli import common

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config import Settings
    from sidecar.server.wire import SeedReply, SeedRequest


def plant(config: Path, settings: Settings, name: str, request: SeedRequest) -> SeedReply:
    """Start a new lineage: through the daemon, which uses it at once, or in the store, where one finds it."""
    from sidecar.server.client import NotRunning

    try:
        return common.control(settings).seed(name, request)
    except NotRunning:
        from sidecar.cli import offline

        return offline.seed(config, name, request)


def show(reply: SeedReply, *, as_json: bool) -> None:
    """Print what came of it."""
    import click

    if as_json:
        common.print_json(
            {
                "message": reply.message,
                "fingerprint": reply.fingerprint,
                "lineage": reply.lineage,
                "aside": reply.aside,
            }
        )
    else:
        click.echo(reply.message)
