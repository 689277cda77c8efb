"""Real daemons and commands on a real PostgreSQL server."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.errors import SidecarError
from tests import forks, leaks
from tests.e2e.conftest import EAGER, PATIENCE, Daemon, MakeDaemon, wait_until

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.postgres import Server

Begin = Callable[..., Daemon]

POLL = "execute SELECT pg_is_in_recovery"
WRITE = "execute UPDATE token_sidecar_records"


@pytest.fixture
def make(make_daemon: MakeDaemon, server: Server, database: str) -> Callable[..., Daemon]:
    """Make daemons that share a namespace in one database."""

    def made(*, user: str = "postgres") -> Daemon:
        daemon = make_daemon()
        daemon.config |= {"store": server.url(database, user=user), "namespace": "shared"}
        return daemon

    return made


def refreshes(simulator: Simulator) -> int:
    """Count the requests that the provider has seen."""
    return len(simulator.provider.report().requests)


def test_daemons_share_a_grant(make: Begin, simulator: Simulator) -> None:
    """Three daemons refresh one rotating grant as often as one would, and no refresh token is sent twice."""
    first = make()
    first.add(simulator, **EAGER, lease="3s")
    first.start()
    others = [make() for _ in range(2)]
    for daemon in others:
        daemon.join(first)
        daemon.start()
    wait_until(lambda: refreshes(simulator) >= 6, what="six refreshes")
    assert first.stop() == 0
    so_far = refreshes(simulator)
    wait_until(lambda: refreshes(simulator) >= so_far + 3, what="others go on", patience=2 * PATIENCE)
    for daemon in others:
        assert daemon.stop() == 0
    assert simulator.provider.report().replayed == ()


def test_it_starts_while_the_database_is_away(make: Begin, simulator: Simulator, server: Server) -> None:
    """Without its database a daemon runs and calls nobody; it refreshes within seconds of its return."""
    daemon = make()
    daemon.add(simulator)
    server.stop()
    try:
        daemon.start(probe="/livez")
        daemon.wait_until(lambda: "can't be reached" in daemon.text(), "it says what is wrong")
        assert refreshes(simulator) == 0
    finally:
        server.start()
    daemon.wait_until(lambda: daemon.answers("/startupz"), "it is ready", patience=2 * PATIENCE)
    assert daemon.stop() == 0


def test_a_reload_takes_a_changed_login(
    make: Begin, simulator: Simulator, server: Server, database: str
) -> None:
    """The URL's file may hold another login at a reload; another database is another store, and refused."""
    daemon = make()
    daemon.add(simulator)
    url, file = daemon.config["store"], daemon.folder / "store-url"
    daemon.config["store"] = {"url_file": str(file)}
    file.write_text(url, encoding="utf-8")
    daemon.start()
    file.write_text(url.replace("postgres@", "postgres:another@"), encoding="utf-8")
    daemon.control.reload()
    file.write_text(url.replace(f"/{database}", "/other"), encoding="utf-8")
    with pytest.raises(SidecarError, match="store: changes only at a restart"):
        daemon.control.reload()
    assert daemon.stop() == 0


def sealed(daemon: Daemon) -> Path:
    """Have a daemon seal what it stores with a new key; returns the key's file."""
    key = daemon.folder / "store.key"
    key.write_bytes(base64.b64encode(os.urandom(32)))
    key.chmod(0o600)
    daemon.config["store"] = {"url": daemon.config["store"], "encryption_keys": [str(key)]}
    return key


def kept(daemon: Daemon, server: Server, database: str) -> dict[str, bytes]:
    """Return every byte that the database's rows and the escrow's entries hold, by where it is."""
    rows = server.sql("SELECT key, version, blob FROM token_sidecar_records", database=database)
    entries = {path.name: path.read_bytes() for path in (daemon.state_dir / "escrow").iterdir()}
    return {f"{row['key']} {row['version']}": row["blob"] for row in rows} | entries


def secrets_in(content: dict[str, bytes]) -> list[leaks.Leak]:
    """Find the tokens that can be read there."""
    return [leak for place, data in content.items() for leak in leaks.in_bytes(data, place)]


def die_with_an_answer(daemon: Daemon) -> None:
    """Run until the second answer is in escrow and nowhere else."""
    daemon.launch("after-escrow", "kill")
    assert daemon.wait() == -signal.SIGKILL, daemon.text()


def test_a_sealed_pair_outlives_its_daemon(
    make: Begin, simulator: Simulator, server: Server, database: str
) -> None:
    """With keys, neither the rows nor the escrow of a killed daemon hold a readable token, and none is lost."""
    daemon = make()
    daemon.add(simulator, **EAGER)
    sealed(daemon)
    die_with_an_answer(daemon)
    left = kept(daemon, server, database)
    assert len(left) == 2
    assert secrets_in(left) == []

    daemon.start()

    daemon.wait_until(lambda: daemon.status()["generation"] >= 3, "it goes on")
    assert daemon.stop() == 0
    assert simulator.provider.reused() == []
    left = kept(daemon, server, database)
    assert len(left) == 1
    assert secrets_in(left) == []


@pytest.mark.parametrize("instead", ["nothing", "another key"])
def test_without_its_key_a_record_is_left_alone(
    make: Begin, simulator: Simulator, server: Server, database: str, instead: str
) -> None:
    """A key that is missing at a restart is told with the way out; nothing is written or sent until it is back."""
    daemon = make()
    daemon.add(simulator, **EAGER)
    key = sealed(daemon)
    die_with_an_answer(daemon)
    before, calls = kept(daemon, server, database), refreshes(simulator)
    aside = key.rename(key.with_suffix(".aside"))
    if instead == "nothing":
        daemon.launch()
        assert daemon.wait() == 2
    else:
        key.write_bytes(base64.b64encode(os.urandom(32)))
        daemon.start(probe="/livez")
        daemon.wait_until(
            lambda: "is sealed with the key" in daemon.status()["reason"], "it says what it lacks"
        )
        assert daemon.answers("/startupz", 503)
        assert daemon.stop() == 0
    assert str(key) in daemon.text()
    assert (kept(daemon, server, database), refreshes(simulator)) == (before, calls)

    aside.rename(key)
    daemon.start()

    daemon.wait_until(lambda: daemon.status()["generation"] >= 3, "it goes on with the pair from escrow")
    assert daemon.stop() == 0
    assert simulator.provider.reused() == []


class Meter:
    """Counts what one role asks of the server, message by message: its log is complete for that role."""

    def __init__(self, server: Server) -> None:
        self.user = f"counted_{secrets.token_hex(4)}"
        self._log = server.data / "log"
        # What is there by now is about others.
        self._begin = self._log.stat().st_size
        self._skip = 0
        server.sql(
            f"CREATE ROLE {self.user} LOGIN SUPERUSER",
            f"ALTER ROLE {self.user} SET log_min_duration_statement = 0",
            f"ALTER ROLE {self.user} SET log_parameter_max_length = 0",
        )

    def reset(self) -> None:
        """Begin anew."""
        self._skip += len(self.asked())

    def asked(self) -> list[str]:
        """Return each message since then: how it was sent, and the first two words of its statement.

        Binding is left out: it comes along with each execution.
        """
        with self._log.open("rb") as log:
            log.seek(self._begin)
            lines = log.read().decode().splitlines()
        found = (
            re.search(r"duration: \S+ ms  (parse|execute|statement)\b[^:]*: (\w+ \w+)", line)
            for line in lines
        )
        return [f"{one[1]} {one[2]}" for one in found if one][self._skip :]


def test_what_a_refresh_costs(make: Begin, simulator: Simulator, server: Server, database: str) -> None:
    """A refresh takes two statements, the lease and the commit; no other, and no transaction but theirs."""
    meter = Meter(server)
    daemon = make(user=meter.user)
    daemon.add(simulator, **EAGER)
    daemon.start()
    wait_until(lambda: refreshes(simulator) >= 2, what="statements are prepared, which is done once")
    # Not by counting from the start on: there a busy machine may have let a statement be asked twice.
    wait_until(lambda: not any((daemon.state_dir / "escrow").iterdir()), what="it is committed")
    meter.reset()
    so_far = refreshes(simulator)
    wait_until(lambda: refreshes(simulator) == so_far + 4, what="four refreshes")
    assert daemon.stop() == 0
    assert meter.asked() == 2 * (refreshes(simulator) - so_far) * [WRITE]


def test_what_idling_costs(make: Begin, simulator: Simulator, server: Server, database: str) -> None:
    """While nothing is due the record is read once in each interval, and nothing else is asked."""
    meter, interval = Meter(server), 2.0
    daemon = make(user=meter.user)
    daemon.add(simulator)
    daemon.start("poll", str(interval))
    wait_until(lambda: meter.asked()[-1] == POLL, what="the first poll")
    meter.reset()
    began = time.monotonic()
    wait_until(lambda: len(meter.asked()) >= 4, what="four polls")
    assert time.monotonic() - began > 3 * interval
    assert daemon.stop() == 0
    assert set(meter.asked()) == {POLL}


def test_commands_read_it_without_a_daemon(
    make: Begin, simulator: Simulator, server: Server, database: str
) -> None:
    """Reading creates nothing; what a daemon stored is listed, printed and exported after its end."""
    daemon = make()
    daemon.add(simulator)
    daemon.write_config()

    def run(*arguments: str) -> Any:
        return forks.run("sidecar", *arguments, "--config", str(daemon.path))

    assert run("store", "list").stdout == "the store holds no records\n"
    assert run("status").returncode == 3
    assert server.sql("SELECT 1 FROM pg_tables WHERE tablename ~ 'sidecar'", database=database) == []
    printed = run("store", "migrate", "--print").stdout
    assert "CREATE TABLE IF NOT EXISTS token_sidecar_records" in printed
    assert "up to date and holds 0 records" in run("store", "migrate").stdout
    daemon.start()
    published = daemon.published()
    assert daemon.stop() == 0
    assert run("token", "gmail").stdout.strip() == published
    assert run("status").returncode == 0
    assert "shared/gmail" in run("store", "list").stdout
    exported = run("export", "gmail", "--yes")
    assert json.loads(exported.stdout)["access_token"] == published
    assert run("refresh", "gmail").returncode == 0
    assert run("store", "rename", "gmail", "other").returncode == 0
    assert "shared/other" in run("store", "list").stdout
