from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from sidecar.clients.http import ClientCertificate, HttpClient, Request
from sidecar.clock import SystemClock
from sidecar.config.settings import Client, SubjectToken, TokenSettings
from sidecar.errors import ConfigError, NotSent
from sidecar.grants import open_grant
from sidecar.grants.endpoint import origin
from sidecar.ports import Answer, Gate, Grant, SupportsNoScope
from sidecar.profile import AuthMethod, BodyKind, GrantType, Profile
from sidecar.tokens import RefreshToken
from tests import pki

pytestmark = pytest.mark.anyio

SECRET = "sim-cs-0123456789abcdef"
REFRESH = RefreshToken(value="sim-rt-0123456789abcdef", issued_at=0.0)
URL = "https://idp.example/token"


class Sent(NamedTuple):
    """A request as the client was given it."""

    url: str
    members: dict[str, str]
    headers: dict[str, str]
    method: str
    body: BodyKind
    send_timeout: float


class Recorder(HttpClient):
    """Answers without a network and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.sent: list[Sent] = []
        self.certificates: list[ClientCertificate | None] = []

    async def send(self, request: Request, *, gate: Gate, send_timeout: float) -> Answer:
        gate.open()
        url, members, headers, method, body, _, certificate = request
        self.sent.append(Sent(url, dict(members), dict(headers), method, body, send_timeout))
        self.certificates.append(certificate)
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


async def request_of(profile: Profile, **settings: object) -> Sent:
    """Return what a grant sends."""
    http, gate = Recorder(), OpenGate()
    grant = opened(http, profile, **settings)
    refresh = REFRESH if grant.uses_refresh_token else None
    await grant.call(refresh, gate, send_timeout=3.0)
    (sent,) = http.sent
    assert (sent.url, sent.send_timeout, gate.opened) == (URL, 3.0, 1)
    return sent


async def form_of(profile: Profile, **settings: object) -> dict[str, str]:
    """Return the members that a grant sends."""
    return (await request_of(profile, **settings)).members


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
    await grant.call_without_scope(REFRESH, gate, send_timeout=3.0)
    await grant.call(REFRESH, gate, send_timeout=3.0)
    bare, full = (request.members for request in http.sent)
    assert "scope" not in bare
    assert full == {**bare, "scope": "a b"}


def test_a_client_that_needs_no_consent_never_drops_its_scopes() -> None:
    """It would be given more than was asked for."""
    assert not isinstance(opened(Recorder(), CREDENTIALS, scopes=("a",)), SupportsNoScope)


@pytest.mark.parametrize("profile", [REFRESHING, CREDENTIALS], ids=["refresh", "credentials"])
async def test_an_audience_is_sent(profile: Profile) -> None:
    """Where one is configured."""
    assert (await form_of(profile, audience="https://api.example"))["audience"] == "https://api.example"


async def test_a_certificate_goes_with_the_request(tmp_path: Path) -> None:
    """Where the client proves itself by one; the form names the client alone."""
    pair = pki.Authority().issue("app")
    file = tmp_path / "tls.pem"
    file.write_bytes(pair.key + pair.certificate)
    http = Recorder()
    client = Client(id="app", certificate_file=file, auth_method=AuthMethod.TLS)
    await opened(http, REFRESHING, client=client).call(REFRESH, OpenGate(), send_timeout=1.0)
    assert http.certificates == [ClientCertificate(file, file)]
    assert http.sent[0].members == {
        "grant_type": "refresh_token",
        "refresh_token": REFRESH.value,
        "client_id": "app",
    }


@pytest.mark.parametrize("grant", GrantType)
def test_what_has_to_be_kept_is_known_of_every_grant(grant: GrantType) -> None:
    """A refresh token, and an access token that is the only way to the next one; the rest can be had anew."""
    kept = {GrantType.REFRESH_TOKEN, GrantType.LIVING_TOKEN}
    assert Profile(grant=grant).needs_refresh_token is (grant in kept)


async def test_client_credentials_ask_for_scopes() -> None:
    """And send no refresh token."""
    expected = {"grant_type": "client_credentials", "scope": "a b", **CLIENT}
    assert await form_of(CREDENTIALS, scopes=("a", "b")) == expected


@pytest.mark.parametrize("profile", [REFRESHING, CREDENTIALS], ids=["refresh", "credentials"])
async def test_a_resource_is_sent(profile: Profile) -> None:
    """Under the name of RFC 8707, where one is configured."""
    assert (await form_of(profile, resource="https://api.example/v1"))["resource"] == "https://api.example/v1"


async def test_members_are_renamed_last() -> None:
    """The client's as well; what a profile adds stands under the name that it has there."""
    profile = Profile(
        token_url=URL,
        param_names={"client_id": "client_key", "refresh_token": "token"},
        extra_params={"client_key": "other", "client_id": "kept"},
    )
    assert await form_of(profile) == {
        "grant_type": "refresh_token",
        "token": REFRESH.value,
        "client_key": "app",
        "client_secret": SECRET,
        "client_id": "kept",
    }


async def test_a_request_has_the_profiles_shape() -> None:
    """Method, body and headers; Notion wants the client's proof in a header and the rest as JSON."""
    profile = Profile(
        token_url=URL,
        auth_method=AuthMethod.BASIC,
        body=BodyKind.JSON,
        extra_headers={"Notion-Version": "2025-09-03"},
    )
    sent = await request_of(profile)
    assert (sent.method, sent.body) == ("POST", BodyKind.JSON)
    assert sent.members == {"grant_type": "refresh_token", "refresh_token": REFRESH.value}
    assert sent.headers.keys() == {"Authorization", "Notion-Version"}


LIVING = Profile(token_url=URL, grant=GrantType.LIVING_TOKEN, method="GET", body=BodyKind.QUERY)


async def test_a_living_token_is_exchanged_for_the_next() -> None:
    """As Facebook has it: a GET with the client's proof and the token itself."""
    sent = await request_of(LIVING, scopes=("a",), audience="nobody asked")
    assert sent.method == "GET"
    assert sent.members == {
        "grant_type": "fb_exchange_token",
        "fb_exchange_token": REFRESH.value,
        **CLIENT,
    }


async def test_a_living_token_may_have_another_name() -> None:
    """Instagram's grant and parameter are called otherwise."""
    profile = msgspec.structs.replace(
        LIVING,
        extra_params={"grant_type": "ig_refresh_token"},
        param_names={"fb_exchange_token": "access_token"},
    )
    sent = await form_of(profile)
    assert (sent["grant_type"], sent["access_token"]) == ("ig_refresh_token", REFRESH.value)


async def test_a_living_token_has_to_be_there() -> None:
    """Without one nothing is asked of the provider."""
    http = Recorder()
    with pytest.raises(NotSent, match="no living access token"):
        await opened(http, LIVING).call(None, OpenGate(), send_timeout=1.0)
    assert http.sent == []


EXCHANGE = Profile(token_url=URL, grant=GrantType.TOKEN_EXCHANGE)
SUBJECT = "sim-at-0123456789abcdef"


async def test_a_token_exchange_names_what_it_trades(tmp_path: Path) -> None:
    """Everything of RFC 8693 §2.1 that was configured; the newline of whoever wrote the file is not sent."""
    file = tmp_path / "token"
    file.write_text(f"{SUBJECT}\n")
    kind = "urn:ietf:params:oauth:token-type:id_token"
    form = await form_of(
        msgspec.structs.replace(EXCHANGE, extra_params={"requested_token_type": "urn:example:kind"}),
        subject_token=SubjectToken(file=file, type=kind),
        scopes=("a", "b"),
        audience="api",
        resource="https://api.example/",
    )
    assert form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": SUBJECT,
        "subject_token_type": kind,
        "requested_token_type": "urn:example:kind",
        "scope": "a b",
        "audience": "api",
        "resource": "https://api.example/",
        **CLIENT,
    }


async def test_a_subject_token_is_read_for_each_request(tmp_path: Path) -> None:
    """Kubelet replaces it hourly, through links; a changed one is worth another try."""
    for number in ("one", "two"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "token").write_text(f"{SUBJECT}-{number}")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "token").symlink_to("..data/token")
    http = Recorder()
    grant = opened(http, EXCHANGE, subject_token=SubjectToken(file=tmp_path / "token"))
    names = [grant.credentials_fingerprint()]
    await grant.call(None, OpenGate(), send_timeout=1.0)
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(tmp_path / "..data")
    names.append(grant.credentials_fingerprint())
    await grant.call(None, OpenGate(), send_timeout=1.0)
    assert [sent.members["subject_token"] for sent in http.sent] == [f"{SUBJECT}-one", f"{SUBJECT}-two"]
    assert names[0] != names[1]
    assert tmp_path / "token" in grant.files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist; mount the token there"),
        (b"", "is empty; whoever keeps it fresh"),
        (b" \n", "is empty"),
        (b"\xff" + SUBJECT.encode(), "is not text"),
        (f"{SUBJECT}\n{SUBJECT}".encode(), "holds more than a token"),
        (f"Bearer {SUBJECT}".encode(), "holds more than a token"),
        (b"x" * 2_000_000, "is larger than 1 MiB"),
    ],
    ids=range(7),
)
async def test_a_subject_token_that_is_none_is_not_sent(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """The call ends as a misconfiguration that names the file and quotes none of it; nothing leaves."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    http = Recorder()
    grant = opened(http, EXCHANGE, subject_token=SubjectToken(file=file))
    with pytest.raises(NotSent, match=reason) as caught:
        await grant.call(None, OpenGate(), send_timeout=1.0)
    assert caught.value.misconfigured
    assert str(caught.value).startswith(f"subject_token {file}: ")
    assert SUBJECT not in str(caught.value)
    assert caught.value.__context__ is None
    assert http.sent == []
    before = grant.credentials_fingerprint()
    file.write_text(SUBJECT)
    assert grant.credentials_fingerprint() != before


def test_a_token_exchange_needs_a_subject_token() -> None:
    """At opening, with the key that is missing."""
    with pytest.raises(ConfigError, match="subject_token: is missing"):
        opened(Recorder(), EXCHANGE)


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
