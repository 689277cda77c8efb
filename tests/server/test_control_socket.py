from __future__ import annotations

import asyncio
import io
import os
import socket
import stat
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sidecar.errors import (
    ConfigError,
    HumanNeeded,
    InstanceRunning,
    SidecarError,
    StoreError,
    TemporarilyUnavailable,
    UnknownToken,
    UsageError,
)
from sidecar.events import Audited, Event
from sidecar.observers import log
from sidecar.ports import Seeding
from sidecar.pulse import Pulse
from sidecar.server.client import ControlClient, NotRunning
from sidecar.server.control import Engine, control_app
from sidecar.server.serve import CannotListen, HttpServer, bind_unix
from sidecar.server.wire import (
    BODY_LIMIT,
    RefreshReply,
    ReloadReply,
    RevokeReply,
    SeedReply,
    SeedRequest,
)
from sidecar.tokens import AccessToken, RefreshToken, fingerprint
from tests.server.conftest import NOW, Rig, serving_unix

ACCESS = "sim-at-0123456789abcdef0123"
REFRESH = "sim-rt-0123456789abcdef0123"
BROUGHT = SeedRequest(
    Seeding(
        RefreshToken(REFRESH, issued_at=NOW, expires_at=NOW + 900),
        AccessToken(ACCESS, issued_at=NOW, expires_at=NOW + 60, ttl=60.0, scope="mail.read"),
        client_id="us",
        endpoint="https://provider.example",
    ),
    origin="login",
    force=True,
    since="l1",
)
"""Every member there is."""


@pytest.fixture
def anyio_backend() -> str:
    """Uvicorn runs on asyncio alone."""
    return "asyncio"


class StubEngine:
    """An engine that notes what it was asked, and fails as it is told."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.hang = False
        self.cancelled = False
        self.reached = anyio.Event()

    async def _note(self, *asked: Any) -> None:
        self.asked.append(asked)
        self.reached.set()
        if self.hang:
            try:
                await anyio.sleep_forever()
            finally:
                self.cancelled = True
        if self.error is not None:
            raise self.error

    async def status(self, name: str = "") -> dict[str, Any]:
        await self._note("status", *([name] if name else []))
        return {"version": "1.2.3"}

    async def history(self, name: str = "") -> dict[str, list[dict[str, Any]]]:
        await self._note("history", name)
        return {"gmail": [{"what": "refresh"}]}

    async def token(self, name: str) -> AccessToken:
        await self._note("token", name)
        return AccessToken(value=ACCESS, issued_at=NOW, expires_at=NOW + 60, ttl=60.0)

    async def refresh(self, name: str, rejected: str | None) -> RefreshReply:
        await self._note("refresh", name, rejected)
        return RefreshReply(refreshed=True, message="refreshed", fingerprint="f" * 12, expires_at=NOW + 60)

    async def seed(self, name: str, request: SeedRequest) -> SeedReply:
        await self._note("seed", name, request)
        return SeedReply(message="seeded", fingerprint=request.seeding.fingerprint, lineage="l2")

    async def revoke(self, name: str) -> RevokeReply:
        await self._note("revoke", name)
        return RevokeReply(access_expires_at=NOW + 60)

    async def reload(self) -> ReloadReply:
        await self._note("reload")
        return ReloadReply(message="reloaded", changed=("gmail",))


async def in_thread(call: Any, *arguments: Any, **named: Any) -> Any:
    """Run the blocking client beside the server."""
    return await anyio.to_thread.run_sync(partial(call, *arguments, **named))


async def test_every_request_comes_through_and_back(tmp_path: Path) -> None:
    """Client and server agree on every method."""
    engine: Engine = StubEngine()
    rig = Rig(tmp_path)
    async with serving_unix(control_app(engine), tmp_path, rig.heartbeats) as path:
        client = ControlClient(path)
        status = await in_thread(client.status)
        history = await in_thread(client.history, "gmail/a b")
        token = await in_thread(client.token, "gmail")
        refreshed = await in_thread(client.refresh, "gmail", rejected="a" * 12)
        seeded = await in_thread(client.seed, "gmail", BROUGHT)
        revoked = await in_thread(client.revoke, "gmail")
        reloaded = await in_thread(client.reload)
        assert "control" in rig.heartbeats.ages()

    assert status == {"version": "1.2.3"}
    assert history == {"gmail": [{"what": "refresh"}]}
    assert (token.access_token, token.expires_at, token.token_type) == (ACCESS, NOW + 60, "Bearer")
    assert token.fingerprint == fingerprint(ACCESS)
    assert refreshed == RefreshReply(
        refreshed=True, message="refreshed", fingerprint="f" * 12, expires_at=NOW + 60
    )
    assert seeded.lineage == "l2"
    assert revoked.access_expires_at == NOW + 60
    assert reloaded.changed == ("gmail",)
    assert isinstance(engine, StubEngine)
    assert engine.asked == [
        ("status",),
        ("history", "gmail/a b"),
        ("token", "gmail"),
        ("refresh", "gmail", "a" * 12),
        ("seed", "gmail", BROUGHT),
        ("revoke", "gmail"),
        ("reload",),
    ]
    assert not path.exists()
    assert "control" not in rig.heartbeats.ages()


@pytest.mark.parametrize(
    ("raised", "kind", "exit_code"),
    [
        (UnknownToken("no token is called 'x'"), UnknownToken, 2),
        (UsageError("that was spent"), UsageError, 2),
        (HumanNeeded("consent again"), HumanNeeded, 3),
        (TemporarilyUnavailable("later"), TemporarilyUnavailable, 4),
        (StoreError("the store is away"), TemporarilyUnavailable, 4),
        (SidecarError("it went wrong"), SidecarError, 1),
    ],
)
async def test_errors_keep_their_meaning_across_the_socket(
    tmp_path: Path, raised: SidecarError, kind: type[SidecarError], exit_code: int
) -> None:
    """A command ends with the exit code that the daemon's error has."""
    engine = StubEngine()
    engine.error = raised
    async with serving_unix(control_app(engine), tmp_path, Rig(tmp_path).heartbeats) as path:
        with pytest.raises(kind) as caught:
            await in_thread(ControlClient(path).token, "x")

    assert (str(caught.value), caught.value.exit_code) == (str(raised), exit_code)


async def test_every_problem_of_a_refused_configuration_comes_across(tmp_path: Path) -> None:
    """`reload` says all that `check` would."""
    engine = StubEngine()
    engine.error = ConfigError(["line 1: a", "line 2: b"])
    async with serving_unix(control_app(engine), tmp_path, Rig(tmp_path).heartbeats) as path:
        with pytest.raises(ConfigError) as caught:
            await in_thread(ControlClient(path).reload)

    assert caught.value.problems == ["line 1: a", "line 2: b"]


async def test_a_bug_in_the_engine_is_500_and_leaks_nothing(tmp_path: Path) -> None:
    """Neither the answer nor the log repeats what the exception quotes."""
    engine = StubEngine()
    engine.error = ValueError(f"can't use {REFRESH}")
    lines = io.StringIO()
    log.configure("debug", "json", lines)
    async with serving_unix(control_app(engine), tmp_path, Rig(tmp_path).heartbeats) as path:
        with pytest.raises(SidecarError) as caught:
            await in_thread(ControlClient(path).seed, "gmail", BROUGHT)

    assert caught.value.exit_code == 1
    assert "its log says why" in str(caught.value)
    assert "ValueError: (message withheld" in lines.getvalue()
    assert "sim-" not in lines.getvalue() + str(caught.value)


async def _raw(path: Path, request: bytes) -> bytes:
    stream = await anyio.connect_unix(str(path))
    async with stream:
        await stream.send(request)
        received = b""
        try:
            while True:
                received += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return received


async def test_bodies_are_bounded_and_never_repeated(tmp_path: Path) -> None:
    """A body that is too long, broken or of another shape is refused without quoting it."""
    engine = StubEngine()
    target = b"POST /tokens/gmail/seed HTTP/1.1\r\nhost: x\r\n"
    broken = b'{"refresh_token": ["' + REFRESH.encode() + b'"]}'
    async with serving_unix(control_app(engine), tmp_path, Rig(tmp_path).heartbeats) as path:
        long = target + b"content-length: %d\r\n\r\n" % (BODY_LIMIT + 1) + b"x" * (BODY_LIMIT + 1)
        too_long = await _raw(path, long)
        other = await _raw(path, target + b"content-length: %d\r\n\r\n" % len(broken) + broken)
        unknown = await _raw(path, target + b'content-length: 11\r\n\r\n{"tokn": 1}')

    assert too_long.startswith(b"HTTP/1.1 413 ")
    assert other.startswith(b"HTTP/1.1 400 ")
    assert unknown.startswith(b"HTTP/1.1 400 ")
    assert b"sim-" not in other
    assert engine.asked == []


async def test_a_request_that_waits_is_answered_when_the_daemon_stops(tmp_path: Path) -> None:
    """Stopping takes less than 0.3 s, cancels what waits, and tells the command to try again."""
    engine = StubEngine()
    engine.hang = True
    lines = io.StringIO()
    log.configure("debug", "json", lines)
    caught: list[SidecarError] = []

    async def command(path: Path) -> None:
        try:
            await in_thread(ControlClient(path).refresh, "gmail")
        except SidecarError as error:
            caught.append(error)

    async with anyio.create_task_group() as tasks:
        async with serving_unix(control_app(engine), tmp_path, Rig(tmp_path).heartbeats) as path:
            tasks.start_soon(command, path)
            await engine.reached.wait()
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 0.3

    assert engine.cancelled
    assert [(type(error), str(error)) for error in caught] == [
        (TemporarilyUnavailable, "the daemon is stopping")
    ]
    assert lines.getvalue() == ""


@pytest.mark.parametrize(("mode", "umask"), [(0o600, 0o000), (0o660, 0o077)])
def test_the_sockets_mode_is_the_configured_one(tmp_path: Path, mode: int, umask: int) -> None:
    """Whatever the umask is, and it is put back."""
    before = os.umask(umask)
    try:
        with bind_unix(tmp_path, mode=mode, group=os.getgid()):
            found = (tmp_path / "control.sock").stat()
            assert os.umask(umask) == umask
    finally:
        os.umask(before)

    assert stat.S_IMODE(found.st_mode) == mode
    assert found.st_gid == os.getgid()


def test_the_socket_is_never_open_to_others_before_its_mode_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between bind and chmod it has its owner's permissions alone."""
    seen: list[int] = []
    chmod = Path.chmod

    def watching(path: Path, mode: int) -> None:
        seen.append(stat.S_IMODE(path.stat().st_mode))
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", watching)
    before = os.umask(0)
    try:
        bind_unix(tmp_path, mode=0o666).close()
    finally:
        os.umask(before)

    assert seen == [0o600]


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    """A killed daemon leaves its socket behind; a second daemon must not take a living one's."""
    first = bind_unix(tmp_path)
    with pytest.raises(InstanceRunning, match="give each its own state_dir"):
        bind_unix(tmp_path)
    first.close()
    bind_unix(tmp_path).close()


def test_what_cannot_be_bound_says_why(tmp_path: Path) -> None:
    """Each mistake has its own way out."""
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with pytest.raises(ConfigError, match=r"bytes long .* shorter"):
        bind_unix(deep)
    with pytest.raises(ConfigError, match="no group 'no-such-group'"):
        bind_unix(tmp_path, group="no-such-group")
    with pytest.raises(CannotListen, match="No such file"):
        bind_unix(tmp_path / "missing")
    (tmp_path / "control.sock").write_text("")
    with pytest.raises(CannotListen, match="it is no socket; remove it"):
        bind_unix(tmp_path)


def test_commands_tell_what_keeps_them_from_the_daemon(tmp_path: Path) -> None:
    """No socket, nobody behind it, and somebody who hangs up."""
    client = ControlClient(tmp_path / "control.sock", timeout=0.1)
    with pytest.raises(NotRunning, match="token-sidecar run"):
        client.status()
    sock = bind_unix(tmp_path)
    with pytest.raises(NotRunning, match="did not answer in time"):
        client.status()
    sock.close()
    with pytest.raises(NotRunning, match="no daemon answers"):
        client.status()


async def test_a_daemon_that_hangs_up_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    """The daemon was killed in mid-answer."""
    path = tmp_path / "control.sock"

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(hang_up, path):
        with pytest.raises(NotRunning, match="hung up"):
            await in_thread(ControlClient(path).status)


def test_a_successors_socket_is_left_alone(tmp_path: Path) -> None:
    """Stopping late removes the own socket only."""
    path = tmp_path / "control.sock"
    sock = bind_unix(tmp_path)
    path.unlink()
    successor = socket.socket(socket.AF_UNIX)
    successor.bind(str(path))

    async def run() -> None:
        rig = Rig(tmp_path)
        server = HttpServer(
            control_app(StubEngine()), sock, worker="c", pulse=Pulse(), heartbeats=rig.heartbeats
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.run)
            path.unlink()
            path.write_text("successor")
            tasks.cancel_scope.cancel()

    anyio.run(run)
    successor.close()
    assert path.read_text() == "successor"


async def test_who_asks_is_written_down(tmp_path: Path) -> None:
    """Each deed is audited with the user id that the kernel tells; looking is none."""
    told: list[Event] = []
    async with serving_unix(
        control_app(StubEngine(), told.append), tmp_path, Rig(tmp_path).heartbeats
    ) as path:
        client = ControlClient(path)
        await in_thread(client.status)
        await in_thread(client.token, "gmail")
        await in_thread(client.refresh, "gmail")
        await in_thread(client.seed, "gmail", BROUGHT)
        await in_thread(client.revoke, "gmail")
        await in_thread(client.reload)

    me = f"uid {os.getuid()}"
    assert told == [
        Audited(me, "refresh", "done", "gmail", "f" * 12),
        Audited(me, "consent", "done", "gmail", BROUGHT.seeding.fingerprint),
        Audited(me, "revoke", "done", "gmail"),
        Audited(me, "reload", "done"),
    ]
