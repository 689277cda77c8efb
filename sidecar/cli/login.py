"""`login`: from a human's consent to a grant in the store, in one command."""

from __future__ import annotations

import secrets
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sidecar.cli import common, planting
from sidecar.cli.options import Span, config_option, examples, json_option, name_argument
from sidecar.errors import (
    ConsentFailed,
    SidecarError,
    TemporarilyUnavailable,
    UnknownToken,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.config import Settings
    from sidecar.enrol.code import Authorization
    from sidecar.ports import Seeding
    from sidecar.server.wire import SeedReply
    from sidecar.tokens import Record

PATIENCE = 600.0
"""Seconds for a human to consent."""
LINGER = 3.0
"""Seconds for the browser to fetch the page that says what came of it."""
LINE_LIMIT = 4095
"""Bytes of a line that a terminal lets through (n_tty's buffer)."""


@click.command(
    epilog=examples(
        ("token-sidecar login gmail", "consent in this machine's browser"),
        ("token-sidecar login gmail --no-browser", "over SSH: open a URL elsewhere, paste what comes back"),
        ("token-sidecar login gmail --device", "enter a code on any device, where the provider has that"),
        ("token-sidecar login gmail --dry-run", "show what would be asked for; changes nothing"),
    )
)
@name_argument
@click.option("--no-browser", is_flag=True, help="Print the URL, and read what the browser was sent back to.")
@click.option("--device", is_flag=True, help="Consent on another device (RFC 8628).")
@click.option(
    "--redirect-uri",
    metavar="URL",
    help="Registered for this client. [default: client.redirect_uri, else http://127.0.0.1 and a free port]",
)
@click.option(
    "--timeout",
    type=Span(),
    default=PATIENCE,
    show_default="10m",
    help="How long to wait for the consent.",
)
@click.option("--revoke-old", is_flag=True, help="End the grant that this one replaces, at the provider.")
@click.option(
    "--any-account", is_flag=True, help="Take the consent of another account than the grant has now."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@config_option
@json_option
def login(name: str, config: Path, *, as_json: bool, **chosen: Any) -> None:
    """Have a human consent, and take the new grant into the store.

    It replaces a grant that is dead, or starts a token's first one. Every daemon on the same store finds it
    within seconds, and needs no restart. Where one lives, the running daemon takes it; else it goes into
    the store. The scopes are the token's; where the configuration names none, those that it was granted
    before. The old grant is left alone unless --revoke-old says so: a provider may then end every consent
    that the account gave to this client, the new one too.
    """
    choice = Choice(**chosen)
    if choice.device and (choice.no_browser or choice.redirect_uri):
        raise UsageError("--device needs no browser here; leave --no-browser and --redirect-uri out")
    settings = common.load(config, token=name)
    if not settings.profiles[name].needs_refresh_token:
        grant = settings.profiles[name].grant
        raise UsageError(f"{name}: the grant {grant} needs no human, so there is nothing to consent to")
    login = _Login(config, settings, name, choice)
    if choice.dry_run:
        login.show_plan(as_json=as_json)
    else:
        planting.show(login.run(), as_json=as_json)


class Choice(NamedTuple):
    """The options, as they were given."""

    no_browser: bool
    device: bool
    redirect_uri: str | None
    timeout: float
    revoke_old: bool
    any_account: bool
    dry_run: bool


class _Login:
    """One run of the command."""

    def __init__(self, config: Path, settings: Settings, name: str, chosen: Choice) -> None:
        from sidecar.clients.http import HttpClient
        from sidecar.clock import SystemClock
        from sidecar.enrol import loopback
        from sidecar.enrol.provider import Provider
        from sidecar.grants.discovery import Issuers

        token, clock = settings.tokens[name], SystemClock()
        self._config, self._settings, self._name = config, settings, name
        self._chosen = chosen
        self._redirect_uri = chosen.redirect_uri or token.client.redirect_uri or loopback.ANY_PORT
        if not (chosen.no_browser or chosen.device or loopback.is_local(self._redirect_uri)):
            raise UsageError(
                f"{self._redirect_uri} does not lead to this machine, so nobody listens there; add --no-browser"
            )
        self._http = HttpClient(clock, allow_insecure_http=settings.allow_insecure_http)
        issuers = Issuers(self._http, settings.state_dir, clock)
        self._provider = Provider(name, token, settings.profiles[name], self._http, issuers)
        self._daemon = self._ask_daemon()
        self._old = self._read_old()

    def _ask_daemon(self) -> dict[str, Any] | None:
        """See whether a daemon will take the result, before a human is bothered."""
        from sidecar import config as configuration
        from sidecar.server.client import NotRunning

        try:
            tokens: dict[str, Any] = common.control(self._settings).status(self._name)["tokens"]
        except UnknownToken:
            raise UsageError(
                f"{self._name}: the running daemon does not know this token yet; reload it first (SIGHUP)"
            ) from None
        except NotRunning:
            # The store is ours to write then, with all that the daemon would check.
            configuration.load(self._config)
            return None
        return dict(tokens[self._name])

    def _read_old(self) -> Record | None:
        if self._settings.store.scheme == "memory" and self._daemon is not None:
            return None
        held = common.read_record(self._settings, self._name)
        return held.record if held is not None else None

    @property
    def _since(self) -> str:
        """The lineage that is to be replaced; see `Renewer.plant`."""
        if self._old is None and self._daemon is not None:
            return str(self._daemon["lineage"])
        return self._old.lineage if self._old is not None else ""

    # The ways

    def run(self) -> SeedReply:
        """Ask for the consent and store it."""
        import anyio

        anyio.run(self._locate)
        if self._chosen.device:
            return anyio.run(self._by_device)
        if not self._chosen.no_browser:
            return anyio.run(self._by_browser)
        redirect_uri = _with_port(self._redirect_uri)
        authorization = self._authorization(redirect_uri)
        click.echo(
            f"Open this in any browser, and consent:\n\n  {authorization.url}\n\n"
            f"The browser is sent to {redirect_uri} then, where nobody may answer. Copy the whole address from it, or "
            "the code.",
            err=True,
        )
        code = authorization.pasted(_read_answer())
        return anyio.run(self._redeem, authorization, code)

    async def _locate(self) -> None:
        async with self._http:
            await self._provider.locate(
                "device_authorization_url" if self._chosen.device else "authorization_url"
            )
        if self._chosen.revoke_old and self._old is not None and not self._provider.profile.revocation_url:
            raise UsageError(
                f"{self._name}: no revocation endpoint of {self._provider.title} is known, so the old grant can't be "
                "revoked; leave --revoke-old out, or name `revocation_url`"
            )

    async def _redeem(self, authorization: Authorization, code: str) -> SeedReply:
        async with self._http:
            return await self._store(await authorization.redeem(code), authorization.scopes)

    async def _by_device(self) -> SeedReply:
        from sidecar.enrol import device

        provider, scopes = self._provider, self._scopes()
        async with self._http:
            found = await device.begin(provider, scopes)
            click.echo(f"Open {found.url} on any device, and enter the code {found.code}", err=True)
            if found.complete_url:
                click.echo(f"or open {found.complete_url}", err=True)
            seeding = await self._in_time(partial(device.wait, provider, found, scopes))
            return await self._store(seeding, scopes)

    async def _by_browser(self) -> SeedReply:
        import anyio

        from sidecar.enrol import loopback

        listening, redirect_uri = loopback.bind(self._redirect_uri)
        authorization = self._authorization(redirect_uri)
        page = loopback.Loopback(authorization, redirect_uri)
        async with self._http, _serving(page, listening):
            opened = common.is_graphical()
            if opened:
                common.open_browser(page.start_url)
            click.echo(
                f"{'A browser opens. Should none appear, open this' if opened else 'Open this in a browser'} on this "
                f"machine, and consent:\n\n  {authorization.url}\n\n"
                "From another machine: --no-browser.",
                err=True,
            )
            try:
                code = await self._in_time(page.code)
                reply = await self._store(await authorization.redeem(code), authorization.scopes)
                page.conclude(f"{reply.message}.", worked=True)
            except SidecarError as error:
                page.conclude(f"{error}.", worked=False)
                raise
            finally:
                with anyio.move_on_after(LINGER):
                    await page.read()
        return reply

    def _authorization(self, redirect_uri: str) -> Authorization:
        from sidecar.enrol.code import Authorization

        return Authorization(self._provider, redirect_uri=redirect_uri, scopes=self._scopes())

    def _scopes(self) -> tuple[str, ...]:
        return self._provider.scopes(self._old.granted if self._old is not None else ())

    async def _in_time(self, wait: Any) -> Any:
        import anyio

        with anyio.move_on_after(self._chosen.timeout):
            return await wait()
        raise TemporarilyUnavailable(
            f"{self._name}: nobody consented within {common.span(self._chosen.timeout)}; nothing was changed, try again"
        )

    # The result

    async def _store(self, seeding: Seeding, asked: tuple[str, ...]) -> SeedReply:
        """Put it where it is safe, and do with the old grant what was asked for."""
        import anyio.to_thread

        from sidecar import deputy
        from sidecar.server.wire import LOGIN, SeedRequest

        request = SeedRequest(seeding, origin=LOGIN, force=self._chosen.any_account, since=self._since)
        plant = partial(planting.plant, self._config, self._settings, self._name, request)
        reply = await deputy.insistently(
            partial(anyio.to_thread.run_sync, plant), partial(click.echo, err=True)
        )
        self._warn_of_scopes(seeding, asked)
        if self._chosen.revoke_old and not reply.aside:
            await self._end_old()
        return reply

    def _warn_of_scopes(self, seeding: Seeding, asked: tuple[str, ...]) -> None:
        from sidecar.standing import missing_scopes
        from sidecar.tokens import Record

        missing = missing_scopes(Record(lineage="", access=seeding.access), asked)
        if missing:
            click.echo(f"warning: not granted, although asked for: {' '.join(missing)}", err=True)

    async def _end_old(self) -> None:
        from sidecar.enrol import revocation

        held = self._old
        if held is None or held.refresh is None:
            click.echo("there was no old grant to revoke", err=True)
            return
        try:
            await revocation.revoke(self._provider, held)
        except SidecarError as error:
            # The new grant is in force, whatever became of the old one.
            click.echo(f"warning: the old grant was not revoked: {error}", err=True)
        else:
            click.echo("the old grant was revoked", err=True)

    # The dry run

    def show_plan(self, *, as_json: bool) -> None:
        """Print what would be done."""
        import anyio

        anyio.run(self._locate)
        provider, scopes = self._provider, self._scopes()
        rows = [
            ["provider", provider.title],
            ["client", provider.client_id()],
            ["scopes", " ".join(scopes) or "none"],
        ]
        if self._chosen.device:
            rows += [["device code from", provider.profile.device_authorization_url]]
        else:
            redirect_uri = _with_port(self._redirect_uri, "PORT")
            rows += [["URL", self._authorization(redirect_uri).shown], ["redirect", redirect_uri]]
        rows += [
            ["token endpoint", provider.endpoint.token_url],
            ["result goes to", self._destination()],
            ["replaces", self._replaced()],
        ]
        if as_json:
            common.print_json(dict(rows))
        else:
            click.echo(common.plain_table(rows))

    def _destination(self) -> str:
        place = (
            f"record {common.key_of(self._settings, self._name)} in the {self._settings.store.scheme} store"
        )
        return f"the running daemon, {place}" if self._daemon is not None else place

    def _replaced(self) -> str:
        if self._old is None or self._old.refresh is None:
            return "nothing"
        state = "dead" if self._old.is_dead() else "in use"
        end = "revoked" if self._chosen.revoke_old else "left alone"
        return f"the grant with refresh token {self._old.refresh.fingerprint} ({state}), which is {end}"


@asynccontextmanager
async def _serving(page: Any, listening: Any) -> AsyncIterator[None]:
    """Answer on a socket for as long as the block lasts."""
    import anyio

    from sidecar.clock import SystemClock
    from sidecar.pulse import Heartbeats, Pulse
    from sidecar.server.serve import HttpServer

    server = HttpServer(
        page, listening, worker="loopback", pulse=Pulse(), heartbeats=Heartbeats(SystemClock())
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.run)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


def _with_port(redirect_uri: str, port: str = "") -> str:
    """Put a port into a loopback redirect URI that may have any; nobody need listen there."""
    from sidecar.enrol import loopback

    if redirect_uri != loopback.ANY_PORT:
        return redirect_uri
    return f"http://127.0.0.1:{port or 49152 + secrets.randbelow(16384)}/"


def _read_answer() -> str:
    """Read a line from a terminal, without showing it, or from a pipe."""
    if not sys.stdin.isatty():
        data, _, _ = common.read_input("-")
        return data.decode("utf-8", "replace").strip()
    typed: str = click.prompt("Address or code", hide_input=True, err=True)
    if len(typed) >= LINE_LIMIT:
        raise ConsentFailed(
            "that was longer than a terminal's line; put it into a file, and read it with < FILE"
        )
    return typed
