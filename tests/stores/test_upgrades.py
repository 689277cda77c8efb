"""Versions N and N-1 of the tables side by side, with a version that is made up here."""

# ruff: noqa: S608 - the names that are put into statements are ours

from __future__ import annotations

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clients.postgres import parse
from sidecar.clock import SystemClock
from sidecar.errors import Conflict, StoreError
from sidecar.stores import postgres, sqlite
from sidecar.stores.postgres import PostgresStore, Statements
from sidecar.stores.sqlite import SqliteStore
from sidecar.tokens import Record

if TYPE_CHECKING:
    from tests.postgres import Server

KEY = "ns/gmail"
RECORD = Record(lineage="first")


@pytest.fixture
def anyio_backend() -> str:
    """The client library of one of them knows asyncio alone."""
    return "asyncio"


class Place:
    """Where a store is: opened by a daemon of any version, and looked into by others."""

    def __init__(self, kind: str, path: Path, server: Server, database: str) -> None:
        self.kind, self.path, self.server, self.database = kind, path, server, database
        added = "ALTER TABLE {records} ADD COLUMN IF NOT EXISTS note text DEFAULT 'new';\n"
        if kind == "sqlite":
            added = "ALTER TABLE records ADD COLUMN note TEXT DEFAULT 'new'"
        known: tuple[str, ...] = {"sqlite": sqlite.MIGRATIONS, "postgres": postgres.MIGRATIONS}[kind]
        self.steps = (*known, added, added.replace("note", "more"))
        self.present = len(known)

    def open(self, version: int, *, user: str = "postgres", **options: Any) -> SqliteStore | PostgresStore:
        """Make the store as the code of a version does; 0 is the present one."""
        migrations = self.steps[: self.present + version]
        if self.kind == "sqlite":
            return SqliteStore(self.path, SystemClock(), migrations=migrations, **options)
        url = self.server.url(self.database, user=user)
        return PostgresStore(parse(url, own=("schema",)), migrations=migrations, **options)

    async def sql(self, statement: str) -> list[Any]:
        """Look behind the stores' backs."""
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
                return connection.execute(statement).fetchall()
        rows = await self.server.sql_async(statement, database=self.database)
        return [tuple(row) for row in rows]


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, server: Server, database: str) -> Place:
    """A place with nothing in it."""
    return Place(request.param, tmp_path / "store.db", server, database)


async def test_neighbouring_versions_work_side_by_side(place: Place) -> None:
    """A new daemon adds its column under a running old one; each reads, writes and races with the other."""
    async with place.open(0) as old:
        version = await old.write(KEY, RECORD, expected=None)
        async with place.open(1) as new:
            found = await new.load(KEY)
            assert found is not None
            assert found.record == RECORD
            await place.sql(f"UPDATE {table(place)} SET note = 'kept'")
            newer = await new.write(KEY, Record(lineage="second"), expected=version, lease=30)
            with pytest.raises(Conflict):
                await old.write(KEY, RECORD, expected=version)
            seen = await old.load(KEY)
            assert seen is not None
            assert (seen.record.lineage, seen.version) == ("second", newer)
            assert seen.lease_left > 20
            await old.write(KEY, Record(lineage="third"), expected=newer)
            last = await new.load(KEY)
            assert last is not None
            assert last.record.lineage == "third"
        async with place.open(0) as again:
            assert await again.keys() == [KEY]
    assert await place.sql(f"SELECT note FROM {table(place)}") == [("kept",)]


async def test_an_upgrade_goes_through_every_version(place: Place) -> None:
    """From the first version to the third at once, with the records in place; the first is told to be replaced."""
    async with place.open(0) as first:
        await first.write(KEY, RECORD, expected=None)
    async with place.open(2) as third:
        found = await third.load(KEY)
        assert found is not None
        assert found.record == RECORD
    assert await place.sql(f"SELECT note, more FROM {table(place)}") == [("new", "new")]
    with pytest.raises(StoreError, match="of a newer version"):
        async with place.open(0) as first:
            await first.load(KEY)


async def test_reading_upgrades_nothing(place: Place) -> None:
    """Without leave to create, older tables are an error that says what to do, and stay as they are."""
    async with place.open(0) as old:
        await old.write(KEY, RECORD, expected=None)
    with pytest.raises(StoreError, match=r"older version .* store migrate"):
        async with place.open(1, create=False) as new:
            await new.load(KEY)
    async with place.open(0) as old:
        assert await old.keys() == [KEY]


async def test_who_may_not_change_the_tables_is_told_who_can(server: Server, database: str) -> None:
    """A daemon without the right says so and touches nothing; once somebody ran the printed SQL, it works."""
    place = Place("postgres", Path(), server, database)
    async with place.open(0) as old:
        await old.write(KEY, RECORD, expected=None)
    user = f"r{secrets.token_hex(6)}"
    statements = Statements(None, place.steps[: place.present + 1])
    await server.sql_async(
        f"CREATE ROLE {user} LOGIN", *statements.grants(user).split("; "), database=database
    )
    async with place.open(1, user=user) as new:
        with pytest.raises(StoreError, match=r"older version .* may not change them; have .*migrate --print"):
            await new.load(KEY)
        for _ in range(2):
            await server.sql_async(*statements.tables.split(";\n")[:-1], database=database)
        found = await new.load(KEY)
        assert found is not None
        assert found.record == RECORD


def table(place: Place) -> str:
    """Name the table of records."""
    return {"sqlite": "records", "postgres": "token_sidecar_records"}[place.kind]
