"""Many daemons on one store: what is done to them, and what their readers find meanwhile.

The promise is that a reader never finds less than `min_validity`. It is made where somebody can keep it, so a sample
that falls short is *excused* if at its time, or within the `SETTLING` seconds before,

- the file's own daemon was dead or stopped, or
- the store was away, or
- the attempt in the record was that of a dead or stopped daemon, or
- the grant was in doubt or dead: what made it so must then be a counted kill between sending and escrow.

Any other sample below the promise is a violation.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import asyncpg

from sidecar.errors import SidecarError
from sidecar.escrow import Stage
from sidecar.schedule import JITTER_WIDTH
from sidecar.testing import faults
from sidecar.testing.report import FamilyReport
from sidecar.tokens import decode_record
from tests.e2e.conftest import Daemon, wait_until
from tests.e2e.kubernetes import UNAVAILABLE, Hostile, Secrets
from tests.kube.fake import Fake

if TYPE_CHECKING:
    from sidecar.testing import Provider, Simulator
    from sidecar.tokens import Record
    from tests.e2e.conftest import MakeDaemon
    from tests.postgres import Server

SETTLING = 6.0
"""Seconds that a daemon may take to make good for a trouble that has ended: two of its looks at the store, on a busy
machine."""
READ_EVERY, LOOK_EVERY = 0.1, 0.25
"""Seconds between two samples of every file, and two looks at the record."""
AWAY = "its store was away"


class Place(Protocol):
    """Where a fleet keeps its record, and what can be done to it."""

    kind: str

    def used_by(self, daemon: Daemon) -> object:
        """Have a daemon keep its records there."""
        ...

    async def look(self) -> Record | None:
        """Return the record; None while the place is away, or holds none."""
        ...

    async def hang_up(self) -> None:
        """Look no more."""
        ...

    def record(self) -> Record:
        """Return the record as it is in the end."""
        ...

    def restart(self, pause: Callable[[], object], *, crash: bool) -> None:
        """Be away for as long as `pause` takes."""
        ...

    def torment(self, over: threading.Event) -> None:
        """Do to it what others may do, until it is over."""
        ...

    def done(self) -> str:
        """Tell what they did."""
        ...


class Database:
    """A Postgres of its own."""

    kind = "Postgres"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._database = server.database()
        self._connection: Any = None

    def used_by(self, daemon: Daemon) -> None:
        daemon.config |= {"store": self._server.url(self._database), "namespace": "fleet"}

    async def look(self) -> Record | None:
        try:
            if self._connection is None:
                self._connection = await self._server.connect(self._database)
            blob = await self._connection.fetchval("SELECT blob FROM token_sidecar_records", timeout=2)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            await self.hang_up()
            return None
        return decode_record(blob)

    async def hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def record(self) -> Record:
        [row] = self._server.sql("SELECT blob FROM token_sidecar_records", database=self._database)
        return decode_record(row["blob"])

    def restart(self, pause: Callable[[], object], *, crash: bool) -> None:
        self._server.stop("immediate" if crash else "fast")
        pause()
        self._server.start()

    def torment(self, over: threading.Event) -> None:
        """Nobody else writes there."""

    def done(self) -> str:
        return "nothing"


class Cluster:
    """A Kubernetes API server of its own, and others who write to the same Secret."""

    kind = "Kubernetes"
    hostile_pause = 0.05
    """Mean seconds between two of their deeds."""

    def __init__(self, secrets: Secrets, rng: random.Random) -> None:
        self._secrets = secrets
        self.hostile = Hostile(secrets, rng)

    def used_by(self, daemon: Daemon) -> None:
        self._secrets.used_by(daemon)

    async def look(self) -> Record | None:
        try:
            return await asyncio.to_thread(self._secrets.find)
        except UNAVAILABLE:
            return None

    async def hang_up(self) -> None:
        """It keeps no connection."""

    def record(self) -> Record:
        return self._secrets.record()

    def restart(self, pause: Callable[[], object], *, crash: bool) -> None:
        with self._secrets.away("stopped" if crash else "silent"):
            pause()

    def torment(self, over: threading.Event) -> None:
        self.hostile.run(over, self.hostile_pause)

    def done(self) -> str:
        done = self.hostile.done + Counter({"stale write of a daemon refused": self.races()})
        return ", ".join(f"{count} times {what}" for what, count in sorted(done.items()))

    def races(self) -> int:
        """Count the daemons' own writes that were refused because somebody had been faster; known of the fake."""
        cluster = self._secrets.cluster
        return cluster.counted("patch", status=409) if isinstance(cluster, Fake) else 0


class Plan(NamedTuple):
    """How large, for how long, and how bad. All spans are seconds."""

    daemons: int
    seconds: float
    life: float
    """Of an access token."""
    refresh_at: float
    min_validity: float
    lease: float
    request_timeout: float
    pause: float
    """Mean time between two strikes of one tormentor."""
    tormentors: int
    outages: int
    """Of the store."""

    @property
    def settings(self) -> dict[str, Any]:
        """The token's settings."""
        spans = ("min_validity", "lease", "request_timeout")
        return {"refresh_at": self.refresh_at, **{name: f"{getattr(self, name)}s" for name in spans}}

    @property
    def soonest(self) -> float:
        """The age at which a token is due at the earliest, jitter included."""
        share = self.life * self.refresh_at * (1 - JITTER_WIDTH)
        return min(share, self.life - self.min_validity - self.lease)

    @property
    def latest(self) -> float:
        """The age at which the last of many daemons would refresh it, two seconds for the way included."""
        return min(self.life * self.refresh_at, self.life - self.min_validity - self.lease) + 2


class Member:
    """One daemon of the fleet."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.lock = threading.Lock()
        """Held by whoever does something to it."""
        self.down = True
        self.up_since = 0.0

    @contextmanager
    def struck(self) -> Iterator[None]:
        """Count it as dead or stopped until the end of the block."""
        self.down = True
        yield
        self.up_since, self.down = time.monotonic(), False

    @property
    def well(self) -> bool:
        """Whether it runs, and has run for long enough to have caught up."""
        return not self.down and time.monotonic() - self.up_since > SETTLING

    @property
    def instance(self) -> str:
        """The id by which it signs its attempts."""
        return (self.daemon.state_dir / "instance").read_text(encoding="ascii").strip()

    def start(self) -> None:
        """Start it and wait until it serves, well or not."""
        self.daemon.launch()
        self.daemon.wait_until(self._serves, "it serves", patience=60)

    def _serves(self) -> bool:
        with suppress(OSError):
            return bool(self.daemon.get("/livez").status)
        return False

    def token(self) -> str | None:
        """Return the access token that a reader finds."""
        with suppress(FileNotFoundError):
            return self.daemon.published()
        return None


@dataclass
class Tally:
    """What was done, counted."""

    strikes: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    """How far the attempt had come that was under way at a kill."""
    sent: set[str] = field(default_factory=set)
    """Fingerprints of the refresh tokens that a killed daemon had sent, and had no answer to in escrow."""
    frozen_in_gate: int = 0
    """Daemons that were stopped when they had passed the gate, and the provider had seen nothing (W5)."""
    consents: int = 0


@dataclass
class Seen:
    """What readers found."""

    samples: int = 0
    excused: Counter[str] = field(default_factory=Counter)
    """Samples below the promise, by their excuse."""
    lowest: float = float("inf")
    """Least validity without an excuse."""
    lowest_excused: float = float("inf")
    violations: list[str] = field(default_factory=list)
    doubted: set[str] = field(default_factory=set)
    """Fingerprints that the record called in doubt."""
    longest_gap: float = 0.0
    """Between two samples."""


class Readers:
    """Read every daemon's file again and again, and the record."""

    def __init__(self, fleet: Fleet) -> None:
        self.seen = Seen()
        self.record: Record | None = None
        self._fleet = fleet
        self._troubled_at = dict.fromkeys((AWAY, "its holder was struck", "in doubt"), -1e9)
        self._instances: dict[str, Member] = {}

    async def run(self, over: threading.Event) -> None:
        """Read until it is over."""
        looked_at = read_at = time.monotonic()
        while not over.is_set():
            if time.monotonic() - looked_at >= LOOK_EVERY:
                looked_at = time.monotonic()
                await self._look()
            self._read()
            self.seen.longest_gap = max(self.seen.longest_gap, time.monotonic() - read_at)
            read_at = time.monotonic()
            await asyncio.sleep(READ_EVERY)
        await self._fleet.place.hang_up()

    async def _look(self) -> None:
        record = await self._fleet.place.look()
        if record is None:
            self._trouble(AWAY)
        else:
            self._judge_record(record)

    def _judge_record(self, record: Record) -> None:
        self.record, attempt = record, record.attempt
        if attempt is not None:
            if attempt.in_doubt_since is not None:
                self.seen.doubted.add(attempt.fingerprint)
                self._trouble("in doubt")
            if not self._holder(attempt.instance).well:
                self._trouble("its holder was struck")
        if record.is_dead():
            self._trouble("in doubt")

    def _holder(self, instance: str) -> Member:
        if instance not in self._instances:
            self._instances = {member.instance: member for member in self._fleet.members}
        return self._instances[instance]

    def _trouble(self, what: str) -> None:
        self._troubled_at[what] = time.monotonic()

    def _read(self) -> None:
        ends = {
            token["token"]: token["expires_at"] for token in self._fleet.provider.snapshot()["access_tokens"]
        }
        for number, member in enumerate(self._fleet.members):
            validity = max(0.0, ends.get(member.token() or "", 0.0) - time.time())
            self._judge(number, validity, self._excuse(member))

    def _judge(self, number: int, validity: float, excuse: str) -> None:
        seen, promise = self.seen, self._fleet.plan.min_validity
        seen.samples += 1
        if not excuse:
            seen.lowest = min(seen.lowest, validity)
        else:
            seen.lowest_excused = min(seen.lowest_excused, validity)
        if validity < promise and excuse:
            seen.excused[excuse] += 1
        elif validity < promise:
            at = time.strftime("%H:%M:%S")
            seen.violations.append(f"{at}: daemon {number}'s readers have {validity:.1f} s left")

    def _excuse(self, member: Member) -> str:
        if not member.well:
            return "its daemon was struck"
        now = time.monotonic()
        return next((what for what, at in self._troubled_at.items() if now - at < SETTLING), "")


class Fleet:
    """All of them, and what is done to them."""

    def __init__(
        self,
        plan: Plan,
        make_daemon: MakeDaemon,
        simulator: Simulator,
        place: Place,
        rng: random.Random,
    ) -> None:
        self.plan = plan
        self.place = place
        self.tally = Tally()
        self.readers = Readers(self)
        self.members = [Member(make_daemon()) for _ in range(plan.daemons)]
        self._simulator = simulator
        self._rng = rng
        self._over = threading.Event()
        self._closed = threading.Event()
        self.record: Record | None = None
        """As it is in the end."""
        self._graves: dict[str, str] = {}
        """The new consent for each refresh token that died."""

    @property
    def provider(self) -> Provider:
        """Whose grant it is."""
        return self._simulator.provider

    def run(self) -> None:
        """Start them, torment them for as long as planned, and let them come to rest."""
        self._start()
        threads = ThreadPoolExecutor(self.plan.tormentors + 2)
        reading = threads.submit(lambda: asyncio.run(self.readers.run(self._closed)))
        seeds = [self._rng.random() for _ in range(self.plan.tormentors)]
        tormenting = [
            threads.submit(self._torment, random.Random(seed), hunter=number == 0)  # noqa: S311 - no secrets
            for number, seed in enumerate(seeds)
        ]
        tormenting.append(threads.submit(self.place.torment, self._over))
        try:
            self._conduct([reading, *tormenting])
            self._over.set()
            for tormentor in tormenting:
                tormentor.result(timeout=120)
            self._come_to_rest()
        finally:
            self._over.set()
            self._closed.set()
            threads.shutdown()
        reading.result()
        for member in self.members:
            assert member.daemon.stop(patience=60) == 0, member.daemon.text()
        self.record = self.place.record()

    def _start(self) -> None:
        first, *others = (member.daemon for member in self.members)
        for daemon in (first, *others):
            self.place.used_by(daemon)
        first.add(self._simulator, **self.plan.settings)
        self.provider.add_fault(
            *(
                faults.latency(before=self._rng.uniform(0, 0.1), after=self._rng.uniform(0, 0.1))
                for _ in range(1000)
            )
        )
        self._lift_off(self.members[0])
        for member in self.members[1:]:
            member.daemon.join(first)
        with ThreadPoolExecutor(4) as threads:
            for _ in threads.map(self._lift_off, self.members[1:]):
                pass

    def _lift_off(self, member: Member) -> None:
        with member.struck():
            member.daemon.launch()
            member.daemon.wait_until(lambda: member.daemon.answers("/startupz"), "it is ready", patience=60)

    def _conduct(self, others: list[Future[None]]) -> None:
        """See to the store's outages and to new consents, until the time is up or another thread has failed."""
        began = time.monotonic()
        gap = self.plan.seconds / (self.plan.outages + 1)
        outages = iter([began + gap * (number + 1) for number in range(self.plan.outages)])
        next_outage = next(outages, float("inf"))
        while time.monotonic() < began + self.plan.seconds:
            for other in others:
                if other.done():
                    other.result()
            self._consent()
            if time.monotonic() > next_outage:
                self._restart_store()
                next_outage = next(outages, float("inf"))
            self._over.wait(LOOK_EVERY)

    def _come_to_rest(self) -> None:
        so_far = self._rotated()

        def calm() -> bool:
            self._consent()
            record = self.readers.record
            if record is None or record.access is None:
                return False
            # The provider's count, since what the readers know of the record is a moment old.
            landed = record.generation == sum(family.refreshes for family in self.living())
            newest = record.access.value
            return self._rotated() > so_far and landed and all(one.token() == newest for one in self.members)

        wait_until(calm, what="a refresh that reaches every file", patience=3 * self.plan.life + 60)

    def living(self) -> list[FamilyReport]:
        """Return what the provider knows of the grants that live."""
        return [family for family in self.provider.report().families if family.killed is None]

    def _rotated(self) -> int:
        return sum(request.outcome == "rotated" for request in self.provider.report().requests)

    # What is done to them

    def _torment(self, rng: random.Random, *, hunter: bool) -> None:
        """Strike at random. A hunter waits for a request as well, and strikes whoever sent it."""
        ways: list[Callable[[Member, random.Random], None]] = []
        while not self._over.is_set():
            prey = self._ambush(rng) if hunter else self._lurk(rng)
            if prey is None or not prey.lock.acquire(blocking=False):
                continue
            try:
                # From a bag, so that even a short run has some of each.
                ways = ways or rng.sample(
                    [self._kill, self._kill, self._freeze, self._freeze, self._restart], 5
                )
                ways.pop()(prey, rng)
            finally:
                prey.lock.release()

    def _lurk(self, rng: random.Random) -> Member | None:
        self._over.wait(rng.expovariate(1 / self.plan.pause))
        return rng.choice(self.members) if not self._over.is_set() else None

    def _ambush(self, rng: random.Random) -> Member | None:
        so_far = len(self.provider.report().requests)
        came = self.provider.wait_until(
            lambda: len(self.provider.report().requests) > so_far or self._over.is_set(), timeout=1.0
        )
        if not came or self._over.is_set() or rng.random() < 0.4:
            return None
        armed = [member for member in self.members if any(member.daemon.state_dir.glob("escrow/*"))]
        self._over.wait(rng.uniform(0, 0.2))
        return rng.choice(armed) if armed else None

    def _kill(self, member: Member, rng: random.Random) -> None:
        """SIGKILL, look at what it left, and a start in place."""
        with member.struck():
            member.daemon.kill()
            entry = member.daemon.escrowed().get("gmail")
            self.tally.strikes["kills"] += 1
            if entry is not None:
                self.tally.found[entry.stage.name.lower()] += 1
                if entry.stage is Stage.SENT:
                    self.tally.sent.add(entry.attempt.fingerprint)
            self._over.wait(rng.uniform(0, self.plan.lease))
            member.start()

    def _freeze(self, member: Member, rng: random.Random) -> None:
        """SIGSTOP, and SIGCONT before or after its lease has ended."""
        with member.struck():
            member.daemon.pause()
            entry = member.daemon.escrowed().get("gmail")
            self.tally.strikes["stops"] += 1
            if entry is not None and entry.stage is Stage.SENT:
                sent = entry.attempt.fingerprint
                seen = any(request.fingerprint == sent for request in self.provider.report().requests)
                self.tally.frozen_in_gate += not seen
            self._over.wait(rng.uniform(0.1, 2 * self.plan.lease))
            member.daemon.resume()

    def _restart(self, member: Member, rng: random.Random) -> None:
        """SIGTERM and a start."""
        with member.struck():
            assert member.daemon.stop(patience=60) == 0, member.daemon.text()
            self.tally.strikes["restarts"] += 1
            self._over.wait(rng.uniform(0, self.plan.lease))
            member.start()

    def _restart_store(self) -> None:
        """Restart it, every other time as a crash does, and in the middle of a refresh if there is one soon."""
        self.provider.wait_until(lambda: self.provider.report().in_flight > 0, timeout=self.plan.life)
        crash = self.tally.strikes["outages"] % 2 == 0
        self.place.restart(lambda: self._over.wait(self._rng.uniform(0, 2)), crash=crash)
        self.tally.strikes["outages"] += 1

    def _consent(self) -> None:
        """Do what only a human can do when a grant has died."""
        record = self.readers.record
        if record is None or record.dead is None or not record.is_dead():
            return
        seed = self._graves.get(record.dead.fingerprint)
        if seed == "":
            return
        seed = self._graves[record.dead.fingerprint] = seed or self.provider.new_grant()
        for member in self.members:
            if member.lock.acquire(blocking=False):
                try:
                    member.daemon.seed(seed)
                except SidecarError:
                    continue
                finally:
                    member.lock.release()
                self._graves[record.dead.fingerprint] = ""
                self.tally.consents += 1
                return


class Outcome(NamedTuple):
    """What the provider says of the whole run, beside the plan."""

    refreshes: int
    replays: set[str]
    """Fingerprints of refresh tokens that were used again."""
    unanswered: set[str]
    """Fingerprints of requests that brought no new pair."""
    intervals: list[float]
    """Seconds from one refresh of a family to its next."""


def outcome(provider: Provider) -> Outcome:
    """Sum up what the provider saw."""
    report = provider.report()
    family = {token.fingerprint: token.family for token in report.tokens}
    rotated = [request for request in report.requests if request.outcome == "rotated"]
    by_family: dict[str, list[float]] = {}
    for request in rotated:
        by_family.setdefault(family[request.fingerprint or ""], []).append(request.at)
    return Outcome(
        refreshes=len(rotated),
        replays={*report.replayed, *report.reused},
        unanswered={request.fingerprint or "" for request in report.requests if request.outcome != "rotated"},
        intervals=[after - before for at in by_family.values() for before, after in itertools.pairwise(at)],
    )


def figures(fleet: Fleet) -> str:
    """Write down what was done and what came of it."""
    plan, tally, seen, came = fleet.plan, fleet.tally, fleet.readers.seen, outcome(fleet.provider)
    strikes, found = tally.strikes, tally.found
    late = sum(interval > plan.latest for interval in came.intervals)
    excused = ", ".join(f"{count} because {what}" for what, count in seen.excused.most_common()) or "none"
    ways = ", ".join(f"{found[stage.name.lower()]} {stage.name.lower()}" for stage in Stage)
    return (
        f"{plan.daemons} daemons, {plan.seconds:g} s, tokens of {plan.life:g} s, min_validity {plan.min_validity:g} s\n"
        f"done: {strikes['kills']} kills, {strikes['stops']} stops, {strikes['restarts']} restarts, "
        f"{strikes['outages']} outages of {fleet.place.kind}\n"
        f"done to the record by others: {fleet.place.done()}\n"
        f"attempts under way at a kill: {ways}; stopped between gate and sending: {tally.frozen_in_gate}\n"
        f"refreshes: {came.refreshes}, the first of {tally.consents + 1} consents and one in each of "
        f"{len(came.intervals)} windows, {min(came.intervals, default=0):.1f} s to "
        f"{max(came.intervals, default=0):.1f} s apart, where one is due after {plan.soonest:.1f} s to "
        f"{plan.latest:.1f} s; {late} of them late\n"
        f"in doubt by a kill: {len(tally.sent)}; refresh tokens used again: {len(came.replays)}; "
        f"new consents: {tally.consents}\n"
        f"lowest validity: {seen.lowest:.1f} s ({seen.lowest_excused:.1f} s with an excuse) in {seen.samples} "
        f"samples, {seen.longest_gap:.1f} s apart at most; excused below the promise: {excused}; "
        f"violations: {len(seen.violations)}"
    )
