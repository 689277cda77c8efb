"""The one way to a provider: one request on a fresh connection, and certainty about whether it went out.

httpx2's transport is used without its client: no redirects, no cookies, no retries, no URLs in logs. From the
environment two things are honoured: `SSL_CERT_FILE` or else `SSL_CERT_DIR`, in place of the system's
certificates (OpenSSL's, not certifi's), and `HTTPS_PROXY` or `ALL_PROXY` with `NO_PROXY`, for https alone,
where the proxy sees nothing but the host's name (CONNECT).

Time is limited in two ways. Until the request may leave, by a plain deadline: nothing can be lost. From then
on only seconds in which this process ran count, so that one that was stopped (SIGSTOP, a frozen machine)
finds the answer that waited in its socket.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import urlencode
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx2
import msgspec

from sidecar import __version__
from sidecar.clock import Clock
from sidecar.errors import NoAnswer, NotSent
from sidecar.ports import Answer, Gate
from sidecar.profile import BodyKind

BODY_LIMIT = 1024 * 1024
"""Bytes; a token answer has a few thousand."""
READ_LIMIT = 300.0
"""Seconds for the whole answer."""
KEPT_HEADERS = ("date", "retry-after", "content-type", "location")
"""What an `Answer` keeps."""

_TOO_LARGE = f"the answer is larger than {BODY_LIMIT // 1024} KiB"

# At debug level they write headers of both directions.
_LOGGERS = ("httpx2", *(f"httpcore2.{name}" for name in ("connection", "http11", "http2", "proxy", "socks")))


def hush() -> None:
    """Switch off the library's own logging, for all that use it."""
    for name in _LOGGERS:
        logging.getLogger(name).disabled = True


class Sealed(dict[str, str]):
    """Members of a request, or headers: a mapping whose `repr` shows names and hides values."""

    def __repr__(self) -> str:
        return f"Sealed({', '.join(self)})"


class ClientCertificate(msgspec.Struct, frozen=True):
    """What a client shows of itself at the TLS handshake (RFC 8705 §2)."""

    file: Path
    """The certificate and its chain, in PEM."""
    key: Path
    """Its private key, in PEM, which may be in the same file."""


class Open:
    """A gate that lets every request pass: nothing of a grant is used up by it."""

    def open(self) -> None:
        """Nothing is at stake."""


class Request(NamedTuple):
    """What is to be sent. Its URL is free of secrets; the one that is sent may not be."""

    url: str
    members: Sealed = Sealed()
    headers: Sealed = Sealed()
    """They may replace ours, apart from those that say how long the members are and of what type."""
    method: Literal["POST", "GET", "PUT", "PATCH", "DELETE"] = "POST"
    body: BodyKind = BodyKind.FORM
    """How the members travel; those of a GET are always in the URL."""
    content: bytes | None = None
    """The body itself, in place of members; `headers` say of what type it is."""
    certificate: ClientCertificate | None = None
    """Shown on this connection alone."""

    def laid_out(self, target: httpx2.URL) -> tuple[httpx2.URL, bytes, dict[str, str]]:
        """Put the members where they belong; return the URL, the body and the headers that tell of it."""
        if self.content is not None:
            return target, self.content, {"Content-Length": str(len(self.content))}
        if self.method == "GET" or self.body is BodyKind.QUERY:
            framing = {} if self.method == "GET" else {"Content-Length": "0"}
            return target.copy_merge_params(self.members), b"", framing
        if self.body is BodyKind.JSON:
            content, kind = json.dumps(self.members).encode(), "application/json"
        else:
            content, kind = urlencode(self.members).encode(), "application/x-www-form-urlencoded"
        return target, content, {"Content-Length": str(len(content)), "Content-Type": kind}


class HttpClient:
    """Makes requests of providers. Enter it before use; one serves any number of calls at once."""

    def __init__(
        self, clock: Clock, *, allow_insecure_http: bool = False, read_limit: float = READ_LIMIT
    ) -> None:
        """`read_limit`: seconds for an answer to come in whole, once the request was sent."""
        self.clock = clock
        self._allow_insecure_http = allow_insecure_http
        self._read_limit = read_limit
        self._trust: ssl.SSLContext | None = None
        self._trust_signature: object = None

    async def __aenter__(self) -> Self:
        hush()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._trust = None

    async def send(self, request: Request, *, gate: Gate, send_timeout: float) -> Answer:
        """Send one request and return whatever was answered, of any status; nothing is followed or retried.

        `gate.open()` is called when the connection stands (TLS included), before the first byte of the
        request. `send_timeout` (seconds) bounds everything up to the last byte of the request.

        Raises `NotSent` when nothing left this machine, or what `gate.open()` raised; and `NoAnswer` when the
        request may have been processed. No error holds the request, and none chains to one that does.
        """
        call = _Call(self.clock, gate, self._read_limit)
        try:
            async with anyio.create_task_group() as group:
                group.cancel_scope.deadline = anyio.current_time() + send_timeout
                call.scope = group.cancel_scope
                call.watch = lambda: group.start_soon(call.give_up_in_time)
                try:
                    await self._exchange(call, request)
                except Exception as error:  # noqa: BLE001 - whatever it was: was the request sent?
                    call.failed(error)
                group.cancel_scope.cancel()
        finally:
            await call.hang_up()
        answer = call.answer or call.rescued()
        if answer is None:
            # Raised here, not where it went wrong: this frame shows no secret, and nothing is chained.
            raise call.error(_host(request.url), send_timeout)
        return answer

    async def _exchange(self, call: _Call, asked: Request) -> None:
        target = httpx2.URL(asked.url)
        self._check(target)
        if asked.certificate is not None and target.scheme != "https":
            raise NotSent(
                "a client's certificate is shown over https alone; correct token_url", misconfigured=True
            )
        target, content, framing = asked.laid_out(target)
        headers = httpx2.Headers(
            {
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"token-sidecar/{__version__}",
            }
        )
        headers.update(asked.headers)
        headers.update({"Connection": "close", **framing})
        request = httpx2.Request(
            asked.method,
            target,
            headers=headers,
            content=call.guarded(content),
            extensions={"trace": call.trace},
        )
        # Announced wherever an iterator stands; beside a length, or without a body, it would be wrong.
        request.headers.pop("Transfer-Encoding", None)
        async with self._transport(target, asked.certificate) as transport:
            response = await transport.handle_async_request(request)
            await call.read(response)

    def _check(self, target: httpx2.URL) -> None:
        if target.scheme == "https":
            return
        if target.scheme != "http" or not target.host:
            raise NotSent("the token URL is not an https:// address; correct token_url", misconfigured=True)
        if not (self._allow_insecure_http or _is_loopback(target.host)):
            raise NotSent(
                "plain http is refused except to loopback: use https, or set allow_insecure_http: true",
                misconfigured=True,
            )

    def _transport(
        self, target: httpx2.URL, certificate: ClientCertificate | None
    ) -> httpx2.AsyncHTTPTransport:
        secure = target.scheme == "https"
        # The bare context trusts nobody and costs nothing; plain http makes no use of it.
        trust = self._trusted() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        proxy = proxy_for(target) if secure else None
        return httpx2.AsyncHTTPTransport(
            # A context of its own: neither another provider nor a proxy sees who the client is.
            verify=trust if certificate is None else _showing(certificate, load_trust()),
            trust_env=False,
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=0),
            proxy=_proxy(proxy, trust) if proxy else None,
        )

    def _trusted(self) -> ssl.SSLContext:
        """Load the trusted certificates when first used (they take 7 MiB), and when their file changed."""
        signature = _trust_signature()
        if self._trust is None or signature != self._trust_signature:
            self._trust = load_trust()
            self._trust_signature = signature
        return self._trust


class _Call:
    """One request: how far it came, what it brought, and the patience with it."""

    scope: anyio.CancelScope
    watch: Callable[[], object]

    def __init__(self, clock: Clock, gate: Gate, read_limit: float) -> None:
        self._clock = clock
        self._gate = gate
        self._read_limit = read_limit
        self._send_left = 0.0
        self._sent = anyio.Event()
        self._sent_at: float | None = None
        self._refusal: Exception | None = None
        self._reason = ""
        self._misconfigured = False
        self._stream: Any = None
        self._response: httpx2.Response | None = None
        self._body = bytearray()
        self.answer: Answer | None = None

    async def trace(self, name: str, info: dict[str, Any]) -> None:
        """Listen to the transport. An exception raised here ends the request and closes its connection."""
        if name == "http11.send_request_headers.started" and info["request"].method != b"CONNECT":
            self._open_gate()
        elif name == "http11.receive_response_headers.started" and self._sent_at is not None:
            self._sent.set()
        elif name == "connection.connect_tcp.complete":
            self._stream = info["return_value"]

    def _open_gate(self) -> None:
        self._send_left = self.scope.deadline - anyio.current_time()
        if self._send_left <= 0 or self.scope.cancel_called:
            # The deadline has passed although its cancellation did not arrive yet, as after a SIGSTOP.
            self._refusal = NotSent("the time to send was over before the connection was ready")
            raise self._refusal
        sent_at = self._clock.wall()
        try:
            self._gate.open()
        except Exception as error:
            self._refusal = error
            raise
        self._sent_at = sent_at
        self.scope.deadline = float("inf")
        self.watch()

    async def hang_up(self) -> None:
        """Close the connection if it isn't: the transport forgets one whose TLS handshake is cancelled."""
        if self._stream is not None:
            with anyio.move_on_after(1, shield=True), suppress(Exception):
                await self._stream.aclose()

    async def guarded(self, content: bytes) -> AsyncIterator[bytes]:
        """Yield the body, and none of it should the transport ever come this far without the gate."""
        if self._sent_at is None:
            self._refusal = NotSent(
                "the request reached the transport without passing the gate", misconfigured=True
            )
            raise self._refusal
        yield content

    async def give_up_in_time(self) -> None:
        """Cancel the call when its seconds are used up.

        They are counted in slices, and a slice counts as its nominal length however long it took: that is the
        time this process had for it.
        """
        slice_ = self._send_left / 4
        for _ in range(4):
            with anyio.move_on_after(slice_):
                await self._sent.wait()
                break
        else:
            self._give_up("the request could not be sent in full in time")
            return
        for _ in range(30):
            await anyio.sleep(self._read_limit / 30)
        self._give_up(f"no whole answer within {self._read_limit:g} s")

    def _give_up(self, reason: str) -> None:
        if self.answer is None and not self._reason:
            self._reason = reason
        self.scope.cancel()

    async def read(self, response: httpx2.Response) -> None:
        """Take the answer in, up to the limit."""
        self._response = response
        if _declared(response) > BODY_LIMIT:
            self._reason = _TOO_LARGE
            return
        async for chunk in response.aiter_raw():
            self._body += chunk
            if len(self._body) > BODY_LIMIT:
                # Breaking off here would leave the transport's own generators unfinished.
                self._give_up(_TOO_LARGE)
        if len(self._body) <= BODY_LIMIT:
            self._complete(response)

    def _complete(self, response: httpx2.Response) -> None:
        body = _decoded(bytes(self._body), response.headers.get("content-encoding", ""))
        if body is None:
            self._reason = f"the answer is larger than {BODY_LIMIT // 1024} KiB when decompressed"
            return
        kept = {name: response.headers.get_list(name)[0] for name in KEPT_HEADERS if name in response.headers}
        self.answer = Answer(
            status=response.status_code,
            headers=kept,
            body=body,
            sent_at=self._sent_at or 0.0,
            received_at=self._clock.wall(),
        )

    def failed(self, error: Exception) -> None:
        """Take note of what ended the call."""
        if self.answer is not None:
            return  # it failed at closing
        if self._refusal is None and self._response is None:
            self._refusal = error if isinstance(error, NotSent) else _certificate_refused(error)
        self._reason, self._misconfigured = explained(error)

    def rescued(self) -> Answer | None:
        """Take an answer whose transfer was cut short, if what came is a whole JSON object all the same."""
        if self._response is not None and len(self._body) <= BODY_LIMIT and _is_json_object(self._body):
            self._complete(self._response)
        return self.answer

    def error(self, host: str, send_timeout: float) -> Exception:
        """Make the error of a call that brought no answer."""
        if type(self._refusal) is NotSent:
            return NotSent(f"{host}: {self._refusal}", misconfigured=self._refusal.misconfigured)
        if self._refusal is not None:
            return self._refusal.with_traceback(None)
        if self._sent_at is None:
            reason = self._reason or f"no connection within {send_timeout:g} s"
            return NotSent(f"{host}: {reason}", misconfigured=self._misconfigured)
        return NoAnswer(f"{host}: {self._reason}")


def _declared(response: httpx2.Response) -> int:
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else 0  # noqa: PLR2004


def _is_json_object(body: bytes | bytearray) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _decoded(body: bytes, encoding: str) -> bytes | None:
    """Undo a compression that was not asked for; None when the result passes the limit.

    What cannot be decompressed stays as it came, for a human to look at; the judge makes nothing of it.
    """
    if encoding.strip().lower() not in {"gzip", "x-gzip", "deflate"}:
        return body
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        plain = inflater.decompress(body, BODY_LIMIT + 1)
    except zlib.error:
        return body
    if len(plain) > BODY_LIMIT:
        return None
    return plain if inflater.eof else body


def _host(url: str) -> str:
    """Name the place without what else a URL may hold."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        return "the token endpoint"
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    return (host if parsed.port is None else f"{host}:{parsed.port}") or "the token endpoint"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(target: httpx2.URL) -> str | None:
    """Return the proxy that requests of an https URL go through; its address may hold a password."""
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    place = target.host if target.port is None else f"{target.host}:{target.port}"
    if not proxy or proxy_bypass(place, proxies):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _proxy(address: str, trust: ssl.SSLContext) -> httpx2.Proxy:
    try:
        return httpx2.Proxy(address, ssl_context=trust if address.startswith("https://") else None)
    except (httpx2.InvalidURL, ValueError):
        # The address may hold a password, so it is not quoted.
        raise NotSent("HTTPS_PROXY is not the address of a proxy; correct it", misconfigured=True) from None


def load_trust() -> ssl.SSLContext:
    """Make a context that trusts `SSL_CERT_FILE`, `SSL_CERT_DIR` or the system. Raises `NotSent`."""
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        place = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or "the system"
        raise NotSent(
            f"the trusted certificates of {place} cannot be read ({_plain(error)}); "
            "correct SSL_CERT_FILE or SSL_CERT_DIR",
            misconfigured=True,
        ) from None


def _showing(certificate: ClientCertificate, trust: ssl.SSLContext) -> ssl.SSLContext:
    """Make a context show this certificate, too."""
    try:
        # An empty passphrase: without one OpenSSL would ask for it on the terminal.
        trust.load_cert_chain(certificate.file, certificate.key, password="")
    except OSError as error:
        reason = (error.reason or "").lower().replace("_", " ") if isinstance(error, ssl.SSLError) else ""
        raise NotSent(
            f"the client's certificate {certificate.file} can't be used with the key in {certificate.key} "
            f"({reason or _plain(error)}); write both anew",
            misconfigured=True,
        ) from None
    return trust


def _trust_signature() -> object:
    """Change whenever the certificates of `SSL_CERT_FILE` or `SSL_CERT_DIR` do."""
    place = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    try:
        found = Path(place).stat() if place else None
    except OSError:
        found = None
    return place, found and (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def explained(error: BaseException) -> tuple[str, bool]:
    """Say in our own words what went wrong (libraries quote what they got), and if settings are to blame."""
    links = list(chain(error))
    for link in links:
        if isinstance(link, ssl.SSLCertVerificationError):
            remedy = "name the issuing CA's certificate in SSL_CERT_FILE, or correct the address"
            return f"its certificate does not verify ({link.verify_message}); {remedy}", True
    for link in links:
        match link:
            case socket.gaierror():
                return "the name does not resolve", False
            case ssl.SSLError():
                return f"TLS failed ({link.reason or 'connection closed'})", False
            case OSError() if link.errno is not None:
                return _plain(link), False
    return _in_words(error)


def _in_words(error: BaseException) -> tuple[str, bool]:
    match error:
        case httpx2.InvalidURL() | UnicodeError():
            return "the token URL is not valid; correct token_url", True
        case ImportError():
            return "the proxy's protocol is not supported; use an http:// proxy", True
        case httpx2.ProxyError():
            status = str(error)[:3]
            return (
                f"the proxy refused the connection ({status if status.isdecimal() else 'no status'})",
                False,
            )
        case httpx2.RemoteProtocolError():
            return "the connection was closed early, or what came is not HTTP", False
        case httpx2.NetworkError():
            return "the connection broke", False
        case _:
            return f"unexpected {type(error).__name__}", False


def _certificate_refused(error: BaseException) -> NotSent | None:
    """Find out whether the handshake was broken off for our certificate, or for want of one.

    In TLS 1.3 that is learned after the request was written, which the server cannot have read: it takes no
    data before it has accepted the client's certificate (RFC 8446 §4.4.2, §4.4.4).
    """
    for link in chain(error):
        found = re.search(
            "ALERT_(.*CERTIFICATE.*|UNKNOWN_CA|ACCESS_DENIED)$", getattr(link, "reason", "") or ""
        )
        if isinstance(link, ssl.SSLError) and found:
            reason = found[1].lower().replace("_", " ")
            remedy = "register it at the provider, or correct client.certificate_file and auth_method"
            return NotSent(f"the client's certificate was refused ({reason}); {remedy}", misconfigured=True)
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
    """Walk through an error's causes, groups included, each once."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        if isinstance(link, BaseExceptionGroup):
            waiting += link.exceptions
        waiting += [cause for cause in (link.__cause__, link.__context__) if cause is not None]


def _plain(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "no certificate in it"
    return os.strerror(error.errno).lower() if error.errno is not None else "unreadable"
