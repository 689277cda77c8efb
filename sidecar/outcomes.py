"""What a provider's answer means: the decision table as a pure function, and how long to wait afterwards.

A profile's own rules come first, then status, then error code, both from the tables below. Nobody is declared
dead here but by a profile's rule: a refused refresh token is a suspicion, which the renewer looks into.

No text of an answer reaches a `reason`: error codes only if they are on a list, and Entra's AADSTS numbers.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import msgspec

from sidecar import answers
from sidecar.errors import CallError, NotSent
from sidecar.ports import Answer
from sidecar.profile import ExpiryKind, Profile
from sidecar.tokens import AccessToken, ExpirySource, OutcomeClass, RefreshToken

ASSUMED_TTL = 30 * 60.0
"""Seconds that a token is taken to live when nobody says."""
SHORTEST_TTL = 2.0
"""Seconds; less is of no use to a reader."""
SHORTEST_DELAY = 1.0
"""Seconds; a provider that asks for less, or for nothing, is still not hammered."""
QUARANTINE_AFTER, QUARANTINE_FAILURES, QUARANTINE_DELAY = 86400.0, 10, 6 * 3600.0
"""An error that nobody knows, met so often over so many seconds, is asked about so rarely."""
SUSPICIOUS_SKEW = 300.0
"""Seconds between two clocks that make signed requests fail."""
CLOCK_HINT = "; a wrong clock here may be to blame: is NTP running?"


class Delays(NamedTuple):
    """The range of a back-off, in seconds."""

    first: float
    last: float


UNREACHED = Delays(1, 60)
UNANSWERED = Delays(2, 120)
GARBLED = Delays(5, 300)
THROTTLED = Delays(30, 900)
UNTRUSTED = SHORT_LIVED = Delays(30, 600)
MISCONFIGURED = Delays(60, 900)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one call to the provider amounted to."""

    outcome: OutcomeClass
    reason: str = ""
    """Safe to show. Empty for a plain success."""
    access: AccessToken | None = None
    """Set with every success, and only then."""
    refresh: RefreshToken | None = None
    """Set if a refresh token came, be it the same one, or a new deadline for the one that was sent."""
    same_token_again: bool = False
    """The access token is the one that was held before."""
    short_lived: bool = False
    """It came expired or all but expired: keep the pair, leave the provider alone, tell a human."""
    unreadable: bool = False
    """Nothing that a token endpoint says: a captive portal, a proxy's page, another URL."""
    scope_refused: bool = False
    """The provider refuses the scopes that were asked for."""
    unknown_error: bool = False
    """A refusal that no table knows."""
    retry_after: float | None = None
    """Seconds that the provider asks for, at most an hour."""
    min_delay: float | None = None
    """Seconds that the profile asks for."""
    skew: float | None = None
    """Seconds by which the provider's clock is ahead; 0: too little to tell; None: no Date came."""
    delays: Delays = THROTTLED
    """The range from which `backoff` draws."""


# RFC 6749 §5.2, 8628 §3.5, 8707 §2, 9449 §8, OpenID Connect Core §3.1.2.6; and what providers send.
_CODES: dict[str, tuple[OutcomeClass, Delays]] = {
    **dict.fromkeys(
        (
            "slow_down",
            "temporarily_unavailable",
            "server_error",
            "internal_failure",
            "rate_limit_exceeded",
            "too_many_requests",
            "use_dpop_nonce",
        ),
        (OutcomeClass.TRANSIENT, THROTTLED),
    ),
    # Slack: "some aspect of the operation may have succeeded".
    **dict.fromkeys(("internal_error", "fatal_error"), (OutcomeClass.IN_DOUBT, UNANSWERED)),
    **dict.fromkeys(
        ("invalid_grant", "invalid_rapt", "interaction_required", "consent_required", "login_required"),
        (OutcomeClass.SUSPECT, MISCONFIGURED),
    ),
    **dict.fromkeys(
        (
            "invalid_client",
            "invalid_request",
            "invalid_scope",
            "invalid_target",
            "unauthorized_client",
            "unsupported_grant_type",
            "access_denied",
            "bad_client_secret",
            "incorrect_client_credentials",
            "invalid_client_id",
            "invalid_dpop_proof",
            "redirect_uri_mismatch",
        ),
        (OutcomeClass.MISCONFIGURED, MISCONFIGURED),
    ),
}

_SECRET_REFUSED = frozenset({"invalid_client", "bad_client_secret", "incorrect_client_credentials"})

# Entra puts these into the description of whatever code. 50196 is throttling inside an `invalid_grant`, 90024
# passing trouble; 50076 and 50158 ask a human for another factor.
_AADSTS: dict[str, tuple[OutcomeClass, Delays]] = {
    **dict.fromkeys(("50196", "90024"), (OutcomeClass.TRANSIENT, THROTTLED)),
    **dict.fromkeys(("50076", "50158"), (OutcomeClass.SUSPECT, MISCONFIGURED)),
}

_CLOCK_TEXT = re.compile(r"\biat\b|\bexp\b|\bclock\b|short-lived token", re.IGNORECASE)
_SEARCHED = 8192  # characters: a rule's pattern is not let loose on a megabyte


def judge(
    answer: Answer, profile: Profile, *, sent: RefreshToken | None, previous: AccessToken | None
) -> Outcome:
    """Say what an answer means. Never raises, whatever was answered.

    `sent` is the refresh token of the request, `previous` the access token held before it.
    """
    document = answers.document(answer)
    skew = answers.skew(answer)
    if 200 <= answer.status < 300 and document is not None and not answers.refused(document, profile.answer):  # noqa: PLR2004
        value = answers.printable(answers.at(document, profile.answer.access_token))
        if value is not None:
            reading = _Reading(answer, profile, document, skew)
            return reading.success(value, sent, previous)
    error = _Error.of(answer, document, profile)
    verdict = _by_rule(error, profile) or _by_status(error, profile) or _by_code(error, document)
    if sent is None and verdict.outcome in {OutcomeClass.SUSPECT, OutcomeClass.DEAD}:
        # Without a refresh token there is nothing that could have died.
        verdict = msgspec.structs.replace(verdict, outcome=OutcomeClass.MISCONFIGURED)
    clocked = error.code == "invalid_grant" and (
        _CLOCK_TEXT.search(error.description) is not None or abs(skew or 0.0) >= SUSPICIOUS_SKEW
    )
    if clocked:
        verdict = msgspec.structs.replace(verdict, reason=f"{verdict.reason}{CLOCK_HINT}")
    return msgspec.structs.replace(
        verdict,
        scope_refused=error.code == "invalid_scope" and verdict.outcome is OutcomeClass.MISCONFIGURED,
        retry_after=answers.retry_after(answer),
        skew=skew,
    )


def refuses_client(answer: Answer, profile: Profile) -> bool:
    """Tell whether the provider took nothing but offence at the client's proof, so that another may be shown."""
    # As with a refresh token: without one, what is said of a dead grant would be said of the client.
    sent = RefreshToken(value="any", issued_at=answer.sent_at)
    if judge(answer, profile, sent=sent, previous=None).outcome is not OutcomeClass.MISCONFIGURED:
        return False
    code = _Error.of(answer, answers.document(answer), profile).code
    # Atlassian says `access_denied` of a wrong secret.
    return code in _SECRET_REFUSED or (answer.status == 401 and code in {"", "access_denied"})  # noqa: PLR2004


def judge_failure(error: CallError, profile: Profile) -> Outcome:
    """Say what it means that no answer came. `error` words its own reason, without secrets."""
    del profile  # what may be sent again in doubt is decided where it is sent
    reason = str(error)
    match error:
        case NotSent(misconfigured=True):
            return Outcome(outcome=OutcomeClass.MISCONFIGURED, reason=reason, delays=UNTRUSTED)
        case NotSent():
            return Outcome(outcome=OutcomeClass.TRANSIENT, reason=reason, delays=UNREACHED)
        case _:
            return Outcome(outcome=OutcomeClass.IN_DOUBT, reason=reason, delays=UNANSWERED)


def backoff(
    outcome: Outcome,
    failures: int,
    *,
    now: float,
    expires_at: float | None,
    jitter: float,
    since: float | None = None,
) -> float:
    """Return for how many seconds to leave the provider alone.

    `failures` counts this one too; `expires_at` is the end of the access token in use, `jitter` is drawn from
    [0, 1), `since` is the time of the first of these failures. Full jitter, never under half of the range's
    start, under a ceiling that doubles through the range and stays under a quarter of the time to or from the
    expiry, where it matters most. Retry-After takes the place of all this and is never shortened.
    """
    first, last = outcome.delays
    if outcome.retry_after:
        asked = outcome.retry_after * (1 + jitter / 10)
        return max(asked, SHORTEST_DELAY, outcome.min_delay or 0.0)
    if (
        outcome.unknown_error
        and failures >= QUARANTINE_FAILURES
        and since is not None
        and now - since >= QUARANTINE_AFTER
    ):
        return QUARANTINE_DELAY
    ceiling = min(last, first * 2.0 ** min(max(failures, 1) - 1, 20))
    if expires_at is not None and math.isfinite(expires_at):
        ceiling = min(ceiling, max(first, abs(expires_at - now) / 4))
    return max(jitter * ceiling, first / 2, outcome.min_delay or 0.0)


# Success.


class _Reading(NamedTuple):
    """An answer that holds an access token."""

    answer: Answer
    profile: Profile
    document: dict[str, Any]
    skew: float | None

    @property
    def clock(self) -> float:
        """What the provider's clock showed when the request was sent, by which it tells moments."""
        return self.answer.sent_at + (self.skew or 0.0)

    def success(self, value: str, sent: RefreshToken | None, previous: AccessToken | None) -> Outcome:
        ttl, source = self.lifetime(value)
        short = ttl is not None and ttl < SHORTEST_TTL
        lives = None if ttl is None else max(ttl, 0.0)
        shape, sent_at = self.profile.answer, self.answer.sent_at
        token_type, scope = answers.printable(self.at(shape.token_type)), answers.scope(self.at(shape.scope))
        access = AccessToken(
            value=value,
            issued_at=sent_at,
            expires_at=None if lives is None else sent_at + lives,
            ttl=lives,
            expiry_source=source,
            token_type=self.unless_secret(token_type, value) or "Bearer",
            # Omitted means: as before (RFC 6749 §5.1).
            scope=self.unless_secret(scope, value) or (previous.scope if previous else None),
        )
        living = self.profile.lives_by_itself
        return Outcome(
            outcome=OutcomeClass.SUCCESS,
            reason=f"the access token lives no longer than {lives:.0f} s" if short else "",
            access=access,
            refresh=self.living(access, sent, short=short) if living else self.refresh(sent),
            same_token_again=previous is not None and previous.value == value,
            short_lived=short,
            skew=self.skew,
            delays=SHORT_LIVED,
        )

    def lifetime(self, token: str) -> tuple[float | None, ExpirySource]:
        """Find out for how many seconds from sending the token lives; None: for ever."""
        profile = self.profile
        kind, stated = profile.answer.expires_kind, self.at(profile.answer.expires)
        if kind is ExpiryKind.NEVER or (profile.zero_means_never and answers.is_zero(stated)):
            return None, ExpirySource.NEVER
        left = answers.left(stated, kind, self.clock)
        if left is not None:
            return left, ExpirySource.ANSWER
        end = answers.jwt_end(token)
        if end is not None and abs(end - self.clock) <= answers.LONGEST_TTL:
            return end - self.clock, ExpirySource.JWT
        if profile.default_ttl is not None:
            return profile.default_ttl, ExpirySource.PROFILE
        return ASSUMED_TTL, ExpirySource.ASSUMED

    def refresh(self, sent: RefreshToken | None) -> RefreshToken | None:
        """Return the refresh token that came, or the one that was sent with the deadline that came."""
        shape, sent_at = self.profile.answer, self.answer.sent_at
        value = answers.storable(self.at(shape.refresh_token))
        named = (
            answers.left(self.at(path), shape.refresh_expires_kind, self.clock)
            for path in shape.refresh_expires
        )
        # Keycloak says 0 for an offline token, which has no deadline.
        left = next((seconds for seconds in named if seconds is not None and seconds > 0), None)
        end = None if left is None else sent_at + left
        if sent is not None and value in {None, sent.value}:
            if value is None and end is None:
                return None
            return msgspec.structs.replace(sent, expires_at=sent.expires_at if end is None else end)
        return None if value is None else RefreshToken(value=value, issued_at=sent_at, expires_at=end)

    def living(self, access: AccessToken, sent: RefreshToken | None, *, short: bool) -> RefreshToken | None:
        """Return the access token as the one to exchange next, unless that would be a dead one."""
        if short:
            return None
        end = None if access.expiry_source is ExpirySource.ASSUMED else access.expires_at
        if sent is not None and sent.value == access.value:
            return msgspec.structs.replace(sent, expires_at=end)
        return RefreshToken(value=access.value, issued_at=access.issued_at, expires_at=end)

    def unless_secret(self, text: str | None, access: str) -> str | None:
        """Keep a token out of what is shown: a profile's path may lead to the wrong place."""
        secrets = (access, answers.storable(self.at(self.profile.answer.refresh_token)))
        return None if text is None or any(secret in text for secret in secrets if secret) else text

    def at(self, path: str) -> Any:
        return answers.at(self.document, path)


# Errors.


class _Error(NamedTuple):
    """What an answer without a token says of itself."""

    status: int
    code: str
    description: str
    stated: bool
    """Whether a JSON object says beyond doubt that it is an error."""

    @classmethod
    def of(cls, answer: Answer, document: dict[str, Any] | None, profile: Profile) -> _Error:
        document, shape = document or {}, profile.answer
        found = answers.codes(document, shape)
        described = answers.description(document, shape)
        text = described or answer.body[: 4 * _SEARCHED].decode(errors="replace")
        # Elsewhere (`status`, `code`) may stand what is no error, beside tokens that we did not find.
        stated = bool(
            document.get("error")
            or document.get("errors")
            or (shape.error and answers.at(document, shape.error))
            or (shape.success and answers.refused(document, shape))
        )
        return cls(answer.status, found[0] if found else "", text[:_SEARCHED], stated)

    @property
    def number(self) -> str:
        """Entra's error number, which says more than its code."""
        found = re.search(r"AADSTS(\d{5,8})\b", self.description, re.ASCII)
        return found[1] if found and self.stated else ""

    def reason(self, rule_code: str | None = None) -> str:
        """Describe it in words of ours."""
        code = self.code if self.code in _CODES or self.code == rule_code else ""
        number = f"AADSTS{self.number}" if self.number else ""
        return " ".join(part for part in (f"HTTP {self.status}", code, number) if part)


def _by_rule(error: _Error, profile: Profile) -> Outcome | None:
    for rule in profile.errors:
        # A rule can't make a success of an answer without a token.
        if rule.outcome is not OutcomeClass.SUCCESS and rule.matches(
            error.status, error.code, error.description
        ):
            return Outcome(
                outcome=rule.outcome,
                reason=error.reason(rule.code),
                min_delay=rule.min_delay,
                delays=_usual_delays(rule.outcome),
            )
    return None


def _usual_delays(outcome: OutcomeClass) -> Delays:
    match outcome:
        case OutcomeClass.IN_DOUBT:
            return UNANSWERED
        case OutcomeClass.TRANSIENT:
            return THROTTLED
        case _:
            return MISCONFIGURED


def _by_status(error: _Error, profile: Profile) -> Outcome | None:
    """Decide what the status alone decides."""
    status = error.status
    if status in {408, 425, 429}:
        return Outcome(outcome=OutcomeClass.TRANSIENT, reason=error.reason())
    if status == 503 and profile.unavailable_is_refusal:  # noqa: PLR2004
        return Outcome(outcome=OutcomeClass.TRANSIENT, reason=error.reason(), delays=UNANSWERED)
    if 300 <= status < 400:  # noqa: PLR2004
        # Never followed: it would carry the refresh token to wherever the answer says.
        reason = f"{error.reason()}, a redirect, which is not followed; correct token_url"
        return Outcome(outcome=OutcomeClass.MISCONFIGURED, reason=reason, delays=MISCONFIGURED)
    if not 200 <= status < 500:  # noqa: PLR2004
        return Outcome(outcome=OutcomeClass.IN_DOUBT, reason=error.reason(), delays=UNANSWERED)
    return None


def _by_code(error: _Error, document: dict[str, Any] | None) -> Outcome:
    """Decide 2xx without a token, and 4xx."""
    known = _AADSTS.get(error.number) or _CODES.get(error.code)
    if known is not None:
        return Outcome(outcome=known[0], reason=error.reason(), delays=known[1])
    if error.status >= 400 or error.stated:  # noqa: PLR2004
        reason = f"{error.reason()}, with an error code that is not known" if error.code else error.reason()
        unknown = error.status != 401 or bool(error.code)  # noqa: PLR2004
        return Outcome(
            outcome=OutcomeClass.MISCONFIGURED, reason=reason, unknown_error=unknown, delays=MISCONFIGURED
        )
    what = "that is not a JSON object" if document is None else "without a usable access token"
    return Outcome(
        outcome=OutcomeClass.IN_DOUBT, reason=f"{error.reason()} {what}", unreadable=True, delays=GARBLED
    )
