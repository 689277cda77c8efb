"""What SQLite adds to the contract: its file, its locks, its clock, and everything that can break a file."""

# ruff: noqa: ASYNC240 - these tests are about files, and nobody waits for them

from __future__ import annotations

import errno
import os
import resource
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from sidecar.errors import Conflict, RecordUnreadable, StoreError, Unwritten
from sidecar.stores import sqlite
from sidecar.stores.sqlite import SqliteStore
from sidecar.tokens import Record, RefreshToken

if TYPE_CHECKING:
    from sidecar.ports import Held
    from tests.stores.conftest import ManualClock

KEY = "ns/gmail"
SECRET = "sim-rt-0123456789abcdef0123456789"
RECORD = Record(lineage="first", refresh=RefreshToken(value=SECRET, issued_at=0))
OTHER = Record(lineage="second")
BIG = Record(lineage="x" * 2**20)
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database in a directory that is not there yet."""
    return tmp_path / "state" / "tokens.db"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for locks and for the disk as long as a test may."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(sqlite, "DISK_SECONDS", 0.1)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Run with another umask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def locked(path: Path, mode: str = "EXCLUSIVE") -> Iterator[sqlite3.Connection]:
    """Hold the database's lock as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute(f"BEGIN {mode}")
        yield connection


def mode_of(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


async def held(store: SqliteStore, key: str = KEY) -> Held:
    """Load a record that must be there."""
    found = await store.load(key)
    assert found is not None
    return found


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
async def test_the_file_is_private_whatever_the_umask(path: Path, clock: ManualClock, mask: int) -> None:
    """The file gets mode 0600 and its directory 0700."""
    with umask(mask):
        async with SqliteStore(path, clock) as store:
            await store.write(KEY, RECORD, expected=None)
    assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o700)


async def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path, clock: ManualClock) -> None:
    """Only a directory that we made is ours to close."""
    tmp_path.chmod(0o750)
    async with SqliteStore(tmp_path / "tokens.db", clock):
        assert mode_of(tmp_path) == 0o750


async def test_a_file_that_everybody_may_read_is_closed(path: Path, clock: ManualClock) -> None:
    """What others may do with an existing file is taken away; its group is the operator's decision."""
    async with SqliteStore(path, clock):
        path.chmod(0o664)
    async with SqliteStore(path, clock):
        assert mode_of(path) == 0o660


async def test_the_journal_is_private_too(path: Path, clock: ManualClock) -> None:
    """The journal, which holds what a write replaces, gets the file's mode and is gone after the commit."""
    with umask(0):
        async with SqliteStore(path, clock) as store:
            version = await store.write(KEY, RECORD, expected=None)
            connection = store._connection
            assert connection is not None
            modes: list[list[int]] = []
            connection.set_trace_callback(
                lambda statement: (
                    modes.append([mode_of(p) for p in path.parent.iterdir()])
                    if statement == "COMMIT"
                    else None
                ),
            )
            await store.write(KEY, OTHER, expected=version)
    assert modes == [[0o600, 0o600]]
    assert list(path.parent.iterdir()) == [path]


async def test_a_missing_directory_above_is_an_error(path: Path, clock: ManualClock) -> None:
    """A volume that was not mounted, or a misspelt path, is not papered over with new directories."""
    deep = path.parent / "deeper" / "tokens.db"
    with pytest.raises(StoreError, match=f"directory {path.parent} is missing; create it"):
        async with SqliteStore(deep, clock):
            pass
    assert not path.parent.exists()


async def test_commits_are_synced(path: Path, clock: ManualClock) -> None:
    """The journal and its directory are synced at each commit, and deleted content is overwritten."""
    async with SqliteStore(path, clock) as store:
        connection = store._connection
        assert connection is not None
        pragmas = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "secure_delete", "mmap_size")
        }
    assert pragmas == {"journal_mode": "delete", "synchronous": 3, "secure_delete": 1, "mmap_size": 0}


async def test_a_replaced_token_does_not_linger(path: Path, clock: ManualClock) -> None:
    """After a rotation the old refresh token is nowhere in the file."""
    async with SqliteStore(path, clock) as store:
        version = await store.write(KEY, RECORD, expected=None)
        assert SECRET.encode() in path.read_bytes()
        await store.write(KEY, OTHER, expected=version)
        assert SECRET.encode() not in path.read_bytes()


async def test_a_lease_of_another_boot_has_lapsed(path: Path, clock: ManualClock) -> None:
    """After a reboot the boot-time clock begins anew, and no holder can be alive."""
    async with SqliteStore(path, clock, boot="one") as store:
        await store.write(KEY, RECORD, expected=None, lease=30)
        assert (await held(store)).lease_left > 0
    async with SqliteStore(path, clock, boot="two") as store:
        assert (await held(store)).lease_left == 0


@pytest.mark.usefixtures("impatient")
async def test_a_lock_that_somebody_keeps_is_an_error(path: Path, clock: ManualClock) -> None:
    """A call gives up on a locked file within its bound, changes nothing, and the next one works."""
    async with SqliteStore(path, clock) as store:
        version = await store.write(KEY, RECORD, expected=None)
        with locked(path):
            with pytest.raises(StoreError, match=r"stayed locked.*fuser"):
                await store.load(KEY)
            with pytest.raises(Unwritten, match="stayed locked"):
                await store.write(KEY, OTHER, expected=version)
        assert version == (await held(store)).version
        await store.write(KEY, OTHER, expected=version)


@pytest.mark.usefixtures("impatient")
async def test_a_reader_that_stays_blocks_the_commit_only(path: Path, clock: ManualClock) -> None:
    """A backup tool that reads for ever makes writes fail, whole and in time, and reads go on."""
    async with SqliteStore(path, clock) as store:
        version = await store.write(KEY, RECORD, expected=None)
        with locked(path, "DEFERRED") as other:
            other.execute("SELECT * FROM records").fetchall()
            with pytest.raises(StoreError, match="stayed locked"):
                await store.write(KEY, OTHER, expected=version)
            assert (await held(store)).record == RECORD
        await store.write(KEY, OTHER, expected=version)


async def test_queued_calls_share_one_bound(
    path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight calls on a locked file take as long as one: waiting in the queue counts."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.3)
    failed: list[int] = []

    async def load() -> None:
        with pytest.raises(StoreError, match="stayed locked"):
            await store.load(KEY)
        failed.append(1)

    async with SqliteStore(path, clock) as store:
        with locked(path):
            begun = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(load)
            assert anyio.current_time() - begun < 2 * 0.3
    assert len(failed) == 8


async def test_a_cancelled_write_is_finished(path: Path, clock: ManualClock) -> None:
    """A write that is on its way is not abandoned by a cancelled caller, and leaves no transaction open."""
    async with SqliteStore(path, clock) as store:
        version = await store.write(KEY, RECORD, expected=None)
        with locked(path) as other:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: store.write(KEY, OTHER, expected=version))
                while not store._using.locked():
                    await checkpoint()
                tasks.cancel_scope.cancel()
                other.execute("ROLLBACK")
        assert (await held(store)).record == OTHER
        assert store._connection is not None
        assert not store._connection.in_transaction


async def test_a_cancelled_call_in_the_queue_does_nothing(path: Path, clock: ManualClock) -> None:
    """A write that was cancelled before its turn has not happened."""
    async with SqliteStore(path, clock) as store:
        async with store._turn, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: store.write(KEY, RECORD, expected=None))
            await checkpoint()
            tasks.cancel_scope.cancel()
        assert await store.load(KEY) is None


async def test_a_disk_that_hangs_holds_up_nobody(
    path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call that the disk does not answer is given up in time, as are those after it, until it does."""
    answer = threading.Event()
    async with SqliteStore(path, clock) as store:
        monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
        monkeypatch.setattr(sqlite, "DISK_SECONDS", 0.1)
        with pytest.raises(StoreError, match="disk did not answer") as caught:
            await store._run(lambda _: answer.wait())
        assert not isinstance(caught.value, Unwritten)
        with pytest.raises(StoreError, match="disk"):
            await store.load(KEY)
        monkeypatch.undo()
        answer.set()
        await store.write(KEY, RECORD, expected=None)


async def test_a_full_disk_is_an_error(path: Path, clock: ManualClock) -> None:
    """A write that finds no room is undone, and works as soon as there is room."""
    async with SqliteStore(path, clock) as store:
        version = await store.write(KEY, RECORD, expected=None)
        assert store._connection is not None
        store._connection.execute("PRAGMA max_page_count = 1")
        with pytest.raises(Unwritten, match="disk is full; free some space"):
            await store.write(KEY, BIG, expected=version)
        assert (await held(store)).record == RECORD
        await store.write(KEY, BIG, expected=version)


async def test_a_disk_that_refuses_is_an_error(path: Path, clock: ManualClock) -> None:
    """An I/O error undoes the write, names the kind of failure, and is forgotten when it is over."""
    async with SqliteStore(path, clock) as store:
        version = await store.write(KEY, RECORD, expected=None)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
        try:
            with pytest.raises(StoreError, match=r"SQLITE_IOERR_WRITE.*quota"):
                await store.write(KEY, BIG, expected=version)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (await held(store)).record == RECORD
        await store.write(KEY, BIG, expected=version)


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """A database in a directory that any user can reach."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory / "tokens.db"
    directory.chmod(0o755)
    shutil.rmtree(directory)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write everything: be somebody else for a while."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


async def test_a_read_only_file_is_an_error(shared_path: Path, clock: ManualClock) -> None:
    """A file that can only be read can be loaded from; a write says whose permission is missing."""
    async with SqliteStore(shared_path, clock) as store:
        version = await store.write(KEY, RECORD, expected=None)
    shared_path.chmod(0o444)
    shared_path.parent.chmod(0o555)
    with unprivileged():
        async with SqliteStore(shared_path, clock) as store:
            assert version == (await held(store)).version
            with pytest.raises(StoreError, match=f"writable for uid {os.geteuid()}"):
                await store.write(KEY, OTHER, expected=version)


async def test_a_read_only_directory_is_an_error(shared_path: Path, clock: ManualClock) -> None:
    """Where the file can't be made, the message says whose permission is missing."""
    shared_path.parent.chmod(0o555)
    with unprivileged(), pytest.raises(StoreError, match=r"Permission denied.*writable for uid"):
        async with SqliteStore(shared_path, clock):
            pass


async def test_a_disk_without_room_for_the_file_is_an_error(
    path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the file can't be made for want of space, the message says so."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(os, "mknod", refuse)
    with pytest.raises(StoreError, match=r"No space left on device.*; free some space"):
        async with SqliteStore(path, clock):
            pass


async def test_a_file_in_place_of_the_directory_is_an_error(path: Path, clock: ManualClock) -> None:
    """A path that leads through a file is named."""
    path.parent.touch()
    with pytest.raises(StoreError, match=r"Not a directory.*; name another file"):
        async with SqliteStore(path, clock):
            pass


async def test_a_damaged_file_is_an_error(path: Path, clock: ManualClock) -> None:
    """Garbage within the file is found out, and not mistaken for an empty store."""
    async with SqliteStore(path, clock) as store:
        await store.write(KEY, BIG, expected=None)
        good = path.read_bytes()
        path.write_bytes(good[:4096] + b"\xa5" * (len(good) - 4096))
    async with SqliteStore(path, clock) as store:
        with pytest.raises(StoreError, match=r"damaged.*backup"):
            await store.load(KEY)
        path.write_bytes(good)
        assert (await held(store)).record == BIG


@pytest.mark.parametrize(
    "content",
    [b"tokens: {gmail: {provider: google}}\n" * 99, b"SQLite format 3\0" + bytes(100)],
    ids=["text", "zeros"],
)
async def test_another_kind_of_file_is_refused(path: Path, clock: ManualClock, content: bytes) -> None:
    """A file that is not a database is left as it is."""
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreError, match="not a SQLite database; name another file"):
        async with SqliteStore(path, clock):
            pass
    assert content == path.read_bytes()


async def test_a_directory_is_refused(path: Path, clock: ManualClock) -> None:
    """A URL that names a directory is told so."""
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="not a file; name a file"):
        async with SqliteStore(path, clock):
            pass


async def test_a_link_to_nothing_is_refused(path: Path, clock: ManualClock) -> None:
    """Nothing is created at the far end of a symbolic link."""
    path.parent.mkdir()
    path.symlink_to(path.parent / "elsewhere.db")
    with pytest.raises(StoreError, match="link to nothing"):
        async with SqliteStore(path, clock):
            pass
    assert not (path.parent / "elsewhere.db").exists()


async def test_a_database_of_another_program_is_refused(path: Path, clock: ManualClock) -> None:
    """No table is added to somebody else's database."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE records (key TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program; name another file"):
        async with SqliteStore(path, clock):
            pass
    assert before == path.read_bytes()


async def test_a_newer_layout_is_refused(path: Path, clock: ManualClock) -> None:
    """A database that a newer version has converted is left to that version."""
    async with SqliteStore(path, clock) as store:
        await store.write(KEY, RECORD, expected=None)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {sqlite.SCHEMA + 2}")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"of a newer version \(schema 3; this one works with up to 2\)"):
        async with SqliteStore(path, clock):
            pass
    assert before == path.read_bytes()


async def test_a_file_in_wal_mode_is_converted(path: Path, clock: ManualClock) -> None:
    """A journal mode that somebody set, and that stays in the file, is set back with nothing lost."""
    async with SqliteStore(path, clock) as store:
        await store.write(KEY, RECORD, expected=None)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        connection.execute("UPDATE records SET version = 5")
        connection.commit()
        assert not connection.in_transaction
    async with SqliteStore(path, clock) as store:
        assert (await held(store)).version == "5"
        assert [path] == list(path.parent.iterdir())


async def test_a_file_that_another_program_keeps_in_wal_mode_is_refused(
    path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A journal mode that can't be changed because the file is open elsewhere is an error in time."""
    async with SqliteStore(path, clock) as store:
        await store.write(KEY, RECORD, expected=None)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("SELECT * FROM records").fetchall()
        with pytest.raises(StoreError, match="stayed locked"):
            async with SqliteStore(path, clock):
                pass


async def test_a_deleted_file_is_an_error(path: Path, clock: ManualClock) -> None:
    """A running daemon neither writes to a deleted file nor begins an empty one; a file put back is used."""
    async with SqliteStore(path, clock) as store:
        version = await store.write(KEY, RECORD, expected=None)
        kept = path.rename(path.with_name("kept.db"))
        for call in (lambda: store.load(KEY), lambda: store.write(KEY, OTHER, expected=version), store.keys):
            with pytest.raises(StoreError, match=rf"deleted while it was in use.*/proc/{os.getpid()}/fd"):
                await call()
        assert not path.exists()
        kept.rename(path)
        await store.write(KEY, OTHER, expected=version)


async def test_a_deleted_file_can_be_rescued(path: Path, clock: ManualClock) -> None:
    """The remedy that the message gives works: the deleted file is still open, and its copy is taken up."""
    async with SqliteStore(path, clock) as store:
        version = await store.write(KEY, RECORD, expected=None)
        path.unlink()
        with pytest.raises(StoreError, match="/proc"):
            await store.load(KEY)
        (found,) = [
            link
            for link in Path("/proc/self/fd").iterdir()
            if str(path) in str(_target(link)) and link.exists()
        ]
        shutil.copyfile(found, path)
        assert version == (await held(store)).version


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except FileNotFoundError:
        return None


async def test_a_replaced_file_is_opened(path: Path, clock: ManualClock) -> None:
    """A restored backup is what counts from then on, and versions of the old file mean nothing in it."""
    async with SqliteStore(path, clock) as store:
        await store.write(KEY, RECORD, expected=None)
        backup = Path(shutil.copyfile(path, path.with_name("backup.db")))
        version = await store.write(KEY, OTHER, expected=(await held(store)).version)
        backup.replace(path)
        found = await held(store)
        assert found.record == RECORD
        with pytest.raises(Conflict):
            await store.write(KEY, OTHER, expected=version)
        await store.write(KEY, OTHER, expected=found.version)


async def test_a_replacement_that_is_empty_is_an_error(path: Path, clock: ManualClock) -> None:
    """An empty file in place of the database is not laid out anew under a running daemon."""
    async with SqliteStore(path, clock) as store:
        await store.write(KEY, RECORD, expected=None)
        empty = path.with_name("empty.db")
        empty.touch()
        empty.replace(path)
        with pytest.raises(StoreError, match=r"emptied.*restart"):
            await store.load(KEY)
    assert path.stat().st_size == 0


async def test_a_file_that_was_truncated_is_an_error(path: Path, clock: ManualClock) -> None:
    """A database that was emptied in place is not an empty store."""
    async with SqliteStore(path, clock) as store:
        await store.write(KEY, RECORD, expected=None)
        path.write_bytes(b"")
        for _ in range(2):
            with pytest.raises(StoreError):
                await store.load(KEY)
        with pytest.raises(StoreError, match="emptied"):
            await store.write(KEY, OTHER, expected=None)


@pytest.mark.parametrize("moment", ["BEGIN IMMEDIATE", "INSERT", "COMMIT"])
async def test_a_file_replaced_during_a_write_is_an_error(
    path: Path, clock: ManualClock, moment: str
) -> None:
    """A write whose file was taken away while it ran is not acknowledged."""
    async with SqliteStore(path, clock) as store:
        version = await store.write(KEY, RECORD, expected=None)
        copy = Path(shutil.copyfile(path, path.with_name("copy.db")))
        assert store._connection is not None
        store._connection.set_trace_callback(
            lambda statement: copy.replace(path) if statement.startswith(moment) and copy.exists() else None,
        )
        with pytest.raises(StoreError, match="replaced or deleted during a write"):
            await store.write(KEY, OTHER, expected=version)
        assert (await held(store)).record == RECORD


async def test_what_was_typed_by_hand_is_read(path: Path, clock: ManualClock) -> None:
    """Columns that a shell filled with text are taken for what they mean; rubbish harms its record only."""
    async with SqliteStore(path, clock) as store:
        await store.write("ns/good", RECORD, expected=None)
        with closing(sqlite3.connect(path, isolation_level=None)) as shell:
            shell.execute(
                """INSERT INTO records VALUES ('ns/text', '12', '{"lineage":"typed"}', NULL, 'soon')"""
            )
            shell.execute("INSERT INTO records VALUES ('ns/rubbish', 'x', 'x', 5, x'ff')")
        typed = await held(store, "ns/text")
        assert (typed.record.lineage, typed.version, typed.lease_left) == ("typed", "12", 0)
        await store.write("ns/text", RECORD, expected="12")
        with pytest.raises(RecordUnreadable):
            await store.load("ns/rubbish")
        assert await store.keys() == ["ns/good", "ns/rubbish", "ns/text"]


async def test_a_table_that_is_gone_is_an_error(path: Path, clock: ManualClock) -> None:
    """A statement that SQLite does not understand any more is a StoreError as well."""
    async with SqliteStore(path, clock) as store:
        with closing(sqlite3.connect(path)) as shell:
            shell.execute("DROP TABLE records")
        with pytest.raises(StoreError, match="no such table"):
            await store.load(KEY)


@pytest.mark.parametrize("code", [*sqlite.FAULTS, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL])
async def test_every_failure_names_file_reason_and_remedy(path: Path, clock: ManualClock, code: int) -> None:
    """Whatever SQLite answers becomes one sentence that an operator can act on."""

    def fail(_: object) -> None:
        error = sqlite3.OperationalError("{braces} in SQLite's own words")
        error.sqlite_errorcode = code | 0x200
        error.sqlite_errorname = "SQLITE_NAME"
        raise error

    async with SqliteStore(path, clock) as store:
        with pytest.raises(StoreError, match=rf"^the store {path}: [^;{{]+.*; [^{{]+$") as caught:
            await store._run(fail)
        assert not isinstance(caught.value, Conflict)
        await store.write(KEY, RECORD, expected=None)


async def test_a_closed_store_is_an_error(path: Path, clock: ManualClock) -> None:
    """A call before opening or after closing neither opens nor creates anything."""
    store = SqliteStore(path, clock)
    with pytest.raises(StoreError, match="not open"):
        await store.load(KEY)
    assert not path.parent.exists()
    async with store:
        pass
    with pytest.raises(StoreError, match="not open"):
        await store.write(KEY, RECORD, expected=None)


async def test_a_store_that_could_not_be_opened_can_be_tried_again(path: Path, clock: ManualClock) -> None:
    """Once what was missing is there, the same object opens."""
    store = SqliteStore(path.parent / "volume" / "tokens.db", clock)
    with pytest.raises(StoreError):
        await store.__aenter__()
    path.parent.mkdir()
    async with store:
        await store.write(KEY, RECORD, expected=None)


async def test_two_can_create_the_file_at_once(path: Path, clock: ManualClock) -> None:
    """Instances that find no file agree on one."""

    async def write(number: int) -> None:
        async with SqliteStore(path, clock) as store:
            await store.write(f"ns/{number}", RECORD, expected=None)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(write, number)
    async with SqliteStore(path, clock) as store:
        assert await store.keys() == [f"ns/{number}" for number in range(8)]
