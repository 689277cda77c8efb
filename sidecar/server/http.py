"""The HTTP application: probes, metrics and status. Nothing here changes any state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sidecar.board import Board
from sidecar.clock import Clock
from sidecar.events import TokenView
from sidecar.pulse import Heartbeats
from sidecar.server import health
from sidecar.server.health import Verdict
from sidecar.server.marker import StartMarker
from sidecar.server.status import Process, status_document

READ_BACK_TIMEOUT = 0.7
"""Seconds for reading outputs back; kubelet gives a probe one second. Then the last known views are used."""

_NO_STORE = {"cache-control": "no-store"}


@dataclass(frozen=True)
class Site:
    """What the application shows."""

    board: Board
    """Has a view of each configured token, from before the server starts."""
    read_back: Callable[[], Awaitable[Sequence[TokenView]]]
    """The same views with their outputs as read back now; may be cancelled."""
    metrics: Callable[[Sequence[TokenView], str], tuple[bytes, str]]
    """(views, Accept header) → the metrics page and its content type."""
    config: Callable[[], dict[str, Any]]
    heartbeats: Heartbeats
    clock: Clock
    process: Process
    marker: StartMarker
    names: tuple[str, ...] = ("*",)
    """By which requests may call the server; see `names_of`."""

    async def views(self) -> Sequence[TokenView]:
        """Read the outputs back, or fall back to what was seen last when that takes too long."""
        with anyio.move_on_after(READ_BACK_TIMEOUT):
            return await self.read_back()
        return list(self.board)

    def status(self, views: Sequence[TokenView]) -> dict[str, Any]:
        """Build the status document."""
        return status_document(
            views,
            process=self.process,
            config=self.config(),
            heartbeats=self.heartbeats,
            clock=self.clock,
            sets=self.board.sets.values(),
        )


def probes_app(site: Site) -> Starlette:
    """Build the application; every route answers GET and HEAD."""

    async def livez(_request: Request) -> Response:
        # From the board alone: whatever hangs behind an output must not look like a hung daemon.
        verdict = health.livez(
            site.board,
            stale=site.heartbeats.stale(),
            ages=site.heartbeats.ages(),
            now=site.clock.wall(),
            uptime=site.process.uptime(site.clock),
        )
        return _answer(verdict)

    async def readyz(_request: Request) -> Response:
        return _answer(health.readyz(await site.views(), now=site.clock.wall()))

    async def readyz_token(request: Request) -> Response:
        views = await site.views()
        name: str = request.path_params["token"]
        verdict = health.readyz_token(views, name, now=site.clock.wall())
        if verdict is None:
            known = ", ".join(view.token for view in views if not view.of_set) or "none"
            return _text(f"no token is called {name[:64]!r}; known: {known}", 404)
        return _answer(verdict)

    async def startupz(_request: Request) -> Response:
        views = await site.views()
        verdict = health.startupz(views, now=site.clock.wall(), sets=site.board.sets.values())
        if verdict.ok:
            site.marker.set()
        elif site.marker.present:
            return _text("\n".join(("ok: this pod has started before; now:", *verdict.reasons)), 200)
        return _answer(verdict)

    async def metrics(request: Request) -> Response:
        page, content_type = site.metrics(await site.views(), request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type} | _NO_STORE)

    async def status(_request: Request) -> Response:
        document = msgspec.json.encode(site.status(await site.views()))
        return Response(document, media_type="application/json", headers=_NO_STORE)

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/readyz/{token:path}", readyz_token),
            Route("/startupz", startupz),
            Route("/metrics", metrics),
            Route("/status", status),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=site.names, www_redirect=False)],
    )


def _answer(verdict: Verdict) -> Response:
    return _text("ok", 200) if verdict.ok else _text("\n".join(verdict.reasons), 503)


def _text(text: str, status: int) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers=_NO_STORE)
