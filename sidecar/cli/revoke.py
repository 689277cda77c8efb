"""`revoke`: the end of a grant, at the provider and here."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.cli import common
from sidecar.cli.options import config_option, examples, json_option, name_argument
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.config import Settings
    from sidecar.server.wire import RevokeReply


@click.command(
    epilog=examples(
        ("token-sidecar revoke gmail", "asks first"),
        ("token-sidecar revoke gmail --yes", "for scripts"),
    )
)
@name_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def revoke(name: str, config: Path, *, yes: bool, as_json: bool) -> None:
    """End a token's grant at the provider.

    The provider is told that the refresh token is not to be accepted any more (RFC 7009), and the record is
    marked as dead, for every daemon on the same store. Files are left as they are: providers end the
    access token too, or let it run out. Only a new consent helps afterwards. Nothing is sent on behalf of a
    grant that belongs to another client or provider than the configured one.
    """
    settings = common.load(config, token=name)
    if not settings.profiles[name].needs_refresh_token:
        raise UsageError(f"{name}: the grant {settings.profiles[name].grant} has no refresh token to revoke")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                f"{name}: this ends the grant for everybody who uses it; add --yes if you mean it"
            )
        click.confirm(f"End the grant of {name} for everybody who uses it?", abort=True, err=True)
    reply = _revoke(config, settings, name)
    message = _told(name, reply)
    if as_json:
        common.print_json({"message": message, "access_expires_at": reply.access_expires_at})
    else:
        click.echo(message)


def _revoke(config: Path, settings: Settings, name: str) -> RevokeReply:
    from sidecar.server.client import NotRunning

    try:
        return common.control(settings).revoke(name)
    except NotRunning:
        from sidecar.cli import offline

        return offline.revoke(config, name)


def _told(name: str, reply: RevokeReply) -> str:
    from sidecar.standing import quoted

    left = reply.access_expires_at - time.time() if reply.access_expires_at is not None else 0.0
    readers = (
        f"readers keep the last access token, which ends in {common.span(left)} at the latest"
        if left > 0
        else "readers have no access token that is still good"
    )
    return (
        f"the grant of {name} is revoked; {readers}. It counts as dead until somebody consents again: "
        f"token-sidecar login {quoted(name)}; or take it out of the configuration"
    )
