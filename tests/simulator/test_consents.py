"""Consents at the simulated provider: it takes nothing but what the standards say, and each code once."""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from sidecar import providers
from sidecar.testing import Consent, Provider, ProviderConfig, Reply

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
REDIRECT = "http://127.0.0.1:4711/"
ASKED = {
    "response_type": "code",
    "client_id": "sim-client",
    "redirect_uri": REDIRECT,
    "scope": "mail.read",
    "state": "s",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


def answer(provider: Provider, **changes: str) -> dict[str, str]:
    """Ask for a consent, and return what the browser is sent back with."""
    asked = {name: value for name, value in {**ASKED, **changes}.items() if value}
    return dict(parse_qsl(urlsplit(provider.authorization(asked).headers["Location"]).query))


def redeem(provider: Provider, code: str, **changes: str) -> Reply:
    """Exchange a code."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": REDIRECT,
        "code_verifier": VERIFIER,
        "client_id": provider.config.client_id,
        "client_secret": provider.config.client_secret or "",
    }
    return provider.token({**form, **changes})


def test_a_code_counts_once() -> None:
    """The first time it gives a grant; the second time ends it (RFC 6749 section 4.1.2)."""
    provider = Provider()
    told = answer(provider)
    assert told.keys() == {"code", "state"}
    pair = redeem(provider, told["code"]).json()
    assert provider.is_live(pair["access_token"])
    assert redeem(provider, told["code"]).json()["error"] == "invalid_grant"
    assert not provider.is_live(pair["access_token"])


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "w" * 43},
        {"code_verifier": ""},
        {"redirect_uri": "http://127.0.0.1:4712/"},
    ],
)
def test_a_code_is_bound(changes: dict[str, str]) -> None:
    """To its proof key and its redirect URI."""
    provider = Provider()
    assert redeem(provider, answer(provider)["code"], **changes).json()["error"] == "invalid_grant"
    assert redeem(provider, "unknown").json()["error"] == "invalid_grant"


def test_a_code_is_short_lived() -> None:
    """It ends after `code_ttl`."""
    now = [1_800_000_000.0]
    provider = Provider(ProviderConfig(code_ttl=30), now=lambda: now[0])
    code = answer(provider)["code"]
    now[0] += 30
    assert redeem(provider, code).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    ("redirect_uri", "taken"),
    [
        ("http://127.0.0.1:1/", True),
        ("http://127.0.0.1/", True),
        ("http://127.0.0.1:1/x", False),
        ("https://127.0.0.1:1/", False),
        ("http://localhost:1/", False),
        ("https://app.example/back", True),
        ("https://app.example:443/back", False),
        ("https://app.example/back?x=1", False),
        ("https://evil.example/", False),
    ],
)
def test_redirect_uris_are_compared_exactly(redirect_uri: str, taken: bool) -> None:  # noqa: FBT001
    """Only the loopback's port is free; and nobody is sent to an address that isn't registered."""
    provider = Provider(ProviderConfig(redirect_uris=("http://127.0.0.1/", "https://app.example/back")))
    reply = provider.authorization({**ASKED, "redirect_uri": redirect_uri})
    assert (reply.status, "Location" in reply.headers) == ((302, True) if taken else (400, False))


def test_what_a_consent_is_refused_for() -> None:
    """Without a proof key, by the user, or for another client."""
    provider = Provider()
    assert answer(provider, code_challenge="")["error"] == "invalid_request"
    assert answer(provider, code_challenge_method="plain")["error"] == "invalid_request"
    assert provider.authorization({**ASKED, "client_id": "x"}).status == 400
    provider.reconfigure(consent=Consent.REFUSED)
    assert answer(provider)["error"] == "access_denied"
    provider.reconfigure(consent=Consent.PENDING)
    assert provider.authorization(ASKED).status == 200
    provider.reconfigure(consent=Consent.GIVEN, require_pkce=False, issuer="https://sim.example")
    assert answer(provider, code_challenge="")["iss"] == "https://sim.example"


@pytest.mark.parametrize("name", ["google", "atlassian", "dropbox", "entra"])
def test_a_refresh_token_has_to_be_asked_for(name: str) -> None:
    """As a profile says that its provider wants it, so that who forgets finds out here."""
    profile = providers.load(name)
    provider = Provider(ProviderConfig.like(profile))
    asked: dict[str, Any] = dict(profile.authorization_params)
    scope = " ".join(("mail.read", *profile.consent_scopes))
    assert "refresh_token" in redeem(provider, answer(provider, scope=scope, **asked)["code"]).json()
    assert "refresh_token" not in redeem(provider, answer(provider)["code"]).json()


def test_a_device_is_told_to_wait() -> None:
    """As long as nobody has decided; and more slowly, if it asks too often (RFC 8628 section 3.5)."""
    now = [1_800_000_000.0]
    provider = Provider(ProviderConfig(consent=Consent.PENDING), now=lambda: now[0])
    client = {"client_id": "sim-client", "client_secret": provider.config.client_secret or ""}
    given = provider.device_authorization({**client, "scope": "mail.read"}).json()
    form = {
        **client,
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": given["device_code"],
    }

    def ask(after: float) -> Any:
        now[0] += after
        return provider.token(form).json()

    assert given["interval"] == 5
    assert [ask(after)["error"] for after in (5, 4, 5)] == [
        "authorization_pending",
        "slow_down",
        "authorization_pending",
    ]
    provider.reconfigure(consent=Consent.GIVEN)
    assert ask(5)["scope"] == "mail.read"
    assert ask(5)["error"] == "invalid_grant"
    assert provider.device_authorization({"client_id": "x"}).status == 400
