from __future__ import annotations

import re

import msgspec
import pytest

from sidecar import providers
from sidecar.errors import ConfigError
from sidecar.profile import AuthMethod, ErrorRule, InDoubt, Profile, Rotation
from sidecar.tokens import OutcomeClass


@pytest.mark.parametrize("name", providers.names())
def test_every_profile_is_sound(name: str) -> None:
    """Every file is a profile with a title and a page to read on, and its patterns are patterns."""
    profile = providers.load(name)
    assert profile.title
    assert profile.docs.startswith("https://")
    for rule in profile.errors:
        re.compile(rule.description or "")


@pytest.mark.parametrize("name", providers.names())
def test_every_value_that_is_not_obvious_has_a_source(name: str) -> None:
    """A profile says where its facts are from, and when they were read."""
    profile = providers.load(name)
    blank = Profile()
    fields = {
        field for field in profile.__struct_fields__ if getattr(profile, field) != getattr(blank, field)
    }
    assert fields - {"title", "docs", "sources"} <= set(profile.sources)
    for field, source in profile.sources.items():
        assert field in profile.__struct_fields__
        assert re.search(r"\(.*20[0-9]{2}\)$", source)


def test_google() -> None:
    """Google's users' grants don't rotate, and a lost answer is asked for again."""
    google = providers.load("google")
    assert google.token_url == "https://oauth2.googleapis.com/token"
    assert (google.auth_method, google.rotation, google.in_doubt) == (
        AuthMethod.POST,
        Rotation.NEVER,
        InDoubt.REPLAY_OK,
    )
    assert (google.default_ttl, google.refresh_idle_ttl) == (3600, 180 * 86400)
    assert not google.may_rotate


@pytest.mark.parametrize(
    ("code", "description", "outcome"),
    [
        ("invalid_grant", "reauth related error (invalid_rapt)", OutcomeClass.DEAD),
        ("invalid_grant", "Token has been expired or revoked.", None),
        ("internal_failure", "", OutcomeClass.TRANSIENT),
        ("server_error", "", OutcomeClass.TRANSIENT),
        ("temporarily_unavailable", "", OutcomeClass.TRANSIENT),
    ],
)
def test_google_errors(code: str, description: str, outcome: OutcomeClass | None) -> None:
    """A demand for a fresh sign-in is final, trouble on Google's side is not, the rest is for the table."""
    rules = [rule for rule in providers.load("google").errors if rule.matches(400, code, description)]
    assert (rules[0].outcome if rules else None) == outcome


def test_the_generic_profile_knows_nothing() -> None:
    """It is as cautious as a profile can be."""
    generic = providers.load("generic")
    assert (generic.token_url, generic.rotation, generic.in_doubt) == (
        "",
        Rotation.UNKNOWN,
        InDoubt.NO_REPLAY,
    )
    assert generic.may_rotate


def test_an_unknown_name_suggests_the_nearest() -> None:
    """A slip of the pen is met with what was meant, anything else with what there is."""
    with pytest.raises(ConfigError, match=r"did you mean google\?"):
        providers.load("gogle")
    with pytest.raises(ConfigError, match="there are: generic, google"):
        providers.load("../zzz")


def test_override_changes_what_is_named() -> None:
    """Fields are replaced with their sources, error rules come before those that were there."""
    google = providers.load("google")
    rule = ErrorRule(outcome=OutcomeClass.DEAD, code="gone")
    changed = providers.override(google, {"default_ttl": 60, "errors": [rule], "rotation": Rotation.ALWAYS})
    assert (changed.default_ttl, changed.rotation, changed.token_url) == (
        60,
        Rotation.ALWAYS,
        google.token_url,
    )
    assert changed.errors == (rule, *google.errors)
    assert set(google.sources) - set(changed.sources) == {"default_ttl", "errors", "rotation"}
    assert providers.load("google") == google


def test_override_refuses_what_does_not_fit() -> None:
    """A field that there is none of, or a value of another type, is an error."""
    with pytest.raises(msgspec.ValidationError):
        providers.override(providers.load("google"), {"ttl": 1})
    with pytest.raises(msgspec.ValidationError):
        providers.override(providers.load("google"), {"default_ttl": "long"})
