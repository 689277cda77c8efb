"""What becomes of a record: pure functions from one durable state to the next.

Every change of a record is made here and nowhere else, so that its rules can be read, and tested, in one place:
a refresh token is never dropped, only replaced and remembered; doubt that was inherited ends only with a
definite answer; a verdict of death speaks of one refresh token, one client and one endpoint.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sidecar import schedule
from sidecar.profile import Rotation
from sidecar.tokens import (
    NAMED,
    REFRESH,
    REVOCATION,
    SPENT_LENGTH,
    Attempt,
    Backoff,
    Death,
    ExpirySource,
    Orphan,
    OutcomeClass,
    Record,
    RefreshToken,
    Turn,
    new_id,
)

if TYPE_CHECKING:
    from sidecar.outcomes import Outcome
    from sidecar.ports import Foreign, Mark, Seeding
    from sidecar.profile import Profile
    from sidecar.tokens import AccessToken

CONFIRMATION_DELAY = 60.0
"""Seconds before a refused refresh token that does not rotate is tried once more: throttling and wrong clocks
also come as `invalid_grant` (Entra AADSTS50196, Google's JWT grant)."""

STILLBORN = 3
"""So many access tokens in a row that came expired are no accident: somebody has to look at clocks and settings."""


def begun(client_id: str, endpoint: str, issuer: str = "") -> Record:
    """Start a record for a grant that needs no refresh token."""
    return Record(lineage=new_id(), client_id=client_id, endpoint=endpoint, issuer=issuer)


def seeded(
    old: Record | None,
    seeding: Seeding,
    *,
    client_id: str,
    endpoint: str,
    issuer: str = "",
    passed_over: Seeding | None = None,
) -> Record:
    """Start a new lineage from a seed; attempt, doubt, death and back-off of the old one end with it.

    The consent was given when the seed says so, else when its refresh token was issued, or at the latest when the
    seed was written.
    `passed_over`: an older seed that is still lying about, and must not come after this one.
    """
    seeds = old.seeds if old else ()
    if passed_over is not None:
        seeds = _appended(seeds, passed_over.fingerprint)
    refresh = seeding.refresh
    return Record(
        lineage=new_id(),
        access=seeding.access,
        refresh=replace(refresh, consented_at=refresh.consented_at or refresh.issued_at),
        client_id=client_id,
        endpoint=endpoint,
        issuer=issuer,
        account=seeding.account,
        seeds=_appended(seeds, seeding.fingerprint),
        granted=seeding.access.scopes if seeding.access is not None else (),
        replaced=_replaced(old) if old else (),
        orphans=old.orphans if old else (),
        history=old.history if old else (),
    )


def adopted(record: Record, foreign: Foreign) -> Record:
    """Take over a token that an application refreshed by itself; the lineage goes on."""
    refresh = record.refresh
    replaced = record.replaced
    if foreign.refresh is not None and refresh is not None and foreign.refresh.value != refresh.value:
        replaced = _replaced(record)
        refresh = replace(
            foreign.refresh,
            expires_at=foreign.refresh.expires_at or refresh.expires_at,
            consented_at=refresh.consented_at,
        )
    return replace(
        record,
        generation=record.generation + 1,
        access=foreign.access,
        refresh=refresh,
        replaced=replaced,
        attempt=None,
        backoff=None,
        dead=None,
    )


def rebound(record: Record, *, client_id: str, endpoint: str, issuer: str = "") -> Record:
    """Bind the refresh token to another client or endpoint, because a human says that it is theirs.

    The verdict of a death and a back-off spoke of the old ones.
    """
    return replace(record, client_id=client_id, endpoint=endpoint, issuer=issuer, backoff=None, dead=None)


def misdirected(record: Record, *, client_id: str, endpoint: str, issuer: str) -> tuple[str, str] | None:
    """Compare what a record is bound to with where the next request would go: None, or both in words.

    `endpoint` is empty while `issuer` still has to name it. A grant without a refresh token may go wherever the
    configuration sends it, but nobody else may move it.
    """
    home = record.endpoint or record.issuer
    if not record.client_id and not home:
        return None  # left in the store by somebody who can't know, and bound by its first use
    there = (endpoint or home) if record.endpoint else issuer
    if record.refresh is None:
        moved = home != there and bool(record.endpoint) and record.issuer == issuer != ""
        return (home, there) if moved else None
    bound, wanted = (record.client_id, home), (client_id, there)
    return None if bound == wanted else (f"client {bound[0]!r} at {home}", f"{wanted[0]!r} at {there}")


def directed(record: Record, *, client_id: str, endpoint: str, issuer: str) -> Record:
    """Bind what is not bound yet to where it is sent now; `misdirected` has agreed."""
    record = record if record.client_id else replace(record, client_id=client_id)
    return replace(record, endpoint=endpoint, issuer=issuer) if endpoint else record


def intended(record: Record, instance: str, now: float, grace: float = 0.0) -> Record:
    """Write down that the refresh token is about to be used. Doubt left by an earlier attempt is inherited.

    `grace`: seconds of doubt within which that is done without waiting for another instance that may have the pair.
    Should this attempt be lost as well, that one has to be waited for after all.
    """
    earlier = record.attempt
    doubt, holder = None, ""
    if earlier is not None:
        doubt = earlier.in_doubt_since if earlier.in_doubt_since is not None else earlier.started_at
        holder = earlier.holder or earlier.instance
    if doubt is None or holder == instance or now - doubt > grace:
        holder = ""
    attempt = Attempt(
        id=new_id(),
        instance=instance,
        fingerprint=record.refresh.fingerprint if record.refresh else "",
        started_at=now,
        in_doubt_since=doubt,
        holder=holder,
    )
    return replace(record, attempt=attempt)


def concluded(base: Record, outcome: Outcome, profile: Profile, *, now: float, delay: float) -> Record:
    """Apply the outcome of a call to the record that was committed before it.

    `delay`: seconds for which the provider is left alone after a failure.
    """
    match outcome.outcome:
        case OutcomeClass.SUCCESS:
            return _succeeded(base, outcome, now, delay)
        case OutcomeClass.IN_DOUBT:
            return replace(_failed(base, outcome, now, delay), attempt=doubted(base.attempt))
        case OutcomeClass.SUSPECT:
            return _suspected(base, outcome, profile, now)
        case OutcomeClass.DEAD:
            return _died(base, outcome, now)
        case _:
            return replace(_failed(base, outcome, now, delay), attempt=unsent(base.attempt))


def _succeeded(base: Record, outcome: Outcome, now: float, delay: float) -> Record:
    access = outcome.access
    refresh = base.refresh
    replaced = base.replaced
    rotates = base.rotates
    stands_since = base.end_stands_since
    if refresh is not None:
        came = outcome.refresh
        changed = came is not None and came.value != refresh.value
        rotates = changed or bool(rotates)
        if came is not None:
            # An end that was named once does not move when a refresh names none.
            deadline = came.expires_at if came.expires_at is not None else refresh.expires_at
            issued = came.issued_at if changed else refresh.issued_at
            replaced = _replaced(base) if changed else replaced
            stands_since = _end_stands_since(base, refresh, came, outcome.access)
            refresh = replace(came, expires_at=deadline, issued_at=issued, consented_at=refresh.consented_at)
    granted = (*base.granted, *(access.scopes if access is not None else ()))
    if access is not None and base.access is not None:
        if outcome.same_token_again:
            access = _repeated(base.access, access, now)
        elif outcome.short_lived and base.access.seconds_left(now) > access.seconds_left(now):
            # An answer whose token is dead on arrival must not take a living one from the readers.
            access = base.access
    backoff = _backoff(base, outcome, now, delay) if outcome.short_lived else None
    return replace(
        base,
        generation=base.generation + 1,
        access=access,
        refresh=refresh,
        replaced=replaced,
        rotates=rotates,
        granted=tuple(dict.fromkeys(granted)),
        attempt=None,
        backoff=backoff,
        dead=None,
        end_stands_since=stands_since,
    )


def _end_stands_since(
    base: Record, old: RefreshToken, came: RefreshToken, access: AccessToken | None
) -> float | None:
    """Tell since when the refresh token ends when it does: a session's end moves along, that of a consent doesn't.

    Neither follows from the token's own age. Entra replaces tokens whose end is fixed, and others put off the end of
    one that they never replace.
    """
    if access is None or came.expires_at is None:
        return base.end_stands_since
    passed = access.issued_at - schedule.last_used(base)
    # A remaining life is named in whole seconds.
    if old.expires_at is None or came.expires_at - old.expires_at > passed / 2 + 1:
        return access.issued_at
    return old.issued_at if base.end_stands_since is None else base.end_stands_since


def _repeated(access: AccessToken, again: AccessToken, now: float) -> AccessToken:
    if again.expiry_source is ExpirySource.ASSUMED:
        return again
    ends = [end for end in (access.expires_at, again.expires_at) if end is not None]
    return replace(access, expires_at=min(ends, default=None), repeated_at=now)


def _failed(base: Record, outcome: Outcome, now: float, delay: float) -> Record:
    return replace(base, backoff=_backoff(base, outcome, now, delay))


def _backoff(base: Record, outcome: Outcome, now: float, delay: float) -> Backoff:
    before = base.backoff
    failures = before.failures + 1 if before else 1
    kind = outcome.outcome
    if kind is OutcomeClass.SUCCESS:
        kind = OutcomeClass.MISCONFIGURED if failures >= STILLBORN else OutcomeClass.TRANSIENT
    return Backoff(
        outcome=kind,
        reason=outcome.reason,
        failures=failures,
        not_before=now + delay,
        since=before.since if before else now,
        unreadable=outcome.unreadable,
        scope_refused=outcome.scope_refused,
    )


def _suspected(base: Record, outcome: Outcome, profile: Profile, now: float) -> Record:
    if base.orphans:
        *others, orphan = base.orphans
        return replace(
            base,
            refresh=orphan.refresh,
            replaced=_replaced(base),
            orphans=tuple(others),
            attempt=None,
            backoff=None,
        )
    confirmed = base.backoff is not None and base.backoff.outcome is OutcomeClass.SUSPECT
    if may_rotate(base, profile) or confirmed:
        return _died(base, outcome, now)
    return replace(_failed(base, outcome, now, CONFIRMATION_DELAY), attempt=None)


def _died(base: Record, outcome: Outcome, now: float) -> Record:
    return ended(base, outcome.reason, now=now)


def ended(base: Record, reason: str, *, now: float) -> Record:
    """Write down that the refresh token is of no more use, and why."""
    verdict = Death(
        fingerprint=base.refresh.fingerprint if base.refresh else "",
        client_id=base.client_id,
        endpoint=base.endpoint,
        at=now,
        reason=reason,
    )
    return replace(base, dead=verdict, attempt=None, backoff=None)


def told(
    record: Record,
    outcome: OutcomeClass,
    reason: str,
    *,
    now: float,
    instance: str,
    seconds: float = 0.0,
    what: str = REFRESH,
) -> Record:
    """Write into a record's history how it came to be what it is."""
    brought = record.access is not None and outcome is OutcomeClass.SUCCESS and what != REVOCATION
    turn = Turn(
        at=now,
        outcome=outcome,
        reason=reason,
        generation=record.generation,
        duration=round(seconds, 3),
        what=what,
        instance=instance[:NAMED],
        fingerprint=record.access.fingerprint if brought and record.access is not None else "",
        refresh_fingerprint=record.refresh.fingerprint if record.refresh is not None else "",
    )
    return record.remember(turn)


def may_rotate(record: Record, profile: Profile) -> bool:
    """Tell whether a refused refresh token may have been refused because it had been used already."""
    if profile.rotation is Rotation.UNKNOWN:
        return record.rotates is not False
    return profile.may_rotate


def doubted(attempt: Attempt | None) -> Attempt | None:
    """Note that an attempt may have been processed, counted from when it began."""
    if attempt is None:
        return None
    return replace(attempt, in_doubt_since=attempt.in_doubt_since or attempt.started_at)


def unsent(attempt: Attempt | None) -> Attempt | None:
    """End an attempt that certainly consumed nothing: its own is settled, never an earlier one's doubt."""
    return attempt if attempt is not None and attempt.in_doubt_since is not None else None


def _replaced(record: Record) -> tuple[str, ...]:
    if record.refresh is None:
        return record.replaced
    return _appended(record.replaced, record.refresh.fingerprint)[-SPENT_LENGTH:]


def _appended(fingerprints: tuple[str, ...], fingerprint: str) -> tuple[str, ...]:
    return fingerprints if fingerprint in fingerprints else (*fingerprints, fingerprint)


class Verdict(StrEnum):
    """What to do after a commit lost its race."""

    LANDED = "landed"
    """The store holds ours already: an earlier try had succeeded without our knowing."""
    OVERWRITE = "overwrite"
    """Ours descends from what the store holds: write it over that."""
    YIELD = "yield"
    """Somebody else's is newer: adopt it."""
    YIELD_AND_KEEP = "yield_and_keep"
    """A newer lineage exists, but our pair may be alive: keep it among its orphans."""


def reconcile(ours: Record, attempt: str, theirs: Record | None) -> Verdict:
    """Compare the record that could not be committed with the one that is there instead.

    `attempt`: the id of the attempt whose end `ours` is.
    """
    if theirs is None:
        return Verdict.OVERWRITE
    if theirs.attempt is not None and theirs.attempt.id == attempt and theirs != ours:
        return Verdict.OVERWRITE
    if ours.refresh is None:
        return _by_generation(ours, theirs)
    mine, other = ours.refresh.fingerprint, theirs.refresh.fingerprint if theirs.refresh else ""
    if mine == other:
        return _by_generation(ours, theirs)
    if _descends(ours, theirs):
        return Verdict.OVERWRITE
    if knows(theirs, ours.refresh):
        return Verdict.YIELD
    if set(theirs.seeds) < set(ours.seeds):
        # An older lineage, which ours came after: the store fell back while our call was under way.
        return Verdict.OVERWRITE
    return Verdict.YIELD_AND_KEEP


def _descends(ours: Record, theirs: Record) -> bool:
    """Tell whether our refresh token came of theirs, which is spent then."""
    ahead = ours.generation - theirs.generation
    if ours.lineage != theirs.lineage or ahead <= 0:
        return False
    # Further back than what a record remembers, a branch is out of the question: that took a call a moment ago.
    return theirs.refresh is None or theirs.refresh.fingerprint in ours.spent or ahead >= SPENT_LENGTH


def _by_generation(ours: Record, theirs: Record) -> Verdict:
    if ours.lineage != theirs.lineage:
        return Verdict.YIELD
    if (
        ours.access == theirs.access
        and ours.generation == theirs.generation
        and ours.attempt == theirs.attempt
    ):
        return Verdict.LANDED
    return Verdict.OVERWRITE if ours.generation > theirs.generation else Verdict.YIELD


def with_orphan(theirs: Record, ours: Record) -> Record:
    """Keep our pair inside a record of another lineage."""
    if ours.refresh is None:
        return theirs
    return replace(theirs, orphans=(*theirs.orphans, Orphan(ours.lineage, ours.refresh)))


def with_orphans_of(ours: Record, theirs: Record | None) -> Record:
    """Keep the orphans of the record that ours is written over, and its own pair unless ours came of it."""
    if theirs is None:
        return ours
    found = theirs.orphans
    if theirs.refresh is not None and not _descends(ours, theirs):
        found = (*found, Orphan(theirs.lineage, theirs.refresh))
    missing = tuple(orphan for orphan in found if not knows(ours, orphan.refresh))
    return replace(ours, orphans=(*ours.orphans, *missing)) if missing else ours


def rolled_back(stored: Record | None, known: Record) -> bool:
    """Tell whether a store lost what it had acknowledged (failover, restore, an emptied Secret)."""
    if stored is None:
        return True
    if _came_of(stored, known):
        # However few refreshes, or seeds, the store has seen since it fell back: ours is spent.
        return False
    if stored.lineage == known.lineage:
        return stored.generation < known.generation
    if len(stored.seeds) > len(known.seeds) or not set(stored.seeds) <= set(known.seeds):
        return False
    # Every lineage starts with a seed and remembers the seeds before. One without a seed that is new to us is an
    # ancestor of what we know; or somebody took such a seed again for want of a record, and doesn't know what had
    # come of it.
    lost = known.refresh is not None and not knows(stored, known.refresh)
    return len(stored.seeds) < len(known.seeds) or lost


def _came_of(stored: Record, known: Record) -> bool:
    """Tell whether somebody used the refresh token that we hold, and has one that is new to us."""
    if stored.refresh is None or known.refresh is None:
        return False
    return known.refresh.fingerprint in stored.replaced and not knows(known, stored.refresh)


def knows(record: Record, refresh: RefreshToken) -> bool:
    """Tell whether a record holds this refresh token, keeps it, or remembers it as spent."""
    held = {orphan.refresh.fingerprint for orphan in record.orphans} | record.spent
    held |= {record.refresh.fingerprint} if record.refresh else set()
    return refresh.fingerprint in held


def behind(record: Record | None, mark: Mark | None) -> bool:
    """Tell whether a store holds less than what was published from it, so that its refresh token may be spent.

    A record with anything in it that was issued later is newer, whatever it counts: somebody used it, and it lives.
    """
    if record is None or mark is None:
        return mark is not None
    issued = (part.issued_at for part in (record.access, record.refresh) if part is not None)
    if max(issued, default=0.0) > mark.issued_at:
        return False
    if len(record.seeds) != mark.seeds:
        return len(record.seeds) < mark.seeds
    return record.lineage == mark.lineage and record.generation < mark.generation
