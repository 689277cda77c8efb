"""Whatever a provider answers, and whatever a profile says of it."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.outcomes import backoff, judge
from sidecar.ports import Answer
from sidecar.profile import AnswerShape, ErrorRule, ExpiryKind, GrantType, InDoubt, Profile, Rotation
from sidecar.rotation import concluded
from sidecar.tokens import AccessToken, Attempt, OutcomeClass, Record, RefreshToken

NOW = 1_800_000_000.0
MARK = "sim-at-marker0123456789"
SENT = RefreshToken(value="sim-rt-0123456789abcdef", issued_at=0.0)

NAMES = [
    "access_token",
    "refresh_token",
    "expires_in",
    "expires_at",
    "refresh_expires_in",
    "scope",
    "token_type",
    "error",
    "error_description",
    "error_subtype",
    "errors",
    "ok",
    "status",
    "code",
    "body",
    "data",
]
names = st.sampled_from(NAMES)
numbers = st.integers() | st.floats() | st.integers(10**9, 2 * 10**12)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | numbers
    | st.text()
    | st.just(MARK)
    | st.sampled_from(["0", "601", "2027-01-15"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(names | st.text(), values, max_size=8)
grants = st.fixed_dictionaries(
    {"access_token": st.just(MARK) | st.text()},
    optional={
        "refresh_token": values,
        "expires_in": values,
        "scope": values,
        "ok": values,
        "status": values,
    },
)
nested = st.builds(
    lambda name, inner, rest: {**rest, name: inner}, st.sampled_from(["body", "data"]), grants, documents
)
forms = st.dictionaries(names, st.text(), max_size=5).map(
    lambda members: urlencode(members, errors="replace").encode()
)
bodies = st.binary() | forms | st.one_of(values, documents, grants, nested).map(json.dumps).map(str.encode)
statuses = st.integers(0, 999) | st.sampled_from([200, 200, 200, 201, 400, 401, 403, 429, 500, 503])
headers = st.dictionaries(
    st.sampled_from(["date", "retry-after", "content-type", "location"]),
    st.text() | st.just(MARK) | st.sampled_from(["application/x-www-form-urlencoded", "text/plain"]),
)
answers = st.builds(
    Answer,
    status=statuses,
    headers=headers,
    body=bodies,
    sent_at=st.just(NOW),
    received_at=st.floats(NOW - 10, NOW + 400),
)

paths = (
    names
    | st.lists(names | st.sampled_from(["0", "1", "-1", "9" * 30, ""]), max_size=3).map(".".join)
    | st.text()
)
shapes = st.builds(
    AnswerShape,
    access_token=st.just("access_token")
    | st.sampled_from(["body.access_token", "data.0.access_token"])
    | paths,
    refresh_token=st.just("refresh_token") | paths,
    token_type=paths,
    scope=paths,
    expires=st.just("expires_in") | paths,
    expires_kind=st.sampled_from(ExpiryKind),
    refresh_expires=st.lists(paths, max_size=3).map(tuple),
    refresh_expires_kind=st.sampled_from(ExpiryKind),
    success=st.dictionaries(paths, st.text() | st.integers() | st.booleans(), max_size=2),
    error=paths,
    error_description=paths,
)
rules = st.builds(
    ErrorRule,
    outcome=st.sampled_from(OutcomeClass),
    status=st.none() | statuses,
    code=st.none() | st.sampled_from(["invalid_grant", "601", "x", MARK]) | st.text(),
    description=st.none() | st.sampled_from(["a+b", "", "invalid", "(?i)TOKEN"]),
    min_delay=st.none() | st.floats(0, 1e6),
)
profiles = st.builds(
    Profile,
    grant=st.sampled_from(GrantType),
    answer=st.just(AnswerShape()) | shapes,
    default_ttl=st.none() | st.floats(1, 1e8),
    zero_means_never=st.booleans(),
    rotation=st.sampled_from(Rotation),
    in_doubt=st.sampled_from(InDoubt),
    unavailable_is_refusal=st.booleans(),
    errors=st.lists(rules, max_size=2).map(tuple),
)
sent = st.none() | st.just(SENT)
previous = st.none() | st.just(AccessToken(value=MARK, issued_at=0.0, expires_at=None, ttl=None))

REASON = re.compile(
    r"(HTTP \d{1,3}( [a-z_]+)?( AADSTS\d{5,8})?"
    r"(, with an error code that is not known|, a redirect, which is not followed; correct token_url"
    r"| that is not a JSON object| without a usable access token)?"
    r"(; a wrong clock here may be to blame: is NTP running\?)?"
    r"|the access token lives no longer than \d+ s)?"
)


def maps_to(profile: Profile, outcome: OutcomeClass, status: int) -> bool:
    """Tell whether the profile could say so of any answer with this status."""
    return any(rule.outcome is outcome and rule.status in {None, status} for rule in profile.errors)


@given(answers, profiles, sent, previous)
def test_whatever_is_answered_is_judged(
    answer: Answer, profile: Profile, sent: RefreshToken | None, previous: AccessToken | None
) -> None:
    """No answer raises, none but one with a token succeeds, none kills a grant that no profile gave up."""
    outcome = judge(answer, profile, sent=sent, previous=previous)
    assert (outcome.outcome is OutcomeClass.SUCCESS) == (outcome.access is not None)
    assert outcome.access is None or (outcome.access.value and 200 <= answer.status < 300)
    assert outcome.refresh is None or (outcome.refresh.value and outcome.access is not None)
    if outcome.outcome is OutcomeClass.DEAD:
        assert sent is not None
        assert maps_to(profile, OutcomeClass.DEAD, answer.status)
    assert outcome.retry_after is None or 0 <= outcome.retry_after <= 3600
    # It can be stored, shown and waited for.
    msgspec.json.encode(outcome)
    assert MARK not in repr(outcome)
    assert backoff(outcome, 3, now=NOW, expires_at=NOW + 10, jitter=0.5) > 0


@given(answers, profiles.filter(lambda profile: not profile.errors))
def test_no_reason_holds_text_of_an_answer(answer: Answer, profile: Profile) -> None:
    """A reason consists of our own words, listed codes and numbers of a known shape."""
    outcome = judge(answer, profile, sent=None, previous=None)
    assert REASON.fullmatch(outcome.reason), outcome.reason


@given(answers, profiles, st.none() | st.booleans())
def test_no_answer_costs_a_stored_credential(
    answer: Answer,
    profile: Profile,
    rotates: bool | None,  # noqa: FBT001
) -> None:
    """What a record holds is replaced by a string that the provider sent as one, and by nothing else."""
    attempt = Attempt("attempt", "one", SENT.fingerprint, NOW)
    held = AccessToken(value="sim-at-held0123456789ab", issued_at=0.0, expires_at=NOW + 600, ttl=600)
    base = Record(lineage="l", generation=4, refresh=SENT, access=held, attempt=attempt, rotates=rotates)
    outcome = judge(answer, profile, sent=SENT, previous=held)
    record = concluded(base, outcome, profile, now=NOW, delay=5.0)
    assert record.refresh is not None
    assert record.access is not None
    assert record.refresh.value == SENT.value or record.refresh.value in _strings(answer)
    assert record.access.value == held.value or record.access.value in _strings(answer)
    if record.refresh.value != SENT.value:
        assert SENT.fingerprint in record.spent
        assert outcome.outcome is OutcomeClass.SUCCESS
    if record.is_dead():
        assert outcome.outcome in {OutcomeClass.DEAD, OutcomeClass.SUSPECT}
    msgspec.json.decode(msgspec.json.encode(record), type=Record)


def _strings(answer: Answer) -> set[str]:
    """Find every non-empty string inside a body."""
    try:
        waiting = [json.loads(answer.body)]
    except ValueError:
        waiting = []
    found = {value for _, value in parse_qsl(answer.body.decode(errors="ignore"))}
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            found.add(value)
    return found - {""}
