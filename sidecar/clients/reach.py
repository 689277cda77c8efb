"""Whether a host can be reached, step by step: its name, a connection, its certificate. Nothing is asked of it.

The steps of `http` in slow motion, for `doctor`: there a failure is one sentence, here it has a place.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import anyio
import httpx2
import msgspec
from anyio.streams.tls import TLSAttribute, TLSStream

from sidecar.clients.http import explained, load_trust, proxy_for
from sidecar.errors import NotSent

if TYPE_CHECKING:
    from anyio.abc import SocketStream

STEP_LIMIT = 5.0
"""Seconds for each step."""


class Handshake(msgspec.Struct, frozen=True):
    """What a server showed of itself."""

    version: str
    """Such as `TLSv1.3`."""
    ends: float | None
    """When its certificate ends, in Unix seconds."""


class Host(msgspec.Struct, frozen=True):
    """The host of a URL."""

    name: str
    port: int
    secure: bool
    proxied: bool
    """Whether requests go through a proxy, which then looks up the name."""

    @property
    def place(self) -> str:
        """Name it, for messages."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port == {True: 443, False: 80}[self.secure] else f"{name}:{self.port}"

    async def addresses(self) -> list[str]:
        """Look up the name. Raises `NotSent`."""
        with _Step(self, "the name was not looked up") as step, anyio.fail_after(STEP_LIMIT):
            found = await anyio.getaddrinfo(self.name, self.port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(entry[4][0]) for entry in found))
        raise step.error

    async def connect(self) -> SocketStream:
        """Open a connection. Raises `NotSent`."""
        with _Step(self, "no connection") as step, anyio.fail_after(STEP_LIMIT):
            return await anyio.connect_tcp(self.name, self.port)
        raise step.error

    async def shake_hands(self, stream: SocketStream) -> Handshake:
        """Do the TLS handshake on an open connection. Raises `NotSent`."""
        trust = load_trust()
        with _Step(self, "no TLS handshake") as step, anyio.fail_after(STEP_LIMIT):
            secured = await TLSStream.wrap(
                stream, hostname=self.name, ssl_context=trust, standard_compatible=False
            )
            shown = secured.extra(TLSAttribute.ssl_object)  # noqa: S610 - not Django's
            ends = (shown.getpeercert() or {}).get("notAfter")
            return Handshake(
                shown.version() or "", ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None
            )
        raise step.error


def host_of(url: str) -> Host:
    """Read the host of a URL that was checked already."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    proxied = secure and proxy_for(httpx2.URL(url)) is not None
    return Host(parts.hostname or "", parts.port or (443 if secure else 80), secure, proxied)


class _Step:
    """Turns whatever ends a step into one `NotSent`, which chains to nothing."""

    error: NotSent

    def __init__(self, host: Host, late: str) -> None:
        self._host, self._late = host, late

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if isinstance(error, TimeoutError) and error.errno is None:
            self.error = NotSent(f"{self._host.place}: {self._late} within {STEP_LIMIT:g} s")
        elif isinstance(error, (OSError, anyio.BrokenResourceError, anyio.EndOfStream, UnicodeError)):
            reason, misconfigured = explained(error)
            self.error = NotSent(f"{self._host.place}: {reason}", misconfigured=misconfigured)
        else:
            return False
        return True
