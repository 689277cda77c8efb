"""The simulated provider as a real HTTP server on the loopback, able to misbehave below HTTP.

`with Simulator().serve() as url:` runs it in a thread of its own, so that plain synchronous tests can use it.
"""

from __future__ import annotations

import http
import itertools
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import h11

from sidecar.profile import GrantType, Profile
from sidecar.testing.config import ProviderConfig
from sidecar.testing.endpoints import Request, answer_client, answer_control, parameters
from sidecar.testing.faults import Delivery, Reply
from sidecar.testing.provider import Exchange, Provider

MAX_REQUEST_BODY = 1_000_000
CHUNK = 65_536
INSTALLATION_PATH = "/app/installations/1/access_tokens"
THREAD_TIMEOUT = 10.0

_DISCONNECTED = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Simulator:
    """A provider and its HTTP server, which may be stopped and started again at the same address."""

    def __init__(
        self,
        config: ProviderConfig | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        now: Callable[[], float] = time.time,
        provider: Provider | None = None,
    ) -> None:
        """Port 0 takes a free one at the first start and keeps it for later ones.

        `provider` puts a ready one behind the server instead of making it from `config` and `now`.
        """
        self.provider = provider or Provider(config, now=now)
        self.host = host
        self.port = port
        self._listening: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None
        self._connections = itertools.count(1)

    @property
    def url(self) -> str:
        """The base of all endpoints, known once the port is."""
        return f"http://{self.host}:{self.port}"

    @property
    def token_url(self) -> str:
        """The token endpoint."""
        return self.url + token_path(self.provider.config.profile)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve in a thread for the length of a `with` block; gives the base URL."""
        self.start()
        try:
            yield self.url
        finally:
            self.stop()

    def start(self) -> str:
        """Serve in a daemon thread until `stop`; gives the base URL, which accepts connections already."""
        if self._thread is not None:
            raise RuntimeError("the simulator is running already")
        self.bind()
        ready = threading.Event()
        self._thread = threading.Thread(
            target=anyio.run, args=(self._serve_in_thread, ready), name="provider-simulator", daemon=True
        )
        self._thread.start()
        if not ready.wait(THREAD_TIMEOUT):
            raise RuntimeError("the simulator's thread did not start")
        return self.url

    def stop(self) -> None:
        """Close the listener and every connection at once; new ones are refused. Idempotent."""
        if self._thread is None:
            return
        with suppress(RuntimeError):  # the loop has ended by itself
            self._stop()
        self._thread.join(THREAD_TIMEOUT)
        self._thread = None
        if self._listening is not None:  # the loop never took it over
            self._listening.close()
            self._listening = None

    def bind(self) -> str:
        """Take the address, so that connections queue until `run` serves them; gives the base URL."""
        self._bound()
        return self.url

    async def run(self) -> None:
        """Serve in the current event loop until cancelled."""
        bound, self._listening = self._bound(), None
        listener = await anyio.abc.SocketListener.from_socket(bound)
        async with listener:
            await listener.serve(self._handle)

    def _bound(self) -> socket.socket:
        if self._listening is None:
            self._listening = socket.create_server((self.host, self.port), backlog=1024)
            self.port = self._listening.getsockname()[1]
        return self._listening

    async def _serve_in_thread(self, ready: threading.Event) -> None:
        token = anyio.lowlevel.current_token()
        with anyio.CancelScope() as scope:
            self._stop = lambda: anyio.from_thread.run_sync(scope.cancel, token=token)
            ready.set()
            await self.run()

    async def _handle(self, stream: anyio.abc.SocketStream) -> None:
        try:
            await _Connection(stream, self.provider, next(self._connections)).serve()
        except (*_DISCONNECTED, h11.ProtocolError):
            pass  # The client went away or doesn't speak HTTP: nothing that the others need to know.
        finally:
            await anyio.aclose_forcefully(stream)


class _Connection:
    """One client connection, from its first request to its end."""

    def __init__(self, stream: anyio.abc.SocketStream, provider: Provider, number: int) -> None:
        self._stream = stream
        self._provider = provider
        self._number = number
        self._http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        """Answer requests until one side closes."""
        while (request := await self._read_request()) is not None:
            if not await self._answer(request):
                return
            if self._http.our_state is h11.MUST_CLOSE:
                return
            self._http.start_next_cycle()

    # Requests.

    async def _read_request(self) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._read()
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_REQUEST_BODY:
                    return None
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _request(head, bytes(body))
            else:
                return None

    async def _read(self) -> None:
        try:
            self._http.receive_data(await self._stream.receive(CHUNK))
        except anyio.EndOfStream:
            self._http.receive_data(b"")

    async def _answer(self, request: Request) -> bool:
        """Answer one request; False when the connection is to end."""
        profile = self._provider.config.profile
        if request.method == profile.method and request.path == token_path(profile):
            return await self._answer_token(request)
        if request.path.startswith("/_sim/"):
            await self._send(answer_control(self._provider, request))
        else:
            await self._send(answer_client(self._provider, request))
        return True

    # The token endpoint, and how its answer travels.

    async def _answer_token(self, request: Request) -> bool:
        asked = parameters(request, self._provider.config.profile)
        exchange = self._provider.receive(
            asked.form,
            request.headers.get("authorization"),
            malformed=asked.malformed,
            connection=self._number,
        )
        try:
            if await self._deliver(exchange):
                return True
        except BaseException:
            exchange.cut()
            raise
        exchange.cut()
        return False

    async def _deliver(self, exchange: Exchange) -> bool:
        """Process and answer as scripted; False when the answer was not sent whole."""
        fault = exchange.fault
        # A provider works on when its client has hung up: this wait doesn't look.
        await anyio.sleep(fault.latency_before)
        reply = exchange.process()
        if await self._hung_up_within(fault.latency_after):
            return False
        match fault.delivery:
            case Delivery.WHOLE:
                await self._send(reply, before_last=exchange.answered)
                return True
            case Delivery.TRICKLE:
                return await self._trickle(reply, exchange)
            case Delivery.HALF:
                exchange.cut()
                await self._send_half(reply)
            case Delivery.RESET:
                exchange.cut()
                self._reset_on_close()
            case Delivery.HOLD:
                await self._hung_up_within(math.inf)
            case Delivery.CLOSE:
                exchange.cut()
        return False

    async def _hung_up_within(self, seconds: float) -> bool:
        """Wait, but no longer than until the client hangs up; tell whether it did."""
        if seconds <= 0:
            return False
        with anyio.move_on_after(seconds):
            try:
                while True:
                    self._http.receive_data(await self._stream.receive(CHUNK))
            except _DISCONNECTED:
                return True
        return False

    async def _send(self, reply: Reply, before_last: Callable[[], None] = lambda: None) -> None:
        """Send an answer; `before_last` runs before its last bytes, so that who has them all sees it done."""
        opening = self._http.send(_response(reply, sized=not reply.padding))
        opening += self._http.send(h11.Data(data=reply.body))
        if reply.padding:
            await self._stream.send(opening)
            opening = b""
            for size in _pieces(reply.padding, CHUNK):
                await self._stream.send(self._http.send(h11.Data(data=b" " * size)))
        closing = self._http.send(h11.EndOfMessage())
        before_last()
        await self._stream.send(opening + closing)

    async def _trickle(self, reply: Reply, exchange: Exchange) -> bool:
        fault = exchange.fault
        await self._stream.send(self._http.send(_response(reply, sized=True)))
        for start in range(0, len(reply.body), fault.trickle_bytes):
            if await self._hung_up_within(fault.trickle_interval):
                return False
            if start + fault.trickle_bytes >= len(reply.body):
                exchange.answered()
            piece = reply.body[start : start + fault.trickle_bytes]
            await self._stream.send(self._http.send(h11.Data(data=piece)))
        exchange.answered()
        self._http.send(h11.EndOfMessage())
        return True

    async def _send_half(self, reply: Reply) -> None:
        head = self._http.send(_response(reply, sized=True))
        await self._stream.send(head + reply.body[: len(reply.body) // 2])

    def _reset_on_close(self) -> None:
        """Make the coming close a reset: lingering for zero seconds drops the connection with an RST."""
        raw = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - no Django here
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def token_path(profile: Profile) -> str:
    """Tell where the token endpoint is; installations of a GitHub App have one each, of which one is played."""
    return INSTALLATION_PATH if profile.grant is GrantType.GITHUB_INSTALLATION else "/token"


def _request(head: h11.Request, body: bytes) -> Request:
    target = urlsplit(head.target.decode())
    return Request(
        method=head.method.decode(),
        path=target.path,
        query=target.query,
        headers={name.decode(): value.decode("latin-1") for name, value in head.headers},
        body=body,
    )


def _response(reply: Reply, *, sized: bool) -> h11.Response:
    """Make the head; without a size h11 sends the body in chunks."""
    headers = dict(reply.headers)
    if sized:
        headers["Content-Length"] = str(len(reply.body))
    with suppress(ValueError):
        reason = http.HTTPStatus(reply.status).phrase
        return h11.Response(status_code=reply.status, headers=list(headers.items()), reason=reason)
    return h11.Response(status_code=reply.status, headers=list(headers.items()))


def _pieces(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)
