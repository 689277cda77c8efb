"""Answers that hold elsewhere, or otherwise, what RFC 6749 §5 names: read by the profile's shape."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any
from urllib.parse import urlencode

import pytest

from sidecar.outcomes import Outcome, judge
from sidecar.ports import Answer
from sidecar.profile import AnswerShape, ErrorRule, ExpiryKind, GrantType, Profile
from sidecar.tokens import AccessToken, ExpirySource, OutcomeClass, RefreshToken

NOW = 1_800_000_000.0
AT = "sim-at-0123456789abcdef"
RT = RefreshToken(value="sim-rt-0123456789abcdef", issued_at=NOW - 1000, expires_at=NOW + 9999)
NEW_RT = "sim-rt-fedcba9876543210"

WITHINGS = Profile(
    answer=AnswerShape(
        access_token="body.access_token",
        refresh_token="body.refresh_token",
        token_type="body.token_type",
        scope="body.scope",
        expires="body.expires_in",
        success={"status": 0},
        error="status",
        error_description="error",
    ),
    errors=(
        ErrorRule(outcome=OutcomeClass.TRANSIENT, code="601", min_delay=60.0),
        ErrorRule(outcome=OutcomeClass.SUSPECT, code="503", description="refresh_token"),
    ),
)
SLACK_USER = Profile(
    answer=AnswerShape(
        access_token="authed_user.access_token",
        refresh_token="authed_user.refresh_token",
        expires="authed_user.expires_in",
        scope="authed_user.scope",
        success={"ok": True},
    )
)
GITHUB_INSTALLATION = Profile(
    grant=GrantType.GITHUB_INSTALLATION,
    answer=AnswerShape(access_token="token", expires="expires_at", expires_kind=ExpiryKind.ISO8601),
)


def answered(body: object, status: int = 200, **headers: str) -> Answer:
    """Make an answer to a request that was sent now."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=status, headers=named, body=raw, sent_at=NOW, received_at=NOW)


def judged(answer: Answer, profile: Profile, sent: RefreshToken | None = RT) -> Outcome:
    """Judge an answer to a refresh."""
    return judge(answer, profile, sent=sent, previous=None)


def granted(outcome: Outcome) -> tuple[AccessToken, RefreshToken | None]:
    """Return the tokens of what must be a success."""
    assert outcome.outcome is OutcomeClass.SUCCESS, outcome
    assert outcome.access is not None
    return outcome.access, outcome.refresh


def ending(stated: object, kind: ExpiryKind, *, date: str = "", **profile: Any) -> AccessToken:
    """Judge an answer whose token ends so."""
    shape = AnswerShape(expires="ends", expires_kind=kind)
    answer = answered({"access_token": AT, "ends": stated}, date=date)
    return granted(judged(answer, Profile(answer=shape, **profile)))[0]


# Where.


def test_tokens_are_found_inside_nested_objects() -> None:
    """Every member is taken from where the profile says, and from nowhere else."""
    body = {
        "access_token": AT,
        "refresh_token": NEW_RT,
        "expires_in": 600,
        "scope": "a",
        "token_type": "Strange",
    }
    access, refresh = granted(
        judged(answered({"status": 0, "body": body, "access_token": "other"}), WITHINGS)
    )
    assert (access.value, access.ttl, access.scope, access.token_type) == (AT, 600, "a", "Strange")
    assert refresh is not None
    assert refresh.value == NEW_RT


def test_a_place_that_holds_nothing_yields_nothing() -> None:
    """Another token that stands at the standard's place belongs to somebody else: a bot's isn't the user's."""
    bot = {"ok": True, "access_token": "sim-at-bot-0123456789abcdef", "authed_user": {"id": "U1"}}
    assert judged(answered(bot), SLACK_USER).outcome is OutcomeClass.IN_DOUBT


@pytest.mark.parametrize(
    "path",
    [
        f"data.{'9' * 5000}.token",
        "data.0.token",
        "data.1.x.token",
        "data.token",
        "data.-5.token",
        "data.x",
        ".",
    ],
)
def test_a_number_in_a_path_counts_through_a_list(path: str) -> None:
    """A path that leads nowhere is no error of ours."""
    body = {"data": [{"token": AT}, {"token": "sim-at-second-0123456789"}]}
    got = judged(answered(body), Profile(answer=AnswerShape(access_token=path)))
    assert (got.outcome is OutcomeClass.SUCCESS) == (path == "data.0.token")


def test_githubs_installation_token_is_understood() -> None:
    """Status 201, `token` instead of `access_token`, and a date for an end."""
    body = {"token": AT, "expires_at": "2027-01-15T09:00:00Z", "permissions": {"contents": "read"}}
    access, refresh = granted(judged(answered(body, 201), GITHUB_INSTALLATION, sent=None))
    assert (access.value, access.ttl, refresh) == (AT, 3600.0, None)


def test_a_list_of_scopes_is_read_like_a_text() -> None:
    """Twitch sends a list."""
    assert granted(judged(answered({"access_token": AT, "scope": ["a", "b"]}), Profile()))[0].scope == "a b"
    assert granted(judged(answered({"access_token": AT, "scope": ["a", 7]}), Profile()))[0].scope is None


def test_scopes_are_told_apart_by_spaces_or_commas() -> None:
    """GitHub, Slack and Strava write commas."""
    access, _ = granted(judged(answered({"access_token": AT, "scope": "repo,gist  user:email"}), Profile()))
    assert access.scopes == ("repo", "gist", "user:email")


@pytest.mark.parametrize("wrong", ["access_token", "refresh_token"])
def test_a_path_to_a_token_shows_none(wrong: str) -> None:
    """Scopes are logged and shown; a profile that takes a token for them shows nothing."""
    body = {"access_token": AT, "refresh_token": NEW_RT}
    access, _ = granted(judged(answered(body), Profile(answer=AnswerShape(scope=wrong, token_type=wrong))))
    assert (access.scope, access.token_type) == (None, "Bearer")


# Forms.


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded; charset=utf-8", "APPLICATION/X-WWW-FORM-URLENCODED"]
)
def test_a_form_is_read_where_the_content_type_says_so(kind: str) -> None:
    """GitHub answers so whoever doesn't ask for JSON."""
    body = urlencode(
        {"access_token": AT, "refresh_token": NEW_RT, "expires_in": "28800", "scope": ""}
    ).encode()
    access, refresh = granted(judged(answered(body, content_type=kind), Profile()))
    assert (access.value, access.ttl) == (AT, 28800)
    assert refresh is not None
    assert refresh.value == NEW_RT


def test_a_form_that_calls_itself_text_is_recognised() -> None:
    """So did Facebook."""
    body = f"access_token={AT}&expires=5183999".encode()
    profile = Profile(answer=AnswerShape(expires="expires"))
    access, _ = granted(judged(answered(body, content_type="text/plain; charset=UTF-8"), profile))
    assert (access.value, access.ttl) == (AT, 5183999)


def test_an_error_in_a_form_is_an_error() -> None:
    """With status 200, as GitHub has it."""
    body = urlencode(
        {"error": "bad_refresh_token", "error_description": "The refresh token is invalid."}
    ).encode()
    rule = ErrorRule(outcome=OutcomeClass.SUSPECT, code="bad_refresh_token")
    got = judged(answered(body, content_type="application/x-www-form-urlencoded"), Profile(errors=(rule,)))
    assert (got.outcome, got.reason) == (OutcomeClass.SUSPECT, "HTTP 200 bad_refresh_token")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>a=b&access_token=x</html>", "text/html"),
        (b"access_token=\xff\xfe", "application/x-www-form-urlencoded"),
        (b"access_token=%ff%fe", "application/x-www-form-urlencoded"),
        (b"token=x", "text/plain"),
    ],
)
def test_what_is_no_form_is_not_read_as_one(body: bytes, kind: str) -> None:
    """A portal's page and broken text are no answers."""
    got = judged(answered(body, content_type=kind), Profile())
    assert (got.outcome, got.unreadable) == (OutcomeClass.IN_DOUBT, True)


# Success and failure.


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"status": 0, "body": {"access_token": AT}}, "success"),
        ({"body": {"access_token": AT}}, "success"),
        ({"status": False, "body": {"access_token": AT}}, "misconfigured"),
        ({"status": 601, "body": {}}, "transient"),
        ({"status": 601, "body": {"access_token": AT}}, "transient"),
        ({"status": 503, "error": "Invalid Params: invalid refresh_token"}, "suspect"),
        ({"status": 503, "error": "Invalid Params"}, "misconfigured"),
        ({"status": 100, "body": {}}, "misconfigured"),
        ({"status": 0, "body": {}}, "in_doubt"),
    ],
)
def test_a_success_is_what_the_profile_calls_one(body: object, outcome: str) -> None:
    """A member with another value than a success's makes it an error; one that is missing does not."""
    assert judged(answered(body), WITHINGS).outcome is OutcomeClass(outcome)


def test_an_errors_code_is_taken_from_the_profiles_place_first() -> None:
    """Fitbit's is in a list; numbers count only where a profile expects them."""
    fitbit = Profile(answer=AnswerShape(error="errors.0.errorType", error_description="errors.0.message"))
    body = {"success": False, "errors": [{"errorType": "invalid_grant", "message": "Refresh token invalid"}]}
    assert judged(answered(body, 400), fitbit).reason == "HTTP 400 invalid_grant"
    facebook = {"error": {"message": "expired", "type": "OAuthException", "code": 190}}
    rule = ErrorRule(outcome=OutcomeClass.DEAD, code="190")
    assert judged(answered(facebook, 400), Profile(errors=(rule,))).outcome is OutcomeClass.MISCONFIGURED
    told = Profile(answer=AnswerShape(error="error.code"), errors=(rule,))
    assert judged(answered(facebook, 400), told).outcome is OutcomeClass.DEAD


def test_the_standards_place_is_known_beside_the_profiles() -> None:
    """A gateway before the provider speaks the standard's language."""
    got = judged(answered({"error": "invalid_client"}, 401), WITHINGS)
    assert got.reason == "HTTP 401 invalid_client"


# When it ends.


@pytest.mark.parametrize(
    ("kind", "stated", "ttl"),
    [
        (ExpiryKind.SECONDS, 3600, 3600),
        (ExpiryKind.SECONDS, "3600", 3600),
        (ExpiryKind.MILLISECONDS, 3_600_000, 3600),
        (ExpiryKind.MILLISECONDS, "3600500", 3600.5),
        (ExpiryKind.MINUTES, 60, 3600),
        (ExpiryKind.EPOCH, NOW + 3600, 3600),
        (ExpiryKind.EPOCH, str(int(NOW) + 3600), 3600),
        (ExpiryKind.EPOCH_MILLISECONDS, (int(NOW) + 3600) * 1000, 3600),
        (ExpiryKind.ISO8601, "2027-01-15T09:00:00Z", 3600),
        (ExpiryKind.ISO8601, "2027-01-15T09:00:00", 3600),
        (ExpiryKind.ISO8601, "2027-01-15 09:00:00", 3600),
        (ExpiryKind.ISO8601, "2027-01-15T11:00:00+02:00", 3600),
        (ExpiryKind.ISO8601, "20270115T090000.250Z", 3600.25),
    ],
    ids=repr,
)
def test_an_end_is_read_in_every_notation(kind: ExpiryKind, stated: object, ttl: float) -> None:
    """Each comes to the same moment on our clock."""
    access = ending(stated, kind)
    assert (access.ttl, access.expires_at, access.expiry_source) == (ttl, NOW + ttl, ExpirySource.ANSWER)


@pytest.mark.parametrize("kind", ExpiryKind)
@pytest.mark.parametrize(
    "stated", [None, "soon", True, [], {}, float("nan"), 10**30, "2027-13-45", "2027-01-15T24:61Z"]
)
def test_an_end_that_makes_no_sense_is_as_good_as_none(kind: ExpiryKind, stated: object) -> None:
    """The profile's own lifetime counts then; nothing is lost for it."""
    access = ending(stated, kind, default_ttl=77.0)
    never = kind is ExpiryKind.NEVER
    assert (access.ttl, access.expiry_source) == (
        (None, ExpirySource.NEVER) if never else (77, ExpirySource.PROFILE)
    )


@pytest.mark.parametrize(
    ("kind", "stated"),
    [
        (ExpiryKind.EPOCH, NOW + 7200),
        (ExpiryKind.EPOCH_MILLISECONDS, (NOW + 7200) * 1000),
        (ExpiryKind.ISO8601, "2027-01-15T10:00:00Z"),
    ],
)
def test_a_moment_is_one_of_the_providers_clock(kind: ExpiryKind, stated: object) -> None:
    """A provider an hour ahead writes an hour too much; what is left counts from our sending."""
    ahead = formatdate(NOW + 3600, usegmt=True)
    assert ending(stated, kind, date=ahead).ttl == pytest.approx(3600, abs=1)
    assert ending(7200, ExpiryKind.SECONDS, date=ahead).ttl == 7200


def test_an_end_that_has_passed_is_marked() -> None:
    """A moment that is over makes a stillborn token, not an absent end."""
    shape = AnswerShape(expires="ends", expires_kind=ExpiryKind.EPOCH)
    assert judged(answered({"access_token": AT, "ends": NOW - 60}), Profile(answer=shape)).short_lived


@pytest.mark.parametrize(
    "kind", [kind for kind in ExpiryKind if kind not in {ExpiryKind.ISO8601, ExpiryKind.NEVER}]
)
@pytest.mark.parametrize("zero", [0, "0", 0.0], ids=repr)
def test_zero_means_never_in_every_number(kind: ExpiryKind, zero: object) -> None:
    """Where the profile says so, and nowhere else."""
    assert ending(zero, kind, zero_means_never=True).expiry_source is ExpirySource.NEVER
    assert ending(zero, kind).expires_at is not None


def test_a_token_that_never_ends_needs_no_member() -> None:
    """For some providers nothing is said because nothing ends."""
    shape = AnswerShape(expires_kind=ExpiryKind.NEVER)
    access, _ = granted(judged(answered({"access_token": AT}), Profile(answer=shape)))
    assert (access.expires_at, access.expiry_source) == (None, ExpirySource.NEVER)


def test_tiktoks_unix_time_is_a_moment() -> None:
    """Its merchants' `expires_in` holds a Unix time."""
    shape = AnswerShape(expires_kind=ExpiryKind.EPOCH)
    access, _ = granted(
        judged(answered({"access_token": AT, "expires_in": int(NOW) + 7200}), Profile(answer=shape))
    )
    assert access.ttl == 7200


# When the refresh token ends.


@pytest.mark.parametrize(
    ("kind", "stated", "end"),
    [
        (ExpiryKind.SECONDS, "600", NOW + 600),
        (ExpiryKind.MILLISECONDS, 600_000, NOW + 600),
        (ExpiryKind.EPOCH, NOW + 600, NOW + 600),
        (ExpiryKind.ISO8601, "2027-01-15T08:10:00Z", NOW + 600),
        (ExpiryKind.SECONDS, 0, None),
        (ExpiryKind.SECONDS, -5, None),
        (ExpiryKind.EPOCH, 0, None),
        (ExpiryKind.NEVER, 600, None),
    ],
)
def test_the_refresh_tokens_end_has_a_notation_of_its_own(
    kind: ExpiryKind, stated: object, end: float | None
) -> None:
    """Whatever the access token's is written in."""
    shape = AnswerShape(refresh_expires=("x", "data.rt_end"), refresh_expires_kind=kind)
    body = {"access_token": AT, "refresh_token": NEW_RT, "data": {"rt_end": stated}}
    _, refresh = granted(judged(answered(body), Profile(answer=shape)))
    assert refresh == RefreshToken(NEW_RT, issued_at=NOW, expires_at=end)
