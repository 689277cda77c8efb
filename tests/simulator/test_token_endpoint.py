"""The state machine alone: grants, rotation, grace and lifetimes on a clock that only tests move."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.testing import (
    ClientAuth,
    Fate,
    GraceAnswer,
    NoAnswer,
    Provider,
    ProviderConfig,
    Reply,
    Rotation,
    faults,
    fingerprint,
)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give each test a clock of its own."""
    return Clock()


def made(clock: Clock, **config: Any) -> Provider:
    """Make a provider with a secret that needs encoding."""
    return Provider(ProviderConfig(**{"client_secret": "sim-cs-a+b/c%:d é", **config}), now=clock)


def basic(provider: Provider, secret: str | None = None) -> str:
    """Authenticate as RFC 6749 section 2.3.1 says."""
    pair = (
        f"{quote_plus(provider.config.client_id)}:{quote_plus(secret or provider.config.client_secret or '')}"
    )
    return "Basic " + base64.b64encode(pair.encode()).decode()


def refresh(provider: Provider, token: str, **more: str) -> Reply:
    """Redeem a refresh token."""
    form = {"grant_type": "refresh_token", "refresh_token": token, **more}
    return provider.token(form, basic(provider))


def refreshed(provider: Provider, token: str, **more: str) -> Mapping[str, Any]:
    """Redeem a refresh token that must be good."""
    reply = refresh(provider, token, **more)
    assert reply.status == 200, reply.json()
    members: Mapping[str, Any] = reply.json()
    return members


def refused(reply: Reply) -> tuple[int, str]:
    """Give status and error code."""
    return reply.status, reply.json()["error"]


def test_a_refresh_answers_a_new_pair_with_recognisable_secrets(clock: Clock) -> None:
    """The answer has the members of RFC 6749 section 5.1 and may not be cached."""
    provider = made(clock, access_ttl=60)
    seed = provider.new_grant("mail.read mail.send")

    reply = refresh(provider, seed)

    members = reply.json()
    assert members["token_type"] == "Bearer"
    assert members["expires_in"] == 60
    assert members["scope"] == "mail.read mail.send"
    assert members["access_token"].startswith("sim-at-")
    assert len(members["access_token"].removeprefix("sim-at-")) >= 24
    assert members["refresh_token"].startswith("sim-rt-")
    assert members["refresh_token"] != seed
    assert reply.headers["Cache-Control"] == "no-store"


def test_client_credentials_answers_an_access_token_alone(clock: Clock) -> None:
    """There is no refresh token (RFC 6749 section 4.4.3)."""
    provider = made(clock)
    members = provider.token({"grant_type": "client_credentials", "scope": "a b"}, basic(provider)).json()
    assert provider.is_live(members["access_token"])
    assert members["scope"] == "a b"
    assert "refresh_token" not in members


def test_each_client_authentication_method_is_accepted(clock: Clock) -> None:
    """Basic, post and none all identify the client."""
    confidential = made(clock)
    public = made(clock, client_secret=None)
    form = {"grant_type": "client_credentials"}
    post = {**form, "client_id": "sim-client", "client_secret": confidential.config.client_secret or ""}

    assert confidential.token(form, basic(confidential)).status == 200
    assert confidential.token(post).status == 200
    assert public.token({**form, "client_id": "sim-client"}).status == 200
    assert [r.client_auth for r in confidential.report().requests] == [ClientAuth.BASIC, ClientAuth.POST]
    assert [r.client_auth for r in public.report().requests] == [ClientAuth.NONE]


def test_a_wrong_secret_is_401_for_basic_and_400_for_post(clock: Clock) -> None:
    """RFC 6749 section 5.2 demands 401 and a challenge only where Basic was tried."""
    provider = made(clock)
    form = {"grant_type": "client_credentials"}

    by_basic = provider.token(form, basic(provider, "wrong"))
    by_post = provider.token({**form, "client_id": "sim-client", "client_secret": "wrong"})

    assert refused(by_basic) == (401, "invalid_client")
    assert by_basic.headers["WWW-Authenticate"].startswith("Basic")
    assert refused(by_post) == (400, "invalid_client")


@pytest.mark.parametrize(
    "authorization",
    ["Bearer abc", "Basic", "Bearer YTpi", "Basic !!!", "Basic " + base64.b64encode(b"\xff").decode()],
)
def test_a_malformed_authorization_header_is_an_invalid_client(clock: Clock, authorization: str) -> None:
    """Whatever is in the header, the answer is an OAuth error."""
    provider = made(clock)
    assert refused(provider.token({"grant_type": "client_credentials"}, authorization)) == (
        401,
        "invalid_client",
    )


def test_a_method_that_is_not_configured_is_refused(clock: Clock) -> None:
    """A provider that only takes post, as Google does, refuses Basic."""
    provider = made(clock, client_auth=frozenset({ClientAuth.POST}))
    assert refused(provider.token({"grant_type": "client_credentials"}, basic(provider))) == (
        401,
        "invalid_client",
    )


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "client_credentials", "client_secret": "both"}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials", "scope": "root"}, "invalid_scope"),
        ({"grant_type": "refresh_token", "refresh_token": "sim-rt-unknown"}, "invalid_grant"),
    ],
)
def test_mistakes_have_the_error_codes_of_the_standard(
    clock: Clock, form: dict[str, str], error: str
) -> None:
    """Each mistake has its code of RFC 6749 section 5.2 at status 400."""
    provider = made(clock, scopes=frozenset({"mail"}))
    assert refused(provider.token(form, basic(provider))) == (400, error)


def test_a_refresh_may_narrow_its_scope_but_not_widen_it(clock: Clock) -> None:
    """The new refresh token keeps the whole grant (RFC 6749 section 6)."""
    provider = made(clock)
    seed = provider.new_grant("a b")
    assert refused(refresh(provider, seed, scope="a c")) == (400, "invalid_scope")
    narrow = refreshed(provider, seed, scope="a")
    assert narrow["scope"] == "a"
    assert refreshed(provider, narrow["refresh_token"])["scope"] == "a b"


def test_a_provider_that_never_rotates_omits_or_repeats_the_refresh_token(clock: Clock) -> None:
    """Both habits exist, and the old token goes on working."""
    omits = made(clock, rotation=Rotation.NEVER)
    repeats = made(clock, rotation=Rotation.NEVER, repeat_refresh_token=True)
    first, second = omits.new_grant(), repeats.new_grant()

    assert "refresh_token" not in refreshed(omits, first)
    assert refreshed(repeats, second)["refresh_token"] == second
    assert refresh(omits, first).status == 200
    assert omits.uses(first) == 2
    assert omits.reused() == [fingerprint(first)]
    assert omits.replayed() == []


def test_sometimes_rotates_at_every_nth_refresh(clock: Clock) -> None:
    """With `rotate_every` 3 the third and the sixth refresh bring a new token."""
    provider = made(clock, rotation=Rotation.SOMETIMES, rotate_every=3)
    token = provider.new_grant()
    rotated = []
    for _ in range(6):
        token, before = refreshed(provider, token).get("refresh_token", token), token
        rotated.append(token != before)
    assert rotated == [False, False, True, False, False, True]


def test_random_rotation_repeats_with_its_seed(clock: Clock) -> None:
    """Two providers with one seed rotate at the same turns, and not always."""

    def turns(seed: int) -> list[bool]:
        provider = made(clock, rotation=Rotation.SOMETIMES, rotation_probability=0.5, random_seed=seed)
        token = provider.new_grant()
        result = []
        for _ in range(30):
            members = refreshed(provider, token)
            token = members.get("refresh_token", token)
            result.append("refresh_token" in members)
        return result

    assert turns(1) == turns(1)
    assert turns(1) != turns(2)
    assert 0 < sum(turns(1)) < 30


def test_a_replaced_refresh_token_kills_the_family(clock: Clock) -> None:
    """Reuse outside of grace ends every token of the grant, and of that grant alone."""
    provider = made(clock)
    seed, other = provider.new_grant(), provider.new_grant()
    pair, others = refreshed(provider, seed), refreshed(provider, other)

    assert refused(refresh(provider, seed)) == (400, "invalid_grant")

    assert not provider.is_live(pair["access_token"])
    assert refused(refresh(provider, pair["refresh_token"])) == (400, "invalid_grant")
    assert provider.is_live(others["access_token"])
    assert provider.reused() == provider.replayed() == [fingerprint(seed)]


def test_reuse_detection_can_be_off(clock: Clock) -> None:
    """The replaced token is refused and nothing else happens."""
    provider = made(clock, reuse_kills_family=False)
    seed = provider.new_grant()
    pair = refreshed(provider, seed)
    assert refused(refresh(provider, seed)) == (400, "invalid_grant")
    assert provider.is_live(pair["access_token"])


def test_grace_answers_the_same_pair_until_its_seconds_are_over(clock: Clock) -> None:
    """A lost answer can be asked for again, within the window only."""
    provider = made(clock, grace=30, access_ttl=100)
    seed = provider.new_grant()
    pair = refreshed(provider, seed)

    clock.now += 30
    again = refreshed(provider, seed)
    assert again == {**pair, "expires_in": 70}
    assert provider.replayed() == [fingerprint(seed)]

    clock.now += 1
    assert refused(refresh(provider, seed)) == (400, "invalid_grant")


def test_grace_can_answer_a_new_pair(clock: Clock) -> None:
    """Then both successors work."""
    provider = made(clock, grace=30, grace_answer=GraceAnswer.NEW)
    seed = provider.new_grant()
    first, second = refreshed(provider, seed), refreshed(provider, seed)
    assert first["refresh_token"] != second["refresh_token"]
    assert refresh(provider, first["refresh_token"]).status == 200
    assert refresh(provider, second["refresh_token"]).status == 200


def test_the_same_pair_gets_a_living_access_token(clock: Clock) -> None:
    """A grace window longer than the access token's life doesn't answer a corpse."""
    provider = made(clock, grace=1000, access_ttl=10)
    seed = provider.new_grant()
    pair = refreshed(provider, seed)
    clock.now += 11
    again = refreshed(provider, seed)
    assert again["refresh_token"] == pair["refresh_token"]
    assert provider.is_live(again["access_token"])


@pytest.mark.parametrize("used", ["access_token", "refresh_token"])
def test_grace_ends_when_the_new_pair_is_first_used(clock: Clock, used: str) -> None:
    """Either half of the pair proves that it arrived; introspection proves nothing."""
    provider = made(clock, grace=math.inf, grace_until_used=True)
    seed = provider.new_grant()
    pair = refreshed(provider, seed)
    provider.introspect(pair["access_token"])
    clock.now += 86_400 * 29
    pair = refreshed(provider, seed)

    if used == "access_token":
        assert provider.resource(f"Bearer {pair['access_token']}").status == 200
    else:
        refreshed(provider, pair["refresh_token"])

    assert refused(refresh(provider, seed)) == (400, "invalid_grant")


def test_a_refresh_can_kill_the_old_access_token(clock: Clock) -> None:
    """Some providers revoke what the application still holds."""
    kills, spares = made(clock, kills_old_access_token=True), made(clock)
    for provider, survives in ((kills, False), (spares, True)):
        pair = refreshed(provider, provider.new_grant())
        newer = refreshed(provider, pair["refresh_token"])
        assert provider.is_live(pair["access_token"]) is survives
        assert provider.is_live(newer["access_token"])


def test_access_tokens_expire(clock: Clock) -> None:
    """At its expiry a token is refused by the resource and inactive in introspection."""
    provider = made(clock, access_ttl=10)
    token = refreshed(provider, provider.new_grant("a"))["access_token"]
    assert provider.introspect(token)["exp"] == clock.now + 10
    clock.now += 10
    assert not provider.is_live(token)
    assert provider.resource(f"Bearer {token}").status == 401
    assert provider.introspect(token) == {"active": False}


def test_the_absolute_life_of_a_grant_is_never_extended(clock: Clock) -> None:
    """Rotation hands the rest of the life on, and the answers say how much is left."""
    provider = made(clock, refresh_ttl=100, announce_refresh_expiry=True)
    members = refreshed(provider, provider.new_grant())
    assert members["refresh_token_expires_in"] == 100
    clock.now += 60
    members = refreshed(provider, members["refresh_token"])
    assert members["refresh_token_expires_in"] == 40
    clock.now += 40
    assert refused(refresh(provider, members["refresh_token"])) == (400, "invalid_grant")


def test_an_idle_refresh_token_dies_and_use_keeps_it_alive(clock: Clock) -> None:
    """The idle life starts again with each use."""
    provider = made(clock, rotation=Rotation.NEVER, refresh_idle_ttl=100)
    seed = provider.new_grant()
    for _ in range(3):
        clock.now += 99
        refreshed(provider, seed)
    clock.now += 100
    assert refused(refresh(provider, seed)) == (400, "invalid_grant")


def test_the_same_token_is_answered_until_it_is_near_its_end(clock: Clock) -> None:
    """No new token and no rotation before, both after."""
    provider = made(clock, access_ttl=100, same_token_until=20)
    seed = provider.new_grant()
    first = refreshed(provider, seed)
    clock.now += 79
    again = refreshed(provider, first["refresh_token"])
    assert again["access_token"] == first["access_token"]
    assert again["expires_in"] == 21
    assert "refresh_token" not in again
    clock.now += 1
    assert refreshed(provider, first["refresh_token"])["access_token"] != first["access_token"]


@pytest.mark.parametrize("skew", [-300.0, 300.0])
def test_a_skewed_clock_shows_in_date_and_in_introspection(clock: Clock, skew: float) -> None:
    """Lifetimes hold, absolute times are off by the skew."""
    provider = made(clock, clock_skew=skew, access_ttl=60)
    reply = refresh(provider, provider.new_grant())
    assert parsedate_to_datetime(reply.headers["Date"]).timestamp() == clock.now + skew
    assert reply.json()["expires_in"] == 60
    assert provider.introspect(reply.json()["access_token"])["exp"] == clock.now + skew + 60
    assert provider.report().requests[0].at == clock.now


def test_a_grant_belongs_to_its_client(clock: Clock) -> None:
    """A refresh token is invalid for any client id but its own."""
    provider = made(clock)
    seed = provider.new_grant()
    provider.reconfigure(client_id="another")
    assert refused(refresh(provider, seed)) == (400, "invalid_grant")


def test_a_changed_client_secret_spares_the_grant(clock: Clock) -> None:
    """invalid_client is no use of the refresh token."""
    provider = made(clock)
    seed, old = provider.new_grant(), basic(provider)
    provider.reconfigure(client_secret="sim-cs-new")
    reply = provider.token({"grant_type": "refresh_token", "refresh_token": seed}, old)
    assert refused(reply) == (401, "invalid_client")
    assert provider.uses(seed) == 0
    assert refresh(provider, seed).status == 200


@pytest.mark.parametrize("name", ["token", "fingerprint", "family", "all"])
def test_grants_can_be_killed_by_any_of_their_names(clock: Clock, name: str) -> None:
    """Every way to name a grant ends it and its access tokens."""
    provider = made(clock)
    seed = provider.new_grant()
    pair = refreshed(provider, seed)
    family = provider.report().families[0].id
    names = {"token": seed, "fingerprint": fingerprint(pair["refresh_token"]), "family": family, "all": None}

    assert provider.kill(names[name]) == 1

    assert not provider.is_live(pair["access_token"])
    assert provider.report().families[0].killed == "killed"
    assert provider.report().families[0].active_refresh_tokens == ()


def test_revocation_and_introspection_answer_authenticated_clients_only(clock: Clock) -> None:
    """RFC 7009 and RFC 7662 want the client's credentials, and revocation ends the grant."""
    provider = made(clock)
    pair = refreshed(provider, provider.new_grant())
    token = {"token": pair["refresh_token"]}
    assert provider.introspection(token).status == 400
    assert provider.revocation(token, basic(provider, "wrong")).status == 401
    assert provider.introspection(token, basic(provider)).json()["active"] is True
    assert provider.revocation({"token": pair["access_token"]}, basic(provider)).status == 200
    assert not provider.is_live(pair["access_token"])
    assert provider.revocation(token, basic(provider)).status == 200
    assert provider.revocation({"token": "unknown"}, basic(provider)).status == 200
    assert provider.introspection(token, basic(provider)).json() == {"active": False}


def test_lost_answers_are_told_from_answered_uses(clock: Clock) -> None:
    """A processed request whose answer was cut is the in-doubt case, an unprocessed one is no use."""
    provider = made(clock)
    provider.add_fault(faults.reset(), faults.status(503), faults.reset(processed=True))
    seed = provider.new_grant()
    with pytest.raises(NoAnswer):
        refresh(provider, seed)
    assert refresh(provider, seed).status == 503
    with pytest.raises(NoAnswer):
        refresh(provider, seed)

    uses = provider.report().tokens[0]
    assert (uses.presented, uses.uses, uses.answered, uses.cut, uses.replaced) == (3, 1, 0, 1, True)
    assert [r.outcome for r in provider.report().requests] == ["unprocessed", "unprocessed", "rotated"]
    assert [r.fate for r in provider.report().requests] == [Fate.CUT, Fate.ANSWERED, Fate.CUT]


def test_requests_in_flight_are_counted(clock: Clock) -> None:
    """The maximum stays after the requests have gone."""
    provider = made(clock)
    form = {"grant_type": "client_credentials"}
    exchanges = [provider.receive(form, basic(provider)) for _ in range(3)]
    assert provider.report().in_flight == 3
    for exchange in exchanges:
        exchange.process()
        exchange.answered()
        exchange.cut()
    provider.token(form, basic(provider))
    assert provider.report().in_flight == 0
    assert provider.report().max_in_flight == 3


def test_reports_and_reprs_hold_no_secret(clock: Clock) -> None:
    """Neither a token nor the client secret is in anything that is meant to be read."""
    provider = made(clock, client_secret="sim-cs-secret")
    seed = provider.new_grant()
    reply = refresh(provider, seed)
    provider.token({"grant_type": seed, "client_secret": "sim-cs-secret"})
    texts = [
        json.dumps(provider.report().as_dict()),
        repr(provider.report()),
        repr(provider.config),
        repr(reply),
    ]
    assert not [text for text in texts if "sim-at-" in text or "sim-rt-" in text or "sim-cs-" in text]


def test_a_snapshot_carries_grants_and_counts_to_another_provider(clock: Clock) -> None:
    """After a restart from JSON the same tokens work and a replay is still found out."""
    provider = made(clock)
    seed = provider.new_grant()
    pair = refreshed(provider, seed)
    heir = Provider(now=clock)
    heir.restore(json.loads(json.dumps(provider.snapshot())))
    assert heir.is_live(pair["access_token"])
    assert heir.uses(seed) == 1
    newer = refreshed(heir, pair["refresh_token"])
    assert refused(refresh(heir, seed)) == (400, "invalid_grant")
    assert not heir.is_live(newer["access_token"])


def test_changes_are_told_before_the_answer_is_out(clock: Clock) -> None:
    """Who persists the snapshot knows a rotation before the client does."""
    seen: list[dict[str, Any]] = []
    provider = Provider(ProviderConfig(), now=clock, on_change=seen.append)
    seed = provider.new_grant()
    exchange = provider.receive({"grant_type": "refresh_token", "refresh_token": seed}, basic(provider))
    reply = exchange.process()
    assert reply.json()["refresh_token"] in {token["token"] for token in seen[-1]["refresh_tokens"]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"access_ttl": 0},
        {"rotate_every": 0},
        {"grace": -1},
        {"grace_until_used": True},
        {"rotation_probability": 1.5},
        {"client_auth": frozenset({ClientAuth.NONE})},
    ],
)
def test_contradictions_in_the_configuration_are_refused(wrong: dict[str, Any]) -> None:
    """A behaviour that can't be simulated is an error when it is asked for."""
    with pytest.raises(ValueError, match=r"must|can't|needs|has no"):
        ProviderConfig(**wrong)


@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=25),
    grace=st.sampled_from([0.0, 30.0]),
)
def test_a_family_never_has_two_heads(steps: list[tuple[int, int]], grace: float) -> None:
    """Whatever is presented when, at most one refresh token of a grant is good, and none after a replay."""
    clock = Clock()
    provider = made(clock, grace=grace)
    tokens = [provider.new_grant()]
    for choice, seconds in steps:
        clock.now += seconds
        reply = refresh(provider, tokens[-1 - choice % len(tokens)])
        if reply.status == 200 and reply.json()["refresh_token"] not in tokens:
            tokens.append(reply.json()["refresh_token"])
        family = provider.report().families[0]
        assert len(family.active_refresh_tokens) == (0 if family.killed else 1)
        assert all(uses.uses == uses.answered for uses in provider.report().tokens)
