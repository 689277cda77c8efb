"""A client that proves itself by a certificate, over real TLS on the loopback (RFC 8705 §2)."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSAttribute, TLSStream

from sidecar.clients.http import ClientCertificate, HttpClient, Request, Sealed
from sidecar.clock import SystemClock
from sidecar.errors import NotSent
from tests import pki

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


class Gate:
    """Counts how often it was opened."""

    opened = 0

    def open(self) -> None:
        self.opened += 1


@dataclass
class Server:
    """A token endpoint that sees who its clients are."""

    url: str
    shown: list[str | None] = field(default_factory=list)
    """The common name of each client that got an answer; None where there was none."""


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[Server]:
    """Answer every request that comes through the handshake."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's
    server = Server(f"https://127.0.0.1:{port}/token")

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                secure = await TLSStream.wrap(stream, server_side=True, ssl_context=context)
                await secure.receive()
            except (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError):
                return
            peer: Any = secure.extra(TLSAttribute.peer_certificate)  # noqa: S610 - not Django's
            server.shown.append(dict(pair[0] for pair in peer["subject"])["commonName"] if peer else None)
            await secure.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield server
        tasks.cancel_scope.cancel()


@contextmanager
def refusing(context: ssl.SSLContext) -> Iterator[str]:
    """Serve a handshake that fails, telling why as OpenSSL's own sockets do (anyio's hang up without a word)."""
    listener = socket.create_server(("127.0.0.1", 0))
    problems: list[Exception] = []

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(PATIENCE)
        with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secure:
            try:
                secure.do_handshake()
            except ssl.SSLError as error:
                problems.append(error)
            # Closing with something unread would be a reset, which may overtake the reason.
            raw = socket.socket(fileno=secure.detach())
        with raw:
            raw.settimeout(PATIENCE)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/token"
        thread.join(PATIENCE)
    assert len(problems) == 1


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pki.Authority:
    """Make an authority that client and server trust."""
    authority = pki.Authority()
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


@pytest.fixture
def context(authority: pki.Authority, tmp_path: Path) -> ssl.SSLContext:
    """Make a server's side of TLS, which wants its clients to have a certificate."""
    return server_side(authority, tmp_path)


def server_side(authority: pki.Authority, folder: Path) -> ssl.SSLContext:
    """Ask for a certificate of the authority's."""
    pair = authority.issue("server")
    (folder / "server.pem").write_bytes(pair.key + pair.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def written(pair: pki.Pair, folder: Path) -> ClientCertificate:
    """Put a pair into two files."""
    shown = ClientCertificate(folder / "tls.crt", folder / "tls.key")
    shown.file.write_bytes(pair.certificate)
    shown.key.write_bytes(pair.key)
    return shown


@pytest.fixture
def client() -> HttpClient:
    """Make a client."""
    return HttpClient(SystemClock())


async def post(
    client: HttpClient, url: str, certificate: ClientCertificate | None, gate: Gate | None = None
) -> int:
    """Send a request; return the status of the answer."""
    request = Request(url, Sealed(a="b"), certificate=certificate)
    answer = await client.send(request, gate=gate or Gate(), send_timeout=PATIENCE)
    return answer.status


async def test_the_certificate_is_shown_and_read_anew(
    client: HttpClient, authority: pki.Authority, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """Every request shows what the files hold by then."""
    async with client, serving(context) as server:
        for name in ("app", "app renewed"):
            assert await post(client, server.url, written(authority.issue(name), tmp_path)) == 200
    assert server.shown == ["app", "app renewed"]


async def test_certificate_and_key_may_share_a_file(
    client: HttpClient, authority: pki.Authority, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """As many tools write them."""
    pair, both = authority.issue("app"), tmp_path / "both.pem"
    both.write_bytes(pair.key + pair.certificate)
    async with client, serving(context) as server:
        assert await post(client, server.url, ClientCertificate(both, both)) == 200
    assert server.shown == ["app"]


async def test_nobody_else_sees_the_certificate(
    client: HttpClient, authority: pki.Authority, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """A request without one is anonymous, also right after one that had it."""
    context.verify_mode = ssl.CERT_OPTIONAL
    async with client, serving(context) as server:
        await post(client, server.url, written(authority.issue("app"), tmp_path))
        await post(client, server.url, None)
    assert server.shown == ["app", None]


@pytest.mark.parametrize(
    ("whose", "version"),
    [
        ("a stranger's", ssl.TLSVersion.TLSv1_2),
        ("a stranger's", ssl.TLSVersion.TLSv1_3),
        ("nobody's", ssl.TLSVersion.TLSv1_3),
    ],
)
async def test_a_certificate_that_is_refused_costs_no_token(
    client: HttpClient, context: ssl.SSLContext, tmp_path: Path, version: ssl.TLSVersion, whose: str
) -> None:
    """The request is certain not to have been processed, although TLS 1.3 refuses it after it was written."""
    context.maximum_version = version
    shown = written(pki.Authority("a stranger").issue("app"), tmp_path) if whose != "nobody's" else None
    with refusing(context) as url:
        async with client:
            with pytest.raises(NotSent, match=r"certificate was refused \(.*register it") as caught:
                await post(client, url, shown)
    assert caught.value.misconfigured


async def test_a_certificate_is_shown_over_https_alone(client: HttpClient, tmp_path: Path) -> None:
    """Over plain http it would prove nothing."""
    gate = Gate()
    shown = written(pki.Authority().issue("app"), tmp_path)
    async with client:
        with pytest.raises(NotSent, match="shown over https alone") as caught:
            await post(client, "http://127.0.0.1:1/token", shown, gate)
    assert (caught.value.misconfigured, gate.opened) == (True, 0)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (pki.pem(pki.ec_key()), "key values mismatch"),
        (pki.pem(pki.ec_key(), passphrase=b"sim-cs-0123456789abcdef"), ""),
        (b"", ""),
        (None, "no such file"),
    ],
    ids=["another's", "encrypted", "empty", "missing"],
)
async def test_a_key_that_does_not_fit_is_explained(
    client: HttpClient,
    authority: pki.Authority,
    context: ssl.SSLContext,
    tmp_path: Path,
    key: bytes | None,
    reason: str,
) -> None:
    """Before anything is sent; and nobody is asked for a passphrase."""
    shown, gate = written(authority.issue("app"), tmp_path), Gate()
    shown.key.unlink()
    if key is not None:
        shown.key.write_bytes(key)
    async with client, serving(context) as server:
        with pytest.raises(
            NotSent, match=f"tls.crt can't be used with the key in .*{reason}.*anew"
        ) as caught:
            await post(client, server.url, shown, gate)
    assert (caught.value.misconfigured, gate.opened, server.shown) == (True, 0, [])
