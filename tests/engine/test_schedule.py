"""The pure schedule: when a refresh is due, how long everything waits, and what doubt allows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.profile import GrantType, InDoubt, Profile, Rotation
from sidecar.schedule import (
    IN_DOUBT_HOLD,
    MIN_INTERVAL_FLOOR,
    Decision,
    Policy,
    Refresh,
    Situation,
    Timing,
    Wait,
    decide,
    due_at,
    jitter,
    left_to_claims,
    poll_interval,
    resend_at,
    timing,
    timing_of,
)
from sidecar.tokens import AccessToken, Attempt, Backoff, Death, OutcomeClass, Record, RefreshToken

NOW = 1_800_000_000.0
PLAIN = Profile()
REFRESH = RefreshToken("sim-rt-0123456789abcdef", NOW)

spans = st.floats(1, 1e8)
jitters = st.floats(0, 1, exclude_max=True)
profiles = st.builds(
    Profile,
    rotation=st.sampled_from(Rotation),
    in_doubt=st.sampled_from(InDoubt),
    grant=st.sampled_from(GrantType),
    grace=st.none() | st.floats(0, 1e5),
    refresh_idle_ttl=st.none() | spans,
    min_interval=st.none() | st.floats(0, 1e4),
    default_ttl=st.none() | spans,
)
policies = st.builds(
    Policy,
    min_validity=st.none() | st.floats(0, 1e7),
    refresh_at=st.none() | st.floats(0.001, 1),
    min_interval=st.none() | st.floats(0, 1e5),
    lease=st.none() | st.floats(1, 600),
    request_timeout=st.none() | st.floats(0.1, 300),
)
moments = st.floats(NOW - 1e8, NOW + 1e8)


@st.composite
def access_tokens(draw: st.DrawFn) -> AccessToken:
    """An access token of any life, perhaps repeated, perhaps of a clock that is wrong."""
    issued, ttl = draw(moments), draw(st.none() | st.floats(0, 1e8))
    expires = None if ttl is None else issued + ttl
    return AccessToken("sim-at-0123456789abcdef", issued, expires, ttl, repeated_at=draw(st.none() | moments))


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Any record at all."""
    refresh = draw(st.sampled_from([None, REFRESH]))
    attempt = st.builds(
        Attempt,
        id=st.just("attempt"),
        instance=st.just("one"),
        fingerprint=st.sampled_from(["", REFRESH.fingerprint]),
        started_at=moments,
        in_doubt_since=st.none() | moments,
    )
    backoff = st.builds(
        Backoff,
        outcome=st.sampled_from(OutcomeClass),
        reason=st.just("it failed"),
        failures=st.integers(1, 1000),
        not_before=moments,
        since=moments,
    )
    return Record(
        lineage="l",
        access=draw(st.none() | access_tokens()),
        refresh=refresh,
        attempt=draw(st.none() | attempt),
        backoff=draw(st.none() | backoff),
        dead=draw(st.sampled_from([None, Death(REFRESH.fingerprint, "", "", NOW, "gone")])),
    )


situations = st.builds(
    Situation,
    now=moments,
    jitter=jitters,
    lease_left=st.floats(0, 600),
    own=st.booleans(),
    watched=st.floats(0, 1e5),
    forced=st.booleans(),
)


def token(ttl: float | None = 3600.0, *, repeated_at: float | None = None) -> AccessToken:
    """A token issued now; without a life it never expires."""
    expires_at = None if ttl is None else NOW + ttl
    return AccessToken("sim-at-0123456789abcdef", NOW, expires_at, ttl, repeated_at=repeated_at)


def record(**changes: object) -> Record:
    """A record with a fresh hour-long token."""
    return replace(Record(lineage="l", access=token(), refresh=REFRESH), **changes)


def at(seconds: float, *, own: bool = True, **seen: float | bool) -> Situation:
    """A situation so many seconds after the token was issued."""
    return Situation(now=NOW + seconds, jitter=0.0, own=own, **seen)  # type: ignore[arg-type]


def decided(
    held: Record, seen: Situation, profile: Profile = PLAIN, policy: Policy | None = None
) -> Decision:
    """Decide with the timing that follows."""
    return decide(held, timing_of(held, policy or Policy(), profile), profile, seen)


# Timing


@pytest.mark.parametrize(
    ("ttl", "min_validity", "min_interval", "lease"),
    [
        (3600, 600, 30, 60),
        (86400, 600, 30, 60),
        (900, 150, 30, 60),
        (300, 50, 30, 37.5),
        (60, 10, 6, 7.5),
        (12, 2, 1.2, 3),
        (2, 2 / 6, 1, 3),
    ],
)
def test_defaults_follow_the_life_of_the_token(
    ttl: float, min_validity: float, min_interval: float, lease: float
) -> None:
    """The defaults are those of the design, for long lives and for short ones."""
    times = timing(Policy(), PLAIN, ttl)
    assert times.min_validity == pytest.approx(min_validity)
    assert times.min_interval == pytest.approx(min_interval)
    assert times.lease == pytest.approx(lease)
    assert times.request_timeout == pytest.approx(lease / 3)
    assert times.refresh_at == 0.75


def test_a_lease_is_no_longer_than_a_third_of_the_grace_window() -> None:
    """A replica that takes over from a dead holder must still be forgiven a replay."""
    assert timing(Policy(), Profile(grace=30), 3600).lease == 10
    assert timing(Policy(lease=25), Profile(grace=30), 3600).lease == 25


def test_min_validity_is_cut_to_half_the_life_with_a_warning() -> None:
    """A demand that no token can meet would refresh without end."""
    times = timing(Policy(min_validity=3000), PLAIN, 3600)
    assert times.min_validity == 1800
    assert "more than half" in times.warnings[0]


@given(policies, profiles, st.none() | st.floats(0, 1e8))
def test_every_timing_can_be_lived_by(policy: Policy, profile: Profile, ttl: float | None) -> None:
    """Whatever is configured, each span is finite, and the interval never falls below its floor."""
    times = timing(policy, profile, ttl)
    spans = (times.ttl, times.min_validity, times.min_interval, times.lease, times.request_timeout)
    assert all(math.isfinite(span) and span >= 0 for span in spans)
    assert times.min_interval >= MIN_INTERVAL_FLOOR
    assert times.min_validity <= times.ttl / 2


# When it is due


@given(spans, jitters, policies)
def test_due_leaves_room_for_the_readers_and_a_dead_holder(ttl: float, drawn: float, policy: Policy) -> None:
    """Never later than expiry less min_validity and lease, never earlier than min_interval after issue."""
    held = record(access=token(ttl))
    times = timing_of(held, policy, PLAIN)
    due = due_at(held, times, PLAIN, drawn)
    assert due >= NOW + times.min_interval
    assert due <= max(NOW + ttl - times.min_validity - times.lease, NOW + times.min_interval)


@given(spans, jitters, policies)
def test_jitter_only_brings_forward(ttl: float, drawn: float, policy: Policy) -> None:
    """Jitter spreads replicas over the time before the due moment, never beyond it."""
    held = record(access=token(ttl))
    times = timing_of(held, policy, PLAIN)
    assert due_at(held, times, PLAIN, drawn) <= due_at(held, times, PLAIN, 0.0)


@given(st.text(max_size=20), st.text(max_size=20))
def test_jitter_is_stable_and_below_one(instance: str, name: str) -> None:
    """Looking twice gives the same answer."""
    assert 0 <= jitter(instance, name) < 1
    assert jitter(instance, name) == jitter(instance, name)


def test_an_hour_long_token_is_due_within_its_third_quarter() -> None:
    """70 to 75 % of an hour."""
    times = timing(Policy(), PLAIN, 3600)
    assert due_at(record(), times, PLAIN, 0.0) == NOW + 2700
    assert due_at(record(), times, PLAIN, 0.999999) == pytest.approx(NOW + 2520, abs=1)


def test_a_repeated_token_is_asked_for_at_half_of_what_is_left() -> None:
    """And never more often than min_interval, even when nothing is left."""
    times = timing(Policy(), PLAIN, 3600)
    held = record(access=token(repeated_at=NOW + 3000))
    assert due_at(held, times, PLAIN, 0.0) == NOW + 3300
    held = record(access=token(repeated_at=NOW + 3599))
    assert due_at(held, times, PLAIN, 0.0) == NOW + 3629
    held = record(access=token(repeated_at=NOW + 9000))
    assert due_at(held, times, PLAIN, 0.0) == NOW + 9030


def test_an_idle_refresh_token_is_kept_alive() -> None:
    """At half of its idle life, though the access token would live for months, or for ever."""
    profile = Profile(refresh_idle_ttl=86400)
    long, endless = token(90 * 86400), token(None)
    for access in (long, endless):
        held = record(access=access)
        assert due_at(held, timing_of(held, Policy(), profile), profile, 0.5) == NOW + 43200


def test_a_token_that_never_expires_is_left_alone() -> None:
    """It is looked at every minute and refreshed never; no infinite wait escapes."""
    held = record(access=token(None))
    assert decided(held, at(1e7)) == Wait(NOW + 1e7 + 60, "the access token never expires")


# Decisions


def test_a_short_window_of_replay_makes_no_hot_lease() -> None:
    """Half of a grace that is over at once is no lease to live with; it keeps a length that polls can follow."""
    assert timing(Policy(), Profile(grace=60), 3600).lease == 20
    assert timing(Policy(), Profile(grace=1e-9), 3600).lease == 1


@given(records(), policies, profiles, situations)
def test_every_decision_can_be_acted_on(
    held: Record, policy: Policy, profile: Profile, seen: Situation
) -> None:
    """A call, or a wait that is finite and ends in the future."""
    times = timing_of(held, policy, profile)
    decision = decide(held, times, profile, seen)
    assert isinstance(decision, Refresh) or (
        math.isfinite(decision.until) and decision.until >= seen.now and decision.reason
    )
    assert 0 < poll_interval(held, times) <= 60


@given(records(), policies, profiles, situations, st.floats(0, 1e6))
def test_what_is_due_stays_due(
    held: Record, policy: Policy, profile: Profile, seen: Situation, later: float
) -> None:
    """As time goes by a call never turns into a wait, except where a window of replay has closed."""
    if profile.in_doubt is InDoubt.REPLAY_WINDOW and held.attempt is not None:
        return
    times = timing_of(held, policy, profile)
    if isinstance(decide(held, times, profile, seen), Refresh):
        then = replace(seen, now=seen.now + later, lease_left=0.0, watched=seen.watched + later)
        assert isinstance(decide(held, times, profile, then), Refresh)


@given(records(), policies, profiles, situations)
def test_a_wait_is_over_when_it_says_so(
    held: Record, policy: Policy, profile: Profile, seen: Situation
) -> None:
    """Whoever comes back at the end of a wait for time alone is let through, or finds the next one."""
    times = timing_of(held, policy, profile)
    decision = decide(held, times, profile, seen)
    if isinstance(decision, Wait) and decision.reason == "fresh":
        assert isinstance(decide(held, times, profile, replace(seen, now=decision.until)), Refresh)


def test_nothing_is_called_without_a_refresh_token() -> None:
    """Neither for an empty store nor for a record that lost it."""
    times = Timing(3600, 600, 30, 60, 20, 0.75)
    assert isinstance(decide(None, times, PLAIN, at(0)), Wait)
    assert isinstance(decided(record(refresh=None), at(9999)), Wait)


def test_a_dead_grant_waits_unless_a_human_insists() -> None:
    """No calls for the dead, and exactly the one that was asked for."""
    held = record(dead=Death(REFRESH.fingerprint, "", "", NOW, "gone"))
    assert isinstance(decided(held, at(99999)), Wait)
    assert decided(held, at(99999, forced=True)) == Refresh("it was asked for")


def test_a_verdict_speaks_of_one_refresh_token_client_and_endpoint() -> None:
    """With another of the three the grant is alive again."""
    for death in (Death("x", "", "", NOW, ""), Death(REFRESH.fingerprint, "c", "", NOW, "")):
        assert isinstance(decided(record(dead=death), at(3000)), Refresh)


def test_force_overrides_freshness_and_misconfiguration_but_no_throttle() -> None:
    """A provider that asked to be left alone is left alone, whoever asks."""
    assert isinstance(decided(record(), at(10, forced=True)), Refresh)
    backoff = Backoff(OutcomeClass.TRANSIENT, "throttled", 1, NOW + 600, NOW)
    assert decided(record(backoff=backoff), at(10, forced=True)) == Wait(NOW + 600, "throttled")
    backoff = replace(backoff, outcome=OutcomeClass.MISCONFIGURED)
    assert isinstance(decided(record(backoff=backoff), at(10, forced=True)), Refresh)


def test_a_failed_refresh_waits_for_its_back_off_alone() -> None:
    """What was due when it was tried is due again at the end of the back-off."""
    held = record(backoff=Backoff(OutcomeClass.TRANSIENT, "down", 1, NOW + 50, NOW))
    assert isinstance(decided(held, at(49)), Wait)
    assert isinstance(decided(held, at(50)), Refresh)


# Doubt


ATTEMPT = Attempt("attempt", "one", REFRESH.fingerprint, NOW + 100)


@pytest.mark.parametrize(
    ("profile", "after"),
    [
        (Profile(in_doubt=InDoubt.REPLAY_OK), 100),
        (Profile(in_doubt=InDoubt.REPLAY_UNTIL_USED), 100),
        (Profile(in_doubt=InDoubt.REPLAY_WINDOW, grace=60), 100),
        (Profile(in_doubt=InDoubt.NO_REPLAY), 3580),
        (Profile(in_doubt=InDoubt.REPLAY_WINDOW), 3580),
    ],
)
def test_own_doubt_ends_as_the_profile_allows(profile: Profile, after: float) -> None:
    """At once where a replay is forgiven, else just before the access token ends."""
    held = record(attempt=ATTEMPT)
    times = timing_of(held, Policy(), profile)
    assert resend_at(held, times, profile, at(101)) == NOW + after


def test_a_window_is_used_only_while_the_way_to_the_first_byte_fits_into_it() -> None:
    """What is begun at its last moment would arrive behind it."""
    profile = Profile(in_doubt=InDoubt.REPLAY_WINDOW, grace=60)
    held = record(attempt=ATTEMPT)
    lease = timing_of(held, Policy(), profile).lease
    assert isinstance(decided(held, at(100 + 60 - lease * 2 / 3 - 1), profile), Refresh)
    assert decided(held, at(100 + 60 - lease * 2 / 3 + 1), profile) == Wait(
        NOW + 3600 - lease / 3, "in doubt"
    )


def test_a_window_is_used_for_a_stranger_too() -> None:
    """Once its lease has ended, and with a quarter of the window left for clocks that differ."""
    profile = Profile(in_doubt=InDoubt.REPLAY_WINDOW, grace=60)
    held = record(attempt=ATTEMPT)
    lease = timing_of(held, Policy(), profile).lease
    assert isinstance(decided(held, at(110, own=False, lease_left=10), profile), Wait)
    assert isinstance(decided(held, at(100 + lease + 0.1, own=False), profile), Refresh)
    assert isinstance(decided(held, at(100 + 45 - lease * 2 / 3 - 1, own=False), profile), Refresh)
    late = decided(held, at(100 + 45 - lease * 2 / 3 + 1, own=False), profile)
    assert late == Wait(NOW + 3600, "in doubt")


@pytest.mark.parametrize("in_doubt", [InDoubt.NO_REPLAY, InDoubt.REPLAY_WINDOW, InDoubt.REPLAY_UNTIL_USED])
def test_a_strangers_doubt_is_watched_for_long(in_doubt: InDoubt) -> None:
    """Not before the expiry, nor before six minutes in which the store was seen and nobody wrote."""
    profile = Profile(in_doubt=in_doubt, grace=600)
    held = record(attempt=ATTEMPT)
    assert isinstance(decided(held, at(3599, own=False, watched=9999), profile), Wait)
    assert isinstance(decided(held, at(3600, own=False, watched=IN_DOUBT_HOLD), profile), Refresh)
    late = decided(held, at(9999, own=False, watched=10), profile)
    assert late == Wait(NOW + 9999 + IN_DOUBT_HOLD - 10, "in doubt")


def test_a_strangers_lease_is_respected() -> None:
    """While it lasts nobody else calls, whatever else says so."""
    held = record(attempt=ATTEMPT)
    seen = at(9999, own=False, lease_left=3, watched=9999, forced=True)
    assert decided(held, seen, Profile(in_doubt=InDoubt.REPLAY_OK)) == Wait(
        NOW + 10002, "another instance is refreshing it"
    )


def test_doubt_counts_from_its_first_day() -> None:
    """An attempt that inherited doubt doesn't open the window anew."""
    profile = Profile(in_doubt=InDoubt.REPLAY_WINDOW, grace=60)
    held = record(attempt=replace(ATTEMPT, started_at=NOW + 1000, in_doubt_since=NOW + 100))
    assert isinstance(decided(held, at(1001), profile), Wait)


def test_force_does_not_overrule_doubt() -> None:
    """Somebody's 401 is no reason to risk the grant."""
    assert isinstance(decided(record(attempt=ATTEMPT), at(200, forced=True)), Wait)


def test_a_grant_without_refresh_tokens_knows_no_doubt() -> None:
    """Nothing can be burnt, so a lost answer is asked for again at once."""
    profile = Profile(grant=GrantType.CLIENT_CREDENTIALS)
    held = record(refresh=None, attempt=replace(ATTEMPT, fingerprint=""))
    assert isinstance(decided(held, at(101), profile), Refresh)


@pytest.mark.parametrize("ttl", [30.0, 60.0, 600.0, 3600.0])
def test_who_stands_in_line_looks_again_long_before_its_end(ttl: float) -> None:
    """A token that lives for a minute may not be left alone for five, whatever holds up the line."""
    held = record(access=token(ttl))
    times = timing_of(held, Policy(), PLAIN)
    first = left_to_claims(held, times, PLAIN, now=NOW, passed=-math.inf)
    again = left_to_claims(held, times, PLAIN, now=first, passed=-math.inf)
    assert first < again < NOW + ttl
