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

ENTRIES = ("/callback", "/sign-in")
"""Where codes and keys come in, in addresses."""
SEE_OTHER = 303
_OF_THE_BODY = {b"content-length", b"content-type"}

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

        entry = _entry(scope["path"])
        if entry and scope["query_string"]:
            send = _without_query(entry, send)

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if entry:
                    headers["referrer-policy"] = "no-referrer"
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


def _entry(path: str) -> str:
    return next((entry for entry in ENTRIES if path == entry or path.startswith(f"{entry}/")), "")


def _without_query(entry: str, send: Send) -> Send:
    """Let no page stay where a code or a key is in the address, whoever answers, and whatever went wrong.

    The browser would keep it in its history, and send it along as referrer with whatever the page loads. What is wrong
    with the browser's request, it is told again at the entry itself.
    """
    dropped = False

    async def sent_on(message: Message) -> None:
        nonlocal dropped
        if message["type"] == "http.response.start" and message["status"] != SEE_OTHER:
            dropped = True
            kept = [(name, value) for name, value in message["headers"] if name not in _OF_THE_BODY]
            headers = [*kept, (b"location", entry.encode()), (b"content-length", b"0")]
            message = {**message, "status": SEE_OTHER, "headers": headers}
        elif dropped:
            message = {**message, "body": b""}
        await send(message)

    return sent_on
