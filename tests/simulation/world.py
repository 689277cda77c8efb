"""Everything around some grants: machines, their clocks, a store, a provider, and the blows that they take."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from sidecar.errors import Unwritten
from sidecar.schedule import Policy
from sidecar.stores.memory import MemoryStore
from sidecar.testing import Provider
from tests.simulation.faults import Chance
from tests.simulation.plan import Disturbance, Script
from tests.simulation.scenario import Kind, Scenario, kind_of

if TYPE_CHECKING:
    from sidecar.events import Event
    from sidecar.ports import Publication
    from sidecar.renewer import Renewer
    from sidecar.scheduler import Scheduler
    from sidecar.stores.memory import _Row

EPOCH = 1_800_000_000.0
MOST_HOSTS = 8
REMEMBERED = 660.0
"""Seconds of the store's past that it can fall back to."""


class Killed(BaseException):
    """Stands for SIGKILL: goes through every shield and every `except Exception`."""


class OwnClock:
    """A machine's clocks; its wall clock may be wrong, and may be put right."""

    def __init__(self, world: World, wrong_by: float) -> None:
        self._world = world
        self.wrong_by = wrong_by

    def wall(self) -> float:
        return self._world.now() + self.wrong_by

    def boot(self) -> float:
        return self._world.now() - EPOCH

    def monotonic(self) -> float:
        return trio.current_time()


@dataclass
class Token:
    """One grant, as its owner sees it."""

    name: str
    seeds: list[str]
    """Every refresh token that a human ever consented to, the newest last."""
    file: str
    """What the seed's file holds, on every host."""

    @property
    def key(self) -> str:
        """Its key in the store."""
        return f"test/{self.name}"


class Process:
    """One life of a daemon, from its start to its end."""

    def __init__(self, host: Host, born: float) -> None:
        self.host = host
        self.born = born
        self.dead = False
        self.scope = trio.CancelScope()
        self.renewers: dict[str, Renewer] = {}
        self.scheduler: Scheduler | None = None
        self._scopes: list[trio.CancelScope] = [self.scope]

    def check(self) -> None:
        """Let a task of a process that is dead go no further."""
        if self.dead:
            raise Killed

    def die(self) -> None:
        """End it, wherever its tasks are, and whatever shields them."""
        self.dead = True
        for scope in self._scopes:
            scope.cancel()

    @contextlib.contextmanager
    def mortal(self) -> Iterator[None]:
        """Wait here only for as long as the process lives."""
        self.check()
        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            try:
                yield
            finally:
                self._scopes.remove(scope)
        self.check()


@dataclass(eq=False)
class Host:
    """One place where a daemon lives: its `state_dir`, its clock, its readers, and what it can reach."""

    name: str
    directory: Path
    clock: OwnClock
    process: Process | None = None
    frozen_until: float = 0.0
    cut_off_until: float = 0.0
    policy: int = 0
    """Which of the configurations is in force here."""
    down_for: float = 0.0
    replaced: bool = False
    """Whether the next start is elsewhere."""
    abandoned: bool = False
    settled_at: float = 0.0
    """When it last had been able to work for long enough to finish whatever it was at."""
    shelves: dict[str, list[Publication]] = field(default_factory=dict)
    events: dict[str, Event] = field(default_factory=dict)
    """The last turn of each token."""


class World:
    """All of it, in one history."""

    def __init__(self, scenario: Scenario, script: Script, directory: Path) -> None:
        self.scenario = scenario
        self.script = script
        self.directory = directory
        self.kind: Kind = kind_of(scenario.kind, scenario.ttl)
        self.suspended = 0.0
        self.woke_at = 0.0
        self.down_until = 0.0
        self.provider = Provider(self.kind.provider, now=self.now)
        self.rows = MemoryStore(OwnClock(self, 0.0))
        self.past: deque[tuple[float, dict[str, _Row]]] = deque()
        self.hosts: list[Host] = []
        self.trace: list[tuple[float, str, bool]] = []
        first = [self.provider.new_grant() for _ in range(scenario.tokens)]
        self.tokens = [Token(f"t{index}", [value], value) for index, value in enumerate(first)]
        for _ in range(scenario.replicas):
            self.new_host()

    @property
    def wobble(self) -> float:
        """Seconds by which a machine's clock may be wrong."""
        return self.scenario.ttl / 60

    @property
    def policies(self) -> Sequence[Policy]:
        """The configurations that a reload changes between."""
        lease = self.scenario.ttl / 16
        return (Policy(), Policy(refresh_at=0.5), Policy(lease=lease), Policy(request_timeout=lease / 2))

    # Time and places

    def now(self) -> float:
        return EPOCH + trio.current_time() + self.suspended

    def note(self, text: str, *, loud: bool = True) -> None:
        """Add a line to the trace; what is not `loud` happens all the time."""
        self.trace.append((self.now() - EPOCH, text, loud))

    def new_host(self) -> Host:
        name = f"host{len(self.hosts)}"
        dice = random.Random(f"{self.scenario.seed}/{name}")  # noqa: S311 - dice, no secrets
        wrong_by = dice.choice([0.0, 0.0, dice.uniform(-self.wobble, self.wobble)])
        host = Host(name, self.directory / name, OwnClock(self, wrong_by))
        self.hosts.append(host)
        return host

    def host(self, name: str) -> Host | None:
        return next((host for host in self.hosts if host.name == name), None)

    def token(self, name: str) -> Token | None:
        return next((token for token in self.tokens if token.name == name), None)

    def processes(self) -> Iterator[Process]:
        """Go through the daemons that run."""
        return (host.process for host in self.hosts if host.process is not None)

    def able_since(self, host: Host) -> float:
        """Tell since when a host could work undisturbed; infinite while it can't."""
        if host.process is None or host.process.dead:
            return float("inf")
        since = max(host.process.born, host.frozen_until, host.cut_off_until, self.down_until, self.woke_at)
        return since if since <= self.now() else float("inf")

    # Blows

    def reach_store(self, host: Host) -> None:
        if self.now() < max(self.down_until, host.cut_off_until):
            raise Unwritten("connection refused")

    def kill(self, process: Process, down_for: float, *, replaced: bool) -> None:
        process.host.down_for, process.host.replaced = down_for, replaced
        process.die()

    def freeze(self, host: Host, seconds: float) -> None:
        host.frozen_until = max(host.frozen_until, self.now() + seconds)

    def cut_off(self, host: Host, seconds: float) -> None:
        host.cut_off_until = max(host.cut_off_until, self.now() + seconds)

    def sleep(self, seconds: float) -> None:
        """Put all machines to sleep: timers stand still, the world goes on."""
        for host in self.hosts:
            if host.frozen_until > self.now():
                host.frozen_until += seconds
        self.suspended += seconds
        self.woke_at = self.now()

    async def stand(self, host: Host) -> bool:
        """Stand still for as long as the host is frozen; returns whether it was."""
        stood = False
        while (left := host.frozen_until - self.now()) > 0:
            stood = True
            await trio.sleep(left)
        return stood

    def strike(self, process: Process, hit: Disturbance | None, *, after: bool = False) -> None:
        """Deal what a port is dealt without waiting."""
        process.check()
        if hit is None or hit.what.endswith("-after") is not after:
            return
        what = hit.what.removesuffix("-after")
        if what in {"killed", "replaced"}:
            self.kill(process, hit.value, replaced=what == "replaced")
            raise Killed
        if what == "frozen":
            self.freeze(process.host, hit.value)

    def draw(self, process: Process, token: str, port: str, menu: Sequence[Chance]) -> Disturbance | None:
        """Ask the script about one visit of a port."""
        hit = self.script.at(f"{process.host.name}/{token}/{port}", menu)
        if hit is not None:
            self.note(f"! {hit}")
        return hit

    # The store's past

    def remember(self) -> None:
        """Keep a copy of the store, as a replica or a backup would."""
        now = self.now()
        if not self.past or self.past[-1][1] != self.rows._rows:
            self.past.append((now, dict(self.rows._rows)))
        while len(self.past) > 1 and self.past[1][0] < now - REMEMBERED:
            self.past.popleft()

    def fall_back(self, seconds: float) -> list[Token]:
        """Put an older copy in the place of the store; returns the tokens whose records that changed."""
        then = self.now() - seconds
        copies = [rows for at, rows in self.past if at <= then]
        if not copies:
            return []
        before, self.rows._rows = self.rows._rows, dict(copies[-1])
        return [token for token in self.tokens if before.get(token.key) != self.rows._rows.get(token.key)]
