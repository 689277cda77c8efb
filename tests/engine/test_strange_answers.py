"""What a daemon makes of answers that hold less than was hoped for, or nothing that it understands."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from sidecar.events import CallFinished, ScopesShrank
from sidecar.profile import AnswerShape, ErrorRule, GrantType, InDoubt, Profile, Rotation
from sidecar.standing import missing_scopes
from sidecar.tokens import AccessToken, GrantState, OutcomeClass, Record
from tests.engine.conftest import STEADY, House
from tests.engine.scripted import Scripted

HOUR = 3600.0
SEED = "sim-rt-strange0123456789"
PORTAL = (200, b"<html>Please sign in to use this network</html>")


def giving(*answers: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Answer with a new token each time, and these members one after the other, the last for ever."""
    numbers = count()

    def script(*_: object) -> dict[str, Any]:
        number = next(numbers)
        return {"access_token": f"sim-at-{number:020}", "expires_in": 3600} | answers[
            min(number, len(answers) - 1)
        ]

    return script


# Scopes.


def holding(scope: str | None, *granted: str) -> Record:
    """A record whose access token has this scope, and that was granted others before."""
    access = AccessToken("sim-at-0123456789abcdef", 0.0, None, None, scope=scope)
    return Record("l", access=access, granted=granted)


@pytest.mark.parametrize(
    ("record", "asked", "missing"),
    [
        (holding("a b"), (), ()),
        (holding("a b", "b", "c", "a"), (), ("c",)),
        (holding("a,b", "a", "b"), (), ()),
        (holding("a b"), ("b", "d"), ("d",)),
        # Whoever asks for less than before means it.
        (holding("a", "a", "b"), ("a",), ()),
        # Under other names, or not at all: Entra, Google.
        (holding("https://graph.microsoft.com/Mail.Read"), ("mail.read", "offline_access"), ()),
        (holding("https://www.googleapis.com/auth/userinfo.email openid"), ("email", "openid"), ()),
        (holding(None, "a"), ("a",), ()),
        (Record("l"), ("a",), ()),
        (None, ("a",), ()),
    ],
    ids=count(),
)
def test_a_scope_is_missing_that_was_asked_for_or_else_granted_before(
    record: Record | None, asked: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    """Compared with what the configuration asks for; where it asks for nothing, with what there once was."""
    assert missing_scopes(record, asked) == missing


async def test_scopes_that_shrink_are_told_once_and_shown(house: House) -> None:
    """It is no error: the grant is ok, the token published; but a human can see what it can't do any more."""
    grant = Scripted(house.clock, giving({"scope": "mail files"}, {"scope": "mail"}))
    daemon = house.daemon(profile=STEADY, seed=SEED, grant=grant)
    await daemon.run(6 * HOUR)
    assert daemon.of(ScopesShrank) == [ScopesShrank("gmail", ("files",))]
    assert daemon.view.missing_scopes == ("files",)
    assert daemon.state() is GrantState.OK
    assert daemon.shelf.publications[-1].access.scope == "mail"


async def test_scopes_that_come_back_are_forgotten_about(house: House) -> None:
    """What is there again isn't missing, and missing it once more is news."""
    answers = [{"scope": scope} for scope in ("a b", "a", "b a", "a")]
    daemon = house.daemon(profile=STEADY, seed=SEED, grant=Scripted(house.clock, giving(*answers)))
    await daemon.run(6 * HOUR)
    assert daemon.of(ScopesShrank) == [ScopesShrank("gmail", ("b",))] * 2


async def test_scopes_that_were_never_granted_are_told_from_the_first_answer_on(house: House) -> None:
    """The configuration asks for them, and a user unticked one."""
    grant = Scripted(house.clock, giving({"scope": "mail"}))
    daemon = house.daemon(profile=STEADY, seed=SEED, grant=grant, scopes=("mail", "files"))
    await daemon.run(60)
    assert daemon.view.missing_scopes == ("files",)


class Scoped(Scripted):
    """Names scopes, and can do without."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.named: list[bool] = []

    async def call(self, *args: Any, **kwargs: Any) -> Any:
        self.named.append(True)
        return await super().call(*args, **kwargs)

    async def call_without_scope(self, *args: Any, **kwargs: Any) -> Any:
        self.named.append(False)
        return await super().call(*args, **kwargs)


async def test_a_refused_scope_is_left_out_the_next_time(house: House) -> None:
    """What was granted may be less than what the configuration names: then the next attempt names nothing."""
    scripts = iter([(400, b'{"error": "invalid_scope"}')])
    grant = Scoped(house.clock, lambda *_: next(scripts, None) or giving({"scope": "a"})())
    daemon = house.daemon(profile=STEADY, seed=SEED, grant=grant)
    await daemon.run(600)
    assert grant.named == [True, False]
    assert daemon.state() is GrantState.OK


async def test_a_refusal_without_a_scope_is_no_reason_to_go_on_without(house: House) -> None:
    """Once without, then with it again: who corrects the configuration finds it used."""
    answers = iter(
        [b'{"error": "invalid_scope"}', b'{"error": "invalid_client"}', b'{"error": "invalid_client"}']
    )
    grant = Scoped(house.clock, lambda *_: (400, next(answers, b"{}")))
    await house.daemon(profile=STEADY, seed=SEED, grant=grant).run(600)
    assert grant.named[:3] == [True, False, True]


# Answers that are none.


async def test_a_portals_page_is_doubt_at_first_and_a_misconfiguration_after_a_quarter_of_an_hour(
    house: House,
) -> None:
    """The refresh token stays in doubt for all that follows; what a human reads is what a human can mend."""
    grant = Scripted(house.clock, lambda *_: PORTAL)
    daemon = house.daemon(profile=STEADY, seed=SEED, grant=grant)
    await daemon.run(840)
    assert daemon.state() is GrantState.IN_DOUBT
    await daemon.run(180)
    assert daemon.state() is GrantState.MISCONFIGURED
    assert "HTTP 200 that is not a JSON object, and nothing better for " in daemon.view.reason
    assert "token-sidecar check" in daemon.view.remedy
    assert daemon.view.in_doubt_since is not None
    assert {event.outcome for event in daemon.of(CallFinished)} == {OutcomeClass.IN_DOUBT}


async def test_a_misconfiguration_that_is_doubt_replays_nothing(house: House) -> None:
    """A provider that rotates may have consumed the token behind the portal's page: it isn't sent again for it."""
    profile = Profile(rotation=Rotation.ALWAYS, in_doubt=InDoubt.NO_REPLAY)
    working = giving({"refresh_token": "sim-rt-next012345678901"})
    answers = iter([True])
    grant = Scripted(house.clock, lambda *_: working() if next(answers, False) else PORTAL)
    daemon = house.daemon(profile=profile, seed=SEED, grant=grant)
    await daemon.run(3570)
    assert daemon.state() is GrantState.MISCONFIGURED
    assert len(grant.calls) == 2


async def test_a_portal_that_goes_away_leaves_nothing_behind(house: House) -> None:
    """One good answer, and all is well."""
    working, until = giving({}), {"at": float("inf")}
    grant = Scripted(house.clock, lambda now, _: PORTAL if now < until["at"] else working())
    daemon = house.daemon(profile=STEADY, seed=SEED, grant=grant)
    await daemon.run(1000)
    until["at"] = 0.0
    await daemon.run(600)
    assert daemon.state() is GrantState.OK
    assert daemon.view.in_doubt_since is None


# Whole turns by a profile's shape.


async def test_a_nested_pair_rotates_like_any_other(house: House) -> None:
    """Two days of Withings' shape: no refresh token is sent twice, none is lost."""
    shape = AnswerShape(
        access_token="body.access_token",
        refresh_token="body.refresh_token",
        expires="body.expires_in",
        success={"status": 0},
        error="status",
    )
    profile = Profile(rotation=Rotation.ALWAYS, answer=shape)
    pairs = giving({})
    numbers = count()

    def script(*_: object) -> dict[str, Any]:
        return {"status": 0, "body": pairs() | {"refresh_token": f"sim-rt-{next(numbers):020}"}}

    grant = Scripted(house.clock, script)
    daemon = house.daemon(profile=profile, seed=SEED, grant=grant)
    await daemon.run(48 * HOUR)
    assert len(grant.sent) > 60
    assert len(set(grant.sent)) == len(grant.sent)
    assert daemon.state() is GrantState.OK


@pytest.mark.parametrize("rules", [(), (ErrorRule(outcome=OutcomeClass.DEAD, status=400),)], ids=["", "rule"])
async def test_what_cannot_die_is_never_dead(house: House, rules: tuple[ErrorRule, ...]) -> None:
    """Without a refresh token a refusal is for somebody to repair, whatever a profile's rule calls it."""
    profile = replace(STEADY, grant=GrantType.CLIENT_CREDENTIALS, errors=rules)
    grant = Scripted(house.clock, lambda *_: (400, b'{"error": "invalid_grant"}'))
    daemon = house.daemon(profile=profile, grant=grant)
    await daemon.run(600)
    assert daemon.state() is GrantState.MISCONFIGURED


# A shape that nobody expected.


NESTED = {"data": {"access_token": "sim-at-nested0123456789", "refresh_token": "sim-rt-nested0123456789"}}
UNTOLD = Profile(rotation=Rotation.ALWAYS)
CORRECTED = Profile(
    rotation=Rotation.ALWAYS,
    answer=AnswerShape(access_token="data.access_token", refresh_token="data.refresh_token"),
)


def files_of(house: House, suffix: str) -> int:
    """Count the files in all escrows that end so."""
    return len(list(house.directory.rglob(f"*{suffix}")))


async def test_a_pair_in_an_unexpected_shape_is_found_when_the_profile_is_corrected(house: House) -> None:
    """The raw answer is kept beyond the commit of the doubt; a reload brings the pair, and nothing is sent again."""
    grant = Scripted(house.clock, lambda *_: NESTED)
    daemon = house.daemon(profile=UNTOLD, seed=SEED, grant=grant)
    await daemon.run(1)
    assert (daemon.state(), len(grant.sent)) == (GrantState.IN_DOUBT, 1)
    assert [files_of(house, suffix) for suffix in (".escrow", ".unread")] == [0, 1]
    daemon.renewer.reconfigure(replace(daemon.renewer.setup, profile=CORRECTED))
    daemon.scheduler.wake("gmail")
    await daemon.run(1)
    assert (daemon.state(), daemon.view.generation, grant.sent) == (GrantState.OK, 1, [SEED])
    record = await house.store.record()
    assert record.refresh is not None
    assert record.refresh.value == "sim-rt-nested0123456789"
    assert daemon.shelf.publications[-1].access.value == "sim-at-nested0123456789"
    assert files_of(house, ".unread") == 0


async def test_a_restart_with_the_corrected_profile_finds_it_too(house: House) -> None:
    """Even if the grant was found dead meanwhile: the pair in the kept answer is what is used from then on."""
    answers = iter([NESTED])
    grant = Scripted(house.clock, lambda *_: next(answers, (400, b'{"error": "invalid_grant"}')))
    daemon = house.daemon(profile=UNTOLD, seed=SEED, grant=grant, instance="one")
    await daemon.run(HOUR)
    assert daemon.state() is GrantState.DEAD
    grant.script = lambda *_: NESTED
    successor = house.daemon(profile=CORRECTED, grant=grant, instance="one")
    await successor.run(1)
    assert successor.state() is GrantState.OK
    assert grant.sent[-1] == "sim-rt-nested0123456789"


async def test_riddles_fill_no_volume(house: House) -> None:
    """Their number is bounded, and they are gone once a new pair is in the store."""
    grant = Scripted(house.clock, lambda *_: PORTAL)
    daemon = house.daemon(profile=UNTOLD, seed=SEED, grant=grant)
    await daemon.run(3 * HOUR)
    assert len(grant.sent) > 40
    assert files_of(house, ".unread") == 32
    grant.script = giving({"refresh_token": "sim-rt-fresh00123456789"})
    await daemon.run(600)
    assert daemon.state() is GrantState.OK
    assert files_of(house, ".unread") == 0


async def test_what_cannot_be_read_of_a_steady_grant_is_not_kept(house: House) -> None:
    """There is no pair in it to lose."""
    daemon = house.daemon(profile=STEADY, seed=SEED, grant=Scripted(house.clock, lambda *_: PORTAL))
    await daemon.run(60)
    assert files_of(house, ".unread") == 0
