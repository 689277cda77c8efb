"""Where a browser brings the answer to a request for consent: one path on this machine's loopback (RFC 8252 §7.3).

Other programs and web pages can reach it too, so whatever isn't the one answer that is waited for changes nothing.
The code leaves the address bar and the browser's history at once: the answer is taken, and the browser sent on to the
same path without it, to read what came of it.
"""

from __future__ import annotations

import html
import ipaddress
import secrets
import socket
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio
from starlette.responses import HTMLResponse, RedirectResponse

from sidecar.enrol.code import LONGEST_ANSWER, NotOurs
from sidecar.errors import SidecarError, UsageError

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from sidecar.enrol.code import Authorization

ANY_PORT = "http://127.0.0.1/"
"""The redirect URI of clients that may listen on any port (RFC 8252 §7.3)."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme"
content="light dark"><title>{title}</title></head>
<body><main><h1>{title}</h1><p>{text}</p></main></body>
</html>
"""


def is_local(redirect_uri: str) -> bool:
    """Tell whether a redirect URI leads to this machine, in clear, where it can be listened to."""
    parts = urlsplit(redirect_uri)
    try:
        here = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
    return here and parts.scheme == "http"


def bind(redirect_uri: str) -> tuple[socket.socket, str]:
    """Listen where a redirect URI leads; without a port in it, on any free one. Return the URI with its port.

    Raises `UsageError`.
    """
    parts = urlsplit(redirect_uri)
    # RFC 8252 §8.3: the address is bound, never a name that somebody may have changed.
    host = "127.0.0.1" if parts.hostname == "localhost" else str(parts.hostname)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, parts.port or 0))
        listening.listen()
        listening.settimeout(0)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"cannot listen on {host} port {parts.port}: {error.strerror}; end what does, or use --no-browser"
        ) from None
    name = f"[{host}]" if ":" in host else parts.hostname
    port = listening.getsockname()[1]
    return listening, parts._replace(netloc=f"{name}:{port}", path=parts.path or "/").geturl()


class Loopback:
    """The application on that path, for one request for consent."""

    def __init__(self, authorization: Authorization, redirect_uri: str) -> None:
        """`redirect_uri` is the one of the request, with the port that is listened to."""
        parts = urlsplit(redirect_uri)
        self._authorization = authorization
        self._path, self._host = parts.path.encode(), parts.netloc.encode()
        self._start = urlencode([*parse_qsl(parts.query), ("start", secrets.token_urlsafe(16))])
        self.start_url = parts._replace(query=self._start).geturl()
        """Leads to the provider, once. Who sees what a browser was started with doesn't see the `state`."""
        self._arrived = anyio.Event()
        self._code = ""
        self._problem: SidecarError | None = None
        self._concluded = anyio.Event()
        self._verdict = (False, "")
        self._read = anyio.Event()

    async def code(self) -> str:
        """Wait for the code. Raises what `Authorization.code` does, apart from `NotOurs`, which ends no wait."""
        await self._arrived.wait()
        if self._problem is not None:
            raise self._problem
        return self._code

    def conclude(self, text: str, *, worked: bool) -> None:
        """Let the browser know what came of it."""
        self._verdict = worked, text
        self._concluded.set()

    async def read(self) -> None:
        """Wait until the browser has shown that; at once where none brought an answer."""
        if self._arrived.is_set():
            await self._read.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        response = await self._answer(scope)
        response.headers.update(_HEADERS)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope) -> Response:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if hosts != [self._host]:
            # Another name for this address: a web page that had its own name point here (DNS rebinding).
            return _page("Wrong address", "This is not the host that is listened for.", 421)
        if scope["raw_path"] != self._path:
            return _page("Nothing here", "Only the answer to one request for consent is waited for.", 404)
        if scope["method"] != "GET":
            response = _page("Not allowed", "Only GET is answered.", 405)
            response.headers["Allow"] = "GET"
            return response
        query: bytes = scope["query_string"]
        return await self._take(query.decode("latin-1")) if query else self._result()

    async def _take(self, query: str) -> Response:
        if self._start and secrets.compare_digest(query, self._start):
            self._start = ""
            return _sent_to(self._authorization.url)
        try:
            self._code = self._authorization.code(query if len(query) <= LONGEST_ANSWER else "")
        except NotOurs:
            return _page(
                "Not expected", "This is not the answer that is waited for. Nothing was changed.", 400
            )
        except SidecarError as problem:
            self._problem = problem
        self._arrived.set()
        await self._concluded.wait()
        return _sent_to(self._path.decode())

    def _result(self) -> Response:
        if not self._concluded.is_set():
            return _page("Not yet", "There is no answer yet: consent first, on the provider's page.", 400)
        self._read.set()
        worked, text = self._verdict
        title = "It worked" if worked else "It did not work"
        return _page(title, f"{text} You can close this window.", 200 if worked else 400)


def _page(title: str, text: str, status: int) -> Response:
    return HTMLResponse(_PAGE.format(title=html.escape(title), text=html.escape(text)), status)


def _sent_to(url: str) -> Response:
    return RedirectResponse(url, 303)
