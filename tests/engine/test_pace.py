"""How fast a provider is called for many accounts: as it takes it, and no faster than it is known to."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import anyio
import pytest

from sidecar.pace import Pace
from sidecar.testing import faults
from sidecar.tokens import GrantState
from tests.engine.conftest import House
from tests.engine.fleet import Fleet, connect, running

ACCOUNTS = [f"user-{number:02}" for number in range(40)]
OUTAGE = 7200.0


def draw() -> float:
    """Stand for a die."""
    return 0.0


def fail(pace: Pace, now: float, calls: int, **asked: float) -> None:
    """Make so many calls at once that the provider can't take."""
    with ExitStack() as stack:
        for _ in range(calls):
            stack.enter_context(pace.call(now))
        for _ in range(calls):
            pace.judge(now, refused=True, **asked)


def succeed(pace: Pace, now: float) -> None:
    """Make one call that comes to something."""
    with pace.call(now):
        pace.judge(now, refused=False)


def test_a_provider_that_takes_no_more_is_asked_for_less() -> None:
    """Refusals in a row make a pause that grows, and one call at a time thereafter; each success makes room for one."""
    pace = Pace(draw, at_once=8)
    assert pace.room(0.0) == 8
    fail(pace, 0.0, 8)
    assert (pace.room(7.9), pace.room(8.0)) == (0, 1)
    with pace.call(8.0):
        assert pace.room(8.0) == 0
    for room in (2, 3, 4):
        succeed(pace, 9.0)
        assert pace.room(9.0) == room


def test_one_refusal_is_one_accounts_own() -> None:
    """Others go on; a provider that is down for long is asked once a minute."""
    pace = Pace(draw)
    fail(pace, 0.0, 4)
    assert pace.room(0.0) >= 1
    fail(pace, 0.0, 30)
    assert (pace.room(59.0), pace.room(60.0)) == (0, 1)


def test_a_wait_that_was_asked_for_is_kept_by_all() -> None:
    """Up to a minute: an hour may be meant for one account alone."""
    pace = Pace(draw)
    fail(pace, 0.0, 1, retry_after=20.0)
    assert (pace.room(19.0), pace.room(20.0)) == (0, 1)
    fail(pace, 20.0, 1, retry_after=3600.0)
    assert (pace.room(79.0), pace.room(80.0)) == (0, 1)


def test_a_rate_is_kept_in_any_second() -> None:
    """Whoever begins a call whenever there is room begins no more than so many in any second, and no fewer in all."""
    pace, begun, now = Pace(draw, rate=5.0), list[float](), 0.0
    while now < 30:
        while pace.room(now) >= 1:
            succeed(pace, now)
            begun.append(now)
        now += 0.05
    assert len(begun) >= 140
    assert max(sum(at <= other < at + 0.99 for other in begun) for at in begun) <= 5
    slow = Pace(draw, rate=0.1)
    succeed(slow, 0.0)
    assert (slow.room(9.9), slow.room(10.0)) == (0, 1)


def calls(fleet: Fleet) -> list[float]:
    """Tell when the provider was called."""
    return [at for grant in fleet.grants for at in grant.calls]


async def test_a_burst_after_two_hours_is_no_storm(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the provider is down it is asked about once a minute; back again, everybody is served in minutes."""
    await connect(house, *ACCOUNTS)
    async with running(house, monkeypatch, claims=True, provider=", max_concurrent: 3") as fleet:
        await anyio.sleep(600)
        house.provider.add_fault(faults.status(503, times=None))
        began = house.clock.wall()
        await anyio.sleep(OUTAGE)
        during = [at for at in calls(fleet) if at > began]
        assert len(during) < OUTAGE / 60 + 40
        house.provider.clear_faults()
        back = house.clock.wall()
        await anyio.sleep(180)
        views = [fleet.board.get(f"gmail/{account}") for account in ACCOUNTS]
        assert {view.grant_state for view in views if view is not None} == {GrantState.OK}
        after = [at for at in calls(fleet) if at > back]
        assert len(after) == len(ACCOUNTS)
        assert max(Counter(int(at) for at in after).values()) <= 60
    assert house.provider.replayed() == []


async def test_no_more_calls_are_made_than_are_allowed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a set whose accounts are due at once, no more than `max_rate` a second, and all in the end."""
    await connect(house, *ACCOUNTS)
    async with running(house, monkeypatch, claims=True, provider=", max_rate: 2") as fleet:
        await anyio.sleep(60)
        made = calls(fleet)
        assert len(made) == len(ACCOUNTS)
        assert max(sum(at <= other < at + 5 for other in made) for at in made) <= 12
