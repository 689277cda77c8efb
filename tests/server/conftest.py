"""What the server's tests share: views, a clock that stands still, and a daemon's servers on real sockets."""

from __future__ import annotations

import http.client
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import msgspec
import pytest
from starlette.types import ASGIApp

from sidecar.board import Board
from sidecar.events import OutputView, TokenView, TurnEnded
from sidecar.observers.metrics import Metrics
from sidecar.pulse import Heartbeats, Pulse
from sidecar.server.http import Site
from sidecar.server.marker import StartMarker
from sidecar.server.serve import HttpServer, bind_tcp, bind_unix, url_of
from sidecar.server.status import ConfigState, Process
from sidecar.tokens import GrantState

NOW = 1_800_000_000.0


@pytest.fixture
def anyio_backend() -> str:
    """Run these tests on asyncio: uvicorn knows nothing else."""
    return "asyncio"


class StillClock:
    """All three clocks, moved by hand."""

    def __init__(self) -> None:
        self.at = NOW

    def wall(self) -> float:
        return self.at

    def boot(self) -> float:
        return self.at - NOW + 1000.0

    def monotonic(self) -> float:
        return self.at - NOW + 500.0


def an_output(**changes: Any) -> OutputView:
    """Make the view of an output that holds the token of `a_view`, with changes."""
    well = OutputView(
        output="/run/tokens/gmail.json",
        required=True,
        fingerprint="aaaaaaaaaaaa",
        lineage="l1",
        expires_at=NOW + 1800,
    )
    return msgspec.structs.replace(well, **changes)


def a_view(**changes: Any) -> TokenView:
    """Make the view of a token that is well, with changes."""
    well = TokenView(
        token="gmail",
        provider="google",
        required=True,
        on_dead="restart",
        dead_grace=None,
        grant_state=GrantState.OK,
        lineage="l1",
        generation=3,
        fingerprint="aaaaaaaaaaaa",
        expires_at=NOW + 1800,
        expiry_known=True,
        min_validity=600.0,
        outputs=(an_output(),),
    )
    return msgspec.structs.replace(well, **changes)


class Rig:
    """A site with one token that is well; its read-back tells what the board knows."""

    def __init__(self, state_dir: Path) -> None:
        self.clock = StillClock()
        self.board = Board()
        self.heartbeats = Heartbeats(self.clock)
        self.config = ConfigState(self.clock, "/etc/token-sidecar/config.yaml")
        self.metrics = Metrics(clock=self.clock, heartbeats=self.heartbeats, store="sqlite", version="1.2.3")
        self.site = Site(
            board=self.board,
            read_back=self.read_back,
            metrics=self.metrics.render,
            config=self.config.as_dict,
            heartbeats=self.heartbeats,
            clock=self.clock,
            process=Process.now(self.clock, version="1.2.3", instance="i1"),
            marker=StartMarker(state_dir, pod="pod-1"),
        )
        self.hang = False
        self.show(a_view())

    def show(self, view: TokenView) -> None:
        """Put a view on the board, as the end of a turn does."""
        self.board.notice(TurnEnded(view=view, sentence="", noteworthy=False))

    async def read_back(self) -> Sequence[TokenView]:
        """Serve as the app's own read-back."""
        if self.hang:
            await anyio.sleep_forever()
        return list(self.board)


@asynccontextmanager
async def serving(app: ASGIApp, heartbeats: Heartbeats) -> AsyncIterator[str]:
    """Serve an application on a free port of the loopback; yields its URL."""
    sock = bind_tcp("127.0.0.1", 0)
    url = url_of(sock)
    server = HttpServer(app, sock, worker="server", pulse=Pulse(), heartbeats=heartbeats)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.run)
        yield url
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def serving_unix(app: ASGIApp, state_dir: Path, heartbeats: Heartbeats) -> AsyncIterator[Path]:
    """Serve an application on a control socket; yields its path."""
    server = HttpServer(app, bind_unix(state_dir), worker="control", pulse=Pulse(), heartbeats=heartbeats)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.run)
        yield state_dir / "control.sock"
        tasks.cancel_scope.cancel()


class Reply:
    """An answer that has been read."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.text = answer.read().decode()


def _ask(url: str, path: str, method: str, headers: dict[str, str]) -> Reply:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        return Reply(connection.getresponse())
    finally:
        connection.close()


async def ask(url: str, path: str, method: str = "GET", **headers: str) -> Reply:
    """Send one real request, from a thread."""
    return await anyio.to_thread.run_sync(partial(_ask, url, path, method, headers))
