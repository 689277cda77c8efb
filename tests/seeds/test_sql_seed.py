"""A seed in somebody else's table, on a real server."""

# ruff: noqa: S608 - what is put into statements is made here

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.clients.shared import SharedClients
from sidecar.config.settings import SeedSource, SqlCell
from sidecar.errors import SeedError
from sidecar.ports import Seed
from sidecar.schedule import QUIET_POLL
from sidecar.seeds import open_seed
from tests.outputs.conftest import HandClock
from tests.postgres import Server, in_thread

FIRST, SECOND = "sim-rt-0123456789abcdef", "sim-rt-fedcba9876543210"


@pytest.fixture
def anyio_backend() -> str:
    """The client library knows asyncio alone."""
    return "asyncio"


class Site:
    """A table with a row for the seed, and a role that may read it and nothing else."""

    def __init__(self, server: Server, database: str, clients: SharedClients) -> None:
        self.server = server
        self.database = database
        self.clients = clients
        self.clock = HandClock()
        self.role = f"r{secrets.token_hex(6)}"

    def open(self, **options: Any) -> Seed:
        """Open the seed as a daemon does."""
        url = self.server.url(self.database, user=self.role)
        cell = SqlCell(url=url, table="legacy", where={"id": 7}, column="token")
        return open_seed(SeedSource(sql=cell, **options), clock=self.clock, clients=self.clients)

    async def sql(self, *statements: str) -> None:
        """Do something as the database's owner, and let so much time pass that it is looked at again."""
        await self.server.sql_async(*statements, database=self.database)
        self.clock.now += QUIET_POLL / 2

    @property
    def place(self) -> str:
        """What the seed is called."""
        return f"sql:127.0.0.1:{self.server.port}/{self.database}/legacy/token?id=7"


@pytest.fixture
async def site(server: Server, database: str) -> AsyncIterator[Site]:
    """Make the table, and be the role."""
    async with SharedClients() as clients:
        site = Site(server, database, clients)
        await site.sql(
            f"CREATE ROLE {site.role} LOGIN",
            "CREATE TABLE legacy (id integer, token text)",
            f"GRANT SELECT (id, token) ON legacy TO {site.role}",
        )
        yield site


async def value(seed: Seed) -> str | None:
    """Read the refresh token that is there."""
    seeding = await seed.read()
    return seeding.refresh.value if seeding else None


async def test_what_is_missing_leaves_it_unseeded_and_says_what_to_do(site: Site) -> None:
    """The row and its content may come later, each with its own words; what is recognised in files is here as well."""
    seed = site.open()
    assert seed.id == site.place
    for change, words in (
        ("SELECT", "has no such row: let the application make it"),
        ("INSERT INTO legacy VALUES (7, NULL)", "is NULL: put the refresh token there"),
        ("UPDATE legacy SET token = ' '", "is empty: put the refresh token there"),
    ):
        await site.sql(change)
        assert await value(seed) is None
        assert seed.missing == f"the seed {site.place} {words}"

    await site.sql(f"UPDATE legacy SET token = '{FIRST}'")
    assert await value(seed) == FIRST
    assert seed.missing == ""
    await site.sql(f"""UPDATE legacy SET token = '{{"refresh_token": "{SECOND}"}}'""")
    assert await value(seed) == SECOND


async def test_nobody_is_asked_between_two_looks(site: Site) -> None:
    """However often turns come, the database is asked twice a minute at most; the answer serves meanwhile."""
    await site.sql(f"INSERT INTO legacy VALUES (7, '{FIRST}')")
    seed = site.open()
    assert await value(seed) == FIRST
    await in_thread(site.server.stop)
    try:
        assert await value(seed) == FIRST
        site.clock.now += QUIET_POLL / 2
        with pytest.raises(SeedError, match="can't be reached"):
            await seed.read()
    finally:
        await in_thread(site.server.start)
    site.clock.now += QUIET_POLL / 2
    assert await value(seed) == FIRST


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("INSERT INTO legacy VALUES (7, 'two words')", "; a seed is a bare refresh token"),
        (
            f"INSERT INTO legacy VALUES (7, '{FIRST}'), (7, '{SECOND}')",
            "more than one row of legacy matches `where`",
        ),
        ("ALTER TABLE legacy DROP token", 'legacy has no column "token"'),
        ("DROP TABLE legacy", 'there is no table "legacy"'),
    ],
)
async def test_what_cannot_be_a_seed_is_an_error(site: Site, change: str, words: str) -> None:
    """Place, reason and way out are told, and nothing of the content."""
    await site.sql(change)

    with pytest.raises(SeedError, match=words) as caught:
        await site.open().read()
    assert str(caught.value).startswith(f"seed {site.place}: ")
    assert FIRST not in str(caught.value)


async def test_reading_is_all_that_it_asks_for(site: Site) -> None:
    """The line that would grant what is lacking is of SELECT alone, on the columns that are named."""
    await site.sql(
        f"REVOKE ALL ON legacy FROM {site.role}", f"REVOKE SELECT (id, token) ON legacy FROM {site.role}"
    )
    with pytest.raises(SeedError) as caught:
        await site.open().read()

    assert str(caught.value).partition("; ")[2] == f"GRANT SELECT (id, token) ON legacy TO {site.role}"
