"""A small world in which everything goes wrong by the dice, with a judge that knows what really happened.

Several replicas share one store and one grant. Every port of a daemon (store, provider, output) may fail, hang,
freeze the daemon or kill it, before or after it has done its work. The judge looks at the provider, which no
fault can deceive, and blames the engine for every use of a refresh token that no documented window excuses.
"""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import trio
import trio.testing

from sidecar.errors import NoAnswer, NotSent, SidecarError, StoreError
from sidecar.escrow import Escrow
from sidecar.events import Event, TurnEnded
from sidecar.grants.endpoint import silent
from sidecar.ports import Answer, Gate, Held, Holding, Publication, Seeding
from sidecar.profile import InDoubt, Profile, Rotation
from sidecar.pulse import Heartbeats, Pulse
from sidecar.renewer import Renewer, Setup, Surroundings
from sidecar.schedule import IN_DOUBT_HOLD, Policy, timing
from sidecar.scheduler import Scheduler
from sidecar.stores.memory import MemoryStore
from sidecar.testing import Fault, Provider, ProviderConfig, faults, request_token
from sidecar.testing import NoAnswer as Cut
from sidecar.testing import Rotation as ProviderRotation
from sidecar.tokens import GrantState, Record, RefreshToken, decode_record, fingerprint
from tests.dice import loaded
from tests.engine.conftest import EPOCH, KEY, Killed, Shelf

if TYPE_CHECKING:
    from sidecar.ports import Store

TTL = 300.0
STRANDED = 60.0
"""Seconds of undisturbed life within which a daemon must have committed what it holds."""

GRACE = 120.0

MEMORY = next((place for place in ("/dev/shm",) if Path(place).is_dir()), None)  # noqa: S108 - files in it are private


@dataclass(frozen=True)
class Kind:
    """One kind of provider, and the profile that tells the truth of it."""

    profile: Profile
    provider: dict[str, Any]


KINDS = {
    "no-replay": Kind(
        Profile(rotation=Rotation.ALWAYS, in_doubt=InDoubt.NO_REPLAY),
        {"rotation": ProviderRotation.ALWAYS},
    ),
    "unknown": Kind(Profile(), {"rotation": ProviderRotation.SOMETIMES, "rotate_every": 3}),
    "kills-old": Kind(
        Profile(rotation=Rotation.ALWAYS, kills_old_access_token=True),
        {"rotation": ProviderRotation.ALWAYS, "kills_old_access_token": True},
    ),
    "window": Kind(
        Profile(rotation=Rotation.ALWAYS, in_doubt=InDoubt.REPLAY_WINDOW, grace=GRACE),
        {"rotation": ProviderRotation.ALWAYS, "grace": GRACE},
    ),
    "until-used": Kind(
        Profile(rotation=Rotation.ALWAYS, in_doubt=InDoubt.REPLAY_UNTIL_USED),
        {"rotation": ProviderRotation.ALWAYS, "grace": float("inf"), "grace_until_used": True},
    ),
    "steady": Kind(
        Profile(rotation=Rotation.NEVER, in_doubt=InDoubt.REPLAY_OK),
        {"rotation": ProviderRotation.NEVER},
    ),
}


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
        return anyio.current_time()


@dataclass
class Call:
    """One use of a refresh token, as it really was."""

    by: str
    began: float
    """True time, in Unix seconds."""
    fate: str = "pending"
    """pending | lost | caught | answered (without a new refresh token)."""
    frozen: bool = False
    """Whether the caller stood still between the lease check and the first byte (window W5)."""


@dataclass
class Host:
    """One place where a daemon lives: its `state_dir`, its clock, and whether it can reach anything."""

    name: str
    directory: Path
    clock: OwnClock
    shelf: Shelf
    renewer: Renewer | None = None
    events: list[Event] = field(default_factory=list)
    frozen_until: float = 0.0
    cut_off_until: float = 0.0
    busy_since: float = EPOCH
    """Since when it is alive, not frozen and can reach the store; infinite while it is not so."""
    unfit_at: float = EPOCH
    """When it was last seen unfit to commit."""
    abandoned: bool = False


class Verdict(AssertionError):
    """The engine broke a promise."""


class World:
    """Everything around one grant."""

    def __init__(self, seed: int, kind: str, directory: Path, *, replicas: int, steps_clocks: bool) -> None:
        self.kind = KINDS[kind]
        self.steps_clocks = steps_clocks
        self.rng = random.Random(seed)  # noqa: S311 - dice, no secrets
        self.directory = directory
        self.suspended = 0.0
        self.calm = False
        self.provider = Provider(ProviderConfig(access_ttl=TTL, **self.kind.provider), now=self.now)
        self.rows = MemoryStore(OwnClock(self, 0.0))
        self.down_until = 0.0
        self.hosts: list[Host] = []
        self.uses: dict[str, list[Call]] = {}
        self.caught: set[str] = set()
        """Fingerprints of refresh tokens whose answer reached a living process in whole."""
        self.trace: list[str] = []
        self.requests = self.replays = 0
        self.first = self.provider.new_grant()
        for _ in range(replicas):
            self.new_host()

    # Time and trouble

    def now(self) -> float:
        return EPOCH + anyio.current_time() + self.suspended

    def chance(self, probability: float) -> bool:
        return not self.calm and self.rng.random() < probability

    def note(self, text: str) -> None:
        self.trace.append(f"{self.now() - EPOCH:9.2f} {text}")

    def new_host(self) -> Host:
        name = f"host{len(self.hosts)}"
        clock = OwnClock(self, self.rng.choice([0.0, 0.0, self.rng.uniform(-5, 5)]))
        host = Host(name, self.directory / name, clock, Shelf())
        self.hosts.append(host)
        return host

    def cannot_commit(self, host: Host) -> bool:
        now = self.now()
        unfit = (
            host.renewer is None
            or now < host.frozen_until
            or now < host.cut_off_until
            or now < self.down_until
        )
        if unfit:
            host.unfit_at = now
        return unfit

    async def port(self, host: Host, place: str) -> None:
        """Let the dice decide what happens to a daemon at this moment."""
        if self.chance(0.004):
            self.note(f"{host.name} is killed at {place}")
            raise Killed
        if self.chance(0.004):
            host.frozen_until = self.now() + self.rng.choice([2, 20, 100, 250])
            self.note(f"{host.name} stands still at {place} until {host.frozen_until - EPOCH:.0f}")
        while (left := host.frozen_until - self.now()) > 0:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(left)

    def reach_store(self, host: Host) -> None:
        if self.now() < max(self.down_until, host.cut_off_until) or self.chance(0.02):
            raise StoreError("connection refused")

    # The judge

    def record(self) -> Record | None:
        row = self.rows._rows.get(KEY)
        if row is None:
            return None
        return decode_record(row.blob)

    def begin(self, host: Host, refresh: RefreshToken, record: Record | None) -> Call:
        call = Call(host.name, self.now())
        self.judge_resend(host, refresh, record)
        self.uses.setdefault(refresh.fingerprint, []).append(call)
        return call

    def judge_resend(self, host: Host, refresh: RefreshToken, record: Record | None) -> None:
        """Blame a use of a refresh token that was, or may have been, used up before."""
        if self.kind.profile.in_doubt is InDoubt.REPLAY_OK:
            return
        now = self.now()
        for earlier in self.uses.get(refresh.fingerprint, ()):
            if earlier.fate == "answered" or earlier.frozen:
                continue
            by = self.host(earlier.by)
            if earlier.fate == "lost":
                self.judge_timing(host, earlier, refresh, record)
            elif by is host:
                raise Verdict(f"{host.name} sends {refresh.fingerprint} again, whose answer it has caught")
            elif not by.abandoned and now - max(by.unfit_at, earlier.began) > STRANDED:
                raise Verdict(
                    f"{host.name} sends {refresh.fingerprint}, whose answer {by.name} has had time to commit"
                )
            elif now - earlier.began < IN_DOUBT_HOLD:
                raise Verdict(f"{host.name} sends {refresh.fingerprint}, which {by.name} used a moment ago")
            elif not by.abandoned and not self.long_unfit(by):
                raise Verdict(
                    f"{host.name} sends {refresh.fingerprint}, whose answer {by.name} could not commit yet"
                )

    def long_unfit(self, by: Host) -> bool:
        """Tell whether a holder alone was out of reach for as long as others have to wait for it."""
        return by.busy_since == float("inf") or self.now() - by.busy_since < STRANDED

    def judge_timing(self, host: Host, earlier: Call, refresh: RefreshToken, record: Record | None) -> None:
        now, doubt = self.now(), self.kind.profile.in_doubt
        if self.steps_clocks:
            # What a daemon with a wrong clock believes of expiries and windows is its own truth.
            return
        if doubt is InDoubt.REPLAY_UNTIL_USED or record is None or record.access is None:
            return
        if doubt is InDoubt.REPLAY_WINDOW and now <= earlier.began + GRACE:
            return
        left = (record.access.expires_at or 0.0) - now
        if left > timing(Policy(), self.kind.profile, TTL).request_timeout + 12:
            raise Verdict(f"{host.name} sends {refresh.fingerprint} in doubt, {left:.0f} s before the end")

    def host(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def check(self) -> None:
        """Look at everything; called again and again."""
        self.check_pairs()
        for host in self.hosts:
            unfit = self.cannot_commit(host)
            if unfit:
                host.busy_since = float("inf")
            elif host.busy_since == float("inf"):
                host.busy_since = self.now()

    def check_pairs(self) -> None:
        if self.kind.profile.rotation is Rotation.NEVER:
            return
        record = self.record()
        known: set[str] = set()
        if record is not None:
            known |= record.spent | {orphan.refresh.fingerprint for orphan in record.orphans}
            known |= {record.refresh.fingerprint} if record.refresh else set()
        for host in self.hosts:
            known |= kept_in_escrow(host.directory)
        lost = self.caught - known
        if lost:
            raise Verdict(f"the pairs {sorted(lost)} are nowhere any more")


def kept_in_escrow(directory: Path) -> set[str]:
    """Name the refresh tokens in the answers that a `state_dir` keeps."""
    found = set()
    for entry in Escrow(directory).entries():
        if entry.answer is not None:
            with contextlib.suppress(ValueError, KeyError):
                found.add(fingerprint(json.loads(entry.answer.body)["refresh_token"]))
        if entry.base.refresh is not None:
            found.add(entry.base.refresh.fingerprint)
    return found


class Connection:
    """One daemon's way to the store."""

    kind = "memory"
    volatile = True

    def __init__(self, world: World, host: Host) -> None:
        self._world, self._host = world, host

    async def load(self, key: str) -> Held | None:
        world = self._world
        await world.port(self._host, "load")
        world.reach_store(self._host)
        if world.chance(0.01):
            await anyio.sleep(world.rng.uniform(0, 10))
        return await world.rows.load(key)

    async def write(self, key: str, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        world, host = self._world, self._host
        await world.port(host, "write")
        world.reach_store(host)
        if world.chance(0.03):
            await anyio.sleep(world.rng.uniform(0, 10))
        version = await world.rows.write(key, record, expected=expected, lease=lease)
        await world.port(host, "after the write")
        if world.chance(0.04):
            world.note(f"{host.name} does not learn that its write was made")
            raise StoreError("the reply was lost")
        return version


class Line:
    """One daemon's way to the provider."""

    uses_refresh_token = True
    endpoint = "https://provider.example"
    token_url = "https://provider.example/token"
    issuer = ""
    files: tuple[Path, ...] = ()

    def __init__(self, world: World, host: Host) -> None:
        self._world, self._host = world, host
        self.tell: Callable[[str], None] = silent

    def credentials_fingerprint(self) -> str:
        return "same"

    def client_id(self) -> str:
        return self._world.provider.config.client_id

    async def locate(self) -> None:
        """Its endpoint is known."""

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        world, host = self._world, self._host
        assert refresh is not None
        await world.port(host, "connecting")
        if world.chance(0.05):
            await anyio.sleep(send_timeout)
            raise NotSent("connection refused")
        if world.chance(0.1):
            await anyio.sleep(world.rng.uniform(0, send_timeout))
        gate.open()
        call = world.begin(host, refresh, world.record())
        try:
            if world.chance(0.01):
                call.frozen = True
                await anyio.sleep(world.rng.choice([5, 60, 400]))
            return await self._exchange(refresh, call)
        except BaseException:
            call.fate = "lost"
            raise

    async def _exchange(self, refresh: RefreshToken, call: Call) -> Answer:
        world, host = self._world, self._host
        await world.port(host, "sending")
        sent_at = host.clock.wall()
        config = world.provider.config
        form = {
            "grant_type": "refresh_token",
            "client_id": config.client_id,
            "client_secret": config.client_secret or "",
            "refresh_token": refresh.value,
        }
        world.note(f"{host.name} sends {refresh.fingerprint}")
        try:
            with anyio.fail_after(300):
                reply = await request_token(world.provider, form)
        except (Cut, TimeoutError):
            world.note(f"{host.name} gets no answer")
            raise NoAnswer("no answer came") from None
        await world.port(host, "receiving")
        headers = {name.lower(): value for name, value in reply.headers.items()}
        call.fate = self._fate(refresh, reply.status, reply.body)
        if call.fate == "answered" and reply.status == 200:
            # It was not replaced, so whatever was lost before was no rotation.
            world.uses[refresh.fingerprint].clear()
        world.note(f"{host.name} gets {reply.status}, {call.fate}")
        return Answer(reply.status, headers, reply.body, sent_at, host.clock.wall())

    def _fate(self, refresh: RefreshToken, status: int, body: bytes) -> str:
        if 300 <= status < 500 or status == 503:
            return "answered"
        try:
            members = json.loads(body)
        except ValueError:
            return "lost"
        if status != 200:
            return "lost"
        if "refresh_token" not in members:
            return "answered" if "access_token" in members else "lost"
        # Its successor takes its place: that one must not be lost from now on.
        self._world.caught.discard(refresh.fingerprint)
        self._world.caught.add(fingerprint(members["refresh_token"]))
        return "caught"


class Window(Shelf):
    """An output whose readers use what they find, at a provider that notices."""

    def __init__(self, world: World, host: Host) -> None:
        super().__init__()
        self._world, self._host = world, host

    async def publish(self, publication: Publication) -> bool:
        await self._world.port(self._host, "publish")
        written = await super().publish(publication)
        if written:
            self._world.provider.resource(f"Bearer {publication.access.value}")
        return written

    async def read_back(self) -> Holding:
        return await super().read_back()


class PocketSeed:
    """The operator's seed, the same one on every host."""

    id = "seed:pocket"

    def __init__(self, world: World) -> None:
        self._world = world

    async def read(self) -> Seeding | None:
        return Seeding(RefreshToken(self._world.first, self._world.now()))


async def live(world: World, host: Host) -> None:
    """Run one daemon in one place, again and again, for ever."""
    while True:
        escrow = Escrow(host.directory)
        escrow.prepare()
        host.events = []
        around = Surroundings(
            host.clock,
            cast("Store", Connection(world, host)),
            escrow,
            host.name,
            host.events.append,
            world.rng.random,
        )
        shelf = Window(world, host)
        shelf.publications = host.shelf.publications
        host.shelf = shelf
        setup = Setup(
            name="gmail",
            key=KEY,
            provider="sim",
            profile=world.kind.profile,
            policy=Policy(),
            grant=Line(world, host),
            outputs=(shelf,),
            seed=PocketSeed(world),
        )
        renewer = Renewer(setup, around)
        for entry in escrow.entries():
            renewer.recover(entry)
        scheduler = Scheduler(host.clock, Heartbeats(host.clock), Pulse(), workers=2)
        scheduler.add("gmail", renewer)
        host.renewer = renewer
        try:
            await scheduler.run()
        except BaseExceptionGroup as group:
            if group.split((Killed, trio.Cancelled))[1] is not None:
                raise
        host.renewer = None
        world.check()
        with anyio.CancelScope(shield=False):
            if world.chance(0.2) and len(world.hosts) < 8:
                host.abandoned = True
                world.note(f"{host.name} is gone for ever")
                host = world.new_host()
            await anyio.sleep(world.rng.choice([0.1, 1, 10, 60, 250]))
        world.note(f"{host.name} starts")


def random_fault(rng: random.Random) -> Fault:
    """Draw one thing for the provider to do wrong."""
    lost, seconds = rng.random() < 0.5, rng.choice([1.0, 20.0, 100.0])
    return rng.choice(
        [
            faults.latency(before=seconds),
            faults.latency(after=seconds),
            faults.reset(processed=lost),
            faults.close(processed=lost),
            faults.hold(processed=lost),
            faults.half(),
            faults.status(rng.choice([500, 502, 504]), processed=lost),
            faults.status(503, times=rng.choice([1, 5])),
            faults.status(429, retry_after=seconds),
            faults.html(processed=lost),
            faults.truncated(),
            faults.empty(),
            faults.expires_in(rng.choice([0, -1, 1, 5, "300", None, 10**18])),
            faults.without("expires_in"),
            faults.same_token(),
            faults.error(400, "temporarily_unavailable"),
            faults.error(401, "invalid_client"),
            faults.redirect("https://elsewhere.example/"),
        ]
    )


async def faulty_provider(world: World) -> None:
    """Let one of the next answers be wrong."""
    world.provider.add_fault(random_fault(world.rng))


async def store_outage(world: World) -> None:
    """Take the store away from everybody."""
    world.down_until = world.now() + world.rng.choice([1, 30, 300, 1500])
    world.note(f"the store is down until {world.down_until - EPOCH:.0f}")


async def partition(world: World) -> None:
    """Take the store away from one daemon."""
    host = world.rng.choice(world.hosts)
    host.cut_off_until = world.now() + world.rng.choice([5, 60, 200])
    world.note(f"{host.name} is cut off until {host.cut_off_until - EPOCH:.0f}")


async def suspension(world: World) -> None:
    """Put all machines to sleep: timers stand still, the world goes on."""
    world.suspended += world.rng.choice([10, 200])
    world.note("the machines were asleep")


async def consent(world: World) -> None:
    """Give a new refresh token, whatever is under way: always when the grant is dead, else now and then."""
    host, record = world.rng.choice(world.hosts), world.record()
    dead = record is not None and record.is_dead()
    if host.renewer is None or not (dead or world.rng.random() < 0.2):
        return
    value = world.provider.new_grant()
    with contextlib.suppress(SidecarError, Killed):
        await host.renewer.plant(Seeding(RefreshToken(value, host.clock.wall())), origin="command")
        world.note(f"{host.name} plants {fingerprint(value)}")


async def refusal(world: World) -> None:
    """Let an application say that its token is refused."""
    host = world.rng.choice(world.hosts)
    if host.renewer is not None and host.shelf.publications:
        host.renewer.refuse(host.shelf.publications[-1].access.fingerprint)


async def stepped_clock(world: World) -> None:
    """Set one machine's wall clock."""
    if world.steps_clocks:
        host = world.rng.choice(world.hosts)
        host.clock.wrong_by += world.rng.choice([-600, -60, -1, 1, 60, 600])
        world.note(f"{host.name}'s clock is wrong by {host.clock.wrong_by:.0f}")


TROUBLES = (
    *(4 * [faulty_provider]),
    store_outage,
    partition,
    partition,
    suspension,
    consent,
    consent,
    refusal,
    stepped_clock,
)


async def trouble(world: World) -> None:
    """Make things go wrong that concern more than one daemon."""
    while True:
        await anyio.sleep(world.rng.expovariate(1 / 40))
        await world.rng.choice(TROUBLES)(world)


async def watch(world: World) -> None:
    """Look at everything every few seconds, and count calls."""
    while True:
        world.check()
        await anyio.sleep(7)


def check_pace(world: World) -> None:
    """No loop may be hot, whatever happens."""
    requests = [record.at for record in world.provider.report().requests]
    for index, at in enumerate(requests):
        if index + 40 < len(requests) and requests[index + 40] < at + 60:
            raise Verdict(f"forty calls within a minute from {at - EPOCH:.0f}")
    world.requests, world.replays = len(requests), len(world.provider.replayed())


def check_rest(world: World) -> None:
    """With all faults gone, everything must be well, or truly dead."""
    record = world.record()
    assert record is not None
    alive = record.refresh is not None and world.provider.introspect(record.refresh.value)["active"]
    for host in world.hosts:
        if host.abandoned:
            continue
        assert host.renewer is not None
        view = next(event.view for event in reversed(host.events) if isinstance(event, TurnEnded))
        if alive and view.grant_state is not GrantState.OK:
            raise Verdict(f"{host.name} is {view.grant_state} ({view.reason}), though the grant lives")
        if not alive and view.grant_state is not GrantState.DEAD:
            raise Verdict(f"{host.name} is {view.grant_state}, though the grant is dead")
        if kept_in_escrow(host.directory):
            raise Verdict(f"{host.name} keeps what was committed")
        last = host.shelf.publications[-1].access if host.shelf.publications else None
        if alive and (last is None or last.seconds_left(world.now()) <= 0):
            raise Verdict(f"{host.name} shows an expired token")


async def readers_content(world: World) -> None:
    """While all is well, every reader always sees a token with `min_validity` left."""
    for _ in range(120):
        await anyio.sleep(10)
        record = world.record()
        assert record is not None
        if record.is_dead():
            return
        for host in world.hosts:
            if host.abandoned:
                continue
            last = host.shelf.publications[-1].access
            if last.seconds_left(world.now()) < 50 - 10:
                raise Verdict(f"{host.name} shows a token with {last.seconds_left(world.now()):.0f} s left")


@contextlib.asynccontextmanager
async def inhabited(world: World) -> AsyncIterator[None]:
    """Let every daemon live for the length of the block."""
    async with anyio.create_task_group() as tasks:
        for host in list(world.hosts):
            tasks.start_soon(live, world, host)
        tasks.start_soon(watch, world)
        yield
        tasks.cancel_scope.cancel()


async def history(world: World, troubled: float, quiet: float) -> None:
    """Live through trouble, then through peace, and be judged."""
    async with inhabited(world):
        with anyio.move_on_after(troubled):
            await trouble(world)
        world.calm = True
        world.provider.clear_faults()
        world.down_until = 0.0
        for host in world.hosts:
            host.cut_off_until = 0.0
            if world.steps_clocks:
                host.clock.wrong_by = 0.0
        world.note("peace")
        # A back-off that was written by a clock that was ahead lasts for so much longer.
        await anyio.sleep(quiet * (2 if world.steps_clocks else 1))
        check_rest(world)
        await readers_content(world)
        check_pace(world)


def run(
    seed: int,
    kind: str,
    *,
    replicas: int = 3,
    troubled: float = 3600.0,
    quiet: float = 3600.0,
    steps_clocks: bool = False,
) -> World:
    """Live one whole history; raises `Verdict`, with its last moments."""
    worlds: list[World] = []

    async def main(directory: str) -> None:
        world = World(seed, kind, Path(directory), replicas=replicas, steps_clocks=steps_clocks)
        worlds.append(world)
        await history(world, troubled, quiet)

    try:
        with tempfile.TemporaryDirectory(dir=MEMORY) as directory, loaded(seed):
            trio.run(main, directory, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as error:
        told = "\n".join(worlds[0].trace[-60:]) if worlds else ""
        raise Verdict(
            f"chaos.run({seed}, {kind!r}, steps_clocks={steps_clocks}):\n{told}\n{_blame(error)}"
        ) from error
    return worlds[0]


def _blame(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
