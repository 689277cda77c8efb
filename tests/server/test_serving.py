from __future__ import annotations

import errno
import gc
import selectors
import signal
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sidecar.pulse import Pulse
from sidecar.server import serve
from sidecar.server.http import probes_app
from sidecar.server.serve import CannotListen, HttpServer, bind_tcp, publish_address, url_of
from sidecar.server.wire import url_to
from tests.server.conftest import Rig, ask, serving


@pytest.fixture
def anyio_backend() -> str:
    """Uvicorn runs on asyncio alone."""
    return "asyncio"


async def test_an_idle_server_does_not_wake_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uvicorn's own main loop would wake twenty times in these two seconds."""
    rig = Rig(tmp_path)
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        assert (await ask(url, "/readyz")).status == 200
        await anyio.sleep(0.2)
        gc.collect()
        wakes = 0
        select = selectors.DefaultSelector.select

        def counting(self: Any, timeout: float | None = None) -> Any:
            nonlocal wakes
            wakes += 1
            return select(self, timeout)

        monkeypatch.setattr(selectors.DefaultSelector, "select", counting)
        await anyio.sleep(2)
        monkeypatch.undo()

    assert wakes <= 3


async def test_the_server_stamps_its_heartbeat_at_each_beat(tmp_path: Path) -> None:
    """It idles on the shared beat, and shows that it could."""
    rig = Rig(tmp_path)
    pulse = Pulse()
    sock = bind_tcp("127.0.0.1", 0)
    server = HttpServer(probes_app(rig.site), sock, worker="server", pulse=pulse, heartbeats=rig.heartbeats)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.run)
        await anyio.wait_all_tasks_blocked()
        rig.clock.at += 30
        assert rig.heartbeats.ages() == {"server": 30.0}
        pulse.beat()
        await anyio.wait_all_tasks_blocked()
        assert rig.heartbeats.ages() == {"server": 0.0}
        tasks.cancel_scope.cancel()

    assert rig.heartbeats.ages() == {}


async def test_stopping_is_fast_and_lets_an_answer_finish(tmp_path: Path) -> None:
    """A request in progress is answered; one that is never sent is not waited for."""
    rig = Rig(tmp_path)
    asked = anyio.Event()

    async def slow(_request: Request) -> PlainTextResponse:
        asked.set()
        await anyio.sleep(0.05)
        return PlainTextResponse("done")

    answers: list[str] = []

    async def client(url: str) -> None:
        answers.append((await ask(url, "/slow")).text)

    async with anyio.create_task_group() as tasks:
        async with serving(Starlette(routes=[Route("/slow", slow)]), rig.heartbeats) as url:
            port = int(url.rpartition(":")[2])
            idle = await anyio.connect_tcp("127.0.0.1", port)
            tasks.start_soon(client, url)
            await asked.wait()
            began = time.monotonic()
        assert time.monotonic() - began < 0.3
        await idle.aclose()

    assert answers == ["done"]


async def test_a_client_that_sends_too_slowly_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither silence nor one byte after another keeps a connection open."""
    monkeypatch.setattr(serve, "REQUEST_DEADLINE", 0.2)
    monkeypatch.setattr(serve, "SILENCE", 0.2)
    rig = Rig(tmp_path)
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        port = int(url.rpartition(":")[2])
        for trickle in (b"", b"G"):
            began = time.monotonic()
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                assert await _until_cut_off(stream, trickle) == b""
            assert time.monotonic() - began < 1


async def test_silence_is_ended_sooner_than_a_slow_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who connects and says nothing is cut off before who is at least sending."""
    monkeypatch.setattr(serve, "SILENCE", 0.1)
    rig = Rig(tmp_path)
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        port = int(url.rpartition(":")[2])
        async with (
            await anyio.connect_tcp("127.0.0.1", port) as silent,
            await anyio.connect_tcp("127.0.0.1", port) as slow,
        ):
            await slow.send(b"G")
            with anyio.fail_after(serve.REQUEST_DEADLINE - 2):
                assert await _until_cut_off(silent, b"") == b""
            await slow.send(b"ET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await slow.receive()).startswith(b"HTTP/1.1 ")


async def test_strangers_leave_room_for_those_who_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that isn't trusted takes few of the connections, and is ended at once beyond; a trusted one isn't."""
    rig, sock = Rig(tmp_path), bind_tcp("127.0.0.1", 0)
    address = ("127.0.0.1", sock.getsockname()[1])
    server = HttpServer(
        probes_app(rig.site),
        sock,
        worker="server",
        pulse=Pulse(),
        heartbeats=rig.heartbeats,
        trusts=lambda asks: asks == "127.0.0.2",
    )

    async def connect(source: str) -> ByteStream:
        return await anyio.connect_tcp(*address, local_host=source)

    async def is_served(stream: ByteStream) -> bool:
        try:
            await stream.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            return (await stream.receive()).startswith(b"HTTP/1.1 ")
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return False

    async with anyio.create_task_group() as tasks, AsyncExitStack() as open_ones:
        await tasks.start(server.run)
        for source, admitted in (("127.0.0.1", serve.OF_ONE_STRANGER), ("127.0.0.2", 30)):
            held = [await open_ones.enter_async_context(await connect(source)) for _ in range(admitted)]
            one_more = await open_ones.enter_async_context(await connect(source))
            assert await is_served(one_more) == (source == "127.0.0.2")
            assert await is_served(held[-1])
        for limit, served in ((0, False), (serve.STRANGERS, True)):
            monkeypatch.setattr(serve, "STRANGERS", limit)
            for source, admitted in (("127.0.0.2", True), ("127.0.0.3", served)):
                stream = await open_ones.enter_async_context(await connect(source))
                assert await is_served(stream) == admitted
        tasks.cancel_scope.cancel()


async def _until_cut_off(stream: ByteStream, trickle: bytes) -> bytes:
    received = b""
    try:
        while True:
            if trickle:
                await stream.send(trickle)
            with anyio.move_on_after(0.02):
                received += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return received


async def test_a_slow_answer_of_ours_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is for clients: a refresh may take its time."""
    monkeypatch.setattr(serve, "REQUEST_DEADLINE", 0.02)

    async def slow(_request: Request) -> PlainTextResponse:
        await anyio.sleep(0.15)
        return PlainTextResponse("done")

    rig = Rig(tmp_path)
    async with serving(Starlette(routes=[Route("/slow", slow)]), rig.heartbeats) as url:
        assert (await ask(url, "/slow")).text == "done"


async def test_rubbish_is_answered_with_400(tmp_path: Path) -> None:
    """A port scanner meets a polite server, which goes on."""
    rig = Rig(tmp_path)
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        port = int(url.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 400 ")
        assert (await ask(url, "/livez")).status == 200


async def test_signal_handlers_are_left_alone(tmp_path: Path) -> None:
    """Signals are the daemon's own business."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    rig = Rig(tmp_path)
    async with serving(probes_app(rig.site), rig.heartbeats):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    """It ends the start, with the setting and the command that help."""
    with bind_tcp("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(CannotListen, match=rf"127.0.0.1 port {port}: something else .* server.port"):
            bind_tcp("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "problem"),
    [("203.0.113.1", "no such address; set server.host"), ("no-such-host.invalid", "can't be resolved")],
)
def test_a_host_that_is_not_ours_is_a_clear_error(host: str, problem: str) -> None:
    """Both mistakes name the setting."""
    with pytest.raises(CannotListen, match=problem):
        bind_tcp(host, 0)


def test_all_addresses_fall_back_to_ipv4_where_ipv6_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """`::` is what the chart sets; nodes without IPv6 are common."""
    listening = serve._listening

    def without_ipv6(family: int, address: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return listening(family, address)

    monkeypatch.setattr(serve, "_listening", without_ipv6)
    with bind_tcp("::", 0) as sock:
        assert sock.family == socket.AF_INET
        assert url_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_all_addresses_are_both_families_where_there_is_ipv6() -> None:
    """A probe over IPv4 reaches what listens on `::`."""
    with bind_tcp("::", 0) as sock, socket.create_connection(("127.0.0.1", sock.getsockname()[1]), timeout=2):
        pass


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9640"),
        ("0.0.0.0", "http://127.0.0.1:9640"),  # noqa: S104
        ("::", "http://127.0.0.1:9640"),
        ("", "http://127.0.0.1:9640"),
        ("::1", "http://[::1]:9640"),
        ("fe80::1%lo", "http://[fe80::1%lo]:9640"),
        ("localhost", "http://localhost:9640"),
    ],
)
def test_a_setting_tells_where_the_daemon_is_reached(host: str, url: str) -> None:
    """All addresses are reached by loopback; tests/pod has the machine without IPv4's."""
    assert url_to(host, 9640) == url


def test_an_address_that_cannot_be_published_is_a_clear_error(tmp_path: Path) -> None:
    """`healthcheck` would not find the server."""
    with bind_tcp("127.0.0.1", 0) as sock, pytest.raises(CannotListen, match=r"http\.json can't be written"):
        publish_address(tmp_path / "missing", sock)
