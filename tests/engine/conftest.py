"""A daemon's engine on a virtual clock: the real renewer, scheduler, escrow and memory store, no network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
import trio
import trio.testing

from sidecar.courier import Courier
from sidecar.errors import Conflict, NoAnswer, NotSent, OutputError, StoreError, Unwritten
from sidecar.escrow import Escrow
from sidecar.events import Event, TokenView, TurnEnded
from sidecar.grants.endpoint import silent
from sidecar.ports import Answer, Foreign, Gate, Grant, Held, Holding, Publication, Sealer, Seeding
from sidecar.profile import GrantType, InDoubt, Profile, Rotation
from sidecar.pulse import Heartbeats, Pulse
from sidecar.renewer import Renewer
from sidecar.schedule import Policy
from sidecar.scheduler import Scheduler
from sidecar.seal import CLEAR
from sidecar.setup import Setup, Surroundings
from sidecar.stores.memory import MemoryStore
from sidecar.testing import NoAnswer as Cut
from sidecar.testing import Provider, ProviderConfig, request_token
from sidecar.testing import Rotation as ProviderRotation
from sidecar.tokens import GrantState, Record, RefreshToken
from tests.dice import loaded

EPOCH = 1_800_000_000.0
KEY = "test/gmail"

ROTATING = Profile(title="rotating", rotation=Rotation.ALWAYS, in_doubt=InDoubt.NO_REPLAY)
STEADY = Profile(title="steady", rotation=Rotation.NEVER, in_doubt=InDoubt.REPLAY_OK)


class Killed(BaseException):
    """Stands for SIGKILL: goes through every shield and every `except Exception`."""


class VirtualClock:
    """All three clocks follow trio's; the wall clock can be stepped, and the machine suspended."""

    def __init__(self) -> None:
        self.stepped = 0.0
        self.suspended = 0.0

    def wall(self) -> float:
        return EPOCH + trio.current_time() + self.suspended + self.stepped

    def boot(self) -> float:
        return trio.current_time() + self.suspended

    def monotonic(self) -> float:
        return trio.current_time()


class SimulatedGrant:
    """Asks a simulated provider, with no network between."""

    uses_refresh_token = True
    endpoint = "https://provider.example"
    token_url = "https://provider.example/token"
    issuer = ""
    files: tuple[Path, ...] = ()

    def __init__(self, provider: Provider, clock: VirtualClock, grant_type: str = "refresh_token") -> None:
        self.provider = provider
        self.clock = clock
        self.tell: Callable[[str], None] = silent
        self.grant_type = grant_type
        self.credentials = "one"
        self.kill_before_send = False
        self.kill_after_send = False
        self.id = provider.config.client_id
        self.calls: list[float] = []
        self.unreachable = 0
        self._call_began = anyio.Event()

    async def called(self, times: int) -> None:
        """Return once the provider is being called for the `times`th time, half a second into that call."""
        while len(self.calls) < times:
            await self._call_began.wait()
        await anyio.sleep(0.5)

    def credentials_fingerprint(self) -> str:
        return self.credentials

    def client_id(self) -> str:
        return self.id

    async def locate(self) -> None:
        """Its endpoint is known."""

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        self.calls.append(self.clock.wall())
        self._call_began.set()
        self._call_began = anyio.Event()
        if self.unreachable:
            self.unreachable -= 1
            await anyio.sleep(send_timeout)
            raise NotSent("connection refused")
        if self.kill_before_send:
            raise Killed
        gate.open()
        sent_at = self.clock.wall()
        form = {"grant_type": self.grant_type, "client_id": self.id}
        if self.provider.config.client_secret:
            form["client_secret"] = self.provider.config.client_secret
        if refresh is not None:
            form["refresh_token"] = refresh.value
        try:
            with anyio.fail_after(300):
                reply = await request_token(self.provider, form)
        except (Cut, TimeoutError):
            raise NoAnswer("no answer came") from None
        if self.kill_after_send:
            raise Killed
        headers = {name.lower(): value for name, value in reply.headers.items()}
        return Answer(reply.status, headers, reply.body, sent_at, self.clock.wall())


class Shelf:
    """An output in memory that remembers everything it was given."""

    required = True
    adopt = False

    def __init__(self, name: str = "file:/run/tokens/gmail.json") -> None:
        self.id = name
        self.publications: list[Publication] = []
        self.failing = ""
        self.foreign: Foreign | None = None

    async def publish(self, publication: Publication) -> bool:
        if self.failing:
            raise OutputError(self.failing)
        self.foreign = None
        if self.publications and self.publications[-1] == publication:
            return False
        self.publications.append(publication)
        return True

    async def read_back(self) -> Holding:
        if self.foreign is not None:
            return Holding(foreign=self.foreign, fingerprint=self.foreign.access.fingerprint)
        if not self.publications:
            return Holding(problem="missing")
        last = self.publications[-1]
        return Holding(last.access.fingerprint, last.lineage, last.access.expires_at, mark=last.mark)


class Pocket:
    """A seed in memory."""

    id = "seed:pocket"
    missing = ""

    def __init__(self, value: str | None, clock: VirtualClock) -> None:
        self.value = value
        self.clock = clock

    async def read(self) -> Seeding | None:
        if self.value is None:
            return None
        return Seeding(RefreshToken(self.value, self.clock.wall()))


class FaultyStore:
    """A memory store whose connection can be cut, before or after it has done what it was asked."""

    kind = "memory"
    volatile = True

    def __init__(self, clock: VirtualClock) -> None:
        self.inner = MemoryStore(clock)
        self.down = False
        self.lose_replies = 0
        self.fail_writes = 0
        self.loads = self.writes = 0
        self.kill_at: Callable[[Record], bool] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stay as it is."""

    async def keys(self, prefix: str = "") -> list[str]:
        self._check()
        return await self.inner.keys(prefix)

    async def delete(self, key: str, *, expected: str) -> None:
        await self.inner.delete(key, expected=expected)

    async def load(self, key: str) -> Held | None:
        self._check()
        self.loads += 1
        return await self.inner.load(key)

    async def write(self, key: str, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        self._check()
        if self.kill_at is not None and self.kill_at(record):
            self.kill_at = None
            raise Killed
        if self.fail_writes:
            self.fail_writes -= 1
            raise StoreError("the write failed")
        version = await self.inner.write(key, record, expected=expected, lease=lease)
        self.writes += 1
        if self.lose_replies:
            self.lose_replies -= 1
            raise StoreError("the reply was lost")
        return version

    async def record(self) -> Record:
        held = await self.inner.load(KEY)
        assert held is not None
        return held.record

    async def edit(self, record: Record) -> None:
        """Write behind the daemons' backs."""
        held = await self.inner.load(KEY)
        try:
            await self.inner.write(KEY, record, expected=held.version if held else None)
        except Conflict:  # pragma: no cover
            pytest.fail("nobody else writes here")

    def _check(self) -> None:
        if self.down:
            raise Unwritten("connection refused")


@dataclass
class Daemon:
    """One replica: a renewer under its own scheduler."""

    renewer: Renewer
    scheduler: Scheduler
    grant: SimulatedGrant
    shelf: Shelf
    escrow: Escrow
    events: list[Event]

    @property
    def view(self) -> TokenView:
        return [event.view for event in self.events if isinstance(event, TurnEnded)][-1]

    def state(self) -> GrantState:
        """Name the grant's state at the end of the last turn."""
        return self.view.grant_state

    def sentences(self) -> list[str]:
        return [event.sentence for event in self.events if isinstance(event, TurnEnded)]

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def run(self, seconds: float) -> None:
        """Let it live for so long, then stop it as SIGTERM would."""
        with anyio.move_on_after(seconds):
            await self.scheduler.run()

    async def die(self, seconds: float = 86400.0) -> None:
        """Let it live until a `Killed` ends it as SIGKILL would: nothing is cleaned up."""
        try:
            await self.run(seconds)
        except BaseExceptionGroup as group:
            if group.split(Killed)[1] is not None:
                raise
        else:
            pytest.fail("it should have been killed by now")


class House:
    """Everything around one grant: the provider, the store, and any number of daemons."""

    def __init__(self, directory: Path, **provider: Any) -> None:
        self.directory = directory
        self.clock = VirtualClock()
        provider.setdefault("rotation", ProviderRotation.ALWAYS)
        self.provider = Provider(ProviderConfig(**provider), now=self.clock.wall)
        self.store = FaultyStore(self.clock)
        self.count = 0

    def daemon(
        self,
        *,
        profile: Profile = ROTATING,
        seed: str | None = None,
        policy: Policy | None = None,
        instance: str | None = None,
        shelf: Shelf | None = None,
        sealer: Sealer = CLEAR,
        grant: Grant | None = None,
        **setup: Any,
    ) -> Daemon:
        """Make a daemon; `seed` None: it gets none and finds its token in the store."""
        self.count += 1
        name = instance or f"instance-{self.count}"
        escrow = Escrow(self.directory / name, sealer)
        escrow.prepare()
        events: list[Event] = []
        around = Surroundings(self.clock, self.store, escrow, name, events.append, lambda: 0.5)
        grant_type = "refresh_token" if profile.needs_refresh_token else GrantType.CLIENT_CREDENTIALS.value
        simulated = SimulatedGrant(self.provider, self.clock, grant_type)
        shelf = shelf or Shelf()
        renewer = Renewer(
            Setup(
                name="gmail",
                key=KEY,
                provider="sim",
                profile=profile,
                policy=policy or Policy(),
                grant=grant or simulated,
                outputs=(shelf,),
                seed=Pocket(seed, self.clock) if seed else None,
                **setup,
            ),
            around,
        )
        for entry in escrow.entries():
            renewer.recover(entry)
        scheduler = Scheduler(self.clock, Heartbeats(self.clock), Pulse(), workers=2)
        scheduler.add("gmail", renewer)

        def rouse(_: Courier) -> None:
            if scheduler.wake("gmail:courier") is None:
                scheduler.add("gmail:courier", renewer.courier)

        renewer.courier.rouse = rouse
        return Daemon(renewer, scheduler, simulated, shelf, escrow, events)


@pytest.fixture
def anyio_backend() -> Any:
    """Run the whole engine on virtual time."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture(autouse=True)
def dice() -> Iterator[None]:
    """Let jitter, which hangs on ids and secrets, be the same at each run."""
    with loaded(int(os.environ.get("TOKEN_SIDECAR_TEST_SEED", "1"))):
        yield


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A provider that rotates at each use and kills the family at a replay."""
    return House(tmp_path)
