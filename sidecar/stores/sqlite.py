"""Records in one SQLite file, shared by the processes of one host.

The connection is used by one worker thread at a time. A call is one transaction, begun and ended by one
function in that thread, so that no cancellation leaves one open. It is bounded in time, so that neither a
lock that somebody keeps nor a disk that hangs can hold up a turn for long.
"""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import anyio
from anyio import to_thread

from sidecar.clock import boot_id
from sidecar.config.mounts import Mounts
from sidecar.errors import ConfigError, StoreError, StoreMissing, Unwritten
from sidecar.ports import Finding, Grade
from sidecar.seal import CLEAR
from sidecar.stores.base import Blob, RecordStore, conflict

if TYPE_CHECKING:
    from types import TracebackType

    from sidecar.clock import Clock
    from sidecar.errors import RecordUnreadable
    from sidecar.ports import Held, Sealer, Store

T = TypeVar("T")

APPLICATION_ID = 0x746B7363
"""`tksc`, in the file's header: whose database this is (see also file(1))."""
BUSY_SECONDS = 5.0
"""For so long a call waits for its turn and for the locks of other processes together."""
DISK_SECONDS = 10.0
"""For so much longer it waits for the disk."""
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

MIGRATIONS = (
    """
CREATE TABLE records (
    key TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    blob BLOB NOT NULL,
    lease_boot_id TEXT,
    lease_until REAL
)
""",
)
"""The way from nothing to the present tables: one statement a version.

A file may be one version ahead, so that the processes of a host can be replaced one by one, and back. So a step only
adds what the statements of the version before can leave out, and taking away waits for the next.
"""
SCHEMA = len(MIGRATIONS)

# The casts take what somebody typed into a `sqlite3` shell for what it was meant to be.
FIND = """
SELECT key, CAST(version AS TEXT), CAST(blob AS BLOB), lease_boot_id, CAST(lease_until AS REAL)
FROM records WHERE key IN
"""

# EXTRA, not FULL: in this journal mode a commit is the unlinking of the journal, which FULL doesn't sync.
# After a power cut it could be back, and undo a write that was acknowledged. secure_delete: a replaced
# refresh token must not linger in the file. The other two: the file may have been tampered with.
SETTINGS = (
    "PRAGMA synchronous = EXTRA",
    "PRAGMA secure_delete = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
)

NETWORKED = {"nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.sshfs", "fuse.glusterfs"}
"""File systems that SQLite's own documentation warns of (https://sqlite.org/faq.html#q5)."""

WAITING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
ROLLED_BACK = {*WAITING, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
"""With these, a write has certainly not happened."""

LOOK_AT_DISK = "look at the disk, its quota, this process's file size limit and dmesg"
MOVED = (
    "the file was replaced or deleted during a write, which may be in the old file only",
    "stop the daemon before you replace it",
)
FAULTS = {
    sqlite3.SQLITE_BUSY: (
        f"it stayed locked for {BUSY_SECONDS:.0f} s",
        "find the process that holds it (`fuser -v` on the file) and end it",
    ),
    sqlite3.SQLITE_LOCKED: ("it is locked from within this process", "this is a bug, please report it"),
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space there"),
    sqlite3.SQLITE_IOERR: (
        "reading or writing failed ({name})",
        LOOK_AT_DISK,
    ),
    sqlite3.SQLITE_READONLY: (
        "it cannot be written",
        "make the file, its directory and their file system writable for uid {uid}",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "it cannot be opened",
        "make the file and its directory writable for uid {uid}",
    ),
    sqlite3.SQLITE_PERM: ("access is denied", "make the file and its directory writable for uid {uid}"),
    sqlite3.SQLITE_CORRUPT: (
        "the database is damaged",
        "stop the daemon and restore a backup, or save what `sqlite3 FILE .recover` finds",
    ),
    sqlite3.SQLITE_NOTADB: (
        "it is not a SQLite database",
        "name another file in the store's URL, or restore a backup",
    ),
}
"""SQLite's primary result code → reason, remedy."""
REFUSED = ("SQLite refused the operation: {error} ({name})", "restore a backup if it was edited by hand")


class SqliteStore(RecordStore):
    """One table in one file; leases count on the machine's boot-time clock, and end with the boot."""

    kind = "sqlite"

    def __init__(
        self,
        path: Path,
        clock: Clock,
        sealer: Sealer = CLEAR,
        *,
        create: bool = True,
        boot: str | None = None,
        migrations: Sequence[str] = MIGRATIONS,
    ) -> None:
        """Take the database's absolute path. A worker thread calls `clock.boot()`.

        `boot` and `migrations` are for tests.
        """
        super().__init__(str(path), sealer)
        self.volatile = False
        self._create_missing = create
        self.path = path
        self._clock = clock
        self._boot = boot
        self._migrations = migrations
        self._turn = anyio.Lock()
        # One call works, and one may have to wait behind a call that was given up while the disk hung.
        self._threads = anyio.CapacityLimiter(2)
        self._using = threading.Lock()
        self._open = False
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def __repr__(self) -> str:
        """Show where it is."""
        return f"SqliteStore({str(self.path)!r})"

    async def __aenter__(self) -> Self:
        """Open the database; create the file and its directory, but not the directory's parents."""
        self._open = True
        try:
            await self._run(lambda _: None, create=self._create_missing)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection, after the call that is under way."""
        await self._close()

    async def _load_blob(self, key: str) -> Blob | None:
        return (await self._load_blobs([key])).get(key)

    async def load_many(self, keys: Collection[str]) -> dict[str, Held | RecordUnreadable]:
        """See `SupportsMany.load_many`."""
        return self._all_opened(await self._load_blobs(keys))

    async def _load_blobs(self, keys: Collection[str]) -> dict[str, Blob]:

        def work(connection: sqlite3.Connection) -> dict[str, Blob]:
            rows = connection.execute(f"{FIND} ({', '.join('?' * len(keys))})", (*keys,)).fetchall()
            return {key: self._found(*row) for key, *row in rows}

        return await self._run(work)

    def _found(self, version: str, blob: bytes | None, boot: str | None, until: float | None) -> Blob:
        alive = until is not None and boot == self._boot
        return Blob(
            blob, version, max(0.0, until - self._clock.boot()) if alive and until is not None else 0.0
        )

    async def _write_blob(self, key: str, blob: bytes, *, expected: str | None, lease: float) -> str:
        # Random and not counted: a counter would repeat itself after a deletion, and after a restored backup.
        version = secrets.randbits(63)

        def work(connection: sqlite3.Connection) -> str:
            with self._change(connection):
                self._check(connection, key, expected)
                # Read within the transaction: waiting for the lock must not use up the lease that others see.
                until = self._clock.boot() + lease if lease > 0 else None
                connection.execute(
                    "INSERT INTO records (key, version, blob, lease_boot_id, lease_until) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT (key) DO UPDATE SET version = excluded.version, blob = excluded.blob,"
                    " lease_boot_id = excluded.lease_boot_id, lease_until = excluded.lease_until",
                    (key, version, blob, None if until is None else self._boot, until),
                )
            return str(version)

        return await self._run(work)

    async def versions(self, prefix: str, *, after: str, most: int) -> list[tuple[str, str]]:
        """See `SupportsFollowing.versions`."""

        def work(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            rows = connection.execute(
                "SELECT key, version FROM records WHERE key > ?1 AND substr(key, 1, length(?2)) = ?2 "
                "ORDER BY key LIMIT ?3",
                (max(prefix, after), prefix, most),
            )
            return [(key, str(version)) for key, version in rows]

        return await self._run(work)

    async def keys(self, prefix: str = "") -> list[str]:

        def work(connection: sqlite3.Connection) -> list[str]:
            # No LIKE: it takes `_` and `%` for more than they are, and A for a.
            rows = connection.execute(
                "SELECT key FROM records WHERE key >= ?1 AND substr(key, 1, length(?1)) = ?1 ORDER BY key",
                (prefix,),
            )
            return [row[0] for row in rows]

        return await self._run(work)

    async def _delete_blob(self, key: str, *, expected: str) -> None:

        def work(connection: sqlite3.Connection) -> None:
            with self._change(connection):
                self._check(connection, key, expected)
                connection.execute("DELETE FROM records WHERE key = ?", (key,))

        await self._run(work)

    async def diagnose(self) -> list[Finding]:
        """See `SupportsDiagnosis`."""

        def work(connection: sqlite3.Connection) -> tuple[int, str]:
            [verdict] = connection.execute("PRAGMA quick_check(1)").fetchone()
            return self._schema_of(connection), str(verdict)

        schema, verdict = await self._run(work)
        if verdict != "ok":
            return [Finding(Grade.FAILED, *FAULTS[sqlite3.SQLITE_CORRUPT])]
        medium = Mounts.read().kind(self.path) or "an unknown file system"
        found = [Finding(Grade.OK, f"schema {schema}, on {medium}; the file is sound")]
        if medium in NETWORKED:
            text = f"the file is on {medium}, whose locks and syncs can't be relied on"
            found.append(Finding(Grade.WARNING, text, "put it on a disk of this host, or use PostgreSQL"))
        return found

    def _check(self, connection: sqlite3.Connection, key: str, expected: str | None) -> None:
        row = connection.execute("SELECT CAST(version AS TEXT) FROM records WHERE key = ?", (key,)).fetchone()
        if (row[0] if row else None) != expected:
            raise conflict(key, self._place, expected=expected)

    @contextmanager
    def _change(self, connection: sqlite3.Connection) -> Iterator[None]:
        with _transaction(connection, "IMMEDIATE"):
            yield
        if self._present() != self._identity:
            raise self._fault(*MOVED)

    # What follows brings a call to its thread, and bounds it.

    async def _run(self, work: Callable[[sqlite3.Connection], T], *, create: bool = False) -> T:
        """Call `work` with the connection, in a thread; once it has its turn, nothing cancels it."""
        started = False
        with anyio.move_on_after(BUSY_SECONDS) as limit:
            async with self._turn:
                started = True
                patience = max(0.0, limit.deadline - anyio.current_time())
                limit.shield = True
                limit.deadline += DISK_SECONDS
                return await to_thread.run_sync(
                    partial(self._work, work, patience, create=create),
                    abandon_on_cancel=True,
                    limiter=self._threads,
                )
        if started:
            raise self._fault(f"the disk did not answer for {DISK_SECONDS:.0f} s", LOOK_AT_DISK)
        raise self._fault(*FAULTS[sqlite3.SQLITE_BUSY])

    def _work(self, work: Callable[[sqlite3.Connection], T], patience: float, *, create: bool) -> T:
        if not self._using.acquire(timeout=patience):
            raise self._fault("an earlier call still waits for the disk", LOOK_AT_DISK)
        try:
            return work(self._connected(patience, create=create))
        except sqlite3.Error as error:
            if _code(error) not in WAITING:
                # The next call begins with a new connection, which sees the file as it is then.
                self._disconnect()
            raise self._explained(error) from error
        except OSError as error:
            raise self._fault(
                f"{error.strerror} ({error.filename or self.path})", _remedy_for(error)
            ) from error
        finally:
            self._using.release()

    async def _close(self) -> None:
        with anyio.move_on_after(BUSY_SECONDS + DISK_SECONDS, shield=True):
            async with self._turn:
                await to_thread.run_sync(self._closed, abandon_on_cancel=True, limiter=self._threads)

    def _closed(self) -> None:
        with self._using:
            self._open = False
            self._disconnect()

    # What follows runs in the thread.

    def _connected(self, patience: float, *, create: bool) -> sqlite3.Connection:
        """Return a connection to the file that is at `path` now.

        A file that was replaced (a restored backup) is opened anew. One that was deleted is an error, and not
        created again: an empty store would have forgotten which refresh tokens are spent.
        """
        if not self._open:
            raise self._fault("it is not open", "this is a bug, please report it")
        if create:
            self._create()
        present = self._present()
        if present is None and self._identity is None and not self._create_missing:
            raise StoreMissing(f"the store {self.path}: there is no such file yet; the daemon creates it")
        if present is None and self._identity is None:
            raise self._fault("the file is missing, or a link to nothing", "put it there")
        if present is None:
            raise self._fault(
                "the file was deleted while it was in use",
                f"put it back (until this process ends, root can copy it from /proc/{os.getpid()}/fd), "
                "or restart the daemon to begin with an empty one",
            )
        if present != self._identity:
            self._disconnect()
        if self._connection is None:
            self._connection = self._connect(patience, create=create)
            self._identity = present
        self._connection.execute(f"PRAGMA busy_timeout = {patience * 1000:.0f}")
        return self._connection

    def _create(self) -> None:
        directory = self.path.parent
        with suppress(FileExistsError):
            try:
                directory.mkdir(mode=DIRECTORY_MODE)
            except FileNotFoundError:
                raise self._fault(
                    f"the directory {directory.parent} is missing",
                    "create it, or mount the volume that should be there",
                ) from None
            directory.chmod(DIRECTORY_MODE)
            _sync(directory.parent)
        # Made without being opened: closing any descriptor of a file drops all locks that this process has on
        # it (fcntl(2)), another connection's too. The umask can only take away from the mode.
        with suppress(FileExistsError):
            os.mknod(self.path, FILE_MODE | stat.S_IFREG)
            self.path.chmod(FILE_MODE)

    def _connect(self, patience: float, *, create: bool) -> sqlite3.Connection:
        self._boot = self._boot or boot_id()
        mode = self.path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise self._fault("it is not a file", "name a file in the store's URL")
        if mode & stat.S_IRWXO:
            with suppress(PermissionError):
                self.path.chmod(stat.S_IMODE(mode) & ~stat.S_IRWXO)
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=patience,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            for setting in SETTINGS:
                connection.execute(setting)
            self._lay_out(connection, create=create)
            # The mode is kept in the file, so that somebody may have set another one.
            connection.execute("PRAGMA journal_mode = DELETE")
        except BaseException:
            connection.close()
            raise
        return connection

    def _lay_out(self, connection: sqlite3.Connection, *, create: bool) -> None:
        """Create the table in an empty file, or bring it up to date; refuse other programs' and newer files."""
        newest = len(self._migrations)
        # In one transaction, lest the three answers straddle another process's creating it.
        with _transaction(connection, "DEFERRED"):
            found = self._schema_of(connection)
        if found >= newest:
            return
        if not create and found == 0:
            raise self._fault(
                "the file was emptied while it was in use",
                "restore it, or restart the daemon to begin with an empty one",
            )
        if not create:
            raise self._fault(
                f"it is of an older version (schema {found}, not {newest})",
                "run `token-sidecar store migrate`",
            )
        with _transaction(connection, "IMMEDIATE"):
            # Another process may have been first.
            for step in self._migrations[self._schema_of(connection) :]:
                connection.execute(step)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {max(newest, self._schema_of(connection))}")

    def _schema_of(self, connection: sqlite3.Connection) -> int:
        """Return the version of the tables; 0: there are none yet."""
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (application, schema, tables) == (0, 0, 0):
            return 0
        if application != APPLICATION_ID:
            raise self._fault("it is the database of another program", "name another file in the store's URL")
        if schema > len(self._migrations) + 1:
            raise self._fault(
                f"it is of a newer version (schema {schema}; this one works with up to {len(self._migrations) + 1})",
                "run that version again, or restore a backup from before the upgrade",
            )
        return int(schema)

    def _present(self) -> tuple[int, int] | None:
        """Name the file that is at `path` now. No other file gets that name while our connection holds it."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _disconnect(self) -> None:
        connection, self._connection, self._identity = self._connection, None, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _explained(self, error: sqlite3.Error) -> StoreError:
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        reason, remedy = MOVED if name == "SQLITE_READONLY_DBMOVED" else FAULTS.get(_code(error), REFUSED)
        kind = Unwritten if _code(error) in ROLLED_BACK else StoreError
        return self._fault(reason.format(name=name, error=error), remedy.format(uid=os.geteuid()), kind)

    def _fault(self, reason: str, remedy: str, kind: type[StoreError] = StoreError) -> StoreError:
        return kind(f"the store {self.path}: {reason}; {remedy}")


@contextmanager
def _transaction(connection: sqlite3.Connection, mode: str) -> Iterator[None]:
    """Do all or nothing. IMMEDIATE takes the right to write at once, so that no two can block each other."""
    connection.execute(f"BEGIN {mode}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code; the higher bits only refine it."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _remedy_for(error: OSError) -> str:
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"make the file, its directory and their file system writable for uid {os.geteuid()}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "free some space there"
    return "name another file in the store's URL, or repair this path"


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def from_url(url: str, clock: Clock, sealer: Sealer, *, create: bool = True, **_: object) -> Store:
    """Make the store of `sqlite:///absolute/path`.

    The path is taken as it is written, without percent-decoding: the configuration reads it so too, and the
    file that it checked must be the file that is opened.
    """
    rest = url.partition(":")[2]
    if rest.startswith("//") and not rest.startswith("///"):
        rest = ""
    path = Path("/" + rest.lstrip("/"))
    if not rest.startswith("/") or path == Path("/") or "\0" in rest:
        raise ConfigError(
            "store: a sqlite URL is `sqlite://` and an absolute path, such as "
            "sqlite:///var/lib/token-sidecar/tokens.db"
        )
    return SqliteStore(path, clock, sealer, create=create)
