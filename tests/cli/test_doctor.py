"""`doctor`: what is wrong is one line with its remedy, and looking changes nothing."""

from __future__ import annotations

import errno
import http.server
import json
import os
import re
import secrets
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click
import msgspec
import pytest

from sidecar import __version__, cli, rotation, standing
from sidecar.cli import common
from sidecar.cli.doctor import identity, provider, storage
from sidecar.cli.doctor.identity import AsUser, Identity
from sidecar.config.mounts import Mounts
from sidecar.errors import StoreError
from sidecar.events import TokenView
from sidecar.ports import Grade, Seeding
from sidecar.server.client import ControlClient
from sidecar.stores.base import Blob
from sidecar.stores.memory import MemoryStore
from sidecar.stores.postgres import SCHEMA
from sidecar.tokens import GrantState, RefreshToken, decode_record, encode_record, fingerprint
from tests import pki
from tests.cli.conftest import Place
from tests.kube.cluster import Rule
from tests.kube.fake import Fake
from tests.postgres import Server

NOBODY = 65534
SECRET = re.compile(r"sim-(at|rt|cs)-")


class Told:
    """What `doctor --json` said."""

    def __init__(self, document: dict[str, Any], code: int) -> None:
        self.document = document
        self.code = code
        assert document["exit_code"] == code

    def lines(self, check: str) -> list[tuple[str, str]]:
        """Return status and words of every line of a check."""
        found = [one for one in self.document["checks"] if one["check"] == check]
        return [(one["status"], f"{one['subject']}: {one['finding']}; {one['remedy']}") for one in found]

    def line(self, check: str, status: str) -> str:
        """Return the words of the one line that a check has of this status."""
        lines = self.lines(check)
        [words] = [words for grade, words in lines if grade == status]
        return words

    @property
    def failed(self) -> set[str]:
        """Name the checks that failed."""
        return {one["check"] for one in self.document["checks"] if one["status"] == "failed"}


@pytest.fixture
def seeded(place: Place) -> Place:
    """Make a place whose store holds a refresh token that was not used yet, without a process of its own for it."""
    refresh = RefreshToken(place.provider.new_grant(), issued_at=time.time())
    record = rotation.seeded(None, Seeding(refresh), client_id="sim-client", endpoint=place.simulator.url)
    settings = common.load(place.config)

    async def plant() -> None:
        async with common.make_store(settings) as store:
            await store.write("default/gmail", record, expected=None)

    anyio.run(plant)
    settings.state_dir.mkdir(mode=0o700)
    (settings.state_dir / "lock").touch(0o600)
    return place


@pytest.fixture
def doctor(place: Place, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Call it in this process; whatever it finds, no secret is in what it says."""

    def call(*arguments: str) -> Told:
        code = cli.main(["doctor", "--json", "-c", str(place.config), *arguments])
        printed = capsys.readouterr()
        assert not SECRET.search(printed.out + printed.err)
        return Told(json.loads(printed.out), code)

    return call


def snapshot(place: Place) -> dict[str, bytes]:
    """Read every file of a place, and the record as the store has it."""
    files = {
        str(path): path.read_bytes()
        for path in sorted(place.root.rglob("*"))
        if path.is_file() and path.name not in {"tokens.db", "log"}
    }
    with closing(sqlite3.connect(place.root / "tokens.db")) as database:
        rows = database.execute("SELECT * FROM records ORDER BY key").fetchall()
    return {**files, "rows": repr(rows).encode()}


def change_record(place: Place, **changes: Any) -> None:
    """Write something else into the record, behind the store's back."""
    with closing(sqlite3.connect(place.root / "tokens.db")) as database, database:
        [blob] = database.execute("SELECT blob FROM records").fetchone()
        record = msgspec.structs.replace(decode_record(blob), **changes)
        database.execute("UPDATE records SET blob = ?", (encode_record(record, "default/gmail"),))


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Be another user for the length of a block."""
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


# Beside a daemon, without one, as somebody else.


def test_a_healthy_daemon(running: Place, doctor: Callable[..., Told]) -> None:
    """Beside a daemon that is well nothing fails, nothing changes, and the provider gives no token."""
    before, calls = snapshot(running), running.calls()

    told = doctor()
    assert (told.code, told.failed) == (0, set())
    assert "on this configuration" in told.line("daemon", "ok")
    assert "the access token" in told.line("grant", "ok")
    assert "leased, read and removed" in told.line("lease", "ok")
    assert "GET that asks for nothing" in told.line("token endpoint", "ok")
    assert "generation 1" in told.line("record", "ok")
    assert "replaced in" in told.line("output", "ok")
    assert "room to catch an answer" in told.line("state_dir", "ok")
    assert told.line("other users", "ok")
    assert (snapshot(running), running.calls()) == (before, calls)

    told = doctor("gmail", "--refresh")
    assert (told.code, running.calls()) == (0, calls + 1)
    assert "generation 2" in told.line("refresh", "ok")
    assert "generation 2" in told.line("record", "ok")

    _seen_by_a_stranger(running, doctor)


def _seen_by_a_stranger(running: Place, doctor: Callable[..., Told]) -> None:
    """Another user is told what it can't see, and none of that is called a failure."""
    running.root.chmod(0o755)
    with as_user(NOBODY):
        told = doctor()

    assert (told.code, told.failed) == (0, set())
    assert "user 65534" in told.line("user", "warning")
    assert "can't see all" in told.line("user", "warning")
    assert "may not be opened by this user" in told.line("daemon", "skipped")
    assert "isn't the daemon's" in told.line("output", "skipped")
    assert told.line("store", "skipped")
    assert told.line("escrow", "skipped")
    assert "neither the daemon nor the store" in told.line("grant", "skipped")
    assert any("as user 65534 sees it" in words for _, words in told.lines("configuration"))


def test_without_a_daemon(seeded: Place, doctor: Callable[..., Told]) -> None:
    """The store and the outputs are looked at; `--refresh` does the work itself, once."""
    told = doctor()
    assert told.code == 4
    assert "no daemon answers" in told.line("daemon", "warning")
    assert "start the daemon" in told.line("grant", "failed")
    assert seeded.calls() == 0

    before = snapshot(seeded)
    told = doctor()
    assert snapshot(seeded) == before

    assert doctor("--refresh").code == 0
    assert seeded.calls() == 1
    assert doctor().code == 0


def test_a_table_for_people(seeded: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe a line is aligned and ends with its remedy; the last one counts them."""
    assert cli.main(["doctor", "-c", str(seeded.config)]) == 4

    head, *rows, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["STATUS", "CHECK", "FINDING"]
    assert all(row.split()[0] in set(Grade) for row in rows)
    [grant] = [row for row in rows if " grant gmail " in row]
    assert grant.startswith("failed   grant gmail ")
    assert grant.endswith("does not exist); start the daemon")
    assert re.fullmatch(r"\d+ ok, \d+ warning, 1 failed, \d+ skipped", total)


def test_a_daemon_of_another_version_and_configuration(
    seeded: Place, doctor: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the daemon works with is compared with what was read here."""
    document = {
        "version": "0.0.9",
        "uptime": 5.0,
        "config": {"path": "/etc/other.yaml", "accepted": True, "problems": []},
        "tokens": {},
        "heartbeats": {"http": {"stale": True, "age": 90.0, "stamped_at": None}},
    }
    monkeypatch.setattr(ControlClient, "status", lambda _: document)

    told = doctor()
    warnings = [words for status, words in told.lines("daemon") if status == "warning"]
    assert ["runs version 0.0.9" in warnings[0], "runs on /etc/other.yaml" in warnings[1]] == [True, True]
    assert "worker http: no heartbeat for 1m30s; restart the daemon" in told.line("daemon", "failed")
    assert told.code == 1

    document["config"] = {
        "path": str(seeded.config),
        "accepted": False,
        "problems": ["x.yaml:1: wrong; mend it"],
    }
    told = doctor()
    assert told.code == 2

    os.utime(seeded.config, (time.time() - 100, time.time() - 100))
    document |= {"version": __version__, "tokens": {"gmail": {}}, "heartbeats": {}}
    document["config"] = {"path": str(seeded.config), "accepted": True, "problems": [], "read_at": 1.0}
    monkeypatch.setattr("sidecar.cli.status.views_of", lambda _: [])
    assert "has not read the changed configuration" in doctor().line("daemon", "warning")

    # All tokens are compared, also those that are not asked for.
    document["config"] = {"path": str(seeded.config), "accepted": True, "problems": []}
    document["tokens"] = {"gmail": {}, "other": {}}
    assert "has not read the changed configuration" in doctor().line("daemon", "warning")
    seeded.document["tokens"]["other"] = {
        **seeded.token,
        "outputs": [{"file": str(seeded.output.with_name("other.json"))}],
    }
    seeded.write()
    assert doctor("gmail").line("daemon", "ok")


# The configuration, and this machine.


def test_a_configuration_that_no_machine_could_use(place: Place, doctor: Callable[..., Told]) -> None:
    """Every problem is a line of its own, and nothing else is looked at."""
    place.document["tokenz"] = {}
    place.token["min_interval"] = "soon"
    place.write()

    told = doctor()
    assert (told.code, told.failed) == (2, {"configuration"})
    assert [status for status, _ in told.lines("configuration")] == ["failed", "failed"]
    assert told.line("everything else", "skipped")
    assert doctor("no-such-token").code == 2

    del place.document["tokenz"], place.token["min_interval"]
    place.token["outputs"][0] |= {"format": "template", "template": "{{ nothing"}
    place.write()
    assert "template" in doctor().line("configuration", "failed")


def test_a_file_that_is_missing_here(seeded: Place, doctor: Callable[..., Told]) -> None:
    """What only this machine lacks is a failure, and the rest is looked at all the same."""
    (seeded.root / "client-secret").unlink()

    told = doctor()
    assert told.code == 2
    assert "client-secret does not exist; create it" in told.line("configuration", "failed")
    assert told.line("record", "ok")
    assert told.lines("client") == []


def test_an_unknown_name_is_a_usage_error(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A token that isn't configured is told together with those that are."""
    assert cli.main(["doctor", "gmial", "-c", str(place.config)]) == 2
    assert "has: gmail" in capsys.readouterr().err


def test_an_output_that_can_not_be_replaced(
    seeded: Place, doctor: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single mounted file is named, and so is whom the file can't be given to; nothing is left behind."""
    seeded.token["outputs"][0]["group"] = 12345
    seeded.write()
    assert "its mode 0640 and owner" in doctor().line("output", "ok")
    for path in (seeded.root, *seeded.root.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    with as_user(NOBODY):
        told = doctor()
    words = told.line("output", "failed")
    assert "may not replace the file or give it to None:12345; run it as that owner" in words

    # In a directory like /tmp nobody replaces what belongs to somebody else.
    del seeded.token["outputs"][0]["group"]
    seeded.write()
    os.chown(seeded.output.parent, 0, 0)
    seeded.output.parent.chmod(0o1777)
    with as_user(NOBODY):
        assert "its mode 0640 and owner" in doctor().line("output", "ok")
    seeded.output.touch()
    with as_user(NOBODY):
        assert "may not replace the file" in doctor().line("output", "failed")
    seeded.output.unlink()
    assert list(seeded.output.parent.iterdir()) == []

    monkeypatch.setattr(Mounts, "is_mount_point", lambda _self, path: path == seeded.output)
    told = doctor()
    assert "a mount point (a subPath?)" in told.line("output", "failed")


def test_a_volume_without_room(
    seeded: Place, doctor: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an answer could not be caught, none would be asked for: that is told before."""
    (seeded.root / "state").mkdir(mode=0o700, exist_ok=True)
    assert "with room to catch an answer" in doctor().line("state_dir", "ok")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    told = doctor()
    assert "has no room to catch an answer (No space left on device)" in told.line("state_dir", "failed")
    assert not list((seeded.root / "state").glob(".doctor*"))


def test_a_state_dir_that_others_see(seeded: Place, doctor: Callable[..., Told]) -> None:
    """It holds refresh tokens on their way to the store: nobody else may look."""
    (seeded.root / "state").chmod(0o755)
    assert "has mode 0755" in doctor().line("state_dir", "failed")


def test_answers_in_escrow(seeded: Place, doctor: Callable[..., Told]) -> None:
    """What waits there for a daemon is counted, and not touched."""
    escrow = seeded.root / "state" / "escrow"
    escrow.mkdir(parents=True, exist_ok=True)
    for name, first in (("a.escrow", b"R"), ("b.escrow", b"S"), ("c.escrow", b"\0"), ("d.unread", b"R")):
        (escrow / name).write_bytes(first)

    words = " ".join(words for status, words in doctor().lines("escrow") if status == "warning")
    assert "1 answers wait that the store may not have" in words
    assert "1 requests were sent" in words
    assert "1 answers are kept in which no token was found" in words
    assert len(list(escrow.iterdir())) == 4


# The application's user.


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_the_application_reads_its_token_and_nothing_else(seeded: Place, doctor: Callable[..., Told]) -> None:
    """Another user is really tried: which file it can't read, which directory bars it, and what it should not see."""
    seeded.output.write_text("{}", encoding="utf-8")
    seeded.output.chmod(0o640)
    told = doctor("--as", "65534:65534")
    words = told.line("application", "failed")
    assert (
        f"65534:65534 (tried) can't read it: permission denied at {seeded.root} (mode 0700 of 0:0)" in words
    )
    assert f"chmod g+x {seeded.root}" in words
    assert "can read no seed" in told.line("application", "ok")

    seeded.root.chmod(0o755)
    told = doctor("--as", "65534:65534")
    assert "(mode 0640 of 0:0); give the output `group: 65534`" in told.line("application", "failed")

    os.chown(seeded.output, 0, NOBODY)
    (seeded.root / "client-secret").chmod(0o644)
    told = doctor("--as", "65534:65534")
    assert "65534:65534 (tried) can read it" in told.line("application", "ok")
    assert "client-secret: 65534:65534 (tried) can read it" in told.line("application", "warning")


def test_a_user_is_a_number_or_a_name() -> None:
    """With groups it may be anybody; without, somebody whose groups this system knows."""

    def read(text: str) -> Identity:
        return AsUser().convert(text, None, None)

    assert read("2000:2000,3000") == Identity(2000, (2000, 3000))
    assert (read("root"), read("0:root")) == (read("0"), Identity(0, (0,)))
    for wrong in ("1999999999", "no-such-user", "2000:", "2000:no-such-group", "-1:0"):
        with pytest.raises(click.BadParameter, match="such as 2000:2000,3000"):
            read(wrong)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_where_trying_is_not_allowed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not become another user works it out from owners and modes, and comes to the same."""
    place.root.chmod(0o750)
    os.chown(place.root, 0, 3000)
    paths = [place.root / name for name in ("all", "group", "owner", "none", "missing")]
    for path, mode in zip(paths, (0o644, 0o640, 0o600, 0o000), strict=False):
        path.write_text("", encoding="utf-8")
        path.chmod(mode)
        os.chown(path, NOBODY if path.name == "owner" else 0, 3000)
    who = Identity(NOBODY, (NOBODY, 3000))

    tried, real = identity.look(who, paths)

    def refuse(_: Identity) -> None:
        raise PermissionError

    monkeypatch.setattr(identity, "_become", refuse)
    guessed, computed = identity.look(who, paths)

    assert (tried, guessed) == (True, False)
    assert real == computed
    assert [access.error for access in real.values()] == [0, 0, 0, errno.EACCES, errno.ENOENT]
    assert computed[paths[3]].barrier == paths[3]


# The store.


def test_a_real_database(seeded: Place, doctor: Callable[..., Told], server: Server, database: str) -> None:
    """PostgreSQL says what it is; a role that may only read is told the grant that it lacks; no row stays."""
    seeded.document |= {"store": server.url(database), "namespace": "default"}
    seeded.write()
    told = doctor()
    assert "its tables are missing; run `token-sidecar store migrate`" in told.line("store", "warning")
    assert told.code == 3

    seeded.ok("store", "migrate")
    told = doctor()
    assert re.search(rf"PostgreSQL 18\S*, schema {SCHEMA}, no TLS", told.line("store", "ok"))
    assert "the server has fsync off" in told.line("store", "warning")
    assert told.line("lease", "ok")
    assert server.sql("SELECT * FROM token_sidecar_records", database=database) == []

    role = f"reader_{database}"
    tables = "token_sidecar_records, token_sidecar_schema"
    server.sql(f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON {tables} TO {role}", database=database)
    try:
        seeded.document["store"] = server.url(database, user=role)
        seeded.write()
        told = doctor()
        assert f"GRANT SELECT, INSERT, UPDATE, DELETE ON token_sidecar_records TO {role}" in told.line(
            "lease", "failed"
        )

        server.sql("UPDATE token_sidecar_schema SET version = 9", database=database)
        assert f"schema 9; this one works with up to {SCHEMA + 1}" in doctor().line("store", "failed")
    finally:
        server.sql(f"DROP OWNED BY {role}", f"DROP ROLE {role}", database=database)

    server.port, port = 1, server.port
    seeded.document["store"] = server.url(database)
    server.port = port
    seeded.write()
    told = doctor()
    assert (told.code, told.lines("grant")[0][0]) == (4, "skipped")
    assert "can't be reached" in told.line("store", "failed")


def test_a_damaged_file(seeded: Place, doctor: Callable[..., Told]) -> None:
    """A store whose file is something else is a failure that names it."""
    (seeded.root / "tokens.db").write_bytes(b"no database at all " * 100)

    assert "it is not a SQLite database" in doctor().line("store", "failed")


def test_records_that_are_sealed(seeded: Place, doctor: Callable[..., Told]) -> None:
    """A record in clear beside keys is a warning, one whose key is gone a failure."""
    first, second = seeded.root / "one.key", seeded.root / "two.key"
    for path in (first, second):
        seeded.ok("store", "keygen", str(path))

    def keys(*paths: Path, **more: Any) -> Told:
        place = {"url": f"sqlite://{seeded.root}/tokens.db", "encryption_keys": [*map(str, paths)], **more}
        seeded.document["store"] = place
        seeded.write()
        return doctor()

    assert "in clear although there are keys" in keys(first).line("record", "warning")
    assert "refuses" in keys(first, require_encryption=True).line("record", "failed")
    seeded.ok("store", "rekey")
    assert "opened with the key" in keys(first).line("record", "ok")
    told = keys(second)
    assert "is sealed with the key" in told.line("record", "failed")
    assert told.code == 1
    assert told.lines("grant") == []
    assert "could not be compared" in told.line("other users", "skipped")


def test_rights_in_a_cluster(
    seeded: Place, doctor: Callable[..., Told], fake_cluster: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Kubernetes each Secret and each right that lacks is told with what to create, and none is written."""
    namespace = fake_cluster.namespace()
    account = fake_cluster.account(namespace, rules=[Rule("secrets", ["get"], names=["state-gmail"])])
    monkeypatch.setenv("KUBECONFIG", str(account.kubeconfig(seeded.root / "kube")))
    seeded.document |= {"store": f"kubernetes://{namespace}/state", "namespace": "default"}
    seeded.write()

    told = doctor()
    assert "create secret generic state-gmail" in told.line("record", "failed")
    assert "create secret generic state-gmail" in told.line("lease", "failed")

    fake_cluster.make_secret(namespace, "state-gmail", None)
    told = doctor()
    assert "resourceNames: [state-gmail], verbs: [get, patch]" in told.line("lease", "failed")
    assert "there is none yet" in told.line("record", "ok")

    fake_cluster.allow(account, [Rule("secrets", ["get", "patch"], names=["state-gmail"])])
    before = fake_cluster.secret(namespace, "state-gmail")
    assert "could be written; nothing was" in doctor().line("lease", "ok")
    assert fake_cluster.secret(namespace, "state-gmail") == before

    place = {"namespace": namespace, "name": "app", "key": "token.json"}
    seeded.token["outputs"].append({"kubernetes_secret": place})
    seeded.token["seed"] = {"kubernetes_secret": {**place, "key": "seed"}}
    seeded.write()
    told = doctor()
    assert "app" in told.line("output", "warning")
    assert "may not get it" in told.line("output", "warning")
    assert "it is in a Secret" in told.line("seed", "skipped")
    assert "resourceNames: [app], verbs: [get, patch]" in told.line("output", "failed")
    fake_cluster.allow(account, [Rule("secrets", ["get", "patch"], names=["state-gmail", "app"])])
    fake_cluster.make_secret(namespace, "app", {"other": b"theirs"})
    before = fake_cluster.secret(namespace, "app")
    assert "this key of it can be written; nothing was" in str(doctor().lines("output"))
    assert fake_cluster.secret(namespace, "app") == before


def test_a_table_is_looked_at(
    seeded: Place, doctor: Callable[..., Told], server: Server, database: str
) -> None:
    """Rights, types and the row are told, and the line that grants what is lacking; nothing is written."""
    role = f"r{secrets.token_hex(6)}"
    server.sql(f"CREATE ROLE {role} LOGIN", "CREATE TABLE t (k text, c jsonb, seed text)", database=database)
    url = server.url(database, user=role)
    cell = {"url": url, "table": "t", "where": {"k": "v"}, "column": "c", "mode": "update"}
    seeded.token["outputs"].append({"sql": cell})
    seeded.token["seed"] = {"sql": {**cell, "column": "seed"}}
    del seeded.token["seed"]["sql"]["mode"]
    seeded.write()

    told = doctor()
    assert told.code == 1
    assert "it is in a table" in told.line("seed", "skipped")
    grants = told.line("output", "failed").partition("; ")[2]
    server.sql(*grants.split("; "), database=database)
    assert "no row matches `where`" in doctor().line("output", "failed")
    server.sql("INSERT INTO t VALUES ('v')", database=database)
    assert f"{role} may write t.c (jsonb)" in str(doctor().lines("output"))
    assert server.sql("SELECT c FROM t", database=database) == [(None,)]


class Deaf(MemoryStore):
    """Loses every lease."""

    async def _write_blob(self, key: str, blob: bytes, *, expected: str | None, lease: float) -> str:
        return await super()._write_blob(key, blob, expected=expected, lease=lease * 0)


class Careless(MemoryStore):
    """Lets anybody write."""

    def _check(self, key: str, expected: str | None) -> None:
        """Look at nothing."""


class Away(MemoryStore):
    """Answers nothing that is about a record."""

    async def _load_blob(self, key: str) -> Blob | None:
        raise StoreError(f"the store is away, {key} too; wait")


class Probed(MemoryStore):
    """Takes no new keys, and says so when it is probed."""

    async def probe(self, key: str) -> None:
        """Remember who was asked for."""
        self.probed = key


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        (Deaf, "failed", "a lease that was written is not found again"),
        (Careless, "failed", "a second writer got a lease that was taken"),
        (Away, "failed", "the store is away"),
        (Probed, "ok", "its record could be written; nothing was"),
        (MemoryStore, "ok", "leased, read and removed"),
    ],
)
def test_a_lease_is_put_to_the_proof(
    seeded: Place,
    doctor: Callable[..., Told],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[MemoryStore],
    status: str,
    words: str,
) -> None:
    """A store that can't keep two daemons apart is found out, and the trial's record is gone afterwards."""
    from sidecar.clock import SystemClock

    made = kind(SystemClock())
    monkeypatch.setattr(common, "make_store", lambda _settings, **_: made)

    assert words in doctor().line("lease", status)
    assert kind is Away or anyio.run(made.keys) == []
    assert getattr(made, "probed", "default/gmail") == "default/gmail"


# The provider.


class TlsServer(http.server.ThreadingHTTPServer):
    """Does the handshake in the thread of the connection, with the certificate of the moment."""

    context: ssl.SSLContext

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = super().get_request()
        return self.context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_: object) -> None:
        """Be quiet about those who hang up."""


class Host:
    """A provider's host with TLS: what it answers is set by hand, and what it was asked is kept."""

    def __init__(self, directory: Path) -> None:
        self.authority = pki.Authority()
        self.trusted = directory / "ca.pem"
        self.trusted.write_bytes(self.authority.certificate)
        self.asked: list[str] = []
        self.status, self.headers = 405, {"Date": formatdate(usegmt=True)}
        self.metadata: dict[str, str] = {}
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(f"{self.command} {self.path}")
                found = ".well-known/openid-configuration" in self.path and host.metadata
                body = json.dumps(host.metadata).encode() if found else b""
                self.send_response_only(200 if found else host.status)
                for name, value in {**host.headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - the same

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        self._server = TlsServer(("127.0.0.1", 0), Handler)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self.show(timedelta(days=90))
        serve = partial(self._server.serve_forever, poll_interval=0.05)
        threading.Thread(target=serve, daemon=True).start()

    def show(self, ends: timedelta) -> None:
        """Show a certificate that ends so long from now."""
        pair = self.authority.issue("provider", ends=ends)
        path = self.trusted.with_name("server.pem")
        path.write_bytes(pair.certificate + pair.key)
        self._server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.context.load_cert_chain(path)

    def stop(self) -> None:
        """Close it."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def host(seeded: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Put a host with TLS in the provider's place."""
    made = Host(seeded.root)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.trusted))
    seeded.token["provider"] = {
        "token_url": f"{made.url}/token",
        "authorization_url": f"{made.url}/authorize",
        "revocation_url": f"{made.url}/revoke",
    }
    seeded.write()
    yield made
    made.stop()


def test_a_provider_that_is_well(host: Host, doctor: Callable[..., Told]) -> None:
    """Name, connection, certificate, clock and endpoints each have a line; one GET without parameters is all."""
    told = doctor()
    assert "resolves to 127.0.0.1" in told.line("name", "ok")
    assert told.line("connection", "ok")
    assert re.search(r"good for 89d\d\dh, TLSv1\.3", told.line("certificate", "ok"))
    assert "agrees" in told.line("clock", "ok")
    assert "authorization, revocation" in told.line("endpoints", "ok")
    assert "bound to" in told.line("endpoint", "failed")
    assert host.asked == ["GET /token"]


@pytest.mark.parametrize(
    ("status", "headers", "check", "grade", "words"),
    [
        (503, {}, "token endpoint", "failed", "HTTP 503"),
        (302, {"Location": "https://portal.example/"}, "token endpoint", "warning", "a redirect"),
        (200, {"Content-Type": "text/html"}, "token endpoint", "warning", "a web page"),
        (404, {}, "token endpoint", "ok", "HTTP 404"),
        (405, {"Date": ""}, "clock", "skipped", "no Date"),
        (405, {"Date": "+120"}, "clock", "warning", "ahead"),
        (405, {"Date": "-7200"}, "clock", "failed", "behind"),
    ],
)
def test_what_a_provider_answers(
    host: Host,
    doctor: Callable[..., Told],
    status: int,
    headers: dict[str, str],
    check: str,
    grade: str,
    words: str,
) -> None:
    """Whatever comes is judged by what it means for a token request."""
    if headers.get("Date"):  # seconds from now: a run may last for many minutes
        headers = {"Date": formatdate(time.time() + float(headers["Date"]), usegmt=True)}
    host.status, host.headers = status, {**host.headers, **headers}

    assert words in doctor().line(check, grade)


def test_a_certificate_that_ends_or_is_not_trusted(
    host: Host, doctor: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends soon is a warning; one that doesn't verify is a failure that waiting does not cure."""
    host.show(timedelta(days=3))
    assert "ends in 2d23h" in doctor().line("certificate", "warning")

    host.trusted.write_bytes(pki.Authority("another").certificate)
    told = doctor()
    assert "does not verify" in told.line("certificate", "failed")
    assert "can't be reached, see above" in told.line("token endpoint", "skipped")
    assert told.code == 1


def test_a_provider_that_is_not_there(seeded: Place, doctor: Callable[..., Told]) -> None:
    """A name that doesn't resolve and a refused connection are temporary, and each has its line."""
    seeded.simulator.stop()
    told = doctor()
    assert "connection refused" in told.line("connection", "failed")
    assert told.code == 4

    seeded.token["provider"] = {"token_url": "https://nowhere.invalid/token"}
    seeded.write()
    assert "the name does not resolve" in doctor().line("name", "failed")


def test_a_proxy_does_the_connecting(
    seeded: Place, doctor: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a proxy only the answer can be judged; the proxy's address, which may hold a password, is not shown."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:sim-cs-0123456789abcdef@127.0.0.1:1")
    seeded.token["provider"] = {"token_url": "https://provider.example/token"}
    seeded.write()

    told = doctor()
    assert "through a proxy" in told.line("name", "skipped")
    assert "connection refused" in told.line("token endpoint", "failed")


def test_what_an_issuer_publishes(host: Host, seeded: Place, doctor: Callable[..., Told]) -> None:
    """The metadata is compared with the configuration, and keeps nothing; an issuer that is away is temporary."""
    seeded.token["provider"] = {"issuer": host.url}
    seeded.write()
    host.metadata = {
        "issuer": host.url,
        "token_endpoint": f"{host.url}/oauth/token",
        "authorization_endpoint": f"{host.url}/authorize",
    }
    told = doctor()
    assert f"the token endpoint is {host.url}/oauth/token" in told.line("metadata", "ok")
    assert "authorization" in told.line("endpoints", "ok")
    assert host.asked[-1] == "GET /oauth/token"
    assert not (seeded.root / "state" / "issuers").exists()

    seeded.token["provider"]["token_url"] = f"{host.url}/token"
    seeded.write()
    assert "names another token endpoint" in doctor().line("metadata", "warning")

    host.metadata["issuer"] = "https://another.example"
    assert "is of another issuer" in doctor().line("metadata", "failed")

    host.metadata = {}
    host.status = 503
    del seeded.token["provider"]["token_url"]
    seeded.write()
    told = doctor()
    assert "HTTP 503" in told.line("metadata", "failed")
    assert told.code == 4


def test_a_check_that_hangs(
    seeded: Place, doctor: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens to one check is a line, and the others are shown."""

    async def hang(_: object) -> list[object]:
        await anyio.sleep_forever()
        return []

    async def break_off(_: object) -> list[object]:
        raise OSError(errno.EIO, "Input/output error", "/dev/sda")

    monkeypatch.setattr("sidecar.cli.doctor.LIMIT", 3.0)
    monkeypatch.setattr(provider, "providers", hang)
    monkeypatch.setattr(storage, "store", break_off)

    told = doctor()
    assert "did not end within 3 s" in told.line("hang", "failed")
    assert "/dev/sda: Input/output error" in told.line("break_off", "failed")
    assert told.line("client", "ok")


# The grants.


def test_a_dead_grant_and_one_that_is_not_required(place: Place, doctor: Callable[..., Told]) -> None:
    """A human must act: exit code 3, with the command; for a token that nobody requires it is a warning."""
    told = doctor()
    assert told.code == 3
    assert "unseeded" in told.line("grant", "failed")
    assert "token-sidecar seed gmail --file FILE" in told.line("grant", "failed")

    place.token["required"] = False
    place.write()
    told = doctor()
    assert (told.code, "(not required)" in told.line("grant", "warning")) == (0, True)


def test_a_human_deadline(seeded: Place, doctor: Callable[..., Told]) -> None:
    """The end of a refresh token is told; near it is a warning, past it a human must act."""
    now = time.time()

    def ends(at: float) -> Told:
        change_record(seeded, refresh=RefreshToken("sim-rt-0123456789abcdef", now, at))
        return doctor()

    assert "a human must consent again by" in ends(now + 6 * 86400).line("deadline", "ok")
    assert "in 23h59m" in ends(now + 86400).line("deadline", "warning")
    told = ends(now - 60)
    assert ("since" in told.line("deadline", "failed"), told.code) == (True, 3)

    seeded.token["required"] = False
    seeded.write()
    told = ends(now - 60)
    assert ("(not required)" in told.line("deadline", "warning"), told.code) == (True, 0)


def test_a_client_certificate_that_ends(seeded: Place, doctor: Callable[..., Told]) -> None:
    """Its end is a human's deadline, too."""
    for days, status in ((30, "ok"), (3, "warning")):
        pair = pki.Authority().issue("app", ends=timedelta(days=days, hours=1))
        seeded.token["client"] = {
            "id": "sim-client",
            "certificate_file": str(seeded.private("tls.crt", pair.certificate.decode())),
            "private_key_file": str(seeded.private("tls.key", pair.key.decode())),
            "auth_method": "private_key_jwt",
        }
        seeded.write()
        words = [words for _, words in doctor().lines("client") if "tls.crt" in words]
        assert f"{days}d" in words[0]
        assert (status == "ok") == ("good for" in words[0])


def test_others_who_use_the_grant(seeded: Place, doctor: Callable[..., Told]) -> None:
    """Records that came from one refresh token, an output that somebody else wrote, and a seed that waits are told."""
    seeded.ok("refresh", "gmail")
    assert "no other record" in doctor().line("other users", "ok")

    seeded.output.write_text(json.dumps({"access_token": "sim-at-somebody-elses-token"}), encoding="utf-8")
    found = fingerprint("sim-at-somebody-elses-token")
    assert f"holds the access token {found}" in doctor().line("other users", "warning")
    seeded.output.unlink()

    seeded.token["seed"] = str(seeded.new_seed())
    seeded.write()
    assert "that the record never had" in doctor().line("seed", "warning")
    del seeded.token["seed"]

    with closing(sqlite3.connect(seeded.root / "tokens.db")) as database, database:
        [blob] = database.execute("SELECT blob FROM records").fetchone()
        copy = encode_record(decode_record(blob), "default/twin")
        database.execute("INSERT INTO records (key, version, blob) VALUES ('default/twin', 1, ?)", (copy,))
    seeded.write()
    told = doctor()
    assert "default/twin came from the same refresh token" in told.line("other users", "warning")

    twin = {**seeded.token, "outputs": [{"file": str(seeded.output.with_name("twin.json"))}]}
    seeded.document["tokens"]["twin"] = twin
    seeded.write()
    told = doctor()
    assert "keep one of the two tokens" in told.line("other users", "failed")
    assert told.code == 1


@pytest.mark.parametrize(
    ("state", "status", "code", "remedy"),
    [
        ("unpersisted", "failed", 1, "neither stop the daemon nor lose state_dir"),
        ("misconfigured", "failed", 1, "token-sidecar check"),
        ("in_doubt", "warning", 0, "it is resolved without you"),
        ("retrying", "warning", 0, "it is tried again by itself"),
    ],
)
def test_a_grant_in_trouble(
    seeded: Place,
    doctor: Callable[..., Told],
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    status: str,
    code: int,
    remedy: str,
) -> None:
    """What the daemon says of a grant is told with its reason and what to do; scopes that are missing, too."""
    view = TokenView(
        "gmail",
        "inline",
        required=True,
        on_dead="restart",
        dead_grace=None,
        grant_state=GrantState(state),
        reason="the reason",
        remedy=standing.remedy("gmail", GrantState(state)),
        fingerprint="0123456789ab",
        expires_at=time.time() + 600,
        missing_scopes=("mail.send",),
    )
    document = {"version": __version__, "uptime": 5.0, "tokens": {"gmail": msgspec.to_builtins(view)}}
    monkeypatch.setattr(ControlClient, "status", lambda _: document)

    told = doctor()
    assert told.code == code
    words = [words for grade, words in told.lines("grant") if grade == status]
    assert f"{state.replace('_', ' ')}: the reason" in words[0]
    assert remedy in words[0]
    assert "lacks scopes: mail.send" in told.lines("grant")[-1][1]
