"""One history: trouble, then peace, and a judge who looks at everything."""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import trio
import trio.testing

from sidecar.errors import SidecarError
from sidecar.events import Event, TurnEnded
from sidecar.ports import Seeding
from sidecar.pulse import Heartbeats, Pulse
from sidecar.renewer import Renewer
from sidecar.scheduler import Scheduler
from sidecar.setup import Setup, Surroundings
from sidecar.tokens import RefreshToken, fingerprint
from tests.dice import loaded
from tests.simulation.judge import Judge, Verdict
from tests.simulation.plan import Disturbance, Plan, Script
from tests.simulation.ports import Connection, Line, SeedFile, Vault, Window
from tests.simulation.scenario import Scenario
from tests.simulation.world import MOST_HOSTS, Host, Killed, Process, Token, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.ports import Store

PATIENCE = 3600.0
"""Seconds of peace within which everything must be well: the longest back-off, and a doubt's whole wait."""
AFTERWARDS = 5
"""For how many lives of an access token it is watched then."""
MOURNING = 60.0
"""Seconds until a human consents anew to a grant that died, or whose record is gone or fell back for good."""

LOOK = 5.0
"""Seconds between two looks at everything."""

MEMORY = next((place for place in ("/dev/shm",) if Path(place).is_dir()), None)  # noqa: S108 - files in it are private


@dataclass
class Outcome:
    """How a history ended."""

    scenario: Scenario
    plan: Plan
    verdict: Verdict | None
    trace: list[tuple[float, str, bool]]
    judged: Counter[str]
    excused: Counter[str]
    renewals: int
    calls: int
    lasted: float
    """Virtual seconds."""
    took: float
    """Seconds of processor time."""

    @property
    def faults(self) -> Counter[str]:
        """Count what went wrong, by its kind."""
        return Counter(entry.what for entry in self.plan)


class History:
    """A world, and the daemons that live in it."""

    def __init__(self, scenario: Scenario, script: Script, directory: Path) -> None:
        self.world = World(scenario, script, directory)
        self.judge = Judge(self.world)

    async def live(self) -> None:
        """Live through trouble, then through peace."""
        world, scenario = self.world, self.world.scenario
        async with self._inhabited() as humans:
            await self._trouble(humans)
            world.script.calm = True
            world.provider.clear_faults()
            world.down_until = min(world.down_until, world.now())
            for host in world.hosts:
                host.cut_off_until = min(host.cut_off_until, world.now())
                if scenario.steps_clocks:
                    host.clock.wrong_by = 0.0
            for token in world.tokens:
                token.file = token.seeds[-1]
            world.note("peace")
            self.judge.troubled()
            await self._become_well()
            # By now every promise holds without an excuse.
            await trio.sleep(AFTERWARDS * scenario.ttl)
            if reason := self.judge.unwell():
                raise Verdict("progress", f"it was well, and then {reason}")

    async def _become_well(self) -> None:
        # A back-off that was written by a clock that was ahead lasts for so much longer.
        patience = PATIENCE * (2 if self.world.scenario.steps_clocks else 1)
        for _ in range(int(patience / LOOK)):
            if not self.judge.unwell():
                return
            await trio.sleep(LOOK)
        raise Verdict("progress", f"long after the last fault {self.judge.unwell()}")

    @contextlib.asynccontextmanager
    async def _inhabited(self) -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as nursery:
            for host in list(self.world.hosts):
                nursery.start_soon(self._dwell, host)
            nursery.start_soon(self._watch)
            yield nursery
            nursery.cancel_scope.cancel()

    async def _dwell(self, host: Host) -> None:
        """Run one daemon in one place, again and again, for ever."""
        world = self.world
        while True:
            process = self._start(host)
            with process.scope:
                try:
                    await cast("Scheduler", process.scheduler).run()
                except* Killed:
                    pass
            process.dead = True
            host.process = None
            self.judge.check()
            await trio.sleep(host.down_for)
            if host.replaced and len(world.hosts) < MOST_HOSTS:
                host.abandoned = True
                host = world.new_host()
                world.note(f"{host.name} takes its place")
            host.replaced = False
            world.note(f"{host.name} starts")

    def _start(self, host: Host) -> Process:
        world, judge = self.world, self.judge
        process = host.process = Process(host, world.now())
        escrow = Vault(world, judge, process)
        escrow.prepare()
        jitter = random.Random(f"{world.scenario.seed}/{host.name}/jitter")  # noqa: S311 - dice, no secrets
        store = cast("Store", Connection(world, judge, process))
        around = Surroundings(host.clock, store, escrow, host.name, self._observer(host), jitter.random)
        for token in world.tokens:
            process.renewers[token.name] = Renewer(self._setup(process, token), around)
        for entry in escrow.entries():
            process.renewers[entry.key.partition("/")[2]].recover(entry)
        process.scheduler = Scheduler(host.clock, Heartbeats(host.clock), Pulse(), workers=2)
        for name, renewer in process.renewers.items():
            process.scheduler.add(name, renewer)
        return process

    def _observer(self, host: Host) -> Callable[[Event], None]:
        def notice(event: Event) -> None:
            if isinstance(event, TurnEnded):
                host.events[event.view.token] = event
                self.judge.looked(host)

        return notice

    def _setup(self, process: Process, token: Token) -> Setup:
        world, judge = self.world, self.judge
        return Setup(
            name=token.name,
            key=token.key,
            provider="sim",
            profile=world.kind.profile,
            policy=world.policies[process.host.policy],
            grant=Line(world, judge, process, token),
            outputs=(Window(world, judge, process, token),),
            seed=SeedFile(world, token),
        )

    async def _watch(self) -> None:
        """Look at everything every few seconds; keep a copy of the store; let the owner of a dead grant consent."""
        died: dict[str, float] = {}
        while True:
            self.judge.check()
            self.world.remember()
            for token in self.world.tokens:
                record = self.judge.record(token.name)
                # A record that is missing is not made anew from a seed that may be spent, nor is a refresh token sent
                # that may be spent: that is a human's decision.
                if record is not None and not record.is_dead() and not self.judge.is_held(token.name):
                    died.pop(token.name, None)
                elif self.world.now() - died.setdefault(token.name, self.world.now()) > MOURNING:
                    await self._consent(token, 0)
                    died.pop(token.name)
            await trio.sleep(LOOK)

    # What happens beside the ports

    async def _trouble(self, humans: trio.Nursery) -> None:
        world = self.world
        for entry in world.script.timed:
            await trio.sleep(max(0.0, entry.at - trio.current_time()))
            if trio.current_time() >= world.scenario.troubled:
                return
            if self._happen(entry, humans):
                world.script.happened.append(entry)
                world.note(f"! {entry}")
        await trio.sleep(max(0.0, world.scenario.troubled - trio.current_time()))

    def _happen(self, entry: Disturbance, humans: trio.Nursery) -> bool:
        host, token = self.world.host(entry.place), self.world.token(entry.place)
        if host is not None:
            return not host.abandoned and self._befall(host, entry)
        if token is not None:
            return self._concern(token, entry, humans)
        return entry.place == "world" and self._shake(entry)

    def _shake(self, entry: Disturbance) -> bool:
        world = self.world
        match entry.what:
            case "outage":
                world.down_until = max(world.down_until, world.now() + entry.value)
            case "suspended":
                world.sleep(entry.value)
                self.judge.troubled()
            case "rollback":
                for token in world.fall_back(entry.value):
                    self.judge.fell_back(token.name)
            case _:
                return False
        return True

    def _befall(self, host: Host, entry: Disturbance) -> bool:
        world = self.world
        match entry.what:
            case "cut-off":
                world.cut_off(host, entry.value)
            case "frozen":
                world.freeze(host, entry.value)
            case "killed" | "replaced" if host.process is not None:
                world.kill(host.process, entry.value, replaced=entry.what == "replaced")
            case "clock":
                host.clock.wrong_by += entry.value
            case "reload" if host.process is not None and host.process.scheduler is not None:
                host.policy = int(entry.value)
                for token in world.tokens:
                    host.process.renewers[token.name].reconfigure(self._setup(host.process, token))
                    host.process.scheduler.wake(token.name)
            case _:
                return False
        return True

    def _concern(self, token: Token, entry: Disturbance, humans: trio.Nursery) -> bool:
        world = self.world
        match entry.what:
            case "deleted":
                world.rows._rows.pop(token.key, None)
                self.judge.fell_back(token.name)
            case "consent":
                # Whoever gives it may have to wait for a daemon that stands still; nothing else waits for them.
                humans.start_soon(self._consent, token, int(entry.value))
            case "new-seed":
                token.file = world.provider.new_grant()
                token.seeds.append(token.file)
            case "old-seed":
                token.file = token.seeds[int(entry.value) % len(token.seeds)]
            case "refused":
                self._refuse(token, int(entry.value))
            case "revoked":
                record = self.judge.record(token.name)
                if record is None or record.refresh is None:
                    return False
                world.provider.kill(record.refresh.value)
            case _:
                return False
        return True

    def _some(self, choice: int) -> Process | None:
        running = list(self.world.processes())
        return running[choice % len(running)] if running else None

    async def _consent(self, token: Token, choice: int) -> None:
        """Give a new refresh token to one of the daemons, whatever is under way."""
        process, value = self._some(choice), self.world.provider.new_grant()
        if process is None or process.scheduler is None:
            return
        token.seeds.append(value)
        seeding = Seeding(RefreshToken(value, process.host.clock.wall()))
        with contextlib.suppress(SidecarError, Killed):
            await process.renewers[token.name].plant(seeding, origin="command")
            self.world.note(f"{process.host.name} plants {fingerprint(value)} for {token.name}")
            process.scheduler.wake(token.name)

    def _refuse(self, token: Token, choice: int) -> None:
        """Let an application say that its token is refused."""
        process = self._some(choice)
        if process is None or process.scheduler is None:
            return
        shown = process.host.shelves.get(token.name)
        if shown and process.renewers[token.name].refuse(shown[-1].access.fingerprint):
            self.judge.asked_for(process, token.name)
            process.scheduler.wake(token.name)


def live(
    scenario: Scenario, plan: Sequence[Disturbance] | None = None, *, until: float = math.inf
) -> Outcome:
    """Live one history, by the dice or by a plan, to its end, or until so many seconds have passed.

    A promise that was broken is in the outcome; nothing is raised.
    """
    script = Script(scenario, plan)
    begun: list[History] = []
    lasted: list[float] = []
    verdict, began = None, time.process_time()

    async def main(directory: str) -> None:
        begun.append(History(scenario, script, Path(directory)))
        try:
            with trio.move_on_at(until):
                await begun[0].live()
        finally:
            lasted.append(trio.current_time())

    try:
        with tempfile.TemporaryDirectory(dir=MEMORY) as directory, loaded(scenario.seed):
            trio.run(main, directory, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseExceptionGroup as group:
        verdict = _verdict(group)
    except Verdict as found:
        verdict = found
    [history] = begun
    requests = history.world.provider._requests
    return Outcome(
        scenario,
        tuple(script.happened),
        verdict,
        history.world.trace,
        history.judge.judged,
        history.judge.excused,
        renewals=sum(request.outcome in {"rotated", "unrotated"} for request in requests),
        calls=len(requests),
        lasted=lasted[0],
        took=time.process_time() - began,
    )


def _verdict(error: BaseException) -> Verdict:
    """Find what ended it all; a verdict goes before whatever else came of it."""
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, Verdict):
            return leaf
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt):
            raise leaf
    return _unsound(leaves[0])


def _unsound(error: BaseException) -> Verdict:
    verdict = Verdict("soundness", f"{type(error).__name__}: {error}")
    verdict.__cause__ = error
    return verdict


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
