"""`token`: a valid access token, for scripts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.cli import common
from sidecar.cli.options import config_option, examples, json_option, name_argument
from sidecar.errors import HumanNeeded, TemporarilyUnavailable

if TYPE_CHECKING:
    from sidecar.config import Settings
    from sidecar.server.client import ShownToken


@click.command(
    epilog=examples(
        ('curl -H "Authorization: Bearer $(token-sidecar token gmail)" URL', "call an API"),
        ("token-sidecar token gmail --json", "with its expiry"),
    )
)
@name_argument
@config_option
@json_option
def token(name: str, config: Path, *, as_json: bool) -> None:
    """Print a valid access token.

    And nothing else. It comes from the running daemon; without one, from the store, as long as it is
    valid. Nothing is refreshed. Exit code 3 says that a human must consent again, 4 that there is no
    valid one right now.
    """
    from sidecar.server.client import NotRunning

    settings = common.load(config, token=name)
    try:
        shown = common.control(settings).token(name)
    except NotRunning as absence:
        shown = _from_store(settings, name, absence)
    if as_json:
        common.print_json(
            {
                "access_token": shown.access_token,
                "token_type": shown.token_type,
                "expires_at": shown.expires_at,
                "fingerprint": shown.fingerprint,
            }
        )
    else:
        click.echo(shown.access_token)


def _from_store(settings: Settings, name: str, absence: TemporarilyUnavailable) -> ShownToken:
    from sidecar import links
    from sidecar.server.client import ShownToken
    from sidecar.standing import consent

    page = links.page(settings.console.url, name)
    held = common.read_record(settings, name)
    record = held.record if held is not None else None
    if record is not None and record.access is not None and record.access.seconds_left(time.time()) > 0:
        access = record.access
        return ShownToken(access.value, access.token_type, access.expires_at, access.fingerprint)
    if record is not None and record.is_dead():
        raise HumanNeeded(f"{name}: the grant is dead; {consent(name, page)}")
    unseeded = settings.profiles[name].needs_refresh_token and (record is None or record.refresh is None)
    if unseeded and settings.tokens[name].seed is None:
        raise HumanNeeded(f"{name}: no refresh token yet; {consent(name, page, first=True)}")
    raise TemporarilyUnavailable(f"{name}: the store holds no valid access token, and {absence}")
