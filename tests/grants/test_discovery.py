from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio.testing

from sidecar.clients.http import HttpClient, Request
from sidecar.clock import SystemClock
from sidecar.config.settings import Client, TokenSettings
from sidecar.errors import NoAnswer, NotSent
from sidecar.grants import open_grant
from sidecar.grants.discovery import DOUBTED_AGE, MAX_AGE, RETRY, RETRY_KNOWN, TIME_LIMIT, Issuers, kept
from sidecar.ports import Answer, Gate, Grant
from sidecar.profile import AuthMethod, Profile
from sidecar.tokens import RefreshToken

pytestmark = pytest.mark.anyio

ISSUER = "https://sso.example/realms/corp"
OIDC = f"{ISSUER}/.well-known/openid-configuration"
OAUTH = "https://sso.example/.well-known/oauth-authorization-server/realms/corp"
TOKEN = f"{ISSUER}/token"
SECRET = "sim-cs-0123456789abcdef"
REFRESH = RefreshToken(value="sim-rt-0123456789abcdef", issued_at=0.0)


class Clock(SystemClock):
    """A wall clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def wall(self) -> float:
        return self.now


class Web(HttpClient):
    """Documents by URL; whatever else is asked for is a token request, and answered with `status`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.documents: dict[str, Answer | Exception] = {}
        self.asked: list[str] = []
        self.posted: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.status = 200
        self.slow: set[str] = set()

    async def send(self, request: Request, *, gate: Gate, send_timeout: float) -> Answer:
        del send_timeout
        url, members, headers, method, *_ = request
        gate.open()
        if method == "GET":
            assert not members
            assert not headers
            self.asked.append(url)
            if url in self.slow:
                await anyio.sleep_forever()
            found = self.documents.get(url, answer({}, 404))
        else:
            self.posted.append((url, dict(members), dict(headers)))
            found = answer({}, self.status) if self.status else NotSent("connection refused")
        if isinstance(found, Exception):
            raise found
        return found

    def publish(self, url: str = OIDC, /, **members: Any) -> None:
        """Put up metadata; members that are None are left out."""
        document = {"issuer": ISSUER, "token_endpoint": TOKEN, **members}
        self.documents[url] = answer({name: value for name, value in document.items() if value is not None})


def answer(document: object, status: int = 200, body: bytes | None = None) -> Answer:
    """Make an answer."""
    return Answer(status, {}, json.dumps(document).encode() if body is None else body, 0.0, 0.0)


class OpenGate:
    """Holds nothing back."""

    def open(self) -> None:
        """Let everything pass."""


class House:
    """What the grants of one daemon share."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.clock = Clock()
        self.web = Web(self.clock)
        self.restart()

    def restart(self) -> None:
        """Forget everything but `state_dir`."""
        self.issuers = Issuers(self.web, self.state_dir, self.clock)

    def grant(self, client: Client | None = None, **fields: Any) -> Grant:
        """Open a grant whose profile names an issuer."""
        settings = TokenSettings(client=client or Client(id="app", secret=SECRET))
        return open_grant(settings, Profile(issuer=ISSUER, **fields), self.web, self.issuers)

    async def refused(self) -> NotSent:
        """Return the error of a call that can't be made; nothing was posted."""
        grant = self.grant()
        await grant.locate()
        with pytest.raises(NotSent) as caught:
            await grant.call(REFRESH, OpenGate(), send_timeout=1.0)
        assert (grant.endpoint, grant.token_url, self.web.posted) == ("", "", [])
        return caught.value


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Make a daemon's shared parts."""
    return House(tmp_path)


@pytest.mark.parametrize("place", [OIDC, OAUTH])
async def test_the_token_endpoint_is_found(house: House, place: str) -> None:
    """Where OpenID Connect Discovery puts the document, or where RFC 8414 does."""
    house.web.publish(place)
    grant = house.grant()
    assert (grant.endpoint, grant.token_url, grant.issuer, grant.client_id()) == ("", "", ISSUER, "app")
    await grant.locate()
    assert (grant.endpoint, grant.token_url) == ("https://sso.example", TOKEN)
    await grant.call(REFRESH, OpenGate(), send_timeout=1.0)
    [(url, members, _)] = house.web.posted
    assert (url, members["refresh_token"]) == (TOKEN, REFRESH.value)


@pytest.mark.parametrize("issuer", ["https://sso.example", "https://sso.example/"])
async def test_an_issuer_without_a_path_has_its_documents_at_the_root(house: House, issuer: str) -> None:
    """A slash at the end is not doubled, and belongs to the issuer's name."""
    house.web.publish("https://sso.example/.well-known/oauth-authorization-server", issuer=issuer)
    grant = open_grant(
        TokenSettings(client=Client(id="app")), Profile(issuer=issuer), house.web, house.issuers
    )
    await grant.locate()
    assert grant.token_url == TOKEN
    assert house.web.asked[0] == "https://sso.example/.well-known/openid-configuration"


async def test_an_endpoint_that_is_named_is_not_asked_for(house: House) -> None:
    """The configuration comes first."""
    grant = house.grant(token_url="https://other.example/token")
    await grant.locate()
    assert (grant.endpoint, grant.issuer, house.web.asked) == ("https://other.example", "", [])


async def test_all_tokens_share_one_look_an_hour(house: House) -> None:
    """However many there are, and however often they are due."""
    house.web.publish()
    grants = [house.grant() for _ in range(5)]
    for grant in grants:
        await grant.locate()
    house.clock.now += MAX_AGE - 1
    await grants[0].locate()
    assert house.web.asked == [OIDC]
    house.web.publish(token_endpoint=f"{TOKEN}/v2")
    house.clock.now += 1
    await grants[0].locate()
    await grants[1].locate()
    assert [grant.token_url for grant in grants[:2]] == [f"{TOKEN}/v2"] * 2
    assert house.web.asked == [OIDC] * 2


async def test_a_restart_does_not_need_the_issuer(house: House) -> None:
    """What was found is kept in `state_dir`, and stays good while its issuer is away."""
    house.web.publish(revocation_endpoint=f"{ISSUER}/revoke")
    await house.grant().locate()
    house.web.documents[OIDC] = NotSent("connection refused")
    house.restart()
    assert house.grant().token_url == TOKEN
    house.clock.now += 30 * MAX_AGE
    house.restart()
    grant = house.grant()
    await grant.locate()
    await grant.locate()
    assert house.web.asked == [OIDC] * 2
    await grant.call(REFRESH, OpenGate(), send_timeout=1.0)
    assert [url for url, _, _ in house.web.posted] == [TOKEN]
    found = kept(house.state_dir, ISSUER)
    assert found is not None
    assert found.metadata.revocation_endpoint == f"{ISSUER}/revoke"
    house.clock.now += RETRY_KNOWN
    await grant.locate()
    assert len(house.web.asked) == 3


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"at": 1}', b'{"at":1,"metadata":{"issuer":"x","token_endpoint":"y"}}']
)
async def test_what_is_kept_may_be_broken(house: House, content: bytes) -> None:
    """Then it is found again."""
    house.web.publish()
    await house.grant().locate()
    [file] = (house.state_dir / "issuers").iterdir()
    file.write_bytes(content)
    house.restart()
    grant = house.grant()
    assert grant.endpoint == ""
    await grant.locate()
    assert grant.token_url == TOKEN


@pytest.mark.parametrize("status", [404, 405, 410, 0])
async def test_an_endpoint_that_is_gone_is_looked_for(house: House, status: int) -> None:
    """After a minute instead of an hour, and no sooner."""
    house.web.publish()
    grant = house.grant()
    await grant.locate()
    house.web.status = status
    house.web.publish(token_endpoint=f"{TOKEN}/v2")
    try:
        await grant.call(REFRESH, OpenGate(), send_timeout=1.0)
    except NotSent:
        assert status == 0
    house.clock.now += DOUBTED_AGE - 1
    await grant.locate()
    assert grant.token_url == TOKEN
    house.clock.now += 1
    await grant.locate()
    assert grant.token_url == f"{TOKEN}/v2"


async def test_an_issuer_that_fails_is_left_alone_for_seconds(house: House) -> None:
    """A hundred tokens of one issuer don't wait for it one after another."""
    house.web.documents[OIDC] = NotSent("connection refused")
    first, second = house.grant(), house.grant()
    await first.locate()
    await second.locate()
    assert house.web.asked == [OIDC]
    house.clock.now += RETRY
    house.web.publish()
    await second.locate()
    assert second.token_url == TOKEN


@pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})], ids=["virtual"]
)
async def test_an_issuer_that_never_answers_holds_nobody_up(house: House) -> None:
    """The turn goes on after seconds, with a reason that waiting may cure."""
    house.web.slow.add(OIDC)
    began = anyio.current_time()
    error = await house.refused()
    assert anyio.current_time() - began == pytest.approx(TIME_LIMIT)
    assert (str(error), error.misconfigured) == (
        f"issuer {ISSUER}: {OIDC} did not answer in whole within 10 s",
        False,
    )
    assert house.web.asked == [OIDC]


UNREADABLE = "holds no metadata with issuer and token_endpoint; correct issuer, or name token_url"


@pytest.mark.parametrize(
    ("published", "reason", "misconfigured"),
    [
        (answer({}, 404), f"{OIDC} answered HTTP 404; correct issuer, or name token_url", True),
        (answer({}, 403), f"{OIDC} answered HTTP 403; correct issuer, or name token_url", True),
        (answer({}, 503), f"{OIDC} answered HTTP 503; it is asked again", False),
        (answer({}, 429), f"{OIDC} answered HTTP 429; it is asked again", False),
        (answer({}, 302), f"{OIDC} answered HTTP 302, a redirect, which is not followed", True),
        (answer(None, body=b"<html>"), f"{OIDC} {UNREADABLE}", True),
        (answer(None, body=b"\xff\xfe{"), f"{OIDC} {UNREADABLE}", True),
        (answer(None, body=b"[" * 100_000), f"{OIDC} {UNREADABLE}", True),
        (answer([]), f"{OIDC} {UNREADABLE}", True),
        (answer({"issuer": ISSUER}), f"{OIDC} {UNREADABLE}", True),
        (answer({"issuer": ISSUER, "token_endpoint": 7}), f"{OIDC} {UNREADABLE}", True),
        (
            answer({"issuer": "https://evil.example\n", "token_endpoint": TOKEN}),
            f"{OIDC} is of another issuer, https://evil.example?; if that is yours, name it as issuer",
            True,
        ),
        (
            answer({"issuer": f"{ISSUER}/", "token_endpoint": TOKEN}),
            f"{OIDC} is of another issuer, {ISSUER}/; if that is yours, name it as issuer",
            True,
        ),
        *(
            (
                answer({"issuer": ISSUER, "token_endpoint": url}),
                f"{OIDC} names a token endpoint to which no secret can be sent, {url}; tell the provider",
                True,
            )
            for url in (
                "http://sso.example/token",
                "/token",
                "https://a:b@sso.example/",
                "https://x/#y",
                "https://x /",
            )
        ),
        (
            NotSent("sso.example: the name does not resolve"),
            "can't be read: sso.example: the name does not",
            False,
        ),
        (
            NotSent("its certificate does not verify", misconfigured=True),
            "can't be read: its certificate",
            True,
        ),
        (NoAnswer("the connection broke"), "can't be read: the connection broke", False),
    ],
    ids=range(21),
)
async def test_what_can_not_be_used_is_explained(
    house: House,
    published: Answer | Exception,
    reason: str,
    misconfigured: bool,  # noqa: FBT001
) -> None:
    """One clear reason with the place, nothing sent to anybody, and another try when there may be better."""
    house.web.documents[OIDC] = published
    error = await house.refused()
    assert str(error).startswith(f"issuer {ISSUER}: ")
    assert reason in str(error)
    assert error.misconfigured is misconfigured
    house.clock.now += RETRY
    house.web.publish()
    grant = house.grant()
    await grant.locate()
    assert grant.token_url == TOKEN


async def test_the_second_place_helps_out(house: House) -> None:
    """A document that can't be used does not hide one that can."""
    house.web.publish(issuer="https://sso.example/{tenant}")
    house.web.publish(OAUTH)
    grant = house.grant()
    await grant.locate()
    assert grant.token_url == TOKEN


async def test_only_endpoints_that_are_fit_are_taken(house: House) -> None:
    """Members that are null or none of ours are no obstacle."""
    house.web.publish(
        revocation_endpoint="http://sso.example/revoke",
        introspection_endpoint=f"{ISSUER}/introspect",
        scopes_supported=None,
        claims_supported=["sub", 7],
    )
    document = json.loads(house.web.documents[OIDC].body)  # type: ignore[union-attr]
    house.web.documents[OIDC] = answer({**document, "device_authorization_endpoint": None})
    await house.grant().locate()
    metadata = house.issuers.issuer(ISSUER).metadata
    assert metadata is not None
    assert (
        metadata.revocation_endpoint,
        metadata.introspection_endpoint,
        metadata.device_authorization_endpoint,
    ) == (
        "",
        f"{ISSUER}/introspect",
        "",
    )


BASIC, POST = AuthMethod.BASIC, AuthMethod.POST


@pytest.mark.parametrize(
    ("supported", "client", "fields", "basic"),
    [
        (["client_secret_post", "client_secret_basic"], {}, {}, True),
        (["client_secret_post", "unheard_of"], {}, {}, False),
        (["client_secret_basic"], {}, {}, True),
        (None, {}, {}, True),
        (["private_key_jwt"], {}, {}, False),
        (["client_secret_basic"], {}, {"auth_method": POST, "sources": {"auth_method": "its page"}}, False),
        (["client_secret_basic"], {"auth_method": POST}, {}, False),
    ],
    ids=["both", "post", "basic", "silent", "neither", "the profile says", "the client says"],
)
async def test_the_client_proves_itself_as_the_issuer_takes_it(
    house: House,
    supported: list[str] | None,
    client: dict[str, Any],
    fields: dict[str, Any],
    basic: bool,  # noqa: FBT001
) -> None:
    """Where nobody named a method; RFC 8414 §2 has Basic where the issuer is silent. Nothing is tried out."""
    house.web.publish(token_endpoint_auth_methods_supported=supported)
    grant = house.grant(Client(id="app", secret=SECRET, **client), **fields)
    await grant.locate()
    await grant.call(REFRESH, OpenGate(), send_timeout=1.0)
    [(_, members, headers)] = house.web.posted
    assert ("Authorization" in headers, "client_secret" in members) == (basic, not basic)


async def test_what_a_human_should_know_is_passed_on(house: House, tmp_path: Path) -> None:
    """Whoever listens to the grant hears what the one behind it has to tell, whenever that was made."""
    paths = (tmp_path / "one", tmp_path / "two")
    for path in paths:
        path.write_text(f"{SECRET}{path.name}")
    house.web.publish()
    house.web.status = 401
    grant = house.grant(Client(id="app", secret_files=paths))
    told: list[str] = []
    grant.tell = told.append
    await grant.locate()
    await grant.call(REFRESH, OpenGate(), send_timeout=1.0)
    assert told == [
        f"client.secret_files[0] ({paths[0]}) was refused; trying client.secret_files[1] ({paths[1]})"
    ]
