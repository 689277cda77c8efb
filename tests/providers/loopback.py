"""The way to a simulated provider for grants on virtual time: requests as they are sent, and no network."""

from __future__ import annotations

import anyio
import httpx2

from sidecar.clients import http
from sidecar.clock import Clock
from sidecar.errors import NoAnswer
from sidecar.ports import Answer, Gate
from sidecar.testing import NoAnswer as Cut
from sidecar.testing import Provider, request_token
from sidecar.testing.endpoints import Parameters, Request, parameters

PATIENCE = 300.0


class Loopback(http.HttpClient):
    """Hands each request to the provider as its server would have read it."""

    def __init__(self, provider: Provider, clock: Clock) -> None:
        super().__init__(clock)
        self.provider = provider
        self.calls: list[float] = []
        """When it was asked, in Unix seconds."""

    async def send(self, request: http.Request, *, gate: Gate, send_timeout: float) -> Answer:
        """Lay out, send and wait, as long as a real client would."""
        del send_timeout
        asked, authorization = self._read(request)
        self.calls.append(self.clock.wall())
        gate.open()
        sent_at = self.clock.wall()
        try:
            with anyio.fail_after(PATIENCE):
                reply = await request_token(
                    self.provider, asked.form, authorization, malformed=asked.malformed
                )
        except (Cut, TimeoutError):
            raise NoAnswer("no answer came") from None
        answered = {name.lower(): value for name, value in reply.headers.items()}
        return Answer(reply.status, answered, reply.body, sent_at, self.clock.wall())

    def _read(self, request: http.Request) -> tuple[Parameters, str | None]:
        target, content, framing = request.laid_out(httpx2.URL(request.url))
        headers = {name.lower(): value for name, value in {**request.headers, **framing}.items()}
        profile = self.provider.config.profile
        assert request.method == profile.method
        arrived = Request(request.method, target.path, target.query.decode(), headers, content)
        return parameters(arrived, profile), headers.get("authorization")
