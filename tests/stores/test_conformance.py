"""The law of the Store contract (`sidecar.ports.Store`), run over every store on asyncio and trio."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.errors import Conflict, RecordUnreadable, StoreError
from sidecar.ports import (
    Grade,
    SupportsClaims,
    SupportsDiagnosis,
    SupportsFollowing,
    SupportsMany,
    SupportsProbe,
    is_version,
)
from sidecar.tokens import AccessToken, Attempt, Record, RefreshToken, encode_record
from tests import forks

if TYPE_CHECKING:
    from sidecar.ports import Held, Store
    from tests.stores.conftest import Backend

KEY = "basketball-api/gmail"
SECRET = "sim-rt-0123456789abcdef0123456789"
RECORD = Record(
    lineage="first",
    access=AccessToken(value="sim-at-0123456789abcdef01234567", issued_at=1.8e9, expires_at=None, ttl=None),
    refresh=RefreshToken(value=SECRET, issued_at=1.8e9),
    attempt=Attempt(id="a", instance="i", fingerprint="f", started_at=1.8e9),
)
OTHER = Record(lineage="second", generation=4, refresh=RefreshToken(value=SECRET + "-2", issued_at=1.8e9))


async def held(store: Store, key: str = KEY) -> Held:
    """Load a record that must be there."""
    found = await store.load(key)
    assert found is not None
    return found


async def test_nothing_is_there_at_first(store: Store) -> None:
    """An empty store has no keys and loads None."""
    assert await store.load(KEY) is None
    assert await store.keys() == []


async def test_it_says_what_it_is(store: Store) -> None:
    """The kind is a short lower-case label and volatility is known."""
    assert store.kind.isidentifier()
    assert store.kind == store.kind.lower()
    assert isinstance(store.volatile, bool)


async def test_a_closer_look_changes_nothing(store: Store) -> None:
    """What a store tells of itself, and how it proves that it can be written, leaves no trace."""
    await store.write(KEY, RECORD, expected=None, lease=30.0)
    before = await held(store)
    if isinstance(store, SupportsDiagnosis):
        found = await store.diagnose()
        assert found
        assert [finding for finding in found if finding.grade is Grade.FAILED] == []
    if isinstance(store, SupportsProbe):
        await store.probe(KEY)
    after = await held(store)
    assert (after.record, after.version) == (before.record, before.version)
    assert after.lease_left > 0
    assert await store.keys() == [KEY]


async def test_a_write_is_read_back(store: Store) -> None:
    """A load after a write returns exactly that record and the version that the write returned."""
    version = await store.write(KEY, RECORD, expected=None)
    found = await held(store)
    assert (RECORD, version) == (found.record, found.version)


async def test_a_second_write_replaces_the_first(store: Store) -> None:
    """Records are written in whole: nothing of the previous one is left."""
    first = await store.write(KEY, RECORD, expected=None)
    second = await store.write(KEY, OTHER, expected=first)
    found = await held(store)
    assert (OTHER, second) == (found.record, found.version)


async def test_a_write_with_an_old_version_changes_nothing(store: Store) -> None:
    """A writer that read an older version gets a conflict; record, version and lease stay as they were."""
    first = await store.write(KEY, RECORD, expected=None)
    second = await store.write(KEY, OTHER, expected=first, lease=30)
    with pytest.raises(Conflict):
        await store.write(KEY, RECORD, expected=first, lease=99)
    found = await held(store)
    assert (OTHER, second) == (found.record, found.version)
    assert 29 < found.lease_left <= 30


@pytest.mark.parametrize("expected", ["", "0", "no-such-version", "-1", "1.0", "' OR 1=1 --"])
async def test_a_version_that_never_was_conflicts(store: Store, expected: str) -> None:
    """Versions are opaque: any string that is not the present one is a conflict and not another error."""
    version = await store.write(KEY, RECORD, expected=None)
    with pytest.raises(Conflict):
        await store.write(KEY, OTHER, expected=expected)
    with pytest.raises(Conflict):
        await store.delete(KEY, expected=expected)
    assert version == (await held(store)).version


async def test_a_version_is_compared_character_by_character(store: Store) -> None:
    """A string that merely means the same number is another version."""
    version = await store.write(KEY, RECORD, expected=None)
    for near in (f" {version}", f"{version} ", f"0{version}", f"{version}.0", f"+{version}"):
        with pytest.raises(Conflict):
            await store.write(KEY, OTHER, expected=near)


async def test_expecting_none_only_creates(store: Store) -> None:
    """A write that expects no record conflicts with one that is there."""
    await store.write(KEY, RECORD, expected=None)
    with pytest.raises(Conflict):
        await store.write(KEY, OTHER, expected=None)
    assert (await held(store)).record == RECORD


async def test_expecting_a_version_never_creates(store: Store) -> None:
    """A write that expects a version conflicts where no record is."""
    version = await store.write(KEY, RECORD, expected=None)
    await store.delete(KEY, expected=version)
    with pytest.raises(Conflict):
        await store.write(KEY, RECORD, expected=version)
    assert await store.load(KEY) is None


async def test_every_write_has_a_version_of_its_own(store: Store) -> None:
    """Versions never come back: not for the same content, and not after delete and create."""
    seen = set()
    for _ in range(5):
        version = await store.write(KEY, RECORD, expected=None)
        seen.add(version)
        version = await store.write(KEY, RECORD, expected=version)
        seen.add(version)
        await store.delete(KEY, expected=version)
    assert len(seen) == 10


async def test_one_of_many_creators_wins(backend: Backend) -> None:
    """Of tasks that create the same record through two instances, exactly one succeeds."""
    assert await winners(backend, None) == 1


async def test_one_of_many_writers_wins(backend: Backend) -> None:
    """Of tasks that replace the same version through two instances, exactly one succeeds."""
    async with backend.open() as store:
        assert await winners(backend, await store.write(KEY, RECORD, expected=None)) == 1


async def winners(backend: Backend, expected: str | None) -> int:
    """Let twenty tasks write at once; check that what is there afterwards is what the winner wrote."""
    won: list[tuple[int, str]] = []

    async def write(store: Store, generation: int) -> None:
        try:
            record = Record(lineage="race", generation=generation)
            won.append((generation, await store.write(KEY, record, expected=expected)))
        except Conflict:
            pass

    async with backend.open() as one, backend.open() as two:
        async with anyio.create_task_group() as tasks:
            for generation in range(20):
                tasks.start_soon(write, (one, two)[generation % 2], generation)
        found = await held(one)
    assert won == [(found.record.generation, found.version)]
    return len(won)


async def test_counting_loses_no_step(backend: Backend) -> None:
    """Tasks that increase one number by load, write and retry on conflict lose no increment."""

    async def increase(store: Store) -> None:
        for _ in range(5):
            while True:
                found = await held(store)
                record = Record(lineage="count", generation=found.record.generation + 1)
                try:
                    await store.write(KEY, record, expected=found.version)
                    break
                except Conflict:
                    continue

    async with backend.open() as one, backend.open() as two:
        await one.write(KEY, Record(lineage="count"), expected=None)
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(increase, (one, two)[number % 2])
        assert (await held(one)).record.generation == 30


async def test_no_lease_by_default(store: Store) -> None:
    """A record that was written without a lease is not protected."""
    await store.write(KEY, RECORD, expected=None)
    assert (await held(store)).lease_left == 0


async def test_a_lease_counts_down_and_ends(backend: Backend, store: Store) -> None:
    """The time that is left shrinks with the store's clock, for every instance, and stops at 0."""
    await store.write(KEY, RECORD, expected=None, lease=30)
    async with backend.open() as other:
        assert 29 < (await held(other)).lease_left <= 30
        await backend.advance(20)
        assert 9 < (await held(other)).lease_left <= 10
        await backend.advance(20)
        assert (await held(other)).lease_left == 0


async def test_a_lease_is_renewed_by_another_write(backend: Backend, store: Store) -> None:
    """A second write sets the lease anew, from that moment on."""
    version = await store.write(KEY, RECORD, expected=None, lease=30)
    await backend.advance(20)
    await store.write(KEY, RECORD, expected=version, lease=30)
    await backend.advance(20)
    assert 9 < (await held(store)).lease_left <= 10


async def test_a_write_without_lease_gives_it_up(store: Store) -> None:
    """The commit that ends an attempt ends its protection too."""
    version = await store.write(KEY, RECORD, expected=None, lease=30)
    await store.write(KEY, OTHER, expected=version)
    assert (await held(store)).lease_left == 0


async def test_a_renewed_lease_cannot_be_taken_over(backend: Backend, store: Store) -> None:
    """Whoever saw a lease run out can't take over from a holder that has renewed it since."""
    version = await store.write(KEY, RECORD, expected=None, lease=30)
    await backend.advance(31)
    seen = await held(store)
    assert seen.lease_left == 0
    await store.write(KEY, RECORD, expected=version, lease=30)
    with pytest.raises(Conflict):
        await store.write(KEY, OTHER, expected=seen.version, lease=30)
    assert (await held(store)).lease_left > 0


async def test_a_lease_does_not_come_back(backend: Backend, store: Store) -> None:
    """A deleted record leaves no lease behind for the next one under its key."""
    version = await store.write(KEY, RECORD, expected=None, lease=30)
    await store.delete(KEY, expected=version)
    await store.write(KEY, OTHER, expected=None)
    assert (await held(store)).lease_left == 0


async def test_a_lease_outlives_its_holder(backend: Backend) -> None:
    """Closing an instance neither ends a lease nor stops it."""
    async with backend.open() as one:
        await one.write(KEY, RECORD, expected=None, lease=30)
    await backend.advance(10)
    left = 30 if backend.observes else 20
    async with backend.open() as two:
        assert left - 1 < (await held(two)).lease_left <= left


async def test_leases_are_kept_by_key(store: Store) -> None:
    """One record's lease says nothing about another's."""
    await store.write("ns/a", RECORD, expected=None, lease=30)
    await store.write("ns/b", RECORD, expected=None)
    assert (await held(store, "ns/a")).lease_left > 0
    assert (await held(store, "ns/b")).lease_left == 0


async def test_keys_are_sorted(store: Store) -> None:
    """Keys come sorted by code point, whatever the order in which they were written."""
    names = ["ns/b", "ns/a", "ns/B", "ns/10", "ns/9", "a/z", "ns/ä", "ns/鍵", "ns/a/b", "ns/%_'\""]
    for name in names:
        await store.write(name, RECORD, expected=None)
    assert sorted(names) == await store.keys()


async def test_a_deletion_removes_one_record(store: Store) -> None:
    """A deleted record is gone; its neighbours stay."""
    version = await store.write("ns/a", RECORD, expected=None)
    await store.write("ns/b", OTHER, expected=None)
    await store.delete("ns/a", expected=version)
    assert await store.load("ns/a") is None
    assert await store.keys() == ["ns/b"]
    assert (await held(store, "ns/b")).record == OTHER


async def test_lists_the_keys_that_begin_so(store: Store) -> None:
    """A set's members are found by what their keys begin with, to the letter: nothing in it is a pattern."""
    for name in ("ns/g/b", "ns/g/a", "ns/g", "ns/gg/a", "ns/G/a", "ns/_/a", "nr/g/x"):
        await store.write(name, Record(lineage=name), expected=None)
    assert await store.keys("ns/g/") == ["ns/g/a", "ns/g/b"]
    assert await store.keys("ns/_/") == ["ns/_/a"]
    assert await store.keys("ns/x") == []


async def test_a_deletion_with_an_old_version_changes_nothing(store: Store) -> None:
    """Deleting compares the version just as writing does."""
    first = await store.write(KEY, RECORD, expected=None)
    second = await store.write(KEY, OTHER, expected=first)
    with pytest.raises(Conflict):
        await store.delete(KEY, expected=first)
    assert second == (await held(store)).version


async def test_deleting_what_is_not_there_conflicts(store: Store) -> None:
    """A record that somebody else deleted first is a conflict, not a success."""
    with pytest.raises(Conflict):
        await store.delete(KEY, expected="1")


async def test_keys_that_look_alike_are_different(store: Store) -> None:
    """Case, spaces, composition of letters and SQL's wildcards are all told apart."""
    names = ["ns/é", "ns/e\u0301", "ns/E", "ns/e", "ns/e ", "ns/_", "ns/%"]
    for number, name in enumerate(names):
        await store.write(name, Record(lineage=str(number)), expected=None)
    assert [str(n) for n in range(len(names))] == [(await held(store, name)).record.lineage for name in names]


async def test_text_of_any_script_survives(store: Store) -> None:
    """Texts come back as they were, control characters and astral planes included."""
    record = Record(lineage="Zoë \0 \x1f 鍵 🔑 \u2028 \ufeff", client_id='"\\')
    await store.write(KEY, record, expected=None)
    assert record == (await held(store)).record


def big(size: int) -> Record:
    """Make a record with a refresh token of so many bytes."""
    return Record(lineage="big", refresh=RefreshToken(value="sim-rt-".ljust(size, "x"), issued_at=0))


async def test_a_large_record_survives(backend: Backend, store: Store) -> None:
    """A record may be large (providers put whole profiles into tokens): a mebibyte, or what the store can hold."""
    # Sealing makes four bytes of three.
    record = big(2**20 if backend.limit is None else int(backend.limit * (0.74 if backend.keys else 0.99)))
    version = await store.write(KEY, RECORD, expected=None)
    version = await store.write(KEY, record, expected=version)
    assert record == (await held(store)).record
    await store.write(KEY, RECORD, expected=version)
    assert (await held(store)).record == RECORD


async def test_two_instances_see_each_others_writes(backend: Backend) -> None:
    """What one instance wrote is what the other reads next, and may replace."""
    async with backend.open() as one, backend.open() as two:
        first = await one.write(KEY, RECORD, expected=None)
        assert first == (await held(two)).version
        second = await two.write(KEY, OTHER, expected=first)
        assert second == (await held(one)).version
        with pytest.raises(Conflict):
            await one.write(KEY, RECORD, expected=first)
        await one.delete(KEY, expected=second)
        assert await two.load(KEY) is None


async def test_a_reopened_store_holds_what_was_written(backend: Backend) -> None:
    """Records and versions survive closing and opening, and an instance may be opened again."""
    again = backend.open()
    async with again as store:
        version = await store.write(KEY, RECORD, expected=None)
    async with again as store:
        found = await held(store)
        assert (RECORD, version) == (found.record, found.version)
    async with backend.open() as store:
        version = await store.write(KEY, OTHER, expected=version)
    async with again as store:
        assert version == (await held(store)).version


UNREADABLE = {
    "empty": b"",
    "text": f"not a record, {SECRET}".encode(),
    "half": encode_record(RECORD)[:100],
    "other shape": b'{"lineage": 5}',
    "other enum": encode_record(RECORD).replace(b'"expires_at":null', f'"expiry_source":"{SECRET}"'.encode()),
    "no UTF-8": b'{"lineage":"\xff\xfe"}',
    "too deep": b"[" * 200_000,
    "newer": b'{"lineage":"x","schema":99,"shape":"of the future"}',
}


@pytest.mark.parametrize("blob", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_an_unreadable_record_is_left_untouched(backend: Backend, store: Store, blob: bytes) -> None:
    """A blob that can't be decoded is an error that names its key, is not overwritten, and harms no other."""
    await store.write("ns/good", RECORD, expected=None)
    await backend.put_blob(KEY, blob)
    with pytest.raises(RecordUnreadable, match=KEY) as caught:
        await store.load(KEY)
    assert "sim-" not in everything(caught.value)
    with pytest.raises(Conflict):
        await store.write(KEY, RECORD, expected=None)
    assert blob == await backend.get_blob(KEY)
    assert await store.keys() == [KEY, "ns/good"]
    assert (await held(store, "ns/good")).record == RECORD


async def test_many_are_read_as_one_is(backend: Backend, store: Store) -> None:
    """Where a store can do it at once: what is not there is left out, and one that is damaged hides no other."""
    await store.write(KEY, RECORD, expected=None, lease=1000)
    await store.write("ns/b", OTHER, expected=None)
    await backend.put_blob("ns/bad", UNREADABLE["half"])
    if not isinstance(store, SupportsMany):
        return
    found = await store.load_many([KEY, "ns/bad", "ns/b", "ns/none", "ns/b"])
    assert isinstance(found["ns/bad"], RecordUnreadable)
    assert "ns/bad" in str(found.pop("ns/bad"))
    assert set(found) == {KEY, "ns/b"}
    for key, one in found.items():
        alone = await held(store, key)
        assert not isinstance(one, RecordUnreadable)
        assert (one.record, one.version, one.sealed_with) == (alone.record, alone.version, alone.sealed_with)
        assert (one.lease_left > 900) == (key == KEY)
    assert await store.load_many([]) == {}


async def test_versions_tell_what_has_changed(store: Store) -> None:
    """Where a store can be followed: page by page, each record's version is what a load tells, and no other's."""
    if not isinstance(store, SupportsFollowing):
        return
    names = ["ns/g/a", "ns/g/b", "ns/g/é", "ns/g/\U0010ffff"]
    known = {name: await store.write(name, RECORD, expected=None) for name in names}
    for stranger in ("ns/g", "ns/f/z", "ns/g0", "ns/h/a", "ns/G/a"):
        await store.write(stranger, RECORD, expected=None)
    first = await store.versions("ns/g/", after="", most=3)
    rest = await store.versions("ns/g/", after=first[-1][0], most=3)
    found = dict([*first, *rest])
    assert [*found] == names
    assert all(is_version(known[name], found[name]) for name in names)
    await store.write("ns/g/b", OTHER, expected=known["ns/g/b"], lease=30)
    changed = dict(await store.versions("ns/g/", after="ns/g/a", most=9))
    assert [name for name in changed if not is_version(known[name], changed[name])] == ["ns/g/b"]
    assert await store.versions("ns/none/", after="", most=3) == []


async def test_a_record_of_a_newer_version_says_so(backend: Backend, store: Store) -> None:
    """A newer schema is refused even where this version can decode it: rewriting it would lose fields."""
    await backend.put_blob(KEY, encode_record(Record(lineage="x", schema=99)))
    with pytest.raises(RecordUnreadable, match="newer version"):
        await store.load(KEY)


async def test_what_is_sealed_shows_nothing(backend: Backend, store: Store) -> None:
    """Where keys are configured, what the store holds is text in which nothing of a record can be read."""
    await store.write(KEY, RECORD, expected=None)
    blob = await backend.get_blob(KEY)
    assert (b"sim-" in blob) == (not backend.keys)
    assert blob.decode("ascii").isprintable()
    assert bool((await held(store)).sealed_with) == bool(backend.keys)


@pytest.mark.parametrize("steps", range(8))
async def test_cancellation_leaves_the_store_usable(backend: Backend, store: Store, steps: int) -> None:
    """A write that is cancelled anywhere has happened or not, as a load tells, and the next one works."""
    version = await store.write(KEY, RECORD, expected=None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: store.write(KEY, OTHER, expected=version))
        for _ in range(steps):
            await checkpoint()
        tasks.cancel_scope.cancel()
    found = await held(store)
    assert (found.record == RECORD) == (found.version == version)
    assert found.record in (RECORD, OTHER)
    await store.write(KEY, RECORD, expected=found.version)
    async with backend.open() as other:
        await other.delete(KEY, expected=(await held(other)).version)


async def test_nothing_shows_a_secret(backend: Backend, store: Store) -> None:
    """No error, traceback or repr holds a piece of a record."""
    await store.write(KEY, RECORD, expected=None, lease=5)
    shown = [repr(store), str(store), repr(await held(store))]
    for attempt in (
        lambda: store.write(KEY, OTHER, expected=None),
        lambda: store.write(KEY, OTHER, expected="old"),
        lambda: store.delete(KEY, expected="old"),
    ):
        with pytest.raises(StoreError) as caught:
            await attempt()
        shown.append(everything(caught.value))
    await backend.put_blob(KEY, b'"' + SECRET.encode())
    with pytest.raises(StoreError) as caught:
        await store.load(KEY)
    shown.append(everything(caught.value))
    assert "sim-" not in "\n".join(shown)


def everything(error: BaseException) -> str:
    """Show all that a log could get to see of an error, its causes and contexts included."""
    shown = ["".join(traceback.format_exception(error))]
    cause: BaseException | None = error
    while cause is not None:
        shown.append(repr(cause))
        cause = cause.__cause__ or cause.__context__
    return "\n".join(shown)


class Step(NamedTuple):
    """One call of the model test."""

    action: str
    instance: int
    key: str
    expected: str
    lease: float


STEPS = st.lists(
    st.builds(
        Step,
        action=st.sampled_from(["write", "write", "write", "delete", "load", "keys", "advance", "reopen"]),
        instance=st.integers(0, 1),
        key=st.sampled_from(["ns/a", "ns/b", "ns/ä"]),
        expected=st.sampled_from(["current", "current", "current", "none", "stale"]),
        lease=st.sampled_from([0.0, 2.0, 5.0]),
    ),
    max_size=30,
)


@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
def test_it_behaves_like_a_dict(backend_class: type[Backend], steps: list[Step]) -> None:
    """Any sequence of calls through two instances does what it does to a dict with versions and a clock."""
    with tempfile.TemporaryDirectory() as directory:
        anyio.run(play, backend_class(Path(directory)), steps)


async def play(  # noqa: C901, PLR0912 - one step, one branch
    backend: Backend, steps: list[Step]
) -> None:
    """Do every step to the store and to the model, and compare."""
    now = 0.0
    model: dict[str, tuple[Record, str, float, float]] = {}
    noticed: dict[tuple[int, str], float] = {}
    stale: dict[str, str] = {}
    spent: set[str] = set()
    stores = [backend.open(), backend.open()]
    for store in stores:
        await store.__aenter__()
    for number, step in enumerate(steps):
        store = stores[step.instance]
        current = model[step.key][1] if step.key in model else None
        expected = {"current": current, "none": None, "stale": stale.get(step.key, "stale")}[step.expected]
        if step.action == "write":
            record = Record(lineage=step.key, generation=number)
            if expected == current:
                version = await store.write(step.key, record, expected=expected, lease=step.lease)
                assert version not in spent
                spent.add(version)
                stale[step.key] = current or "stale"
                model[step.key] = (record, version, step.lease, now)
                noticed[step.instance, version] = now
            else:
                with pytest.raises(Conflict):
                    await store.write(step.key, record, expected=expected, lease=step.lease)
        elif step.action == "delete":
            if expected is not None and expected == current:
                await store.delete(step.key, expected=expected)
                stale[step.key] = model.pop(step.key)[1]
            else:
                with pytest.raises(Conflict):
                    await store.delete(step.key, expected=expected or "none")
        elif step.action == "keys":
            assert sorted(model) == await store.keys()
        elif step.action == "advance":
            now += step.lease
            await backend.advance(step.lease)
        elif step.action == "reopen":
            await store.__aexit__(None, None, None)
            stores[step.instance] = await backend.open().__aenter__()
            noticed = {place: at for place, at in noticed.items() if place[0] != step.instance}
        other = 1 - step.instance
        found = await stores[other].load(step.key)
        if step.key in model:
            record, version, lease, written = model[step.key]
            assert found is not None
            assert (record, version) == (found.record, found.version)
            since = noticed.setdefault((other, version), now) if backend.observes else written
            assert found.lease_left == pytest.approx(max(0.0, since + lease - now), abs=1)
        else:
            assert found is None
    for store in stores:
        await store.__aexit__(None, None, None)


# The rest is about several processes, and is skipped for stores that live in one.


@contextmanager
def worker(task: str, backend: Backend) -> Iterator[subprocess.Popen[str]]:
    """Run `worker.py` for the length of the block."""
    with forks.Popen(
        ["tests.stores.worker", task, backend.url or "", *backend.keys],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    """Read one line of what it says; empty at its end."""
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
def shared(backend: Backend) -> Backend:
    """A store that other processes can open."""
    if backend.url is None:
        pytest.skip("this store lives in one process")
    return backend


@pytest.mark.parametrize("exists", [False, True], ids=["create", "replace"])
def test_one_of_many_processes_wins(shared: Backend, *, exists: bool) -> None:
    """Of processes that write with the same expected version, exactly one succeeds."""

    async def prepare() -> None:
        async with shared.open() as store:
            await store.write("ns/race", Record(lineage="before"), expected=None)

    async def winner() -> str:
        async with shared.open() as store:
            return (await held(store, "ns/race")).version

    if exists:
        anyio.run(prepare)
    with (
        worker("race", shared) as one,
        worker("race", shared) as two,
        worker("race", shared) as three,
        worker("race", shared) as four,
    ):
        processes = [one, two, three, four]
        assert [line_of(process) for process in processes] == ["ready\n"] * 4
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = sorted(line_of(process).strip() for process in processes)
    assert said == ["lost"] * 3 + ["won " + anyio.run(winner)]


@pytest.mark.parametrize("seed", range(6))
def test_every_acknowledged_write_survives_sigkill(shared: Backend, seed: int) -> None:
    """Processes that are killed at any moment lose no write that they were told had happened."""
    chance = random.Random(seed)  # noqa: S311 - a choice of moments, not a secret
    acknowledged: dict[str, tuple[int, str]] = {}

    async def compare() -> None:
        async with shared.open() as store:
            for key, (generation, version) in acknowledged.items():
                found = await held(store, key)
                # One more may have happened whose acknowledgement the kill cut off.
                assert found.record.generation in (generation, generation + 1)
                assert (found.record.generation == generation) == (found.version == version)

    for _ in range(3):
        with worker("loop", shared) as process:
            lines = [line_of(process) for _ in range(chance.randrange(1, 40))]
            # A write takes about a millisecond: hit any moment of it, not always the one after the answer.
            time.sleep(chance.uniform(0, 0.003))
            process.kill()
            assert process.stdout is not None
            lines += process.stdout.readlines()
        for line in lines:
            if line.endswith("\n"):
                key, generation, version = line.split()
                acknowledged[key] = (int(generation), version)
        anyio.run(compare)


# Claims, for those that give them out


@pytest.fixture
def claiming(store: Store) -> SupportsClaims:
    """Skip what can't."""
    if not isinstance(store, SupportsClaims):
        pytest.skip("this store gives out no claims")
    return store


GRANT = replace(RECORD, lineage="claimed", attempt=None)


async def give(claiming: Any, name: str, *, due: float | None, lease: float = 0.0) -> str:
    """Write a record that is due then."""
    return str(await claiming.write_due(name, GRANT, expected=None, lease=lease, due=due))


async def test_claims_what_is_due_the_longest_due_first(claiming: Any) -> None:
    """Neither what is not due, nor due never, nor leased, nor what begins otherwise; and no more than was asked for."""
    for name, due in (
        ("ns/g/b", 20.0),
        ("ns/g/a", 30.0),
        ("ns/g/c", 10.0),
        ("ns/g/later", 4e9),
        ("ns/g/never", None),
    ):
        await give(claiming, name, due=due)
    await give(claiming, "ns/other/a", due=1.0)
    await give(claiming, "ns/g/leased", due=1.0, lease=60)
    await claiming.write("ns/g/plain", GRANT, expected=None)
    first = await claiming.claim("ns/g/", "me", most=2, lease=30, now=5.0)
    assert [one.key for one in first] == ["ns/g/c", "ns/g/b"]
    rest = await claiming.claim("ns/g/", "me", most=9, lease=30, now=5.0)
    assert [one.key for one in rest] == ["ns/g/a"]
    assert await claiming.claim("ns/g/", "me", most=9, lease=30, now=5.0) == []


async def test_a_claim_is_an_attempt_that_everybody_sees(claiming: Any) -> None:
    """What is read afterwards holds the attempt and the claim's lease, and each record has an attempt of its own."""
    for name in ("ns/g/a", "ns/g/b"):
        await give(claiming, name, due=1.0)
    one, two = await claiming.claim("ns/g/", "me", most=2, lease=30, now=5.0)
    attempt = one.held.record.attempt
    assert (attempt.instance, attempt.started_at) == ("me", 5.0)
    assert attempt.fingerprint == RefreshToken(SECRET, 0.0).fingerprint
    assert attempt.id != two.held.record.attempt.id
    read = await claiming.load(one.key)
    assert (read.record, read.version) == (one.held.record, one.held.version)
    assert read.lease_left > 20
    assert replace(read.record, attempt=None) == GRANT


async def test_what_was_claimed_is_replaced_by_its_version_alone(claiming: Any) -> None:
    """A commit names the claim's version; whoever read the record before it has lost."""
    before = await give(claiming, "ns/g/a", due=1.0)
    [one] = await claiming.claim("ns/g/", "me", most=1, lease=30, now=5.0)
    with pytest.raises(Conflict):
        await claiming.write("ns/g/a", GRANT, expected=before)
    await claiming.write_due("ns/g/a", OTHER, expected=one.held.version, due=2.0)
    assert (await claiming.load("ns/g/a")).record == OTHER
    assert [one.key for one in await claiming.claim("ns/g/", "me", most=1, lease=30, now=5.0)] == ["ns/g/a"]


async def test_claims_at_the_same_time_share_what_there_is(claiming: Any) -> None:
    """Every record goes to one of those who ask, and to no two."""
    for number in range(12):
        await give(claiming, f"ns/g/{number:02}", due=float(number))
    found: list[str] = []

    async def ask() -> None:
        found.extend(one.key for one in await claiming.claim("ns/g/", "me", most=3, lease=30, now=5.0))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(ask)
    assert sorted(found) == [f"ns/g/{number:02}" for number in range(12)]
