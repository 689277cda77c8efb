"""A grant that exchanges its own access token while that lives: who misses the window has lost it (Facebook)."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from sidecar.profile import ErrorRule, GrantType, InDoubt, Profile, Rotation
from sidecar.seeds import parse
from sidecar.tokens import GrantState, OutcomeClass, RefreshToken
from tests.engine.conftest import EPOCH, House
from tests.engine.scripted import Scripted

HOUR = 3600.0
LIFE = 12 * HOUR
"""Hours stand for days: an idle daemon looks at its store every minute, and virtual time has its price too."""
FIRST = "sim-at-living-0000000000000000"
LIVING = Profile(
    title="living",
    grant=GrantType.LIVING_TOKEN,
    rotation=Rotation.SOMETIMES,
    in_doubt=InDoubt.REPLAY_OK,
    errors=(ErrorRule(outcome=OutcomeClass.DEAD, code="OAuthException"),),
)


class Exchange:
    """Gives a token of 12 hours for one that lives, and an error for one that doesn't."""

    def __init__(self, *, down: tuple[float, float] = (0.0, 0.0)) -> None:
        self.ends = {FIRST: EPOCH + HOUR}
        self.numbers = count(1)
        self.down = down

    def __call__(self, now: float, sent: RefreshToken | None) -> dict[str, Any] | tuple[int, bytes]:
        if self.down[0] <= now - EPOCH < self.down[1]:
            return 503, b""
        if sent is None or self.ends.get(sent.value, 0.0) <= now:
            return 400, b'{"error": {"type": "OAuthException", "code": 190}}'
        made = f"sim-at-living-{next(self.numbers):016}"
        self.ends[made] = now + LIFE
        return {"access_token": made, "expires_in": LIFE}


async def test_lives_on_by_exchanging_the_newest_token_early(house: House) -> None:
    """Each token is traded in long before its life is over, and none of them twice."""
    grant = Scripted(house.clock, Exchange())
    daemon = house.daemon(profile=LIVING, seed=FIRST, grant=grant)
    await daemon.run(6 * LIFE)
    assert grant.sent[0] == FIRST
    assert len(set(grant.sent)) == len(grant.sent)
    assert 12 <= len(grant.calls) <= 14
    assert daemon.state() is GrantState.OK


async def test_the_tokens_own_end_is_the_humans_deadline(house: House) -> None:
    """Whoever looks is told until when a human has to act, should no exchange succeed any more."""
    grant = Scripted(house.clock, Exchange())
    daemon = house.daemon(profile=LIVING, seed=FIRST, grant=grant)
    await daemon.run(60)
    assert daemon.view.refresh_expires_at == daemon.view.expires_at == EPOCH + LIFE


async def test_is_dead_when_the_window_was_missed(house: House) -> None:
    """A provider that is away for too long leaves nothing to exchange, and that is said."""
    grant = Scripted(house.clock, Exchange(down=(HOUR, HOUR + LIFE)))
    daemon = house.daemon(profile=LIVING, seed=FIRST, grant=grant)
    await daemon.run(LIFE + 2 * HOUR)
    assert daemon.state() is GrantState.DEAD


async def test_a_lost_answer_is_asked_for_again_with_the_same_token(house: House) -> None:
    """The old token lives on, so doubt costs nothing."""
    exchange = Exchange()
    lost = iter([True, False])
    grant = Scripted(house.clock, lambda now, sent: (502, b"") if next(lost, False) else exchange(now, sent))
    daemon = house.daemon(profile=LIVING, seed=FIRST, grant=grant)
    await daemon.run(60)
    assert grant.sent == [FIRST, FIRST]
    assert daemon.state() is GrantState.OK


@pytest.mark.parametrize("life", [0, 1])
async def test_a_token_that_comes_dead_does_not_replace_a_living_one(house: House, life: int) -> None:
    """What can't be exchanged is kept from the place of what can."""
    grant = Scripted(
        house.clock, lambda *_: {"access_token": "sim-at-living-dead00000000", "expires_in": life}
    )
    daemon = house.daemon(profile=LIVING, seed=FIRST, grant=grant)
    await daemon.run(600)
    assert set(grant.sent) == {FIRST}


async def test_nothing_but_the_access_token_is_published(house: House) -> None:
    """Outputs are handed no refresh token: there is none."""
    daemon = house.daemon(profile=LIVING, seed=FIRST, grant=Scripted(house.clock, Exchange()))
    await daemon.run(60)
    assert [publication.refresh for publication in daemon.shelf.publications] == [None]


def test_a_seed_needs_no_more_than_an_access_token() -> None:
    """What serves as the refresh token is the seed's access token, whatever else is in the file."""
    data = b'{"access_token": "%b", "expires_at": 1800003600}' % FIRST.encode()
    seeding = parse(data, where="it", written_at=EPOCH, living=True)
    assert (seeding.refresh.value, seeding.refresh.expires_at) == (FIRST, EPOCH + 3600)
    assert seeding.access is not None
    assert parse(FIRST.encode(), where="it", written_at=EPOCH, living=True).refresh.value == FIRST
