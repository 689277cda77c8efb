"""What the tests of hooks share: occasions, and hooks made as a daemon makes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.clients.http import HttpClient
from sidecar.clients.shared import SharedClients
from sidecar.clock import SystemClock
from sidecar.config.settings import HookSettings
from sidecar.hooks import open_hook
from sidecar.ports import Hook, Mark, Occasion

MakeHook = Callable[..., Hook]
OUTPUTS = ("/run/tokens/gmail.json", "/run/tokens/gmail header")


def occasion(generation: int = 1, *, lineage: str = "one", seeds: int = 1, token: str = "gmail") -> Occasion:
    """Make a new token."""
    return Occasion(token, Mark(lineage, generation, seeds, 1_700_000_000.0 + seeds * 1000 + generation))


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run them on the loop that the daemon runs on: sockets and processes are real."""
    backend: str = request.param
    return backend


@pytest.fixture
async def make_hook(tmp_path: Path) -> AsyncIterator[MakeHook]:
    """Make hooks from settings as they stand in a configuration; all have one `state_dir`."""
    clock = SystemClock()
    async with HttpClient(clock, read_limit=20.0) as http:

        def make(*, token: str = "gmail", **settings: Any) -> Hook:
            (tmp_path / "state").mkdir(exist_ok=True)
            return open_hook(
                msgspec.convert(settings, HookSettings, dec_hook=lambda kind, value: kind(value)),
                token=token,
                files=OUTPUTS,
                namespace="mail",
                state_dir=tmp_path / "state",
                clock=clock,
                http=http,
                clients=SharedClients(),
            )

        yield make
