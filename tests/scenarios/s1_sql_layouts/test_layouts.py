"""Scenario S1: the token in the application's own tables, set up as the how-to says, read by the owners' own code."""

# ruff: noqa: S608 - what is put into statements is made here

from __future__ import annotations

import datetime as dt
import json
import re
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
import yaml
from sqlalchemy.orm import Session

from tests.e2e.conftest import EAGER, PROJECT, wait_until
from tests.kube.cluster import Rule
from tests.scenarios.s1_sql_layouts import models

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeDaemon
    from tests.kube.cluster import Cluster
    from tests.postgres import Server

ACCOUNT = "westsidebasketball"
SECRET, KEY = "gmail-oauth-token", "gmail-westsidebasketball.json"
HOWTO = (PROJECT / "docs" / "howto" / "token-in-your-database.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.timeout(240)
LAYOUTS = ["own", "tenants"]
"""In the order of the how-to."""


def shown(language: str, layout: str) -> str:
    """Return what the how-to shows for a layout."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", HOWTO, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(LAYOUTS)
    return str(blocks[LAYOUTS.index(layout)])


class Application:
    """The application's database, and what its own code finds there."""

    def __init__(self, server: Server, database: str, layout: str) -> None:
        self.server = server
        self.database = database
        self.role = f"r{secrets.token_hex(6)}"
        url = sa.URL.create(
            "postgresql+psycopg", "postgres", host="127.0.0.1", port=server.port, database=database
        )
        self.engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"sslmode": "disable"})
        self._load = getattr(models, f"load_{layout}")
        self.layout = layout

    def prepare(self) -> None:
        """Do what the how-to says is to be done in the database."""
        if self.layout == "tenants":
            server, database = self.server, self.database
            table = (
                "CREATE TABLE tenants (id serial PRIMARY KEY, name text NOT NULL, gmail_account varchar(100))"
            )
            server.sql(table, database=database)
            with Session(self.engine) as session:
                names = {"West Side": ACCOUNT, "East Side": "eastside"}
                insert = sa.text("INSERT INTO tenants (name, gmail_account) VALUES (:name, :account)")
                session.execute(
                    insert, [{"name": name, "account": account} for name, account in names.items()]
                )
                session.commit()
        script = shown("sql", self.layout).replace("token_sidecar", self.role)
        self.server.sql(*(part for part in script.split(";") if part.strip()), database=self.database)

    def read(self) -> tuple[dict[str, Any], dt.datetime | None] | None:
        """Let the owners' code read the token."""
        with Session(self.engine) as session:
            found: tuple[dict[str, Any], dt.datetime | None] | None = self._load(session, ACCOUNT)
            return found

    @property
    def token(self) -> str:
        """Return the access token that it finds; empty: none."""
        found = self.read()
        return str(found[0]["access_token"]) if found is not None else ""

    def configure(self, daemon: Daemon, simulator: Simulator, **settings: Any) -> None:
        """Configure a daemon as the how-to shows it, with the paths and the provider of this test."""
        daemon.add(simulator, profile={"rotation": "always"})
        given = yaml.safe_load(shown("yaml", self.layout))["tokens"]["gmail"]
        file, table = given["outputs"]
        url = daemon.folder / "app-database"
        url.write_text(self.server.url(self.database, user=self.role), encoding="utf-8")
        url.chmod(0o600)
        table["sql"]["url_file"] = str(url)
        daemon.change(outputs=[{**file, "file": str(daemon.out / "gmail.json")}, table], **settings)

    def problem(self, daemon: Daemon) -> str:
        """Tell what the daemon says is wrong with the table."""
        [view] = [view for view in daemon.status()["outputs"] if view["output"].startswith("sql:")]
        return view["problem"] or ""


@pytest.fixture(params=LAYOUTS)
def application(request: pytest.FixtureRequest, server: Server, database: str) -> Iterator[Application]:
    """Make the application's database in each layout."""
    application = Application(server, database, request.param)
    application.prepare()
    yield application
    application.engine.dispose()


@pytest.fixture
def own(server: Server, database: str) -> Iterator[Application]:
    """Make the application's database with a table for tokens."""
    application = Application(server, database, "own")
    application.prepare()
    yield application
    application.engine.dispose()


def test_two_replicas_keep_the_row_alive(
    application: Application, make_daemon: MakeDaemon, simulator: Simulator, fake_cluster: Cluster
) -> None:
    """Seeded once from the Secret of today, a row that the owners' code reads always holds a token that works."""
    namespace = fake_cluster.namespace()
    account = fake_cluster.account(namespace, rules=[Rule("secrets", ["get"], [SECRET])])
    first, second = make_daemon(), make_daemon()
    application.configure(first, simulator, **EAGER, lease="3s")
    seed = json.dumps(
        {"access_token": "sim-at-expired-long-since", "refresh_token": simulator.provider.new_grant()}
    )
    fake_cluster.make_secret(namespace, SECRET, {KEY: seed.encode()})
    first.change(seed={"kubernetes_secret": {"name": SECRET, "key": KEY}})
    second.config["tokens"] = json.loads(json.dumps(first.config["tokens"]))
    second.config["tokens"]["gmail"]["outputs"][0]["file"] = str(second.out / "gmail.json")
    second.config["store"] = first.config["store"]
    for daemon in (first, second):
        daemon.environment["KUBECONFIG"] = str(account.kubeconfig(daemon.folder / "account"))
        daemon.start("poll", "1")

    read: list[tuple[float, str]] = []

    def look() -> int:
        found = application.read()
        if found is not None:
            token, updated = found
            assert simulator.provider.is_live(token["access_token"])
            assert token["refresh_token"] == ""
            assert updated is not None
            assert abs((dt.datetime.now(dt.UTC).replace(tzinfo=None) - updated).total_seconds()) < 60
            if not read or read[-1][1] != token["access_token"]:
                read.append((token["expires_at"], token["access_token"]))
        return len(read)

    first.wait_until(lambda: look() >= 5, "five tokens were read", patience=60)

    # Whoever lags behind never puts an older one back, so what is read ends ever later.
    assert read == sorted(read)
    assert simulator.provider.replayed() == []
    for daemon in (first, second):
        assert application.problem(daemon) == ""
        assert daemon.stop() == 0
    if application.layout == "tenants":
        [[others]] = application.server.sql(
            "SELECT count(gmail_token) FROM tenants WHERE name = 'East Side'", database=application.database
        )
        assert others == 0


def test_mail_goes_out_whatever_is_wrong_with_the_table(
    own: Application, daemon: Daemon, simulator: Simulator
) -> None:
    """Locked, away or closed: tokens are committed and files renewed meanwhile, and all is made up for later."""
    own.configure(daemon, simulator, **EAGER)
    daemon.start("poll", "1")
    daemon.wait_until(lambda: own.token, "the row is there")

    def renewed(words: str) -> None:
        daemon.wait_until(lambda: words in own.problem(daemon), f"it is told: {words}", patience=40)
        generation = daemon.status()["generation"]
        published = daemon.published()
        daemon.wait_until(
            lambda: daemon.status()["generation"] >= generation + 2, "it is refreshed all the same"
        )
        assert daemon.published() != published
        assert daemon.answers("/readyz")

    def made_up_for() -> None:
        daemon.wait_until(
            lambda: not own.problem(daemon) and simulator.provider.is_live(own.token),
            "it is made up for",
            patience=60,
        )

    with Session(own.engine) as session:
        session.execute(sa.text("LOCK TABLE oauth_tokens IN ACCESS EXCLUSIVE MODE"))
        renewed("; look at ")
    made_up_for()
    own.server.stop("immediate")
    try:
        renewed("can't be reached")
    finally:
        own.server.start()
    made_up_for()
    own.server.sql(f"REVOKE UPDATE (token_json) ON oauth_tokens FROM {own.role}", database=own.database)
    renewed(grant := f"GRANT UPDATE (token_json) ON oauth_tokens TO {own.role}")
    own.server.sql(grant, database=own.database)
    made_up_for()
    failures = daemon.metric("output_writes_total", output=_sql_output(daemon), outcome="failed")
    assert failures >= 3
    assert daemon.stop() == 0


def _sql_output(daemon: Daemon) -> str:
    [name] = [view["output"] for view in daemon.status()["outputs"] if view["output"].startswith("sql:")]
    return str(name)


def test_a_seed_in_a_table_is_used_once(own: Application, daemon: Daemon, simulator: Simulator) -> None:
    """The row of the old layout stays as it is, and a restart goes on with what came of it."""
    grants = (
        "CREATE TABLE legacy (account text PRIMARY KEY, token jsonb)",
        f"GRANT SELECT (account, token) ON legacy TO {own.role}",
        f"INSERT INTO legacy VALUES ('{ACCOUNT}', NULL)",
    )
    own.server.sql(*grants, database=own.database)
    own.configure(daemon, simulator)
    source = {"url_file": str(daemon.folder / "app-database"), "table": "legacy", "column": "token"}
    daemon.change(seed={"sql": {**source, "where": {"account": ACCOUNT}}})
    daemon.launch("poll", "1")
    daemon.wait_until(lambda: daemon.answers("/startupz", 503), "it runs")
    daemon.wait_until(
        lambda: "is NULL: put the refresh token there" in daemon.get("/startupz").text, "it says so"
    )

    seed = json.dumps({"refresh_token": simulator.provider.new_grant()})
    own.server.sql(f"UPDATE legacy SET token = '{seed}'", database=own.database)
    daemon.wait_until(lambda: daemon.answers("/startupz"), "/startupz is 200")
    daemon.wait_until(lambda: own.token, "the row is there")
    assert daemon.stop() == 0
    daemon.change(**EAGER)
    daemon.start("poll", "1")
    generation = daemon.status()["generation"]
    wait_until(lambda: daemon.status()["generation"] > generation, what="it goes on")

    assert simulator.provider.replayed() == []
    assert daemon.stop() == 0
    assert own.server.sql("SELECT token->>'refresh_token' FROM legacy", database=own.database) == [
        (json.loads(seed)["refresh_token"],)
    ]
