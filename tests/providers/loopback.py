"""The way to a simulated provider for grants on virtual time: requests as they are sent, and no network."""

from __future__ import annotations

import json
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

import anyio

from sidecar.clients.http import HttpClient, Sealed
from sidecar.clock import Clock
from sidecar.errors import NoAnswer
from sidecar.ports import Answer, Gate
from sidecar.profile import BodyKind
from sidecar.testing import NoAnswer as Cut
from sidecar.testing import Provider, request_token
from sidecar.testing.endpoints import Request, parameters

PATIENCE = 300.0


class Loopback(HttpClient):
    """Hands each request to the provider as its server would have read it."""

    def __init__(self, provider: Provider, clock: Clock) -> None:
        super().__init__(clock)
        self.now = clock.wall
        self.provider = provider
        self.calls: list[float] = []

    async def send(
        self,
        url: str,
        members: Sealed,
        *,
        gate: Gate,
        send_timeout: float,
        headers: Sealed | None = None,
        method: Literal["POST", "GET"] = "POST",
        body: BodyKind = BodyKind.FORM,
        **_: Any,
    ) -> Answer:
        """Lay out, send and wait, as long as a real client would."""
        del send_timeout
        request = _request(url, members, headers or Sealed(), method, body)
        profile = self.provider.config.profile
        assert request.method == profile.method
        self.calls.append(self.now())
        gate.open()
        sent_at = self.now()
        asked = parameters(request, profile)
        try:
            with anyio.fail_after(PATIENCE):
                reply = await request_token(
                    self.provider, asked.form, request.headers.get("authorization"), malformed=asked.malformed
                )
        except (Cut, TimeoutError):
            raise NoAnswer("no answer came") from None
        answered = {name.lower(): value for name, value in reply.headers.items()}
        return Answer(reply.status, answered, reply.body, sent_at, self.now())


def _request(url: str, members: Sealed, headers: Sealed, method: str, body: BodyKind) -> Request:
    lowered = {name.lower(): value for name, value in headers.items()}
    query, content, kind = "", b"", ""
    if method == "GET" or body is BodyKind.QUERY:
        query = urlencode(members)
    elif body is BodyKind.JSON:
        content, kind = json.dumps(members).encode(), "application/json"
    else:
        content, kind = urlencode(members).encode(), "application/x-www-form-urlencoded"
    return Request(method, urlsplit(url).path, query, {"content-type": kind, **lowered}, content)
