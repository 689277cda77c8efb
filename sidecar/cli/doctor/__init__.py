"""`doctor`: everything that can be wrong, looked at for real, in one table.

A check is an async function from the `Examination` to lines, listed in `_look`. Stores and
outputs add what they know of themselves by the powers `SupportsDiagnosis` and `SupportsProbe` of `ports`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anyio
import click
import msgspec

from sidecar.cli import common
from sidecar.cli.doctor.identity import AsUser
from sidecar.cli.options import TokenName, config_option, examples, json_option
from sidecar.errors import ConfigError, SidecarError

if TYPE_CHECKING:
    from sidecar.cli.doctor.examination import Application, Examination
    from sidecar.cli.doctor.identity import Identity
    from sidecar.cli.doctor.lines import Line
    from sidecar.cli.doctor.material import Read
    from sidecar.config import Settings

Looking: TypeAlias = "Callable[[Examination], Awaitable[list[Line]]]"

LIMIT = 30.0
"""Seconds for each check; the parts of one have shorter limits of their own."""
READ_LIMIT = 10.0
"""Seconds for a provider's answer."""


@click.command(
    epilog=examples(
        ("token-sidecar doctor", "as the daemon's user"),
        ("token-sidecar doctor --as 2000:2000", "can the application read its tokens?"),
        ("token-sidecar doctor gmail --refresh", "and does a refresh work?"),
        ("token-sidecar doctor --json | jq '.checks[] | select(.status == \"failed\")'", "for scripts"),
    )
)
@click.argument("name", type=TokenName(), metavar="[NAME]", required=False)
@click.option("--as", "reader", type=AsUser(), help="Try what this user, the application's, may read.")
@click.option("--refresh", is_flag=True, help="Refresh as well: the one thing that needs the provider's yes.")
@config_option
@json_option
def doctor(name: str | None, reader: Identity | None, config: Path, *, refresh: bool, as_json: bool) -> int:
    """Look at everything that can be wrong, and say what to do about it.

    Configuration, files and their users, outputs, store, daemon, provider, and how each grant stands: what
    can be tried is tried, under names of its own, and removed again. No token request is made unless you ask
    for it: a provider is asked for its metadata, and its token endpoint for nothing, by a GET without
    parameters. It works beside a running daemon and without one, within a minute.

    Exit code 0 says that nothing failed, though there may be warnings. 2 is for the configuration, 3 says that
    a human must act, 4 that only what may pass by itself is wrong, 1 stands for any other failure.
    """
    from sidecar.cli.doctor import lines as table

    lines = _examine(config, name, reader, refresh=refresh)
    if as_json:
        common.print_json(table.document(lines))
    else:
        table.show(lines)
    return table.exit_code(lines)


def _examine(path: Path, name: str | None, reader: Identity | None, *, refresh: bool) -> list[Line]:
    from sidecar.cli.doctor import material

    try:
        found = material.read(path)
    except ConfigError as error:
        return material.refused(error)
    names = frozenset(found.settings.tokens)
    if name is not None:
        settings = common.only(found.settings, name)
        found = msgspec.structs.replace(found, settings=settings)
    # First, so that what is shown is what came of it.
    refreshed = _refreshed(path, found) if refresh else []
    application = _application(found.settings, reader)
    return [*anyio.run(_look, found, names, application), *refreshed]


def _application(settings: Settings, reader: Identity | None) -> Application | None:
    from sidecar.cli.doctor import identity, machine
    from sidecar.cli.doctor.examination import Application

    if reader is None:
        return None
    tried, access = identity.look(reader, [*machine.readable(settings), *machine.private(settings)])
    return Application(reader, tried, access)


async def _look(found: Read, names: frozenset[str], application: Application | None) -> list[Line]:
    from sidecar.cli.doctor import daemon, grant, machine, material, provider, storage
    from sidecar.cli.doctor.examination import Examination
    from sidecar.clients.http import HttpClient
    from sidecar.clock import SystemClock

    settings, clock = found.settings, SystemClock()
    # A step uses what the steps before it found; the checks of one run at once.
    steps: tuple[tuple[Looking, ...], ...] = (
        (
            machine.user,
            daemon.daemon,
            machine.state_dir,
            machine.outputs,
            machine.application,
            material.seeds,
            material.clients,
            storage.store,
        ),
        (provider.providers, machine.escrow, grant.views),
        (grant.states, grant.deadlines, grant.writers),
    )
    async with HttpClient(
        clock, allow_insecure_http=settings.allow_insecure_http, read_limit=READ_LIMIT
    ) as http:
        exam = Examination(settings, names, http, clock, application=application)
        # Without the file, the default store would be looked at in its place.
        exam.store_known = settings.store.url_file is None or not found.problems
        lines = material.about(found, stranger=exam.stranger)
        for checks in steps:
            lines += await _at_once(checks, exam)
    return lines


async def _at_once(checks: tuple[Looking, ...], exam: Examination) -> list[Line]:
    """Run checks side by side, and give their lines in order."""
    found: list[list[Line]] = [[] for _ in checks]

    async def run(index: int, check: Looking) -> None:
        found[index] = await _bounded(check, exam)

    async with anyio.create_task_group() as tasks:
        for index, check in enumerate(checks):
            tasks.start_soon(run, index, check)
    return [line for lines in found for line in lines]


async def _bounded(look: Looking, exam: Examination) -> list[Line]:
    """Run one check; whatever happens to it is a line."""
    from sidecar.cli.doctor.lines import Check

    check = Check(getattr(look, "__name__", "check"))
    with anyio.move_on_after(LIMIT):
        try:
            return await look(exam)
        except SidecarError as error:
            return [check.error(error)]
        except OSError as error:
            return [check.failed(f"{error.filename or 'the system'}: {error.strerror}")]
    return [check.failed(f"did not end within {LIMIT:g} s", "look at the network and the disks", exit_code=4)]


def _refreshed(path: Path, found: Read) -> list[Line]:
    """Refresh each token, by the daemon or else here."""
    from sidecar.cli import offline
    from sidecar.cli.doctor.lines import Check
    from sidecar.server.client import NotRunning

    lines = []
    for name in found.settings.tokens:
        check = Check("refresh", name)
        if found.problems:
            lines.append(check.skipped("not with this configuration, see above"))
            continue
        try:
            try:
                reply = common.control(found.settings).refresh(name)
            except NotRunning:
                reply = offline.refresh(path, name, None)
        except SidecarError as error:
            lines.append(check.error(error))
        else:
            lines.append(check.ok(reply.message))
    return lines
