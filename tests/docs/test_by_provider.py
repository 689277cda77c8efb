"""What the pages about providers sort by is what the profiles say."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from sidecar import providers
from sidecar.profile import GrantType, InDoubt, Profile, Rotation
from tests.docs.test_docs import DOCS

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
