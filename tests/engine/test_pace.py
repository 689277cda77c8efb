"""How fast a provider is called for many accounts: as it takes it, and no faster than it is known to."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import anyio
import msgspec
import pytest

from sidecar.pace import Pace
from sidecar.profile import InDoubt
from sidecar.testing import faults
from sidecar.tokens import GrantState
from tests.engine.conftest import ROTATING, House
from tests.engine.fleet import PREFIX, Fleet, connect, running

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
    """Once several were asked for it in a row, and up to a minute: an hour may be meant for one account alone."""
    pace = Pace(draw)
    fail(pace, 0.0, 1, retry_after=20.0)
    assert pace.room(0.0) == 1
    fail(pace, 0.0, 4, retry_after=20.0)
    assert (pace.room(19.0), pace.room(20.0)) == (0, 1)
    fail(pace, 20.0, 1, retry_after=3600.0)
    assert (pace.room(79.0), pace.room(80.0)) == (0, 1)


def test_a_late_answer_keeps_no_place_that_others_could_have() -> None:
    """Unless the provider is known to take no more: then it keeps its place until it comes."""
    pace, known = Pace(draw), Pace(draw, at_once=1)
    fail(pace, 0.0, 2)
    with pace.call(0.0) as is_late, known.call(0.0) as known_late:
        assert pace.room(0.0) == 0
        for late in (is_late, is_late, known_late):
            late()
        assert (pace.room(0.0), known.room(0.0)) == (1, 0)
    assert (pace.room(0.0), known.room(0.0)) == (1, 1)


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


async def test_accounts_that_are_limited_by_themselves_hold_up_no_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that asks to be left alone for a quarter of the accounts keeps the rest fresh, hour after hour."""
    await connect(house, *ACCOUNTS)
    async with running(house, monkeypatch, claims=True) as fleet:
        await anyio.sleep(600)
        limited = ACCOUNTS[::4]
        for account in limited:
            held = await house.store.load(f"{PREFIX}{account}")
            assert held is not None
            assert held.record.refresh is not None
            fault = faults.status(
                429, retry_after=60, times=None, fingerprint=held.record.refresh.fingerprint
            )
            house.provider.add_fault(fault)
        for _ in range(60):
            await anyio.sleep(180)
            for account in set(ACCOUNTS) - set(limited):
                view = fleet.board.get(f"gmail/{account}")
                assert view is not None
                assert (view.expires_at or 0) > house.clock.wall() + 300


async def test_accounts_that_get_no_answer_hold_up_no_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More calls that are never answered than there are workers: all the other accounts stay fresh."""
    await connect(house, *ACCOUNTS)
    async with running(house, monkeypatch, claims=True) as fleet:
        await anyio.sleep(600)
        for account in ACCOUNTS[:16]:
            held = await house.store.load(f"{PREFIX}{account}")
            assert held is not None
            assert held.record.refresh is not None
            house.provider.add_fault(faults.hold(times=None, fingerprint=held.record.refresh.fingerprint))
        for _ in range(60):
            await anyio.sleep(60)
            for account in ACCOUNTS[16:]:
                view = fleet.board.get(f"gmail/{account}")
                assert view is not None
                assert (view.expires_at or 0) > house.clock.wall() + 600


async def test_a_grace_is_not_waited_out(tmp_path: Path) -> None:
    """While a provider asks all to wait, a refresh token that may be used is sent again within its window."""
    house, pace = House(tmp_path, grace=30.0), Pace(draw)
    profile = msgspec.structs.replace(ROTATING, in_doubt=InDoubt.REPLAY_WINDOW, grace=30.0)
    daemon = house.daemon(profile=profile, seed=house.provider.new_grant(), pace=pace)
    house.provider.add_fault(faults.reset(processed=True))
    fail(pace, house.clock.boot(), 30)
    await daemon.run(300)
    assert daemon.state() is GrantState.OK
    assert len(house.provider.replayed()) == 1


async def test_a_limit_that_is_changed_is_kept_from_then_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload gives the set's claims and its members the new limit, and another provider on the host has its own."""
    await connect(house, *ACCOUNTS[:3])
    async with running(house, monkeypatch, claims=True, provider=", max_concurrent: 3") as fleet:
        await anyio.sleep(60)
        path = house.directory / "one.yaml"
        path.write_text(path.read_text().replace("max_concurrent: 3", "max_concurrent: 1"))
        await fleet.engine.reload()
        await anyio.sleep(60)
        claimer = fleet.engine._sets["gmail"].claimer
        assert claimer is not None
        paces = [claimer.pace, *(renewer.setup.pace for renewer in fleet.engine)]
        assert [pace.room(house.clock.boot()) if pace is not None else None for pace in paces] == [1] * 4
