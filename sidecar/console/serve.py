"""The console's process: everything put together, on one socket, until a signal ends it."""

from __future__ import annotations

import getpass
import signal
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import anyio
import structlog

from sidecar import config
from sidecar.clients.http import HttpClient
from sidecar.clock import SystemClock
from sidecar.console import door
from sidecar.console.access import Cookies, LinkAccess, ProxyAccess, trusted
from sidecar.console.agent import Agent
from sidecar.console.flows import Flows
from sidecar.console.guard import Guard
from sidecar.console.limits import Limit
from sidecar.console.results import Jobs
from sidecar.console.signing import LEAST, Signer, new_secret
from sidecar.console.site import Site
from sidecar.deputy import Deputy
from sidecar.errors import ConfigError, UsageError
from sidecar.observers import fan_out
from sidecar.observers.audit import AuditObserver
from sidecar.pulse import Heartbeats, Pulse
from sidecar.server.serve import HttpServer, bind_tcp, url_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from socket import socket

    from starlette.types import ASGIApp

    from sidecar.clock import Clock
    from sidecar.config import Loaded
    from sidecar.console.access import Access
    from sidecar.console.results import Start, Work
    from sidecar.events import Event

_DEFAULT_PORTS = {"http": 80, "https": 443}

_log = structlog.get_logger("sidecar.console")


class Built(NamedTuple):
    """The application, and what others need of it."""

    app: ASGIApp
    site: Site
    deputy: Deputy
    door: door.Door | None
    """None where a proxy signs people in."""


def load(path: Path) -> Loaded:
    """Load the configuration for a process that publishes nothing.

    Raises `ConfigError`, and `UsageError` for a store that it can't share.
    """
    loaded = config.load(path, publishes=False)
    if loaded.settings.store.scheme == "memory":
        raise UsageError(
            "the store is in the daemon's memory, where the console can't look; write `store: sqlite:///PATH`"
        )
    return loaded


def build(
    loaded: Loaded,
    *,
    url: str,
    http: HttpClient,
    clock: Clock,
    emit: Callable[[Event], None],
    start: Start,
) -> Built:
    """Put the application together. `url` is its origin, `start` runs what outlives a request. Raises `ConfigError`."""
    console = loaded.settings.console
    signer = Signer(_secret(console.secret_file), clock.wall)
    cookies = Cookies(signer, url=url, life=console.session)
    access: Access
    own_door = None
    if console.proxy is not None:
        access = ProxyAccess(console.proxy, console.operators, cookies)
    else:
        own_door = door.Door(url, new_secret())
        access = LinkAccess(getpass.getuser(), cookies, Signer(own_door.key, clock.wall), clock.wall)
    deputy = Deputy(loaded, publishes=False)
    site = Site(
        url=url,
        agent=Agent(loaded, deputy, http, clock),
        access=access,
        cookies=cookies,
        signer=signer,
        flows=Flows(signer),
        jobs=Jobs(start),
        askers=Limit(clock.monotonic, burst=60, per_minute=240),
        actors=Limit(clock.monotonic, burst=20, per_minute=30),
        refusals=Limit(clock.monotonic, burst=20, per_minute=10),
        emit=emit,
        session=console.session,
    )
    guarded = Guard(site.app(), hosts=[urlsplit(url).netloc], secure=url.startswith("https:"))
    return Built(guarded, site, deputy, own_door)


def origin(url: str) -> str:
    """Write a URL's origin as browsers do: in small letters, and without the port that goes without saying."""
    parts = urlsplit(url.lower())
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    port = "" if parts.port in {None, _DEFAULT_PORTS.get(parts.scheme)} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


async def serve(loaded: Loaded, announce: Callable[[door.Door | None], None]) -> None:
    """Answer until SIGTERM or SIGINT, and see home what somebody consented to. Raises `SidecarError`.

    `announce` is told the way in, where no proxy signs people in, once there is somebody to answer.
    """
    settings, clock = loaded.settings, SystemClock()
    sock = bind_tcp(settings.console.host, settings.console.port)
    with sock:
        await _serve_on(sock, loaded, clock, announce)


async def _serve_on(
    sock: socket, loaded: Loaded, clock: Clock, announce: Callable[[door.Door | None], None]
) -> None:
    settings = loaded.settings
    emit = fan_out([AuditObserver(clock, settings.audit.file)])
    url = origin(settings.console.url or url_of(sock))
    async with (
        HttpClient(clock, allow_insecure_http=settings.allow_insecure_http) as http,
        # Its block ends when all that was begun is done, whatever becomes of the server.
        anyio.create_task_group() as jobs,
        anyio.create_task_group() as serving,
    ):

        def start(work: Work) -> None:
            jobs.start_soon(work)

        built = build(loaded, url=url, http=http, clock=clock, emit=emit, start=start)
        left = door.leave(settings.state_dir, built.door) if built.door is not None else None
        stopping = anyio.Event()
        jobs.start_soon(built.deputy.recover, stopping, _log.warning)
        proxy, beats = settings.console.proxy, Heartbeats(clock)
        trusts = trusted(proxy) if proxy is not None else None
        server = HttpServer(built.app, sock, worker="console", pulse=Pulse(), heartbeats=beats, trusts=trusts)
        try:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                await serving.start(server.run)
                _log.info("the console answers", url=url)
                announce(built.door)
                async for signum in signals:
                    _log.info(f"stopping on {signum.name}")
                    break
        finally:
            stopping.set()
            if left is not None:
                left.unlink(missing_ok=True)
            serving.cancel_scope.cancel()


def _secret(path: Path | None) -> bytes:
    if path is None:
        return new_secret()
    place = "console.secret_file"
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{place}: {path} can't be read: {error.strerror}") from None
    if len(secret) < LEAST:
        raise ConfigError(
            f"{place}: {path} holds {len(secret)} bytes; write {LEAST} random ones at least into it"
        )
    return secret
