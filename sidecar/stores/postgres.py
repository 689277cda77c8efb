"""Records in one table of a PostgreSQL database, shared by any number of daemons.

A load is one SELECT, a write one INSERT or UPDATE: each is a transaction of its own, so that nothing is held while a
provider is called, and a pooler may stand between. Leases count on the database's clock alone.
"""

# ruff: noqa: S608 - the place of the tables can't be a parameter; it is quoted, and values never are in the text

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from sidecar.errors import ConfigError, StoreError, StoreMissing, Unwritten
from sidecar.ports import Finding, Grade
from sidecar.seal import CLEAR
from sidecar.stores.base import Blob, Claim, ClaimStore, conflict

try:
    from sidecar.clients import postgres
except ModuleNotFoundError as missing:
    if missing.name != "asyncpg":
        raise
    raise ConfigError(
        "store: a postgresql:// URL needs the extra `postgres`: pip install 'token-sidecar[postgres]'"
    ) from None

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from sidecar.clients.postgres import Fault, Postgres
    from sidecar.clock import Clock
    from sidecar.errors import RecordUnreadable
    from sidecar.ports import Held, Sealer, Store

MIGRATIONS = (
    """
CREATE TABLE IF NOT EXISTS {records} (
    key text COLLATE "C" PRIMARY KEY,
    version text COLLATE "C" NOT NULL,
    blob bytea NOT NULL,
    lease_until timestamptz
);
CREATE TABLE IF NOT EXISTS {versions} (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL
);
""",
    """
ALTER TABLE {records} ADD COLUMN IF NOT EXISTS due_at timestamptz;
ALTER TABLE {records} ADD COLUMN IF NOT EXISTS claim text;
CREATE INDEX IF NOT EXISTS token_sidecar_records_due ON {records} (due_at) WHERE due_at IS NOT NULL;
""",
)
"""The way from nothing to the present tables, one version after the other.

A database may be one version ahead, so that the daemons of a fleet can be replaced one by one. So a step only adds
what the statements of the version before can leave out, and taking away waits for the next. Each can be run again.
"""
SCHEMA = len(MIGRATIONS)

# Each write makes itself durable, whatever the default of server, database or role: RETURNING is evaluated for the
# row that was written, and what it sets for this transaction is in force when the transaction commits.
DURABLE = "RETURNING set_config('synchronous_commit', 'on', true)"
LEASE = "CASE WHEN {0}::float8 > 0 THEN clock_timestamp() + {0}::float8 * interval '1 second' END"

ABOUT = (
    "SELECT current_setting('server_version') AS release, current_setting('fsync') AS fsync, "
    "inet_client_addr() IS NULL OR inet_client_addr() <<= '127.0.0.0/8' OR inet_client_addr() = '::1' AS near, "
    "coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls"
)

MISSING = {"42P01", "3F000"}
"""SQLSTATEs: no such table, no such schema."""
CREATED_MEANWHILE = {"23505", "42P06", "42P07", "42710"}
"""What `IF NOT EXISTS` comes to where two do it at once."""


class Statements:
    """All the SQL there is, for one place of the tables."""

    def __init__(self, schema: str | None, migrations: Sequence[str] = MIGRATIONS) -> None:
        """`schema`: None takes the first of the role's search_path."""
        self.schema = schema
        self.newest = len(migrations)
        self.quoted = '"{}"'.format(schema.replace('"', '""')) if schema is not None else None
        place = f"{self.quoted}." if self.quoted else ""
        self.records = records = f"{place}token_sidecar_records"
        self.version_table = version = f"{place}token_sidecar_schema"
        # Whatever the row, one comes back: it also tells whether this server is a standby, which may lag behind.
        self.load = (
            "SELECT pg_is_in_recovery() AS standby, version, blob, claim, "
            "greatest(0, extract(epoch FROM lease_until - clock_timestamp()))::float8 AS lease_left "
            f"FROM (SELECT 1) AS always LEFT JOIN {records} ON key = $1"
        )
        # The same of many: the one row without a key is there where no other is.
        self.load_many = self.load.replace("key = $1", "key = ANY($1)").replace(" version,", " key, version,")
        self.create = (
            f"INSERT INTO {records} (key, version, blob, lease_until, due_at) "
            f"VALUES ($1, $2, $3, {LEASE.format('$4')}, to_timestamp($5)) ON CONFLICT (key) DO NOTHING {DURABLE}"
        )
        self.replace = (
            f"UPDATE {records} SET version = $2, blob = $3, lease_until = {LEASE.format('$4')}, "
            f"due_at = to_timestamp($5), claim = NULL WHERE key = $1 AND version = $6 {DURABLE}"
        )
        # The rows that others are just taking are passed over, so that nobody waits for anybody. The blob stays as it
        # is: the claim says beside it what attempt it stands for.
        self.claim = (
            f"WITH due AS (SELECT key FROM {records} WHERE due_at <= now() AND starts_with(key, $1) "
            "AND coalesce(lease_until <= clock_timestamp(), true) ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED) "
            f"UPDATE {records} AS taken SET version = $3, lease_until = {LEASE.format('$4')}, "
            "due_at = NULL, claim = $5 FROM due WHERE taken.key = due.key "
            f"{DURABLE}, taken.key, taken.blob"
        )
        self.delete = f"DELETE FROM {records} WHERE key = $1 AND version = $2 {DURABLE}"
        # The index serves: the column sorts by bytes, whatever the database does.
        self.keys = f"SELECT key FROM {records} WHERE key >= $1 AND starts_with(key, $1) ORDER BY key"
        # Between two keys, so that the index ends the search. One row comes back, as with `load`.
        self.versions = (
            "SELECT pg_is_in_recovery() AS standby, key, version FROM (SELECT 1) AS always LEFT JOIN "
            f"(SELECT key, version FROM {records} WHERE key > $1 AND key < $2 ORDER BY key LIMIT $3) AS page ON true "
            "ORDER BY key"
        )
        self.schema_version = f"SELECT version FROM {version}"
        steps = "".join(step.lstrip().format(records=records, versions=version) for step in migrations)
        self.tables = (
            f"{steps}INSERT INTO {version} AS known (version) VALUES ({self.newest})\n"
            "    ON CONFLICT (one) DO UPDATE SET version = EXCLUDED.version WHERE known.version < EXCLUDED.version;\n"
        )
        self.namespace = f"CREATE SCHEMA IF NOT EXISTS {self.quoted};\n" if self.quoted else ""

    def grants(self, role: str) -> str:
        """Write what a daemon that may not create tables needs to be granted."""
        usage = f"GRANT USAGE ON SCHEMA {self.quoted} TO {role}; " if self.quoted else ""
        return (
            f"{usage}GRANT SELECT, INSERT, UPDATE, DELETE ON {self.records} TO {role}; "
            f"GRANT SELECT ON {self.version_table} TO {role}"
        )


class PostgresStore(ClaimStore):
    """One table in one database; leases count on its clock."""

    kind = "postgres"

    def __init__(
        self,
        target: postgres.Target,
        sealer: Sealer = CLEAR,
        *,
        login: Callable[[], postgres.Target] | None = None,
        create: bool = True,
        patience: float = postgres.CALL_SECONDS,
        migrations: Sequence[str] = MIGRATIONS,
    ) -> None:
        """Take the database. Without `create`, tables that are missing are `StoreMissing`.

        `migrations` is for tests.
        """
        super().__init__(f"postgresql://{target.place}", sealer)
        self.volatile = False
        self._create = create
        self._sql = Statements(target.parameters.get("schema"), migrations)
        self._role = target.user or "ROLE"
        self._database = postgres.Postgres(target, login=login, prepare=self._look, patience=patience)

    def __repr__(self) -> str:
        """Show where it is."""
        return f"PostgresStore({self._database.target.place})"

    async def __aenter__(self) -> Self:
        """Open nothing yet: a daemon starts while its database is away, since its escrow may hold a pair.

        Where a store that is not there would be created, the first call does it; else it is looked for here.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigError("store: the postgres store works on asyncio only, not on trio") from None
        if not self._create:
            await self._fetch(self._sql.schema_version)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection, after the call that is under way."""
        await self._database.close()

    async def _load_blob(self, key: str) -> Blob | None:
        [row] = await self._fetch(self._sql.load, key)
        return self._found(row)

    async def load_many(self, keys: Collection[str]) -> dict[str, Held | RecordUnreadable]:
        """See `SupportsMany.load_many`."""
        rows = await self._fetch(self._sql.load_many, list(keys))
        found = {row["key"]: self._found(row) for row in rows}
        return self._all_opened({key: blob for key, blob in found.items() if blob is not None})

    def _found(self, row: Any) -> Blob | None:
        self._refuse_standby(row)
        if row["version"] is None:
            return None
        return Blob(row["blob"], row["version"], row["lease_left"], _claimed(row["claim"]))

    def _refuse_standby(self, row: Any) -> None:
        if row["standby"]:
            raise self._fault(postgres.Fault(*postgres.FAULTS["25006"], sqlstate="25006"))

    async def _write_due_blob(
        self, key: str, blob: bytes, *, expected: str | None, lease: float, due: float | None
    ) -> str:
        version = secrets.token_hex(8)
        content = (key, version, blob, lease, due)
        if expected is None:
            await self._change(self._sql.create, *content, expected=None)
        else:
            await self._change(self._sql.replace, *content, expected, expected=expected)
        return version

    async def _claim_blobs(
        self, prefix: str, claim: Claim, *, most: int, lease: float
    ) -> list[tuple[str, Blob]]:
        said = msgspec.json.encode(claim).decode()
        rows = await self._fetch(self._sql.claim, prefix, most, claim.version, lease, said)
        return [(row["key"], Blob(row["blob"], claim.version, lease, claim)) for row in rows]

    async def versions(self, prefix: str, *, after: str, most: int) -> list[tuple[str, str]]:
        """See `SupportsFollowing.versions`."""
        behind = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        rows = await self._fetch(self._sql.versions, max(prefix, after), behind, most)
        self._refuse_standby(rows[0])
        return [(row["key"], row["version"]) for row in rows if row["key"] is not None]

    async def keys(self, prefix: str = "") -> list[str]:
        return [row["key"] for row in await self._fetch(self._sql.keys, prefix)]

    async def _delete_blob(self, key: str, *, expected: str) -> None:
        await self._change(self._sql.delete, key, expected, expected=expected)

    async def diagnose(self) -> list[Finding]:
        """See `SupportsDiagnosis`."""
        [version] = await self._fetch(self._sql.schema_version)
        [about] = await self._fetch(ABOUT)
        pooled = self._database.target.pooler is not None
        # A pooler's own connection to the server says nothing of ours to the pooler.
        wire = "through a pooler" if pooled else "TLS" if about["tls"] else "no TLS"
        found = [Finding(Grade.OK, f"PostgreSQL {about['release']}, schema {version['version']}, {wire}")]
        if not (pooled or about["tls"] or about["near"]):
            text = "records cross the network in clear"
            found.append(Finding(Grade.WARNING, text, "add sslmode=verify-full to the URL"))
        if about["fsync"] == "off":
            text = "the server has fsync off: a crash may take back a refresh token that was stored"
            found.append(Finding(Grade.WARNING, text, "switch it on in postgresql.conf"))
        return found

    async def _change(self, statement: str, key: str, *rest: Any, expected: str | None) -> None:
        try:
            rows = await self._database.fetch(statement, key, *rest)
        except postgres.Fault as fault:
            # Where transactions are stricter by default, a lost race is an error, and nothing has changed either.
            if fault.sqlstate != "40001":
                raise self._fault(fault) from None
            rows = []
        if not rows:
            raise conflict(key, self._place, expected=expected)

    async def _fetch(self, statement: str, *arguments: Any) -> list[Any]:
        try:
            return await self._database.fetch(statement, *arguments)
        except postgres.Fault as fault:
            raise self._fault(fault) from None

    # What follows is done once for each connection, before it is used.

    async def _look(self, database: Postgres) -> None:
        """Make sure of the tables, and that they are of a version that this one works with."""
        found, newest = await self._schema_of(database), self._sql.newest
        if self._create and (found is None or found < newest):
            await self._lay_out(database, found)
            found = await self._schema_of(database)
        # Only once: tables that are dropped under a daemon are an error. It must not begin with empty ones, which
        # have forgotten what refresh tokens are spent.
        if found is None:
            raise postgres.Fault(
                "its tables are missing",
                "run `token-sidecar store migrate`, or restore a backup if they were there",
                sqlstate="42P01",
            )
        self._create = False
        if found < newest:
            raise postgres.Fault(
                f"its tables are of an older version (schema {found}, not {newest})",
                "run `token-sidecar store migrate`",
            )
        if found > newest + 1:
            text = (
                f"its tables are of a newer version (schema {found}; this one works with up to {newest + 1})"
            )
            raise postgres.Fault(text, "run that version again")

    async def _schema_of(self, database: Postgres) -> int | None:
        try:
            rows = await database.fetch_within(self._sql.schema_version)
        except postgres.ERRORS as error:
            if getattr(error, "sqlstate", None) in MISSING:
                return None
            raise
        return int(rows[0]["version"]) if rows else None

    async def _lay_out(self, database: Postgres, found: int | None) -> None:
        lacking, change = (
            ("missing", "create") if found is None else (f"of an older version ({found})", "change")
        )
        for script in (self._sql.namespace, self._sql.tables):
            try:
                # Not even IF NOT EXISTS lets a role that may not create schemas pass over one that is there.
                if script and not (script == self._sql.namespace and await self._has_namespace(database)):
                    await database.run_within(script)
            except postgres.ERRORS as error:
                if getattr(error, "sqlstate", None) == "42501":
                    raise postgres.Fault(
                        f"its tables are {lacking}, and {self._role} may not {change} them",
                        "have `token-sidecar store migrate --print` run by somebody who may, then "
                        f"{self._sql.grants(self._role)}",
                        sqlstate="42501",
                    ) from None
                if getattr(error, "sqlstate", None) not in CREATED_MEANWHILE:
                    raise

    async def _has_namespace(self, database: Postgres) -> bool:
        rows = await database.fetch_within(
            "SELECT to_regnamespace($1) IS NOT NULL AS there", self._sql.quoted
        )
        return bool(rows[0]["there"])

    def _fault(self, fault: Fault) -> StoreError:
        kind = Unwritten if fault.refused else StoreError
        if fault.sqlstate == "42P01":
            kind = StoreMissing
        remedy = fault.remedy
        if fault.sqlstate == "42501" and "GRANT" not in remedy:
            return kind(
                f"the store {self._place}: {self._role} lacks a right there; {self._sql.grants(self._role)}"
            )
        if fault.sqlstate in {"42703", "42P01"} and "migrate" not in remedy:
            reason, remedy = "its tables are missing, or older", "run `token-sidecar store migrate`"
            return kind(f"the store {self._place}: {reason}; {remedy}")
        return kind(f"the store {self._place}: {fault.reason}; {remedy}")


def _claimed(said: str | None) -> Claim | None:
    """Read who claimed a record; what can't be read is no claim of this version's."""
    try:
        return None if said is None else msgspec.json.decode(said, type=Claim)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def migration(url: str) -> str:
    """Write the SQL that makes or updates the tables, for those who run it themselves."""
    statements = Statements(postgres.parse(url, own=("schema",)).parameters.get("schema"))
    return f"{statements.namespace}{statements.tables}"


def from_url(
    url: str,
    _clock: Clock,
    sealer: Sealer,
    *,
    url_file: Path | None = None,
    create: bool = True,
    **_: object,
) -> Store:
    """Make the store of a libpq URL; `schema=NAME` is where the tables are.

    From `url_file` the user and password are read again for every new connection, so that they can be changed.
    """
    target = postgres.parse(url, own=("schema",))
    login = partial(postgres.reread, url_file, own=("schema",)) if url_file is not None else None
    return PostgresStore(target, sealer, login=login, create=create)
