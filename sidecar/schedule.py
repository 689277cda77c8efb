"""When to refresh: pure functions of the record, the policy, the provider's profile and the time.

All instants are Unix seconds (wall clock), all spans are seconds. Nothing here waits, reads a clock or draws a
random number: the jitter is derived from the token itself, so that looking twice gives the same answer.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import msgspec

from sidecar.profile import InDoubt
from sidecar.tokens import DeadlineRule, OutcomeClass

if TYPE_CHECKING:
    from sidecar.profile import Profile
    from sidecar.tokens import AccessToken, Record

UNKNOWN_TTL = 3600.0
"""Assumed until the first answer tells the truth."""

REFRESH_AT = 0.75
JITTER_WIDTH = 1 / 15
"""Share of the way to the due time by which jitter brings a refresh forward: 70 % instead of 75 %."""

IN_DOUBT_HOLD = 360.0
"""For so long a stranger's lost attempt must have been watched, the store in reach, and nothing have moved. Above
kubelet's longest restart back-off (5 min): its holder may come back with the pair."""

SHORTEST_LEASE = 1.0
"""No default goes below: a window of replay that is over sooner is no use, and polls follow the lease."""

CLOCKS_APART = 0.25
"""Share of a window of replay that is given away for a stranger's use of the refresh token: its beginning was
written by another machine's clock."""

CLAIMED_WITHIN = 30.0
"""Seconds for which a token that is due waits for a claim."""
CLAIMED_SOON = 3.0
"""So many seconds it waits though it is near its end: a claim that is made at all has been made by then."""
IN_LINE = 300.0
"""Seconds until a token that stands in line looks again whether it does, at the most: they may be very many."""
CLOSE_POLL = 5.0
QUIET_POLL = 60.0
FOLLOWED_POLL = 3600.0
"""Of what is followed, nothing is missed; should anything be all the same, it is for no longer."""
HEALED = "the store fell back and was healed; for a minute, another instance may know a newer record still"
MIN_INTERVAL_FLOOR = 1.0
"""However a policy is set, the provider is not called more often than this for one token."""


class Wake(msgspec.Struct, frozen=True):
    """When a token wants its next turn, in Unix seconds."""

    at: float
    urgency: float
    """Expiry of the access token: of several that are due, the nearest to its end goes first."""


class Policy(msgspec.Struct, frozen=True):
    """What the configuration says of one token's timing; None: the default."""

    min_validity: float | None = None
    refresh_at: float | None = None
    min_interval: float | None = None
    lease: float | None = None
    request_timeout: float | None = None


class Timing(msgspec.Struct, frozen=True):
    """The timing in force for one lifetime."""

    ttl: float
    min_validity: float
    min_interval: float
    lease: float
    request_timeout: float
    refresh_at: float
    warnings: tuple[str, ...] = ()


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before `until`."""

    until: float
    reason: str


class Refresh(msgspec.Struct, frozen=True):
    """The provider should be called now."""

    reason: str


Decision = Wait | Refresh


def timing(policy: Policy, profile: Profile, ttl: float | None) -> Timing:
    """Fill in every default for a token that lives `ttl` seconds (None: not known yet)."""
    life = ttl if ttl is not None and ttl > 0 else profile.default_ttl or UNKNOWN_TTL
    warnings = []
    min_validity = policy.min_validity if policy.min_validity is not None else min(600.0, life / 6)
    if min_validity > life / 2:
        warnings.append(
            f"min_validity of {min_validity:g} s is more than half of the token's life of {life:g} s; "
            f"{life / 2:g} s is used"
        )
        min_validity = life / 2
    lease = policy.lease if policy.lease is not None else _default_lease(profile, life)
    if min_validity + lease > life / 2:
        warnings.append(
            f"min_validity ({min_validity:g} s) and lease ({lease:g} s) take more than half of the token's life of "
            f"{life:g} s: readers may see less than min_validity if a lease holder dies"
        )
    return Timing(
        ttl=life,
        min_validity=min_validity,
        min_interval=_min_interval(policy, profile, life),
        lease=lease,
        request_timeout=policy.request_timeout if policy.request_timeout is not None else lease / 3,
        refresh_at=policy.refresh_at if policy.refresh_at is not None else REFRESH_AT,
        warnings=tuple(warnings),
    )


def _default_lease(profile: Profile, life: float) -> float:
    lease = min(max(life / 8, 3.0), 60.0)
    # A third: when it ends without a word, others have to have time to send the same within the window.
    return max(min(lease, profile.grace / 3), SHORTEST_LEASE) if profile.grace else lease


def _min_interval(policy: Policy, profile: Profile, life: float) -> float:
    if policy.min_interval is not None:
        return max(policy.min_interval, MIN_INTERVAL_FLOOR)
    default = min(30.0, life / 10)
    return max(default, profile.min_interval or 0.0, MIN_INTERVAL_FLOOR)


def timing_of(record: Record | None, policy: Policy, profile: Profile) -> Timing:
    """Fill in the timing for the token that a record holds."""
    return timing(policy, profile, record.access.ttl if record and record.access else None)


def jitter(instance: str, fingerprint: str) -> float:
    """Derive a number in [0, 1) that differs between replicas and between tokens and is stable for each."""
    digest = hashlib.sha256(f"{instance}/{fingerprint}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def due_at(record: Record, times: Timing, profile: Profile, jitter: float) -> float:
    """Tell when the access token should be replaced."""
    access = record.access
    if access is None:
        return float("-inf")
    due = min(_due_for_readers(access, times, jitter), _due_for_refresh_token(record, profile))
    return max(due, access.last_came_at + times.min_interval)


def _due_for_readers(access: AccessToken, times: Timing, jitter: float) -> float:
    if access.expires_at is None:
        return float("inf")
    if access.repeated_at is not None:
        return (access.repeated_at + access.expires_at) / 2
    life = access.expires_at - access.issued_at
    due = access.issued_at + life * times.refresh_at * (1 - jitter * JITTER_WIDTH)
    return min(due, access.expires_at - times.min_validity - times.lease)


def _due_for_refresh_token(record: Record, profile: Profile) -> float:
    """Tell when the half of its life is over that it has without being used.

    Whether an end that an answer named moves with each refresh (Keycloak, Intuit) or not (LinkedIn) isn't known;
    the latter costs some calls in the last days, each of which halves what is left.
    """
    used = last_used(record)
    ends = [end for end in (_told(record), _idle(record, profile)) if end is not None and end > used]
    return min(((used + end) / 2 for end in ends), default=float("inf"))


class Deadline(msgspec.Struct, frozen=True):
    """By when a human has to consent again, and what that follows from."""

    at: float
    rule: DeadlineRule
    life: float
    """Seconds from where it is counted: how early a warning has to come depends on it."""


def deadline(record: Record | None, profile: Profile, ttl: float | None) -> Deadline | None:
    """Tell when the refresh token ends, if that is known: of several ends the earliest counts.

    `ttl` (seconds from the consent) is what the configuration says of this grant, in the profile's stead. An idle
    limit is met only if no refresh succeeds until then.
    """
    refresh = record.refresh if record is not None else None
    if record is None or refresh is None:
        return None
    fixed = ttl or profile.refresh_ttl
    ends = (
        (
            _told(record),
            DeadlineRule.LIVING if profile.lives_by_itself else DeadlineRule.TOLD,
            refresh.issued_at if record.end_stands_since is None else record.end_stands_since,
        ),
        (
            None if fixed is None or refresh.consented_at is None else refresh.consented_at + fixed,
            DeadlineRule.CONFIGURED if ttl else DeadlineRule.PROFILE,
            refresh.consented_at,
        ),
        (_idle(record, profile), DeadlineRule.IDLE, last_used(record)),
    )
    known = [
        Deadline(at, rule, max(0.0, at - since))
        for at, rule, since in ends
        if at is not None and since is not None
    ]
    return min(known, key=lambda end: end.at, default=None)


def last_used(record: Record) -> float:
    """Tell when the refresh token was used last, or given."""
    if record.access is not None:
        return record.access.last_came_at
    return record.refresh.issued_at if record.refresh is not None else float("-inf")


def _told(record: Record) -> float | None:
    return record.refresh.expires_at if record.refresh is not None else None


def _idle(record: Record, profile: Profile) -> float | None:
    if record.refresh is None or profile.refresh_idle_ttl is None:
        return None
    return last_used(record) + profile.refresh_idle_ttl


class Situation(msgspec.Struct, frozen=True):
    """What a decision depends on besides the record and the policy."""

    now: float
    jitter: float
    """In [0, 1); see `jitter`."""
    lease_left: float = 0.0
    """Seconds for which the record's attempt is still protected; without one, a healed record is."""
    own: bool = False
    """Whether that attempt was begun by this instance, or by a predecessor that is proven dead."""
    watched: float = 0.0
    """Seconds for which this instance has seen the record, and nobody write it."""
    forced: bool = False
    """Whether a human or an application said that the access token is refused."""
    fallen_back: bool = False
    """Whether the store holds less than what was published from it, and nobody here has the rest."""
    one_of_many: bool = False
    """Whether it is an account of a set: thousands of them may never have had a grant."""
    followed: bool = False
    """Whether what others write is noticed without a turn."""


def resend_at(record: Record, times: Timing, profile: Profile, seen: Situation) -> float:
    """Tell when a refresh token whose use is in doubt may be sent again."""
    attempt = record.attempt
    if attempt is None:
        return float("-inf")
    since = attempt.in_doubt_since if attempt.in_doubt_since is not None else attempt.started_at
    if not attempt.fingerprint or profile.in_doubt is InDoubt.REPLAY_OK:
        return since
    # From a lease to the first byte there are two thirds of it at most, and that byte has to leave within the window.
    own = seen.own and not attempt.holder
    left = since + (profile.grace or 0.0) - seen.now - times.lease * 2 / 3
    margin = 0.0 if own else (profile.grace or 0.0) * CLOCKS_APART
    if profile.in_doubt is InDoubt.REPLAY_WINDOW and left >= margin:
        return since
    # The access token is all that a wrong guess can still cost (a family is killed whole), so it is used up first.
    expiry = record.access.expires_at if record.access else None
    if not own:
        # Its holder may have the pair, may even have published it, and be unable to commit for a while. How long
        # it really was can't be read off its clock, nor off ours while the store was out of sight.
        return max(expiry or since, seen.now + IN_DOUBT_HOLD - seen.watched)
    if profile.in_doubt is InDoubt.REPLAY_UNTIL_USED:
        return since
    return max(since, since if expiry is None else expiry - times.request_timeout)


def decide(record: Record | None, times: Timing, profile: Profile, seen: Situation) -> Decision:
    """Choose between calling the provider and waiting."""
    now = seen.now
    unheard = now + (FOLLOWED_POLL if seen.followed else close_poll(times))
    if record is None or (profile.needs_refresh_token and record.refresh is None):
        # The first consent may be under way elsewhere, and its human is watching.
        return Wait(
            max(unheard, now + QUIET_POLL if seen.one_of_many else 0.0), "there is no refresh token yet"
        )
    if record.is_dead() and not seen.forced:
        return Wait(unheard, "the grant is dead")
    if record.attempt is not None and not seen.own and seen.lease_left > 0:
        return Wait(now + min(seen.lease_left, close_poll(times)), "another instance is refreshing it")
    if record.attempt is None and seen.lease_left > 0:
        return Wait(now + seen.lease_left, HEALED)
    if seen.fallen_back and not seen.forced:
        return Wait(unheard, "the store fell back")
    backoff = record.backoff
    if backoff is not None and now < backoff.not_before and not _may_force(record, forced=seen.forced):
        return Wait(backoff.not_before, backoff.reason)
    if seen.forced and record.attempt is None:
        return Refresh("it was asked for")
    due = _when(record, times, profile, seen)
    if due == float("inf"):
        return Wait(now + (FOLLOWED_POLL if seen.followed else QUIET_POLL), "the access token never expires")
    if now < due:
        return Wait(due, "in doubt" if record.attempt is not None else "fresh")
    return Refresh("the last attempt has no known end" if record.attempt is not None else "due")


def _when(record: Record, times: Timing, profile: Profile, seen: Situation) -> float:
    if record.attempt is not None:
        return resend_at(record, times, profile, seen)
    if record.backoff is not None:
        # A failed refresh was due when it was tried; its back-off is all there is left to wait for.
        return record.backoff.not_before
    return due_at(record, times, profile, seen.jitter)


def _may_force(record: Record, *, forced: bool) -> bool:
    # A provider that asked to be left alone is left alone, whoever asks.
    return forced and record.backoff is not None and record.backoff.outcome is not OutcomeClass.TRANSIENT


def hold(record: Record | None, times: Timing, now: float) -> float:
    """Tell for how long what a store lost is left alone once it was written again, in seconds.

    Until every instance that runs has looked, since one may know more; but no longer than the readers can wait.
    """
    if record is None or record.access is None:
        return 0.0
    spare = record.access.seconds_left(now) - times.min_validity - times.lease
    return max(0.0, min(QUIET_POLL + CLOSE_POLL, spare))


def claimable_at(record: Record, times: Timing, profile: Profile) -> float | None:
    """Tell when anybody may take the lease of a record unseen; None: what it wants has to be looked at."""
    access, backoff = record.access, record.backoff
    if access is None or record.attempt is not None or record.is_dead():
        return None
    if profile.needs_refresh_token and record.refresh is None:
        return None
    if backoff is not None:
        return backoff.not_before if backoff.outcome is OutcomeClass.TRANSIENT else None
    due = due_at(record, times, profile, jitter("", access.fingerprint))
    return due if math.isfinite(due) else None


def left_to_claims(record: Record, times: Timing, profile: Profile, *, now: float, passed: float) -> float:
    """Tell until when a token that is due is left to whoever claims it.

    It may stand in a line, of which all that was due until `passed` has been claimed (infinite where nobody knows).
    If nobody claims it though its turn was, it is leased as any other, long before its end.
    """
    due = claimable_at(record, times, profile)
    if due is None or record.access is None:
        return float("-inf")
    spare = record.access.seconds_left(due) - times.min_validity - times.lease
    # At the least a few of the seconds that are kept for the death of a holder: nobody holds anything yet.
    at_least = due + min(CLAIMED_WITHIN, max(spare / 2, min(CLAIMED_SOON, times.lease / 3)))
    again = min(IN_LINE, times.min_validity / 2)
    return now + again if now >= at_least and passed < due + CLAIMED_SOON else at_least


def close_poll(times: Timing) -> float:
    """Tell how often a record is read again that somebody else may change any moment."""
    return min(CLOSE_POLL, times.lease / 2)


def poll_interval(record: Record | None, times: Timing, *, followed: bool = False) -> float:
    """Tell how long a record may go unread.

    `followed`: nothing is under way elsewhere, and what others write is noticed without it.
    """
    if followed:
        return FOLLOWED_POLL
    if record is None:
        return QUIET_POLL
    unsettled = record.is_dead() or record.attempt is not None
    return close_poll(times) if unsettled else QUIET_POLL
