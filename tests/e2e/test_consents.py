"""New consents while a request is under way: the newest one wins, and nothing that came of the older is thrown away."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import httpx2
import pytest

from sidecar.errors import HumanNeeded, SidecarError
from sidecar.testing import faults
from sidecar.testing.report import Fate
from sidecar.tokens import Record, decode_record, fingerprint
from tests.e2e.conftest import Daemon, MakeDaemon, login

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.postgres import Server

KEY = "shared/gmail"
ANSWER_AFTER = 5.0
"""Seconds for which the provider keeps an answer back: longer than anything takes that is done meanwhile."""


class Site:
    """A store of one kind, and the daemons on it."""

    def __init__(self, kind: str, make_daemon: MakeDaemon, server: Server, database: str) -> None:
        self.kind, self._make, self._server, self._database = kind, make_daemon, server, database
        self._url = server.url(database) if kind == "postgres" else ""

    def daemon(self) -> Daemon:
        """Make a daemon on this store."""
        made = self._make()
        self._url = self._url or f"sqlite://{made.store}"
        made.config |= {"store": self._url, "namespace": "shared"}
        return made

    def replica(self, first: Daemon) -> Daemon:
        """Make another daemon of the same token, with a seed file of its own that is not there yet."""
        made = self.daemon()
        made.config["tokens"] = json.loads(json.dumps(first.config["tokens"]))
        outputs = [{"file": str(made.output()), "format": "gmail-sdk"}]
        made.change(outputs=outputs, seed=str(made.folder / "gmail.seed"))
        return made

    def stored(self) -> Record:
        """Return the token's record."""
        statement = f"SELECT blob FROM {{}} WHERE key = '{KEY}'"  # noqa: S608 - nothing in it comes from elsewhere
        if self.kind == "postgres":
            rows = self._server.sql(statement.format("token_sidecar_records"), database=self._database)
        else:
            with closing(sqlite3.connect(self._url.removeprefix("sqlite://"), timeout=20)) as connection:
                rows = connection.execute(statement.format("records")).fetchall()
        return decode_record(rows[0][0])


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, make_daemon: MakeDaemon) -> Site:
    """A store that is empty."""
    if request.param == "sqlite":
        return Site("sqlite", make_daemon, request.getfixturevalue("server"), "")
    return Site("postgres", make_daemon, *(request.getfixturevalue(name) for name in ("server", "database")))


@contextmanager
def in_flight(daemon: Daemon, simulator: Simulator) -> Iterator[None]:
    """Do something while the provider has processed a refresh and its answer has not come."""
    provider = simulator.provider
    provider.add_fault(faults.latency(after=ANSWER_AFTER))
    before = len(provider.report().requests)
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(daemon.control.refresh, "gmail")
        assert provider.wait_until(lambda: len(provider.report().requests) > before, timeout=20)
        yield
        assert provider.report().requests[before].fate is Fate.PENDING, (
            "the answer came too early for this test"
        )
        asked.exception()


def put_seed(daemon: Daemon, content: str) -> None:
    """Write a seed file as an operator does: in one step."""
    path = daemon.folder / "gmail.seed"
    fresh = path.with_suffix(".new")
    fresh.write_text(content, encoding="utf-8")
    fresh.chmod(0o600)
    fresh.rename(path)


def settled(site: Site, daemon: Daemon, simulator: Simulator, seed: str) -> Record:
    """Wait until the lineage of this seed was refreshed and published; make sure that nothing was used twice."""

    def there() -> bool:
        record = site.stored()
        return (
            fingerprint(seed) in record.seeds
            and record.generation >= 1
            and record.attempt is None
            and record.access is not None
            and daemon.published() == record.access.value
        )

    daemon.wait_until(there, "the newest consent is in use", patience=40)
    assert daemon.status()["grant_state"] == "ok"
    assert simulator.provider.is_live(daemon.published())
    assert simulator.provider.reused() == []
    assert simulator.provider.uses(seed) == 1
    return site.stored()


def orphans(record: Record) -> set[str]:
    """Name what is kept among the orphans."""
    return {orphan.refresh.fingerprint for orphan in record.orphans}


def answered(simulator: Simulator) -> bool:
    """Tell whether every answer was taken."""
    return all(request.fate is Fate.ANSWERED for request in simulator.provider.report().requests)


def browse(url: str) -> None:
    """Do what a user's browser does."""
    with httpx2.Client(follow_redirects=True, timeout=20) as browser:
        page = browser.get(url)
    assert (page.status_code, "It worked" in page.text) == (200, True)


def test_a_login_revives_every_replica(site: Site, simulator: Simulator) -> None:
    """One command beside one daemon: all of them leave the dead state within seconds, and nobody is restarted."""
    first = site.daemon()
    first.add(simulator, profile={"authorization_url": f"{simulator.url}/authorize"}, on_dead="report")
    first.start()
    second = site.replica(first).start()
    simulator.provider.kill()
    with pytest.raises(HumanNeeded):
        first.control.refresh("gmail")
    for daemon in (first, second):
        daemon.wait_until(lambda daemon=daemon: daemon.status()["grant_state"] == "dead", "it is dead")  # type: ignore[misc]
    calls = len(simulator.provider.report().requests)
    with login(second.path) as url:
        browse(url)
    came = site.stored().access
    assert came is not None
    began = time.monotonic()
    for daemon in (first, second):
        daemon.wait_until(
            lambda daemon=daemon: (  # type: ignore[misc]
                daemon.published() == came.value and daemon.status()["grant_state"] == "ok"
            ),
            "it has what the consent brought",
        )
    assert time.monotonic() - began < 10
    # The exchange of the code, and nothing else.
    assert len(simulator.provider.report().requests) == calls + 1
    assert simulator.provider.is_live(came.value)


def by_command(daemon: Daemon, fresh: str) -> None:
    """Give a seed over the control socket."""
    daemon.seed(fresh)


def by_file(daemon: Daemon, fresh: str) -> None:
    """Give a seed as a changed file."""
    put_seed(daemon, json.dumps({"refresh_token": fresh}))


@pytest.mark.parametrize("give", [by_command, by_file])
def test_a_seed_during_a_request(
    site: Site, simulator: Simulator, give: Callable[[Daemon, str], None]
) -> None:
    """The new consent wins; the answer is seen home, and the pair that it brought is kept among the orphans."""
    daemon = site.daemon()
    daemon.add(simulator)
    daemon.start()
    old = site.stored()
    fresh = simulator.provider.new_grant()
    with in_flight(daemon, simulator):
        give(daemon, fresh)
        if give is by_command:
            assert fingerprint(fresh) in site.stored().seeds
    record = settled(site, daemon, simulator, fresh)
    assert answered(simulator)
    assert old.refresh is not None
    assert old.refresh.fingerprint in record.spent
    if give is by_command:
        assert len(orphans(record)) == 1
        assert not orphans(record) & record.spent
    else:
        # The file is looked at when the turn is over: the pair had its place in the record by then.
        assert old.lineage != record.lineage
    assert daemon.stop() == 0


def test_a_reload_during_a_request(site: Site, simulator: Simulator) -> None:
    """A changed configuration waits for the answer of the old one; nothing is cancelled, nothing sent twice."""
    daemon = site.daemon()
    seed = daemon.add(simulator)
    daemon.start()
    moved = daemon.out / "moved.json"
    with in_flight(daemon, simulator):
        daemon.change(outputs=[{"file": str(moved), "format": "gmail-sdk"}], min_interval="2s")
        daemon.write_config()
        daemon.control.reload()
    daemon.wait_until(moved.exists, "it is published to the new place")
    record = site.stored()
    assert (record.generation, record.attempt, answered(simulator)) == (2, None, True)
    assert record.access is not None
    assert json.loads(moved.read_text(encoding="utf-8"))["access_token"] == record.access.value
    assert daemon.control.refresh("gmail").refreshed
    assert daemon.stop() == 0
    assert simulator.provider.uses(seed) == 1
    assert simulator.provider.reused() == []


def test_an_old_seed_that_comes_back(site: Site, simulator: Simulator) -> None:
    """In whatever file or layout, by file, by command or at a restart: what was used once is not sent again."""
    daemon = site.daemon()
    first = daemon.add(simulator)
    daemon.start()
    second = simulator.provider.new_grant()
    by_file(daemon, second)
    record = settled(site, daemon, simulator, second)
    with in_flight(daemon, simulator):
        put_seed(daemon, first)
    for old in (first, second):
        put_seed(daemon, json.dumps({"token": "", "refresh_token": old}))
        assert daemon.control.refresh("gmail").refreshed
        with pytest.raises(SidecarError, match="was already used for gmail"):
            by_command(daemon, old)
    assert daemon.stop() == 0
    put_seed(daemon, first)
    daemon.start()
    assert daemon.control.refresh("gmail").refreshed
    assert site.stored().lineage == record.lineage
    assert (simulator.provider.uses(first), simulator.provider.uses(second)) == (1, 1)
    assert simulator.provider.reused() == []
    assert daemon.stop() == 0


def test_a_seed_for_one_replica_while_another_asks(site: Site, simulator: Simulator) -> None:
    """The one that asks finds the newer consent when it comes home, adopts it, and keeps its pair as an orphan."""
    asking = site.daemon()
    asking.add(simulator)
    asking.start()
    told = site.replica(asking)
    told.start()
    fresh = simulator.provider.new_grant()
    with in_flight(asking, simulator):
        by_command(told, fresh)
        assert fingerprint(fresh) in site.stored().seeds
    record = settled(site, told, simulator, fresh)
    asking.wait_until(lambda: asking.published() == told.published(), "the other follows")
    assert len(orphans(site.stored())) == 1
    assert answered(simulator)
    assert asking.control.refresh("gmail").refreshed
    assert site.stored().lineage == record.lineage
    assert (asking.stop(), told.stop()) == (0, 0)
    assert simulator.provider.reused() == []
