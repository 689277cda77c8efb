"""Everybody on this machine, and every web page, can reach the loopback: what they send changes nothing."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio
import pytest
import structlog

from sidecar.clock import SystemClock
from sidecar.enrol import loopback
from sidecar.enrol.code import Authorization
from sidecar.enrol.loopback import Loopback
from sidecar.errors import ConsentRefused, UsageError
from sidecar.observers import log
from sidecar.pulse import Heartbeats, Pulse
from sidecar.server.serve import HttpServer
from tests.enrol.conftest import Desk, MakeDesk

XSS = '"><script>alert(1)</script>'


@pytest.fixture
def anyio_backend() -> str:
    """The real server runs on asyncio alone."""
    return "asyncio"


@pytest.fixture(autouse=True)
def lines() -> Iterator[io.StringIO]:
    """Catch whatever is logged, at the lowest level."""
    caught = io.StringIO()
    log.configure("debug", "json", caught)
    yield caught
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()
    assert "sim-" not in caught.getvalue()


class Reply:
    """What came back, in whole."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.decode().partition("\r\n\r\n")
        self.status = int(head.split(" ")[1])
        pairs = (line.partition(": ") for line in head.split("\r\n")[1:])
        self.headers = {name.lower(): value for name, _, value in pairs}


class Site:
    """A request for consent that waits, and the page where its answer is brought."""

    def __init__(self, desk: Desk, authorization: Authorization, page: Loopback, redirect_uri: str) -> None:
        self.desk, self.authorization, self.page = desk, authorization, page
        self.redirect_uri = redirect_uri
        self.host = urlsplit(redirect_uri).netloc

    def right(self) -> str:
        """Consent, and return the query that a browser brings."""
        return self.desk.browse(self.authorization)

    async def send(self, data: bytes) -> bytes:
        """Send bytes and return what comes until the other side closes."""
        port = urlsplit(self.redirect_uri).port or 0
        received = b""
        with anyio.fail_after(20):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                try:
                    await stream.send(data)
                    while True:
                        received += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return received

    async def get(self, target: str, *, method: str = "GET", host: str | None = None) -> Reply:
        """Make one request."""
        host = self.host if host is None else host
        return Reply(await self.send(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()))


@asynccontextmanager
async def serving(desk: Desk, redirect_uri: str = loopback.ANY_PORT) -> AsyncIterator[Site]:
    """Wait for an answer on a real socket."""
    listening, redirect_uri = loopback.bind(redirect_uri)
    desk.simulated.reconfigure(redirect_uris=(redirect_uri,))
    await desk.provider.locate("authorization_url")
    authorization = Authorization(desk.provider, redirect_uri=redirect_uri, scopes=("mail.read",))
    page = Loopback(authorization, redirect_uri)
    heartbeats = Heartbeats(SystemClock())
    server = HttpServer(page, listening, worker="loopback", pulse=Pulse(), heartbeats=heartbeats)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.run)
        yield Site(desk, authorization, page, redirect_uri)
        tasks.cancel_scope.cancel()


async def test_the_browser_is_told_when_it_is_stored(desk: Desk) -> None:
    """Not before: the answer waits for the result, and the code is gone from the address then."""
    async with serving(desk) as site, anyio.create_task_group() as tasks:
        replies: list[Reply] = []

        async def browse() -> None:
            replies.append(await site.get(f"/?{site.right()}"))
            replies.append(await site.get(replies[0].headers["location"]))

        tasks.start_soon(browse)
        assert (await site.page.code()).startswith("sim-rt-code-")
        assert (await site.get("/")).status == 400
        await anyio.wait_all_tasks_blocked()
        assert replies == []
        site.page.conclude("gmail starts anew.", worked=True)
        await site.page.read()

    assert [reply.status for reply in replies] == [303, 200]
    assert replies[0].headers["location"] == "/"
    assert "It worked" in replies[1].body
    assert "sim-" not in replies[0].body + replies[1].body


async def test_no_page_can_be_framed_kept_or_scripted(desk: Desk) -> None:
    """Every answer, errors too, forbids scripts, frames, caches and referrers."""
    async with serving(desk) as site:
        replies = [await site.get(target) for target in ("/", "/other", "/?state=x", f"/?start={XSS}")]
        replies.append(await site.get("/", method="POST"))
        replies.append(await site.get("/", host="attacker.example"))
    for reply in replies:
        assert reply.headers["content-security-policy"].startswith("default-src 'none'")
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["x-frame-options"] == "DENY"
        assert "server" not in reply.headers
        assert "<script" not in reply.body


async def test_only_one_path_one_method_one_host(desk: Desk) -> None:
    """The right answer in the wrong place isn't taken, and the right one still is."""
    async with serving(desk) as site:
        right = site.right()
        port = urlsplit(site.redirect_uri).port
        wrong = {
            404: [
                f"//?{right}",
                f"/callback?{right}",
                f"/%2e?{right}",
                f"/.?{right}",
                f"{site.redirect_uri}?{right}",
            ],
            421: ["attacker.example", f"attacker.example:{port}", "127.0.0.1", f"localhost:{port}", ""],
            405: ["POST", "PUT", "HEAD", "OPTIONS", "DELETE"],
        }
        for target in wrong[404]:
            assert (await site.get(target)).status == 404, target
        for host in wrong[421]:
            assert (await site.get(f"/?{right}", host=host)).status == 421, host
        for method in wrong[405]:
            reply = await site.get(f"/?{right}", method=method)
            assert (reply.status, reply.headers["allow"]) == (405, "GET"), method
        assert site.authorization.code(right)


async def test_forged_and_replayed_answers(desk: Desk) -> None:
    """No state, a wrong one, two of them, an injected code, or the same again: refused, and nothing is told."""
    async with serving(desk) as site, anyio.create_task_group() as tasks:
        right = dict(parse_qsl(site.right()))
        forged = [
            {"code": "sim-rt-code-0123456789abcdef"},
            {"code": "sim-rt-code-0123456789abcdef", "state": XSS},
            {"error": "access_denied", "error_description": XSS},
        ]
        for query in (*map(urlencode, forged), f"{urlencode(right)}&state=x", "&", "=", "%", "state"):
            reply = await site.get(f"/?{query}")
            assert (reply.status, "Nothing was changed" in reply.body) == (400, True), query
            assert "script" not in reply.body
        tasks.start_soon(site.get, f"/?{urlencode(right)}")
        assert await site.page.code() == right["code"]
        site.page.conclude("done.", worked=True)
        assert (await site.get(f"/?{urlencode(right)}")).status == 400


async def test_a_request_without_measure(desk: Desk) -> None:
    """Long addresses and heads are cut off, bodies aren't read, and nobody else has to wait for that."""
    async with serving(desk) as site:
        for data in (
            b"GET /?" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
            f"POST / HTTP/1.1\r\nHost: {site.host}\r\nContent-Length: 99999999\r\n\r\n".encode()
            + b"x" * 100_000,
            f"GET / HTTP/1.1\r\nHost: {site.host}\r\nHost: {site.host}\r\n\r\n".encode(),
            b"\x00" * 1000,
        ):
            received = await site.send(data)
            assert received == b"" or Reply(received).status in {400, 404, 405, 421, 431}
        port = urlsplit(site.redirect_uri).port or 0
        async with await anyio.connect_tcp("127.0.0.1", port) as slow:
            await slow.send(b"GET / HT")
            assert (await site.get("/")).status == 400
        assert site.authorization.code(site.right())


async def test_what_the_provider_writes_is_shown_as_text(make_desk: MakeDesk) -> None:
    """Markup in `error_description` is escaped, and the refusal ends the wait."""
    desk = make_desk()
    async with serving(desk) as site, anyio.create_task_group() as tasks:
        state = dict(parse_qsl(site.right()))["state"]
        query = urlencode({"error": "access_denied", "error_description": XSS, "state": state})
        tasks.start_soon(site.get, f"/?{query}")
        with pytest.raises(ConsentRefused) as caught:
            await site.page.code()
        site.page.conclude(f"{caught.value}.", worked=False)
        reply = await site.get("/")
    assert (reply.status, "It did not work" in reply.body) == (400, True)
    assert "&quot;&gt;&lt;script&gt;" in reply.body
    assert "<script" not in reply.body


async def test_a_browser_is_started_without_the_state(desk: Desk) -> None:
    """What its command line shows leads to the provider once, and holds nothing of the request."""
    async with serving(desk) as site:
        start = urlsplit(site.page.start_url)
        sent = await site.get(f"{start.path}?{start.query}")
        assert (sent.status, sent.headers["location"]) == (303, site.authorization.url)
        assert dict(parse_qsl(urlsplit(site.authorization.url).query))["state"] not in site.page.start_url
        again = await site.get(f"{start.path}?{start.query}")
        assert (again.status, "location" in again.headers) == (400, False)
        assert site.authorization.code(site.right())


@pytest.mark.parametrize(
    ("redirect_uri", "expected"),
    [
        ("http://127.0.0.1", "http://127.0.0.1:{}/"),
        ("http://localhost/back", "http://localhost:{}/back"),
        ("http://[::1]/back?x=1", "http://[::1]:{}/back?x=1"),
    ],
)
async def test_where_it_is_listened(redirect_uri: str, expected: str) -> None:
    """On the loopback's address, never on a name or on all of them; the port is what is free or what is registered."""
    try:
        listening, found = loopback.bind(redirect_uri)
    except UsageError:
        pytest.skip("this machine has no IPv6")
    with listening:
        address, port = listening.getsockname()[:2]
        assert address in {"127.0.0.1", "::1"}
        assert found == expected.format(port)
        with pytest.raises(UsageError, match="cannot listen on"):
            loopback.bind(found)


def test_what_is_local() -> None:
    """Only what this machine alone answers, in clear, can be listened to."""
    local: dict[str, Any] = {
        uri: loopback.is_local(uri)
        for uri in ("http://127.0.0.1/", "http://localhost:1/x", "http://[::1]:1", "http://127.8.8.8/")
    }
    assert all(local.values())
    for uri in (
        "https://127.0.0.1/",
        "http://app.example/",
        "com.example:/back",
        "http://127.0.0.1.evil.example/",
        "",
    ):
        assert not loopback.is_local(uri), uri
