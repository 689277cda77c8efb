"""A whole engine with a set of tokens, on virtual time: real files, a memory store, a simulated provider."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio

from sidecar import engine as engines
from sidecar.board import Board
from sidecar.clients.shared import SharedClients
from sidecar.config import load
from sidecar.engine import Engine
from sidecar.escrow import Escrow
from sidecar.events import Event, SetListed
from sidecar.observers import fan_out
from sidecar.ports import Seeding
from sidecar.pulse import Heartbeats, Pulse
from sidecar.rotation import begun, seeded
from sidecar.scheduler import Scheduler
from sidecar.server.wire import SeedRequest
from sidecar.setup import Surroundings
from sidecar.tokens import RefreshToken
from tests.engine.conftest import House, SimulatedGrant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from sidecar.clients.http import HttpClient
    from sidecar.ports import Store

PREFIX = "test/gmail/"
ENDPOINT = "https://provider.example"
CONFIGURATION = """
namespace: test
store: "memory:"
allow_volatile_store: true
state_dir: {state}
tokens:
  gmail:
    provider: {{token_url: "https://provider.example/token", rotation: always{provider}}}
    client: {{id: client}}
    for_each: {{{for_each}}}
    {keys}
    outputs: [{{file: "{tokens}/{{account}}.json"}}]
"""


class Listing:
    """A list of accounts that a test may change, and break."""

    id = "a test's list"

    def __init__(self, *names: str) -> None:
        self.accounts = list(names)
        self.problem: Exception | None = None
        self.asked: list[float] = []

    async def names(self) -> list[str]:
        self.asked.append(anyio.current_time())
        if self.problem is not None:
            raise self.problem
        return list(self.accounts)


@dataclass
class Fleet:
    """One daemon that serves the set `gmail`, and what is around it."""

    house: House
    engine: Engine
    scheduler: Scheduler
    grants: list[SimulatedGrant]
    board: Board
    tokens: Path
    events: list[Event] = field(default_factory=list)

    def files(self) -> list[str]:
        """Name the files that there are."""
        return sorted(path.name for path in self.tokens.iterdir())

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def listed(self) -> SetListed:
        """What came of the last look at who the accounts are."""
        return cast("SetListed", self.of(SetListed)[-1])

    def access_token(self, account: str) -> str:
        """Read an account's file as an application does."""
        return str(json.loads((self.tokens / f"{account}.json").read_bytes())["access_token"])

    async def plant(self, account: str) -> None:
        """Give an account its first grant, as `seed` and `login` do through the control socket."""
        request = SeedRequest(Seeding(RefreshToken(self.house.provider.new_grant(), self.house.clock.wall())))
        await self.engine.seed(f"gmail/{account}", request)


async def connect(house: House, *accounts: str) -> None:
    """Put an account's record into the store, as another daemon would."""
    for account in accounts:
        seeding = Seeding(RefreshToken(house.provider.new_grant(), house.clock.wall()))
        record = seeded(None, seeding, client_id=house.provider.config.client_id, endpoint=ENDPOINT)
        await house.store.write(PREFIX + account, record, expected=None)


async def disconnect(house: House, account: str) -> None:
    """Take an account's record out of the store."""
    held = await house.store.load(PREFIX + account)
    assert held is not None
    await house.store.delete(PREFIX + account, expected=held.version)


@asynccontextmanager
async def running(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    *,
    for_each: str = "store: gmail/",
    keys: str = "",
    listing: Listing | None = None,
    name: str = "one",
    claims: bool = False,
    provider: str = "",
) -> AsyncIterator[Fleet]:
    """Let a daemon run for as long as the block lasts, then stop it as SIGTERM would.

    `claims`: its store gives them out. `provider`: what else its profile says.
    """
    state, tokens = house.directory / f"state-{name}", house.directory / f"tokens-{name}"
    state.mkdir(exist_ok=True)
    tokens.mkdir(exist_ok=True)
    path = house.directory / f"{name}.yaml"
    path.write_text(
        CONFIGURATION.format(state=state, tokens=tokens, for_each=for_each, keys=keys, provider=provider)
    )
    settings = load(path, env={}).settings
    grants: list[SimulatedGrant] = []

    def open_grant(*_: object) -> SimulatedGrant:
        grants.append(SimulatedGrant(house.provider, house.clock))
        return grants[-1]

    monkeypatch.setattr(engines, "open_grant", open_grant)
    if listing is not None:
        monkeypatch.setattr(engines, "open_accounts", lambda *_: listing)
    board, events = Board(), cast("list[Event]", [])
    emit = fan_out([board, cast("Any", _Keeping(events))])
    escrow = Escrow(state / "escrow")
    escrow.prepare()
    store = house.store.inner if claims else house.store
    around = Surroundings(house.clock, cast("Store", store), escrow, name, emit, lambda: 0.5)
    scheduler = Scheduler(house.clock, Heartbeats(house.clock), Pulse(), workers=4)
    engine = Engine(
        settings,
        around,
        http=cast("HttpClient", None),
        clients=SharedClients(),
        scheduler=scheduler,
        board=board,
        environ={},
    )
    await engine.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scheduler.run)
        yield Fleet(house, engine, scheduler, grants, board, tokens, events)
        tasks.cancel_scope.cancel()
    await engine.finish(patiently=False)


class _Keeping:
    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def notice(self, event: Event) -> None:
        self._events.append(event)


__all__ = ["ENDPOINT", "PREFIX", "Fleet", "Listing", "begun", "connect", "disconnect", "running"]
