"""No fault of ours burns a refresh token: crashes, lost answers, stores that fail, replicas that race."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from msgspec.structs import replace

from sidecar import rotation, schedule
from sidecar.errors import SeedError, StoreError, Unwritten
from sidecar.escrow import Slip
from sidecar.events import CallFinished, CommitFinished, GrantDied, SeedRefused
from sidecar.ports import Foreign, Held, Seeding, Store
from sidecar.profile import ErrorRule, InDoubt, Profile, Rotation
from sidecar.schedule import Policy
from sidecar.testing import Rotation as ProviderRotation
from sidecar.testing import faults
from sidecar.tokens import (
    AccessState,
    AccessToken,
    GrantState,
    OutcomeClass,
    Record,
    RefreshToken,
    fingerprint,
)
from tests.engine.conftest import EPOCH, KEY, ROTATING, STEADY, Daemon, FaultyStore, House, Killed

GRACEFUL = Profile(rotation=Rotation.ALWAYS, in_doubt=InDoubt.REPLAY_WINDOW, grace=60)
UNTIL_USED = Profile(rotation=Rotation.ALWAYS, in_doubt=InDoubt.REPLAY_UNTIL_USED)
KILLS_OLD = Profile(rotation=Rotation.ALWAYS, kills_old_access_token=True)


# Crashes


def has_attempt(record: Record) -> bool:
    """Recognise the write of an intent."""
    return record.attempt is not None


def has_second_generation(record: Record) -> bool:
    """Recognise the commit of the second refresh."""
    return record.generation == 2


@pytest.mark.parametrize("moment", [has_attempt, has_second_generation])
async def test_a_crash_at_the_store_loses_nothing(house: House, moment: Callable[[Record], bool]) -> None:
    """Killed at the intent or at the commit, the successor carries on at once and replays nothing."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one")
    await daemon.run(60)
    house.store.kill_at = moment
    daemon.scheduler.wake("gmail")
    await daemon.die()
    successor = house.daemon(instance="one")
    await successor.run(3600)
    assert house.provider.replayed() == []
    assert successor.state() is GrantState.OK
    assert successor.view.generation >= 2
    assert successor.escrow.entries() == []


async def test_a_crash_between_lease_and_request_leaves_no_doubt(house: House) -> None:
    """Escrow says that nothing was sent, so the successor sends at once instead of waiting for the expiry."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one")
    daemon.grant.kill_before_send = True
    await daemon.die()
    successor = house.daemon(instance="one")
    await successor.run(10)
    assert successor.state() is GrantState.OK
    assert house.provider.replayed() == []


async def test_a_crash_before_escrow_was_armed_leaves_no_doubt(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An own attempt that escrow does not know was never sent."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one")
    await daemon.run(0)
    record = Record(
        lineage="l",
        refresh=RefreshToken(house.provider.new_grant(), EPOCH),
        client_id="sim-client",
        endpoint="https://provider.example",
    )
    from sidecar.rotation import intended

    await house.store.edit(intended(record, "one", EPOCH))
    successor = house.daemon(instance="one")
    await successor.run(10)
    assert successor.state() is GrantState.OK
    assert len(successor.grant.calls) == 1


async def test_a_crash_after_sending_is_in_doubt_until_the_access_token_ends(house: House) -> None:
    """With no way to replay, what is left of the access token is used up before the grant is risked."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one")
    await daemon.run(60)
    daemon.grant.kill_after_send = True
    daemon.scheduler.wake("gmail")
    await daemon.die()
    killed_at = house.clock.wall()
    successor = house.daemon(instance="one")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(successor.run, 3600)
        await anyio.sleep(60)
        assert successor.state() is GrantState.IN_DOUBT
        assert successor.view.access_state(house.clock.wall()) is AccessState.FRESH
        assert successor.grant.calls == []
    expiry = daemon.shelf.publications[-1].access.expires_at
    assert expiry is not None
    assert killed_at < expiry - 60 < successor.grant.calls[0] < expiry
    assert successor.state() is GrantState.DEAD


async def test_a_crash_after_sending_recovers_within_the_grace_window(tmp_path: Path) -> None:
    """A provider that forgives a replay for a minute is asked again at once, and the grant lives."""
    house = House(tmp_path, grace=60)
    daemon = house.daemon(profile=GRACEFUL, seed=house.provider.new_grant(), instance="one")
    daemon.grant.kill_after_send = True
    await daemon.die()
    successor = house.daemon(profile=GRACEFUL, instance="one")
    await successor.run(30)
    assert successor.state() is GrantState.OK
    assert successor.view.generation == 1


async def test_another_instances_doubt_is_left_alone_for_longer(house: House) -> None:
    """Its holder may come back with the pair, so a stranger waits for the expiry and six minutes more."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one")
    daemon.grant.kill_after_send = True
    await daemon.die()
    stranger = house.daemon(instance="two")
    await stranger.run(500)
    assert 360 <= stranger.grant.calls[0] - EPOCH < 380


async def test_a_holder_that_comes_back_with_the_pair_ends_the_doubt(house: House) -> None:
    """Killed with the answer in escrow, restarted five minutes later: the pair is committed, nothing is sent."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one")
    house.store.kill_at = lambda record: record.generation == 1
    await daemon.die()
    stranger = house.daemon(instance="two")
    await stranger.run(300)
    assert stranger.grant.calls == []
    successor = house.daemon(instance="one")
    await successor.run(10)
    assert successor.grant.calls == []
    assert successor.view.generation == 1
    assert successor.state() is GrantState.OK


# Answers that are lost


async def test_a_reset_before_processing_is_survived(house: House) -> None:
    """In doubt, resent once before the access token ends, and well."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    house.provider.add_fault(faults.reset(processed=False))
    daemon.scheduler.wake("gmail")
    await daemon.run(3600)
    assert [event.outcome for event in daemon.of(CallFinished)] == ["success", "in_doubt", "success"]
    assert daemon.state() is GrantState.OK
    assert daemon.view.in_doubt_since is None


async def test_steady_grants_are_replayed_at_once(tmp_path: Path) -> None:
    """A refresh token that never changes can't be burnt."""
    house = House(tmp_path, rotation="never")
    house.provider.add_fault(faults.status(500))
    daemon = house.daemon(profile=STEADY, seed=house.provider.new_grant())
    await daemon.run(30)
    assert len(daemon.grant.calls) == 2
    assert daemon.state() is GrantState.OK


async def test_doubt_survives_a_definite_refusal(house: House) -> None:
    """A 503 to the second try says nothing about what became of the first."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    house.provider.add_fault(faults.reset(processed=False), faults.status(503))
    daemon.scheduler.wake("gmail")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 5000)
        await daemon.grant.called(3)
        await anyio.sleep(0.5)
        assert daemon.state() is GrantState.IN_DOUBT
        since = daemon.view.in_doubt_since
        assert since is not None
        assert since < daemon.grant.calls[2] - 600
        await anyio.sleep(1000)
        assert daemon.state() is GrantState.OK


# Stores that fail


async def test_without_a_lease_nothing_is_sent(house: House) -> None:
    """A rotating grant is not refreshed while the store is down, even when its access token expires."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    house.store.down = True
    daemon.scheduler.wake("gmail")
    await daemon.run(4000)
    assert len(daemon.grant.calls) == 1
    assert daemon.view.access_state(house.clock.wall()) is AccessState.EXPIRED
    house.store.down = False
    daemon.scheduler.wake("gmail")
    await daemon.run(10)
    assert daemon.view.access_state(house.clock.wall()) is AccessState.FRESH
    assert house.provider.replayed() == []


async def test_a_grant_that_never_rotates_goes_on_without_the_store(tmp_path: Path) -> None:
    """There is nothing to lose, so mail goes out; the record follows when the store is back."""
    house = House(tmp_path, rotation="never")
    daemon = house.daemon(profile=STEADY, seed=house.provider.new_grant())
    await daemon.run(60)
    house.store.down = True
    daemon.scheduler.wake("gmail")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 20000)
        await anyio.sleep(10000)
        assert len(daemon.shelf.publications) >= 4
        assert daemon.view.access_state(house.clock.wall()) is AccessState.FRESH
        house.store.down = False
        await anyio.sleep(30)
        assert (await house.store.record()).generation >= 4
        assert daemon.state() is GrantState.OK


async def test_a_commit_that_fails_is_published_and_retried_for_ever(house: House) -> None:
    """The store goes down between lease and commit for two hours: readers are served, the pair is not lost."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    house.provider.add_fault(faults.latency(after=1))
    daemon.scheduler.wake("gmail")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 20000)
        await daemon.grant.called(2)
        house.store.down = True
        await anyio.sleep(5)
        assert daemon.state() is GrantState.UNPERSISTED
        assert daemon.shelf.publications[-1].generation == 2
        # The holder may refresh again from escrow: that token exists nowhere else.
        await anyio.sleep(7200)
        assert daemon.shelf.publications[-1].generation >= 4
        assert daemon.view.access_state(house.clock.wall()) is AccessState.FRESH
        house.store.down = False
        await anyio.sleep(10)
        assert (await house.store.record()).generation >= 4
        assert daemon.state() is GrantState.OK
    assert house.provider.replayed() == []
    assert daemon.escrow.entries() == []


async def test_an_uncommitted_chain_survives_a_crash(house: House) -> None:
    """Two rotations in escrow and none in the store: the successor commits the newer one."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one")
    await daemon.run(60)
    house.provider.add_fault(faults.latency(after=1))
    daemon.scheduler.wake("gmail")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 20000)
        await daemon.grant.called(2)
        house.store.down = True
        await daemon.grant.called(3)
        await anyio.sleep(10)
        tasks.cancel_scope.cancel()
    assert len(daemon.escrow.entries()) == 2
    house.store.down = False
    successor = house.daemon(instance="one")
    await successor.run(60)
    assert successor.view.generation == 3
    assert successor.grant.calls == []
    assert successor.escrow.entries() == []
    await house.daemon(instance="one").run(3600)
    assert house.provider.replayed() == []


async def test_a_commit_whose_reply_was_lost_is_recognised(house: House) -> None:
    """The record holds our pair already: that is success, and no conflict."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    daemon.scheduler.wake("gmail")
    house.provider.add_fault(faults.latency(after=1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 3000)
        await daemon.grant.called(2)
        house.store.lose_replies = 1
    assert [event.outcome for event in daemon.of(CommitFinished)] == ["committed", "failed", "committed"]
    assert (await house.store.record()).generation == 2
    assert daemon.state() is GrantState.OK


async def test_an_intent_whose_reply_was_lost_leaves_no_doubt(house: House) -> None:
    """Nothing was sent, though the store says that something was about to be."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    house.store.lose_replies = 1
    daemon.scheduler.wake("gmail")
    await daemon.run(2800)
    assert daemon.view.generation == 2
    assert OutcomeClass.IN_DOUBT not in {event.outcome for event in daemon.of(CallFinished)}


async def test_a_provider_that_waits_for_the_new_pair_is_not_hurried(house: House) -> None:
    """While the commit fails the old pair is still good there, and using the new one would end that."""
    daemon = house.daemon(profile=UNTIL_USED, seed=house.provider.new_grant())
    await daemon.run(60)
    house.provider.add_fault(faults.latency(after=1))
    daemon.scheduler.wake("gmail")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 3600)
        await daemon.grant.called(2)
        house.store.down = True
        await anyio.sleep(60)
        first = daemon.shelf.publications[-1]
        assert first.generation == 1
        await anyio.sleep(first.access.seconds_left(house.clock.wall()) - daemon.view.min_validity + 60)
        assert daemon.shelf.publications[-1].generation == 2


async def test_a_provider_that_kills_the_old_token_is_published_before_the_commit(house: House) -> None:
    """What the readers hold is dead already, so the commit is not waited for."""
    daemon = house.daemon(profile=KILLS_OLD, seed=house.provider.new_grant())
    seen: list[int] = []
    write = house.store.write

    async def watching(key: str, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        if record.generation == 1:
            seen.append(len(daemon.shelf.publications))
        return await write(key, record, expected=expected, lease=lease)

    house.store.write = watching  # type: ignore[method-assign]
    await daemon.run(10)
    assert seen == [1]


async def test_a_write_that_was_not_read_is_found_by_the_lease(house: House) -> None:
    """A record that somebody replaced since it was written is read before anything of it is sent."""
    daemon = house.daemon(seed=house.provider.new_grant(), policy=Policy(refresh_at=0.0001, min_interval=10))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 15)
        await anyio.sleep(5)
        record, loads = await house.store.record(), house.store.loads
        seeding = Seeding(RefreshToken(house.provider.new_grant(), house.clock.wall()))
        planted = rotation.seeded(record, seeding, client_id=record.client_id, endpoint=record.endpoint)
        await house.store.edit(planted)
    assert house.store.loads == loads + 1
    assert record.refresh is not None
    assert house.provider.uses(record.refresh.value) == 0
    assert house.provider.uses(seeding.refresh.value) == 1


async def test_a_rolled_back_store_is_healed_by_who_knows_better(house: House) -> None:
    """A failover that brings a spent refresh token back is undone before anybody sends it."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    old = await house.store.record()
    daemon.scheduler.wake("gmail")
    await daemon.run(3000)
    await house.store.edit(old)
    daemon.scheduler.wake("gmail")
    await daemon.run(8000)
    assert house.provider.replayed() == []
    assert (await house.store.record()).generation > 2


async def test_an_emptied_store_does_not_bring_a_spent_seed_back(house: House) -> None:
    """The output index remembers that this daemon published before: the seed is refused, with the way out."""
    seed = house.provider.new_grant()
    daemon = house.daemon(seed=seed, instance="one")
    await daemon.run(60)
    held = await house.store.inner.load(KEY)
    assert held is not None
    await house.store.inner.delete(KEY, expected=held.version)
    successor = house.daemon(seed=seed, instance="one", shelf=daemon.shelf)
    await successor.run(600)
    assert successor.grant.calls == []
    assert "restore the store" in successor.of(SeedRefused)[0].reason
    assert successor.state() is GrantState.UNSEEDED


async def fallen_back(house: House, **options: Any) -> tuple[Daemon, Record]:
    """Let a daemon refresh three times, and put the record of after the first time back; returns both."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one", **options)
    await daemon.run(60)
    old = await house.store.record()
    await daemon.run(7000)
    assert (await house.store.record()).generation == 3
    await house.store.edit(old)
    return daemon, old


async def test_a_restarted_daemon_does_not_trust_a_store_that_fell_back(house: House) -> None:
    """What was published tells that the refresh token in the store is spent: nothing is sent, nor published."""
    daemon, old = await fallen_back(house)
    published = len(daemon.shelf.publications)
    successor = house.daemon(instance="one", shelf=daemon.shelf)
    await successor.run(6 * 3600)
    assert successor.grant.calls == []
    assert len(daemon.shelf.publications) == published
    assert successor.state() is GrantState.IN_DOUBT
    assert "generation 3 was published here, and it holds generation 1" in successor.view.reason
    assert "token-sidecar seed gmail" in successor.view.reason
    assert await house.store.record() == old


async def test_a_hold_ends_when_the_newer_record_is_back(house: House) -> None:
    """Another daemon, or a restored copy, brings it: the next turn goes on from there."""
    daemon, _ = await fallen_back(house)
    newest = daemon.renewer.record
    assert newest is not None
    successor = house.daemon(instance="one", shelf=daemon.shelf)
    await successor.run(60)
    await house.store.edit(newest)
    await successor.run(7000)
    assert house.provider.replayed() == []
    assert (await house.store.record()).generation > 3
    assert successor.state() is GrantState.OK


async def test_a_hold_is_dared_by_a_human_once(house: House) -> None:
    """`refresh NAME` sends what the store holds, and a new seed ends the hold without that."""
    daemon, old = await fallen_back(house)
    successor = house.daemon(instance="one", shelf=daemon.shelf)
    await successor.run(60)
    assert old.access is not None
    assert successor.renewer.refuse(old.access.fingerprint)
    successor.scheduler.wake("gmail")
    await successor.run(600)
    assert len(successor.grant.calls) == 1
    fresh = house.provider.new_grant()
    await successor.renewer.plant(Seeding(RefreshToken(fresh, house.clock.wall())), origin="command")
    successor.scheduler.wake("gmail")
    await successor.run(60)
    assert successor.state() is GrantState.OK
    assert house.provider.uses(fresh) == 1


async def test_a_store_from_before_the_last_consent_brings_no_spent_seed_back(house: House) -> None:
    """Restored from before a re-seed, it does not know that the seed was used; what was published does."""
    daemon = house.daemon(seed=house.provider.new_grant(), instance="one")
    await daemon.run(60)
    old = await house.store.record()
    second = house.provider.new_grant()
    daemon.renewer.setup.seed.value = second  # type: ignore[union-attr]
    daemon.scheduler.wake("gmail")
    await daemon.run(60)
    await house.store.edit(old)
    successor = house.daemon(seed=second, instance="one", shelf=daemon.shelf)
    await successor.run(7000)
    assert successor.grant.calls == []
    assert "of an older lineage" in successor.view.reason
    assert house.provider.uses(second) == 1


async def test_a_grant_that_can_not_be_burnt_is_not_held(tmp_path: Path) -> None:
    """Where a refresh token may be sent again, a store that fell back holds up nobody."""
    house = House(tmp_path, rotation=ProviderRotation.NEVER)
    daemon, _ = await fallen_back(house, profile=STEADY)
    successor = house.daemon(profile=STEADY, instance="one", shelf=daemon.shelf)
    await successor.run(7000)
    assert len(successor.grant.calls) >= 2
    assert successor.state() is GrantState.OK


async def test_who_heals_waits_for_who_knows_more(house: House) -> None:
    """A replica that missed the last rotation brings back a spent token; it uses that only after all have looked."""
    newest = house.daemon(seed=house.provider.new_grant())
    await newest.run(60)
    first = await house.store.record()
    laggard = house.daemon()
    await newest.run(3000)
    await laggard.run(60)
    second = third = await house.store.record()
    while third.generation == 2:
        await newest.run(10)
        third = await house.store.record()
    assert [one.generation for one in (first, second, third)] == [1, 2, 3]

    await house.store.edit(first)
    laggard.scheduler.wake("gmail")
    await laggard.run(5)
    assert (await house.store.record()).generation == 2
    assert schedule.HEALED in laggard.sentences()[-1]
    assert schedule.HEALED in laggard.view.reason
    # One that was just started, and has nothing to heal, waits as well.
    other = house.daemon()
    await other.run(20)
    assert schedule.HEALED in other.view.reason
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(newest.run, 300)
        tasks.start_soon(laggard.run, 300)
    assert house.provider.replayed() == []
    assert (await house.store.record()).refresh == third.refresh


async def test_a_seed_by_hand_keeps_an_older_seed_file_out(house: House) -> None:
    """The record is lost, and a human consents again: the spent seed that still lies there does not come after it."""
    seed = house.provider.new_grant()
    daemon = house.daemon(seed=seed, instance="one")
    await daemon.run(60)
    held = await house.store.inner.load(KEY)
    assert held is not None
    await house.store.inner.delete(KEY, expected=held.version)
    successor = house.daemon(seed=seed, instance="one", shelf=daemon.shelf)
    fresh = house.provider.new_grant()
    await successor.renewer.plant(Seeding(RefreshToken(fresh, house.clock.wall())), origin="command")
    await successor.run(7000)
    assert (house.provider.uses(seed), house.provider.uses(fresh)) == (1, 1)
    assert successor.state() is GrantState.OK


async def test_a_seed_by_hand_does_not_forget_what_a_lost_record_knew(house: House) -> None:
    """The row is deleted under a running daemon, which is told a new seed before it looked: nothing is forgotten."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(3000)
    known = await house.store.record()
    held = await house.store.inner.load(KEY)
    assert held is not None
    await house.store.inner.delete(KEY, expected=held.version)
    fresh = house.provider.new_grant()
    await daemon.renewer.plant(Seeding(RefreshToken(fresh, house.clock.wall())), origin="command")
    assert known.spent < (await house.store.record()).spent


# Replicas


async def test_replicas_share_one_grant(house: House) -> None:
    """Five daemons on one store for half a day: one call per lifetime, everybody publishes, no replay."""
    daemons = [house.daemon(seed=house.provider.new_grant())] + [house.daemon() for _ in range(4)]
    async with anyio.create_task_group() as tasks:
        for daemon in daemons:
            tasks.start_soon(daemon.run, 12 * 3600)
    calls = sum(len(daemon.grant.calls) for daemon in daemons)
    assert calls < 12 * 1.5
    assert house.provider.replayed() == []
    assert house.provider.report().max_in_flight == 1
    for daemon in daemons:
        assert daemon.view.access_state(house.clock.wall()) is AccessState.FRESH
        assert daemon.state() is GrantState.OK


async def test_a_long_outage_does_not_let_a_replica_pass_the_holder_of_the_pair(house: House) -> None:
    """Back after a quarter of an hour: others first watch whether the pair is brought, however old the doubt."""
    holder = house.daemon(seed=house.provider.new_grant())
    others = [house.daemon() for _ in range(3)]
    house.provider.add_fault(faults.latency(after=1))
    async with anyio.create_task_group() as tasks:
        for daemon in (holder, *others):
            tasks.start_soon(daemon.run, 1800)
        await holder.grant.called(1)
        house.store.down = True
        write = house.store.write

        async def without_the_holder(
            key: str, record: Record, *, expected: str | None, lease: float = 0.0
        ) -> str:
            if record.generation:
                raise StoreError("connection refused")
            return await write(key, record, expected=expected, lease=lease)

        await anyio.sleep(900)
        house.store.write = without_the_holder  # type: ignore[method-assign]
        house.store.down = False
        await anyio.sleep(300)
        house.store.write = write  # type: ignore[method-assign]
    assert sum(len(daemon.grant.calls) for daemon in others) <= 2
    assert house.provider.replayed() == []
    assert {daemon.view.grant_state for daemon in (holder, *others)} == {GrantState.OK}


async def test_a_commit_that_may_have_been_made_is_not_built_upon(house: House) -> None:
    """Its reply is lost along with the way to the store: only the other replica, which sees the pair, uses it."""
    cut_off, other = house.daemon(seed=house.provider.new_grant()), house.daemon()
    await cut_off.run(60)
    house.provider.add_fault(faults.latency(after=1))
    cut_off.scheduler.wake("gmail")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cut_off.run, 20000)
        await cut_off.grant.called(2)
        severed = Severed(house.store)
        cut_off.renewer._ledger._store = cast("Store", severed)
        tasks.start_soon(other.run, 19000)
        await anyio.sleep(7000)
        assert len(other.grant.calls) >= 2
        assert len(cut_off.grant.calls) == 2
        severed.away = False
        await anyio.sleep(60)
        assert cut_off.state() is GrantState.OK
    assert house.provider.replayed() == []


async def test_what_a_predecessor_may_have_committed_is_not_built_upon(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it could clear its escrow, and started again without the store: others may use that pair."""
    holder, other = house.daemon(seed=house.provider.new_grant(), instance="one"), house.daemon()

    def killed(_: Slip) -> None:
        raise Killed

    monkeypatch.setattr(Slip, "release", killed)
    await holder.die()
    monkeypatch.undo()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other.run, 3500)
        successor = house.daemon(instance="one")
        severed = Severed(house.store)
        successor.renewer._ledger._store = cast("Store", severed)
        tasks.start_soon(successor.run, 3500)
        await anyio.sleep(3400)
        assert len(other.grant.calls) == 1
        assert successor.grant.calls == []
        severed.away = False
    assert house.provider.replayed() == []


class Severed:
    """One daemon's way to the store, which breaks with the next write: that is made, and nobody learns of it."""

    kind = "memory"
    volatile = True

    def __init__(self, store: FaultyStore) -> None:
        self.store = store
        self.away = True
        self.lost = 0

    async def load(self, key: str) -> Held | None:
        if self.away:
            raise Unwritten("connection refused")
        return await self.store.load(key)

    async def write(self, key: str, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        if self.away and self.lost:
            raise Unwritten("connection refused")
        version = await self.store.write(key, record, expected=expected, lease=lease)
        if self.away:
            self.lost += 1
            raise StoreError("the reply was lost")
        return version


async def test_a_replica_does_not_replay_what_a_stranger_may_have_used(house: House) -> None:
    """Where the old pair lives until the new one is used, only its own caller knows that nobody has it."""
    holder = house.daemon(profile=UNTIL_USED, seed=house.provider.new_grant(), instance="one")
    house.store.kill_at = lambda record: record.generation == 1
    await holder.die()
    stranger = house.daemon(profile=UNTIL_USED, instance="two")
    await stranger.run(300)
    assert stranger.grant.calls == []


async def test_a_replica_replays_within_the_grace_what_a_dead_one_took_with_it(tmp_path: Path) -> None:
    """The holder is gone with the answer and its `state_dir`; once its lease has ended the provider is asked again."""
    house = House(tmp_path, grace=60)
    holder = house.daemon(profile=GRACEFUL, seed=house.provider.new_grant(), instance="one")
    house.store.kill_at = lambda record: record.generation == 1
    await holder.die()
    stranger = house.daemon(profile=GRACEFUL, instance="two")
    await stranger.run(60)
    assert [round(at - EPOCH) for at in stranger.grant.calls] == [20]
    assert (stranger.state(), stranger.view.generation) == (GrantState.OK, 1)
    assert [family.killed for family in house.provider.report().families] == [None]


async def test_who_failed_within_the_grace_waits_for_the_first_holder_all_the_same(tmp_path: Path) -> None:
    """Both requests are lost: the first holder may still bring the pair, and its six minutes are waited for."""
    house = House(tmp_path, grace=60)
    holder = house.daemon(profile=GRACEFUL, seed=house.provider.new_grant(), instance="one")
    house.store.kill_at = lambda record: record.generation == 1
    await holder.die()
    stranger = house.daemon(profile=GRACEFUL, instance="two")
    stranger.grant.kill_before_send = True
    await stranger.die()
    await anyio.sleep(60)
    again = house.daemon(profile=GRACEFUL, instance="two")
    await again.run(300)
    assert again.grant.calls == []
    await again.run(120)
    assert len(again.grant.calls) == 1


async def test_a_lost_reply_to_a_renewal_does_not_give_the_lease_away(house: House) -> None:
    """The holder waits four minutes for its answer; nobody calls meanwhile, though one reply was lost."""
    house.provider.add_fault(faults.latency(after=250))
    first, second = house.daemon(seed=house.provider.new_grant()), house.daemon()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run, 400)
        tasks.start_soon(second.run, 400)
        await first.grant.called(1)
        await anyio.sleep(100)
        house.store.lose_replies = 1
        await anyio.sleep(100)
        held = await house.store.inner.load(KEY)
        assert held is not None
        assert held.lease_left > 0
    assert second.grant.calls == []
    assert first.view.grant_state is GrantState.OK


async def test_sigterm_at_the_lease_leaves_no_intent_behind(house: House) -> None:
    """The other replicas would have to wait for it, past the end of the access token."""
    daemon = house.daemon(seed=house.provider.new_grant())
    write = house.store.write

    async def slow(key: str, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        version = await write(key, record, expected=expected, lease=lease)
        await anyio.sleep(5)
        return version

    house.store.write = slow  # type: ignore[method-assign]
    await daemon.run(7)
    record = await house.store.record()
    assert record.attempt is None
    assert record.generation == 1


async def test_a_provider_that_seems_not_to_rotate_is_not_called_without_a_lease(house: House) -> None:
    """Nobody knows it: it may rotate every other time, and two replicas would both be asking."""
    house.provider.reconfigure(rotation="sometimes", rotate_every=2)
    daemon = house.daemon(profile=Profile(), seed=house.provider.new_grant())
    await daemon.run(60)
    assert (await house.store.record()).rotates is False
    house.store.down = True
    daemon.scheduler.wake("gmail")
    await daemon.run(7200)
    assert len(daemon.grant.calls) == 1


async def test_an_uncommitted_access_token_gives_no_right_to_the_refresh_token(house: House) -> None:
    """The answer brought no new refresh token, so the one in hand is everybody's: no lease, no call."""
    house.provider.reconfigure(rotation="sometimes", rotate_every=2)
    daemon = house.daemon(profile=Profile(), seed=house.provider.new_grant())
    house.provider.add_fault(faults.latency(after=1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 7200)
        await daemon.grant.called(1)
        house.store.down = True
    assert len(daemon.shelf.publications) == 1
    assert len(daemon.grant.calls) == 1


async def test_a_holder_whose_lease_ran_out_before_sending_gives_up(house: House) -> None:
    """Suspended between lease and first byte, it finds its lease gone and sends nothing."""
    daemon = house.daemon(seed=house.provider.new_grant())
    call = daemon.grant.call

    async def suspended(*args: object, **options: object) -> object:
        house.clock.suspended += 300
        return await call(*args, **options)  # type: ignore[arg-type]

    daemon.grant.call = suspended  # type: ignore[method-assign,assignment]
    await daemon.run(0.5)
    assert house.provider.report().requests == ()
    assert daemon.of(CallFinished)[0].outcome is OutcomeClass.TRANSIENT
    assert (await house.store.record()).attempt is None


async def test_a_seed_during_a_call_wins_and_the_pair_is_kept(house: House) -> None:
    """The operator's new lineage is adopted; what the old call brought is kept among the orphans."""
    daemon = house.daemon(seed=house.provider.new_grant())
    house.provider.add_fault(faults.latency(after=30))
    fresh = house.provider.new_grant()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 100)
        await anyio.sleep(10)
        await daemon.renewer.plant(Seeding(RefreshToken(fresh, house.clock.wall())), origin="command")
    record = await house.store.record()
    assert [orphan.refresh.fingerprint for orphan in record.orphans] != []
    assert fingerprint(fresh) in record.seeds
    assert record.generation >= 1
    assert daemon.state() is GrantState.OK


# Death


async def test_a_dead_grant_is_called_no_more(house: House) -> None:
    """One verdict, no calls for six times as long as the access token lived, and the reason with its remedy."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    house.provider.kill()
    daemon.scheduler.wake("gmail")
    await daemon.run(6 * 3600)
    assert len(daemon.grant.calls) == 2
    assert daemon.state() is GrantState.DEAD
    assert len(daemon.of(GrantDied)) == 1
    assert "token-sidecar seed gmail" in daemon.of(GrantDied)[0].remedy


async def test_a_verdict_survives_restarts(house: House) -> None:
    """The successor neither calls nor forgets, and says that it found the grant dead."""
    daemon = house.daemon(seed=house.provider.new_grant())
    house.provider.kill()
    await daemon.run(60)
    successor = house.daemon()
    await successor.run(6 * 3600)
    assert successor.grant.calls == []
    assert successor.state() is GrantState.DEAD
    assert successor.view.found_dead is True


async def test_an_explicit_refresh_tries_a_dead_grant_exactly_once(house: House) -> None:
    """A human may know better; the verdict stands until the provider says otherwise."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    house.provider.kill()
    daemon.scheduler.wake("gmail")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 10000)
        await anyio.sleep(5000)
        calls = len(daemon.grant.calls)
        assert daemon.renewer.refuse(daemon.shelf.publications[-1].access.fingerprint)
        daemon.scheduler.wake("gmail")
    assert len(daemon.grant.calls) == calls + 1


async def test_a_new_seed_revives_a_dead_grant_everywhere(house: House) -> None:
    """Every replica leaves the dead state within seconds and without a restart."""
    first, second = house.daemon(seed=house.provider.new_grant()), house.daemon()
    house.provider.kill()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run, 400)
        tasks.start_soon(second.run, 400)
        await anyio.sleep(300)
        assert second.state() is GrantState.DEAD
        seeding = Seeding(RefreshToken(house.provider.new_grant(), house.clock.wall()))
        await second.renewer.plant(seeding, origin="command")
        await anyio.sleep(15)
        assert {first.state(), second.state()} == {GrantState.OK}
    assert first.shelf.publications[-1].access == second.shelf.publications[-1].access


async def test_a_refused_token_that_never_rotates_is_confirmed_once(tmp_path: Path) -> None:
    """Throttling and wrong clocks come as invalid_grant as well, so a minute later it is asked once more."""
    house = House(tmp_path, rotation="never")
    daemon = house.daemon(profile=STEADY, seed=house.provider.new_grant())
    await daemon.run(60)
    house.provider.add_fault(faults.error(400, "invalid_grant"))
    daemon.scheduler.wake("gmail")
    await daemon.run(3000)
    outcomes = [event.outcome for event in daemon.of(CallFinished)]
    assert outcomes == ["success", "suspect", "success"]
    assert daemon.state() is GrantState.OK


async def test_an_orphan_is_tried_before_a_grant_is_given_up(house: House) -> None:
    """The pair that lost a race may be the living one."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    record = await house.store.record()
    from sidecar.tokens import Orphan

    living = RefreshToken(house.provider.new_grant(), EPOCH)
    assert record.refresh is not None
    house.provider.kill(record.refresh.value)
    await house.store.edit(replace(record, orphans=(Orphan("other", living),)))
    daemon.scheduler.wake("gmail")
    await daemon.run(3000)
    assert daemon.state() is GrantState.OK
    assert (await house.store.record()).orphans == ()


async def test_a_misconfigured_client_never_blames_the_grant(house: House) -> None:
    """A wrong secret is retried slowly, and at once when the secret has changed."""
    daemon = house.daemon(seed=house.provider.new_grant())
    house.provider.add_fault(faults.error(401, "invalid_client", times=None))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 1000)
        await anyio.sleep(300)
        assert daemon.state() is GrantState.MISCONFIGURED
        calls = len(daemon.grant.calls)
        house.provider.clear_faults()
        daemon.grant.credentials = "two"
        daemon.scheduler.wake("gmail")
        await anyio.sleep(1)
        assert len(daemon.grant.calls) == calls + 1
        assert daemon.state() is GrantState.OK


async def test_a_refresh_token_is_not_sent_for_another_client(house: House) -> None:
    """It is bound to the client and the endpoint that it was given for."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    daemon.grant.id = "another"
    daemon.scheduler.wake("gmail")
    await daemon.run(6000)
    assert len(daemon.grant.calls) == 1
    assert daemon.state() is GrantState.MISCONFIGURED
    assert "belongs to client 'sim-client'" in daemon.view.reason


# Seeds and adoption


async def test_a_spent_seed_is_never_sent_again(house: House) -> None:
    """The file that the operator left behind does not win against what followed from it."""
    seed = house.provider.new_grant()
    await house.daemon(seed=seed).run(4 * 3600)
    again = house.daemon(seed=seed)
    await again.run(4 * 3600)
    assert house.provider.replayed() == []
    with pytest.raises(SeedError, match="already used"):
        await again.renewer.plant(Seeding(RefreshToken(seed, EPOCH)), origin="command")


async def test_a_new_seed_is_taken_while_running(house: House) -> None:
    """A changed seed file starts a new lineage; the old refresh token is remembered as spent."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    old = await house.store.record()
    assert old.refresh is not None
    daemon.renewer.setup.seed.value = house.provider.new_grant()  # type: ignore[union-attr]
    daemon.scheduler.wake("gmail")
    await daemon.run(60)
    new = await house.store.record()
    assert new.lineage != old.lineage
    assert old.refresh.fingerprint in new.spent
    assert daemon.shelf.publications[-1].lineage == new.lineage


def foreign(house: House, *, expires_in: float, stable_for: float = 5.0) -> Foreign:
    """A token as an application would have written it."""
    now = house.clock.wall()
    access = AccessToken("sim-at-written-by-the-application", now, now + expires_in, expires_in)
    return Foreign(access, None, stable_for)


async def test_an_applications_own_refresh_is_adopted(tmp_path: Path) -> None:
    """A later expiry that the application wrote is committed, and not overwritten."""
    house = House(tmp_path, rotation="never")
    daemon = house.daemon(profile=STEADY, seed=house.provider.new_grant())
    daemon.shelf.adopt = True
    await daemon.run(1800)
    found = foreign(house, expires_in=3600)
    daemon.shelf.foreign = found
    daemon.scheduler.wake("gmail")
    await daemon.run(5)
    assert (await house.store.record()).access == found.access
    assert daemon.shelf.publications[-1].access == found.access


async def test_an_older_token_in_an_output_is_repaired(tmp_path: Path) -> None:
    """Only a later expiry is an adoption; everything else that changed an output is overwritten."""
    house = House(tmp_path, rotation="never")
    daemon = house.daemon(profile=STEADY, seed=house.provider.new_grant())
    daemon.shelf.adopt = True
    await daemon.run(60)
    ours = daemon.shelf.publications[-1].access
    daemon.shelf.foreign = foreign(house, expires_in=100)
    daemon.shelf.publications.clear()
    daemon.scheduler.wake("gmail")
    await daemon.run(5)
    assert daemon.shelf.publications[-1].access == ours


async def test_a_file_that_is_still_being_written_is_left_alone(tmp_path: Path) -> None:
    """The gmail SDK truncates and writes in place: within a second it may be half a file."""
    house = House(tmp_path, rotation="never")
    daemon = house.daemon(profile=STEADY, seed=house.provider.new_grant())
    daemon.shelf.adopt = True
    await daemon.run(60)
    published = len(daemon.shelf.publications)
    daemon.shelf.foreign = foreign(house, expires_in=7200, stable_for=0.1)
    daemon.scheduler.wake("gmail")
    await daemon.run(0.5)
    assert len(daemon.shelf.publications) == published
    daemon.shelf.foreign = replace(daemon.shelf.foreign, stable_for=1.5)
    daemon.scheduler.wake("gmail")
    await daemon.run(5)
    assert daemon.shelf.publications[-1].access.value == "sim-at-written-by-the-application"


async def test_a_profile_may_declare_death_by_itself(house: House) -> None:
    """`invalid_rapt` and its like need a human at once, whatever rotates."""
    profile = replace(ROTATING, errors=(ErrorRule(OutcomeClass.DEAD, status=403, code="access_denied"),))
    house.provider.add_fault(faults.error(403, "access_denied"))
    daemon = house.daemon(profile=profile, seed=house.provider.new_grant(), policy=Policy())
    await daemon.run(600)
    assert daemon.state() is GrantState.DEAD
    assert len(daemon.grant.calls) == 1


async def test_a_store_that_stays_down_is_told(house: House) -> None:
    """The first turn of a daemon without a store names it, and calls nobody."""
    house.store.down = True
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(60)
    assert daemon.grant.calls == []
    assert daemon.view.reason == "connection refused"
    with pytest.raises(StoreError):
        await daemon.renewer.plant(Seeding(RefreshToken("sim-rt-0123456789abcdef", EPOCH)), origin="command")
