"""One console of each kind for all tests of a process, over real HTTP on the loopback, and two simulated providers."""

from __future__ import annotations

import html
import http.client
import io
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio
import anyio.from_thread
import anyio.lowlevel
import msgspec
import pytest
import structlog

from sidecar.clients.http import HttpClient
from sidecar.clock import SystemClock
from sidecar.console import serve
from sidecar.console.guard import Guard
from sidecar.console.site import Site
from sidecar.events import Audited, Event
from sidecar.observers import log
from sidecar.pulse import Heartbeats, Pulse
from sidecar.server.serve import HttpServer, bind_tcp, url_of
from sidecar.testing import ProviderConfig, Simulator

SECRET = "sim-cs-0123456789abcdef0123"
CALLBACKS = ("corp", "evil", "tokens/corp", "tokens/issuer")
PUBLIC = "https://tokens.example.test"
"""Where browsers believe the console behind the proxy to be."""
USER_HEADER, GROUPS_HEADER = "X-Forwarded-Email", "X-Forwarded-Groups"
OPERATOR = "olga@example.test"
PATIENCE = 30.0


class Clock(SystemClock):
    """The machine's clocks, and a test may move them on."""

    def __init__(self) -> None:
        super().__init__()
        self.wall_ahead = 0.0
        self.monotonic_ahead = 0.0

    def wall(self) -> float:
        return super().wall() + self.wall_ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.monotonic_ahead


@dataclass
class Reply:
    """What was answered."""

    status: int
    headers: list[tuple[str, str]]
    text: str

    def header(self, name: str) -> str:
        """Return a header, empty if it isn't there."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    @property
    def location(self) -> str:
        return self.header("location")

    @property
    def csrf(self) -> str:
        """The token in the page's forms."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.text)
        assert found, f"no form on this page:\n{self.text}"
        return html.unescape(found[1])

    @property
    def leads_to(self) -> str:
        """Where the page leads on to."""
        found = re.search(r'http-equiv="refresh" content="0; ?url=([^"]+)"', self.text)
        assert found, f"it leads nowhere:\n{self.text}"
        return html.unescape(found[1])


@dataclass
class Place:
    """A console on a socket of its own."""

    url: str
    """Where it listens."""
    public: str
    """Where browsers believe it to be."""
    built: serve.Built
    audited: list[Audited]

    @property
    def site(self) -> Site:
        return self.built.site

    def link(self) -> str:
        """Return a one-time link's path and query."""
        assert self.built.door is not None
        parts = urlsplit(self.built.door.link())
        return f"{parts.path}?{parts.query}"

    def send(
        self,
        method: str,
        path: str,
        headers: list[tuple[str, str]],
        body: bytes | None = None,
        *,
        host: str = "",
    ) -> Reply:
        """Send exactly this."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            names = {name.lower() for name, _ in headers}
            if "host" not in names:
                connection.putheader("Host", host or urlsplit(self.public).netloc)
            for name, value in headers:
                connection.putheader(name, value.encode("utf-8"))
            if body is not None and "content-length" not in names:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Reply(answer.status, answer.getheaders(), answer.read().decode())
        finally:
            connection.close()

    def last_audited(self, what: str) -> Audited:
        """Return the last deed of a kind."""
        return next(event for event in reversed(self.audited) if event.what == what)


@dataclass
class Browser:
    """As much of a browser as counts here: cookies, and saying where a form comes from."""

    place: Place
    user: str = ""
    """Whom the proxy names; empty: there is none, or nobody is signed in."""
    groups: str = ""
    cookies: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    """Every address that it was at or was sent to, and every page, for secrets to be looked for."""

    def headers(self) -> list[tuple[str, str]]:
        found = []
        if self.cookies:
            found.append(("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items())))
        if self.user:
            found.append((USER_HEADER, self.user))
        if self.groups:
            found.append((GROUPS_HEADER, self.groups))
        return found

    def get(self, path: str, *more: tuple[str, str]) -> Reply:
        """Load a page."""
        return self._kept(self.place.send("GET", path, [*self.headers(), *more]))

    def post(self, path: str, *more: tuple[str, str], csrf: str | None = None, **form: str) -> Reply:
        """Send a form of the console's own page; `csrf` in place of the one on the token's page."""
        form["csrf"] = self.csrf() if csrf is None else csrf
        return self.send_form(path, urlencode(form).encode(), *self.same_origin(), *more)

    def same_origin(self) -> list[tuple[str, str]]:
        return [("Origin", self.place.public), ("Sec-Fetch-Site", "same-origin")]

    def send_form(self, path: str, body: bytes, *more: tuple[str, str]) -> Reply:
        kind = ("Content-Type", "application/x-www-form-urlencoded")
        return self._kept(self.place.send("POST", path, [*self.headers(), kind, *more], body))

    def csrf(self) -> str:
        return self.get("/").csrf

    def sign_in(self) -> Browser:
        """Open a one-time link."""
        assert self.get(self.place.link()).status == 303
        return self

    def _kept(self, reply: Reply) -> Reply:
        for name, value in reply.headers:
            if name.lower() == "set-cookie":
                pair, *_ = value.split(";")
                key, _, content = pair.partition("=")
                self.cookies[key] = content
        self.seen += [
            reply.location,
            reply.text,
            *(value for name, value in reply.headers if name != "set-cookie"),
        ]
        return reply

    # A consent, step by step

    def begin(self, token: str) -> str:
        """Ask for a consent; returns the provider's address that the browser is led to."""
        reply = self.post("/consent", token=token)
        assert reply.status == 200, reply.text
        return reply.leads_to

    def back(self, authorize: str, **changes: str | None) -> str:
        """Consent at the provider; returns path and query of the address that it sends the browser back to."""
        parts = urlsplit(authorize)
        query = dict(parse_qsl(parts.query)) | {
            name: value for name, value in changes.items() if value is not None
        }
        connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
        try:
            connection.request("GET", f"{parts.path}?{urlencode(query)}")
            answer = connection.getresponse()
            answer.read()
            location = answer.getheader("Location") or ""
        finally:
            connection.close()
        assert location, f"the provider answered {answer.status}"
        back = urlsplit(location)
        return f"{back.path}?{back.query}"

    def finish(self, back: str) -> Reply:
        """Bring the provider's answer; returns the page that says what came of it."""
        reply = self.get(back)
        assert reply.status == 303, reply.text
        return self.get(reply.location)

    def consent(self, token: str) -> Reply:
        """Go the whole way."""
        return self.finish(self.back(self.begin(token)))


def with_query(address: str, **changes: str | None) -> str:
    """Change members of an address's query; None takes one away."""
    parts = urlsplit(address)
    query = {**dict(parse_qsl(parts.query)), **changes}
    return parts._replace(query=urlencode({k: v for k, v in query.items() if v is not None})).geturl()


def query_of(address: str) -> dict[str, str]:
    """Read the query of an address."""
    return dict(parse_qsl(urlsplit(address).query))


@dataclass
class World:
    """Both consoles, both providers."""

    clock: Clock
    corp: Simulator
    evil: Simulator
    local: Place
    """With one-time links."""
    proxied: Place
    """Behind a proxy, at `PUBLIC`."""
    folder: Path
    names: Iterator[str]

    def new_token(self) -> str:
        """Name a token of `corp` that no test has used yet."""
        return next(self.names)

    def operator(self, user: str = OPERATOR) -> Browser:
        """Give the browser of an operator behind the proxy."""
        return Browser(self.proxied, user=user, groups="" if user == OPERATOR else "token-operators")


NAMES = [f"t{number:02}" for number in range(60)]


def configuration(folder: Path, corp: Simulator, evil: Simulator, **members: Any) -> Path:
    """Write a configuration with many tokens of one provider, and one of another."""

    def provider(simulator: Simulator, title: str) -> dict[str, Any]:
        at = simulator.url
        return {
            "title": title,
            "token_url": f"{at}/token",
            "authorization_url": f"{at}/authorize",
            "revocation_url": f"{at}/revoke",
        }

    def token(name: str, provider: str) -> dict[str, Any]:
        outputs = [{"file": f"{folder}/nowhere/{name}.json", "scopes": ["mail.send"]}]
        client = {"id": "sim-client", "secret": SECRET}
        return {"provider": provider, "client": client, "scopes": ["mail.read"], "outputs": outputs}

    path, known = folder / "config.yaml", {**provider(corp, "Corp"), "issuer": "https://corp.example"}
    document = {
        "state_dir": str(folder / "state"),
        "store": f"sqlite://{folder}/store.db",
        "providers": {"corp": provider(corp, "Corp"), "evil": provider(evil, "<b>Evil</b>")},
        "tokens": {
            **{name: token(name, "corp") for name in NAMES},
            "evil": token("evil", "evil"),
            "issuer": token("issuer", "corp") | {"provider": known},
            "corp": token("corp", "corp") | {"provider": provider(evil, "Evil")},
            "people": token("people/{account}", "corp") | {"for_each": {"enrolment": True}},
            "staff": token("staff/{account}", "corp") | {"for_each": {}},
        },
        **members,
    }
    path.write_bytes(msgspec.json.encode(document))  # which is YAML too
    return path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run both consoles in a thread."""
    folder = tmp_path_factory.mktemp("console")
    with ExitStack() as stack:
        corp, evil = _provider(), _provider()
        clock = Clock()
        stack.enter_context(corp.serve())
        stack.enter_context(evil.serve())
        place = stack.enter_context(running(folder / "local", corp, evil, clock, url=None))
        behind = stack.enter_context(
            running(
                folder / "proxied",
                corp,
                evil,
                clock,
                url=PUBLIC,
                console={
                    "url": PUBLIC,
                    "proxy": {"addresses": ["127.0.0.1"], "groups_header": GROUPS_HEADER},
                    "operators": {"users": [OPERATOR], "groups": ["token-operators"]},
                },
            )
        )
        uris = [f"{base}/callback/{name}" for base in (place.public, PUBLIC) for name in CALLBACKS]
        for simulator in (corp, evil):
            simulator.provider.reconfigure(redirect_uris=tuple(uris))
        yield World(clock, corp, evil, place, behind, folder, iter(NAMES))


def _provider() -> Simulator:
    return Simulator(ProviderConfig(client_secret=SECRET))


@contextmanager
def running(
    folder: Path, corp: Simulator, evil: Simulator, clock: Clock, *, url: str | None, **members: Any
) -> Iterator[Place]:
    """Run a console with the tests' own configuration."""
    folder.mkdir()
    with console_on(configuration(folder, corp, evil, **members), clock, url=url) as place:
        yield place


@contextmanager
def console_on(config: Path, clock: Clock, *, url: str | None) -> Iterator[Place]:
    """Run a console in a thread of its own. `url` is where browsers believe it to be; None: where it is."""
    loaded = serve.load(config)
    sock = bind_tcp("127.0.0.1", 0)
    listening = url_of(sock)
    audited: list[Audited] = []
    ready: list[Place] = []
    up = threading.Event()
    stop: list[Callable[[], object]] = []

    def emit(event: Event) -> None:
        if isinstance(event, Audited):
            audited.append(event)

    async def main() -> None:
        token = anyio.lowlevel.current_token()
        async with (
            HttpClient(clock, allow_insecure_http=False) as http_client,
            anyio.create_task_group() as jobs,
            anyio.create_task_group() as serving,
        ):
            stop.append(lambda: anyio.from_thread.run_sync(serving.cancel_scope.cancel, token=token))

            def start(work: Any) -> None:
                jobs.start_soon(work)

            built = serve.build(
                loaded, url=url or listening, http=http_client, clock=clock, emit=emit, start=start
            )
            server = HttpServer(
                built.app, sock, worker="console", pulse=Pulse(), heartbeats=Heartbeats(clock)
            )
            await serving.start(server.run)
            ready.append(Place(listening, url or listening, built, audited))
            up.set()

    thread = threading.Thread(target=anyio.run, args=(main,), daemon=True)
    thread.start()
    assert up.wait(PATIENCE), "the console did not start"
    try:
        yield ready[0]
    finally:
        stop[0]()
        thread.join(PATIENCE)


@pytest.fixture(autouse=True)
def lines() -> Iterator[io.StringIO]:
    """Catch whatever is logged, at the lowest level: no test may find a secret in it."""
    caught, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers, root.level
    log.configure("debug", "json", caught)
    yield caught
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level
    assert not re.search("sim-(at|rt|cs)", caught.getvalue())


@pytest.fixture(autouse=True)
def _unhurried(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let each test that has the consoles begin with full limits, and at the machine's own time."""
    world: World | None = request.getfixturevalue("world") if "world" in request.fixturenames else None
    if world is not None:
        world.clock.monotonic_ahead += 3600.0
    yield
    if world is not None:
        world.clock.wall_ahead = 0.0


def routes(place: Place) -> list[tuple[str, str]]:
    """List every route of a console as (method, path)."""
    assert isinstance(place.built.app, Guard)
    found = []
    for route in place.site.routes:
        found += [(method, route.path) for method in sorted(route.methods or ()) if method != "HEAD"]
    return found
