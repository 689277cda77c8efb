"""One daemon, one grant: refreshing ahead of expiry, for as long as it takes."""

from __future__ import annotations

from itertools import groupby, pairwise

import anyio
import pytest
from msgspec.structs import replace

from sidecar.events import CallFinished, OutputWritten, TurnEnded
from sidecar.profile import GrantType, Profile
from sidecar.schedule import Policy
from sidecar.testing import faults
from sidecar.tokens import AccessState, ExpirySource, GrantState, OutcomeClass
from tests.engine.conftest import EPOCH, ROTATING, STEADY, House


async def test_keeps_a_rotating_grant_alive_for_days(house: House) -> None:
    """Every reader at every moment sees more than `min_validity`, and no refresh token is used twice."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(2 * 86400)
    published = daemon.shelf.publications
    for before, after in pairwise(published):
        assert before.access.expires_at is not None
        assert before.access.expires_at - after.access.issued_at >= 600
    assert house.provider.replayed() == []
    assert 2 * 24 * 1.3 < len(daemon.grant.calls) < 2 * 24 * 1.5


async def test_says_what_it_did_and_when_the_next_turn_is(house: House) -> None:
    """The first turn's sentence tells the whole way from the seed to the file."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(1)
    assert daemon.sentences()[0].startswith("took the seed ")
    assert (
        "refreshed to generation 1; published to file:/run/tokens/gmail.json; next turn in 4"
        in daemon.sentences()[0]
    )


async def test_a_fresh_stored_token_is_published_without_a_call(house: House) -> None:
    """A restart costs the provider nothing while the stored token is fresh."""
    await house.daemon(seed=house.provider.new_grant()).run(60)
    successor = house.daemon()
    await successor.run(60)
    assert successor.grant.calls == []
    assert len(successor.shelf.publications) == 1
    assert successor.view.access_state(house.clock.wall()) is AccessState.FRESH


async def test_a_refresh_costs_two_writes(house: House) -> None:
    """The lease and the commit: whoever wrote the record last doesn't read it before the next refresh."""
    daemon = house.daemon(seed=house.provider.new_grant(), policy=Policy(refresh_at=0.0001, min_interval=9))
    await daemon.run(600)
    calls = len(daemon.grant.calls)
    assert calls == 67
    assert (house.store.loads, house.store.writes) == (1, 1 + 2 * calls)


async def test_idling_costs_one_load_a_minute(house: House) -> None:
    """However often it is woken meanwhile, as by the change of its own outputs."""
    daemon = house.daemon(seed=house.provider.new_grant())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 599)
        for _ in range(99):
            await anyio.sleep(6)
            daemon.scheduler.wake("gmail")
    assert (house.store.loads, house.store.writes) == (1 + 9, 3)


async def test_is_unseeded_until_a_seed_comes(house: House) -> None:
    """Without any refresh token nothing is called, and the view says what to do."""
    daemon = house.daemon()
    await daemon.run(300)
    assert daemon.grant.calls == []
    assert daemon.state() is GrantState.UNSEEDED
    assert "token-sidecar seed gmail" in daemon.view.remedy


async def test_client_credentials_need_no_seed(house: House) -> None:
    """A grant without refresh tokens starts by itself and is renewed like any other."""
    profile = Profile(grant=GrantType.CLIENT_CREDENTIALS)
    daemon = house.daemon(profile=profile)
    await daemon.run(3 * 3600)
    assert 4 <= len(daemon.grant.calls) <= 5
    assert daemon.state() is GrantState.OK


async def test_an_answer_that_is_late_frees_the_worker_and_is_caught(house: House) -> None:
    """Two minutes after the deadline the answer is committed and published all the same."""
    house.provider.add_fault(faults.latency(after=140))
    daemon = house.daemon(seed=house.provider.new_grant())
    freed: list[float] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.renewer.turn, lambda: freed.append(house.clock.wall() - EPOCH))
    assert freed == [20]
    assert (await house.store.record()).generation == 1
    assert len(daemon.shelf.publications) == 1


async def test_the_lease_is_renewed_while_an_answer_is_awaited(house: House) -> None:
    """Another replica that looks in meanwhile finds the lease taken, long after its first length."""
    house.provider.add_fault(faults.latency(after=200))
    first, second = house.daemon(seed=house.provider.new_grant()), house.daemon()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run, 400)
        tasks.start_soon(second.run, 400)
    assert second.grant.calls == []
    assert house.provider.replayed() == []
    assert len(second.shelf.publications) == 1


async def test_sigterm_during_a_call_sees_the_answer_home(house: House) -> None:
    """Cancelled two seconds into a call that takes ten, it still commits and publishes."""
    house.provider.add_fault(faults.latency(after=10))
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(2)
    assert (await house.store.record()).generation == 1
    assert len(daemon.shelf.publications) == 1
    assert daemon.escrow.entries() == []


@pytest.mark.parametrize("value", ["3600", 3600.0])
async def test_a_lifetime_in_another_type_is_understood(house: House, value: object) -> None:
    """PayPal sends `expires_in` as a string."""
    house.provider.add_fault(faults.expires_in(value))
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(10)
    assert daemon.view.expires_at == EPOCH + 3600


@pytest.mark.parametrize("value", [0, -5, 1])
async def test_a_dead_on_arrival_token_neither_loops_nor_replaces_a_living_one(
    house: House, value: int
) -> None:
    """The pair is committed, the provider is left alone for a while, readers keep what they have, a human is told."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    served = daemon.shelf.publications[-1].access
    house.provider.add_fault(faults.expires_in(value, times=None))
    calls = len(daemon.grant.calls)
    with anyio.move_on_after(2700):
        daemon.scheduler.wake("gmail")
        await daemon.scheduler.run()
    record = await house.store.record()
    assert record.generation > 1
    assert daemon.shelf.publications[-1].access == served
    assert 1 <= len(daemon.grant.calls) - calls <= 12
    assert house.provider.replayed() == []
    states = [event.view.grant_state for event in daemon.of(TurnEnded) if event.view.reason]
    assert states[0] is GrantState.RETRYING
    assert states[-1] is GrantState.MISCONFIGURED


async def test_an_absent_lifetime_is_assumed_and_shown_as_unknown(house: House) -> None:
    """Half an hour is assumed; no gauge may show it as if it were known."""
    house.provider.add_fault(faults.without("expires_in", times=None))
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(6000)
    assert daemon.view.expiry_known is False
    assert (await house.store.record()).access is not None
    assert 3 <= len(daemon.grant.calls) <= 5
    access = (await house.store.record()).access
    assert access is not None
    assert access.expiry_source is ExpirySource.ASSUMED


async def test_the_same_token_again_keeps_its_first_expiry(tmp_path: object) -> None:
    """A provider that repeats its token until near the end is asked at half of the remainder, not in a loop."""
    house = House(tmp_path, rotation="never", same_token_until=120)  # type: ignore[arg-type]
    daemon = house.daemon(profile=STEADY, seed=house.provider.new_grant())
    await daemon.run(3700)
    assert len({publication.access.value for publication in daemon.shelf.publications}) == 2
    assert len(daemon.grant.calls) < 14
    assert daemon.view.access_state(house.clock.wall()) is AccessState.FRESH


async def test_transient_failures_are_retried_faster_as_expiry_nears(house: House) -> None:
    """The served token stays, and the retries never come closer together than their lower bound."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    house.provider.add_fault(faults.status(503, times=None))
    daemon.scheduler.wake("gmail")
    await daemon.run(3500)
    calls = daemon.grant.calls[1:]
    gaps = [later - earlier for earlier, later in pairwise(calls)]
    assert min(gaps) >= 1
    assert len(calls) >= 5
    assert daemon.state() is GrantState.RETRYING
    assert daemon.shelf.publications[-1].generation == 1
    assert {event.outcome for event in daemon.of(CallFinished)[1:]} == {OutcomeClass.TRANSIENT}


async def test_retry_after_is_obeyed(house: House) -> None:
    """A provider that asks for ten minutes gets them."""
    house.provider.add_fault(faults.status(429, retry_after=600))
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(1300)
    first, second = daemon.grant.calls
    assert second - first >= 600


async def test_nothing_listening_is_transient_and_leaves_no_doubt(house: House) -> None:
    """Nothing was sent, so the refresh token is still good and is sent later, once."""
    daemon = house.daemon(seed=house.provider.new_grant())
    daemon.grant.unreachable = 3
    await daemon.run(1200)
    assert len(daemon.grant.calls) == 4
    assert house.provider.replayed() == []
    assert daemon.state() is GrantState.OK


async def test_a_stepped_wall_clock_is_noticed_within_a_tick(house: House) -> None:
    """When NTP moves the clock an hour ahead, the token is refreshed now and not in an hour."""
    daemon = house.daemon(seed=house.provider.new_grant())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 300)
        await anyio.sleep(100)
        house.clock.stepped = 3600
        await anyio.sleep(31)
        assert len(daemon.grant.calls) == 2


async def test_a_suspended_machine_catches_up_within_a_tick(house: House) -> None:
    """Timers stand still during suspend; the boot-time clock does not."""
    daemon = house.daemon(seed=house.provider.new_grant())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 300)
        await anyio.sleep(100)
        house.clock.suspended = 8 * 3600
        await anyio.sleep(31)
        assert len(daemon.grant.calls) == 2


async def test_any_number_of_refused_callers_cause_one_call(house: House) -> None:
    """Fifty scripts that met the same 401 share one refresh."""
    daemon = house.daemon(seed=house.provider.new_grant())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 120)
        await anyio.sleep(60)
        refused = daemon.shelf.publications[-1].access.fingerprint
        for _ in range(50):
            if daemon.renewer.refuse(refused):
                daemon.scheduler.wake("gmail")
            await anyio.sleep(0.01)
        await anyio.sleep(30)
        assert len(daemon.grant.calls) == 2
        assert daemon.renewer.refuse(refused) is False


async def test_a_failed_output_is_retried_and_holds_up_nothing(house: House) -> None:
    """The commit stands, the view says what is wrong (once), and the file is written once it can be."""
    daemon = house.daemon(seed=house.provider.new_grant())
    daemon.shelf.failing = f"{daemon.shelf.id}: no space left on device"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 200)
        await anyio.sleep(100)
        assert (await house.store.record()).generation == 1
        assert daemon.view.outputs[0].problem == "no space left on device"
        daemon.shelf.failing = ""
        await anyio.sleep(40)
        assert len(daemon.shelf.publications) == 1
    assert len(daemon.grant.calls) == 1


async def test_a_changed_configuration_is_followed_from_the_next_turn_on(house: House) -> None:
    """Another `min_interval` and `refresh_at` change the pace of a daemon that is running."""
    daemon = house.daemon(seed=house.provider.new_grant())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 300)
        await anyio.sleep(100)
        daemon.renewer.reconfigure(replace(daemon.renewer.setup, policy=Policy(refresh_at=0.01)))
        daemon.scheduler.wake("gmail")
        await anyio.sleep(199)
    assert 5 <= len(daemon.grant.calls) <= 8


async def test_idle_costs_a_look_a_minute(house: House) -> None:
    """Nothing is due, so the record is read again once a minute and nothing is written."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(1201)
    assert len([event for event in daemon.of(TurnEnded) if not event.noteworthy]) == 20
    assert house.store.writes == 3


@pytest.mark.parametrize("profile", [ROTATING, STEADY])
async def test_the_history_tells_what_happened_last_night(house: House, profile: Profile) -> None:
    """Every call leaves one line in the record; of those that went well the oldest share one, 32 in all are kept."""
    daemon = house.daemon(profile=profile, seed=house.provider.new_grant())
    await daemon.run(2 * 86400)
    seeded, *history = (await house.store.record()).history
    assert (seeded.what, len(history)) == ("seed", 31)
    assert {turn.outcome for turn in history} == {OutcomeClass.SUCCESS}
    assert history[0].times == history[0].generation > 1
    assert [turn.generation for turn in history] == list(
        range(history[0].generation, history[0].generation + 31)
    )


async def test_a_clock_set_back_makes_no_token_live_longer(house: House) -> None:
    """An hour back, and the refresh comes when it would have come; so does the next one."""
    house.provider._now = lambda: EPOCH + house.clock.boot()
    daemon = house.daemon(seed=house.provider.new_grant())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 7000)
        await anyio.sleep(100)
        house.clock.stepped = -3600
        while house.clock.boot() < 6900:
            await anyio.sleep(10)
            assert house.provider.is_live(daemon.shelf.publications[-1].access.value)
    assert len(daemon.grant.calls) == 3


async def test_a_clock_set_back_prolongs_no_back_off(house: House) -> None:
    """The provider is asked again after the minutes that it was to be left alone, not an hour later."""
    house.provider.add_fault(faults.status(429, retry_after=120))
    daemon = house.daemon(seed=house.provider.new_grant())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 300)
        await anyio.sleep(50)
        house.clock.stepped = -3600
    assert len(daemon.grant.calls) == 2
    assert daemon.view.grant_state is GrantState.OK


async def test_a_token_that_never_expires_is_kept(house: House) -> None:
    """Mailchimp's `expires_in: 0` is for ever: one call, and a look every minute."""
    house.provider.add_fault(faults.expires_in(0, times=None))
    daemon = house.daemon(profile=Profile(zero_means_never=True), seed=house.provider.new_grant())
    await daemon.run(86400)
    assert len(daemon.grant.calls) == 1
    assert daemon.view.never_expires is True
    assert daemon.view.next_wake is not None
    assert daemon.view.access_state(house.clock.wall()) is AccessState.FRESH


async def test_an_output_that_came_right_by_itself_is_told(house: House) -> None:
    """Whoever heard that it could not be written hears that it is as it should be, written or not."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    daemon.shelf.failing = "the file system is read-only"
    await daemon.run(120)
    daemon.shelf.failing = ""
    await daemon.run(120)

    outcomes = [event.outcome for event in daemon.of(OutputWritten)]
    assert [outcome for outcome, _ in groupby(outcomes)] == ["written", "failed", "unchanged"]
