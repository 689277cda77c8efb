"""How one token stands, in a state and in words: pure functions of its record and of what is in the way."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import msgspec

from sidecar import schedule
from sidecar.tokens import DeadlineRule, ExpirySource, GrantState, OutcomeClass

if TYPE_CHECKING:
    from sidecar.events import TokenView
    from sidecar.ports import Mark
    from sidecar.profile import Profile
    from sidecar.tokens import Record

DEADLINES = {
    DeadlineRule.TOLD: ": the refresh token's end, as the provider or the seed named it",
    DeadlineRule.CONFIGURED: ": refresh_token_ttl, counted from the consent",
    DeadlineRule.PROFILE: ": so long do this provider's grants last from the consent, whatever happens",
    DeadlineRule.IDLE: ", unless a refresh succeeds before: this provider forgets grants that nobody uses",
    DeadlineRule.LIVING: (
        ", unless a refresh succeeds before: this access token is exchanged for the next while it lives"
    ),
}
"""What a deadline follows from, in words."""

UNREADABLE_FOR = 15 * 60.0
"""Seconds after which answers that no token endpoint gives are no passing trouble, but a wrong address or a proxy."""

_NAMED_ELSEWHERE = {"openid", "profile", "email", "address", "phone", "offline_access"}
"""Scopes of OpenID Connect, which many providers grant without saying so, or under a name of their own."""


class Troubles(msgspec.Struct, frozen=True):
    """What a record does not tell. Empty words: no such trouble."""

    obstacle: str = ""
    """Why the provider is not called though it should be."""
    store: str = ""
    """Why the store could not be read or written."""
    seed: str = ""
    """Why the seed cannot be used."""
    no_seed: str = ""
    """What is missing where a seed should be."""
    fallen_back: str = ""
    """Why the refresh token in the store may be spent."""
    healed: str = ""
    """Why the one that was written again is not used yet."""
    unpersisted: bool = False
    """Whether the store has failed to take tokens that exist nowhere else."""
    unanswered: bool = False
    """Whether the answer to the record's attempt is overdue."""


def quoted(token: str) -> str:
    """Write a token's name for a command line: an account's is somebody else's text, and is pasted into a shell."""
    return shlex.quote(token)


def standing(
    record: Record | None, troubles: Troubles, *, needs_refresh_token: bool, now: float
) -> tuple[GrantState, str]:
    """Name the grant's state at `now` (Unix seconds) and, where it is not ok, the reason."""
    if troubles.unpersisted:
        return GrantState.UNPERSISTED, troubles.store
    if troubles.obstacle:
        return GrantState.MISCONFIGURED, troubles.obstacle
    if needs_refresh_token and (record is None or record.refresh is None):
        if troubles.store:
            return GrantState.RETRYING, troubles.store
        return GrantState.UNSEEDED, troubles.seed or troubles.no_seed or "there is no refresh token yet"
    if record is not None and (told := _of_record(record, troubles, now)) is not None:
        return told
    if troubles.fallen_back:
        return GrantState.IN_DOUBT, troubles.fallen_back
    if troubles.store:
        return GrantState.RETRYING, troubles.store
    return GrantState.OK, troubles.seed or troubles.healed


def _of_record(record: Record, troubles: Troubles, now: float) -> tuple[GrantState, str] | None:
    backoff = record.backoff
    if record.dead is not None and record.is_dead():
        return GrantState.DEAD, record.dead.reason
    if backoff is not None and backoff.unreadable and now - backoff.since >= UNREADABLE_FOR:
        # Doubt it is all the same: when the refresh token may be sent again is for the schedule to say.
        minutes = (now - backoff.since) / 60
        why = f"{backoff.reason}, and nothing better for {minutes:.0f} min"
        return GrantState.MISCONFIGURED, f"{why}: is token_url right, and does a proxy stand before it?"
    if record.attempt is not None and (record.attempt.in_doubt_since or troubles.unanswered):
        lost = backoff is not None and backoff.outcome is OutcomeClass.IN_DOUBT
        why = backoff.reason if lost and backoff is not None else "no answer has come yet"
        return GrantState.IN_DOUBT, f"a request was sent, and whether it was processed is unknown: {why}"
    if backoff is None:
        return None
    misconfigured = backoff.outcome is OutcomeClass.MISCONFIGURED
    return GrantState.MISCONFIGURED if misconfigured else GrantState.RETRYING, backoff.reason


def consent(token: str, page: str = "", *, first: bool = False) -> str:
    """Say what a human does where only a human can help. `page`: the URL of the token's page in the console, if any.

    `first`: nobody has consented yet, as far as is known; who is told to do so again looks for what went wrong.
    """
    name, at = quoted(token), f"{page} or " if page else ""
    seed = f"token-sidecar seed {name} --file FILE"
    if first:
        return f"consent: {at}token-sidecar login {name}, or give a refresh token: {seed}"
    return f"consent again: {at}token-sidecar login {name}, or give a new refresh token: {seed}"


def remedy(token: str, state: GrantState, page: str = "") -> str:
    """Say what a human can do about a grant in this state; empty where waiting helps."""
    match state:
        case GrantState.DEAD | GrantState.UNSEEDED:
            return consent(token, page, first=state is GrantState.UNSEEDED)
        case GrantState.MISCONFIGURED:
            return "correct the configuration, then run: token-sidecar check"
        case _:
            return ""


def missing_scopes(record: Record | None, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Name the scopes that the access token lacks, of those that were asked for or else granted before.

    Whoever asks for less than before means it. A provider that never says what it granted is believed.
    """
    access = record.access if record is not None else None
    if record is None or access is None or not access.scopes:
        return ()
    held = {scope.casefold() for scope in access.scopes}
    if not asked:
        return tuple(scope for scope in record.granted if scope.casefold() not in held)
    return tuple(
        scope for scope in asked if scope not in _NAMED_ELSEWHERE and not _holds(held, scope.casefold())
    )


def _holds(held: set[str], scope: str) -> bool:
    # Entra takes `Mail.Read` and answers `https://graph.microsoft.com/Mail.Read`.
    return any(one == scope or one.endswith(f"/{scope}") for one in held)


def fallen_back(token: str, record: Record | None, mark: Mark, page: str = "") -> str:
    """Say that the store holds less than what was published from it, and the ways out."""
    again = consent(token, page)
    if record is None:
        return (
            "the store has no record of this token although this daemon published it before, so the seed may be "
            f"spent; restore the store, or {again}"
        )
    found = f"generation {record.generation}" + (
        "" if record.lineage == mark.lineage else " of an older lineage"
    )
    return (
        f"the store fell back: generation {mark.generation} was published here, and it holds {found}, whose refresh "
        "token may be spent, so it is not sent; start a daemon that has the newer record, restore a newer copy, "
        f"{again}, or dare it: token-sidecar refresh {quoted(token)}"
    )


def with_record(
    view: TokenView, record: Record | None, profile: Profile, *, ttl: float | None, scopes: tuple[str, ...]
) -> TokenView:
    """Add to a view what a record tells of the tokens themselves.

    `ttl` (seconds from the consent) and `scopes` are what the configuration says of this grant.
    """
    if record is None:
        return view
    access, refresh = record.access, record.refresh
    deadline = schedule.deadline(record, profile, ttl)
    if access is not None:
        view = msgspec.structs.replace(
            view,
            fingerprint=access.fingerprint,
            expires_at=access.expires_at,
            never_expires=access.expires_at is None,
            expiry_known=access.expiry_source is not ExpirySource.ASSUMED,
            last_success=access.issued_at if record.generation else None,
        )
    return msgspec.structs.replace(
        view,
        lineage=record.lineage,
        generation=record.generation,
        refresh_fingerprint=refresh.fingerprint if refresh else "",
        refresh_expires_at=deadline.at if deadline else None,
        refresh_expiry_rule=deadline.rule if deadline else None,
        refresh_life=deadline.life if deadline else None,
        missing_scopes=missing_scopes(record, scopes),
        dead_since=record.dead.at if record.dead is not None and record.is_dead() else None,
        in_doubt_since=record.attempt.in_doubt_since if record.attempt else None,
    )
