"""What the pages about providers sort by is what the profiles say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from sidecar import providers
from sidecar.outcomes import judge
from sidecar.ports import Answer
from sidecar.profile import AuthMethod, GrantType, InDoubt, Profile, Rotation
from sidecar.tokens import OutcomeClass, RefreshToken
from tests.docs.pages import DOCS

PAGE = DOCS / "howto" / "by-provider.md"
DAY = 86400
CAREFUL = {InDoubt.NO_REPLAY}

KINDS: dict[str, Callable[[Profile], bool]] = {
    "It stays": lambda one: one.rotation is Rotation.NEVER,
    "It is replaced, and the old one is forgiven for a while": lambda one: (
        one.rotation is Rotation.ALWAYS and one.in_doubt not in CAREFUL
    ),
    "It is replaced, and is good for one use": lambda one: (
        one.rotation is Rotation.ALWAYS and one.in_doubt in CAREFUL
    ),
    "It is replaced now and then": lambda one: one.rotation is Rotation.SOMETIMES,
    "It depends on a setting": lambda one: one.rotation is Rotation.UNKNOWN,
    "Nobody could tell us": lambda one: one.rotation is Rotation.UNKNOWN,
    "There is none": lambda one: not one.needs_refresh_token,
    "The access token itself is exchanged": lambda one: one.grant is GrantType.LIVING_TOKEN,
    "The access token lives for ever": lambda one: one.zero_means_never,
}


def rows(heading: str) -> dict[str, list[str]]:
    """Return a section's table: the profiles that each row names."""
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index(f"## {heading}") :].split("\n## ")[0]
    found = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", section, re.MULTILINE)
    return {name.strip("* "): re.findall(r"`([a-z0-9-]+)`", told) for name, told in found if "`" in told}


def test_every_profile_has_its_place() -> None:
    """Each built-in profile is named once, among those that treat a refresh token as it does."""
    told = rows("By what becomes of the refresh token")
    named = [name for names in told.values() for name in names]

    assert sorted(named) == sorted(providers.names())
    assert set(told) == set(KINDS)
    assert not [
        (kind, name)
        for kind, names in told.items()
        for name in names
        if not KINDS[kind](providers.load(name))
    ]


@pytest.mark.parametrize(
    ("told", "days"), [("180 days", 180), ("365 days", 365), ("18 months", 547.5), ("five years", 1825)]
)
def test_deadlines_are_those_of_the_profiles(told: str, days: float) -> None:
    """A date that no refresh moves stands in the row of its length, for all profiles that have one."""
    ends = {name: providers.load(name).refresh_ttl for name in providers.names()}

    assert sorted(rows("By when a human has to come back")[told]) == sorted(
        name for name, end in ends.items() if end == days * DAY
    )


def test_no_deadline_is_left_out() -> None:
    """Every profile that knows of one is in that table."""
    told = {name for names in rows("By when a human has to come back").values() for name in names}

    assert {name for name in providers.names() if providers.load(name).refresh_ttl} <= told


def row(page: str, first: str) -> list[str]:
    """Return the cells of the one row of a page that begins with this, or has it in its first cell."""
    lines = (DOCS / "howto" / f"{page}.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    [found] = [one for one in cells if first in one[0]]
    return found


STATES = {
    OutcomeClass.TRANSIENT: "`retrying`",
    OutcomeClass.IN_DOUBT: "`in_doubt`",
    OutcomeClass.MISCONFIGURED: "`misconfigured`",
    OutcomeClass.SUSPECT: "`dead`",
    OutcomeClass.DEAD: "`dead`",
}


@pytest.mark.parametrize(
    ("page", "profile", "shown", "status", "answer"),
    [
        *(
            (
                "microsoft",
                "entra",
                f"`{number}`",
                400,
                {"error": "invalid_grant", "error_description": f"{number}: …"},
            )
            for number in re.findall(r"AADSTS\d+", (DOCS / "howto" / "microsoft.md").read_text("utf-8"))
        ),
        ("microsoft", "entra", "`invalid_client`", 401, {"error": "invalid_client"}),
        *(
            ("slack", "slack", f"`{code}`", 200, {"ok": False, "error": code})
            for code in (
                "bad_client_secret",
                "invalid_client_id",
                "internal_error",
                "fatal_error",
                "invalid_grant",
            )
        ),
        ("slack", "slack", "any other", 200, {"ok": False, "error": "sim-what"}),
        ("github", "github-app", "`bad_refresh_token`", 200, {"error": "bad_refresh_token"}),
        ("github", "github-app", "`incorrect_client", 200, {"error": "incorrect_client_credentials"}),
        ("atlassian", "atlassian", "403 `unauthorized_client`", 403, {"error": "unauthorized_client"}),
        ("atlassian", "atlassian", "403 `invalid_grant`", 403, {"error": "invalid_grant"}),
        ("atlassian", "atlassian", "`access_denied`", 401, {"error": "access_denied"}),
        (
            "tokens-for-one-use",
            "x",
            "Value passed",
            400,
            {"error": "invalid_request", "error_description": "Value passed for the token was invalid."},
        ),
    ],
)
def test_what_goes_wrong_ends_as_told(
    page: str, profile: str, shown: str, status: int, answer: dict[str, object]
) -> None:
    """An answer that a page speaks of is judged to be what it says there."""
    sent = RefreshToken(value="sim-rt-0123456789abcdef", issued_at=0.0)
    body = json.dumps(answer).encode()
    told = judge(Answer(status, {}, body, 0.0, 0.0), providers.load(profile), sent=sent, previous=None)

    assert STATES[told.outcome] in row(page, shown)[-1]


UNITS = {"min": 60, "h": 3600, "days": DAY}
TABLES = [
    (page, name)
    for page in ("tokens-for-one-use", "tokens-that-stay")
    for name in re.findall(
        r"^\| `([a-z-]+)` \|", (DOCS / "howto" / f"{page}.md").read_text("utf-8"), re.MULTILINE
    )
]


@pytest.mark.parametrize(("page", "name"), TABLES)
def test_tables_have_what_the_profile_has(page: str, name: str) -> None:
    """How long an access token lives, and where the client shows its secret."""
    profile = providers.load(name)
    _, lives, _, client, _ = row(page, f"`{name}`")
    told = re.search(r"(\d+) (min|h|days)$", lives)

    assert (int(told[1]) * UNITS[told[2]] if told else None) == profile.default_ttl
    if client[0].isalpha():
        header = profile.auth_method is AuthMethod.BASIC
        assert ("header" in client) if header else ("body" in client.lower())
