"""The decision table, row by row."""

from __future__ import annotations

import base64
import json
from email.utils import formatdate
from typing import Any

import pytest

from sidecar.errors import CallError, LeaseLost, NoAnswer, NotSent
from sidecar.outcomes import Outcome, judge, judge_failure
from sidecar.ports import Answer
from sidecar.profile import ErrorRule, Profile
from sidecar.tokens import AccessToken, ExpirySource, OutcomeClass, RefreshToken

NOW = 1_800_000_000.0
AT = "sim-at-0123456789abcdef"
RT = RefreshToken(value="sim-rt-0123456789abcdef", issued_at=NOW - 1000, expires_at=NOW + 9999)
NEW_RT = "sim-rt-fedcba9876543210"
GENERIC = Profile()


def answered(body: object, status: int = 200, trip: float = 0.0, **headers: str) -> Answer:
    """Make an answer."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=status, headers=named, body=raw, sent_at=NOW, received_at=NOW + trip)


def judged(answer: Answer, profile: Profile = GENERIC, **more: Any) -> Outcome:
    """Judge an answer to a refresh."""
    return judge(answer, profile, **{"sent": RT, "previous": None, **more})


def granted(**members: object) -> Answer:
    """Make an answer with an access token."""
    return answered({"access_token": AT, **members})


def access_of(answer: Answer, profile: Profile = GENERIC, **more: Any) -> AccessToken:
    """Return the access token of an answer that must be a success."""
    outcome = judged(answer, profile, **more)
    assert outcome.outcome is OutcomeClass.SUCCESS
    assert outcome.access is not None
    return outcome.access


def jwt(**claims: object) -> str:
    """Make an access token that is a JWT."""
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"sim-at-0123456789abcdef.{middle}.signature"


# Errors.


@pytest.mark.parametrize(
    ("status", "body", "outcome", "reason"),
    [
        # 2xx without a token.
        (200, b"<html>Sign in</html>", "in_doubt", "HTTP 200 that is not a JSON object"),
        (200, b"", "in_doubt", "HTTP 200 that is not a JSON object"),
        (204, b"", "in_doubt", "HTTP 204 that is not a JSON object"),
        (200, b'{"access_token": "sim', "in_doubt", "HTTP 200 that is not a JSON object"),
        (200, b"[" * 500_000, "in_doubt", "HTTP 200 that is not a JSON object"),
        (200, b"\xff\xfe\x00", "in_doubt", "HTTP 200 that is not a JSON object"),
        (200, [], "in_doubt", "HTTP 200 that is not a JSON object"),
        (200, {}, "in_doubt", "HTTP 200 without a usable access token"),
        (200, {"access_token": ""}, "in_doubt", "HTTP 200 without a usable access token"),
        (200, {"access_token": None}, "in_doubt", "HTTP 200 without a usable access token"),
        (200, {"access_token": 17}, "in_doubt", "HTTP 200 without a usable access token"),
        (200, {"access_token": "a\nb"}, "in_doubt", "HTTP 200 without a usable access token"),
        (200, {"access_token": "\ud800"}, "in_doubt", "HTTP 200 without a usable access token"),
        (200, {"status": "success", "data": {}}, "in_doubt", "HTTP 200 without a usable access token"),
        (200, {"status": 0, "body": {}}, "in_doubt", "HTTP 200 without a usable access token"),
        (200, {"ok": False}, "in_doubt", "HTTP 200 without a usable access token"),
        # 2xx with an error.
        (200, {"error": "invalid_grant"}, "suspect", "HTTP 200 invalid_grant"),
        (200, {"ok": False, "error": "invalid_client_id"}, "misconfigured", "HTTP 200 invalid_client_id"),
        (200, {"ok": False, "error": "internal_error"}, "in_doubt", "HTTP 200 internal_error"),
        (200, {"ok": False, "error": "fatal_error"}, "in_doubt", "HTTP 200 fatal_error"),
        (200, {"ok": False, "error": "x", "access_token": AT}, "misconfigured", None),
        (200, {"error": "sim-what"}, "misconfigured", "HTTP 200, with an error code that is not known"),
        (200, {"errors": [{"errorType": "invalid_grant"}]}, "suspect", "HTTP 200 invalid_grant"),
        # 5xx.
        (500, {"error": "invalid_grant"}, "in_doubt", "HTTP 500 invalid_grant"),
        (500, b"", "in_doubt", "HTTP 500"),
        (502, b"<html>", "in_doubt", "HTTP 502"),
        (504, b"", "in_doubt", "HTTP 504"),
        (599, b"", "in_doubt", "HTTP 599"),
        (503, b"", "transient", "HTTP 503"),
        # Throttling.
        (408, b"", "transient", "HTTP 408"),
        (425, b"", "transient", "HTTP 425"),
        (429, b"", "transient", "HTTP 429"),
        (429, {"error": "invalid_grant"}, "transient", "HTTP 429 invalid_grant"),
        (400, {"error": "slow_down"}, "transient", "HTTP 400 slow_down"),
        (400, {"error": "temporarily_unavailable"}, "transient", "HTTP 400 temporarily_unavailable"),
        (400, {"error": "server_error"}, "transient", "HTTP 400 server_error"),
        (400, {"error": "use_dpop_nonce"}, "transient", "HTTP 400 use_dpop_nonce"),
        (
            400,
            {"error": "invalid_grant", "error_description": "AADSTS50196: client request loop"},
            "transient",
            "HTTP 400 invalid_grant AADSTS50196",
        ),
        (
            400,
            {"error": "server_error", "error_description": "AADSTS90024: try again"},
            "transient",
            "HTTP 400 server_error AADSTS90024",
        ),
        # Refused refresh tokens.
        (400, {"error": "invalid_grant"}, "suspect", "HTTP 400 invalid_grant"),
        (403, {"error": "invalid_grant"}, "suspect", "HTTP 403 invalid_grant"),
        (
            400,
            {"error": "invalid_grant", "error_description": "AADSTS700082: expired"},
            "suspect",
            "HTTP 400 invalid_grant AADSTS700082",
        ),
        (
            400,
            {"error": "interaction_required", "error_description": "AADSTS50076: MFA"},
            "suspect",
            "HTTP 400 interaction_required AADSTS50076",
        ),
        (400, {"error": "x", "error_description": "AADSTS50158"}, "suspect", "HTTP 400 AADSTS50158"),
        (
            400,
            {"error": "invalid_grant", "error_subtype": "invalid_rapt"},
            "suspect",
            "HTTP 400 invalid_grant",
        ),
        # Ours to repair.
        (401, {"error": "invalid_client"}, "misconfigured", "HTTP 401 invalid_client"),
        (401, b"", "misconfigured", "HTTP 401"),
        (400, {"error": "unauthorized_client"}, "misconfigured", "HTTP 400 unauthorized_client"),
        (400, {"error": "unsupported_grant_type"}, "misconfigured", "HTTP 400 unsupported_grant_type"),
        (400, {"error": "invalid_request"}, "misconfigured", "HTTP 400 invalid_request"),
        (400, {"error": "invalid_scope"}, "misconfigured", "HTTP 400 invalid_scope"),
        (403, {"error": "access_denied"}, "misconfigured", "HTTP 403 access_denied"),
        (403, b"<html>Blocked AADSTS50196 invalid_grant</html>", "misconfigured", "HTTP 403"),
        (404, b"", "misconfigured", "HTTP 404"),
        (400, {"error": {"code": "invalid_client"}}, "misconfigured", "HTTP 400 invalid_client"),
        (400, {"error": ["invalid_grant"]}, "misconfigured", "HTTP 400"),
        (301, b"", "misconfigured", "HTTP 301, a redirect, which is not followed; correct token_url"),
        (307, b"", "misconfigured", "HTTP 307, a redirect, which is not followed; correct token_url"),
        (101, b"", "in_doubt", "HTTP 101"),
    ],
)
def test_a_row_of_the_table(status: int, body: object, outcome: str, reason: str | None) -> None:
    """Each answer without a token ends in the class that the table names, for a reason of our own words."""
    got = judged(answered(body, status))
    assert (got.outcome, got.access, got.refresh) == (OutcomeClass(outcome), None, None)
    if reason is not None:
        assert got.reason == reason


def test_503_is_doubtful_where_the_profile_says_so() -> None:
    """A provider whose 503 may come after processing is not asked again at once."""
    assert judged(answered(b"", 503), Profile(unavailable_is_refusal=False)).outcome is OutcomeClass.IN_DOUBT


@pytest.mark.parametrize(
    ("rule", "answer", "outcome", "reason"),
    [
        (
            ErrorRule(outcome=OutcomeClass.DEAD, status=403, code="unauthorized_client"),
            answered({"error": "unauthorized_client"}, 403),
            "dead",
            "HTTP 403 unauthorized_client",
        ),
        (
            ErrorRule(outcome=OutcomeClass.DEAD, code="BAD_REFRESH_TOKEN"),
            answered({"status": "BAD_REFRESH_TOKEN"}, 400),
            "dead",
            "HTTP 400 BAD_REFRESH_TOKEN",
        ),
        (
            ErrorRule(outcome=OutcomeClass.DEAD, description="invalid_rapt"),
            answered({"error": "invalid_grant", "error_subtype": "invalid_rapt"}, 400),
            "dead",
            "HTTP 400 invalid_grant",
        ),
        (
            ErrorRule(outcome=OutcomeClass.TRANSIENT, description="too many requests", min_delay=600),
            answered(b"You sent too many requests continuously", 200),
            "transient",
            "HTTP 200",
        ),
        (ErrorRule(outcome=OutcomeClass.IN_DOUBT, status=429), answered(b"", 429), "in_doubt", "HTTP 429"),
        (ErrorRule(outcome=OutcomeClass.SUCCESS, status=200), answered({}), "in_doubt", None),
        (ErrorRule(outcome=OutcomeClass.DEAD, status=200), granted(), "success", ""),
    ],
)
def test_a_profile_rule_comes_first(
    rule: ErrorRule, answer: Answer, outcome: str, reason: str | None
) -> None:
    """A profile's rules override the table; only a token, or its absence, is beyond them."""
    got = judged(answer, Profile(errors=(rule,)))
    assert got.outcome is OutcomeClass(outcome)
    assert got.min_delay == (rule.min_delay if outcome == "transient" else None)
    if reason is not None:
        assert got.reason == reason


def test_a_grant_without_refresh_token_cannot_be_suspected() -> None:
    """Where nothing was sent that could have died, a refusal is a misconfiguration."""
    got = judged(answered({"error": "invalid_grant"}, 400), sent=None)
    assert (got.outcome, got.reason) == (OutcomeClass.MISCONFIGURED, "HTTP 400 invalid_grant")


def test_a_refusal_that_speaks_of_the_clock_is_marked() -> None:
    """Google tells a wrong clock as `invalid_grant`."""
    text = "Invalid JWT: Token must be a short-lived token (60 minutes); check your iat and exp values"
    refused = judged(answered({"error": "invalid_grant", "error_description": text}, 400), sent=None)
    assert refused.outcome is OutcomeClass.MISCONFIGURED
    assert refused.reason == "HTTP 400 invalid_grant; a wrong clock here may be to blame: is NTP running?"
    plain = judged(answered({"error": "invalid_grant", "error_description": "Bad Request"}, 400))
    assert "clock" not in plain.reason


def test_a_refusal_with_clocks_far_apart_is_marked() -> None:
    """A Date that is an hour off makes the clock a suspect, too."""
    answer = answered({"error": "invalid_grant"}, 400, date=formatdate(NOW + 3600, usegmt=True))
    assert judged(answer).reason.endswith("is NTP running?")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NotSent("idp: refused"), "transient"),
        (LeaseLost(), "transient"),
        (NotSent("idp: its certificate does not verify", misconfigured=True), "misconfigured"),
        (NoAnswer("idp: reset"), "in_doubt"),
    ],
)
def test_no_answer_at_all(error: CallError, outcome: str) -> None:
    """What matters without an answer is whether the request went out."""
    got = judge_failure(error, GENERIC)
    assert (got.outcome, got.reason) == (OutcomeClass(outcome), str(error))


# Success.


@pytest.mark.parametrize(
    ("stated", "ttl"),
    [(3600, 3600.0), ("3600", 3600.0), (" 3599 ", 3599.0), (3600.5, 3600.5), ("10.5", 10.5), (2, 2.0)],
    ids=repr,
)
def test_expires_in_is_read_as_number_or_string(stated: object, ttl: float) -> None:
    """`expires_in` counts from sending, whatever it is written as."""
    access = access_of(granted(expires_in=stated))
    assert (access.ttl, access.expires_at, access.expiry_source) == (ttl, NOW + ttl, ExpirySource.ANSWER)


@pytest.mark.parametrize(
    "stated",
    [
        None,
        True,
        False,
        "",
        "soon",
        "1e3",
        "0x10",
        [],
        {},
        [3600],
        1_900_000_000,
        -(10**15),
        10**400,
        float("nan"),
    ],
)
def test_an_absurd_expires_in_counts_as_absent(stated: object) -> None:
    """What is no duration, or is longer than ten years, is as good as nothing; the token is kept."""
    access = access_of(granted(expires_in=stated))
    assert (access.ttl, access.expiry_source) == (1800.0, ExpirySource.ASSUMED)


def test_an_expires_in_of_5000_digits_costs_no_token() -> None:
    """Python refuses such integers; the pair beside it must not be lost for that."""
    body = b'{"access_token": "%b", "refresh_token": "%b", "expires_in": %b}' % (
        AT.encode(),
        NEW_RT.encode(),
        b"9" * 5000,
    )
    got = judged(answered(body))
    assert got.access is not None
    assert got.refresh is not None


@pytest.mark.parametrize("stated", [0, -1, -3600, "0", "-5", 1, 1.9], ids=repr)
def test_a_token_that_comes_expired_is_kept_and_marked(stated: object) -> None:
    """Zero, negative and tiny lifetimes are successes that must not become a loop."""
    got = judged(granted(expires_in=stated, refresh_token=NEW_RT))
    assert got.outcome is OutcomeClass.SUCCESS
    assert got.short_lived
    assert got.access is not None
    assert got.access.expires_at is not None
    assert NOW <= got.access.expires_at < NOW + 2
    assert got.refresh is not None
    assert got.reason


def test_zero_means_never_where_the_profile_says_so() -> None:
    """Mailchimp's tokens don't expire."""
    access = access_of(granted(expires_in=0), Profile(zero_means_never=True))
    assert (access.ttl, access.expires_at, access.expiry_source) == (None, None, ExpirySource.NEVER)


def test_an_absent_expiry_is_read_from_a_jwt() -> None:
    """`exp` of an access token that is a JWT comes before the profile's default."""
    access = access_of(answered({"access_token": jwt(exp=NOW + 500)}), Profile(default_ttl=77))
    assert (access.ttl, access.expires_at, access.expiry_source) == (500.0, NOW + 500, ExpirySource.JWT)


def test_a_jwt_expiry_is_corrected_by_the_clock_of_its_issuer() -> None:
    """`exp` was written by the provider's clock: an hour ahead there is an hour too late here."""
    date = formatdate(NOW + 3600, usegmt=True)
    access = access_of(answered({"access_token": jwt(exp=NOW + 3600 + 500)}, date=date))
    assert access.ttl == pytest.approx(500, abs=1)


@pytest.mark.parametrize(
    "token",
    [
        jwt(exp="soon"),
        jwt(exp=True),
        jwt(),
        jwt(exp=NOW * 1000),
        "sim-at-0123456789abcdef.!!!.x",
        "a.b",
        f"a.{'A' * 20000}.c",
    ],
)
def test_a_jwt_without_usable_exp_falls_to_the_profile(token: str) -> None:
    """The next source is the profile's default."""
    access = access_of(answered({"access_token": token}), Profile(default_ttl=77))
    assert (access.ttl, access.expiry_source) == (77, ExpirySource.PROFILE)


def test_an_absent_refresh_token_keeps_the_old() -> None:
    """Nothing is returned to put in its place (RFC 6749 §6)."""
    assert judged(granted(expires_in=60)).refresh is None


@pytest.mark.parametrize("value", ["", None, 17, ["x"], "\ud800"])
def test_garbage_never_replaces_a_refresh_token(value: object) -> None:
    """Only a string that can be stored is a refresh token."""
    assert judged(granted(expires_in=60, refresh_token=value)).refresh is None


def test_a_new_refresh_token_starts_its_own_life() -> None:
    """A rotated token carries no deadline of the one before it."""
    assert judged(granted(refresh_token=NEW_RT)).refresh == RefreshToken(value=NEW_RT, issued_at=NOW)


def test_the_same_refresh_token_keeps_its_age() -> None:
    """A refresh token that is repeated was not issued again."""
    assert judged(granted(refresh_token=RT.value)).refresh == RT


@pytest.mark.parametrize(
    "name", ["refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in"]
)
@pytest.mark.parametrize("token", [NEW_RT, RT.value, None])
def test_the_refresh_tokens_deadline_is_read(name: str, token: str | None) -> None:
    """All three spellings, with and without a token beside them."""
    got = judged(granted(refresh_token=token, **{name: "600"}))
    assert got.refresh is not None
    assert (got.refresh.value, got.refresh.expires_at) == (token or RT.value, NOW + 600)


def test_keycloaks_zero_is_no_deadline() -> None:
    """`refresh_expires_in: 0` is what an offline token has."""
    got = judged(granted(refresh_token=NEW_RT, refresh_expires_in=0))
    assert got.refresh is not None
    assert got.refresh.expires_at is None


def test_the_same_access_token_again_is_told() -> None:
    """The engine keeps the first lifetime then."""
    previous = AccessToken(value=AT, issued_at=NOW - 100, expires_at=NOW + 100, ttl=200, scope="mail")
    got = judged(granted(expires_in=100), previous=previous)
    assert got.same_token_again
    assert not judged(answered({"access_token": AT + "x"}), previous=previous).same_token_again


def test_scope_and_type_are_kept_and_an_omitted_scope_is_the_old_one() -> None:
    """Any token_type is taken: a pair is stored first and argued about afterwards."""
    previous = AccessToken(value="sim-at-aaaaaaaaaaaaaaaa", issued_at=0, expires_at=0, ttl=0, scope="mail")
    access = access_of(granted(token_type="User Access Token", scope="a b"))
    assert (access.token_type, access.scope) == ("User Access Token", "a b")
    assert access_of(granted(token_type=17), previous=previous).token_type == "Bearer"
    assert access_of(granted(scope=None), previous=previous).scope == "mail"


def test_of_duplicate_members_the_last_counts() -> None:
    """Duplicate names are no reason to lose a pair."""
    assert (
        access_of(answered(b'{"access_token": "sim-at-first", "access_token": "sim-at-last"}')).value
        == "sim-at-last"
    )


def test_a_token_with_error_members_beside_it_is_a_token() -> None:
    """Empty error members are what some serialisers write."""
    assert judged(granted(error=None, errors=[])).outcome is OutcomeClass.SUCCESS


# Headers.


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("7", None, 7.0),
        ("0", None, 0.0),
        ("-3", None, 0.0),
        ("1.5", None, 1.5),
        ("86400", None, 3600.0),
        ("9" * 19, None, 3600.0),
        ("soon", None, None),
        ("", None, None),
        (formatdate(NOW + 60, usegmt=True), None, 60.0),
        (formatdate(NOW + 60, usegmt=True), formatdate(NOW + 50, usegmt=True), 10.0),
        (formatdate(NOW - 60, usegmt=True), None, 0.0),
        ("Fri, 31 Feb 2026 99:99:99 GMT", None, None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str, date: str | None, seconds: float | None) -> None:
    """Seconds or a date, counted from the answer's own Date, within an hour."""
    headers = {"retry-after": value} | ({"date": date} if date else {})
    answer = Answer(status=429, headers=headers, body=b"", sent_at=NOW, received_at=NOW)
    assert judged(answer).retry_after == seconds


@pytest.mark.parametrize(
    ("ahead", "trip", "skew"),
    [(0, 0, 0.0), (1, 0, 0.0), (-2, 0, 0.0), (10, 0, 10.5), (-10, 0, -9.5), (100, 20, 90.5), (10, 20, 0.0)],
)
def test_the_providers_clock_is_measured(ahead: float, trip: float, skew: float) -> None:
    """Half the round trip is taken off, and what a whole second can't tell counts as none."""
    answer = answered({"access_token": AT}, trip=trip, date=formatdate(NOW + ahead, usegmt=True))
    assert judged(answer).skew == skew
    assert judged(answered(b"", 500)).skew is None
