"""A provider without a network, asked by the real code that has a human consent, in real or virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import msgspec
import pytest

from sidecar.clients.http import HttpClient, Request
from sidecar.config.settings import Client, TokenSettings
from sidecar.enrol.code import Authorization
from sidecar.enrol.provider import Provider
from sidecar.errors import CallError
from sidecar.grants.discovery import Issuers
from sidecar.ports import Answer, Gate
from sidecar.profile import Profile
from sidecar.testing import Provider as Simulated
from sidecar.testing import ProviderConfig

EPOCH = 1_800_000_000.0
BASE = "https://provider.example"
REDIRECT = "http://127.0.0.1:9999/"
PROFILE = Profile(
    title="Example",
    docs=f"{BASE}/docs",
    authorization_url=f"{BASE}/authorize",
    token_url=f"{BASE}/token",
    revocation_url=f"{BASE}/revoke",
    device_authorization_url=f"{BASE}/device",
)


class LoopClock:
    """All three clocks are the event loop's, so that time is virtual where that one's is."""

    def wall(self) -> float:
        return EPOCH + self.boot()

    def boot(self) -> float:
        try:
            return anyio.current_time()
        except anyio.NoEventLoopError:
            return 0.0

    def monotonic(self) -> float:
        return self.boot()


class Wire(HttpClient):
    """Brings requests to a simulated provider, and notes what was sent."""

    def __init__(self, provider: Simulated, clock: LoopClock) -> None:
        super().__init__(clock)
        self.provider = provider
        self.sent: list[tuple[float, str, dict[str, str]]] = []
        self.problems: list[CallError | None] = []
        """What becomes of the next requests; None: they are answered."""
        self.documents: dict[str, dict[str, Any]] = {}
        """By path: what is answered to a GET."""
        self.reshape: Callable[[dict[str, Any]], dict[str, Any]] = dict

    async def send(self, request: Request, *, gate: Gate, send_timeout: float) -> Answer:
        path, form = urlsplit(request.url).path, dict(request.members)
        del send_timeout
        self.sent.append((self.clock.boot(), path, form))
        gate.open()
        problem = self.problems.pop(0) if self.problems else None
        if problem is not None:
            raise problem
        proof = request.headers.get("Authorization")
        if request.method == "GET":
            found = self.documents.get(path)
            return self._answer(404 if found is None else 200, {}, msgspec.json.encode(found))
        match path:
            case "/token":
                reply = self.provider.token(form, proof)
            case "/device":
                reply = self.provider.device_authorization(form, proof)
            case _:
                reply = self.provider.revocation(form, proof)
        body = msgspec.json.encode(self.reshape(reply.json()))
        return self._answer(
            reply.status, {name.lower(): value for name, value in reply.headers.items()}, body
        )

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
        now = self.clock.wall()
        return Answer(status, dict(headers), body, now, now)


class Desk:
    """One token, its provider, and the browser of a user who decides at once."""

    def __init__(self, folder: Path, profile: Profile = PROFILE, **config: Any) -> None:
        self.clock = LoopClock()
        config.setdefault("redirect_uris", (REDIRECT,))
        self.simulated = Simulated(ProviderConfig(**config), now=self.clock.wall)
        self.wire = Wire(self.simulated, self.clock)
        known = self.simulated.config
        client = Client(id=known.client_id, secret=known.client_secret)
        self.settings = TokenSettings(client=client, scopes=("mail.read",))
        self._folder = folder
        self.provider = self.with_profile(profile)

    def with_profile(self, profile: Profile, **settings: Any) -> Provider:
        """Make another provider of it."""
        token = msgspec.structs.replace(self.settings, **settings)
        issuers = Issuers(self.wire, self._folder, self.clock)
        self.provider = Provider("gmail", token, profile, self.wire, issuers)
        return self.provider

    async def ask(self, *scopes: str) -> Authorization:
        """Make a request for consent."""
        await self.provider.locate("authorization_url")
        return Authorization(self.provider, redirect_uri=REDIRECT, scopes=scopes or self.provider.scopes())

    def browse(self, authorization: Authorization) -> str:
        """Go where a user's browser goes; return the query of the address that it is sent to."""
        asked = dict(parse_qsl(urlsplit(authorization.url).query))
        return urlsplit(self.simulated.authorization(asked).headers["Location"]).query


MakeDesk = Callable[..., Desk]


@pytest.fixture
def make_desk(tmp_path: Path) -> MakeDesk:
    """Make desks; the arguments are a profile and the members of `ProviderConfig`."""

    def make(*arguments: Any, **config: Any) -> Desk:
        return Desk(tmp_path, *arguments, **config)

    return make


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    """Give a desk where nothing is unusual."""
    return make_desk()


@pytest.fixture
def anyio_backend() -> str:
    """Time is virtual where a test asks for it."""
    return "trio"
