"""The control socket's application: whatever reads a token or changes state, for who may open the socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sidecar.audit import auditing
from sidecar.errors import SidecarError, UsageError
from sidecar.events import Audited, Event
from sidecar.server.wire import (
    BODY_LIMIT,
    Exported,
    RefreshReply,
    RefreshRequest,
    ReloadReply,
    RevokeReply,
    SeedReply,
    SeedRequest,
    to_body,
    to_status,
)
from sidecar.tokens import AccessToken, fingerprint

_Body = TypeVar("_Body")
_Reply = TypeVar("_Reply")


class Engine(Protocol):
    """What the daemon does on request.

    Methods raise a `SidecarError`, whose `exit_code` becomes the status: `UnknownToken` 404, 2 → 400,
    3 → 409 (a human must act), 4 → 503, everything else 500. They may be cancelled when the daemon stops;
    what must not be cancelled in them, they shield.
    """

    async def status(self, name: str = "") -> dict[str, Any]:
        """Return the status document; `name`: of this token alone, be it one of many that are told of together."""
        ...

    async def history(self, name: str = "") -> dict[str, list[dict[str, Any]]]:
        """Return each token's last turns, oldest first; `name`: of this token alone."""
        ...

    async def token(self, name: str) -> AccessToken:
        """Return a valid access token."""
        ...

    async def refresh(self, name: str, rejected: str | None) -> RefreshReply:
        """Refresh now. `rejected` is the fingerprint of a refused access token: a no-op if it was replaced.

        A dead grant is tried exactly once more.
        """
        ...

    async def seed(self, name: str, request: SeedRequest) -> SeedReply:
        """Start a new lineage from a refresh token, and from the access token that came with it."""
        ...

    async def revoke(self, name: str) -> RevokeReply:
        """End the grant at the provider, and call it dead."""
        ...

    async def reload(self) -> ReloadReply:
        """Read the configuration again. Raises `ConfigError`, with the old one still in force."""
        ...


def _unheard(_event: Event) -> None:
    """Nobody keeps a record."""


def control_app(engine: Engine, emit: Callable[[Event], None] = _unheard) -> Starlette:
    """Build the application. `emit` hears who asked for what, and what it came to."""

    async def audited(request: Request, what: str, work: Awaitable[_Reply]) -> _Reply:
        who = request.client.host if request.client is not None else ""
        return await auditing(work, emit, who=who, what=what, token=request.path_params.get("name", ""))

    async def status(request: Request) -> Any:
        return await engine.status(request.path_params.get("name", ""))

    async def history(request: Request) -> Any:
        return await engine.history(request.path_params.get("name", ""))

    async def token(request: Request) -> Any:
        access = await engine.token(_name(request))
        return {
            "access_token": access.value,
            "token_type": access.token_type,
            "expires_at": access.expires_at,
            "fingerprint": fingerprint(access.value),
        }

    async def refresh(request: Request) -> Any:
        body = await _read(request, RefreshRequest)
        return await audited(request, "refresh", engine.refresh(_name(request), body.rejected))

    async def seed(request: Request) -> Any:
        body = await _read(request, SeedRequest)
        return await audited(request, body.deed, engine.seed(_name(request), body))

    async def exported(request: Request) -> Any:
        body = await _read(request, Exported)
        who = request.client.host if request.client is not None else ""
        emit(Audited(who, "export", "done", _name(request), body.fingerprint))
        return {}

    async def revoke(request: Request) -> Any:
        await _read(request, dict[str, Any])
        return await audited(request, "revoke", engine.revoke(_name(request)))

    async def reload(request: Request) -> Any:
        await _read(request, dict[str, Any])
        return await audited(request, "reload", engine.reload())

    return Starlette(
        routes=[
            Route("/status", _answering(status)),
            Route("/status/{name:path}", _answering(status)),
            Route("/history", _answering(history)),
            Route("/history/{name:path}", _answering(history)),
            # An account may have slashes in its name; what is asked of it comes last, whatever it is called.
            Route("/tokens/{name:path}/refresh", _answering(refresh), methods=["POST"]),
            Route("/tokens/{name:path}/seed", _answering(seed), methods=["POST"]),
            Route("/tokens/{name:path}/exported", _answering(exported), methods=["POST"]),
            Route("/tokens/{name:path}/revoke", _answering(revoke), methods=["POST"]),
            Route("/tokens/{name:path}", _answering(token)),
            Route("/reload", _answering(reload), methods=["POST"]),
        ]
    )


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    return name


def _answering(handle: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    """Make an endpoint that answers with JSON, errors included."""

    async def endpoint(request: Request) -> Response:
        try:
            return _json(await handle(request), 200)
        except _TooLarge as error:
            return _json(to_body(error), 413)
        except SidecarError as error:
            return _json(to_body(error), to_status(error))

    return endpoint


class _TooLarge(UsageError):
    """The request's body is too large."""


async def _read(request: Request, shape: type[_Body]) -> _Body:
    """Read a bounded JSON body. Raises `UsageError`, without a word of what the body said."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise _TooLarge
    try:
        return msgspec.json.decode(bytes(body) or b"{}", type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Suppressed: msgspec quotes members of the body, and this body may hold a secret.
        raise UsageError("the request's body is not the JSON object that is expected here") from None


def _json(document: Any, status: int) -> Response:
    return Response(
        msgspec.json.encode(document),
        status,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )
