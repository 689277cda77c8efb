"""`providers`: the catalogue on the command line and on its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar import cli, providers
from sidecar.cli import portrait
from sidecar.profile import Profile

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "providers.md"
OWN = """
providers:
  crm: {title: Our CRM, token_url: "https://crm.example/token", rotation: always, default_ttl: 30m}
  xero: {default_ttl: 5m}
tokens:
  gmail:
    provider: google
    client: {id: app, secret: "sim-cs-0123456789abcdef"}
    outputs: [{file: /run/tokens/gmail.json}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a profile of its own, and a built-in one changed."""
    path = tmp_path / "tokens.yaml"
    path.write_text(OWN, encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Call the command; returns its exit code, output and errors."""
    code = cli.main(["providers", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize("name", providers.names())
def test_every_profile_can_be_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is told in words, with its notes, and says that nobody tested it."""
    code, told, _ = run(capsys, "show", name)

    assert code == 0
    assert "Not yet tested against the real provider." in told
    for note in providers.load(name).notes:
        assert note in told
    for source in providers.load(name).sources.values():
        assert source in told


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("atlassian", "Requests are JSON."),
        ("facebook", "Requests are made with GET."),
        ("facebook", "An access token is exchanged for the next one while it lives."),
        ("github-installation", "The expiry is a date and time."),
        ("google-service-account", "Access tokens are obtained with a signed assertion (jwt_bearer)."),
        ("mailchimp", "`expires_in: 0` means that a token never expires."),
        ("notion", "Answers don't say how long an access token lives."),
        ("slack", "Errors come with status 200 too: a success says `ok: true`."),
        ("spotify", "A refresh token ends 180d after the consent, whatever happens."),
        ("tiktok", "`client_id` is called `client_key`"),
        ("withings", "Sent with every token request: `action: requesttoken`."),
        ("withings", "`body.access_token` for the access token"),
        ("xero", "A replaced refresh token can still be used for 30m."),
        ("xero", "A refresh ends the access token before it."),
        ("zoho", '`Access Denied` with "too many requests" is passing trouble, for at least 10m'),
    ],
)
def test_what_is_unusual_is_told(name: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a provider does in its own way is said in a sentence of its own."""
    assert sentence in run(capsys, "show", name)[1]


def test_a_profile_that_was_tested_says_by_whom() -> None:
    """Then the warning is gone."""
    tried = Profile(tested="the authors, December 2026")
    assert portrait.tested(tried) == "Tested against the real provider: the authors, December 2026."


def test_the_list_has_lifetimes(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a provider: its name, the grant, rotation, and how long tokens live."""
    lines = run(capsys)[1].splitlines()

    assert len(lines) == len(providers.names()) + 1
    assert next(line for line in lines if line.startswith("atlassian ")).split() == (
        ["atlassian", "Atlassian", "refresh_token", "always", "1h", "365d,", "90d", "unused"]
    )


def test_own_profiles_are_shown_too(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the configuration defines is there, and what it changes is changed, with itself as the source."""
    listed = json.loads(run(capsys, "list", "-c", str(config), "--json")[1])
    assert set(listed) == {*providers.names(), "crm"}
    assert list(listed) == sorted(listed)

    assert "crm: Our CRM" in run(capsys, "show", "crm", "-c", str(config))[1]
    changed = json.loads(run(capsys, "show", "xero", "-c", str(config), "--json")[1])
    assert (changed["default_ttl"], changed["grace"]) == (300, 1800)
    assert changed["sources"]["default_ttl"] == "the configuration"


def test_the_usual_configuration_is_found(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The configuration of the environment counts as if it had been named."""
    monkeypatch.setenv("TOKEN_SIDECAR_CONFIG", str(config))
    assert "Our CRM" in run(capsys)[1]


def test_the_nearest_name_may_be_ones_own(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the pen is met with the nearest name of all."""
    assert "did you mean crm?" in run(capsys, "show", "crn", "-c", str(config))[2]
    assert "did you mean xero?" in run(capsys, "show", "xeroo")[2]


def test_a_named_configuration_has_to_be_right(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A profile that can't be is one error, with its place."""
    config.write_text(OWN.replace("title: Our CRM", "extends: gogle"), encoding="utf-8")
    code, told, errors = run(capsys, "list", "-c", str(config))

    assert (code, told) == (2, "")
    assert "providers.crm.extends" in errors
    assert "did you mean google?" in errors
