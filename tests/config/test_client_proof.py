"""How a client is proved, as the configuration says it: nothing missing, nothing that would never be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.config.conftest import Place

PROVIDER = "{token_url: 'https://sso.example/token'}"
INSTALLATIONS = "{token_url: 'https://api.github.com/app/installations/{installation}/access_tokens'}"


def token(client: str, keys: str = "", provider: str = PROVIDER) -> str:
    """Write a configuration of one token."""
    return f"tokens:\n  a:\n    provider: {provider}\n    client: {client}\n    outputs: [{{file: o}}]\n    {keys}\n"


@pytest.mark.parametrize(
    ("client", "problem"),
    [
        (
            "{id: x, private_key_file: k}",
            (
                "private_key_file: is given, but `auth_method: client_secret_post` signs nothing; remove it, or write "
                "private_key_jwt"
            ),
        ),
        (
            "{id: x, secret_file: s, certificate_file: c}",
            "certificate_file: is given, but `auth_method: client_secret_post` shows none; remove it",
        ),
        (
            "{id: x, secret_file: s, key_id: k}",
            "key_id: is given, but `auth_method: client_secret_post` signs nothing",
        ),
        (
            "{id: x, secret_file: s, signing_algorithm: HS512}",
            "signing_algorithm: is given, but `auth_method: client_secret_post` signs nothing",
        ),
        (
            "{id: x, secret_file: s, private_key_file: k, auth_method: client_secret_jwt}",
            "private_key_file: is given, but `auth_method: client_secret_jwt` signs nothing",
        ),
        (
            "{id: x, secret_file: s, private_key_file: k, auth_method: private_key_jwt}",
            "secret_file: is given, but `auth_method: private_key_jwt` sends none",
        ),
        (
            "{id: x, secret_files: [s], certificate_file: c, auth_method: tls_client_auth}",
            "secret_files: is given, but `auth_method: tls_client_auth` sends none",
        ),
        (
            "{id: x, auth_method: private_key_jwt}",
            "auth_method: private_key_jwt signs with a private key, and there is none; add `private_key_file`",
        ),
        (
            "{id: x, auth_method: tls_client_auth}",
            "auth_method: tls_client_auth shows a certificate, and there is none; add `certificate_file`",
        ),
        ("{id: x, secret: y, secret_files: [z]}", "secret_files: contradicts `secret`, which says the same"),
        ("{id: x, secret_file: y, secret_files: [z]}", "secret_files: contradicts `secret_file`"),
        ("{file: c, secret_files: [z]}", "secret_files: contradicts `file`"),
        ("{id: x, secret_file: s, signing_algorithm: none}", "signing_algorithm: "),
    ],
)
def test_a_proof_that_is_missing_or_never_shown(place: Place, client: str, problem: str) -> None:
    """One line, at the key that has to change, with what to write in its place."""
    problems = place.problems(token(client))
    assert len(problems) == 1
    assert problems[0].partition("tokens.a.client.")[2].startswith(problem)


def test_a_certificate_is_no_use_without_tls(place: Place) -> None:
    """On loopback too, where plain http is allowed."""
    client = "{id: x, certificate_file: c, auth_method: tls_client_auth}"
    problems = place.problems(token(client, provider="{token_url: 'http://127.0.0.1/token'}"))
    assert len(problems) == 1
    assert "auth_method: tls_client_auth is a part of TLS, and the token endpoint has none" in problems[0]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("subject: user", "subject: is for `grant: jwt_bearer` alone, and this token's is refresh_token"),
        (
            "installation: '42'",
            "installation: is for `grant: github_installation` alone, and this token's is refresh_token",
        ),
    ],
)
def test_a_key_of_another_grant(place: Place, keys: str, problem: str) -> None:
    """It would have no effect, and somebody relies on it."""
    problems = place.problems(token("{id: x, secret_file: s}", keys))
    assert len(problems) == 1
    assert problems[0].partition("tokens.a.")[2].startswith(problem)


@pytest.mark.parametrize(
    ("provider", "client", "keys", "problem"),
    [
        (
            PROVIDER,
            "{id: x}",
            "grant: jwt_bearer",
            "client: has no key to sign with; add `file` (a Google service account's key) or `private_key_file`",
        ),
        (
            PROVIDER,
            "{id: x, secret_file: s, private_key_file: k}",
            "grant: jwt_bearer",
            "client.secret_file: is given, but `private_key_file` signs already; remove one, or say",
        ),
        (
            INSTALLATIONS,
            "{id: x, secret_file: s}",
            "{grant: github_installation, installation: '42'}",
            "client: has no key to sign with; add `private_key_file`, the GitHub App's private key",
        ),
        (
            INSTALLATIONS,
            "{id: x, private_key_file: k}",
            "grant: github_installation",
            "installation: is missing; give its number",
        ),
        (
            PROVIDER,
            "{id: x, private_key_file: k}",
            "{grant: github_installation, installation: '42'}",
            "provider.token_url: must have {installation} where the installation's number belongs",
        ),
    ],
)
def test_a_signed_grant_that_lacks_something(
    place: Place, provider: str, client: str, keys: str, problem: str
) -> None:
    """What it can't do without is asked for where it belongs."""
    keys = keys.strip("{}").replace(", ", "\n    ")
    problems = place.problems(token(client, keys, provider))
    assert len(problems) == 1
    assert problems[0].partition("tokens.a.")[2].startswith(problem)


@pytest.mark.parametrize(
    ("client", "keys"),
    [
        ("{id: x, secret_files: [s, t]}", ""),
        ("{id: x, secret_file: s, auth_method: client_secret_jwt, signing_algorithm: HS512}", ""),
        ("{id: x, private_key_file: k, key_id: k1, auth_method: private_key_jwt}", ""),
        ("{id: x, private_key_file: k, certificate_file: c, auth_method: private_key_jwt}", ""),
        ("{id: x, certificate_file: c, auth_method: tls_client_auth}", ""),
        ("{id: x, certificate_file: c, private_key_file: k, auth_method: tls_client_auth}", ""),
        ("{file: key.json}", "grant: jwt_bearer\n    subject: user@example.com"),
        ("{id: x, private_key_file: k}", "grant: jwt_bearer"),
        ("{id: x, secret_file: s}", "grant: jwt_bearer"),
        (
            "{id: x, secret_file: s, private_key_file: k, auth_method: client_secret_basic}",
            "grant: jwt_bearer",
        ),
        ("{id: x, certificate_file: c, auth_method: tls_client_auth}", "grant: client_credentials"),
    ],
)
def test_what_fits_together_is_accepted(place: Place, client: str, keys: str) -> None:
    """Without an error and without a warning."""
    assert place.warnings(token(client, keys)) == []


def test_an_issuer_says_how_its_clients_authenticate(place: Place) -> None:
    """Whatever the client can prove itself by may turn out to be what is wanted."""
    text = token("{id: x, private_key_file: k}", provider="{issuer: 'https://sso.example'}")
    assert not any("private_key_file" in line for line in place.problems(text + "unknown: key\n"))


def test_no_token_is_written_over_a_key(place: Place) -> None:
    """Every file of the client is one that outputs keep away from."""
    client = "{id: x, certificate_file: c, private_key_file: k, auth_method: tls_client_auth}"
    for name in ("c", "k"):
        text = token(client).replace("{file: o}", f"{{file: {name}}}")
        assert f"{name} is also tokens.a.client." in place.problems(text)[0]
    text = token("{id: x, secret_files: [s, t]}").replace("{file: o}", "{file: t}")
    assert "t is also tokens.a.client.secret_files[1]; " in place.problems(text)[0]
