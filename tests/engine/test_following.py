"""Members of a set that look for nothing by themselves: one look at the store, and at the files, is for all of them."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import msgspec
import pytest

from sidecar import engine as engines
from sidecar import follower
from sidecar.errors import SidecarError, StoreError
from sidecar.events import TokenView, TurnEnded, Warned
from sidecar.ports import Held, Seeding
from sidecar.profile import GrantType
from sidecar.rotation import seeded
from sidecar.setup import Setup
from sidecar.stores.memory import MemoryStore
from sidecar.tokens import GrantState, RefreshToken
from tests.engine.conftest import STEADY, House, VirtualClock
from tests.engine.fleet import ENDPOINT, PREFIX, Fleet, Listing, connect, running

ACCOUNTS = [f"user-{number:02}" for number in range(12)]


class Looked(MemoryStore):
    """A store that counts the looks at it, and that may be away."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.alone: Counter[str] = Counter()
        """Records that were read one by one."""
        self.away = False

    async def load(self, key: str) -> Held | None:
        self._check_way()
        self.alone[key] += 1
        return await super().load(key)

    async def versions(self, prefix: str, *, after: str, most: int) -> list[tuple[str, str]]:
        self._check_way()
        return await super().versions(prefix, after=after, most=most)

    async def keys(self, prefix: str = "") -> list[str]:
        self._check_way()
        return await super().keys(prefix)

    def _check_way(self) -> None:
        if self.away:
            raise StoreError("the store is away")


@pytest.fixture
def looked(house: House, monkeypatch: pytest.MonkeyPatch) -> Looked:
    """Give the house a store that can be followed, in pages and batches of a few."""
    monkeypatch.setattr(follower, "PAGE", 7)
    monkeypatch.setattr(follower, "BATCH", 4)
    house.store.inner = Looked(house.clock)
    return house.store.inner


def view(fleet: Fleet, account: str) -> TokenView:
    """Return what was last seen of an account's token."""
    found = fleet.board.get(f"gmail/{account}")
    assert found is not None
    return found


async def test_what_one_daemon_refreshes_all_publish_without_reading_one_by_one(
    house: House, looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a dozen accounts none is read by itself for being refreshed elsewhere, and every daemon has every file."""
    await connect(house, *ACCOUNTS)
    async with AsyncExitStack() as stack:
        fleets = [
            await stack.enter_async_context(running(house, monkeypatch, name=name, claims=True))
            for name in ("one", "two")
        ]
        await anyio.sleep(30)
        # They raced for grants that had no access token yet, which nobody claims.
        looked.alone.clear()
        for _ in range(3):
            await anyio.sleep(1500)
            for account in ACCOUNTS:
                tokens = {fleet.access_token(account) for fleet in fleets}
                ends = [view(fleet, account).expires_at or 0 for fleet in fleets]
                assert min(ends) > house.clock.wall() + 600 or len(tokens) == 2
        assert house.provider.replayed() == []
        for fleet in fleets:
            assert sum("refreshed" in event.sentence for event in fleet.of(TurnEnded)) > 1
    # One that was found with an attempt in it is looked at until that has ended.
    assert looked.alone.total() <= 4


async def test_who_has_nothing_to_do_takes_no_turns(
    house: House, looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts that are fresh, that never had a grant, or whose grant is dead, cost nothing until that changes."""
    await connect(house, "fresh", "dead")
    listing = Listing("fresh", "dead", "nobody")
    async with running(house, monkeypatch, claims=True, listing=listing) as fleet:
        await anyio.sleep(20)
        held = await MemoryStore.load(looked, f"{PREFIX}dead")
        assert held is not None
        assert held.record.refresh is not None
        house.provider.kill(held.record.refresh.value)
        with suppress(SidecarError):
            await fleet.engine.refresh("gmail/dead", None)
        await anyio.sleep(200)
        assert view(fleet, "dead").grant_state is GrantState.DEAD
        before = len(fleet.of(TurnEnded))
        await anyio.sleep(1800)
        assert len(fleet.of(TurnEnded)) == before
        await connect(house, "nobody")
        living = Seeding(RefreshToken(house.provider.new_grant(), house.clock.wall()))
        held = await MemoryStore.load(looked, f"{PREFIX}dead")
        assert held is not None
        again = seeded(held.record, living, client_id=house.provider.config.client_id, endpoint=ENDPOINT)
        await looked.write(f"{PREFIX}dead", again, expected=held.version)
        await anyio.sleep(30)
        for account in ("nobody", "dead"):
            assert view(fleet, account).grant_state is GrantState.OK
    assert looked.alone.total() <= 4


async def test_a_file_that_was_touched_is_put_right(
    house: House, looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are looked at every minute: one that is gone, changed or opened to others is as it was, soon after."""
    await connect(house, *ACCOUNTS)
    async with running(house, monkeypatch, claims=True) as fleet:
        await anyio.sleep(200)
        gone, changed, opened = (fleet.tokens / f"{account}.json" for account in ACCOUNTS[:3])
        right = gone.read_bytes(), changed.read_bytes(), opened.stat().st_mode
        before = len(fleet.of(TurnEnded))
        gone.unlink()
        changed.write_text("{}")
        opened.chmod(0o666)
        await anyio.sleep(80)
        assert (gone.read_bytes(), changed.read_bytes(), opened.stat().st_mode) == right
        assert len(fleet.of(TurnEnded)) - before <= 6
    assert looked.alone == {}


async def test_what_changed_while_the_store_was_away_is_found(
    house: House, looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once that nobody can look; what was written meanwhile, and what was lost, is seen afterwards."""
    await connect(house, "alice", "bob")
    async with running(house, monkeypatch, claims=True) as fleet:
        await anyio.sleep(20)
        looked.away = True
        newer = await MemoryStore.load(looked, f"{PREFIX}alice")
        assert newer is not None
        await anyio.sleep(300)
        [told] = [event for event in fleet.of(Warned) if event.place == "store"]
        assert told.reason == "what others write is not noticed: the store is away"
        del looked._rows[f"{PREFIX}bob"]
        await connect(house, "carol")
        looked.away = False
        await anyio.sleep(20)
        assert view(fleet, "carol").grant_state is GrantState.OK
        assert fleet.files() == ["alice.json", "carol.json"]
    assert house.provider.replayed() == []


async def test_a_start_without_the_store_goes_on_when_it_is_back(
    house: House, looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members wait for the first look together, and all have their files seconds after it."""
    await connect(house, *ACCOUNTS)
    async with running(house, monkeypatch, claims=True, listing=Listing(*ACCOUNTS)) as fleet:
        looked.away = True
        await anyio.sleep(300)
        assert fleet.files() == []
        assert view(fleet, ACCOUNTS[0]).grant_state is not GrantState.OK
        looked.away = False
        await anyio.sleep(10)
        assert len(fleet.files()) == len(ACCOUNTS)


async def test_who_waits_takes_little_room(
    house: House, looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account that waits has its record folded up, whole, and nothing is kept for who might wait for its turn."""
    await connect(house, *ACCOUNTS)
    async with running(house, monkeypatch, claims=True, for_each="store: gmail/, max_series: 0") as fleet:
        await anyio.sleep(200)
        for account in ACCOUNTS:
            renewer = fleet.engine._renewers[f"gmail/{account}"]
            assert renewer._ledger._open is None
            assert fleet.scheduler._entries[renewer.name].turned is None
            stored = await MemoryStore.load(looked, renewer.key)
            assert stored is not None
            assert renewer.record == stored.record
            assert stored.record.refresh is not None
            assert stored.record.refresh.value not in repr(renewer._ledger._folded)


async def test_what_killed_writers_left_is_removed_for_all_at_once(
    house: House, looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the files of accounts, long names included, and in `state_dir`; what others leave there is theirs."""
    long = "x" * 240
    await connect(house, "alice", long)
    folder, index = house.directory / "tokens-one", house.directory / "state-one" / "outputs"
    for place in (folder, index):
        place.mkdir(parents=True)
    random = "0123456789abcdef"
    left = [
        folder / f".gone.json.{random}.tmp",
        folder / f".{(long + '.json')[:200]}.{random}.tmp",
        index / f".{32 * '0'}.json.{random}.tmp",
    ]
    theirs = [folder / f".gone.yaml.{random}.tmp", folder / "gone.json.tmp", folder / ".gone.json.tmp"]
    for path in (*left, *theirs):
        path.write_text("{}")
        os.utime(path, (1, 1))
    young = folder / f".young.json.{random}.tmp"
    young.write_text("{}")
    async with running(house, monkeypatch, claims=True) as fleet:
        await anyio.sleep(20)
        assert [path for path in left if path.exists()] == []
        assert all(path.exists() for path in (*theirs, young))
        os.utime(young, (1, 1))
        await anyio.sleep(20)
        assert not young.exists()
        assert {"alice.json", f"{long}.json"} <= {*fleet.files()}


async def test_a_file_that_was_read_is_told_of(
    house: House, looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether applications read their tokens is known a minute later, of those who take no turns as well."""
    await connect(house, "alice")
    async with running(house, monkeypatch, claims=True) as fleet:
        await anyio.sleep(200)
        path = fleet.tokens / "alice.json"
        before = path.stat()
        os.utime(path, ns=(before.st_mtime_ns + 10**9, before.st_mtime_ns))
        await anyio.sleep(90)
        [output] = view(fleet, "alice").outputs
        assert output.read_since_write is True


async def test_a_record_that_can_not_be_read_is_told_of_as_such(
    house: House, looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has damaged it: that is said within seconds, and it is not taken for one that is missing."""
    await connect(house, *ACCOUNTS)
    async with running(house, monkeypatch, claims=True) as fleet:
        await anyio.sleep(200)
        key = f"{PREFIX}{ACCOUNTS[0]}"
        whole = looked._rows[key]
        looked._rows[key] = msgspec.structs.replace(whole, blob=b"{", version="damaged")
        for _ in range(10):
            await anyio.sleep(20)
            assert "not in the store" not in view(fleet, ACCOUNTS[0]).reason
        assert view(fleet, ACCOUNTS[0]).grant_state is GrantState.RETRYING
        assert "is damaged" in view(fleet, ACCOUNTS[0]).reason
        looked._rows[key] = whole
        await anyio.sleep(40)
        assert view(fleet, ACCOUNTS[0]).grant_state is GrantState.OK


async def test_who_needs_nothing_from_the_store_does_not_wait_long_for_it(
    house: House, looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no refresh token is needed, a start without the store gives every account its token all the same."""
    listing, plain = Listing("alice", "bob"), engines.make_setup

    def make_setup(*parts: Any, **others: Any) -> Setup:
        made: Any = plain(*parts, **others)
        made.grant.grant_type = GrantType.CLIENT_CREDENTIALS.value
        profile = msgspec.structs.replace(STEADY, grant=GrantType.CLIENT_CREDENTIALS)
        setup: Setup = msgspec.structs.replace(made, profile=profile)
        return setup

    monkeypatch.setattr(engines, "make_setup", make_setup)
    async with running(house, monkeypatch, claims=True, listing=listing) as fleet:
        looked.away = True
        await anyio.sleep(60)
        assert fleet.files() == ["alice.json", "bob.json"]
