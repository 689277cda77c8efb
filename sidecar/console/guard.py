"""What every request passes before anything reads it, and what every answer is sent with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse

from sidecar.console import pages
from sidecar.console.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_URL = 8 * 1024
"""Bytes of path and query; the codes of some providers have two thousand."""
LONGEST_HEADERS = 32 * 1024
"""Bytes of all headers; a proxy may send a few thousand."""

LIVEZ = "/livez"

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Not `no-referrer`, with which browsers hide the origin of our own forms from us.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
HSTS = "max-age=31536000"


class Guard:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], secure: bool) -> None:
        """`hosts` are the names under which it may be reached; `secure`: through https alone."""
        self._app = app
        self._hosts = frozenset(hosts)
        self._headers = HEADERS | ({"strict-transport-security": HSTS} if secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["path"] == LIVEZ:
            # Says nothing, and kubelet asks by the pod's address.
            await PlainTextResponse("ok\n")(scope, receive, dressed)
            return
        try:
            self._check(scope)
        except Refused as refused:
            await HTMLResponse(pages.message(refused.title, refused.text), refused.status)(
                scope, receive, dressed
            )
            return
        await self._app(scope, receive, dressed)

    def _check(self, scope: Scope) -> None:
        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            # A web page that had its own name point here (DNS rebinding) would be of one origin with us.
            raise Refused(
                421, "Wrong address", "The console answers under its own address alone: see console.url."
            )
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > LONGEST_URL:
            raise Refused(414, "Too long", "No address of the console is as long as this one.")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > LONGEST_HEADERS:
            raise Refused(431, "Too long", "The request has more headers than a browser sends.")
