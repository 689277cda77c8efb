"""Real daemons whose store falls back, is emptied, edited, changed, forbidden or full, and comes back.

Each misfortune has a state and words with a way out; nobody sends a spent refresh token meanwhile; the newest pair is
written again wherever one is known; and nothing needs a restart once the cause is gone.
"""

# ruff: noqa: S608 - what is put into statements is made here

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.errors import SidecarError
from sidecar.stores.postgres import SCHEMA
from sidecar.testing import faults
from sidecar.tokens import Record, decode_record
from tests import forks
from tests.e2e.conftest import PATIENCE, Daemon, MakeDaemon, wait_until
from tests.postgres import Server, following

if TYPE_CHECKING:
    from sidecar.testing import Simulator

LOST = "the store lost a newer record, which is written again"
TABLE = "token_sidecar_records"
MOUNT = ("mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "none")
UMOUNT = ("umount",)

Make = Callable[..., Daemon]


@pytest.fixture
def make(make_daemon: MakeDaemon, server: Server, database: str) -> Make:
    """Make daemons that share a namespace in one database."""

    def made(*, user: str = "postgres", url: str = "") -> Daemon:
        daemon = make_daemon()
        daemon.config |= {"store": url or server.url(database, user=user), "namespace": "shared"}
        return daemon

    return made


@pytest.fixture
def sql(server: Server, database: str) -> Callable[..., list[Any]]:
    """Do something behind the daemons' backs."""

    def run(*statements: str) -> list[Any]:
        return server.sql(*statements, database=database)

    return run


Sql = Callable[..., list[Any]]


def stored(sql: Sql, name: str = "gmail") -> Record | None:
    """Return a record as the database has it."""
    rows = sql(f"SELECT blob FROM {TABLE} WHERE key = 'shared/{name}'")
    return decode_record(rows[0]["blob"]) if rows else None


def generation(sql: Sql) -> int:
    """Return the generation that the database has; -1: no record."""
    record = stored(sql)
    return record.generation if record is not None else -1


def calls(simulator: Simulator) -> int:
    """Count the requests that the provider has seen."""
    return len(simulator.provider.report().requests)


def refresh(daemon: Daemon, times: int = 1) -> None:
    """Have it call the provider."""
    for _ in range(times):
        assert daemon.control.refresh("gmail").refreshed


def look(daemon: Daemon) -> None:
    """Have it take a turn, by touching what it watches: it reads what others wrote, and its own within a minute."""
    path = daemon.output()
    path.write_bytes(path.read_bytes() + b" ")


def wait_for(daemon: Daemon, state: str, says: str = "") -> dict[str, Any]:
    """Wait until a token is in a state for a reason; turns are asked for, since nothing else may be due."""
    found: dict[str, Any] = {}

    def there() -> bool:
        found.update(daemon.status())
        if (found["grant_state"] == state) and says in found["reason"]:
            return True
        look(daemon)
        return False

    try:
        daemon.wait_until(there, f"{state}: {says}", patience=2 * PATIENCE)
    except AssertionError as error:
        raise AssertionError(f"{found['grant_state']}: {found['reason']}\n{error}") from None
    return found


def refused(daemon: Daemon) -> str:
    """Ask for a refresh that can't be had; returns why."""
    with pytest.raises(SidecarError) as caught:
        daemon.control.refresh("gmail")
    return str(caught.value)


def sound(simulator: Simulator) -> None:
    """Make sure that nothing was used twice."""
    assert simulator.provider.reused() == []
    assert [family.killed for family in simulator.provider.report().families if family.killed] == []


@contextmanager
def backed_up(sql: Sql) -> Iterator[Callable[[], object]]:
    """Make a backup of the table; gives what restores it."""
    name = f"copy_{secrets.token_hex(4)}"
    sql(f"CREATE TABLE {name} AS SELECT * FROM {TABLE}")
    yield lambda: sql(f"DELETE FROM {TABLE}", f"INSERT INTO {TABLE} SELECT * FROM {name}")
    sql(f"DROP TABLE {name}")


def a_minute_later(sql: Sql) -> None:
    """End the time for which a healed record is left alone."""
    rows = sql(f"UPDATE {TABLE} SET lease_until = NULL WHERE lease_until > clock_timestamp() RETURNING key")
    assert rows, "it was not left alone"


# The store falls back


@pytest.mark.timeout(180)
def test_a_failover_to_a_standby_that_lacks_the_last_commits(
    make: Make, simulator: Simulator, server: Server, database: str
) -> None:
    """Whichever of the running daemons looks first writes the newest pair again; both wait for who knows more."""
    with following(server) as standby:
        url = server.url(database).replace(f":{server.port}", f":{server.port},127.0.0.1:{standby.port}")
        first, second = make(url=url), make(url=url)
        first.add(simulator)
        first.start()
        second.config["tokens"] = json.loads(json.dumps(first.config["tokens"]))
        del second.config["tokens"]["gmail"]["seed"]
        second.change(outputs=[{"file": str(second.output()), "format": "gmail-sdk"}])
        second.start()

        def replica(*statements: str) -> list[Any]:
            return standby.sql(*statements, database=database)

        wait_until(lambda: generation(replica) == 1, what="the standby has followed")
        standby.sql("ALTER SYSTEM SET primary_conninfo = ''")
        standby.reload()
        wait_until(lambda: not server.sql("SELECT 1 FROM pg_stat_replication"), what="it follows no more")
        refresh(first, 2)
        newest = first.published()
        look(second)
        second.wait_until(lambda: second.published() == newest, "the second has heard of it")
        assert generation(replica) == 1
        server.stop("immediate")
        try:
            standby.run("pg_ctl", "-w", "-D", str(standby.data), "promote")
            look(second)
            second.wait_until(lambda: generation(replica) == 3, "it is healed", patience=2 * PATIENCE)
            assert LOST in first.text() + second.text()
            assert "another instance may know a newer record" in refused(first)
            assert second.published() == newest
            a_minute_later(replica)
            refresh(first)
            assert generation(replica) == 4
            assert (first.stop(), second.stop()) == (0, 0)
        finally:
            server.start()
    sound(simulator)


@pytest.mark.timeout(180)
def test_a_restored_backup(make: Make, simulator: Simulator, sql: Sql) -> None:
    """Under a running daemon it is healed; one that starts on it holds until the newer record is back."""
    daemon = make()
    daemon.add(simulator)
    daemon.start()
    with backed_up(sql) as restore:
        refresh(daemon, 3)
        restore()
        assert generation(sql) == 1
        assert "another instance may know a newer record" in refused(daemon)
        assert generation(sql) == 4
        assert LOST in daemon.text()
        assert "a newer record still" in daemon.status()["reason"]
        newest, so_far = daemon.published(), calls(simulator)

        with backed_up(sql) as restore_newer:
            assert daemon.stop() == 0
            restore()
            daemon.start(probe="/livez")
            held = wait_for(daemon, "in_doubt", "the store fell back: generation 4 was published here")
            assert "it holds generation 1" in held["reason"]
            assert "token-sidecar seed gmail --file FILE" in held["reason"]
            assert daemon.answers("/readyz")
            daemon.wait_until(
                lambda: daemon.published() == newest, "its output is repaired or was never touched"
            )
            assert (generation(sql), calls(simulator)) == (1, so_far)
            restore_newer()
    wait_for(daemon, "ok")
    a_minute_later(sql)
    refresh(daemon)
    assert generation(sql) == 5
    assert daemon.stop() == 0
    sound(simulator)


def test_a_deleted_row(make: Make, simulator: Simulator, sql: Sql) -> None:
    """A running daemon writes it again; one that starts without it takes no spent seed, until it is back."""
    daemon = make()
    seed = daemon.add(simulator)
    daemon.start()
    refresh(daemon)
    sql(f"DELETE FROM {TABLE}")
    assert "another instance may know a newer record" in refused(daemon)
    assert generation(sql) == 2
    assert LOST in daemon.text()
    with backed_up(sql) as restore:
        assert daemon.stop() == 0
        sql(f"DELETE FROM {TABLE}")
        daemon.start(probe="/livez")
        told = wait_for(daemon, "unseeded", "the store has no record of this token")
        assert "restore the store, or consent again: token-sidecar login gmail" in told["reason"]
        assert generation(sql) == -1
        restore()
    wait_for(daemon, "ok")
    a_minute_later(sql)
    refresh(daemon)
    assert simulator.provider.uses(seed) == 1
    assert daemon.stop() == 0
    sound(simulator)


# The store is edited


@pytest.mark.timeout(180)
def test_a_row_that_was_edited_by_hand(make: Make, simulator: Simulator, sql: Sql) -> None:
    """What is no record of this token is left alone and told; a new refresh token in it is a repair, and used."""
    daemon = make()
    daemon.add(simulator)
    daemon.add(simulator, "other")
    daemon.start()
    so_far, newest = calls(simulator), daemon.published()
    rubbish = {
        "'\\xdeadbeef'": "damaged, or was edited by hand; it is left untouched: restore it from a backup, or remove it",
        "'[1, 2]'": "damaged, or was edited by hand",
        f"(SELECT blob FROM {TABLE} WHERE key = 'shared/other')": "a copy of another token's record",
    }
    for blob, says in rubbish.items():
        sql(f"UPDATE {TABLE} SET blob = {blob} WHERE key = 'shared/gmail'")
        before = sql(f"SELECT * FROM {TABLE} ORDER BY key")
        assert "shared/gmail" in refused(daemon)
        told = wait_for(daemon, "retrying", says)
        assert "sim-" not in told["reason"]
        assert sql(f"SELECT * FROM {TABLE} ORDER BY key") == before
        assert daemon.published() == newest
        sql(f"DELETE FROM {TABLE} WHERE key = 'shared/gmail'")
        wait_for(daemon, "ok")
        assert generation(sql) == 1
    assert calls(simulator) == so_far
    a_minute_later(sql)

    fresh = simulator.provider.new_grant()
    document = json.loads(sql(f"SELECT blob FROM {TABLE} WHERE key = 'shared/gmail'")[0]["blob"])
    spent, document["refresh"]["value"] = document["refresh"]["value"], fresh
    sql(
        f"UPDATE {TABLE} SET blob = '\\x{json.dumps(document).encode().hex()}', version = 'mine'"
        " WHERE key = 'shared/gmail'"
    )
    refresh(daemon)
    assert (simulator.provider.uses(fresh), simulator.provider.uses(spent)) == (1, 0)
    assert daemon.stop() == 0
    sound(simulator)


# The tables are changed


@pytest.mark.timeout(180)
def test_tables_that_are_dropped_or_of_another_version(
    make: Make, simulator: Simulator, server: Server, sql: Sql, database: str
) -> None:
    """Dropped tables are not made again by a running daemon, other versions are told; each ends with its cause."""
    daemon = make()
    daemon.add(simulator)
    daemon.start()
    so_far = calls(simulator)
    sql(f"DROP TABLE {TABLE}, token_sidecar_schema")
    assert "store migrate" in refused(daemon)
    wait_for(daemon, "retrying", "its tables are missing")
    assert forks.run("sidecar", "store", "migrate", "--config", str(daemon.path)).returncode == 0
    wait_for(daemon, "ok")
    assert generation(sql) == 1
    for version, says in (
        (SCHEMA + 2, f"its tables are of a newer version (schema {SCHEMA + 2}"),
        (0, "of an older version (schema 0"),
    ):
        sql(f"UPDATE token_sidecar_schema SET version = {version}")
        hang_up(server, database)
        refused(daemon)
        told = wait_for(daemon, "retrying", says)
        assert ("store migrate" if version == 0 else "run that version again") in told["reason"]
        sql(f"UPDATE token_sidecar_schema SET version = {SCHEMA}")
        wait_for(daemon, "ok")
    assert calls(simulator) == so_far
    assert "another instance may know a newer record" in refused(daemon)
    a_minute_later(sql)
    refresh(daemon)
    assert daemon.stop() == 0
    sound(simulator)


def hang_up(server: Server, database: str) -> None:
    """Close the daemons' connections, so that they come anew."""
    server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")


# The store is forbidden


@pytest.mark.timeout(180)
def test_rights_that_are_taken_away(
    make: Make, simulator: Simulator, server: Server, sql: Sql, database: str
) -> None:
    """Without a right nobody is called and the GRANT is named; given back, the refresh follows without a restart."""
    user = f"r{secrets.token_hex(6)}"
    sql(
        f"CREATE ROLE {user} LOGIN",
        f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {database} TO {user}",
        f"CREATE SCHEMA mine AUTHORIZATION {user}",
        f"ALTER ROLE {user} SET search_path = mine",
    )
    daemon = make(user=user)
    daemon.add(simulator)
    daemon.start()
    owned = f"mine.{TABLE}"
    taken = {
        f"UPDATE ON {owned}": "GRANT SELECT, INSERT, UPDATE, DELETE",
        f"SELECT ON {owned}": "GRANT SELECT, INSERT, UPDATE, DELETE",
        f"CONNECT ON DATABASE {database}": f"GRANT CONNECT ON DATABASE {database} TO {user}",
    }
    for right, says in taken.items():
        so_far = calls(simulator)
        sql(f"REVOKE {right} FROM {user}")
        if "CONNECT" in right:
            hang_up(server, database)
        refused(daemon)
        wait_for(daemon, "retrying", says)
        assert calls(simulator) == so_far
        sql(f"GRANT {right} TO {user}")
        wait_for(daemon, "ok")
        refresh(daemon)
    sql(f"ALTER ROLE {user} NOLOGIN")
    hang_up(server, database)
    refused(daemon)
    wait_for(daemon, "retrying", f"the login of {user} was refused")
    sql(f"ALTER ROLE {user} LOGIN")
    wait_for(daemon, "ok")
    refresh(daemon)
    assert daemon.stop() == 0
    sound(simulator)
    sql("DROP SCHEMA mine CASCADE", f"DROP OWNED BY {user}", f"DROP ROLE {user}")


# The disk is full


def test_a_database_whose_disk_is_full(make: Make, simulator: Simulator, sql: Sql) -> None:
    """Before the lease nobody is called; between answer and commit the readers are served, and the pair is kept."""
    daemon = make()
    daemon.add(simulator)
    daemon.start()
    sql(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
    )
    fill = f"CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON {TABLE} EXECUTE FUNCTION full_disk()"
    free = f"DROP TRIGGER full_disk ON {TABLE}"
    full_and_free(daemon, simulator, lambda: sql(fill), lambda: sql(free), says="the server's disk is full")
    assert generation(sql) == 3
    assert daemon.stop() == 0


@pytest.fixture
def small(daemon: Daemon) -> Iterator[Callable[[str], Path]]:
    """Put file systems of 512 KiB into a daemon's folder."""
    mounted: list[Path] = []

    def mount(name: str) -> Path:
        path = daemon.folder / name
        path.mkdir(exist_ok=True)
        done = subprocess.run([*MOUNT, str(path)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    daemon.close()
    for path in mounted:
        subprocess.run([*UMOUNT, str(path)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte on a file system."""
    with (folder / "filler").open("wb", buffering=0) as filler:
        for size in (4096, 1):
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError:
                pass


def test_a_sqlite_file_whose_disk_is_full(
    daemon: Daemon, simulator: Simulator, small: Callable[[str], Path]
) -> None:
    """The same with SQLite, and a file system that is really full."""
    folder = small("store")
    daemon.store = folder / "store.db"
    daemon.config["store"] = f"sqlite://{daemon.store}"
    daemon.add(simulator)
    daemon.start()
    full_and_free(
        daemon, simulator, lambda: fill(folder), (folder / "filler").unlink, says="the disk is full"
    )
    assert daemon.stored().generation == 3
    assert daemon.stop() == 0


def full_and_free(
    daemon: Daemon,
    simulator: Simulator,
    fill: Callable[[], object],
    free: Callable[[], object],
    *,
    says: str,
) -> None:
    """Fill the store's disk while idle and while a request is under way, and free it again."""
    so_far = calls(simulator)
    fill()
    assert says in refused(daemon)
    assert calls(simulator) == so_far
    assert says in wait_for(daemon, "retrying")["reason"]
    free()
    wait_for(daemon, "ok")
    refresh(daemon)

    before = daemon.published()
    simulator.provider.add_fault(faults.latency(after=3))
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(daemon.control.refresh, "gmail")
        assert simulator.provider.wait_until(lambda: simulator.provider.report().in_flight == 1)
        fill()
        assert asked.result().refreshed
    state = daemon.status()
    assert (state["grant_state"], state["generation"]) == ("unpersisted", 3)
    assert says in state["reason"]
    assert daemon.published() != before
    free()
    daemon.wait_until(lambda: daemon.status()["grant_state"] == "ok", "it is committed")
    sound(simulator)


def test_a_full_state_dir(daemon: Daemon, simulator: Simulator, small: Callable[[str], Path]) -> None:
    """Without room for an answer none is asked for; with room again, the refresh follows."""
    daemon.state_dir = small("small")
    daemon.config["state_dir"] = str(daemon.state_dir)
    daemon.add(simulator)
    daemon.start()
    fill(daemon.state_dir)
    assert "space" in refused(daemon)
    state = daemon.status()
    assert (state["grant_state"], calls(simulator)) == ("misconfigured", 1)
    assert daemon.stored().attempt is None
    (daemon.state_dir / "filler").unlink()
    refresh(daemon)
    wait_for(daemon, "ok")
    assert daemon.stop() == 0
    sound(simulator)
