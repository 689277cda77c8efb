"""Sets of tokens in real daemons that share a real PostgreSQL server."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from sidecar.ports import Seeding
from sidecar.server.client import ControlClient
from sidecar.server.wire import SeedRequest
from sidecar.tokens import RefreshToken
from tests.e2e.conftest import EAGER, PATIENCE, Daemon, MakeDaemon, wait_until

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.postgres import Server

ACCOUNTS = [f"user-{number}@example.com" for number in range(12)]


@pytest.fixture
def make(
    make_daemon: MakeDaemon, server: Server, database: str, simulator: Simulator
) -> Callable[..., Daemon]:
    """Make daemons that share a set in one database; `for_each` is the set's."""

    def made(**for_each: object) -> Daemon:
        daemon = make_daemon()
        daemon.config |= {"store": server.url(database), "namespace": "shared"}
        daemon.add(simulator, "people", for_each={"every": "1s", **for_each}, lease="5s", **EAGER)
        daemon.change("people", seed=None, outputs=[{"file": str(daemon.out / "{account}.json")}])
        return daemon

    return made


def plant(daemon: Daemon, simulator: Simulator, account: str) -> None:
    """Give an account its first grant, through a daemon that runs."""
    seeding = Seeding(RefreshToken(simulator.provider.new_grant(), 1.0))
    ControlClient(daemon.state_dir / "control.sock").seed(f"people/{account}", SeedRequest(seeding))


def files(daemon: Daemon) -> dict[str, str]:
    """Return each account's access token, as an application reads it."""
    found = {}
    for path in daemon.out.glob("[!.]*.json"):
        with suppress(FileNotFoundError):  # its account has just gone
            found[path.name.removesuffix(".json")] = json.loads(path.read_bytes())["access_token"]
    return found


def calls(daemon: Daemon) -> int:
    """Count the refreshes that a daemon has made."""
    return daemon.text().count("refreshed to generation")


def has_all(daemon: Daemon) -> bool:
    """Tell whether every account has its file."""
    return files(daemon).keys() == {*ACCOUNTS}


def has_its_share(daemon: Daemon) -> bool:
    """Tell whether a daemon has refreshed as much as there is once."""
    return calls(daemon) >= len(ACCOUNTS)


def test_two_daemons_share_a_set(
    make: Callable[..., Daemon], simulator: Simulator, server: Server, database: str
) -> None:
    """Both write every file and both refresh, no refresh token is sent twice, and who goes is gone from both."""
    first, second = make().start(probe="/livez"), make().start(probe="/livez")
    for account in ACCOUNTS:
        plant(first, simulator, account)
    for daemon in (first, second):
        wait_until(partial(has_all, daemon), what="all files are there")
        wait_until(partial(has_its_share, daemon), what="it has its share", patience=3 * PATIENCE)
    assert simulator.provider.report().replayed == ()
    old = files(second)
    second.wait_until(
        lambda: all(files(second)[account] != token for account, token in old.items()),
        "nobody is starved",
        patience=3 * PATIENCE,
    )
    gone = ACCOUNTS[0]

    def is_gone() -> bool:
        # A commit of a refresh that is under way brings the record back.
        statement = f"DELETE FROM token_sidecar_records WHERE key = 'shared/people/{gone}'"  # noqa: S608
        server.sql(statement, database=database)
        return gone not in files(first) and gone not in files(second)

    wait_until(is_gone, what="the account that was removed is served nowhere", patience=3 * PATIENCE)
    for daemon in (first, second):
        assert daemon.stop() == 0
    assert simulator.provider.report().replayed == ()


def test_an_applications_database_says_who_the_accounts_are(
    make: Callable[..., Daemon], simulator: Simulator, server: Server, database: str
) -> None:
    """Rows that come are served, rows that go are not, and while nobody can tell, everything stays as it is."""
    server.sql(
        "CREATE TABLE users (name text, mail boolean)",
        "INSERT INTO users VALUES ('alice', true), ('../x', true)",
        database=database,
    )
    query = "SELECT name FROM users WHERE mail"
    daemon = make(sql={"url": server.url(database), "query": query}).start(probe="/livez")
    for account in ("alice", "../x"):
        plant(daemon, simulator, account)
    daemon.wait_until(lambda: [*sorted(files(daemon))] == ["%2E.%2Fx", "alice"], "both are served")
    server.sql("UPDATE users SET mail = false WHERE name <> 'alice'", database=database)
    daemon.wait_until(lambda: [*files(daemon)] == ["alice"], "one is gone")
    server.sql("ALTER TABLE users RENAME TO people", database=database)
    daemon.wait_until(lambda: "the accounts that are known stay" in daemon.text(), "it says what is wrong")
    assert [*files(daemon)] == ["alice"]
    server.sql("ALTER TABLE people RENAME TO users", "UPDATE users SET mail = true", database=database)
    daemon.wait_until(lambda: [*sorted(files(daemon))] == ["%2E.%2Fx", "alice"], "it goes on")
    assert daemon.stop() == 0
