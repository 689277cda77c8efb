"""Sets of tokens in a daemon on virtual time: members come and go with their accounts."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from sidecar.errors import AccountsError, ConfigError, StoreError, TemporarilyUnavailable, UnknownToken
from sidecar.events import LeaseSought, TokenForgotten, TokenView, Warned
from sidecar.ports import Claimed
from sidecar.server import health
from sidecar.server.health import Verdict
from sidecar.stores.memory import MemoryStore
from sidecar.testing import faults
from sidecar.tokens import GrantState, Record
from tests.engine.conftest import House, VirtualClock
from tests.engine.fleet import PREFIX, Fleet, Listing, connect, disconnect, running


def view(fleet: Fleet, account: str) -> TokenView:
    """Return what was last seen of an account's token."""
    found = fleet.board.get(f"gmail/{account}")
    assert found is not None
    return found


async def test_every_account_in_the_store_gets_a_file_of_its_own(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record under the prefix is refreshed and published under its account's name."""
    await connect(house, "alice@example.com", "bob")
    async with running(house, monkeypatch) as fleet:
        await anyio.sleep(5)
        assert fleet.files() == ["alice@example.com.json", "bob.json"]
        assert fleet.access_token("bob") != fleet.access_token("alice@example.com")


async def test_a_dozen_accounts_are_kept_fresh_by_one_shared_grant(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For six hours nobody's file expires, no refresh token is used twice, and the client is set up once."""
    accounts = [f"user-{number}" for number in range(12)]
    await connect(house, *accounts)
    async with running(house, monkeypatch) as fleet:
        for _ in range(6):
            await anyio.sleep(3600)
            views = [view(fleet, account) for account in accounts]
            assert min(one.expires_at or 0 for one in views) > house.clock.wall() + 300
        assert house.provider.replayed() == []
        assert len(fleet.grants) == 1


async def test_accounts_appear_and_vanish_without_a_restart(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new record is served within seconds; of one that was removed, the file goes too, and nothing comes back."""
    await connect(house, "alice", "bob")
    async with running(house, monkeypatch) as fleet:
        await anyio.sleep(33)
        await connect(house, "carol")
        await disconnect(house, "alice")
        # Whoever asks for it before it is known to be gone brings it back no more than time does.
        with pytest.raises(TemporarilyUnavailable):
            await fleet.engine.refresh("gmail/alice", None)
        await anyio.sleep(12)
        assert fleet.files() == ["bob.json", "carol.json"]
        assert fleet.of(TokenForgotten) == [TokenForgotten("gmail/alice")]
        await anyio.sleep(7200)
        assert fleet.files() == ["bob.json", "carol.json"]
        assert await house.store.keys(PREFIX) == [f"{PREFIX}bob", f"{PREFIX}carol"]
        with pytest.raises(UnknownToken, match="no such account now; consent: "):
            await fleet.engine.token("gmail/alice")


async def test_a_member_that_vanishes_finishes_its_call_and_its_commit(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer that was under way is in the store, whatever its account has become; only then its file goes."""
    await connect(house, "alice")
    house.provider.add_fault(faults.latency(after=60))
    listing = Listing("alice")
    async with running(house, monkeypatch, listing=listing) as fleet:
        await anyio.sleep(0.1)
        await fleet.grants[0].called(1)
        listing.accounts.clear()
        await anyio.sleep(30)
        assert fleet.listed.members == 0
        assert not fleet.of(TokenForgotten)
        await anyio.sleep(60)
        held = await house.store.load(f"{PREFIX}alice")
        assert held is not None
        assert held.record.generation == 1
        assert held.record.attempt is None
        assert fleet.of(TokenForgotten)
        assert fleet.files() == []


async def test_an_account_that_is_back_at_once_is_served_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coming back while the last turn is still under way, it stays, with its file."""
    await connect(house, "alice")
    house.provider.add_fault(faults.latency(after=60))
    listing = Listing("alice")
    async with running(house, monkeypatch, listing=listing) as fleet:
        await anyio.sleep(0.1)
        await fleet.grants[0].called(1)
        listing.accounts.clear()
        await anyio.sleep(12)
        listing.accounts.append("alice")
        await anyio.sleep(7200)
        assert fleet.of(TokenForgotten) == []
        assert fleet.files() == ["alice.json"]
        assert view(fleet, "alice").generation > 1


@pytest.mark.parametrize("problem", [AccountsError("its database is away"), StoreError("the store is away")])
async def test_a_source_that_fails_keeps_the_members(
    house: House, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    """They are refreshed on meanwhile; it is told why, and since when, and what comes later is found."""
    await connect(house, "alice", "bob")
    listing = Listing("alice")
    async with running(house, monkeypatch, listing=listing) as fleet:
        await anyio.sleep(25)
        listing.problem = problem
        listing.accounts = []
        await anyio.sleep(7200)
        assert fleet.listed.members == 1
        assert fleet.listed.problem == f"{problem}; the accounts that are known stay"
        assert fleet.listed.listed_at == pytest.approx(house.clock.wall() - 7205, abs=1)
        assert (view(fleet, "alice").expires_at or 0) > house.clock.wall()
        listing.problem, listing.accounts = None, ["alice", "bob"]
        await anyio.sleep(12)
        assert fleet.files() == ["alice.json", "bob.json"]
        assert fleet.listed.problem == ""


async def test_most_accounts_missing_at_once_count_as_an_accident(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty answer takes nobody's file away; a few at a time may go, however many in the end."""
    accounts = [f"user-{number:02}" for number in range(24)]
    await connect(house, *accounts)
    listing = Listing(*accounts)
    async with running(house, monkeypatch, listing=listing) as fleet:
        await anyio.sleep(25)
        listing.accounts = []
        await anyio.sleep(100)
        assert len(fleet.files()) == 24
        assert "24 of 24 accounts are missing all at once" in fleet.listed.problem
        listing.accounts = accounts[12:]
        await anyio.sleep(12)
        assert fleet.files() == [f"{account}.json" for account in accounts[12:]]
        assert fleet.listed.problem == ""


async def test_a_store_that_lost_everything_gets_it_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that vanish all at once were not meant to: what the daemon knows of them is written again."""
    accounts = [f"user-{number:02}" for number in range(24)]
    await connect(house, *accounts)
    async with running(house, monkeypatch):
        await anyio.sleep(25)
        for account in accounts:
            await disconnect(house, account)
        await anyio.sleep(300)
        assert len(await house.store.keys(PREFIX)) == 24


async def test_hostile_names_are_served_within_their_directory(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Path tricks, look-alikes and long names each get one file in the one directory; what is no name gets none."""
    hostile = [
        "../../etc/passwd",
        "..",
        ".",
        "a/b",
        "a%2Fb",
        ".hidden",
        "-rf",
        "A",
        "a",
        "x" * 255,
        "é" * 127,
    ]
    impossible = ["", "*", "two\nlines", "nul\0", "\u202etxt", "é" * 128]
    listing = Listing(*hostile, *impossible)
    await connect(house, *hostile)
    async with running(house, monkeypatch, listing=listing) as fleet:
        await anyio.sleep(25)
        assert len(fleet.files()) == len(hostile) == fleet.listed.members
        assert {path.parent for path in fleet.tokens.rglob("*")} == {fleet.tokens}
        assert not [name for name in fleet.files() if name.startswith(".")]
        assert len({view(fleet, account).fingerprint for account in hostile}) == len(hostile)
        assert sorted(name for name, _ in fleet.listed.refused) == sorted(impossible)


async def test_a_login_brings_in_an_account_that_was_not_there(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first grant is its place in the set: it's served at once, and found by every other daemon."""
    async with running(house, monkeypatch) as fleet:
        await anyio.sleep(3)
        await fleet.plant("dora@example.com")
        await anyio.sleep(1)
        assert fleet.files() == ["dora@example.com.json"]
        async with running(house, monkeypatch, name="two") as other:
            await anyio.sleep(5)
            assert other.files() == ["dora@example.com.json"]
            assert other.access_token("dora@example.com") == fleet.access_token("dora@example.com")
        with pytest.raises(ConfigError, match="can't be printed"):
            await fleet.plant("two\nlines")


async def test_files_of_accounts_that_went_while_no_daemon_ran_are_withdrawn(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart as well; but what somebody else put there, or wrote since, is left."""
    await connect(house, "alice", "bob", "carol")
    async with running(house, monkeypatch) as fleet:
        await anyio.sleep(5)
    await disconnect(house, "alice")
    await disconnect(house, "carol")
    (fleet.tokens / "carol.json").write_text("mine")
    (fleet.tokens / "stranger.json").write_text("mine")
    async with running(house, monkeypatch) as fleet:
        await anyio.sleep(5)
        assert fleet.files() == ["bob.json", "carol.json", "stranger.json"]
        [told] = [event for event in fleet.of(Warned) if event.place == "output"]
        assert "carol.json is of an account that is gone, and is left" in told.reason


async def test_an_answer_in_escrow_gets_home_though_its_account_is_gone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pair that a killed daemon had caught is in the store before its member leaves."""
    await connect(house, "alice")
    house.store.kill_at = lambda record: record.generation == 1
    with pytest.raises(BaseExceptionGroup):
        async with running(house, monkeypatch, listing=Listing("alice")):
            await anyio.sleep(5)
    async with running(house, monkeypatch, listing=Listing()) as fleet:
        await anyio.sleep(5)
        held = await house.store.load(f"{PREFIX}alice")
        assert held is not None
        assert held.record.generation == 1
        assert fleet.of(TokenForgotten)
        assert fleet.grants[0].calls == []


async def test_one_dead_account_is_nobody_elses_trouble(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state is its own, and by default it is not required of the daemon."""
    await connect(house, "alice", "bob")
    async with running(house, monkeypatch) as fleet:
        await anyio.sleep(5)
        held = await house.store.load(f"{PREFIX}alice")
        assert held is not None
        assert held.record.refresh is not None
        house.provider.kill(held.record.refresh.value)
        await anyio.sleep(7200)
        assert view(fleet, "alice").grant_state is GrantState.DEAD
        assert (view(fleet, "alice").required, view(fleet, "alice").on_dead) == (False, "report")
        assert view(fleet, "alice").remedy.startswith("consent again: token-sidecar login gmail/alice, ")
        assert view(fleet, "bob").grant_state is GrantState.OK


class Counting(MemoryStore):
    """A store that counts what is asked of it."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.claims: Counter[str] = Counter()
        self.claimed: Counter[str] = Counter()
        self.leased = self.committed = 0
        self.failing = False
        self.reply_after = 0.0

    async def claim(
        self, prefix: str, instance: str, *, most: int, lease: float, now: float
    ) -> list[Claimed]:
        if self.failing:
            raise StoreError("no claims today")
        found = await super().claim(prefix, instance, most=most, lease=lease, now=now)
        await anyio.sleep(self.reply_after)
        self.claims[instance] += 1
        self.claimed[instance] += len(found)
        return found

    async def write_due(
        self, key: str, record: Record, *, expected: str | None, lease: float = 0.0, due: float | None
    ) -> str:
        version = await super().write_due(key, record, expected=expected, lease=lease, due=due)
        self.leased += lease > 0
        self.committed += lease == 0
        return version


@pytest.fixture
def counting(house: House) -> Counting:
    """Give the house a store whose claims are counted."""
    house.store.inner = Counting(house.clock)
    return house.store.inner


async def test_daemons_divide_a_set_by_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refresh costs a claim's share and a commit; each daemon does its share, and has every file fresh."""
    house = House(tmp_path, access_ttl=600)
    counting = house.store.inner = Counting(house.clock)
    accounts = [f"user-{number}" for number in range(8)]
    await connect(house, *accounts)
    async with AsyncExitStack() as stack:
        fleets = [
            await stack.enter_async_context(running(house, monkeypatch, name=name, claims=True))
            for name in ("one", "two", "three")
        ]
        await anyio.sleep(60)
        counting.leased = counting.committed = 0
        for _ in range(25):
            await anyio.sleep(60)
            for fleet in fleets:
                ends = [view(fleet, account).expires_at or 0 for account in accounts]
                assert min(ends) > house.clock.wall() + 60
        assert counting.leased == 0
        assert counting.committed == sum(counting.claimed.values())
        assert counting.committed >= 3 * len(accounts)
        assert min(counting.claimed[name] for name in ("one", "two", "three")) > 0
        for fleet, name in zip(fleets, ("one", "two", "three"), strict=True):
            taken = [event.token for event in fleet.of(LeaseSought) if event.outcome == "taken"]
            assert len(taken) >= counting.claimed[name]
        assert house.provider.replayed() == []


async def test_without_claims_every_token_is_leased_as_any_other(
    house: House, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that gives out no claims just now starves nobody."""
    await connect(house, "alice")
    counting.failing = True
    async with running(house, monkeypatch, claims=True) as fleet:
        for _ in range(2):
            await anyio.sleep(3600)
            assert (view(fleet, "alice").expires_at or 0) > house.clock.wall() + 300
        assert counting.leased >= 2


async def test_a_claim_that_nobody_goes_on_from_is_found(
    house: House, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever claimed and died before anything was sent holds a token up no longer than any lost attempt does."""
    await connect(house, "alice")
    async with running(house, monkeypatch, claims=True):
        await anyio.sleep(5)
    held = await counting.load(f"{PREFIX}alice")
    assert held is not None
    await counting.write_due(f"{PREFIX}alice", held.record, expected=held.version, due=1.0)
    [lost] = await counting.claim(PREFIX, "dead", most=1, lease=30, now=house.clock.wall())
    async with running(house, monkeypatch, claims=True) as fleet:
        await anyio.sleep(4000)
        assert view(fleet, "alice").generation == 2
        assert view(fleet, "alice").grant_state is GrantState.OK
    assert lost.held.record.attempt is not None


async def test_a_turn_beside_a_claim_leaves_it_alone(
    house: House, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a claim's reply is on its way, somebody's wish finds the attempt, and neither clears it nor calls twice."""
    await connect(house, "alice")
    async with running(house, monkeypatch, claims=True) as fleet:
        await anyio.sleep(5)
        counting.reply_after = 5.0
        held = await counting.load(f"{PREFIX}alice")
        assert held is not None
        await counting.write_due(f"{PREFIX}alice", held.record, expected=held.version, due=1.0)
        await anyio.sleep(2)
        with suppress(TemporarilyUnavailable):
            await fleet.engine.refresh("gmail/alice", None)
        claimed = await counting.load(f"{PREFIX}alice")
        assert claimed is not None
        assert claimed.record.attempt is not None
        assert len(fleet.grants[0].calls) == 1
        await anyio.sleep(60)
        assert len(fleet.grants[0].calls) == 2
        assert view(fleet, "alice").generation == 2
        assert house.provider.replayed() == []


async def test_a_line_that_never_empties_moves_on_with_what_is_claimed(
    house: House, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was due before a claimed record has had its turn, so a record outside of the line is not starved."""
    await connect(house, "alice")
    async with running(house, monkeypatch, claims=True) as fleet:
        await anyio.sleep(5)
        held = await counting.load(f"{PREFIX}alice")
        [renewer] = fleet.engine
        line = renewer.setup.line
        assert held is not None
        assert line is not None
        line.passed = before = held.record.access.issued_at - 1 if held.record.access is not None else 0.0
        renewer.claimed(held, 0.0)
        assert before < line.passed <= house.clock.wall()
        line.passed = float("inf")
        renewer.claimed(held, 0.0)
        assert line.passed == float("inf")


async def test_what_is_claimed_of_nobodys_account_is_given_back(
    house: House, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account that this daemon's list does not name is left as it was, for those who serve it."""
    await connect(house, "alice", "bob")
    held = await counting.load(f"{PREFIX}bob")
    assert held is not None
    await counting.write_due(f"{PREFIX}bob", held.record, expected=held.version, due=1.0)
    async with running(house, monkeypatch, claims=True, listing=Listing("alice")) as fleet:
        await anyio.sleep(60)
        assert fleet.files() == ["alice.json"]
        found = await counting.load(f"{PREFIX}bob")
        assert found is not None
        assert found.record == held.record


async def test_a_claim_of_a_record_that_fell_back_is_not_used(
    house: House, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh token that came back with an old backup is spent: it is never sent, and the newer record is written."""
    await connect(house, "alice")
    old = await counting.load(f"{PREFIX}alice")
    assert old is not None
    async with running(house, monkeypatch, claims=True) as fleet:
        await anyio.sleep(5)
        held = await counting.load(f"{PREFIX}alice")
        assert held is not None
        back = replace(old.record, access=held.record.access)
        await counting.write_due(f"{PREFIX}alice", back, expected=held.version, due=1.0)
        await anyio.sleep(600)
        assert house.provider.replayed() == []
        healed = await counting.load(f"{PREFIX}alice")
        assert healed is not None
        assert healed.record.generation == 1
        assert len(fleet.grants[0].calls) == 1


async def test_a_set_is_changed_without_a_restart(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its members go on under new settings; a new set begins, and one that is dropped ends, with its records kept."""
    await connect(house, "alice", "@bob")
    async with running(house, monkeypatch) as fleet:
        await anyio.sleep(5)
        path = fleet.engine.settings.path
        first = path.read_text()
        more = first.replace("{account}.json", "mail-{account}.json")
        path.write_text(
            more + more[more.index("  gmail:") :].replace("gmail", "other").replace("mail-", "o-")
        )
        assert (await fleet.engine.reload()).changed == ("gmail", "other")
        await fleet.plant("carol")
        await anyio.sleep(15)
        assert {"mail-alice.json", "mail-@bob.json", "mail-carol.json"} <= {*fleet.files()}
        assert fleet.board.sets.keys() == {"gmail", "other"}
        path.write_text(first.replace("store: gmail/", "store: people/"))
        with pytest.raises(ConfigError, match=r"tokens\.gmail\.for_each\.store: changes only at a restart"):
            await fleet.engine.reload()
        path.write_text(
            first.replace("  gmail:", "  plain:").replace("{account}", "plain").replace("for_each", "#")
        )
        await fleet.engine.reload()
        await anyio.sleep(5)
        assert fleet.board.sets == {}
        assert [one.token for one in fleet.board] == ["plain"]
        assert len(await house.store.keys(PREFIX)) == 3


def judged(fleet: Fleet) -> Verdict:
    """Return what `/startupz` says."""
    return health.startupz(fleet.board, now=fleet.house.clock.wall(), sets=fleet.board.sets.values())


async def test_a_required_set_starts_once_its_accounts_are_known(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then `/startupz` says why not; a set that is not required holds nobody up."""
    listing = Listing()
    listing.problem = AccountsError("its database is away")
    async with running(house, monkeypatch, keys="required: true", listing=listing) as fleet:
        assert (fleet.listed.listed_at, fleet.listed.provider) == (None, "inline")
        assert not judged(fleet).ok
        await anyio.sleep(1)
        [reason] = health.startupz(
            fleet.board, now=house.clock.wall(), sets=fleet.board.sets.values()
        ).reasons
        assert reason.startswith("gmail: its accounts are not known yet: its database is away; ")
        assert fleet.engine.settling is False
        listing.problem = None
        await anyio.sleep(15)
        assert judged(fleet).ok
