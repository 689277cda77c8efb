from __future__ import annotations

import json

import pytest

from sidecar.outcomes import refuses_client
from sidecar.ports import Answer
from sidecar.profile import ErrorRule, Profile
from sidecar.tokens import OutcomeClass


def answer(status: int, error: str | None) -> Answer:
    """Make an answer with this error code; None: with nothing in it."""
    body = b"" if error is None else json.dumps({"error": error}).encode()
    return Answer(status=status, headers={}, body=body, sent_at=0.0, received_at=0.0)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "invalid_client"),
        (401, "invalid_client"),
        (401, None),
        (401, "access_denied"),
        (200, "bad_client_secret"),
        (400, "incorrect_client_credentials"),
    ],
)
def test_an_answer_that_refuses_the_client(status: int, error: str | None) -> None:
    """Another secret may be shown: nothing was used up."""
    assert refuses_client(answer(status, error), Profile())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "invalid_grant"),
        (401, "invalid_grant"),
        (400, "invalid_scope"),
        (400, "unauthorized_client"),
        (400, "access_denied"),
        (401, "refresh_token_reused"),
        (403, None),
        (429, "invalid_client"),
        (500, "invalid_client"),
        (503, None),
    ],
)
def test_an_answer_about_something_else(status: int, error: str | None) -> None:
    """Another secret would change nothing, or the refresh token may be used up by now."""
    assert not refuses_client(answer(status, error), Profile())


def test_a_success_refuses_nobody() -> None:
    """Whatever else is in it."""
    body = b'{"access_token": "sim-at-0123456789abcdef", "error": "invalid_client"}'
    found = Answer(status=200, headers={}, body=body, sent_at=0.0, received_at=0.0)
    assert not refuses_client(found, Profile())


@pytest.mark.parametrize("outcome", [OutcomeClass.TRANSIENT, OutcomeClass.SUSPECT, OutcomeClass.DEAD])
def test_a_profile_knows_better(outcome: OutcomeClass) -> None:
    """Where it says that the code means something else, that holds."""
    profile = Profile(errors=(ErrorRule(code="invalid_client", outcome=outcome),))
    assert not refuses_client(answer(400, "invalid_client"), profile)
