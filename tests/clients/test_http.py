from __future__ import annotations

import gzip
import json
import logging
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSStream

from sidecar.clients.http import HttpClient, Request, Sealed, _Call
from sidecar.clock import SystemClock
from sidecar.errors import LeaseLost, NoAnswer, NotSent
from sidecar.ports import Answer
from sidecar.profile import BodyKind

pytestmark = pytest.mark.anyio

# A raw TCP server that does to its client whatever a test says.

Script = Callable[[anyio.abc.ByteStream], Awaitable[None]]


@dataclass
class Server:
    """What a server saw, and where it is."""

    port: int
    scheme: str = "http"
    requests: list[bytes] = field(default_factory=list, repr=False)
    connections: int = 0

    @property
    def url(self) -> str:
        """Its token endpoint."""
        return f"{self.scheme}://127.0.0.1:{self.port}/token"


def port_of(listener: anyio.abc.Listener[Any]) -> int:
    """Tell where it listens."""
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's
    return port


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Run a script for every connection, after its request was read in whole."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = Server(port_of(listener), "https" if tls else "http")

    async def handle(stream: anyio.abc.ByteStream) -> None:
        server.connections += 1
        async with stream:
            try:
                if tls is not None:
                    stream = await TLSStream.wrap(stream, server_side=True, ssl_context=tls)
                request = await read_request(stream)
                if request:
                    server.requests.append(request)
                    await script(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError, ssl.SSLError):
                pass

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield server
        tasks.cancel_scope.cancel()


async def read_request(stream: anyio.abc.ByteStream) -> bytes:
    """Read one request with its body; empty if the client hung up before it was whole."""
    data = b""
    while True:
        head, gap, body = data.partition(b"\r\n\r\n")
        if gap:
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if not lengths or len(body) >= int(lengths[0].split(b":")[1]):
                return data
        try:
            data += await stream.receive()
        except anyio.EndOfStream:
            return b""


def answering(raw: bytes) -> Script:
    """Make a script that sends these bytes and closes."""

    async def script(stream: anyio.abc.ByteStream) -> None:
        await stream.send(raw)

    return script


async def hold(stream: anyio.abc.ByteStream) -> None:
    """Never answer."""
    await anyio.sleep_forever()


async def reset(stream: anyio.abc.ByteStream) -> None:
    """Close with RST."""
    raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - not Django's
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """Write a whole HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


# The client.

REFRESH_TOKEN = "sim-rt-0123456789abcdef"
SECRET = "sim-cs-0123456789abcdef"
ACCESS_TOKEN = "sim-at-0123456789abcdef"
TOKEN = json.dumps({"access_token": ACCESS_TOKEN, "expires_in": 3600}).encode()
FORM = Sealed(grant_type="refresh_token", refresh_token=REFRESH_TOKEN, client_secret=SECRET)
HEADERS = Sealed(Authorization=f"Basic {SECRET}")


class Gate:
    """Counts how often it was opened; refuses if told to."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.opened = 0
        self.refusal = refusal

    def open(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.opened += 1


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the proxies of whoever runs the tests out."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """Make a client with little patience."""
    async with HttpClient(SystemClock(), read_limit=1.5) as client:
        yield client


async def post(client: HttpClient, url: str, gate: Gate | None = None, send_timeout: float = 5.0) -> Answer:
    """Make the call that all tests make."""
    return await client.send(Request(url, FORM, HEADERS), gate=gate or Gate(), send_timeout=send_timeout)


async def answer_to(client: HttpClient, script: Script) -> Answer:
    """Return what a client takes from a server's answer."""
    async with serving(script) as server:
        return await post(client, server.url)


async def failure_of(client: HttpClient, script: Script) -> NoAnswer:
    """Return the error of a request that was sent in vain, after checking that it names the place."""
    gate = Gate()
    async with serving(script) as server:
        with pytest.raises(NoAnswer) as caught:
            await post(client, server.url, gate)
        assert str(caught.value).startswith(f"127.0.0.1:{server.port}: ")
    assert gate.opened == 1
    return caught.value


async def test_returns_the_answer_with_the_headers_that_count(client: HttpClient) -> None:
    """A whole answer comes back raw, with both times and no more headers than are needed."""
    raw = http(TOKEN, Date="Fri, 20 Nov 2026 18:00:00 GMT", Set_Cookie="a=b", Content_Type="application/json")
    answer = await answer_to(client, answering(raw))
    assert (answer.status, answer.body) == (200, TOKEN)
    assert answer.headers == {"date": "Fri, 20 Nov 2026 18:00:00 GMT", "content-type": "application/json"}
    assert answer.sent_at <= answer.received_at


async def test_sends_one_plain_http_1_1_post(client: HttpClient) -> None:
    """The request is HTTP/1.1, asks for uncompressed JSON, closes its connection and carries the form."""
    async with serving(answering(http(TOKEN))) as server:
        await post(client, server.url)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /token HTTP/1.1"
    assert {line.lower() for line in lines[1:]} >= {
        f"host: 127.0.0.1:{server.port}",
        "accept: application/json",
        "accept-encoding: identity",
        "connection: close",
        "content-type: application/x-www-form-urlencoded",
        f"authorization: basic {SECRET}",
    }
    assert any(line.lower().startswith("user-agent: token-sidecar/") for line in lines)
    assert body == f"grant_type=refresh_token&refresh_token={REFRESH_TOKEN}&client_secret={SECRET}".encode()


async def test_every_call_has_a_connection_of_its_own(client: HttpClient) -> None:
    """Nothing is kept alive, even when the server would: a stale connection makes every error ambiguous."""

    async def keep_open(stream: anyio.abc.ByteStream) -> None:
        await stream.send(http(TOKEN))
        await anyio.sleep_forever()

    async with serving(keep_open) as server:
        for _ in range(3):
            await post(client, server.url)
    assert server.connections == 3


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_no_redirect_is_followed(client: HttpClient, status: str) -> None:
    """A redirect is an answer like any other: its target never hears from us."""
    async with serving(answering(http(TOKEN))) as other:
        answer = await answer_to(client, answering(http(b"", status, Location=other.url)))
    assert (answer.status, answer.headers["location"]) == (int(status[:3]), other.url)
    assert other.connections == 0


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Oops", "503 Service Unavailable"])
async def test_an_error_status_is_an_answer(client: HttpClient, status: str) -> None:
    """Statuses are judged elsewhere; Retry-After comes along."""
    answer = await answer_to(client, answering(http(b"later", status, Retry_After="7")))
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (int(status[:3]), b"later", "7")


async def test_an_empty_body_is_an_answer(client: HttpClient) -> None:
    """An answer may be empty."""
    assert (await answer_to(client, answering(http(b"")))).body == b""


async def test_a_name_that_does_not_resolve_sends_nothing(client: HttpClient) -> None:
    """DNS failures come before the gate."""
    gate = Gate()
    with pytest.raises(NotSent, match=r"^no-such-host\.invalid: the name does not resolve$"):
        await post(client, "https://no-such-host.invalid/token", gate)
    assert gate.opened == 0


async def test_a_refused_connection_sends_nothing(client: HttpClient) -> None:
    """A closed port is told as such."""
    async with serving(hold) as server:
        url = server.url
    with pytest.raises(NotSent, match="connection refused") as caught:
        await post(client, url)
    assert not caught.value.misconfigured


async def test_a_connection_that_takes_too_long_sends_nothing(client: HttpClient) -> None:
    """`send_timeout` bounds the TLS handshake as well: here the server accepts and says nothing."""
    gate = Gate()
    async with serving(hold) as server:
        with pytest.raises(NotSent, match=r"no connection within 0\.3 s"):
            await post(client, server.url.replace("http:", "https:"), gate, send_timeout=0.3)
    assert gate.opened == 0


async def test_tls_spoken_to_a_plain_server_sends_nothing(client: HttpClient) -> None:
    """A server that does not speak TLS fails before the gate, and waiting may cure it."""

    async def babble(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, babble)
        port = port_of(listener)
        with pytest.raises(NotSent, match="TLS failed") as caught:
            await post(client, f"https://127.0.0.1:{port}/")
        tasks.cancel_scope.cancel()
    assert not caught.value.misconfigured


async def test_a_lost_lease_sends_nothing_and_closes(client: HttpClient) -> None:
    """What the gate raises surfaces as it is; the server sees a connection that ends without a byte."""
    received: list[bytes] = []
    ended = anyio.Event()

    async def listen(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            try:
                received.append(await stream.receive())
            except anyio.EndOfStream:
                ended.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, listen)
        port = port_of(listener)
        lost = LeaseLost()
        with pytest.raises(LeaseLost) as caught:
            await post(client, f"http://127.0.0.1:{port}/", Gate(lost))
        with anyio.fail_after(5):
            await ended.wait()
        tasks.cancel_scope.cancel()
    assert caught.value is lost
    assert received == []


async def test_the_gate_opens_once_after_connecting_and_before_the_first_byte(client: HttpClient) -> None:
    """When the gate opens the connection stands and the server has read nothing."""
    seen: list[bool] = []

    class Watching(Gate):
        def open(self) -> None:
            super().open()
            seen.append(bool(server.requests))

    gate = Watching()
    async with serving(answering(http(TOKEN))) as server:
        await post(client, server.url, gate)
    assert (gate.opened, seen, len(server.requests)) == (1, [False], 1)


async def test_the_gate_stays_shut_once_the_time_to_send_is_over(client: HttpClient) -> None:
    """A deadline that passed before the connection was ready means that nothing is sent."""
    gate = Gate()
    async with serving(answering(http(TOKEN))) as server:
        with pytest.raises(NotSent):
            await post(client, server.url, gate, send_timeout=0.0)
    assert (gate.opened, server.requests) == (0, [])


async def test_the_gate_stays_shut_when_the_deadline_passed_unnoticed() -> None:
    """A process that was stopped while connecting finds itself ready and too late: nothing is sent."""
    gate = Gate()
    call = _Call(SystemClock(), gate, 1.0)
    call.scope = anyio.CancelScope(deadline=anyio.current_time() - 1)
    with pytest.raises(NotSent, match="time to send was over"):
        call._open_gate()
    assert gate.opened == 0


async def test_the_token_stays_here_should_the_transport_pass_the_gate_by(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another version of the transport no longer told when it sends, it would be given no body to send."""

    async def silent(self: _Call, name: str, info: object) -> None:
        """Hear nothing."""

    monkeypatch.setattr(_Call, "trace", silent)
    async with serving(answering(http(TOKEN))) as server:
        with pytest.raises(NotSent, match="without passing the gate"):
            await post(client, server.url)
    assert server.requests == []


async def test_a_request_that_cannot_be_sent_in_full_is_no_answer(client: HttpClient) -> None:
    """A server that stops reading in the midst of the request may have seen enough of it."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        huge = Request(url, Sealed(padding="x" * 30_000_000))
        with pytest.raises(NoAnswer, match="could not be sent in full"):
            # Enough to have it made and begun on a busy machine; then nothing moves.
            await client.send(huge, gate=Gate(), send_timeout=5)


async def test_a_reset_after_sending_is_no_answer(client: HttpClient) -> None:
    """Once the gate was open, a broken connection leaves it unknown what happened."""
    await failure_of(client, reset)


async def test_a_close_after_sending_is_no_answer(client: HttpClient) -> None:
    """A server that hangs up without a word may have processed the request."""
    assert "closed early" in str(await failure_of(client, answering(b"")))


async def test_a_provider_that_never_answers_is_given_up(client: HttpClient) -> None:
    """The whole answer has a limit."""
    assert "no whole answer within 1.5 s" in str(await failure_of(client, hold))


async def test_a_body_that_trickles_is_given_up(client: HttpClient) -> None:
    """The limit is for the whole answer, not for each piece of it."""

    async def trickle(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        while True:
            await stream.send(b"x")
            await anyio.sleep(0.05)

    assert "no whole answer within" in str(await failure_of(client, trickle))


async def test_a_late_answer_is_taken(client: HttpClient) -> None:
    """`send_timeout` ends with the sending: an answer may take much longer."""

    async def late(stream: anyio.abc.ByteStream) -> None:
        await anyio.sleep(0.6)
        await stream.send(http(TOKEN))

    async with serving(late) as server:
        assert (await post(client, server.url, send_timeout=0.2)).body == TOKEN


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + TOKEN[:-5], id="cut in the JSON"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="cut in the headers"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6 sim-at-0123456789abcdef\r\n\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, id="endless header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="broken chunk"),
    ],
)
async def test_a_broken_answer_is_no_answer(client: HttpClient, raw: bytes) -> None:
    """What is not a whole HTTP answer is never quoted."""
    assert ACCESS_TOKEN not in str(await failure_of(client, answering(raw)))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + TOKEN, id="promised more"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(TOKEN), TOKEN),
            id="no last chunk",
        ),
    ],
)
async def test_a_whole_token_in_a_cut_transfer_is_kept(client: HttpClient, raw: bytes) -> None:
    """A pair is never discarded: what is a whole JSON object counts, whatever the transfer promised."""
    assert (await answer_to(client, answering(raw))).body == TOKEN


@pytest.mark.parametrize("declared", [True, False])
async def test_a_huge_body_is_not_read(client: HttpClient, declared: bool) -> None:  # noqa: FBT001
    """Reading a body of 50 MB stops at the limit, and the connection is closed."""
    sent = 0

    async def flood(stream: anyio.abc.ByteStream) -> None:
        nonlocal sent
        length = b"Content-Length: 52428800\r\n" if declared else b""
        await stream.send(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        for _ in range(800):
            await stream.send(b" " * 65536)
            sent += 65536

    assert "larger than 1024 KiB" in str(await failure_of(client, flood))
    assert sent < 16 * 1024 * 1024


async def test_a_compressed_answer_that_was_not_asked_for_is_read(client: HttpClient) -> None:
    """Servers that compress regardless are understood."""
    answer = await answer_to(client, answering(http(gzip.compress(TOKEN), Content_Encoding="gzip")))
    assert answer.body == TOKEN


async def test_a_compression_bomb_is_no_answer(client: HttpClient) -> None:
    """A small body that grows past the limit is as bad as a large one."""
    bomb = gzip.compress(b" " * 50_000_000)
    assert "decompressed" in str(await failure_of(client, answering(http(bomb, Content_Encoding="gzip"))))


async def test_a_broken_compression_is_kept_as_it_came(client: HttpClient) -> None:
    """What cannot be decompressed is still an answer, for the judge to doubt."""
    answer = await answer_to(client, answering(http(b"\x1f\x8bnonsense", Content_Encoding="gzip")))
    assert answer.body == b"\x1f\x8bnonsense"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://idp.example/token", "plain http is refused"),
        ("ftp://127.0.0.1/token", "not an https:// address"),
        ("/token", "not an https:// address"),
        ("https://[::1/token", "not valid"),
        pytest.param("https://" + "x" * 70 + ".example/token", "token URL|resolve", id="long label"),
    ],
)
async def test_an_unfit_url_is_refused(client: HttpClient, url: str, reason: str) -> None:
    """An address that cannot be right is reported, and nothing is sent."""
    gate = Gate()
    with pytest.raises(NotSent, match=reason):
        await post(client, url, gate)
    assert gate.opened == 0


# TLS and proxies.


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for 127.0.0.1 that nobody trusts yet, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """Make a server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_a_certificate_that_does_not_verify_is_a_misconfiguration(
    client: HttpClient, tls: ssl.SSLContext
) -> None:
    """Verification is never given up; nothing is sent, and waiting does not cure it."""
    gate = Gate()
    async with serving(answering(http(TOKEN)), tls) as server:
        with pytest.raises(NotSent, match=r"does not verify.*SSL_CERT_FILE") as caught:
            await post(client, server.url, gate)
    assert (caught.value.misconfigured, gate.opened, server.requests) == (True, 0, [])


async def test_ssl_cert_file_is_trusted_and_read_again_when_it_changes(
    client: HttpClient,
    tls: ssl.SSLContext,
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CA bundle that is replaced counts from the next call on."""
    bundle = tmp_path / "ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    gate = Gate()
    async with serving(answering(http(TOKEN)), tls) as server:
        with pytest.raises(NotSent, match=r"no such file.*correct SSL_CERT_FILE"):
            await post(client, server.url, gate)
        await anyio.Path(bundle).write_text("nothing")
        with pytest.raises(NotSent, match="no certificate in it"):
            await post(client, server.url, gate)
        await anyio.Path(bundle).write_bytes(await anyio.Path(certificate).read_bytes())
        assert (await post(client, server.url, gate)).body == TOKEN
    assert gate.opened == 1


async def test_an_https_proxy_sees_the_host_alone(
    client: HttpClient, tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS_PROXY is honoured through CONNECT, and the gate opens for the real request only."""
    seen: list[bytes] = []
    gate = Gate()

    async def proxy(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            head = await stream.receive()
            seen.append(head)
            assert gate.opened == 0
            port = int(head.split()[1].rsplit(b":", 1)[1])
            async with (
                await anyio.connect_tcp("127.0.0.1", port) as upstream,
                anyio.create_task_group() as pumps,
            ):
                await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                pumps.start_soon(pump, stream, upstream)
                await pump(upstream, stream)
                pumps.cancel_scope.cancel()

    async def pump(source: anyio.abc.ByteStream, target: anyio.abc.ByteStream) -> None:
        try:
            while True:
                await target.send(await source.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, serving(answering(http(TOKEN)), tls) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy)
        port = port_of(listener)
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@127.0.0.1:{port}")
        assert (await post(client, server.url, gate)).body == TOKEN
        tasks.cancel_scope.cancel()
    assert gate.opened == 1
    assert seen[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1".encode())
    assert REFRESH_TOKEN.encode() not in seen[0]


async def test_a_proxy_that_refuses_sends_nothing(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy's refusal is told by its status, without the proxy's password."""

    async def refuse(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    gate = Gate()
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, refuse)
        port = port_of(listener)
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@127.0.0.1:{port}")
        with pytest.raises(NotSent, match=r"^idp\.example: the proxy refused the connection \(407\)$"):
            await post(client, "https://idp.example/token", gate)
        tasks.cancel_scope.cancel()
    assert gate.opened == 0


async def test_a_proxy_address_that_is_none_is_not_quoted(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken HTTPS_PROXY may hold a password, so only its name is told."""
    monkeypatch.setenv("HTTPS_PROXY", f"gopher://user:{SECRET}@proxy")
    with pytest.raises(NotSent, match="HTTPS_PROXY") as caught:
        await post(client, "https://idp.example/token")
    assert caught.value.misconfigured
    assert SECRET not in str(caught.value)


async def test_plain_http_never_goes_through_a_proxy(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would read a plain request."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert (await answer_to(client, answering(http(TOKEN)))).status == 200


# Secrets.


class Collector(logging.Handler):
    """Keeps every record as text."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage() + repr(record.args))


async def test_no_log_shows_a_secret(client: HttpClient) -> None:
    """Whatever the root logger's level is, nothing of a request or an answer is logged."""
    collector, root = Collector(), logging.getLogger()
    level = root.level
    root.addHandler(collector)
    root.setLevel(logging.DEBUG)
    try:
        await answer_to(client, answering(http(TOKEN, Set_Cookie=SECRET, Content_Type="application/json")))
        await failure_of(client, reset)
    finally:
        root.removeHandler(collector)
        root.setLevel(level)
    text = "\n".join(line for line in collector.lines if not line.startswith("Using selector"))
    assert all(secret not in text for secret in (REFRESH_TOKEN, SECRET, ACCESS_TOKEN))
    assert "/token" not in text


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(reset, id="reset"),
        pytest.param(answering(b""), id="closed"),
        pytest.param(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + TOKEN[:45]), id="cut"),
    ],
)
async def test_no_traceback_shows_a_secret(client: HttpClient, script: Script) -> None:
    """A traceback with all local variables, causes and contexts holds no secret."""
    assert_sealed(await failure_of(client, script))


async def test_no_traceback_of_a_lost_lease_shows_a_secret(client: HttpClient) -> None:
    """The same holds where the gate stopped the request."""
    async with serving(answering(http(TOKEN))) as server:
        with pytest.raises(LeaseLost) as caught:
            await post(client, server.url, Gate(LeaseLost()))
    assert_sealed(caught.value)


def assert_sealed(error: BaseException) -> None:
    """Check that nothing that can be printed of an error holds a secret."""
    assert error.__cause__ is None
    assert error.__context__ is None
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    text = "".join(frames.format()) + repr(error) + repr(FORM)
    # The test module's own constants are no locals of any frame.
    assert REFRESH_TOKEN not in text
    assert SECRET not in text


# A process that was stopped.

CHILD = """
import sys
import anyio
from sidecar.clients.http import HttpClient, Request, Sealed
from sidecar.clock import SystemClock

class Gate:
    def open(self):
        pass

async def main():
    async with HttpClient(SystemClock(), read_limit=1.0) as client:
        request = Request(sys.argv[1], Sealed(grant_type="refresh_token"))
        answer = await client.send(request, gate=Gate(), send_timeout=0.5)
    print(answer.status, len(answer.body))

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_answer_that_waited_for_a_stopped_process_is_caught(backend: str) -> None:
    """A process stopped past its deadlines, for sending and for reading, finds the answer afterwards."""
    requested, answered = anyio.Event(), anyio.Event()
    released = anyio.Event()

    async def script(stream: anyio.abc.ByteStream) -> None:
        requested.set()
        await released.wait()
        await stream.send(http(TOKEN))
        answered.set()

    async with serving(script) as server:
        child = subprocess.Popen(  # noqa: ASYNC220 - it is to be stopped and continued by its id
            [sys.executable, "-c", CHILD, server.url, backend], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            await requested.wait()
            os.kill(child.pid, signal.SIGSTOP)
            released.set()
            await answered.wait()
            # What is tested: time passes for a process that stands still.
            await anyio.sleep(2.0)
            os.kill(child.pid, signal.SIGCONT)
            output, errors = await anyio.to_thread.run_sync(child.communicate)
        finally:
            child.kill()
    assert (output.split(), errors) == ([b"200", str(len(TOKEN)).encode()], b"")


# The shapes of a request.


async def sent_as(client: HttpClient, **shape: Any) -> tuple[list[str], bytes]:
    """Return the lines of the head and the body of a request in this shape, to a URL that has a query."""
    async with serving(answering(http(TOKEN))) as server:
        members = Sealed(client_id="a b&c", refresh_token=REFRESH_TOKEN)
        request = Request(f"{server.url}?tenant=x%2Fy", members, **shape)
        await client.send(request, gate=Gate(), send_timeout=5.0)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), body


QUERY_LINE = f"/token?tenant=x%2Fy&client_id=a+b%26c&refresh_token={REFRESH_TOKEN} HTTP/1.1"


async def test_members_go_as_json(client: HttpClient) -> None:
    """One object of strings."""
    head, body = await sent_as(client, body=BodyKind.JSON)
    assert head[0] == "POST /token?tenant=x%2Fy HTTP/1.1"
    assert "content-type: application/json" in [line.lower() for line in head]
    assert json.loads(body) == {"client_id": "a b&c", "refresh_token": REFRESH_TOKEN}


async def test_members_go_in_the_url(client: HttpClient) -> None:
    """Beside the query that the URL has; the body is empty, and said to be."""
    head, body = await sent_as(client, body=BodyKind.QUERY)
    assert head[0].replace("%20", "+") == f"POST {QUERY_LINE}"
    assert ("content-length: 0" in [line.lower() for line in head], body) == (True, b"")


@pytest.mark.parametrize("body", BodyKind)
async def test_a_get_has_no_body(client: HttpClient, body: BodyKind) -> None:
    """Its members are in the URL however they are told to travel, and no header speaks of a body."""
    head, rest = await sent_as(client, method="GET", body=body)
    assert head[0].replace("%20", "+") == f"GET {QUERY_LINE}"
    assert not [line for line in head if line.lower().startswith(("content-", "transfer-"))]
    assert rest == b""


async def test_headers_replace_ours_but_for_the_framing(client: HttpClient) -> None:
    """Whatever the case of their names; none is sent twice."""
    asked = Sealed({"accept": "application/vnd.x+json", "content-length": "7", "CONNECTION": "keep-alive"})
    head, body = await sent_as(client, headers=asked)
    lines = [line.lower() for line in head[1:]]
    assert "accept: application/vnd.x+json" in lines
    assert f"content-length: {len(body)}" in lines
    assert "connection: close" in lines
    names = [line.partition(":")[0] for line in lines]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "script", [hold, reset, answering(b"\x00nonsense")], ids=["silence", "reset", "garbage"]
)
async def test_secrets_in_a_url_stay_out_of_errors(
    client: HttpClient, method: Literal["GET", "POST"], script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the error nor its traceback nor any log has the query of the request."""
    caplog.set_level(logging.DEBUG)
    async with serving(script) as server:
        request = Request(server.url, FORM, method=method, body=BodyKind.QUERY)
        with pytest.raises(NoAnswer) as caught:
            await client.send(request, gate=Gate(), send_timeout=5.0)
    told = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(caught.value)
    assert "sim-" not in told
    assert caught.value.__context__ is None
