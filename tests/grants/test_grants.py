from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.clients.http import HttpClient, Sealed
from sidecar.clock import SystemClock
from sidecar.config.settings import Client, TokenSettings
from sidecar.errors import ConfigError, NotSent
from sidecar.grants import open_grant
from sidecar.grants.endpoint import origin
from sidecar.ports import Answer, Gate, Grant, SupportsNoScope
from sidecar.profile import GrantType, Profile
from sidecar.tokens import RefreshToken

pytestmark = pytest.mark.anyio

SECRET = "sim-cs-0123456789abcdef"
REFRESH = RefreshToken(value="sim-rt-0123456789abcdef", issued_at=0.0)
URL = "https://idp.example/token"


class Recorder(HttpClient):
    """Answers without a network and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.sent: list[tuple[str, dict[str, str], dict[str, str], float]] = []

    async def post_form(
        self, url: str, form: Sealed, *, gate: Gate, send_timeout: float, headers: Sealed | None = None
    ) -> Answer:
        gate.open()
        self.sent.append((url, dict(form), dict(headers or {}), send_timeout))
        return Answer(status=200, headers={}, body=b"{}", sent_at=0.0, received_at=0.0)


class OpenGate:
    """Lets everything pass, and counts."""

    opened = 0

    def open(self) -> None:
        self.opened += 1


def opened(http: HttpClient, profile: Profile, **settings: object) -> Grant:
    """Open a grant."""
    client = settings.pop("client", Client(id="app", secret=SECRET))
    return open_grant(TokenSettings(client=client, **settings), profile, http)  # type: ignore[arg-type]


async def form_of(profile: Profile, **settings: object) -> dict[str, str]:
    """Return the form that a grant sends."""
    http, gate = Recorder(), OpenGate()
    grant = opened(http, profile, **settings)
    refresh = REFRESH if grant.uses_refresh_token else None
    await grant.call(refresh, gate, send_timeout=3.0)
    ((url, form, _, send_timeout),) = http.sent
    assert (url, send_timeout, gate.opened) == (URL, 3.0, 1)
    return form


CLIENT = {"client_id": "app", "client_secret": SECRET}
REFRESHING = Profile(token_url=URL)
CREDENTIALS = Profile(token_url=URL, grant=GrantType.CLIENT_CREDENTIALS)


async def test_a_refresh_names_the_token_and_no_scope() -> None:
    """Scopes that were asked for and not granted would make every refresh fail."""
    expected = {"grant_type": "refresh_token", "refresh_token": REFRESH.value, **CLIENT}
    assert await form_of(REFRESHING, scopes=("a", "b")) == expected


async def test_a_refresh_names_the_scopes_where_the_profile_wants_them() -> None:
    """Separated by spaces (RFC 6749 §3.3)."""
    profile = Profile(token_url=URL, scope_on_refresh=True)
    assert (await form_of(profile, scopes=("a", "b")))["scope"] == "a b"
    assert "scope" not in await form_of(profile)


async def test_a_refresh_can_do_without_its_scopes() -> None:
    """For the attempt after one that was refused for them; everything else stays as it was."""
    http, gate = Recorder(), OpenGate()
    grant = opened(http, Profile(token_url=URL, scope_on_refresh=True), scopes=("a", "b"), audience="x")
    assert isinstance(grant, SupportsNoScope)
    await grant.without_scope().call(REFRESH, gate, send_timeout=3.0)
    await grant.call(REFRESH, gate, send_timeout=3.0)
    bare, full = (form for _, form, _, _ in http.sent)
    assert full == {**bare, "scope": "a b"}


def test_a_client_that_needs_no_consent_never_drops_its_scopes() -> None:
    """It would be given more than was asked for."""
    assert not isinstance(opened(Recorder(), CREDENTIALS, scopes=("a",)), SupportsNoScope)


@pytest.mark.parametrize("profile", [REFRESHING, CREDENTIALS], ids=["refresh", "credentials"])
async def test_an_audience_is_sent(profile: Profile) -> None:
    """Where one is configured."""
    assert (await form_of(profile, audience="https://api.example"))["audience"] == "https://api.example"


async def test_client_credentials_ask_for_scopes() -> None:
    """And send no refresh token."""
    expected = {"grant_type": "client_credentials", "scope": "a b", **CLIENT}
    assert await form_of(CREDENTIALS, scopes=("a", "b")) == expected


async def test_extra_parameters_never_replace_ours() -> None:
    """A profile may add, and cannot send another token or secret than the configured one."""
    profile = Profile(
        token_url=URL, extra_params={"type": "refresh", "refresh_token": "other", "client_secret": "other"}
    )
    form = await form_of(profile)
    assert form == {
        "grant_type": "refresh_token",
        "refresh_token": REFRESH.value,
        "type": "refresh",
        **CLIENT,
    }


async def test_a_refresh_without_a_token_is_not_sent() -> None:
    """Nothing is asked of the provider."""
    http = Recorder()
    with pytest.raises(NotSent, match="no refresh token"):
        await opened(http, REFRESHING).call(None, OpenGate(), send_timeout=1.0)
    assert http.sent == []


async def test_a_client_that_cannot_be_read_is_not_sent(tmp_path: Path) -> None:
    """The call ends as a misconfiguration that names the file, and nothing leaves."""
    http = Recorder()
    grant = opened(http, REFRESHING, client=Client(id="app", secret_file=tmp_path / "secret"))
    with pytest.raises(NotSent, match=r"client\.secret_file .*create it") as caught:
        await grant.call(REFRESH, OpenGate(), send_timeout=1.0)
    assert caught.value.misconfigured
    assert http.sent == []


def test_the_credentials_fingerprint_follows_the_file(tmp_path: Path) -> None:
    """It changes with the secret, and never raises while the file is missing."""
    file = tmp_path / "secret"
    grant = opened(Recorder(), REFRESHING, client=Client(id="app", secret_file=file))
    seen = [grant.credentials_fingerprint()]
    for secret in (SECRET, SECRET + "x"):
        file.write_text(secret)
        seen.append(grant.credentials_fingerprint())
    assert len(set(seen)) == 3
    assert grant.credentials_fingerprint() == seen[-1]


def test_a_grant_tells_what_it_is_bound_to(tmp_path: Path) -> None:
    """Endpoint, client and the files to watch."""
    grant = opened(
        Recorder(), REFRESHING, client=Client(id_file=tmp_path / "id", secret_file=tmp_path / "secret")
    )
    (tmp_path / "id").write_text("app")
    (tmp_path / "secret").write_text(SECRET)
    assert (grant.endpoint, grant.token_url, grant.client_id()) == ("https://idp.example", URL, "app")
    assert grant.files == (tmp_path / "id", tmp_path / "secret")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://IdP.example:443/token?x=y", "https://idp.example"),
        ("https://idp.example:8443/token", "https://idp.example:8443"),
        ("http://127.0.0.1:80/", "http://127.0.0.1"),
        ("https://[::1]:9/", "https://[::1]:9"),
        ("https://user:pw@idp.example/", "https://idp.example"),
    ],
)
def test_an_origin_has_one_spelling(url: str, expected: str) -> None:
    """Records are bound to it, so case and default ports must not matter."""
    assert origin(url) == expected


@pytest.mark.parametrize(
    "url", ["", "idp.example/token", "https://", "ftp://idp.example", "https://idp:x/", "https://[::1"]
)
def test_an_endpoint_that_is_none_is_refused(url: str) -> None:
    """At opening, before any token is at stake."""
    with pytest.raises(ConfigError, match="token_url"):
        opened(Recorder(), Profile(token_url=url))
