"""The simulator in the shape of one provider or another."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import pytest

from sidecar import providers
from sidecar.profile import AnswerShape, ErrorRule, ExpiryKind, InDoubt, Profile
from sidecar.profile import Rotation as Knowledge
from sidecar.testing import Provider, ProviderConfig, Rotation, Simulator, shapes
from sidecar.tokens import OutcomeClass


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (Profile(), {"rotation": Rotation.ALWAYS, "grace": 0, "reuse_kills_family": True}),
        (
            Profile(rotation=Knowledge.NEVER, in_doubt=InDoubt.REPLAY_OK),
            {"rotation": Rotation.NEVER, "reuse_kills_family": False},
        ),
        (Profile(rotation=Knowledge.SOMETIMES), {"rotation": Rotation.SOMETIMES}),
        (
            Profile(rotation=Knowledge.ALWAYS, in_doubt=InDoubt.REPLAY_WINDOW, grace=30),
            {"rotation": Rotation.ALWAYS, "grace": 30, "reuse_kills_family": True},
        ),
        (Profile(in_doubt=InDoubt.REPLAY_UNTIL_USED), {"grace": math.inf, "grace_until_used": True}),
        (
            Profile(kills_old_access_token=True, default_ttl=60),
            {"kills_old_access_token": True, "access_ttl": 60},
        ),
        (Profile(zero_means_never=True), {"access_ttl": math.inf}),
        (Profile(refresh_ttl=7, refresh_idle_ttl=5), {"refresh_ttl": 7, "refresh_idle_ttl": 5}),
    ],
)
def test_a_profile_becomes_behaviour(profile: Profile, expected: dict[str, Any]) -> None:
    """What a profile says happens, and what it doesn't know happens in the way that hurts most."""
    config = ProviderConfig.like(profile)
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.profile is profile


def test_single_members_can_be_changed() -> None:
    """A test may want a profile with shorter lives."""
    config = ProviderConfig.like(providers.load("xero"), access_ttl=5, client_id="me")
    assert (config.access_ttl, config.client_id, config.grace) == (5, "me", 1800)


def answered(shape: AnswerShape, **config: Any) -> Any:
    """Return the answer to a refresh of a token that lives for a minute, by a clock that shows 1000."""
    told: dict[str, Any] = {
        "profile": Profile(answer=shape),
        "access_ttl": 60,
        "client_secret": None,
        **config,
    }
    provider = Provider(ProviderConfig(**told), now=lambda: 1000.0)
    form = {
        "grant_type": "refresh_token",
        "client_id": "sim-client",
        "refresh_token": provider.new_grant("a b"),
    }
    return provider.token(form)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (ExpiryKind.SECONDS, 60),
        (ExpiryKind.MILLISECONDS, 60000),
        (ExpiryKind.MINUTES, 1),
        (ExpiryKind.EPOCH, 1060),
        (ExpiryKind.EPOCH_MILLISECONDS, 1060000),
        (ExpiryKind.NEVER, None),
        (ExpiryKind.ABSENT, None),
    ],
)
def test_the_end_is_told_in_the_providers_way(kind: ExpiryKind, told: float | None) -> None:
    """In its unit, from now or from 1970, or not at all."""
    members = answered(AnswerShape(expires_kind=kind, expires="ends")).json()
    assert members.get("ends") == told
    assert "expires_in" not in members


def test_the_end_may_be_a_date() -> None:
    """As ISO 8601 has it, in UTC."""
    members = answered(AnswerShape(expires_kind=ExpiryKind.ISO8601)).json()
    assert members["expires_in"].endswith("Z")
    assert datetime.fromisoformat(members["expires_in"]).timestamp() == 1060


def test_zero_may_mean_never() -> None:
    """Then the answer says 0, and the token lives for ever."""
    config = ProviderConfig.like(providers.load("mailchimp"), client_secret=None)
    provider = Provider(config)
    form = {"grant_type": "refresh_token", "client_id": "sim-client", "refresh_token": provider.new_grant()}
    members = provider.token(form).json()
    assert members["expires_in"] == 0
    assert provider.is_live(members["access_token"])
    assert provider.introspect(members["access_token"])["exp"] is None


def test_members_stand_where_the_provider_puts_them() -> None:
    """In objects, in lists, beside what marks a success."""
    shape = AnswerShape(
        access_token="body.tokens.1.value",
        refresh_token="body.refresh",
        scope="granted",
        success={"status": 0},
    )
    members = answered(shape).json()
    assert members["body"]["tokens"][1]["value"].startswith("sim-at-")
    assert members["body"]["refresh"].startswith("sim-rt-")
    assert (members["granted"], members["status"]) == ("a b", 0)
    assert {"access_token", "refresh_token", "scope"}.isdisjoint(members)


def test_an_answer_may_be_a_form() -> None:
    """As GitHub's is, where JSON isn't asked for."""
    reply = answered(AnswerShape(), form_answers=True)
    assert reply.headers["Content-Type"].startswith("application/x-www-form-urlencoded")
    assert dict(parse_qsl(reply.body.decode()))["scope"] == "a b"


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("google", 400, {"error": "invalid_grant", "error_description": "gone"}),
        ("atlassian", 403, {"error": "invalid_grant", "error_description": "gone"}),
        ("github-app", 200, {"error": "bad_refresh_token", "error_description": "gone"}),
        ("hubspot", 400, {"status": "BAD_REFRESH_TOKEN", "message": "gone"}),
        ("slack", 200, {"ok": False, "error": "invalid_grant", "error_description": "gone"}),
        ("fitbit", 400, {"errors": [{"errorType": "invalid_grant", "message": "gone"}]}),
        ("zoho", 400, {"error": "invalid_code", "error_description": "gone"}),
        (
            "x",
            400,
            {"error": "invalid_request", "error_description": "Value passed for the token was invalid"},
        ),
    ],
)
def test_a_refused_token_is_refused_in_the_providers_words(
    name: str, status: int, body: dict[str, Any]
) -> None:
    """By the first rule that makes an answer suspect, and by RFC 6749 where there is none."""
    assert shapes.refusal(providers.load(name), "invalid_grant", "gone", 400) == (status, body)


def test_where_success_is_a_number_so_is_failure() -> None:
    """Withings says 0 for a success, and something else at the same place for an error, with status 200."""
    status, body = shapes.refusal(providers.load("withings"), "invalid_grant", "gone", 400)
    assert status == 200
    assert isinstance(body["status"], int)
    assert body["status"] != 0
    assert body["error"] == "gone"


def test_a_rule_becomes_a_fault() -> None:
    """With a text that its pattern finds; and where it leaves doubt, the request was processed."""
    rule = ErrorRule(outcome=OutcomeClass.IN_DOUBT, code="oops", description="one thing|another", status=418)
    fault = shapes.fault(Profile(), rule, times=2)
    assert (fault.status, fault.processed, fault.times) == (418, True, 2)
    assert json.loads(fault.body or "") == {"error": "oops", "error_description": "one thing"}


DEMANDS: list[tuple[str, dict[str, Any], int]] = [
    ("tiktok", {"data": {"client_id": "sim-client"}}, 400),
    ("tiktok", {"data": {"client_key": "sim-client"}}, 200),
    ("atlassian", {"data": {"client_id": "sim-client"}}, 400),
    ("atlassian", {"json": {"client_id": "sim-client"}}, 200),
    ("withings", {"data": {"client_id": "sim-client"}}, 200),
    ("withings", {"data": {"client_id": "sim-client", "action": "requesttoken"}}, 200),
]


@pytest.mark.parametrize(("name", "request_", "status"), DEMANDS)
def test_requests_have_to_be_the_providers(name: str, request_: dict[str, Any], status: int) -> None:
    """Parameters by its names, the body of its kind, and what else it wants: anything else is refused."""
    config = ProviderConfig.like(providers.load(name), client_secret=None)
    simulator = Simulator(config)
    ((kind, members),) = request_.items()
    members |= {"grant_type": "refresh_token", "refresh_token": simulator.provider.new_grant()}
    with simulator.serve():
        reply = httpx2.post(simulator.token_url, **{kind: members})
    assert reply.status_code == status
    if name == "withings":
        assert (reply.json()["status"] == 0) == ("action" in members)


def test_headers_can_be_demanded() -> None:
    """With their value, whatever the case of the name."""
    profile = Profile(extra_headers={"X-Version": "7"})
    assert shapes.unmet(profile, {}, {"x-version": "7"}) is None
    assert shapes.unmet(profile, {}, {}) == "the header X-Version must be 7"


def test_parameters_may_travel_in_the_url() -> None:
    """As Facebook has it, whose living tokens are exchanged while they live."""
    simulator = Simulator(ProviderConfig.like(providers.load("facebook"), client_secret=None))
    living = simulator.provider.new_living_token("email")
    asked = {"grant_type": "fb_exchange_token", "client_id": "sim-client", "fb_exchange_token": living}
    with simulator.serve():
        reply = httpx2.get(simulator.token_url, params=asked)
        assert httpx2.post(simulator.token_url, data=asked).status_code == 405
        simulator.provider.kill()
        refused = httpx2.get(simulator.token_url, params=asked)
    assert (reply.status_code, reply.json()["scope"]) == (200, "email")
    assert refused.json()["error"] == "invalid_grant"


def test_a_token_can_be_traded_in() -> None:
    """RFC 8693, with nobody asked about the subject token."""
    provider = Provider(ProviderConfig(client_secret=None))
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "client_id": "sim-client"}
    assert provider.token(form).json()["error"] == "invalid_request"
    members = provider.token({**form, "subject_token": "theirs"}).json()
    assert members["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"


def test_the_process_acts_like_a_provider(tmp_path: Path) -> None:
    """`--profile` names it, and other options change that."""
    command = [sys.executable, "-m", "sidecar.testing", "--profile", "xero", "--ttl", "5"]
    seed = tmp_path / "seed.json"
    with subprocess.Popen([*command, "--seed-file", str(seed)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        try:
            form = {"grant_type": "refresh_token", **json.loads(seed.read_text())}
            reply = httpx2.post(
                ready["token_url"], data=form | {"client_id": "sim-client", "client_secret": "no"}
            )
            # Xero takes HTTP Basic alone.
            assert reply.json()["error"] == "invalid_client"
        finally:
            process.terminate()


def test_the_process_knows_no_other_provider() -> None:
    """A slip of the pen is met with the nearest name."""
    done = subprocess.run(
        [sys.executable, "-m", "sidecar.testing", "--profile", "xeroo"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "did you mean xero?" in done.stderr
