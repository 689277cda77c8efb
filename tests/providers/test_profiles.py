from __future__ import annotations

import re
from itertools import pairwise
from urllib.parse import urlsplit

import msgspec
import pytest

from sidecar import providers
from sidecar.errors import ConfigError
from sidecar.profile import (
    AnswerShape,
    AuthMethod,
    BodyKind,
    ErrorRule,
    ExpiryKind,
    GrantType,
    InDoubt,
    Profile,
    Rotation,
)
from sidecar.testing.shapes import example
from sidecar.tokens import OutcomeClass

CATALOGUE = [
    "google",
    "google-service-account",
    "entra",
    "okta",
    "auth0",
    "keycloak",
    "cognito",
    "slack",
    "github-app",
    "github-installation",
    "gitlab",
    "atlassian",
    "salesforce",
    "salesforce-jwt",
    "hubspot",
    "intuit",
    "xero",
    "zoom",
    "dropbox",
    "box",
    "spotify",
    "strava",
    "linkedin",
    "notion",
    "shopify",
    "stripe",
    "zoho",
    "docusign",
    "fitbit",
    "withings",
    "tiktok",
    "x",
    "amazon-lwa",
    "ebay",
    "square",
    "mailchimp",
    "facebook",
]

WITHOUT_ENDPOINT = {"auth0", "cognito", "entra", "generic", "keycloak", "okta", "shopify", "zoho"}
"""Their endpoints depend on a tenant, a shop or a region."""

profiles = pytest.mark.parametrize("name", providers.names())


def test_the_catalogue_is_whole() -> None:
    """Every provider that is promised has a profile, and the list is sorted."""
    assert providers.names() == tuple(sorted({"generic", *CATALOGUE}))


@profiles
def test_every_profile_can_be_read_up_on(name: str) -> None:
    """Every file is a profile with a title and a page to read on, and every address is one that TLS protects."""
    profile = providers.load(name)
    assert profile.title
    for field in profile.__struct_fields__:
        value = getattr(profile, field)
        if field in {"docs", "issuer"} or field.endswith("_url"):
            assert not value or (urlsplit(value).scheme == "https" and urlsplit(value).hostname), field
    assert profile.docs


@profiles
def test_every_value_that_is_not_obvious_has_a_source(name: str) -> None:
    """A profile says where its facts are from, and when they were read; nothing else has a source."""
    profile = providers.load(name)
    blank = Profile()
    fields = {
        field for field in profile.__struct_fields__ if getattr(profile, field) != getattr(blank, field)
    }
    needed = fields - {"title", "docs", "sources", "tested"}
    assert needed <= set(profile.sources)
    # What is at its default may be sourced too: that it is the default is then a finding.
    assert set(profile.sources) <= set(profile.__struct_fields__) - {"title", "docs", "sources"}
    for field, source in profile.sources.items():
        assert re.search(r"\S \((January|\w+) 2026\)$", source), field


@profiles
def test_error_rules_are_sound(name: str) -> None:
    """Patterns are alternatives of plain words, so that an example can be told; every rule can be reached."""
    rules = providers.load(name).errors
    for rule in rules:
        assert rule.outcome is not OutcomeClass.SUCCESS
        assert rule.status is None or 200 <= rule.status < 500
        assert rule.code or rule.description or rule.status
        if rule.description:
            assert re.search(rule.description, example(rule.description))
            assert re.fullmatch(r"[\w .,'|-]+", rule.description)
    for number, rule in enumerate(rules):
        told = (rule.status or 400, rule.code or "some_code", example(rule.description or "some words"))
        assert next(index for index, other in enumerate(rules) if other.matches(*told)) == number


@profiles
def test_what_a_profile_says_fits_together(name: str) -> None:
    """No field contradicts another, nor says what can't be."""
    profile = providers.load(name)
    assert contradictions(profile) == []


def contradictions(profile: Profile) -> list[str]:
    """List what can't be true at once."""
    refreshes = profile.grant is GrantType.REFRESH_TOKEN
    lives = [profile.default_ttl, profile.refresh_idle_ttl, profile.refresh_ttl]
    problems = {
        "rotation: never makes a replay harmless": (
            refreshes and profile.rotation is Rotation.NEVER and profile.in_doubt is not InDoubt.REPLAY_OK
        ),
        "without knowing about rotation a replay can't be promised": (
            refreshes and profile.rotation is Rotation.UNKNOWN and profile.in_doubt is not InDoubt.NO_REPLAY
        ),
        "a grace is the length of a replay window, and nothing else has one": (
            (profile.grace is not None) != (profile.in_doubt is InDoubt.REPLAY_WINDOW)
        ),
        "only a refresh token rotates, or has a life": (
            not refreshes
            and (
                profile.rotation is not Rotation.UNKNOWN
                or profile.refresh_ttl is not None
                or profile.refresh_idle_ttl is not None
            )
        ),
        "lives are above zero, and a refresh token outlives an access token": (
            any(life is not None and life <= 0 for life in (*lives, profile.grace, profile.min_interval))
            or any(earlier >= later for earlier, later in pairwise(filter(None, lives[::2])))
            or (profile.default_ttl or 0) >= (profile.refresh_idle_ttl or float("inf"))
        ),
        "GET has no body": profile.method == "GET" and profile.body is not BodyKind.QUERY,
        "a token that never expires has no usual life": (
            (profile.zero_means_never or profile.answer.expires_kind is ExpiryKind.NEVER)
            and profile.default_ttl is not None
        ),
        "two refreshes fit into a token's life": (
            (profile.min_interval or 0) * 2 > (profile.default_ttl or float("inf"))
        ),
        "a renamed parameter keeps a name of its own": (
            len(set(profile.param_names.values())) < len(profile.param_names)
        ),
    }
    return [problem for problem, found in problems.items() if found]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotation": "never"},
        {"in_doubt": "replay_ok"},
        {"rotation": "always", "in_doubt": "replay_window"},
        {"rotation": "always", "grace": 30},
        {"grant": "jwt_bearer", "rotation": "always"},
        {"default_ttl": 3600, "refresh_ttl": 60},
        {"default_ttl": 3600, "refresh_idle_ttl": 60},
        {"method": "GET"},
        {"zero_means_never": True, "default_ttl": 60},
        {"default_ttl": 60, "min_interval": 60},
        {"param_names": {"client_id": "key", "client_secret": "key"}},
    ],
)
def test_a_contradiction_would_be_found(wrong: dict[str, object]) -> None:
    """Each of the checks above can fail."""
    assert len(contradictions(providers.override(Profile(), wrong))) == 1


@profiles
def test_an_endpoint_or_how_to_name_it(name: str) -> None:
    """A profile has a token endpoint, or its notes tell a user how to name one: `extends`, and what else."""
    profile = providers.load(name)
    assert bool(profile.token_url) == (name not in WITHOUT_ENDPOINT)
    if not profile.token_url and name != "generic":
        assert any(f"{{extends: {name}, " in note for note in profile.notes)


@profiles
def test_notes_show_what_can_be_written(name: str) -> None:
    """Whatever a note offers as `{extends: …}` is a profile that fits together."""
    written = re.findall(r"`provider: (\{extends: .*?\})`", " ".join(providers.load(name).notes))
    for text in written:
        changes = msgspec.yaml.decode(text)
        assert changes.pop("extends") == name
        assert contradictions(providers.override(providers.load(name), changes)) == []


@profiles
def test_nothing_is_claimed_to_be_tested(name: str) -> None:
    """Nobody has used these profiles against the real providers yet, and they don't say so."""
    assert providers.load(name).tested == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("google", (AuthMethod.POST, Rotation.NEVER, InDoubt.REPLAY_OK, False)),
        ("entra", (AuthMethod.POST, Rotation.ALWAYS, InDoubt.REPLAY_OK, False)),
        ("okta", (AuthMethod.POST, Rotation.UNKNOWN, InDoubt.NO_REPLAY, False)),
        ("github-app", (AuthMethod.POST, Rotation.ALWAYS, InDoubt.NO_REPLAY, True)),
        ("xero", (AuthMethod.BASIC, Rotation.ALWAYS, InDoubt.REPLAY_WINDOW, True)),
        ("shopify", (AuthMethod.POST, Rotation.ALWAYS, InDoubt.REPLAY_UNTIL_USED, False)),
        ("spotify", (AuthMethod.BASIC, Rotation.SOMETIMES, InDoubt.NO_REPLAY, False)),
    ],
)
def test_one_of_each_kind(name: str, expected: tuple[AuthMethod, Rotation, InDoubt, bool]) -> None:
    """What decides over a grant's life is pinned for one provider of each kind."""
    profile = providers.load(name)
    assert expected == (
        profile.auth_method,
        profile.rotation,
        profile.in_doubt,
        profile.kills_old_access_token,
    )


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
    blank = Profile(title=generic.title, docs=generic.docs)
    assert generic == blank
    assert (generic.rotation, generic.in_doubt) == (Rotation.UNKNOWN, InDoubt.NO_REPLAY)
    assert generic.may_rotate


def test_an_unknown_name_suggests_the_nearest() -> None:
    """A slip of the pen is met with what was meant, anything else with what there is."""
    with pytest.raises(ConfigError, match=r"did you mean google\?"):
        providers.load("gogle")
    with pytest.raises(ConfigError, match="there are: amazon-lwa, atlassian, "):
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


def test_override_keeps_what_an_answer_is_like() -> None:
    """An answer's shape is changed member by member."""
    changed = providers.override(providers.load("withings"), {"answer": {"scope": "scope"}})
    shape = msgspec.structs.replace(providers.load("withings").answer, scope="scope")
    assert isinstance(changed.answer, AnswerShape)
    assert changed.answer == shape


def test_override_refuses_what_does_not_fit() -> None:
    """A field that there is none of, or a value of another type, is an error."""
    with pytest.raises(msgspec.ValidationError):
        providers.override(providers.load("google"), {"ttl": 1})
    with pytest.raises(msgspec.ValidationError):
        providers.override(providers.load("google"), {"default_ttl": "long"})
