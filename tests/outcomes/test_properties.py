from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.outcomes import backoff, judge
from sidecar.ports import Answer
from sidecar.profile import ErrorRule, Profile
from sidecar.tokens import AccessToken, OutcomeClass, RefreshToken

NOW = 1_800_000_000.0
MARK = "sim-at-marker0123456789"

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(MARK),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    [
        "access_token",
        "refresh_token",
        "expires_in",
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
    ]
)
documents = st.dictionaries(names | st.text(), values, max_size=8)
bodies = st.binary() | values.map(json.dumps).map(str.encode) | documents.map(json.dumps).map(str.encode)
statuses = st.integers(0, 999) | st.sampled_from([200, 400, 401, 403, 429, 500, 503])
headers = st.dictionaries(
    st.sampled_from(["date", "retry-after", "content-type", "location"]), st.text() | st.just(MARK)
)
answers = st.builds(
    Answer,
    status=statuses,
    headers=headers,
    body=bodies,
    sent_at=st.just(NOW),
    received_at=st.floats(NOW - 10, NOW + 400),
)
profiles = st.sampled_from(
    [
        Profile(),
        Profile(zero_means_never=True, default_ttl=60.0, unavailable_is_refusal=False),
        Profile(errors=(ErrorRule(outcome=OutcomeClass.TRANSIENT, description="a+b"),)),
    ]
)
sent = st.none() | st.just(RefreshToken(value="sim-rt-0123456789abcdef", issued_at=0.0))
previous = st.none() | st.just(AccessToken(value=MARK, issued_at=0.0, expires_at=None, ttl=None))

REASON = re.compile(
    r"(HTTP \d{1,3}( [a-z_]+)?( AADSTS\d{5,8})?"
    r"(, with an error code that is not known|, a redirect, which is not followed; correct token_url"
    r"| that is not a JSON object| without a usable access token)?"
    r"|the access token lives no longer than \d+ s)?"
)


@given(answers, profiles, sent, previous)
def test_whatever_is_answered_is_judged(
    answer: Answer, profile: Profile, sent: RefreshToken | None, previous: AccessToken | None
) -> None:
    """No answer raises, none but one with a token succeeds, none kills a grant that no profile gave up."""
    outcome = judge(answer, profile, sent=sent, previous=previous)
    assert (outcome.outcome is OutcomeClass.SUCCESS) == (outcome.access is not None)
    assert outcome.outcome is not OutcomeClass.DEAD
    assert outcome.access is None or outcome.access.value
    assert outcome.refresh is None or (outcome.refresh.value and outcome.access is not None)
    assert outcome.retry_after is None or 0 <= outcome.retry_after <= 3600
    # It can be stored, shown and waited for.
    msgspec.json.encode(outcome)
    assert MARK not in repr(outcome)
    assert backoff(outcome, 3, now=NOW, expires_at=NOW + 10, jitter=0.5) > 0


@given(answers, profiles)
def test_no_reason_holds_text_of_an_answer(answer: Answer, profile: Profile) -> None:
    """A reason consists of our own words, listed codes and numbers of a known shape."""
    outcome = judge(answer, profile, sent=None, previous=None)
    assert REASON.fullmatch(outcome.reason), outcome.reason
