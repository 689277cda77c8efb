from __future__ import annotations

import base64
import json
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import pytest

from sidecar import providers
from sidecar.config.settings import Client
from sidecar.enrol.code import NotOurs
from sidecar.errors import (
    ConsentFailed,
    ConsentRefused,
    NoAnswer,
    NotSent,
    SidecarError,
    TemporarilyUnavailable,
    UsageError,
)
from sidecar.profile import AuthMethod
from sidecar.testing import Consent
from tests.enrol.conftest import BASE, PROFILE, REDIRECT, Desk, MakeDesk

ISSUER = msgspec.structs.replace(PROFILE, issuer=BASE)


def edited(query: str, **changes: str | None) -> str:
    """Change members of a query; None takes one away."""
    members: dict[str, str | None] = {**dict(parse_qsl(query)), **changes}
    return urlencode({name: value for name, value in members.items() if value is not None})


def with_id_token(token: Any, answer: dict[str, Any]) -> dict[str, Any]:
    """Put another ID token into an answer."""
    return {**answer, "id_token": token}


async def test_a_consent_brings_the_whole_pair(desk: Desk) -> None:
    """Refresh token, access token with its end and scopes, and to which client and endpoint they belong."""
    authorization = await desk.ask()
    seeding = await authorization.redeem(authorization.code(desk.browse(authorization)))

    assert seeding.access is not None
    assert desk.simulated.is_live(seeding.access.value)
    assert seeding.refresh.value.startswith("sim-rt-")
    assert seeding.access.expires_at == pytest.approx(desk.clock.wall() + 3600, abs=60)
    assert seeding.access.scopes == ("mail.read",)
    assert (seeding.client_id, seeding.endpoint) == ("sim-client", BASE)


async def test_the_request_is_that_of_the_standards(desk: Desk) -> None:
    """Code, PKCE with S256, an unguessable state that is never the same, and nothing secret in what is shown of it."""
    first, second = [dict(parse_qsl(urlsplit((await desk.ask()).url).query)) for _ in range(2)]

    assert first | {"state": "", "code_challenge": ""} == {
        "response_type": "code",
        "client_id": "sim-client",
        "redirect_uri": REDIRECT,
        "scope": "mail.read",
        "state": "",
        "code_challenge": "",
        "code_challenge_method": "S256",
    }
    assert len(first["state"]) >= 43
    assert first["state"] != second["state"]
    assert first["code_challenge"] != second["code_challenge"]
    asked = await desk.ask("openid")
    assert asked.url.count("nonce=") == 1
    secret = {"state", "code_challenge", "nonce"}
    shown = dict(parse_qsl(urlsplit(asked.shown).query))
    assert {name for name, value in shown.items() if value == "..."} == secret


async def test_what_a_provider_wants_besides(make_desk: MakeDesk) -> None:
    """Parameters, scopes, names and separators are the profile's, and can't take the place of ours."""
    google = providers.load("google")
    desk = make_desk(
        msgspec.structs.replace(google, authorization_params={**google.authorization_params, "state": "x"})
    )
    asked = dict(parse_qsl(urlsplit((await desk.ask()).url).query))
    assert (asked["access_type"], asked["prompt"], len(asked["state"])) == ("offline", "consent", 43)

    desk.with_profile(
        msgspec.structs.replace(
            PROFILE,
            authorization_url=f"{BASE}/authorize?tenant=7",
            param_names={"client_id": "client_key"},
            scope_separator=",",
            consent_scopes=("offline", "mail.read"),
            pkce=False,
        ),
        audience="api",
        scopes=("mail.read", "mail.send"),
    )
    asked = dict(parse_qsl(urlsplit((await desk.ask()).url).query))
    assert asked["scope"] == "mail.read,mail.send,offline"
    assert (asked["client_key"], asked["audience"], asked["tenant"]) == ("sim-client", "api", "7")
    assert asked.keys().isdisjoint({"client_id", "code_challenge"})


async def test_without_scopes_of_its_own_a_token_keeps_those_it_had(desk: Desk) -> None:
    """Scopes that were granted before are asked for again, unless the configuration says which."""
    assert desk.provider.scopes(["mail.send"]) == ("mail.read",)
    desk.with_profile(PROFILE, scopes=())
    assert desk.provider.scopes(["mail.send", "mail.read"]) == ("mail.send", "mail.read")


@pytest.mark.parametrize(
    "change",
    [
        {"state": None},
        {"state": ""},
        {"state": "forged"},
        {"state": "é"},
        {"state": None, "code": "sim-rt-code-0123456789abcdef"},
        {"state": "forged", "error": "access_denied"},
    ],
)
async def test_a_forged_answer_changes_nothing(change: dict[str, str | None], desk: Desk) -> None:
    """Without this request's state it isn't this request's answer, and the right one is still taken."""
    authorization = await desk.ask()
    right = desk.browse(authorization)

    with pytest.raises(NotOurs):
        authorization.code(edited(right, **change))
    assert authorization.code(right)


async def test_members_that_come_twice_are_no_answer(desk: Desk) -> None:
    """Whoever puts a second state, or a second code, beside the right one isn't listened to."""
    authorization = await desk.ask()
    right = desk.browse(authorization)
    many = "&".join(f"m{number}=1" for number in range(40))

    for query in (
        f"{right}&state=x",
        f"code=x&{right}",
        f"{right}&{many}",
        f"{right}&x={'x' * 20_000}",
        "%ff=%ff",
    ):
        with pytest.raises(NotOurs):
            authorization.code(query)
    assert authorization.code(right)


async def test_an_answer_counts_once(desk: Desk) -> None:
    """A replayed redirect is nobody's answer."""
    authorization = await desk.ask()
    right = desk.browse(authorization)
    authorization.code(right)

    with pytest.raises(NotOurs):
        authorization.code(right)
    with pytest.raises(NotOurs):
        authorization.pasted("sim-rt-code-0123456789abcdef")


async def test_another_requests_code_is_refused(desk: Desk) -> None:
    """A code that somebody else got, put beside the right state, doesn't fit the proof key (RFC 7636)."""
    attacker, victim = await desk.ask(), await desk.ask()
    stolen = dict(parse_qsl(desk.browse(attacker)))["code"]
    code = victim.code(edited(desk.browse(victim), code=stolen))

    with pytest.raises(ConsentFailed, match=r"invalid_grant; nothing was changed; the code was used"):
        await victim.redeem(code)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        ("access_denied", ConsentRefused, 3),
        ("temporarily_unavailable", TemporarilyUnavailable, 4),
        ("invalid_scope", ConsentFailed, 1),
    ],
)
async def test_an_error_is_told_as_the_provider_words_it(
    error: str, kind: type[SidecarError], code: int, desk: Desk
) -> None:
    """With the exit code of the contract, on one line, in bounds, and not as terminals would read it."""
    authorization = await desk.ask()
    query = edited(
        desk.browse(authorization), code=None, error=error, error_description="\x1b[2J no\n" + "x" * 900
    )

    with pytest.raises(kind) as caught:
        authorization.code(query)
    assert caught.value.exit_code == code
    assert f"{error} (?[2J no?xxx" in str(caught.value)
    assert len(str(caught.value)) < 500


async def test_a_pasted_answer_is_judged_like_another(desk: Desk) -> None:
    """The whole address, its query, or the code alone; a wrong state isn't taken."""
    authorization = await desk.ask()
    query = desk.browse(authorization)

    for wrong in ("", "two words", f"{REDIRECT}?{edited(query, state='x')}", "\x1b"):
        with pytest.raises(NotOurs):
            authorization.pasted(wrong)
    assert authorization.pasted(f" {REDIRECT}?{query}\n").startswith("sim-rt-code-")
    assert (await desk.ask()).pasted("sim-rt-code-1/2") == "sim-rt-code-1/2"
    desk.with_profile(msgspec.structs.replace(PROFILE, pkce=False))
    with pytest.raises(NotOurs, match="copy the whole address"):
        (await desk.ask()).pasted("sim-rt-code-1/2")


@pytest.mark.parametrize("place", ["javascript:alert(1)//example", "file:///etc/passwd", "provider.example"])
async def test_an_issuers_document_sends_nobody_off_the_web(make_desk: MakeDesk, place: str) -> None:
    """A browser is led to web addresses alone, whatever the issuer publishes."""
    desk = make_desk(msgspec.structs.replace(ISSUER, authorization_url=""))
    desk.wire.documents["/.well-known/openid-configuration"] = {
        "issuer": BASE,
        "token_endpoint": f"{BASE}/token",
        "authorization_endpoint": place,
    }
    with pytest.raises(UsageError, match="the authorization endpoint of Example is not known"):
        await desk.ask()


async def test_mixed_up_providers_are_noticed(make_desk: MakeDesk) -> None:
    """An answer that names another issuer, or none though this one promised to, is refused with its code (RFC 9207)."""
    desk = make_desk(ISSUER, issuer="https://attacker.example")
    authorization = await desk.ask()
    with pytest.raises(ConsentFailed, match=r"names 'https://attacker.example' as its issuer, and not"):
        authorization.code(desk.browse(authorization))

    desk = make_desk(msgspec.structs.replace(ISSUER, authorization_url=""))
    desk.wire.documents["/.well-known/openid-configuration"] = {
        "issuer": BASE,
        "token_endpoint": f"{BASE}/token",
        "authorization_endpoint": f"{BASE}/authorize",
        "authorization_response_iss_parameter_supported": True,
    }
    authorization = await desk.ask()
    with pytest.raises(ConsentFailed, match="names no issuer"):
        authorization.code(desk.browse(authorization))
    desk.simulated.reconfigure(issuer=BASE)
    authorization = await desk.ask()
    assert authorization.code(desk.browse(authorization))
    assert [path for _, path, _ in desk.wire.sent].count("/token") == 0


def forged(**claims: Any) -> Any:
    """Change what an answer's ID token says."""

    def reshape(answer: dict[str, Any]) -> dict[str, Any]:
        head, body, proof = answer["id_token"].split(".")
        told = json.loads(base64.urlsafe_b64decode(body + "==")) | claims
        text = base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")
        return {**answer, "id_token": f"{head}.{text}.{proof}"}

    return reshape


@pytest.mark.parametrize(
    ("claims", "account"),
    [
        ({"email": "a@example.com", "preferred_username": "a"}, "a@example.com"),
        ({"preferred_username": "a"}, "a"),
        ({}, "user"),
        ({"email": "", "preferred_username": 7, "sub": "x\ny"}, ""),
        ({"email": "é" * 300}, "é" * 255),
    ],
)
async def test_an_id_token_tells_who_consented(
    make_desk: MakeDesk, claims: dict[str, Any], account: str
) -> None:
    """By the name that people know first; what no page could show is left out."""
    desk = make_desk(ISSUER, issuer=BASE)
    desk.wire.reshape = forged(**claims)
    authorization = await desk.ask("openid")
    seeding = await authorization.redeem(authorization.code(desk.browse(authorization)))
    assert seeding.account == account


async def test_without_openid_nobody_is_named(make_desk: MakeDesk) -> None:
    """An ID token that nobody asked for is not looked at: it could not be told from somebody else's."""
    desk = make_desk(ISSUER, issuer=BASE)
    desk.wire.reshape = partial(with_id_token, "a.b.c")
    authorization = await desk.ask("mail.read")
    seeding = await authorization.redeem(authorization.code(desk.browse(authorization)))
    assert seeding.account == ""


async def test_an_id_token_has_to_be_ours(make_desk: MakeDesk) -> None:
    """Nonce, audience and issuer are compared where `openid` was asked for."""
    desk = make_desk(ISSUER, issuer=BASE)
    authorization = await desk.ask("openid", "mail.read")
    seeding = await authorization.redeem(authorization.code(desk.browse(authorization)))
    assert seeding.access is not None
    assert seeding.access.scopes == ("openid", "mail.read")
    for claims, told in (
        ({"nonce": "x"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"aud": "other"}, "another client"),
        ({"aud": ["other"]}, "another client"),
        ({"iss": "https://attacker.example"}, "another issuer"),
    ):
        desk.wire.reshape = forged(**claims)
        authorization = await desk.ask("openid")
        with pytest.raises(ConsentFailed, match=told):
            await authorization.redeem(authorization.code(desk.browse(authorization)))
    for broken in ("x", "a.b", "a.%.c", 7):
        desk.wire.reshape = partial(with_id_token, broken)
        authorization = await desk.ask("openid")
        with pytest.raises(ConsentFailed, match="nonce"):
            await authorization.redeem(authorization.code(desk.browse(authorization)))


async def test_without_a_refresh_token_nothing_is_taken(make_desk: MakeDesk) -> None:
    """Google without `prompt=consent` gives none: the error says so, and how to get one."""
    google = providers.load("google")
    ours = msgspec.structs.replace(google, authorization_url=f"{BASE}/authorize", token_url=f"{BASE}/token")
    wanted = tuple(google.authorization_params.items())
    desk = make_desk(
        msgspec.structs.replace(ours, authorization_params={"access_type": "offline"}),
        refresh_token_params=wanted,
    )
    authorization = await desk.ask()
    with pytest.raises(ConsentFailed) as caught:
        await authorization.redeem(authorization.code(desk.browse(authorization)))
    assert "gave an access token but no refresh token, so nothing was stored" in str(caught.value)
    assert "with authorization_params {access_type: offline}" in str(caught.value)
    assert "Google for `authorization_params: {access_type: offline, prompt: consent}`" in str(caught.value)
    assert "sim-" not in str(caught.value)

    desk.with_profile(ours)
    authorization = await desk.ask()
    assert (await authorization.redeem(authorization.code(desk.browse(authorization)))).fingerprint


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (NotSent("provider.example: connection refused"), TemporarilyUnavailable),
        (NoAnswer("provider.example: the connection broke"), TemporarilyUnavailable),
        (NotSent("its certificate does not verify", misconfigured=True), ConsentFailed),
    ],
)
async def test_a_provider_that_does_not_answer(
    problem: NotSent | NoAnswer, kind: type[SidecarError], desk: Desk
) -> None:
    """What waiting cures has another exit code than what it doesn't."""
    authorization = await desk.ask()
    desk.wire.problems = [problem]
    with pytest.raises(kind, match="nothing was changed"):
        await authorization.redeem(authorization.code(desk.browse(authorization)))


async def test_the_clients_mistakes_are_told(make_desk: MakeDesk) -> None:
    """A wrong secret is named as one."""
    desk = make_desk()
    desk.simulated.reconfigure(client_secret="sim-cs-0123456789abcdef")
    authorization = await desk.ask()
    with pytest.raises(ConsentFailed, match="invalid_client; nothing was changed; the client's id or secret"):
        await authorization.redeem(authorization.code(desk.browse(authorization)))


async def test_a_client_without_a_secret_is_as_good(make_desk: MakeDesk) -> None:
    """A public client is proved by its key alone (RFC 8252 §8.4)."""
    profile = msgspec.structs.replace(PROFILE, auth_method=AuthMethod.NONE)
    desk = make_desk(profile, client_secret=None)
    authorization = await desk.ask()
    assert (await authorization.redeem(authorization.code(desk.browse(authorization)))).fingerprint


async def test_what_is_not_known_is_asked_for(desk: Desk) -> None:
    """A profile without the endpoint says which key would name it."""
    desk.with_profile(msgspec.structs.replace(PROFILE, authorization_url=""))
    with pytest.raises(UsageError, match="name it as `authorization_url`"):
        await desk.ask()


async def test_a_user_who_refuses(make_desk: MakeDesk) -> None:
    """The refusal is told as such, and no request for tokens follows."""
    desk = make_desk(consent=Consent.REFUSED)
    authorization = await desk.ask()
    with pytest.raises(ConsentRefused, match="the consent was refused: access_denied"):
        authorization.code(desk.browse(authorization))
    assert desk.wire.sent == []


async def test_the_next_secret_is_shown(desk: Desk, tmp_path: Path) -> None:
    """While a client's secret is being replaced, a consent isn't lost to the one that came first."""
    files = (tmp_path / "old", tmp_path / "new")
    for file, secret in zip(
        files, ("sim-cs-0123456789abcdef", desk.simulated.config.client_secret), strict=True
    ):
        file.write_text(secret or "", encoding="utf-8")
        file.chmod(0o600)
    desk.with_profile(PROFILE, client=Client(id="sim-client", secret_files=files))
    authorization = await desk.ask()
    assert (await authorization.redeem(authorization.code(desk.browse(authorization)))).fingerprint
    files[1].write_text("sim-cs-fedcba9876543210", encoding="utf-8")
    authorization = await desk.ask()
    with pytest.raises(ConsentFailed, match="invalid_client"):
        await authorization.redeem(authorization.code(desk.browse(authorization)))
