"""The Postgres store where it is more than the contract: a real server that fails, refuses, and is replaced."""

# ruff: noqa: S608 - what is put into statements is made here

from __future__ import annotations

import re
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import anyio
import pytest

from sidecar.clients import postgres
from sidecar.clock import SystemClock
from sidecar.errors import ConfigError, Conflict, StoreError, StoreMissing, Unwritten
from sidecar.stores import migration, open_store
from sidecar.stores.postgres import SCHEMA, PostgresStore
from sidecar.tokens import Record, RefreshToken
from tests.postgres import Server, following, free_port, in_thread, pooling

if TYPE_CHECKING:
    from sidecar.ports import Store

KEY = "ns/gmail"
SECRET = "sim-cs-0123456789abcdef"
RECORD = Record(lineage="first", refresh=RefreshToken(value="sim-rt-0123456789abcdef0123", issued_at=0.0))


@pytest.fixture
def anyio_backend() -> str:
    """The client library knows asyncio alone."""
    return "asyncio"


def opened(url: str, *, patience: float = 5.0, **options: Any) -> PostgresStore:
    """Make a store by its parts, so that a test waits as long as it likes."""
    return PostgresStore(postgres.parse(url, own=("schema",)), patience=patience, **options)


@pytest.fixture
async def store(server: Server, database: str) -> AsyncIterator[Store]:
    """An open store in an empty database."""
    async with open_store(server.url(database), SystemClock()) as made:
        yield made


def role(server: Server, database: str, *grants: str) -> str:
    """Make a role that may do nothing but what is granted."""
    name = f"r{secrets.token_hex(6)}"
    server.sql(f"CREATE ROLE {name} LOGIN", *(grant.format(role=name) for grant in grants), database=database)
    return name


async def refused(store: Store, *, contains: str) -> str:
    """Let a load fail; returns what it says."""
    with pytest.raises(StoreError, match=contains) as caught:
        await store.load(KEY)
    return str(caught.value)


# Durable


async def test_writes_are_durable_where_the_server_says_otherwise(server: Server, database: str) -> None:
    """With synchronous_commit off by default, the log is flushed up to its end when a write returns."""
    name = await in_thread(role, server, database, f"GRANT ALL ON DATABASE {database} TO {{role}}")
    await server.sql_async(
        f"ALTER ROLE {name} SET synchronous_commit = off",
        f"CREATE SCHEMA mine AUTHORIZATION {name}",
        database=database,
    )
    behind = "SELECT pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn() AS bytes, pg_sleep(0)"
    flushed = 0
    async with open_store(server.url(database, user=name, schema="mine"), SystemClock()) as store:
        version = None
        for _ in range(20):
            version = await store.write(KEY, RECORD, expected=version)
            [row] = await server.sql_async(behind, database=database)
            flushed += row["bytes"] == 0
    lazily = 0
    for number in range(20):
        [row] = await server.sql_async(
            "SET synchronous_commit = off",
            f"UPDATE mine.token_sidecar_records SET version = '{number}'",
            behind,
            database=database,
        )
        lazily += row["bytes"] == 0
    assert flushed >= 18, "some other process may write to the log in between, but not each time"
    assert lazily <= 10, "or else this test proves nothing"


async def test_acknowledged_writes_survive_a_crash_of_the_server(server: Server, database: str) -> None:
    """What was written with synchronous_commit off by default is there after the server was killed."""
    await server.sql_async(f"ALTER DATABASE {database} SET synchronous_commit = off")
    async with open_store(server.url(database), SystemClock()) as store:
        await store.keys()
        for number in range(3):
            key = f"ns/{number}"
            version = await store.write(key, RECORD, expected=None)
            await in_thread(server.stop, "immediate")
            await in_thread(server.start)
            found = await store.load(key)
            assert found is not None
            assert found.version == version


# Connections


async def test_a_restart_of_the_server_is_waited_for(server: Server, store: Store) -> None:
    """A call that finds the server restarting connects as soon as it is back."""
    version = await store.write(KEY, RECORD, expected=None)
    await in_thread(server.stop)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(in_thread, server.start)
        found = await store.load(KEY)
    assert found is not None
    assert found.version == version


async def test_a_long_outage_holds_up_one_call_only(server: Server, database: str) -> None:
    """The first call waits for its time; those after it fail at once, until the server is back."""
    async with opened(server.url(database), patience=2.0) as store:
        await store.write(KEY, RECORD, expected=None)
        await in_thread(server.stop)
        try:
            message = await refused(store, contains="can't be reached")
            began = time.monotonic()
            await refused(store, contains="can't be reached")
            assert time.monotonic() - began < 1
        finally:
            await in_thread(server.start)
        assert f"127.0.0.1:{server.port}/{database}" in message
        assert await store.load(KEY) is not None


async def test_a_connection_that_was_ended_while_idle_is_replaced(
    server: Server, store: Store, database: str
) -> None:
    """An administrator may end connections: the next call opens another."""
    version = await store.write(KEY, RECORD, expected=None)
    await server.sql_async(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND "
        "application_name = 'token-sidecar'"
    )
    await anyio.sleep(0.05)
    await store.write(KEY, RECORD, expected=version)


async def test_a_write_that_is_held_up_ends(server: Server, database: str) -> None:
    """A lock that somebody keeps costs a call its time, and the write has not happened then."""
    import asyncpg

    async with opened(server.url(database), patience=0.6) as store:
        version = await store.write(KEY, RECORD, expected=None)
        other = await asyncpg.connect(
            host="127.0.0.1", port=server.port, user="postgres", database=database, ssl=False
        )
        async with other.transaction():
            await other.execute("LOCK TABLE token_sidecar_records")
            began = time.monotonic()
            with pytest.raises(StoreError, match=r"did not answer|took too long"):
                await store.write(KEY, RECORD, expected=version)
            assert time.monotonic() - began < 2
        await other.close()
        found = await store.load(KEY)
        assert found is not None
        assert found.version == version


async def test_a_server_that_never_answers_is_given_up(database: str) -> None:
    """Something that listens and says nothing costs a call its time."""

    async def silent(stream: Any) -> None:
        async with stream:
            await anyio.sleep(30)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, silent)
        port = listener.listeners[0].extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django
        async with opened(f"postgresql://me:{SECRET}@127.0.0.1:{port}/db", patience=0.5) as store:
            assert SECRET not in await refused(store, contains="did not answer")
        tasks.cancel_scope.cancel()


async def test_nothing_runs_while_it_is_idle(store: Store) -> None:
    """Between calls the event loop has no timer of the store's."""
    import asyncio

    await store.write(KEY, RECORD, expected=None)
    await anyio.sleep(0.05)
    assert not [one for one in asyncio.get_running_loop()._scheduled if not one.cancelled()]  # type: ignore[attr-defined]


async def test_hosts_are_tried_in_turn(server: Server, database: str) -> None:
    """A host that is down is passed over."""
    url = server.url(database).replace("127.0.0.1:", f"127.0.0.1:{free_port()},127.0.0.1:")
    async with open_store(url, SystemClock()) as store:
        assert await store.keys() == []


@pytest.fixture
def standby(server: Server) -> Iterator[Server]:
    """A copy of the server that follows it and takes no writes."""
    with following(server) as follower:
        yield follower


async def test_only_a_primary_will_do(server: Server, database: str, standby: Server) -> None:
    """Of several hosts the primary is taken; a standby alone is an error, since what it has may be old."""
    both = server.url(database).replace("127.0.0.1:", f"127.0.0.1:{standby.port},127.0.0.1:")
    async with open_store(both, SystemClock()) as store:
        await store.write(KEY, RECORD, expected=None)
    for attrs in ("read-write", "primary", "any"):
        async with open_store(standby.url(database, target_session_attrs=attrs), SystemClock()) as store:
            with pytest.raises(Unwritten, match="no primary"):
                await store.load(KEY)


# Rights and tables

GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON token_sidecar_records TO {role}",
    "GRANT SELECT ON token_sidecar_schema TO {role}",
)


async def test_the_documented_rights_are_enough(server: Server, store: Store, database: str) -> None:
    """A role with no other right does everything that a daemon does."""
    await store.keys()
    name = await in_thread(role, server, database, *GRANTS)
    howto = Path(__file__).parents[2] / "docs" / "howto" / "postgres.md"
    for grant in GRANTS:
        assert grant.format(role="token_sidecar") in howto.read_text(encoding="utf-8")
    async with open_store(server.url(database, user=name), SystemClock()) as least:
        version = await least.write(KEY, RECORD, expected=None, lease=5)
        version = await least.write(KEY, RECORD, expected=version)
        assert await least.keys() == [KEY]
        assert await least.load(KEY) is not None
        await least.delete(KEY, expected=version)


async def test_a_missing_right_is_named(server: Server, store: Store, database: str) -> None:
    """The message is the GRANT that is missing."""
    await store.keys()
    name = await in_thread(role, server, database, "GRANT SELECT ON token_sidecar_schema TO {role}")
    async with open_store(server.url(database, user=name), SystemClock()) as least:
        message = await refused(least, contains="lacks a right")
    assert f"GRANT SELECT, INSERT, UPDATE, DELETE ON token_sidecar_records TO {name}" in message


async def test_who_may_not_create_tables_is_told_who_can(server: Server, database: str) -> None:
    """Without tables and without the right to make them, the message says how they come to be."""
    name = await in_thread(role, server, database)
    async with open_store(server.url(database, user=name), SystemClock()) as least:
        message = await refused(least, contains="may not create them")
    assert "token-sidecar store migrate --print" in message
    await server.sql_async(*migration("postgresql://x/y").strip().split(";\n"), database=database)
    await server.sql_async(*(grant.format(role=name) for grant in GRANTS), database=database)
    async with open_store(server.url(database, user=name), SystemClock()) as least:
        await least.write(KEY, RECORD, expected=None)


async def test_many_may_create_the_tables_at_once(server: Server, database: str) -> None:
    """Daemons that start together on an empty database all find it ready."""

    async def begin() -> None:
        async with open_store(server.url(database, schema='odd "name'), SystemClock()) as store:
            await store.keys()

    async with anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(begin)


async def test_dropped_tables_are_not_made_again(server: Server, store: Store, database: str) -> None:
    """An empty table would have forgotten what is spent: until the daemon starts anew, it is an error."""
    await store.write(KEY, RECORD, expected=None)
    await server.sql_async(
        "DROP TABLE token_sidecar_records", "DROP TABLE token_sidecar_schema", database=database
    )
    for _ in range(2):
        await refused(store, contains="store migrate")
    with pytest.raises(StoreError, match="store migrate"):
        await store.write(KEY, RECORD, expected=None)


async def test_reading_creates_nothing(server: Server, database: str) -> None:
    """Opened without leave to create, a store that is not there is missing, and stays so."""
    with pytest.raises(StoreMissing):
        async with open_store(server.url(database), SystemClock(), create=False):
            pass
    assert (
        await server.sql_async("SELECT 1 FROM pg_tables WHERE tablename ~ 'sidecar'", database=database) == []
    )


@pytest.mark.parametrize(
    ("version", "says"),
    [(SCHEMA - 1, None), (SCHEMA + 1, None), (SCHEMA + 2, "newer version")],
)
async def test_versions_of_the_tables(
    server: Server, store: Store, database: str, version: int, says: str | None
) -> None:
    """Tables may be one version ahead, so that a fleet is replaced one by one; older ones are brought up to date."""
    await store.write(KEY, RECORD, expected=None)
    await server.sql_async(f"UPDATE token_sidecar_schema SET version = {version}", database=database)
    async with open_store(server.url(database), SystemClock()) as other:
        if says is None:
            assert await other.load(KEY) is not None
        else:
            await refused(other, contains=says)


async def test_an_older_table_is_told(server: Server, store: Store, database: str) -> None:
    """A column that is not there is said in words too."""
    await store.write(KEY, RECORD, expected=None)
    await server.sql_async("ALTER TABLE token_sidecar_records DROP COLUMN lease_until", database=database)
    await refused(store, contains="older; run `token-sidecar store migrate`")


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_stricter_isolation_loses_races_alike(server: Server, database: str, isolation: str) -> None:
    """Where the default is stricter, one of many writers wins and the others get a conflict."""
    await server.sql_async(f"ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'")
    outcomes: list[str] = []

    async def write(number: int, expected: str) -> None:
        async with open_store(server.url(database), SystemClock()) as store:
            await store.keys()
            try:
                await store.write(KEY, Record(lineage=str(number)), expected=expected)
                outcomes.append("won")
            except Conflict:
                outcomes.append("lost")

    async with open_store(server.url(database), SystemClock()) as store:
        for _ in range(5):
            found = await store.load(KEY)
            version = found.version if found else await store.write(KEY, RECORD, expected=None)
            async with anyio.create_task_group() as tasks:
                for number in range(6):
                    tasks.start_soon(write, number, version)
    assert outcomes.count("won") == 5
    assert outcomes.count("lost") == 25


async def test_a_read_only_database_says_so(server: Server, database: str) -> None:
    """Where writes are refused, the primary is asked for."""
    await server.sql_async(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    async with open_store(server.url(database), SystemClock()) as store:
        await refused(store, contains="read-only")


async def test_a_missing_database_is_named(server: Server) -> None:
    """The message says what to create."""
    async with open_store(server.url("nowhere"), SystemClock()) as store:
        await refused(store, contains="there is no database nowhere; create it")


# Logging in


@pytest.fixture
def login(server: Server, database: str) -> Iterator[str]:
    """A role that needs a password, `SECRET`."""
    name = role(server, database, f"GRANT ALL ON DATABASE {database} TO {{role}}")
    server.sql(
        f"ALTER ROLE {name} PASSWORD '{SECRET}'",
        f"CREATE SCHEMA mine AUTHORIZATION {name}",
        database=database,
    )
    access = server.data / "pg_hba.conf"
    before = access.read_text(encoding="utf-8")
    access.write_text(f"host all {name} 127.0.0.1/32 scram-sha-256\n{before}", encoding="utf-8")
    server.reload()
    yield name
    access.write_text(before, encoding="utf-8")
    server.reload()


async def test_a_password_may_change_in_its_file(
    server: Server, database: str, login: str, tmp_path: Path
) -> None:
    """Each new connection takes the password that is in the URL's file by then."""
    url, file = server.url(database, user=login + ":{}", schema="mine"), tmp_path / "url"
    file.write_text(url.format(SECRET), encoding="utf-8")
    async with open_store(url.format(SECRET), SystemClock(), url_file=file) as store:
        await store.write(KEY, RECORD, expected=None)
        await server.sql_async(
            f"ALTER ROLE {login} PASSWORD '{SECRET}-2'",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{login}'",
        )
        await anyio.sleep(0.05)
        message = await refused(store, contains=f"the password of {login} was refused")
        assert SECRET not in message
        file.write_text(url.format(SECRET + "-2") + "\n", encoding="utf-8")
        assert await store.load(KEY) is not None
        assert SECRET not in repr(store)


async def test_a_password_may_come_from_a_passfile(
    server: Server, database: str, login: str, tmp_path: Path
) -> None:
    """Libpq's password file is read, and one that is open to others is refused by name."""
    passfile = tmp_path / "passfile"
    passfile.write_text(f"127.0.0.1:{server.port}:*:{login}:{SECRET}\n", encoding="utf-8")
    url = server.url(database, user=login, schema="mine", passfile=str(passfile))
    passfile.chmod(0o600)
    async with open_store(url, SystemClock()) as store:
        assert await store.keys() == []
    passfile.chmod(0o644)
    async with open_store(url, SystemClock()) as store:
        await refused(store, contains="chmod 600")


# TLS


@contextmanager
def encrypting(
    server: Server, trusted: Path, settings: str = "client_tls_sslmode = require\n"
) -> Iterator[int]:
    """Run a PgBouncer with TLS (the server's build has none) that proves to be `localhost` by what is `trusted`.

    `FOLDER` in `settings` is where it finds its own files; whoever signed `clients.crt` is believed.
    """
    folder = server.sockets / f"tls{secrets.token_hex(3)}"
    folder.mkdir()
    certificate, key = certify("localhost")
    trusted.write_bytes(certificate)
    known = trusted.with_name("client.crt")
    files = {
        "server.crt": certificate,
        "server.key": key,
        "clients.crt": known.read_bytes() if known.exists() else b"",
        "users": b'"me" ""\n',
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o644)
    own = f"client_tls_key_file = {folder}/server.key\nclient_tls_cert_file = {folder}/server.crt\n"
    with pooling(server, own + settings.replace("FOLDER", str(folder))) as port:
        yield port


@pytest.fixture
def encrypted(server: Server, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A PgBouncer that insists on TLS, and its certificate."""
    trusted = tmp_path / "ca.pem"
    with encrypting(server, trusted) as port:
        yield port, trusted


def certify(host: str, name: str = "test") -> tuple[bytes, bytes]:
    """Make a key and a certificate that it signed itself, in PEM."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


async def test_certificates_are_verified_as_asked(database: str, encrypted: tuple[int, Path]) -> None:
    """`verify-full` wants the issuer and the name, `verify-ca` the issuer, `require` neither."""
    port, authority = encrypted

    async def attempt(host: str, **parameters: str) -> str:
        url = f"postgresql://me@{host}:{port}/{database}?pooler=transaction&{urlencode(parameters)}"
        async with open_store(url, SystemClock()) as store:
            try:
                await store.keys()
            except StoreError as error:
                return str(error)
        return ""

    known = str(authority)
    assert await attempt("127.0.0.1", sslmode="require") == ""
    assert await attempt("localhost", sslmode="verify-full", sslrootcert=known) == ""
    assert await attempt("127.0.0.1", sslmode="verify-ca", sslrootcert=known) == ""
    refusal = "the certificate is refused"
    assert refusal in await attempt("127.0.0.1", sslmode="verify-full", sslrootcert=known)
    assert refusal in await attempt("localhost", sslmode="verify-full", sslrootcert="system")
    missing = await attempt("localhost", sslmode="verify-full", sslrootcert="/nowhere/ca.pem")
    assert "sslrootcert: /nowhere/ca.pem can't be read" in missing


async def test_a_client_certificate_lets_in(server: Server, database: str, tmp_path: Path) -> None:
    """With `sslcert` and `sslkey` a role logs in without a password; without, or with another's, it is refused."""
    for file, owner in (("client", "me"), ("other", "me"), ("foreign", "somebody")):
        certificate, key = certify("client", owner)
        (tmp_path / f"{file}.crt").write_bytes(certificate)
        (tmp_path / f"{file}.key").write_bytes(key)
        (tmp_path / f"{file}.key").chmod(0o600)
    trusted = tmp_path / "ca.pem"
    settings = "client_tls_sslmode = verify-full\nclient_tls_ca_file = FOLDER/clients.crt\n"
    settings += "auth_type = cert\nauth_file = FOLDER/users\n"

    with encrypting(server, trusted, settings) as port:

        async def attempt(user: str = "me", **files: str) -> str:
            query = urlencode({"sslmode": "verify-full", "sslrootcert": str(trusted), **files})
            url = f"postgresql://{user}@localhost:{port}/{database}?pooler=transaction&{query}"
            async with open_store(url, SystemClock()) as store:
                try:
                    await store.keys()
                except StoreError as error:
                    return str(error)
            return ""

        def pair(name: str) -> dict[str, str]:
            return {"sslcert": str(tmp_path / f"{name}.crt"), "sslkey": str(tmp_path / f"{name}.key")}

        assert await attempt(**pair("client")) == ""
        for refusal in (await attempt(), await attempt(**pair("other"))):
            # Its alert may be lost with the connection.
            assert re.search("sslcert|the connection broke", refusal), refusal
        assert "refused you; look at its log" in await attempt("you", **pair("client"))
        mixed = {**pair("client"), "sslkey": pair("other")["sslkey"]}
        assert "key values mismatch" in await attempt(**mixed)
        assert "sslcert: /nowhere can't be read" in await attempt(
            sslcert="/nowhere", sslkey=pair("client")["sslkey"]
        )


async def test_tls_that_the_server_does_not_speak(server: Server, database: str) -> None:
    """Nothing is sent in clear where TLS is asked for."""
    async with open_store(server.url(database, sslmode="require"), SystemClock()) as store:
        await refused(store, contains="does not speak TLS")


# What the server may say


@pytest.mark.parametrize(
    ("sqlstate", "says"),
    [
        ("53100", "disk is full; free some space"),
        ("53200", "out of memory"),
        ("53300", "takes no more connections"),
        ("40P01", "another transaction was in the way"),
        ("55P03", "holds a lock"),
        ("57014", "took too long"),
        ("25006", "read-only"),
        ("42501", "GRANT SELECT, INSERT"),
        ("58030", "refused the statement .*58030"),
    ],
)
async def test_every_failure_has_words(
    server: Server, store: Store, database: str, sqlstate: str, says: str
) -> None:
    """Each is a sentence with a way out, without anything that was sent; what failed has not happened."""
    version = await store.write(KEY, RECORD, expected=None)
    await server.sql_async(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE 'no: %', NEW.blob USING ERRCODE = '{sqlstate}'; END $$",
        "CREATE TRIGGER fail BEFORE UPDATE ON token_sidecar_records FOR EACH ROW EXECUTE FUNCTION fail()",
        database=database,
    )
    with pytest.raises(StoreError, match=says) as caught:
        await store.write(KEY, RECORD, expected=version)
    shown = "".join(traceback.format_exception(caught.value))
    assert "sim-" not in shown
    assert RECORD.refresh is not None
    assert RECORD.refresh.value.encode().hex() not in shown
    await server.sql_async("DROP FUNCTION fail CASCADE", database=database)
    await store.write(KEY, RECORD, expected=version)


ENDED = (anyio.ClosedResourceError, anyio.BrokenResourceError)


class Wire:
    """Stands between and can lose what the server answers, once it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cut = False

    async def carry(self, near: anyio.abc.SocketStream) -> None:
        """Carry one connection until either side ends it."""
        async with (
            near,
            await anyio.connect_tcp("127.0.0.1", self.port) as far,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._asked, near, far)
            await self._answered(far, near)
            tasks.cancel_scope.cancel()

    async def _asked(self, near: anyio.abc.SocketStream, far: anyio.abc.SocketStream) -> None:
        with suppress(*ENDED):
            async for data in near:
                await far.send(data)

    async def _answered(self, far: anyio.abc.SocketStream, near: anyio.abc.SocketStream) -> None:
        with suppress(*ENDED):
            async for data in far:
                if self.cut:
                    return
                await near.send(data)


async def test_a_lost_reply_is_found_out_by_a_load(server: Server, store: Store, database: str) -> None:
    """A write whose answer is lost is an error, although it happened; the next load shows it."""
    version = await store.write(KEY, RECORD, expected=None)
    wire = Wire(server.port)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, wire.carry)
        port = listener.listeners[0].extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django
        url = server.url(database).replace(str(server.port), str(port))
        async with open_store(url, SystemClock()) as far:
            # Once before, so that the statement is known to the server and the answer is the only one.
            version = await far.write(KEY, RECORD, expected=version)
            wire.cut = True
            with pytest.raises(StoreError, match=r"connection broke|reached") as caught:
                await far.write(KEY, Record(lineage="second"), expected=version)
            assert not isinstance(caught.value, Unwritten)
            wire.cut = False
            found = await far.load(KEY)
        tasks.cancel_scope.cancel()
    assert found is not None
    assert found.record.lineage == "second"


# URLs


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me@db/tokens", "db:5432/tokens"),
        ("postgres://me:p%40ss@db:6000/tokens?sslmode=require", "db:6000/tokens"),
        ("postgresql://a,b:5433/t", "a:5432,b:5433/t"),
        ("postgresql://me@/t?host=a,b&port=1,2", "a:1,b:2/t"),
        ("postgresql://me@[::1]:5444/t", "::1:5444/t"),
        ("postgresql://%2Frun%2Fpg/t", "/run/pg/t"),
        ("postgresql:///t?host=/run/pg", "/run/pg/t"),
    ],
)
def test_where_a_url_leads(url: str, place: str) -> None:
    """Hosts, ports, sockets and the database are read as libpq reads them."""
    assert postgres.parse(url).place == place


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (
            f"postgresql://me:{SECRET}@db/t?gssencmode=disable",
            "gssencmode is not known here; these are: .*sslmode",
        ),
        (f"postgresql://me:{SECRET}@db/t?sslmode=verify", "sslmode is one of disable"),
        (f"postgresql://me:{SECRET}@db/t?pooler=yes", "pooler is one of transaction, session"),
        (
            f"postgresql://me:{SECRET}@db/t?target_session_attrs=standby",
            "target_session_attrs is one of read-write",
        ),
        (f"postgresql://me:{SECRET}@db/t?channel_binding=require", "channel_binding is one of"),
        (f"postgresql://me:{SECRET}@db/t?sslrootcert=system", "needs sslmode=verify-full"),
        (f"postgresql://me:{SECRET}@db/t?schema=a&schema=b", "given twice"),
        (f"postgresql://me:{SECRET}#x@db/t", "written %23"),
        (f"postgresql://me:{SECRET}/x@db/t", "a / in a password is written %2F"),
        (f"postgresql://me:x?{SECRET}@db/t", "one of its parameters is not known"),
        ("postgresql://db/t?sslmode=verify-full&sslrootcert=system&sslcert=x", "sslcert can't go with"),
        ("postgresql://me@db:99999/t", "port is a number"),
        ("postgresql://me@a,b/t?port=1,2,3", "2 hosts and 3 ports"),
    ],
)
def test_what_would_not_be_heeded_is_refused(url: str, says: str) -> None:
    """Whatever is not known or can't be is named, and no message shows a password."""
    with pytest.raises(ConfigError, match=says) as caught:
        open_store(url, SystemClock())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_is_refused(server: Server, anyio_backend: str) -> None:
    """The client library would fail later, and less clearly."""
    with pytest.raises(ConfigError, match="on asyncio only"):
        async with open_store(server.url(), SystemClock()):
            pass


# PgBouncer


@pytest.fixture
def pool(server: Server) -> Iterator[int]:
    """A PgBouncer in transaction mode with two connections to the server; returns its port."""
    with pooling(server) as port:
        yield port


async def test_many_share_a_transaction_pooler(database: str, pool: int) -> None:
    """More daemons than the pooler has connections keep counting, and lose no step."""
    url = f"postgresql://me@127.0.0.1:{pool}/{database}?pooler=transaction&sslmode=disable"

    async def increase(number: int) -> None:
        async with open_store(url, SystemClock()) as store:
            for _ in range(15):
                while True:
                    found = await store.load("ns/count")
                    assert found is not None
                    record = Record(lineage="count", generation=found.record.generation + 1)
                    try:
                        await store.write("ns/count", record, expected=found.version, lease=number)
                        break
                    except Conflict:
                        await store.keys()

    async with open_store(url, SystemClock()) as store:
        await store.write("ns/count", Record(lineage="count"), expected=None)
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(increase, number)
        found = await store.load("ns/count")
        assert found is not None
        assert found.record.generation == 8 * 15


async def test_a_pooler_that_was_not_declared_is_noticed(database: str, pool: int) -> None:
    """It refuses what only a session can have, and the message says what to add to the URL."""
    async with open_store(
        f"postgresql://me@127.0.0.1:{pool}/{database}?sslmode=disable", SystemClock()
    ) as store:
        await refused(store, contains="add .pooler=transaction")
