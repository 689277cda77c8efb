"""A database that is away, does not answer, or dies in the middle of a commit: nothing is sent twice or lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest

from sidecar.escrow import Stage
from sidecar.testing import faults
from sidecar.tokens import decode_record
from tests import postgres
from tests.e2e.conftest import Daemon, wait_until
from tests.e2e.wire import Wire

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from sidecar.tokens import Record
    from tests.e2e.conftest import MakeDaemon, MakeSimulator
    from tests.postgres import Server

Property = Callable[[str, object], None]

SECONDS = 15.0
"""Within so many after its return everything is well: a call that hangs takes 5 s, the pause after it 2 s, and the
machine may be busy."""


class Length(NamedTuple):
    """How long the database is away and its tokens live, in seconds; a token is due long before either ends."""

    outage: float
    life: float
    refresh_at: float


SHORT = Length(outage=16, life=60, refresh_at=0.1)
LONG = Length(
    outage=60 * min(10.0, float(os.environ.get("TOKEN_SIDECAR_SOAK_MINUTES", "10"))), life=400, refresh_at=0.1
)


Case = Callable[["Daemon", "Simulator", "Remote", str, Length], str]


class Remote(Protocol):
    """Where one token's record is, with a network in between."""

    def away(self, way: str) -> AbstractContextManager[None]:
        """Be out of reach for the length of the block."""
        ...

    def record(self) -> Record:
        """Return the record as it is there."""
        ...


class Place:
    """A database, the network to it, and the ways in which it can be out of reach."""

    def __init__(self, server: Server, database: str, wire: Wire) -> None:
        self.server = server
        self.database = database
        self._wire = wire

    @property
    def url(self) -> str:
        """Where a daemon finds it, by way of the network."""
        return self.server.url(self.database).replace(f":{self.server.port}/", f":{self._wire.port}/")

    def away(self, way: str) -> AbstractContextManager[None]:
        """Be out of reach for the length of the block."""
        return {"stopped": self._stopped, "silent": self._wire.silent, "mute": self._muted}[way]()

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()

    @contextmanager
    def _muted(self) -> Iterator[None]:
        self._wire.mute = True
        try:
            yield
        finally:
            self._wire.mute = False

    def record(self) -> Record:
        """Return the only record, as the database has it."""
        [row] = self.server.sql("SELECT blob FROM token_sidecar_records", database=self.database)
        return decode_record(row["blob"])

    def wait_for(self, event: str) -> None:
        """Return when a statement in it waits for this event, see the manual on pg_stat_activity."""
        found = (
            f"SELECT 1 FROM pg_stat_activity WHERE datname = '{self.database}' "  # noqa: S608 - names of ours
            f"AND '{event}' IN (wait_event, wait_event_type)"
        )
        wait_until(lambda: self.server.sql(found), what=f"a statement waits for {event}")

    @contextmanager
    def crash(self, threads: ThreadPoolExecutor, *, committed: bool) -> Iterator[None]:
        """Crash at the next write, and recover at the end of the block; `committed`: it is on disk by then."""
        if committed:
            # It waits for a standby that does not exist, with everything done but the reply.
            self.server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            self.server.reload()
        else:
            locked = "SELECT pg_sleep(60) FROM (SELECT 1 FROM token_sidecar_records FOR UPDATE) AS locked"
            threads.submit(self.server.sql, locked, database=self.database)
            self.wait_for("PgSleep")
        try:
            self.wait_for("SyncRep" if committed else "Lock")
        finally:
            # In force from the next start on.
            self.server.sql("ALTER SYSTEM RESET synchronous_standby_names")
            self.server.stop("immediate")
        try:
            yield
        finally:
            self.server.start()


@contextmanager
def place_on(server: Server, database: str) -> Iterator[Place]:
    """Put a network before a database."""
    wire = Wire(server.port)
    try:
        yield Place(server, database, wire)
    finally:
        wire.close()


def on(place: Place, daemon: Daemon) -> Daemon:
    """Have a daemon keep its records there."""
    daemon.config |= {"store": place.url, "namespace": "outages"}
    return daemon


@pytest.fixture
def place(server: Server, database: str) -> Iterator[Place]:
    """Give an empty database behind a network."""
    with place_on(server, database) as place:
        yield place


@pytest.fixture
def begun(daemon: Daemon, place: Place) -> Daemon:
    """Give a daemon on that database."""
    return on(place, daemon)


def calls(simulator: Simulator) -> int:
    """Count the requests so far."""
    return len(simulator.provider.report().requests)


def pass_until(moment: float) -> None:
    """Return at a moment (Unix seconds): it is the passing of time that is tried here."""
    wait_until(lambda: time.time() >= moment, what="time passes", patience=moment - time.time() + 20)


# It goes before the lease


@pytest.mark.parametrize("way", ["stopped", "silent"])
def test_no_lease_no_call(
    begun: Daemon, make_simulator: MakeSimulator, place: Place, way: str, record_property: Property
) -> None:
    """While the database is away nobody is called, readers keep their token; the refresh follows its return."""
    record_property(
        "figures", be_away_before_the_lease(begun, make_simulator(access_ttl=SHORT.life), place, way, SHORT)
    )


def be_away_before_the_lease(
    daemon: Daemon, simulator: Simulator, place: Remote, way: str, length: Length
) -> str:
    """Take the database away from a fresh token on, and bring it back when one has long been due."""
    daemon.add(simulator, refresh_at=length.refresh_at)
    daemon.start()
    first = daemon.published()
    access = place.record().access
    assert access is not None
    assert access.expires_at is not None
    with place.away(way):
        began = time.time()
        daemon.wait_until(
            lambda: "the store " in daemon.status()["reason"],
            "it misses its store",
            patience=length.life,
        )
        pass_until(min(began + length.outage, access.expires_at - 2))
        assert daemon.published() == first
        assert simulator.provider.is_live(first)
        assert daemon.answers("/readyz")
        pass_until(began + length.outage)
        assert calls(simulator) == 1
        assert daemon.published() == first
    back = time.time()
    daemon.wait_until(lambda: calls(simulator) == 2, "it is refreshed", patience=SECONDS)
    followed = simulator.provider.report().requests[1].at - back
    daemon.wait_until(lambda: daemon.published() != first and daemon.answers("/readyz"), "readers have it")
    assert simulator.provider.is_live(daemon.published())
    assert daemon.stop() == 0
    assert simulator.provider.reused() == []
    return f"away for {back - began:.0f} s; refreshed {followed:.1f} s after its return"


# It goes between answer and commit


@pytest.mark.parametrize("way", ["stopped", "silent", "mute"])
def test_a_pair_outlives_outage_and_process(
    begun: Daemon, simulator: Simulator, place: Place, way: str, record_property: Property
) -> None:
    """What was answered while the database was gone is published, outlives SIGTERM and SIGKILL, and is committed."""
    record_property("figures", be_away_before_the_commit(begun, simulator, place, way, SHORT))


def be_away_before_the_commit(
    daemon: Daemon, simulator: Simulator, place: Remote, way: str, length: Length
) -> str:
    """Take the database away while a request is under way, and end the daemon twice before bringing it back."""
    daemon.add(simulator)
    simulator.provider.add_fault(faults.latency(before=4, skip=1))
    daemon.start()
    first = daemon.published()
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(daemon.control.refresh, "gmail")
        assert simulator.provider.wait_until(lambda: simulator.provider.report().in_flight == 1, timeout=20)
        with place.away(way):
            began = time.time()
            assert simulator.provider.report().in_flight == 1, "the database went too late for this test"
            daemon.wait_until(lambda: daemon.published() != first, "readers have the new token")
            assert asked.result().refreshed
            newest = daemon.published()
            assert simulator.provider.is_live(newest)
            daemon.wait_until(lambda: daemon.status()["unpersisted"], "it says so")
            hold_back_sigterm(daemon, until=time.time() + min(4.0, length.outage / 4))

            daemon.kill()
            assert daemon.escrowed()["gmail"].stage is Stage.ANSWERED
            daemon.output().unlink()
            daemon.start(probe="/livez")

            daemon.wait_until(daemon.output().exists, "it is published from escrow")
            assert daemon.published() == newest
            state = daemon.status()
            assert (state["generation"], state["unpersisted"]) == (2, True)
            pass_until(began + length.outage)
            assert daemon.escrowed()["gmail"].stage is Stage.ANSWERED
    back = time.time()
    daemon.wait_until(lambda: not daemon.status()["unpersisted"], "it is committed", patience=SECONDS)
    landed = time.time() - back
    record = place.record()
    assert (record.generation, record.attempt) == (2, None)
    assert record.access is not None
    assert record.access.value == newest
    assert calls(simulator) == 2
    assert daemon.control.refresh("gmail").refreshed
    assert daemon.stop() == 0
    assert daemon.escrowed() == {}
    assert place.record().generation == 3
    assert simulator.provider.reused() == []
    return f"away for {back - began:.0f} s; the pair was there {landed:.1f} s after its return"


def hold_back_sigterm(daemon: Daemon, *, until: float) -> None:
    """Ask it to end, and see that it does not, because it holds what nobody else has."""
    daemon.signal(signal.SIGTERM)
    daemon.wait_until(lambda: "stopping on SIGTERM" in daemon.text(), "the signal has arrived")
    pass_until(until)
    assert daemon.running.poll() is None
    assert daemon.answers("/livez")


# For long


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_ten_minutes_away(
    make_daemon: MakeDaemon, make_simulator: MakeSimulator, record_property: Property
) -> None:
    """The same for ten minutes, in which the first token dies; all at once, each with a server of its own."""

    def live(case: Case, life: float, way: str) -> str:
        with postgres.running() as server, place_on(server, server.database()) as place:
            daemon = on(place, make_daemon())
            figure = case(daemon, make_simulator(access_ttl=life), place, way, LONG)
            return f"{case.__name__}, {way}: {figure}"

    cases: list[tuple[Case, float, str]] = [
        *((be_away_before_the_lease, LONG.life, way) for way in ("stopped", "silent")),
        *((be_away_before_the_commit, 3600.0, way) for way in ("stopped", "silent", "mute")),
    ]
    with ThreadPoolExecutor(len(cases)) as threads:
        record_property("figures", "\n".join(threads.map(live, *zip(*cases, strict=True))))


# It dies in the middle of a commit


@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed"])
@pytest.mark.parametrize("committed", [False, True], ids=["undone", "done"])
def test_a_crash_in_the_middle_of_a_commit(
    begun: Daemon, simulator: Simulator, place: Place, *, committed: bool, killed: bool
) -> None:
    """Whether the server that crashes has the commit afterwards or not: the record comes to hold the pair, once."""
    daemon = begun
    daemon.add(simulator, lease="30s")
    simulator.provider.add_fault(faults.latency(before=4, skip=1))
    daemon.start()
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(daemon.control.refresh, "gmail")
        assert simulator.provider.wait_until(lambda: simulator.provider.report().in_flight == 1, timeout=20)
        with place.crash(threads, committed=committed):
            if killed:
                daemon.kill()
                assert daemon.escrowed()["gmail"].stage is Stage.ANSWERED
        if killed:
            assert place.record().generation == (2 if committed else 1)
            daemon.start(probe="/livez")
        else:
            assert asked.result().refreshed
    daemon.wait_until(lambda: place.record().generation == 2, "it is committed", patience=SECONDS)
    daemon.wait_until(lambda: daemon.status()["grant_state"] == "ok", "it is well", patience=SECONDS)
    assert daemon.escrowed() == {}
    gained = place.record().access
    assert gained is not None
    daemon.wait_until(lambda: daemon.published() == gained.value, "readers have it")
    assert calls(simulator) == 2
    assert daemon.control.refresh("gmail").refreshed
    assert daemon.stop() == 0
    assert place.record().generation == 3
    assert simulator.provider.reused() == []
