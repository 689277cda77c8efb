"""Listening sockets, and uvicorn run as one task of the daemon.

Sockets are bound before anything is served, so a port that is taken ends the start with a clear error.
uvicorn as it comes wakes ten times a second, installs signal handlers and takes its time to stop: its own
main loop and shutdown are replaced here. A connection carries one request and has ten seconds for it, so that
nobody keeps probes out by holding connections open.
"""

from __future__ import annotations

import asyncio
import errno
import grp
import ipaddress
import json
import os
import socket
import stat
import struct
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import uvicorn
from anyio.abc import TaskStatus
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from sidecar.errors import ConfigError, InstanceRunning, SidecarError
from sidecar.pulse import Heartbeats, Pulse
from sidecar.server.wire import ADDRESS_FILE, SOCKET_FILE, url_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SOCKET_PATH_LIMIT = 107
"""Bytes of a unix socket's path (sockaddr_un, less its final zero)."""

REQUEST_DEADLINE = 10.0
"""Seconds for a client to send its request in whole, and again to take the answer."""

SILENCE = 5.0
"""Seconds for a client to send its first byte."""

CONNECTION_LIMIT = 128
STRANGERS, OF_ONE_STRANGER = 64, 8
"""Connections at a time of addresses that aren't trusted, where some are: of all of them, and of each."""
_DRAIN = 0.15
_CANCEL = 0.1
_BACKLOG = 128
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}


class CannotListen(SidecarError):
    """A socket could not be bound."""


def bind_tcp(host: str, port: int) -> socket.socket:
    """Bind and listen. Raises `CannotListen`.

    `::` listens on both families, and on IPv4 alone where IPv6 is off. Port 0: any free one.
    """
    try:
        found = socket.getaddrinfo(host or "::", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        if host in {"", "::"}:
            found = []
        else:
            why = getattr(error, "strerror", None) or "not a host name"
            raise CannotListen(f"server.host: {host!r} can't be resolved: {why}") from None
    addresses = [(family, address) for family, _, _, _, address in found]
    if host in {"", "::"}:
        addresses.append((socket.AF_INET, ("0.0.0.0", port)))  # noqa: S104 - asked for by `::`
    problem: OSError | None = None
    for family, address in addresses:
        try:
            return _listening(family, address)
        except OSError as error:
            problem = error
            if error.errno not in _NO_IPV6:
                break
    raise CannotListen(_why_not(host, port, problem)) from None


def names_of(sock: socket.socket) -> tuple[str, ...]:
    """Tell what a request may call the server that listens here: `("*",)`, but for the loopback, whose names it has.

    A web page whose own name was made to point at the loopback (DNS rebinding) would be of one origin with what answers
    there, and could read it. Where the network can ask anyway, names are no defence.
    """
    address = sock.getsockname()[0]
    if not ipaddress.ip_address(address).is_loopback:
        return ("*",)
    return ("localhost", "127.0.0.1", "[::1]", address)


def _listening(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.settimeout(0)
    except BaseException:
        sock.close()
        raise
    return sock


def _why_not(host: str, port: int, error: OSError | None) -> str:
    place = f"cannot listen on {host} port {port}"
    match error.errno if error is not None else None:
        case errno.EADDRINUSE:
            return f"{place}: something else does already; set server.port, or find it with: ss -ltnp"
        case errno.EACCES:
            return f"{place}: ports below 1024 need privileges; set server.port"
        case errno.EADDRNOTAVAIL:
            return f"{place}: this machine has no such address; set server.host"
        case _:
            return f"{place}: {error.strerror if error is not None else 'no address found'}"


def url_of(sock: socket.socket) -> str:
    """Return the URL under which this machine reaches a TCP socket, whatever port 0 became."""
    host, port = sock.getsockname()[:2]
    return url_to(host, port)


def publish_address(state_dir: Path, sock: socket.socket) -> Path:
    """Write `http.json` (`{"url": …}`) into `state_dir`, where `healthcheck` finds it.

    Raises `CannotListen`.
    """
    path = state_dir / ADDRESS_FILE
    temporary = path.with_name(f".{ADDRESS_FILE}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps({"url": url_of(sock), "pid": os.getpid()}), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise CannotListen(f"{path} can't be written: {error.strerror}") from None
    return path


def bind_unix(
    state_dir: Path, *, mode: int = 0o600, group: str | int | None = None, name: str = SOCKET_FILE
) -> socket.socket:
    """Bind the control socket and listen.

    A socket that a killed daemon left behind is replaced. Raises `ConfigError` (path too long, no such
    group), `InstanceRunning` (somebody listens there) or `CannotListen`.
    """
    path = state_dir / name
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        raise ConfigError(
            f"state_dir: {path} is {length} bytes long and Linux allows {SOCKET_PATH_LIMIT} for a socket's "
            "path; set state_dir to a shorter one"
        )
    gid = group_id(group)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # From its first moment on nobody else can open it; the configured mode comes when the owner is right.
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(mode)
        sock.listen(_BACKLOG)
        sock.settimeout(0)
    except OSError as error:
        sock.close()
        raise CannotListen(f"the control socket {path} can't be made: {error.strerror}") from None
    return sock


def group_id(group: str | int | None) -> int | None:
    """Find a group's number. Raises `ConfigError`."""
    if group is None or isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"control.group: there is no group {group!r}; give its number") from None


def _remove_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotListen(f"the control socket {path} can't be made: {error.strerror}") from None
    if not stat.S_ISSOCK(kind):
        raise CannotListen(f"{path} is in the way: it is no socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(1.0)
        try:
            trial.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotListen(f"the control socket {path} is in use: {error.strerror}") from None
        else:
            raise InstanceRunning(f"a daemon listens on {path} already; give each its own state_dir")


def _inode(path: str | None) -> int | None:
    if path is None:
        return None
    try:
        return Path(path).lstat().st_ino
    except OSError:
        return None


def _unlink_own(path: str, inode: int) -> None:
    """Remove the socket's path, unless a successor has put its own there."""
    if _inode(path) == inode:
        Path(path).unlink(missing_ok=True)


class HttpServer:
    """One application on one listening socket."""

    def __init__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        *,
        worker: str,
        pulse: Pulse,
        heartbeats: Heartbeats,
        trusts: Callable[[str], bool] | None = None,
    ) -> None:
        """`worker` names the heartbeat that is stamped at each tick of `pulse`.

        `trusts` tells of an address whether it may take all connections; others leave room for those.
        """
        self._sock = sock
        self._worker = worker
        self._pulse = pulse
        self._heartbeats = heartbeats
        heartbeats.expect(worker)
        self._server = _Server(
            uvicorn.Config(
                _Guard(app),
                http=partial(_Connection, trusts=trusts),  # type: ignore[arg-type]
                ws="none",
                loop="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                limit_concurrency=CONNECTION_LIMIT,
                h11_max_incomplete_event_size=16 * 1024,
            )
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; stopping takes 0.3 s at most. The socket is closed, and its path removed."""
        path = self._sock.getsockname() if self._sock.family == socket.AF_UNIX else None
        inode = _inode(path)
        try:
            await self._server.open(self._sock)
            task_status.started()
            while True:
                self._heartbeats.stamp(self._worker)
                await self._pulse.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await self._server.close()
            self._sock.close()
            self._heartbeats.forget(self._worker)
            if path is not None and inode is not None:
                _unlink_own(path, inode)


class _Server(uvicorn.Server):
    """uvicorn's server without its main loop, its signal handlers and its polling shutdown."""

    async def open(self, sock: socket.socket) -> None:
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        # uvicorn refreshes these in the main loop that we don't run. One request a connection.
        self.server_state.default_headers = [(b"connection", b"close")]
        await self.startup(sockets=[sock])

    async def close(self) -> None:
        for listener in getattr(self, "servers", ()):
            listener.close()
        state = self.server_state
        for seconds in (_DRAIN, _CANCEL):
            if state.tasks:
                await asyncio.wait(set(state.tasks), timeout=seconds)
            for task in set(state.tasks):
                task.cancel()
        for connection in list(state.connections):
            connection.transport.close()
        # One turn of the loop, in which the transports close.
        await asyncio.sleep(0)


class _Connection(H11Protocol):
    """A connection that is given up when its client is too slow; uvicorn's own has no such limit."""

    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, trusts: Callable[[str], bool] | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._trusts = trusts
        self._spoken = False
        # Switched off in the logging's set-up alone, which anybody may change; and its lines have codes in them.
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            # Who asks, as the kernel says; an address has no port there.
            _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            self.client = (f"uid {uid}", 0)
        if self._is_one_too_many():
            transport.abort()
            return
        self._deadline = self.loop.call_later(SILENCE, self._late)

    def data_received(self, data: bytes) -> None:
        if not self._spoken and self._deadline is not None:
            self._spoken = True
            self._deadline.cancel()
            self._deadline = self.loop.call_later(REQUEST_DEADLINE, self._late)
        super().data_received(data)

    def _is_one_too_many(self) -> bool:
        trusts = self._trusts
        if trusts is None or trusts(_address(self)):
            return False
        strangers = [address for address in map(_address, self.connections) if not trusts(address)]
        return len(strangers) > STRANGERS or strangers.count(_address(self)) > OF_ONE_STRANGER

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _late(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.more_body and not cycle.response_complete:
            # We are the slow ones: a refresh waits for its provider.
            self._deadline = self.loop.call_later(REQUEST_DEADLINE, self._late)
        else:
            self.transport.abort()


def _address(connection: Any) -> str:
    return connection.client[0] if connection.client else ""


class _Guard:
    """Answers for a request that is cut off because the daemon stops; uvicorn would log it as a crash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except asyncio.CancelledError:
            if started:
                return
            body = b'{"error": "the daemon is stopping"}'
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": body})
