"""How long the steps take that somebody waits for, and how many refreshes a second one daemon does."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import asyncpg
import msgspec

from bench.daemon import Daemon, ended, token
from bench.figures import Figure, Section, quantile
from bench.places import PLACES, Place, folder

KEY = "bench/token"


class Size(msgspec.Struct, frozen=True):
    """How much is measured."""

    refreshes: int = 200
    """Of each latency."""
    rounds: int = 15
    """Of what takes seconds."""
    targets: tuple[tuple[str, float], ...] = (("sqlite", 5.0), ("postgres", 10.0))
    """By kind of store: milliseconds until the file is there, of 99 in 100."""


TINY = Size(refreshes=2, rounds=1, targets=(("sqlite", 5.0),))


class Provider:
    """A token endpoint in this process, which does something in the moment after its answer's last byte."""

    def __init__(self) -> None:
        """Listen on loopback."""
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.sent = 0
        self.dead = False
        self._after: Callable[[float], None] = lambda _: None
        threading.Thread(target=self._serve, daemon=True).start()

    def then(self, after: Callable[[float], None]) -> None:
        """Have this called from now on after each answer, with the moment of its last byte."""
        self._after = after

    def close(self) -> None:
        """Stop answering."""
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < _length(data):
            received = connection.recv(65536)
            if not received:
                return
            data += received
        self.sent += 1
        answer = {
            "access_token": f"sim-at-{self.sent:08d}-".ljust(220, "x"),
            "refresh_token": f"sim-rt-{self.sent:08d}-0123456789abcdef",
            "expires_in": 3600,
            "token_type": "Bearer",
        }
        status = b"400 Bad Request" if self.dead else b"200 OK"
        body = json.dumps({"error": "invalid_grant"} if self.dead else answer).encode()
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        connection.sendall(head % (status, len(body)) + body)
        self._after(time.monotonic())


def _length(data: bytes) -> int:
    for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


class Spin:
    """Asks again and again whether something is different now; no notification is as quick."""

    def __init__(self, look: Callable[[], object]) -> None:
        """`look` returns what is compared."""
        self._look = look
        self._seen = look()
        self.seconds: list[float] = []
        self._done = threading.Event()

    def __call__(self, since: float) -> None:
        """Wait for the change, and note how long after `since` it came."""
        until = since + 30
        while (now := self._look()) == self._seen and time.monotonic() < until:
            pass
        self.seconds.append(time.monotonic() - since)
        self._seen = now
        self._done.set()

    def wait(self) -> None:
        """Return when it was seen once more. Raises `TimeoutError`."""
        if not self._done.wait(60):
            raise TimeoutError("no answer was asked for")
        self._done.clear()


def inode(file: Path) -> int:
    """Tell files apart that replaced each other at one place; 0: there is none."""
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return 0


def changed(daemon: Daemon) -> Callable[[], bool]:
    """Make a condition: the token's file is another one than now."""
    before = inode(daemon.out / "token.json")
    return lambda: inode(daemon.out / "token.json") != before


class Versions:
    """The version of a record in a store, read past the daemon."""

    def __init__(self, place: Place) -> None:
        """Connect."""
        self._place = place
        self._loop = asyncio.new_event_loop()
        if place.kind == "sqlite":
            self._file = sqlite3.connect(
                place.store.removeprefix("sqlite://"), check_same_thread=False, isolation_level=None
            )
        else:
            self._server = self._loop.run_until_complete(asyncpg.connect(place.bare))

    def __call__(self) -> object:
        """Read the generation, which a commit moves and a lease does not."""
        if self._place.kind == "sqlite":
            rows = self._file.execute("SELECT blob FROM records WHERE key = ?", (KEY,)).fetchall()
            blob = rows[0][0] if rows else None
        else:
            blob = self._loop.run_until_complete(
                self._server.fetchval("SELECT blob FROM token_sidecar_records WHERE key = $1", KEY)
            )
        return json.loads(blob)["generation"] if blob else None

    def close(self) -> None:
        """Let go."""
        if self._place.kind == "sqlite":
            self._file.close()
        else:
            self._loop.run_until_complete(self._server.close())
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def daemon_on(place: Place, within: Path, provider: Provider, **more: Any) -> Daemon:
    """Make a daemon with one token, and its first seed."""
    within.mkdir(parents=True)
    (within / "seed").write_text("sim-rt-0123456789abcdef", encoding="ascii")
    one = token(within, provider.url, "token.json", seed=str(within / "seed"), **more)
    daemon = Daemon(within, store=place.store, tokens={"token": one})
    daemon.migrate()
    return daemon


@contextmanager
def running(place: Place, **more: Any) -> Iterator[tuple[Daemon, Provider, Path]]:
    """Run a daemon that has its first file."""
    with folder() as within:
        provider = Provider()
        daemon = daemon_on(place, within / "daemon", provider, **more)
        with ended([daemon]):
            daemon.start()
            daemon.until(1)
            yield daemon, provider, within / "daemon"
        provider.close()


def refresh(daemon: Daemon) -> None:
    """Have the token refreshed now."""
    command = [sys.executable, "-m", "sidecar", "refresh", "token", "--config", str(daemon.path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def after_the_answer(place: Place, size: Size, target: float) -> list[Figure]:
    """From the provider's last byte to the file, and to the commit."""
    figures = []
    with running(place) as (daemon, provider, _), Versions(place) as version:
        for name, look in (
            ("provider's last byte → file visible", lambda: inode(daemon.out / "token.json")),
            ("provider's last byte → committed", version),
        ):
            spin = Spin(look)
            provider.then(spin)
            for _ in range(size.refreshes):
                refresh(daemon)
                spin.wait()
            milliseconds = [1000 * one for one in spin.seconds]
            wanted = f"p99 ≤ {target:g} ms" if "file" in name else ""
            figures += [
                Figure(f"{place.kind}: {name}", "ms", tuple(milliseconds)),
                Figure(f"{place.kind}: {name}, p99", "ms", (quantile(milliseconds, 0.99),), target=wanted),
            ]
            provider.then(lambda _: None)
    return figures


def after_a_seed(place: Place, size: Size) -> Figure:
    """From a new seed to the file of its token."""
    seconds = []
    with running(place) as (daemon, _, within):
        for number in range(size.rounds):
            seen = changed(daemon)
            (within / "new").write_text(f"sim-rt-seed-{number:08d}-0123456789", encoding="ascii")
            began = time.monotonic()
            (within / "new").replace(within / "seed")
            daemon.wait_for(seen, "new file")
            seconds.append(time.monotonic() - began)
    return Figure(f"{place.kind}: seed changed → file published", "s", tuple(seconds))


def to_a_replica(place: Place, size: Size) -> Figure:
    """From one replica's commit to the other's file."""
    seconds = []
    with running(place) as (daemon, provider, within), Versions(place) as version:
        other = daemon_on(place, within.parent / "other", provider)
        with ended([other]):
            other.start()
            other.until(1)
            for _ in range(size.rounds):
                spin = Spin(version)
                seen = changed(other)
                provider.then(spin)
                refresh(daemon)
                spin.wait()
                committed = time.monotonic()
                provider.then(lambda _: None)
                other.wait_for(seen, "new file", patience=120)
                seconds.append(time.monotonic() - committed)
    return Figure(f"{place.kind}: committed → other replica's file published", "s", tuple(seconds))


def to_a_dead_probe(size: Size, grace: float = 2.0) -> Figure:
    """From the end of a dead grant's grace to a liveness probe that fails."""
    seconds = []
    for _ in range(size.rounds):
        with PLACES["sqlite"]() as place, running(place, dead_grace=f"{grace:g}s") as (daemon, provider, _):
            provider.dead = True
            verdict: list[float] = []
            provider.then(verdict.append)
            subprocess.run(
                [sys.executable, "-m", "sidecar", "refresh", "token", "--config", str(daemon.path)],
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            daemon.wait_for(lambda: daemon.get("/livez") == 503, "dead probe", step=0.005)
            seconds.append(time.monotonic() - verdict[-1] - grace)
    return Figure("verdict and its grace over → `/livez` 503", "s", tuple(seconds))


METHOD = """\
The provider is a socket in the benchmark's own process. In the moment after the last byte of its answer it asks the
kernel again and again for the file's inode, or the store for the record's generation, past the daemon: so the figure
holds no notification's delay. One core spins, the daemon has the other. `refresh` starts each turn. The file is always
written after the commit."""


def measure(size: Size, _root: Path) -> Section:
    """Measure all of it."""
    figures: list[Figure] = []
    for kind, target in size.targets:
        with PLACES[kind]() as place:
            figures += after_the_answer(place, size, target)
        with PLACES[kind]() as place:
            figures.append(after_a_seed(place, size))
        with PLACES[kind]() as place:
            figures.append(to_a_replica(place, size))
    figures.append(to_a_dead_probe(size))
    return Section("Speed", METHOD, tuple(figures))
