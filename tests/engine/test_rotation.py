"""From one durable state to the next: no refresh token is ever dropped, and no pair thrown away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.errors import Conflict
from sidecar.ledger import Ledger
from sidecar.outcomes import Outcome
from sidecar.ports import Foreign, Mark, Seeding
from sidecar.profile import Profile, Rotation
from sidecar.rotation import (
    CONFIRMATION_DELAY,
    Verdict,
    adopted,
    behind,
    concluded,
    intended,
    rebound,
    reconcile,
    rolled_back,
    seeded,
    with_orphan,
    with_orphans_of,
)
from sidecar.stores.memory import MemoryStore
from sidecar.tokens import (
    SPENT_LENGTH,
    AccessToken,
    Attempt,
    Backoff,
    Death,
    Orphan,
    OutcomeClass,
    Record,
    RefreshToken,
    decode_record,
    encode_record,
)

NOW = 1_800_000_000.0
ROTATING = Profile(rotation=Rotation.ALWAYS)
STEADY = Profile(rotation=Rotation.NEVER)
FAILURES = [outcome for outcome in OutcomeClass if outcome is not OutcomeClass.SUCCESS]


def refresh_token(number: int) -> RefreshToken:
    """One of a few refresh tokens."""
    return RefreshToken(f"sim-rt-0123456789abcdef-{number}", NOW)


def access_token(number: int, ttl: float = 3600.0) -> AccessToken:
    """One of a few access tokens."""
    return AccessToken(f"sim-at-0123456789abcdef-{number}", NOW, NOW + ttl, ttl)


few = st.integers(0, 5)
refresh_tokens = st.builds(refresh_token, few)
access_tokens = st.builds(access_token, few, st.sampled_from([1.0, 3600.0]))
fingerprints = st.lists(refresh_tokens.map(lambda token: token.fingerprint), unique=True, max_size=3).map(
    tuple
)
attempts = st.builds(
    Attempt,
    id=st.sampled_from(["a", "b"]),
    instance=st.sampled_from(["one", "two"]),
    fingerprint=st.just("sent"),
    started_at=st.just(NOW - 10),
    in_doubt_since=st.sampled_from([None, NOW - 500]),
)
backoffs = st.builds(
    Backoff,
    outcome=st.sampled_from(FAILURES),
    reason=st.just("why"),
    failures=st.integers(1, 5),
    not_before=st.just(NOW),
    since=st.just(NOW - 100),
)
records = st.builds(
    Record,
    lineage=st.sampled_from(["old", "new"]),
    generation=st.integers(0, 4),
    access=st.none() | access_tokens,
    refresh=st.none() | refresh_tokens,
    attempt=st.none() | attempts,
    backoff=st.none() | backoffs,
    dead=st.none() | st.builds(Death, st.just("x"), st.just(""), st.just(""), st.just(NOW), st.just("")),
    seeds=fingerprints,
    replaced=fingerprints,
    rotates=st.sampled_from([None, True, False]),
    orphans=st.lists(st.builds(Orphan, st.just("third"), refresh_tokens), max_size=2).map(tuple),
)
profiles = st.sampled_from([ROTATING, STEADY, Profile()])


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    """Anything that a call may amount to."""
    kind = draw(st.sampled_from(OutcomeClass))
    if kind is not OutcomeClass.SUCCESS:
        return Outcome(outcome=kind, reason="why")
    return Outcome(
        outcome=kind,
        access=draw(access_tokens),
        refresh=draw(st.none() | refresh_tokens),
        same_token_again=draw(st.booleans()),
        short_lived=draw(st.booleans()),
    )


def held(record: Record) -> set[str]:
    """Every refresh token that a record still knows, in whatever role."""
    known = set(record.spent) | {orphan.refresh.fingerprint for orphan in record.orphans}
    return known | ({record.refresh.fingerprint} if record.refresh else set())


def living(record: Record) -> set[str]:
    """The refresh tokens whose values a record still holds."""
    orphans = {orphan.refresh.fingerprint for orphan in record.orphans}
    return orphans | ({record.refresh.fingerprint} if record.refresh else set())


# A call's end


@given(records, outcomes(), profiles)
def test_no_refresh_token_is_dropped(base: Record, outcome: Outcome, profile: Profile) -> None:
    """Before and after any call, whatever was known is held or remembered as replaced, and what came is held."""
    after = concluded(base, outcome, profile, now=NOW, delay=30)
    assert held(base) <= held(after)
    if outcome.refresh is not None and base.refresh is not None:
        assert after.refresh is not None
        assert after.refresh.value == outcome.refresh.value
    assert after.generation == base.generation + (outcome.outcome is OutcomeClass.SUCCESS)
    assert (after.lineage, after.seeds) == (base.lineage, base.seeds)


@given(records, outcomes(), profiles)
def test_every_state_survives_the_store(base: Record, outcome: Outcome, profile: Profile) -> None:
    """Encoded and decoded again, each transition is what it was, and the old form is readable."""
    seeding = Seeding(refresh_token(9))
    for record in (
        base,
        intended(base, "one", NOW),
        concluded(base, outcome, profile, now=NOW, delay=1),
        seeded(base, seeding, client_id="c", endpoint="e"),
        rebound(base, client_id="c", endpoint="e"),
        adopted(base, Foreign(access_token(9), None, 5)),
        with_orphan(base, replace(base, refresh=refresh_token(8))),
    ):
        assert decode_record(encode_record(record)) == record


@given(records, st.sampled_from(FAILURES), profiles)
def test_a_failure_keeps_what_readers_and_provider_have(
    base: Record, kind: OutcomeClass, profile: Profile
) -> None:
    """Whatever goes wrong, the access token stays, and every refresh token's value is still there or replaced."""
    after = concluded(base, Outcome(outcome=kind, reason="why"), profile, now=NOW, delay=30)
    assert after.access == base.access
    assert living(base) - living(after) <= set(after.replaced)


@pytest.mark.parametrize("kind", [OutcomeClass.TRANSIENT, OutcomeClass.MISCONFIGURED])
def test_a_refusal_ends_its_own_attempt_and_no_inherited_doubt(kind: OutcomeClass) -> None:
    """It says nothing about what became of an earlier request."""
    first = intended(Record("l", refresh=refresh_token(0)), "one", NOW)
    refused = Outcome(outcome=kind, reason="why")
    assert concluded(first, refused, ROTATING, now=NOW, delay=30).attempt is None
    second = intended(first, "two", NOW + 100)
    after = concluded(second, refused, ROTATING, now=NOW + 101, delay=30)
    assert after.attempt is not None
    assert after.attempt.in_doubt_since == NOW


def test_doubt_begins_with_its_first_attempt_and_is_inherited() -> None:
    """However many attempts follow, the day of the first lost answer is remembered."""
    record = Record("l", refresh=refresh_token(0))
    for number in range(3):
        record = intended(record, "one", NOW + number * 100)
        record = concluded(
            record, Outcome(outcome=OutcomeClass.IN_DOUBT), ROTATING, now=NOW + number * 100 + 9, delay=1
        )
    assert record.attempt is not None
    assert (record.attempt.in_doubt_since, record.attempt.started_at) == (NOW, NOW + 200)
    assert record.backoff is not None
    assert (record.backoff.failures, record.backoff.since) == (3, NOW + 9)


@given(records, profiles)
def test_a_success_ends_every_trouble(base: Record, profile: Profile) -> None:
    """Attempt, doubt, back-off and death are over."""
    outcome = Outcome(outcome=OutcomeClass.SUCCESS, access=access_token(9))
    after = concluded(base, outcome, profile, now=NOW, delay=1)
    assert (after.attempt, after.backoff, after.dead) == (None, None, None)


def test_a_suspicion_is_a_verdict_only_where_tokens_rotate() -> None:
    """One that never rotates is asked once more after a minute, since throttling looks the same."""
    suspect = Outcome(outcome=OutcomeClass.SUSPECT, reason="invalid_grant")
    base = intended(Record("l", refresh=refresh_token(0)), "one", NOW)
    assert concluded(base, suspect, ROTATING, now=NOW, delay=1).is_dead()
    first = concluded(base, suspect, STEADY, now=NOW, delay=1)
    assert not first.is_dead()
    assert first.backoff is not None
    assert first.backoff.not_before == NOW + CONFIRMATION_DELAY
    assert concluded(first, suspect, STEADY, now=NOW + 60, delay=1).is_dead()


def test_an_orphan_takes_the_place_of_a_suspect() -> None:
    """The newest first; the refused one is remembered as replaced."""
    orphans = (Orphan("x", refresh_token(1)), Orphan("y", refresh_token(2)))
    base = Record("l", refresh=refresh_token(0), orphans=orphans)
    after = concluded(base, Outcome(outcome=OutcomeClass.SUSPECT), ROTATING, now=NOW, delay=1)
    assert after.refresh == refresh_token(2)
    assert after.orphans == orphans[:1]
    assert refresh_token(0).fingerprint in after.replaced
    assert not after.is_dead()


def test_the_oldest_replaced_are_forgotten_and_seeds_never() -> None:
    """Sixty-four are remembered; every seed is."""
    record = seeded(None, Seeding(refresh_token(0)), client_id="c", endpoint="e")
    for number in range(1, 100):
        outcome = Outcome(
            outcome=OutcomeClass.SUCCESS, access=access_token(number), refresh=refresh_token(number)
        )
        record = concluded(record, outcome, ROTATING, now=NOW, delay=1)
    assert len(record.replaced) == SPENT_LENGTH
    assert record.generation == 99
    assert refresh_token(0).fingerprint in record.spent
    assert refresh_token(98).fingerprint in record.spent


def test_neither_the_consent_nor_a_named_end_is_moved_by_a_refresh() -> None:
    """An answer that names no end keeps the one that is known, and a rotation is no consent."""
    seeding = Seeding(replace(refresh_token(0), expires_at=NOW + 1000))
    record = seeded(None, seeding, client_id="c", endpoint="e")
    outcome = Outcome(outcome=OutcomeClass.SUCCESS, access=access_token(1), refresh=refresh_token(1))
    after = concluded(record, outcome, ROTATING, now=NOW + 500, delay=1)
    assert after.refresh is not None
    assert after.refresh.value == refresh_token(1).value
    assert (after.refresh.expires_at, after.refresh.consented_at) == (NOW + 1000, seeding.refresh.issued_at)


# Seeds


def test_an_account_belongs_to_its_consent() -> None:
    """Every refresh keeps the name of who consented, and the next consent brings its own or none."""
    record = seeded(None, Seeding(refresh_token(0), account="a@example.com"), client_id="c", endpoint="e")
    outcome = Outcome(outcome=OutcomeClass.SUCCESS, access=access_token(1), refresh=refresh_token(1))
    record = concluded(record, outcome, ROTATING, now=NOW, delay=1)
    assert record.account == "a@example.com"
    assert seeded(record, Seeding(refresh_token(2)), client_id="c", endpoint="e").account == ""


def test_a_grant_that_moves_keeps_the_time_of_its_consent() -> None:
    """It was rotated since, but whoever consents for seven days is asked after seven days, in any store."""
    moved = replace(refresh_token(5), issued_at=NOW + 500, consented_at=NOW)
    record = seeded(None, Seeding(moved), client_id="c", endpoint="e")
    assert record.refresh is not None
    assert record.refresh.consented_at == NOW


@given(records)
def test_a_seed_starts_a_lineage_and_forgets_no_token(old: Record) -> None:
    """Attempt, doubt, death and back-off end with the old one; what it held is remembered."""
    new = seeded(old, Seeding(refresh_token(9)), client_id="c", endpoint="e")
    assert new.lineage != old.lineage
    assert new.generation == 0
    assert (new.attempt, new.backoff, new.dead) == (None, None, None)
    assert held(old) <= held(new)
    assert refresh_token(9).fingerprint in new.seeds


# Races


@given(records, records, st.sampled_from(["a", "b"]))
def test_a_pair_is_never_thrown_away(ours: Record, theirs: Record, attempt: str) -> None:
    """Whatever the store holds instead, our refresh token ends up in it, or is spent there already."""
    verdict = reconcile(ours, attempt, theirs)
    result = {
        Verdict.OVERWRITE: with_orphans_of(ours, theirs),
        Verdict.YIELD_AND_KEEP: with_orphan(theirs, ours),
    }.get(verdict, theirs)
    if ours.refresh is not None:
        assert ours.refresh.fingerprint in held(result)
    assert {orphan.refresh.fingerprint for orphan in theirs.orphans} <= held(result)


@given(records, records, st.sampled_from(["a", "b"]))
def test_a_newer_lineage_is_never_overwritten(ours: Record, theirs: Record, attempt: str) -> None:
    """Only an unfinished attempt of our own, or an older lineage, is written over by a record of another lineage."""
    mine = theirs.attempt is not None and theirs.attempt.id == attempt
    if reconcile(ours, attempt, theirs) is Verdict.OVERWRITE and not mine:
        if ours.lineage != theirs.lineage:
            assert set(theirs.seeds) < set(ours.seeds)
        else:
            assert ours.generation > theirs.generation


@given(records)
def test_what_landed_is_recognised(ours: Record) -> None:
    """A lost reply is no conflict, and an emptied store is filled again."""
    ours = replace(ours, attempt=None)
    assert reconcile(ours, "a", ours) is Verdict.LANDED
    assert reconcile(ours, "a", None) is Verdict.OVERWRITE


def test_a_renewed_doubt_with_a_new_back_off_has_not_landed() -> None:
    """The attempt looks the same, but the back-off that everybody must obey is not there yet."""
    base = intended(Record("l", refresh=refresh_token(0)), "one", NOW)
    assert base.attempt is not None
    base = replace(base, attempt=replace(base.attempt, in_doubt_since=NOW - 500))
    ours = concluded(base, Outcome(outcome=OutcomeClass.IN_DOUBT), ROTATING, now=NOW, delay=30)
    assert ours.attempt == base.attempt
    assert ours.attempt is not None
    assert reconcile(ours, ours.attempt.id, base) is Verdict.OVERWRITE


def test_a_record_without_refresh_token_takes_no_pair_down() -> None:
    """Somebody emptied the record by hand: the pair is kept all the same."""
    ours = Record("ours", 3, refresh=refresh_token(1), replaced=(refresh_token(0).fingerprint,))
    assert reconcile(ours, "a", Record("theirs")) is Verdict.YIELD_AND_KEEP
    assert reconcile(ours, "a", Record("ours", 2)) is Verdict.OVERWRITE


# Rollbacks


@given(records, records)
def test_only_an_ancestor_is_healed(stored: Record, known: Record) -> None:
    """Two records are never each the other's past, and a record is not its own."""
    assert not (rolled_back(stored, known) and rolled_back(known, stored))
    assert not rolled_back(known, known)
    assert rolled_back(None, known)


def test_a_store_that_lost_a_seed_is_recognised() -> None:
    """Restored from before the last consent, it would have the seed sent a second time."""
    first = seeded(None, Seeding(refresh_token(0)), client_id="c", endpoint="e")
    second = seeded(first, Seeding(refresh_token(1)), client_id="c", endpoint="e")
    assert rolled_back(first, second)
    assert not rolled_back(second, first)


def test_an_older_lineage_gives_way_to_what_came_after() -> None:
    """The store fell back to before the last consent while a call was under way: its answer is no orphan."""
    first = seeded(None, Seeding(refresh_token(0)), client_id="c", endpoint="e")
    ours = seeded(first, Seeding(refresh_token(1)), client_id="c", endpoint="e")
    ours = replace(ours, generation=1, refresh=refresh_token(2), replaced=(refresh_token(1).fingerprint,))
    older = replace(first, generation=3, refresh=refresh_token(3))
    assert reconcile(ours, "a", older) is Verdict.OVERWRITE
    newer = seeded(ours, Seeding(refresh_token(4)), client_id="c", endpoint="e")
    assert reconcile(replace(ours, refresh=refresh_token(5)), "a", newer) is Verdict.YIELD_AND_KEEP


def test_what_came_of_our_own_refresh_token_is_not_undone() -> None:
    """A store fell back, and somebody rotated the token that we hold: ours is spent, however often it was used."""
    known = Record("l", 6, refresh=refresh_token(1), replaced=(refresh_token(0).fingerprint,))
    fallen = replace(known, generation=4)
    rotated = replace(
        fallen,
        generation=5,
        refresh=refresh_token(2),
        replaced=(*fallen.replaced, refresh_token(1).fingerprint),
    )
    assert rolled_back(fallen, known)
    assert not rolled_back(rotated, known)
    again = replace(rotated, lineage="m", generation=1, seeds=(refresh_token(1).fingerprint,))
    assert not rolled_back(again, replace(known, seeds=(refresh_token(0).fingerprint, *again.seeds)))


def test_a_seed_that_was_taken_twice_is_recognised() -> None:
    """A record was lost, and somebody took its spent seed again: who has the pair that came of it knows better."""
    seeding = Seeding(refresh_token(0))
    ours = seeded(None, seeding, client_id="c", endpoint="e")
    ours = replace(ours, generation=1, refresh=refresh_token(1), replaced=(refresh_token(0).fingerprint,))
    theirs = seeded(None, seeding, client_id="c", endpoint="e")
    assert rolled_back(theirs, ours)
    assert not rolled_back(ours, theirs)
    forced = seeded(ours, seeding, client_id="c", endpoint="e")
    assert not rolled_back(forced, ours)


def test_a_later_seed_that_was_taken_twice_is_recognised() -> None:
    """The record is gone with the seeds before the last, which a daemon that starts now takes for the first."""
    first, last = (Seeding(refresh_token(number)) for number in (0, 1))
    ours = seeded(None, first, client_id="c", endpoint="e")
    ours = seeded(ours, last, client_id="c", endpoint="e")
    ours = replace(ours, generation=1, refresh=refresh_token(2), replaced=(refresh_token(1).fingerprint,))
    theirs = seeded(None, last, client_id="c", endpoint="e")
    assert rolled_back(theirs, ours)
    assert not rolled_back(ours, theirs)
    new = seeded(None, Seeding(refresh_token(3)), client_id="c", endpoint="e")
    assert not rolled_back(new, ours)


def test_a_pair_that_came_of_a_seed_taken_twice_is_kept() -> None:
    """Of two pairs that came of one seed nobody knows which the provider prefers."""
    seeding = Seeding(refresh_token(0))
    ours, theirs = (
        replace(
            seeded(None, seeding, client_id="c", endpoint="e"),
            generation=1,
            refresh=refresh_token(number),
            replaced=(refresh_token(0).fingerprint,),
        )
        for number in (1, 2)
    )
    [orphan] = with_orphans_of(ours, theirs).orphans
    assert orphan.refresh == refresh_token(2)


def test_a_branch_that_is_healed_over_is_kept() -> None:
    """After a failover two replicas rotated by turns: which pair lives is unknown, so neither is thrown away."""
    common = Record("l", 3, refresh=refresh_token(3), replaced=("x",))
    known = Record("l", 5, refresh=refresh_token(5), replaced=("x", refresh_token(3).fingerprint))
    branch = Record("l", 4, refresh=refresh_token(40), replaced=("x", refresh_token(3).fingerprint))
    assert rolled_back(branch, known)
    assert [orphan.refresh for orphan in with_orphans_of(known, branch).orphans] == [refresh_token(40)]
    assert with_orphans_of(known, common) == known


def test_an_ancestor_beyond_memory_is_no_branch() -> None:
    """A copy from days ago holds a refresh token that nobody remembers: spent all the same, and written over."""
    ours = Record("l", 500, refresh=refresh_token(5), replaced=tuple(f"r{n}" for n in range(64)))
    theirs = Record("l", 2, refresh=refresh_token(2))
    assert reconcile(ours, "a", theirs) is Verdict.OVERWRITE
    assert with_orphans_of(ours, theirs) == ours


@given(records, records)
def test_a_record_is_not_behind_itself_nor_its_past(one: Record, other: Record) -> None:
    """What was published from a record never holds up that record, nor what it counts more than."""
    access = access_token(1)
    one, other = replace(one, access=access), replace(other, access=access)
    mark = Mark(one.lineage, one.generation, len(one.seeds), access.issued_at)
    assert not behind(one, mark)
    if behind(other, mark):
        assert not behind(one, Mark(other.lineage, other.generation, len(other.seeds), access.issued_at))
    assert behind(None, mark)
    assert not behind(None, None)


def test_a_record_with_something_younger_is_not_behind() -> None:
    """Somebody used it since, and it lives."""
    record = Record("l", 2, access=access_token(9), refresh=refresh_token(0))
    assert behind(record, Mark("l", 3, 0, access_token(9).issued_at))
    assert not behind(record, Mark("l", 3, 0, access_token(9).issued_at - 1))


def ledger(store: Any) -> Ledger:
    """A ledger on a store, and nobody listening."""
    return Ledger("gmail", "test/gmail", store, lambda _: None, store._clock)


async def test_an_orphan_that_came_meanwhile_survives_our_commit() -> None:
    """Somebody kept a pair in the record while our call was under way."""
    store = MemoryStore(SimpleNamespace(boot=lambda: 0.0))
    ours = ledger(store)
    await ours.sync()
    base = intended(Record("l", refresh=refresh_token(0)), "one", NOW)
    assert base.attempt is not None
    await ours.write(base, lease=60)
    there = await store.load("test/gmail")
    assert there is not None
    lost = Record("older", 7, refresh=refresh_token(5))
    await store.write("test/gmail", with_orphan(base, lost), expected=there.version, lease=60)
    outcome = Outcome(outcome=OutcomeClass.SUCCESS, access=access_token(1), refresh=refresh_token(1))
    record = concluded(base, outcome, ROTATING, now=NOW, delay=1)
    slip = SimpleNamespace(release=lambda: None)
    ours.owe(record, base.attempt, slip, rotation=True)  # type: ignore[arg-type]
    await ours.settle()
    there = await store.load("test/gmail")
    assert there is not None
    assert there.record.refresh == refresh_token(1)
    assert [orphan.refresh for orphan in there.record.orphans] == [refresh_token(5)]


async def test_keeping_a_pair_leaves_the_other_ones_lease() -> None:
    """An orphan is put into a record whose holder is in the middle of a call."""
    store = MemoryStore(SimpleNamespace(boot=lambda: 0.0))
    theirs = intended(Record("new", refresh=refresh_token(3)), "two", NOW)
    await store.write("test/gmail", theirs, expected=None, lease=60)
    ours = ledger(store)
    slip = SimpleNamespace(release=lambda: None)
    attempt = Attempt("a", "one", refresh_token(0).fingerprint, NOW)
    ours.owe(Record("old", 4, refresh=refresh_token(1)), attempt, slip, rotation=True)  # type: ignore[arg-type]
    await ours.settle()
    there = await store.load("test/gmail")
    assert there is not None
    assert (there.lease_left, there.record.attempt) == (60, theirs.attempt)
    assert there.record.orphans[0].refresh == refresh_token(1)


async def test_a_lost_reply_does_not_end_the_renewing_of_a_lease() -> None:
    """The write that conflicts is our own; the lease goes on under the version that it made."""
    store = MemoryStore(SimpleNamespace(boot=lambda: 0.0))
    ours = ledger(store)
    base = intended(Record("l", refresh=refresh_token(0)), "one", NOW)
    await ours.write(base, lease=1)
    there = await store.load("test/gmail")
    assert there is not None
    await store.write("test/gmail", base, expected=there.version, lease=1)
    await ours.renew(base, lease=60)
    there = await store.load("test/gmail")
    assert there is not None
    assert there.lease_left == 60
    await store.write("test/gmail", replace(base, lineage="new"), expected=there.version)
    with pytest.raises(Conflict):
        await ours.renew(base, lease=60)
