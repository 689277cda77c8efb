"""Assertions as a provider sees them, which verifies signature, issuer, audience, times and that each is new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from google.auth import crypt
from google.oauth2 import service_account

from sidecar.clients.http import HttpClient, Request
from sidecar.config.settings import Client, TokenSettings
from sidecar.errors import ConfigError, NotSent
from sidecar.grants import open_grant
from sidecar.ports import Answer, Gate, Grant
from sidecar.profile import AuthMethod, GrantType, Profile
from sidecar.testing import Provider, ProviderConfig
from sidecar.testing.config import ClientAuth
from sidecar.tokens import RefreshToken
from tests import pki

pytestmark = pytest.mark.anyio

SECRET = "sim-cs-0123456789abcdef"
URL = "https://idp.example/token"
NOW = 1_800_000_000.0


class FixedClock:
    """Stands where it is put."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def wall(self) -> float:
        return self.now

    def boot(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class OpenGate:
    """Lets everything pass."""

    def open(self) -> None:
        pass


class Wire(HttpClient):
    """Carries requests to a simulated provider, with no network between."""

    def __init__(self, provider: Provider, clock: FixedClock) -> None:
        super().__init__(clock)
        self.provider = provider
        self.sent: list[tuple[str, dict[str, str], dict[str, str]]] = []

    async def send(self, request: Request, *, gate: Gate, send_timeout: float) -> Answer:
        del send_timeout
        gate.open()
        self.sent.append((request.url, dict(request.members), dict(request.headers)))
        reply = self.provider.token(request.members, request.headers.get("Authorization"))
        return Answer(reply.status, {}, reply.body, sent_at=self.clock.wall(), received_at=self.clock.wall())


class Setting:
    """A provider with one client, and what speaks to it."""

    def __init__(self, **registered: Any) -> None:
        self.clock = FixedClock()
        config = ProviderConfig(client_id="app", audience=URL, **registered)
        self.provider = Provider(config, now=lambda: NOW)
        self.wire = Wire(self.provider, self.clock)
        self.refresh = RefreshToken(self.provider.new_grant(), issued_at=0.0)

    def grant(self, profile: Profile, client: Client, **settings: Any) -> Grant:
        """Open a grant."""
        return open_grant(TokenSettings(client=client, **settings), profile, self.wire)

    async def call(self, grant: Grant) -> Any:
        """Send one request; return the answer's members."""
        answer = await grant.call(self.refresh, OpenGate(), send_timeout=1.0)
        members = json.loads(answer.body)
        self.refresh = RefreshToken(members.get("refresh_token", self.refresh.value), issued_at=0.0)
        return members

    def assertion(self, member: str = "client_assertion") -> dict[str, Any]:
        """Return the claims of the assertion that was sent last."""
        claims: dict[str, Any] = jwt.decode(
            self.wire.sent[-1][1][member], options={"verify_signature": False}
        )
        return claims


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Write a private key."""
    path = tmp_path / "key.pem"
    put(path, 0)
    return path


def put(path: Path, number: int) -> None:
    """Write another private key in its place."""
    path.write_bytes(pki.pem(pki.rsa_key(2048, number)))


KEY_JWT = frozenset({ClientAuth.PRIVATE_KEY_JWT})
REFRESHING = Profile(token_url=URL, auth_method=AuthMethod.PRIVATE_KEY_JWT)


def with_key(**registered: Any) -> Setting:
    """Register the public half of the key."""
    public = pki.public_pem(pki.rsa_key(2048, 0)).decode()
    return Setting(client_secret=None, client_public_key=public, client_auth=KEY_JWT, **registered)


# Client authentication


async def test_private_key_jwt_refreshes_again_and_again(key: Path) -> None:
    """Each attempt has an assertion of its own, since the provider takes none twice (RFC 7523 §3)."""
    setting = with_key()
    grant = setting.grant(REFRESHING, Client(id="app", private_key_file=key, key_id="k1"))
    names = set()
    for _ in range(3):
        assert "access_token" in await setting.call(grant)
        names.add(setting.assertion()["jti"])
    assert len(names) == 3
    form = setting.wire.sent[-1][1]
    assert jwt.get_unverified_header(form["client_assertion"])["kid"] == "k1"
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assert form.keys() == {
        "grant_type",
        "refresh_token",
        "client_id",
        "client_assertion",
        "client_assertion_type",
    }


async def test_the_claims_are_those_of_the_rfc(key: Path) -> None:
    """Issuer and subject are the client, the audience is the token endpoint, and it counts for minutes."""
    setting = with_key()
    await setting.call(setting.grant(REFRESHING, Client(id="app", private_key_file=key)))
    claims = setting.assertion()
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("app", "app", URL)
    assert claims["exp"] - claims["iat"] == 300


@pytest.mark.parametrize("off", [59.0, -230.0])
async def test_a_clock_that_is_off_a_little_does_no_harm(key: Path, off: float) -> None:
    """Assertions are backdated, and end late enough for a clock that is behind."""
    setting = with_key()
    setting.clock.now += off
    grant = setting.grant(REFRESHING, Client(id="app", private_key_file=key))
    assert "access_token" in await setting.call(grant)


async def test_client_secret_jwt_shows_no_secret(tmp_path: Path) -> None:
    """It signs with the secret in its place (OpenID Connect Core §9)."""
    setting = Setting(client_secret=SECRET, client_auth=frozenset({ClientAuth.SECRET_JWT}))
    profile = Profile(token_url=URL, auth_method=AuthMethod.SECRET_JWT)
    assert "access_token" in await setting.call(setting.grant(profile, Client(id="app", secret=SECRET)))
    assert SECRET not in repr([*setting.wire.sent[-1][1].values()])


async def test_the_wrong_key_is_refused_and_the_grant_untouched(key: Path) -> None:
    """The same refresh token goes on with the right one, as soon as it is in the file."""
    setting = with_key()
    grant = setting.grant(REFRESHING, Client(id="app", private_key_file=key))
    put(key, 1)
    wrong = grant.credentials_fingerprint()
    assert (await setting.call(grant))["error"] == "invalid_client"
    put(key, 0)
    assert grant.credentials_fingerprint() != wrong
    assert "access_token" in await setting.call(grant)
    assert setting.provider.reused() == []


async def test_the_audience_of_a_token_is_not_that_of_the_client(key: Path) -> None:
    """What the token is for says nothing of whom the client proves itself to."""
    setting = with_key()
    client = Client(id="app", private_key_file=key)
    assert "access_token" in await setting.call(setting.grant(REFRESHING, client, audience="https://api"))
    assert setting.assertion()["aud"] == URL


async def test_the_simulated_provider_takes_no_assertion_twice_or_of_others(key: Path) -> None:
    """What the tests above rest on: a replay, another audience, an old and a future one are all refused."""
    setting = with_key()
    await setting.call(setting.grant(REFRESHING, Client(id="app", private_key_file=key)))
    form, claims = setting.wire.sent[-1][1], setting.assertion()

    def refusal(**changes: Any) -> Any:
        token = jwt.encode({**claims, **changes}, pki.pem(pki.rsa_key(2048, 0)), algorithm="RS256")
        reply = setting.provider.token({**form, "client_assertion": token})
        return json.loads(reply.body)["error_description"]

    assert "used before" in refusal()
    assert "another server" in refusal(jti="a", aud="https://other.example")
    assert "expired" in refusal(jti="b", exp=NOW - 1)
    assert "expired" in refusal(jti="c", exp=NOW + 7200)
    assert "the future" in refusal(jti="d", iat=NOW + 60)
    assert "another client" in refusal(jti="e", iss="other")
    assert "another client" in refusal(jti="f", sub="other")


# The JWT bearer grant

BEARER = Profile(token_url=URL, grant=GrantType.JWT_BEARER)


async def test_jwt_bearer_speaks_for_a_user(key: Path) -> None:
    """As Salesforce has it: the client's id, the user's name, the login server, and nothing else in the form."""
    setting = with_key()
    setting.provider.reconfigure(audience="https://login.salesforce.com")
    client = Client(id="app", private_key_file=key)
    audience, subject = "https://login.salesforce.com", "user@example.com"
    grant = setting.grant(BEARER, client, subject=subject, audience=audience)
    assert not grant.uses_refresh_token
    assert "access_token" in await setting.call(grant)
    claims, form = setting.assertion("assertion"), setting.wire.sent[-1][1]
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("app", subject, audience)
    assert "scope" not in claims
    assert form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": form["assertion"],
    }


async def test_jwt_bearer_may_prove_the_client_too(key: Path) -> None:
    """Where the configuration says how (RFC 7521 §4.1); by default the assertion is proof enough."""
    setting = with_key()
    client = Client(id="app", private_key_file=key, auth_method=AuthMethod.PRIVATE_KEY_JWT)
    assert "access_token" in await setting.call(setting.grant(BEARER, client, subject="user"))
    assert setting.assertion("client_assertion")["sub"] == "app"
    assert setting.assertion("assertion")["sub"] == "user"


async def test_jwt_bearer_signs_with_a_secret_where_there_is_no_key() -> None:
    """A symmetric signature is allowed (RFC 7523 §5)."""
    setting = Setting(client_secret=SECRET)
    assert "access_token" in await setting.call(setting.grant(BEARER, Client(id="app", secret=SECRET)))
    assert "client_secret" not in setting.wire.sent[-1][1]


ACCOUNT = "robot@project.iam.gserviceaccount.com"


def service_account_file(folder: Path, **changes: Any) -> Path:
    """Write the key of a service account as Google's console makes it."""
    document = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "0123456789abcdef",
        "private_key": pki.pem(pki.rsa_key(2048, 0)).decode(),
        "client_email": ACCOUNT,
        "client_id": "123",
        "token_uri": "https://accounts.google.com/o/oauth2/token",
    }
    path = folder / "key.json"
    path.write_text(json.dumps({**document, **changes}))
    return path


async def test_a_service_account_asks_as_googles_own_library_does(tmp_path: Path) -> None:
    """The same claims and header as google-auth's, for a user of the domain, and their times in its bounds."""
    setting = with_key()
    setting.provider.reconfigure(client_id=ACCOUNT)
    file = service_account_file(tmp_path)
    grant = setting.grant(BEARER, Client(file=file), scopes=("a", "b"), subject="user@example.com")
    assert "access_token" in await setting.call(grant)
    ours, sent = setting.assertion("assertion"), setting.wire.sent[-1][1]["assertion"]

    document = {**json.loads(file.read_text()), "token_uri": URL}
    reference = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
        document, scopes=["a", "b"], subject="user@example.com"
    )
    theirs_signed = reference._make_authorization_grant_assertion().decode()
    theirs = jwt.decode(theirs_signed, options={"verify_signature": False})
    # Ours is one of its kind by `jti`, and its times are its own.
    timeless = {"jti", "iat", "exp", "aud"}
    assert {**theirs, "jti": 0}.keys() == ours.keys()
    assert {name: theirs[name] for name in theirs.keys() - timeless} == {
        name: ours[name] for name in ours.keys() - timeless
    }
    assert jwt.get_unverified_header(sent) == jwt.get_unverified_header(theirs_signed)
    assert 0 < ours["exp"] - ours["iat"] <= 3600
    signed, _, signature = sent.rpartition(".")
    verifier = crypt.RSAVerifier.from_string(pki.public_pem(pki.rsa_key(2048, 0)))  # type: ignore[no-untyped-call]
    assert verifier.verify(signed.encode(), jwt.utils.base64url_decode(signature))


def test_the_key_of_a_service_account_goes_only_where_the_configuration_says(tmp_path: Path) -> None:
    """Whoever can change the file can't have its assertions sent to himself."""
    setting = with_key()
    grant = setting.grant(
        BEARER, Client(file=service_account_file(tmp_path, token_uri="https://evil.example"))
    )
    assert (grant.token_url, grant.client_id()) == (URL, ACCOUNT)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "authorized_user"}, "is not the key of a service account, which jwt_bearer needs"),
        ({"client_email": None}, "has no client_email or no private_key"),
        ({"private_key": None}, "has no client_email or no private_key"),
        ({"private_key": "sim-cs-0123456789abcdef"}, "holds no private key in PEM"),
        ({"private_key_id": 7}, "has a private_key_id that is not a non-empty string"),
    ],
)
async def test_a_service_account_file_that_is_none_is_explained(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    """Key, file and reason, nothing of the content; and nothing is sent."""
    setting = with_key()
    grant = setting.grant(BEARER, Client(file=service_account_file(tmp_path, **changes)))
    with pytest.raises(NotSent, match=rf"client\.file .*key\.json: {reason}") as caught:
        await setting.call(grant)
    assert caught.value.misconfigured
    assert "sim-cs" not in str(caught.value)
    assert setting.wire.sent == []


def test_the_credentials_of_an_oauth_client_are_no_service_account(tmp_path: Path) -> None:
    """Nor the other way round, where the message says which grant the file is for."""
    setting = with_key()
    grant = setting.grant(Profile(token_url=URL), Client(file=service_account_file(tmp_path)))
    with pytest.raises(
        ConfigError, match="is the key of a service account, which is for `grant: jwt_bearer`"
    ):
        grant.client_id()


# GitHub

INSTALLATIONS = "https://api.github.com/app/installations/{installation}/access_tokens"
GITHUB = Profile(
    token_url=INSTALLATIONS,
    grant=GrantType.GITHUB_INSTALLATION,
    extra_headers={"X-GitHub-Api-Version": "2022-11-28", "Authorization": "nobody"},
)


async def test_a_github_app_asks_for_its_installation(key: Path) -> None:
    """With an assertion as bearer token, in GitHub's ten minutes, and no form at all."""
    setting = with_key()
    grant = setting.grant(GITHUB, Client(id="Iv1.app", private_key_file=key), installation="42")
    await setting.call(grant)
    ((url, form, headers),) = setting.wire.sent
    assert url == grant.token_url == "https://api.github.com/app/installations/42/access_tokens"
    assert (form, grant.uses_refresh_token, grant.endpoint) == ({}, False, "https://api.github.com")
    token = headers.pop("Authorization").removeprefix("Bearer ")
    options: Any = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(token, pki.public_pem(pki.rsa_key(2048, 0)), algorithms=["RS256"], options=options)
    assert claims == {"iss": "Iv1.app", "iat": int(NOW) - 60, "exp": int(NOW) + 240}
    assert headers == {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}


def test_a_github_app_needs_an_installation(key: Path) -> None:
    """Nobody could guess which one."""
    with pytest.raises(ConfigError, match="installation: is missing"):
        with_key().grant(GITHUB, Client(id="app", private_key_file=key))
