"""The table in docs/explanation/answers.md says what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar import outcomes
from sidecar.errors import NoAnswer, NotSent
from sidecar.outcomes import Delays, judge, judge_failure
from sidecar.ports import Answer
from sidecar.profile import Profile
from sidecar.tokens import DeadlineRule, OutcomeClass, RefreshToken

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "answers.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|")
]
SENT = RefreshToken(value="sim-rt-0123456789abcdef", issued_at=0.0)


def written(delays: Delays) -> str:
    """Write a range as the page does."""

    def span(seconds: float) -> str:
        return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"

    return f"{span(delays.first)} to {span(delays.last)}"


def row(part: str) -> list[str]:
    """Return the one row that speaks of this."""
    [found] = [cells for cells in ROWS if part in cells[0]]
    return found


KNOWN = {**outcomes._CODES, **{f"AADSTS{number}": told for number, told in outcomes._AADSTS.items()}}


@pytest.mark.parametrize("code", KNOWN)
def test_every_known_code_stands_in_the_row_of_its_class(code: str) -> None:
    """With the class and the wait that the program gives it."""
    outcome, delays = KNOWN[code]
    assert row(f"`{code}`")[1:] == [outcome.value, written(delays)]


def test_no_code_is_on_the_page_that_nobody_knows() -> None:
    """A code that was taken out of the table is taken off the page."""
    first = [cells[0] for cells in ROWS if cells[1] in set(OutcomeClass)]
    assert {code for cell in first for code in re.findall(r"`(\w+)`", cell)} == set(KNOWN)


@pytest.mark.parametrize(
    ("part", "status", "body"),
    [
        ("2xx that is no JSON object", 200, b"<html>"),
        ("503, unless", 503, b""),
        ("5xx but 503", 502, b""),
        ("408, 425, 429", 408, b""),
        ("408, 425, 429 ", 425, b""),
        ("3xx", 302, b""),
        ("any other 4xx", 404, b"<html>"),
        ("an error with 2xx that nobody knows", 200, b'{"error": "sim-what"}'),
    ],
)
def test_the_other_rows_are_as_true(part: str, status: int, body: bytes) -> None:
    """Rows of statuses and shapes, each by an example."""
    got = judge(Answer(status, {}, body, 0.0, 0.0), Profile(), sent=SENT, previous=None)
    assert row(part.strip())[1:] == [got.outcome.value, written(got.delays)]


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("no connection", NotSent("refused")),
        ("a certificate", NotSent("untrusted", misconfigured=True)),
        ("no answer after sending", NoAnswer("reset")),
    ],
)
def test_so_are_those_without_an_answer(part: str, error: NotSent | NoAnswer) -> None:
    """What counts is whether the request went out."""
    got = judge_failure(error, Profile())
    assert row(part)[1:] == [got.outcome.value, written(got.delays)]


def test_a_token_that_comes_expired_waits_as_the_page_says() -> None:
    """It is a success all the same."""
    answer = Answer(200, {}, b'{"access_token": "sim-at-0123456789abcdef", "expires_in": 0}', 0.0, 0.0)
    got = judge(answer, Profile(), sent=SENT, previous=None)
    assert row("less than two seconds")[1:] == [f"{got.outcome.value}, kept back", written(got.delays)]


def test_every_rule_of_a_deadline_is_explained() -> None:
    """The page has a row for each, and no other."""
    first = [re.fullmatch(r"`(\w+)`", cells[0]) for cells in ROWS]
    assert {found[1] for found in first if found and found[1] != "refresh_expiry_rule"} == set(DeadlineRule)
