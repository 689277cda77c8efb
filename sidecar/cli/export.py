"""`export`: out of the store again, in a form that `seed` and others read."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.cli import common
from sidecar.cli.options import config_option, examples, name_argument
from sidecar.errors import HumanNeeded, UsageError

if TYPE_CHECKING:
    from sidecar.config import Settings
    from sidecar.profile import Profile
    from sidecar.tokens import Record, RefreshToken

FORMATS = ("json", "gmail-sdk", "google-authorized-user", "raw")


@click.command(
    epilog=examples(
        ("token-sidecar export gmail --output gmail.json", "a file for you alone"),
        ("token-sidecar export gmail --format raw --yes | other-tool", "the bare refresh token, into a pipe"),
        ("token-sidecar seed gmail --file gmail.json", "and in again"),
    )
)
@name_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a new file, mode 0600. [default: standard output]",
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(FORMATS),
    default="json",
    show_default=True,
    help="json has everything, raw the refresh token alone.",
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before secrets are shown on a terminal.")
@config_option
def export(name: str, output: Path | None, layout: str, config: Path, *, force: bool, yes: bool) -> None:
    """Take a refresh token out of the store.

    Together with the access token, in a form that `seed` reads. The store keeps its copy, and the daemon
    goes on using it: where refresh tokens rotate, stop the daemon first, because the next refresh makes
    yours worthless, and using both kills the grant.
    """
    settings = common.load(config, token=name)
    held = common.read_record(settings, name)
    if held is None or held.record.refresh is None:
        raise HumanNeeded(f"{name}: the store holds no refresh token")
    content = _laid_out(settings, name, held.record, held.record.refresh, layout)
    if output is not None:
        _write(output, content, force=force)
    else:
        if sys.stdout.isatty() and not yes:
            click.confirm(f"Show the refresh token of {name} on this terminal?", abort=True, err=True)
        click.echo(content.rstrip(b"\n"))
    _write_down(settings, name, held.record.refresh.fingerprint)
    if settings.profiles[name].may_rotate:
        click.echo(
            f"{name}: this copy is worth nothing after the daemon's next refresh, and used beside the "
            "daemon it may "
            "kill the grant",
            err=True,
        )


def _write_down(settings: Settings, name: str, fingerprint: str) -> None:
    """Have it in the record of who did what: in its file, or else in the log of the daemon that runs."""
    from sidecar.clock import SystemClock
    from sidecar.errors import SidecarError
    from sidecar.events import Audited
    from sidecar.observers import log
    from sidecar.observers.audit import AuditObserver

    if settings.audit.file is None:
        with suppress(SidecarError):
            common.control(settings).exported(name, fingerprint)
        return
    log.configure("error", "console", sys.stderr)
    deed = Audited(f"uid {os.getuid()}", "export", "done", name, fingerprint)
    AuditObserver(SystemClock(), settings.audit.file).notice(deed)


def _laid_out(settings: Settings, name: str, record: Record, refresh: RefreshToken, layout: str) -> bytes:
    if layout == "raw":
        return refresh.value.encode()
    from sidecar import formats
    from sidecar.config.settings import JsonField, OutputTarget
    from sidecar.formats.fields import FIELDS, Kind
    from sidecar.ports import Publication
    from sidecar.tokens import AccessToken

    publication = Publication(
        token=name,
        # Seeded and never refreshed: the layouts demand the key, and `seed` takes an empty one for none.
        access=record.access or AccessToken("", time.time(), time.time(), None),
        refresh=refresh,
        lineage=record.lineage,
        generation=record.generation,
        client_id=record.client_id,
        token_url=_token_url(settings, settings.profiles[name]),
        scopes=settings.tokens[name].scopes,
    )
    # All that `json` can hold, with numbers to the fraction: what is exported and seeded again is the same.
    fields: dict[str, str | JsonField] = {
        field: field if kind is Kind.TEXT else JsonField(name=field, type="number")
        for field, kind in FIELDS.items()
    }
    target = OutputTarget(
        file=Path("-"),
        format=layout,  # type: ignore[arg-type] # click.Choice knows the names
        include_refresh_token=True,
        fields=fields if layout == "json" else None,
    )
    return formats.for_target(target).encode(publication, include_refresh_token=True)


def _token_url(settings: Settings, profile: Profile) -> str:
    from sidecar.grants.discovery import kept

    found = None if profile.token_url else kept(settings.state_dir, profile.issuer)
    return found.metadata.token_endpoint if found is not None else profile.token_url


def _write(path: Path, content: bytes, *, force: bool) -> None:
    if force:
        from sidecar.files import directory, replace_file

        with directory(path.parent) as folder:
            replace_file(folder, path.name, content, mode=0o600)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists already; name another file, or add --force") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
