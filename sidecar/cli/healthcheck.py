"""`healthcheck`: for Docker, Compose and scripts. It loads as little as it can: it runs every few seconds."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click

from sidecar.cli.options import Span, config_option, examples
from sidecar.errors import ConfigError, SidecarError

POLL = 0.1
"""Seconds."""

_STATE_DIR = re.compile(r"^state_dir:[ \t]+(/[\w./-]+)[ \t]*(?:#.*)?$", re.MULTILINE | re.ASCII)


@click.command(
    epilog=examples(
        ("token-sidecar healthcheck live", "in a Dockerfile's HEALTHCHECK"),
        ("token-sidecar healthcheck ready --wait 60s", "before the application starts"),
        ("token-sidecar healthcheck --url http://127.0.0.1:9640", "without a configuration"),
    )
)
@click.argument("probe", type=click.Choice(("live", "ready", "startup")), default="ready")
@click.option(
    "--wait", type=Span(), default=0.0, help="Ask again for this long, such as 60s, until it is well."
)
@click.option("--url", help="Where the daemon's HTTP server is. [default: what its state_dir says]")
@config_option
def healthcheck(probe: str, wait: float, url: str | None, config: Path) -> int:
    """Ask the daemon's probes.

    ready (the default): can every required token be used now? live: should the daemon be restarted?
    startup: was every required token published? Exit code 0 says yes, 1 says no, with the reasons on
    standard error.
    """
    until = time.monotonic() + wait
    while True:
        well, reasons = _ask(probe, url, config)
        if well:
            click.echo(reasons)
            return 0
        left = until - time.monotonic()
        if left <= 0:
            click.echo(reasons, err=True)
            return 1
        time.sleep(min(POLL, left))


def _ask(probe: str, url: str | None, config: Path) -> tuple[bool, str]:
    from sidecar.server import client

    try:
        return client.probe(url or _address(config), probe)
    except ConfigError:
        raise
    except SidecarError as error:
        return False, f"token-sidecar: {error}"


def _address(config: Path) -> str:
    """Find the daemon: by what it wrote, or by its configuration for another user, who can't read that."""
    from sidecar.server import client, wire

    try:
        return client.address_of(_state_dir(config))
    except PermissionError as error:
        from sidecar.cli import common

        server = common.load(config).server
        if not server.port:
            raise SidecarError(
                f"{error.filename} may not be read by this user, and server.port is 0; run it as the daemon's "
                "user, or give --url"
            ) from None
        return wire.url_to(server.host, server.port)


def _state_dir(config: Path) -> Path:
    """Find the daemon's `state_dir`: by a look at the text where that is plain, as parsing takes longer."""
    try:
        found = _STATE_DIR.findall(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        found = []
    if len(found) == 1:
        return Path(found[0])
    from sidecar.cli import common

    return common.load(config).state_dir
