"""One column of a row in somebody else's table, on a real server."""

# ruff: noqa: S608 - what is put into statements is made here

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.clients import postgres
from sidecar.clients.rows import Row
from sidecar.clients.shared import SharedClients
from sidecar.config.settings import OutputTarget, SqlOutput
from sidecar.errors import OutputError
from sidecar.outputs import open_remote_output
from sidecar.outputs.sight import REMEMBERED_FOR
from sidecar.outputs.sql import TableOutput
from sidecar.ports import Grade, Publication, RemoteOutput, SupportsDiagnosis
from sidecar.tokens import fingerprint
from tests.outputs.conftest import ISSUED_AT, HandClock
from tests.postgres import Server, in_thread, pooling

Make = Callable[..., Publication]

OWN_TABLE = """
CREATE TABLE oauth_tokens (
    id serial PRIMARY KEY, account varchar(100) UNIQUE NOT NULL, token_json text NOT NULL,
    updated_at timestamp DEFAULT now(), created_at timestamp DEFAULT now()
)
"""
TENANTS = """
CREATE TABLE tenants (
    id serial PRIMARY KEY, name text NOT NULL, gmail_account varchar(100),
    gmail_token jsonb, gmail_token_updated_at timestamp
)
"""
ACCOUNT = "westsidebasketball"
LAYOUTS: dict[str, dict[str, Any]] = {
    "own": {
        "table": "oauth_tokens",
        "where": {"account": ACCOUNT},
        "column": "token_json",
        "updated_column": "updated_at",
    },
    "tenants": {
        "table": "tenants",
        "where": {"gmail_account": ACCOUNT},
        "column": "gmail_token",
        "updated_column": "gmail_token_updated_at",
        "mode": "update",
    },
}


@pytest.fixture
def anyio_backend() -> str:
    """The client library knows asyncio alone."""
    return "asyncio"


class Site:
    """An application's database, and whoever publishes into it."""

    def __init__(self, server: Server, database: str, folder: Path, clients: SharedClients) -> None:
        self.server = server
        self.database = database
        self.folder = folder
        self.clients = clients
        self.clock = HandClock()
        self.role = "postgres"

    def open(self, layout: str = "own", *, state: str = "state", **options: Any) -> TableOutput:
        """Open the output as a daemon does; `state` names its `state_dir`."""
        target = self.target(layout, **options)
        output = open_remote_output(
            target, state_dir=self.folder / state, clock=self.clock, clients=self.clients
        )
        assert isinstance(output, TableOutput)
        return output

    def target(self, layout: str, **options: Any) -> OutputTarget:
        """Configure it."""
        url = self.server.url(self.database, user=self.role)
        keys = {key: options.pop(key) for key in SqlOutput.__struct_fields__ if key in options}
        place = SqlOutput(**{"url": url, **LAYOUTS[layout], **keys})
        return OutputTarget(**{"sql": place, "format": "gmail-sdk", **options})

    async def sql(self, *statements: str) -> list[Any]:
        """Do something as the database's owner."""
        return await self.server.sql_async(*statements, database=self.database)

    async def value(self, statement: str) -> Any:
        """Read one value."""
        [[value]] = await self.sql(statement)
        return value

    async def token(self, layout: str = "own") -> str:
        """Return the access token that the application finds."""
        keys = LAYOUTS[layout]
        return str(
            json.loads(await self.value(f"SELECT {keys['column']}::text FROM {keys['table']}"))[
                "access_token"
            ]
        )

    async def be_limited(self, *grants: str) -> str:
        """Be a role that may do nothing but what is granted."""
        self.role = f"r{secrets.token_hex(6)}"
        await self.sql(f"CREATE ROLE {self.role} LOGIN", *(f"{grant} TO {self.role}" for grant in grants))
        return self.role


@pytest.fixture
async def site(server: Server, database: str, tmp_path: Path) -> AsyncIterator[Site]:
    """Make both tables, with the tenant whose row is there."""
    async with SharedClients() as clients:
        site = Site(server, database, tmp_path, clients)
        await site.sql(
            OWN_TABLE,
            TENANTS,
            f"INSERT INTO tenants (name, gmail_account) VALUES ('West Side', '{ACCOUNT}')",
        )
        yield site


async def test_a_row_is_made_and_kept(site: Site, make: Make) -> None:
    """The first token makes the row, the next one changes it; other columns stay as they are."""
    output = site.open()
    assert isinstance(output, RemoteOutput)
    assert await output.publish(make(1))
    [[number, created]] = await site.sql("SELECT id, created_at FROM oauth_tokens")
    assert await site.token() == make(1).access.value

    assert await output.publish(make(2))

    assert await site.token() == make(2).access.value
    assert await site.sql("SELECT id, created_at FROM oauth_tokens") == [(number, created)]


async def test_a_column_of_a_row_that_is_there_is_changed(site: Site, make: Make) -> None:
    """Only the row that `where` names is written, as the type that its column has."""
    await site.sql("INSERT INTO tenants (name, gmail_account) VALUES ('East Side', 'eastside')")

    assert await site.open("tenants").publish(make())

    assert await site.value("SELECT gmail_token->>'access_token' FROM tenants WHERE name = 'West Side'") == (
        make().access.value
    )
    assert await site.value("SELECT gmail_token FROM tenants WHERE name = 'East Side'") is None


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_what_is_right_is_not_written_again(site: Site, make: Make, layout: str) -> None:
    """However often it is published, by however many daemons: JSON is the same in the database's own spelling."""
    await site.open(layout).publish(make())
    version = f"SELECT xmin::text FROM {LAYOUTS[layout]['table']}"
    before = await site.value(version)

    assert not await site.open(layout, state="other").publish(make())

    assert await site.value(version) == before


@pytest.mark.parametrize(
    ("kind", "stamp"),
    [
        ("text", "timestamp"),
        ("varchar(4000)", "timestamptz"),
        ("json", "timestamp(0)"),
        ("jsonb", "timestamptz(3)"),
        ("document", "moment"),
        ("letters", "timestamp"),
    ],
)
async def test_every_type_that_can_hold_a_token_does(site: Site, make: Make, kind: str, stamp: str) -> None:
    """Text or JSON, a domain of either; a time without a zone is UTC, whatever zone the database has."""
    await site.sql(
        "CREATE DOMAIN document AS jsonb CHECK (jsonb_typeof(VALUE) = 'object')",
        "CREATE DOMAIN moment AS timestamptz",
        "CREATE DOMAIN letters AS text",
        f"CREATE TABLE t (key uuid UNIQUE, token {kind}, at {stamp})",
        f"ALTER DATABASE {site.database} SET timezone = 'Asia/Kathmandu'",
    )
    key = "0b7e15a8-5fdc-4e2c-9d2c-0e9d3b1f6a10"
    output = site.open(table="t", where={"key": key}, column="token", updated_column="at")

    assert await output.publish(make())
    assert not await output.publish(make())

    assert json.loads(await site.value("SELECT token::text FROM t"))["access_token"] == make().access.value
    present = "now() AT TIME ZONE 'UTC'" if stamp.startswith("timestamp") and "tz" not in stamp else "now()"
    assert abs(await site.value(f"SELECT extract(epoch FROM {present} - at)::float8 FROM t")) < 60


async def test_it_tells_what_readers_have_without_asking(site: Site, make: Make) -> None:
    """A probe must not hang on a database: what was seen last is told, and when that was if it is long ago."""
    output = site.open("tenants")
    assert (await output.read_back()).problem == "has not been looked at yet"
    await output.look()
    assert (await output.read_back()).problem == "is NULL"

    await output.publish(make())
    await site.clients.database(site.server.url(site.database), None).close()
    holding = await output.read_back()

    assert holding.fingerprint == fingerprint(make().access.value)
    assert holding.expires_at == make().access.expires_at
    assert (holding.lineage, holding.mark, holding.problem) == (make().lineage, make().mark, None)
    site.clock.now += REMEMBERED_FOR + 1
    assert (await output.read_back()).problem == (
        "was last seen at 2023-11-14T22:13:20Z; what it holds now is not known"
    )


async def test_whatever_somebody_else_puts_there_is_seen_and_repaired(site: Site, make: Make) -> None:
    """An older token, rubbish, nothing and a deleted row are each told as what they are, and replaced."""
    output = site.open()
    await output.publish(make())
    token = json.dumps({"access_token": "sim-at-somebody-elses-token", "expires_at": ISSUED_AT + 60})
    for change, problem in (
        (f"UPDATE oauth_tokens SET token_json = '{token}'", None),
        ("UPDATE oauth_tokens SET token_json = 'rubbish'", "is not in the format"),
        ("UPDATE oauth_tokens SET token_json = ''", "is empty"),
        ("DELETE FROM oauth_tokens", "has no such row"),
    ):
        await site.sql(change)
        await output.look()
        holding = await output.read_back()
        assert (holding.problem or "").startswith(problem or "")
        assert (holding.fingerprint is None) == (problem is not None)
        assert await output.publish(make())
        assert await site.token() == make().access.value


async def test_a_daemon_that_lags_behind_does_not_put_the_old_token_back(site: Site, make: Make) -> None:
    """Replicas publish to the same row: who has not heard of a refresh yet leaves alone what came of it."""
    fast, slow = site.open(state="fast"), site.open(state="slow")
    await slow.publish(make(1))
    await fast.publish(make(2))

    assert not await slow.publish(make(1))

    assert await site.token() == make(2).access.value
    holding = await slow.read_back()
    assert holding.fingerprint == fingerprint(make(2).access.value)
    assert holding.mark == make(1).mark, "what another daemon published is no memory of this one"
    assert await fast.publish(make(3))
    assert await slow.publish(make(4))


async def test_the_time_of_the_update_tells_where_a_format_does_not(site: Site, make: Make) -> None:
    """A bare token says nothing of its age; who holds one that was issued before the last update leaves it."""
    fast, slow = site.open(state="fast", format="raw"), site.open(state="slow", format="raw")
    # Whatever the database writes was written after each was issued: that was years ago.
    site.clock.now = time.time()
    await slow.publish(make(1))
    await site.sql("UPDATE oauth_tokens SET updated_at = '2020-01-01'")
    await fast.publish(make(2))

    assert not await slow.publish(make(1))
    assert await site.value("SELECT token_json FROM oauth_tokens") == make(2).access.value
    await site.sql("UPDATE oauth_tokens SET updated_at = '2020-01-01'")
    assert await slow.publish(make(3))


async def test_an_update_that_is_yet_to_come_tells_nothing(site: Site, make: Make) -> None:
    """A default of `now()` in a session east of Greenwich is hours ahead, and keeps nobody from publishing."""
    site.clock.now = time.time()
    await site.sql(
        f"INSERT INTO oauth_tokens (account, token_json, updated_at) VALUES "
        f"('{ACCOUNT}', 'sim-at-of-the-application-itself', now() AT TIME ZONE 'UTC' + interval '5h30')"
    )

    assert await site.open(format="raw").publish(make(1))

    assert await site.value("SELECT token_json FROM oauth_tokens") == make(1).access.value


async def test_what_was_published_before_a_loss_of_state_is_known_again(site: Site, make: Make) -> None:
    """The very token that is in force is ours, whoever wrote it, so that its end is known to probes."""
    site.clock.now = time.time()
    await site.open(state="gone", format="raw").publish(make(1))
    output = site.open(state="new", format="raw")

    assert not await output.publish(make(1))

    assert (await output.read_back()).expires_at == make(1).access.expires_at


@pytest.mark.parametrize("layout", [{"format": "raw"}, {"fields": {"access_token": "t", "expires_in": "i"}}])
async def test_a_layout_without_any_time_keeps_nobody_from_publishing(
    site: Site, make: Make, layout: dict[str, Any]
) -> None:
    """What tells neither its end nor when it was written can't be told from an older token, and is replaced."""
    options: dict[str, Any] = {"format": "json", "updated_column": None, **layout}
    await site.open(state="gone", **options).publish(make(1))
    site.clock.now += 60

    assert await site.open(state="new", **options).publish(make(2))

    assert make(2).access.value in await site.value("SELECT token_json FROM oauth_tokens")


async def test_a_token_from_the_far_future_is_nobodys(site: Site, make: Make) -> None:
    """No daemon of this grant can have published what lives for years: it is replaced, not waited for."""
    token = json.dumps({"access_token": "sim-at-somebody-elses-token", "expires_at": ISSUED_AT + 1e9})
    await site.sql(f"INSERT INTO oauth_tokens (account, token_json) VALUES ('{ACCOUNT}', '{token}')")

    assert await site.open().publish(make())

    assert await site.token() == make().access.value


@pytest.mark.parametrize("way", ["insert", "replace"])
async def test_two_that_publish_at_once_leave_the_later_token(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Between look and write another was faster: what it wrote is looked at, and not overwritten."""
    fast, slow = site.open(state="fast"), site.open(state="slow")
    if way == "replace":
        await slow.publish(make(1))
    original = getattr(Row, way)

    async def overtaken(row: Row, *arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(Row, way, original)
        await fast.publish(make(3))
        return await original(row, *arguments, **options)

    monkeypatch.setattr(Row, way, overtaken)

    assert not await slow.publish(make(2))

    assert await site.token() == make(3).access.value
    assert await site.value("SELECT count(*) FROM oauth_tokens") == 1


def hostile(names: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Names that mean something to a parser, and any others that a database takes."""
    nasty = [
        'a"b',
        "x'; DROP TABLE canary; --",
        'a" CASCADE; --',
        "$1",
        "{0}",
        "%s",
        "a.b",
        "\\",
        "--",
        "SELECT",
    ]
    return st.sampled_from(nasty) | names.filter(lambda name: 0 < len(name.encode()) <= 63)


NAMES = hostile(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20))
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40) | st.integers()


async def test_no_name_and_no_value_gets_out_of_its_place(site: Site, make: Make) -> None:
    """Tables, columns and values of any characters are found, written and read, and nothing else is touched."""
    await site.sql("CREATE TABLE canary AS SELECT 1 AS one", 'CREATE SCHEMA "s.p""q"')

    examples: list[tuple[list[str], str | int]] = []

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(names=st.lists(NAMES, min_size=4, max_size=4, unique=True), value=VALUES)
    def collect(names: list[str], value: str | int) -> None:
        examples.append((names, value))

    collect()
    for names, value in examples:
        table, key, column, updated = (f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names)
        place = f'"s.p""q".{table}'
        await site.sql(
            f"CREATE TABLE {place} ({key} text UNIQUE, {column} jsonb, {updated} timestamptz, PRIMARY KEY ({key}))"
        )
        output = site.open(
            table=place,
            where={names[1]: value},
            column=names[2],
            updated_column=names[3],
            state=secrets.token_hex(4),
        )
        assert await output.publish(make(1)), (names, value)
        assert await output.publish(make(2))
        [[found, token]] = await site.sql(f"SELECT {key}, {column}->>'access_token' FROM {place}")
        assert (found, token) == (str(value), make(2).access.value)
        assert output.id.isprintable()
        assert " " not in output.id
        await site.sql(f"DROP TABLE {place}")
    assert await site.value("SELECT count(*) FROM canary") == 1


async def test_a_lacking_right_is_told_as_the_line_that_grants_it(site: Site, make: Make) -> None:
    """Whoever runs the lines that the errors name has granted what is needed, and no more."""
    role = await site.be_limited()
    output = site.open()
    with pytest.raises(OutputError) as caught:
        await output.publish(make())

    _, _, remedy = str(caught.value).partition("; ")
    assert remedy.split("; ") == [
        f"GRANT SELECT (account, token_json, updated_at) ON oauth_tokens TO {role}",
        f"GRANT UPDATE (token_json, updated_at) ON oauth_tokens TO {role}",
        f"GRANT INSERT (account, token_json, updated_at) ON oauth_tokens TO {role}",
        f"GRANT USAGE ON SEQUENCE oauth_tokens_id_seq TO {role}",
    ]

    await site.sql(*remedy.split("; "))
    assert await output.publish(make(1))
    assert await output.publish(make(2))

    await site.sql(f"REVOKE UPDATE (token_json) ON oauth_tokens FROM {role}")
    with pytest.raises(OutputError, match=rf"; GRANT UPDATE \(token_json\) ON oauth_tokens TO {role}$"):
        await output.publish(make(3))


async def test_an_update_needs_less(site: Site, make: Make) -> None:
    """Two columns to write and three to read suffice where the row is the application's."""
    await site.be_limited(
        "GRANT SELECT (gmail_account, gmail_token, gmail_token_updated_at), "
        "UPDATE (gmail_token, gmail_token_updated_at) ON tenants"
    )

    assert await site.open("tenants").publish(make())


async def test_a_closed_schema_is_told_as_the_line_that_opens_it(site: Site, make: Make) -> None:
    """A schema has a right of its own."""
    await site.sql("CREATE SCHEMA app", "CREATE TABLE app.t (account text UNIQUE, token text)")
    role = await site.be_limited("GRANT SELECT, INSERT, UPDATE ON app.t")
    output = site.open(table="app.t", column="token", updated_column=None)
    with pytest.raises(OutputError) as caught:
        await output.publish(make())

    grant = str(caught.value).rpartition("; ")[2]
    assert grant == f'GRANT USAGE ON SCHEMA "app" TO "{role}"'
    await site.sql(grant)
    assert await output.publish(make())


async def test_a_policy_that_forbids_it_is_told(site: Site, make: Make) -> None:
    """With every right and a policy against it, no GRANT helps, and none is named."""
    await site.sql("ALTER TABLE oauth_tokens ENABLE ROW LEVEL SECURITY")
    await site.be_limited(
        "GRANT SELECT, INSERT, UPDATE ON oauth_tokens", "GRANT USAGE ON SEQUENCE oauth_tokens_id_seq"
    )

    with pytest.raises(OutputError, match="row-level security"):
        await site.open().publish(make())


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ("", {"table": "nowhere"}, 'there is no table "nowhere"'),
        ("", {"table": "nowhere.oauth_tokens"}, 'there is no table "nowhere"."oauth_tokens"'),
        ("", {"column": "token"}, 'oauth_tokens has no column "token"'),
        ("", {"where": {"acount": "x"}}, 'oauth_tokens has no column "acount"'),
        ("", {"updated_column": "at"}, 'oauth_tokens has no column "at"'),
        (
            "",
            {"column": "id"},
            "is of the type integer, which holds no token; name a column of the type text, json",
        ),
        ("", {"updated_column": "token_json"}, "is of the type text; name a column of the type timestamp"),
        ("", {"where": {"id": "west"}}, "a value of `where` is none of its column's type"),
        (
            "",
            {"mode": "update"},
            "no row matches `where`; let the application make it, or write `mode: upsert`",
        ),
        (
            "ALTER TABLE oauth_tokens DROP CONSTRAINT oauth_tokens_account_key",
            {},
            r"no unique constraint covers account, .*; ALTER TABLE oauth_tokens ADD UNIQUE \(account\), or write",
        ),
        (
            "ALTER TABLE oauth_tokens ADD team text NOT NULL",
            {},
            "a new row lacks other columns, which may not be NULL; let the application make the row",
        ),
        (
            "ALTER TABLE oauth_tokens ADD CHECK (account = 'x')",
            {},
            "a check constraint refuses the row; look at",
        ),
        (
            "ALTER TABLE oauth_tokens ALTER token_json TYPE varchar(20)",
            {},
            "too long for token_json; ALTER TABLE oauth_tokens ALTER token_json TYPE text",
        ),
        (
            "ALTER TABLE oauth_tokens ALTER token_json TYPE jsonb USING token_json::jsonb",
            {"format": "raw"},
            "the column takes JSON, and the format `raw` as configured is none",
        ),
    ],
)
async def test_what_does_not_fit_is_told_with_the_way_out(
    site: Site, make: Make, change: str, options: dict[str, Any], words: str
) -> None:
    """Each mistake in the configuration or the table is an error of its own; nothing is written."""
    await site.sql(*([change] if change else []))

    with pytest.raises(OutputError, match=words):
        await site.open(**options).publish(make())

    assert await site.value("SELECT count(*) FROM oauth_tokens") == 0


@pytest.mark.parametrize("kind", ["varchar(4)", "char(4)"])
async def test_a_key_is_never_cut_to_another_ones(site: Site, make: Make, kind: str) -> None:
    """A value longer than its column names no row, instead of the one that begins like it."""
    await site.sql(
        f"CREATE TABLE t (account {kind} UNIQUE, token text)",
        "INSERT INTO t VALUES ('west', NULL), ('x', NULL)",
    )
    place: dict[str, Any] = {"table": "t", "column": "token", "updated_column": None}

    with pytest.raises(OutputError, match="no row matches"):
        await site.open(**place, where={"account": "westside"}, mode="update").publish(make())
    with pytest.raises(OutputError, match="too long"):
        await site.open(**place, where={"account": "westside"}).publish(make())
    assert await site.open(**place, where={"account": "x"}).publish(make())
    assert await site.sql("SELECT account::text FROM t WHERE token IS NOT NULL") == [("x",)]


async def test_more_than_one_row_is_an_error(site: Site, make: Make) -> None:
    """A token is never written to whichever row comes first."""
    await site.sql(f"INSERT INTO tenants (name, gmail_account) VALUES ('Twin', '{ACCOUNT}')")

    with pytest.raises(
        OutputError, match="more than one row of tenants matches `where`; add columns to `where`"
    ):
        await site.open("tenants").publish(make())

    assert await site.value("SELECT count(gmail_token) FROM tenants") == 0
    assert await site.open("tenants", where={"gmail_account": ACCOUNT, "name": "Twin"}).publish(make())


async def test_a_table_that_changes_is_learned_anew(site: Site, make: Make) -> None:
    """The application migrates its column while the daemon runs: after one failure at most it is written again."""
    output = site.open()
    await output.publish(make(1))
    await site.sql("ALTER TABLE oauth_tokens ALTER token_json TYPE jsonb USING token_json::jsonb")

    for _ in range(2):
        try:
            await output.publish(make(2))
        except OutputError:
            continue
        break

    assert await site.token() == make(2).access.value


async def test_a_database_that_is_away_is_an_error_and_passes(site: Site, make: Make) -> None:
    """The reason is told, what is known stays known, and the next attempt succeeds."""
    output = site.open()
    await output.publish(make(1))
    await in_thread(site.server.stop)
    try:
        with pytest.raises(OutputError, match="can't be reached"):
            await output.publish(make(2))
        assert (await output.read_back()).fingerprint == fingerprint(make(1).access.value)
    finally:
        await in_thread(site.server.start)

    assert await output.publish(make(2))


async def test_a_row_that_the_application_holds_is_waited_for_and_not_for_ever(
    site: Site, make: Make
) -> None:
    """A transaction that stays open over the row ends the attempt, and neither is harmed."""
    output = site.open()
    await output.publish(make(1))
    database = site.clients.database(site.server.url(site.database), None)
    database._patience = 1.0
    theirs = await site.server.connect(site.database)
    transaction = theirs.transaction()
    await transaction.start()
    await theirs.execute("UPDATE oauth_tokens SET created_at = now()")
    with anyio.fail_after(20), pytest.raises(OutputError):
        await output.publish(make(2))
    await transaction.commit()
    await theirs.close()
    database._patience = postgres.CALL_SECONDS

    assert await output.publish(make(2)) or await site.token() == make(2).access.value


async def test_it_works_behind_a_transaction_pooler(site: Site, make: Make) -> None:
    """PgBouncer gives each statement another connection of its two; more outputs than that get along with it."""
    with pooling(site.server) as port:
        url = f"postgresql://me@127.0.0.1:{port}/{site.database}?pooler=transaction&sslmode=disable"
        clients = [site.clients, *(SharedClients() for _ in range(3))]
        for generation in (1, 2):
            async with anyio.create_task_group() as tasks:
                for number, site.clients in enumerate(clients):
                    output = site.open(url=url, where={"account": f"user-{number}"}, state=f"state-{number}")
                    tasks.start_soon(output.publish, make(generation))
        for others in clients[1:]:
            await others.__aexit__(None, None, None)

    found = await site.sql("SELECT token_json FROM oauth_tokens")
    assert [json.loads(text)["access_token"] for (text,) in found] == [make(2).access.value] * 4


async def test_the_login_is_read_again_from_its_file(site: Site, make: Make, tmp_path: Path) -> None:
    """A role that was replaced is used from the next connection on, without a restart."""
    file = tmp_path / "url"
    old = await site.be_limited(
        "GRANT SELECT, INSERT, UPDATE ON oauth_tokens", "GRANT USAGE ON SEQUENCE oauth_tokens_id_seq"
    )
    file.write_text(site.server.url(site.database, user=old))
    output = site.open(url=None, url_file=file)
    await output.publish(make(1))
    new = await site.be_limited(
        "GRANT SELECT, INSERT, UPDATE ON oauth_tokens", "GRANT USAGE ON SEQUENCE oauth_tokens_id_seq"
    )
    await site.sql(f"ALTER ROLE {old} NOLOGIN")
    await site.clients.database(None, file).close()
    for text, words in (
        ("", "holds no usable URL"),
        (site.server.url(site.database, user=old), "was refused"),
    ):
        file.write_text(text)
        with pytest.raises(OutputError, match=words):
            await output.publish(make(2))
    file.write_text(site.server.url(site.database, user=new))

    assert await output.publish(make(2))


async def test_outputs_of_one_database_share_a_connection(site: Site, make: Make) -> None:
    """A set of a thousand accounts takes one connection of the application's database, not a thousand."""
    for number in range(3):
        await site.open(where={"account": f"user-{number}"}).publish(make())

    ours = "datname = current_database() AND application_name = 'token-sidecar'"
    assert await site.value(f"SELECT count(*) FROM pg_stat_activity WHERE {ours}") == 1


async def test_doctor_is_told_of_rights_and_rows(site: Site) -> None:
    """What a look can find out is found without writing anything."""
    output = site.open("tenants")
    assert isinstance(output, SupportsDiagnosis)
    [found] = await output.diagnose()
    assert (found.grade, found.text.partition("; ")[2]) == (
        Grade.OK,
        "postgres may write tenants.gmail_token (jsonb)",
    )

    await site.sql("DELETE FROM tenants")
    assert [(one.grade, one.text) for one in (await output.diagnose())[1:]] == [
        (Grade.FAILED, "no row matches `where`")
    ]
    await site.be_limited()
    [found] = await site.open().diagnose()
    assert (found.grade, found.remedy.partition(" (")[0]) == (Grade.FAILED, "GRANT SELECT")
    assert await site.value("SELECT count(*) FROM oauth_tokens") == 0
