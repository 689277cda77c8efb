"""Sealed records: which key a record has and keeps, what can't be opened, and how keys are changed."""

# ruff: noqa: ASYNC240 - nobody waits for these tests

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from sidecar.errors import Conflict, RecordUnreadable
from sidecar.ports import Held
from sidecar.seal import open_sealer
from sidecar.stores import open_store
from sidecar.stores.base import RecordStore
from sidecar.stores.memory import MemoryStore
from sidecar.stores.sqlite import SqliteStore
from sidecar.tokens import Attempt, Record, RefreshToken
from tests.stores.conftest import ManualClock, PostgresBackend, new_key

KEY = "basketball-api/gmail"
RECORD = Record(lineage="first", refresh=RefreshToken("sim-rt-0123456789abcdef0123456789", 1.8e9))
OTHER = Record(lineage="second", refresh=RefreshToken("sim-rt-abcdef0123456789abcdef0123", 1.8e9))

Replica = Callable[[Sequence[Path]], Any]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> Replica:
    """Open one more instance on the same records, with these keys."""
    clock = ManualClock()
    rows: MemoryStore | None = None

    def sqlite(keys: Sequence[Path]) -> SqliteStore:
        return SqliteStore(tmp_path / "tokens.db", clock, open_sealer(keys))

    def memory(keys: Sequence[Path]) -> MemoryStore:
        nonlocal rows
        store = MemoryStore(clock, open_sealer(keys))
        if rows is not None:
            store._rows, store._versions = rows._rows, rows._versions
        rows = store
        return store

    if request.param == "postgres":
        PostgresBackend.server = request.getfixturevalue("server")
        url = PostgresBackend(tmp_path).url
        return lambda keys: open_store(str(url), clock, open_sealer(keys))
    return sqlite if request.param == "sqlite" else memory


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The key that was there first."""
    return new_key(tmp_path, "old.key")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """The key that comes after it."""
    return new_key(tmp_path, "new.key")


def id_of(path: Path) -> str:
    """Name the key in a file."""
    return open_sealer([path]).first


async def held(store: RecordStore, key: str = KEY) -> Held:
    """Load a record that must be there."""
    found = await store.load(key)
    assert found is not None
    return found


async def test_a_record_keeps_its_key(replica: Replica, old: Path, new: Path) -> None:
    """A write seals with the key that the record was read with; a new record gets the first key."""
    async with replica([old]) as before, replica([new, old]) as after:
        await before.write(KEY, RECORD, expected=None)
        version = await after.write(KEY, OTHER, expected=(await held(after)).version)
        # From the version that a write returned, too.
        await after.write(KEY, RECORD, expected=version)
        assert (await held(before)).record == RECORD
        await after.write("ns/new", RECORD, expected=None)
        assert (await held(after)).sealed_with == id_of(old)
        assert (await held(after, "ns/new")).sealed_with == id_of(new)


async def test_a_record_in_clear_stays_so_until_it_is_rekeyed(replica: Replica, new: Path) -> None:
    """Replicas that have no keys yet can read what the others write, until the keys are everywhere."""
    async with replica([]) as before, replica([new]) as after:
        version = await before.write(KEY, RECORD, expected=None)
        await after.write(KEY, OTHER, expected=version)
        assert (await held(before)).record == OTHER
        assert await after.rekey(KEY)
        assert not await after.rekey(KEY)
        assert ((await held(after)).record, (await held(after)).sealed_with) == (OTHER, id_of(new))
        with pytest.raises(RecordUnreadable, match=rf"{id_of(new)}.*encryption_keys"):
            await before.load(KEY)
        assert await after.rekey(KEY, clear=True)
        assert (await held(before)).record == OTHER


async def test_a_rekeyed_record_keeps_its_new_key(replica: Replica, old: Path, new: Path) -> None:
    """A writer that read it before loses the race, reads it anew, and seals with the new key from then on."""
    async with replica([old, new]) as slow, replica([new, old]) as fast:
        version = await slow.write(KEY, RECORD, expected=None)
        assert await fast.rekey(KEY)
        with pytest.raises(Conflict):
            await slow.write(KEY, OTHER, expected=version)
        await slow.write(KEY, OTHER, expected=(await held(slow)).version)
        assert ((await held(fast)).record, (await held(fast)).sealed_with) == (OTHER, id_of(new))


async def test_what_cannot_be_opened_is_left_alone(replica: Replica, old: Path, new: Path) -> None:
    """With the wrong key, or none, a record is an error that says what to do; it can't be replaced or rekeyed."""
    async with replica([old]) as owner, replica([new]) as stranger, replica([]) as keyless:
        version = await owner.write(KEY, RECORD, expected=None)
        for store in (stranger, keyless):
            with pytest.raises(RecordUnreadable, match=rf"{KEY}.*{id_of(old)}.*left untouched") as caught:
                await store.load(KEY)
            assert "sim-" not in str(caught.value)
            with pytest.raises(Conflict):
                await store.write(KEY, OTHER, expected=None)
            with pytest.raises(Conflict):
                await store.write(KEY, OTHER, expected=version.partition("@")[0] + "0")
            with pytest.raises(RecordUnreadable):
                await store.rekey(KEY)
            assert await store.keys() == [KEY]
        assert ((await held(owner)).record, (await held(owner)).version) == (RECORD, version)


async def test_a_lease_outlives_rekeying(replica: Replica, old: Path, new: Path) -> None:
    """An attempt that is under way stays protected, and its holder commits by the attempt's id."""
    leased = Record(lineage="l", attempt=Attempt(id="a", instance="i", fingerprint="f", started_at=1.8e9))
    async with replica([old]) as holder, replica([new, old]) as other:
        await holder.write(KEY, leased, expected=None, lease=30)
        await other.rekey(KEY)
        found = await held(other)
        assert found.record == leased
        assert 29 < found.lease_left <= 30


async def test_a_moved_blob_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    """A row that was copied over another by somebody who can write the database is not taken for its record."""
    store = MemoryStore(clock, open_sealer([new_key(tmp_path)]))
    await store.write("ns/mine", RECORD, expected=None)
    await store.write("ns/yours", OTHER, expected=None)
    store._rows["ns/mine"] = store._rows["ns/yours"]
    with pytest.raises(RecordUnreadable, match=r"ns/mine.*another purpose"):
        await store.load("ns/mine")


async def test_rekeying_beside_writers_loses_nothing(replica: Replica, old: Path, new: Path) -> None:
    """Replicas that have the keys in either order count up one number while it is rekeyed back and forth."""

    async def count(store: RecordStore) -> None:
        for _ in range(20):
            while True:
                found = await held(store)
                record = Record(lineage="count", generation=found.record.generation + 1)
                try:
                    await store.write(KEY, record, expected=found.version)
                    break
                except Conflict:
                    continue

    async def rekey(store: RecordStore) -> None:
        while True:
            try:
                await store.rekey(KEY)
            except Conflict:
                continue
            await checkpoint()

    async with replica([old, new]) as one, replica([new, old]) as two:
        await one.write(KEY, Record(lineage="count"), expected=None)
        async with anyio.create_task_group() as rekeying:
            rekeying.start_soon(rekey, one)
            rekeying.start_soon(rekey, two)
            async with anyio.create_task_group() as counting:
                for store in (one, two, one, two):
                    counting.start_soon(count, store)
            rekeying.cancel_scope.cancel()
        assert (await held(two)).record.generation == 80


async def test_a_key_is_found_again_when_it_is_back(replica: Replica, old: Path, new: Path) -> None:
    """The way out of a lost key is to put it back: no restart, and nothing was lost."""
    async with replica([old]) as owner, replica([new]) as other:
        await owner.write(KEY, RECORD, expected=None)
        with pytest.raises(RecordUnreadable):
            await other.load(KEY)
        new.write_bytes(new.read_bytes() + old.read_bytes())
        assert (await held(other)).record == RECORD
