"""What a login brings, and what a revocation ends, as every replica sees it."""

from __future__ import annotations

import anyio
import pytest
from msgspec.structs import replace

from sidecar.errors import ConsentFailed
from sidecar.events import GrantDied, Seeded, Warned
from sidecar.ports import Seeding
from sidecar.testing import faults
from sidecar.tokens import AccessToken, GrantState, RefreshToken
from tests.engine.conftest import House


def consent(house: House) -> Seeding:
    """Bring a whole pair, as a consent does."""
    now = house.clock.wall()
    pair = house.provider.token(
        {
            "grant_type": "refresh_token",
            "refresh_token": house.provider.new_grant("mail.read"),
            "client_id": house.provider.config.client_id,
            "client_secret": house.provider.config.client_secret or "",
        }
    ).json()
    access = AccessToken(pair["access_token"], now, now + 3600, 3600.0, scope=pair["scope"])
    refresh = RefreshToken(pair["refresh_token"], now)
    return Seeding(refresh, access, client_id="sim-client", endpoint="https://provider.example")


async def test_a_login_is_published_without_a_call(house: House) -> None:
    """The access token that came with the consent is what readers get, on every replica, and no refresh is spent."""
    first, second = house.daemon(seed=house.provider.new_grant()), house.daemon()
    house.provider.kill()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run, 400)
        tasks.start_soon(second.run, 400)
        await anyio.sleep(300)
        dead = await house.store.record()
        calls = len(first.grant.calls) + len(second.grant.calls)
        brought = consent(house)
        done = await first.renewer.plant(brought, origin="login", since=dead.lineage)
        assert (done.aside, done.lineage != dead.lineage) == (False, True)
        await anyio.sleep(10)
        assert {first.state(), second.state()} == {GrantState.OK}
        assert len(first.grant.calls) + len(second.grant.calls) == calls
    for daemon in (first, second):
        assert daemon.shelf.publications[-1].access == brought.access
    record = await house.store.record()
    assert (record.granted, record.client_id) == (("mail.read",), "sim-client")
    assert [event.seed for event in first.of(Seeded)][-1] == "login"


async def test_a_first_consent_reaches_every_replica_within_seconds(house: House) -> None:
    """Who waits for a token's first grant looks for it as often as one whose grant is dead."""
    first, second = house.daemon(), house.daemon()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run, 200)
        tasks.start_soon(second.run, 200)
        await anyio.sleep(101)
        brought = consent(house)
        await first.renewer.plant(brought, origin="login", since="")
        await anyio.sleep(6)
        assert {first.state(), second.state()} == {GrantState.OK}
    assert second.shelf.publications[-1].access == brought.access


async def test_another_accounts_consent_replaces_nothing(house: House) -> None:
    """A browser that is signed in to two accounts offers either: the wrong one is told of, and taken only if meant."""
    daemon = house.daemon()
    alice, mallory = (replace(consent(house), account=name) for name in ("alice@corp", "mallory@corp"))
    await daemon.renewer.plant(alice, origin="login", since="")
    since = (await house.store.record()).lineage
    with pytest.raises(
        ConsentFailed, match=r"consent of mallory@corp, and .* is alice@corp's; nothing was changed"
    ):
        await daemon.renewer.plant(mallory, origin="login", since=since)
    record = await house.store.record()
    assert (record.lineage, record.account, record.orphans) == (since, "alice@corp", ())
    await daemon.renewer.plant(mallory, origin="login", since=since, force=True)
    assert (await house.store.record()).account == "mallory@corp"
    # Where the provider doesn't tell, there is nothing to compare.
    await daemon.renewer.plant(consent(house), origin="login", since=(await house.store.record()).lineage)


async def test_of_two_logins_at_once_the_first_wins(house: House) -> None:
    """The second one's pair is kept beside it, and used should the first's be refused: nothing is lost."""
    first, second = house.daemon(seed=house.provider.new_grant()), house.daemon()
    await first.run(60)
    since = (await house.store.record()).lineage
    house.provider.kill()
    ours, theirs = consent(house), consent(house)
    won = await first.renewer.plant(ours, origin="login", since=since)
    lost = await second.renewer.plant(theirs, origin="login", since=since)
    record = await house.store.record()
    assert (won.aside, lost.aside, lost.lineage) == (False, True, won.lineage)
    assert record.refresh is not None
    assert record.refresh.value == ours.refresh.value
    assert [orphan.refresh.value for orphan in record.orphans] == [theirs.refresh.value]
    assert any("overtaken" in event.reason for event in second.of(Warned))

    house.provider.kill(ours.refresh.value)
    await first.run(7200)
    assert first.state() is GrantState.OK
    assert theirs.refresh.fingerprint in (await house.store.record()).spent


async def test_a_login_that_is_stored_twice_is_stored_once(house: House) -> None:
    """Whoever lost the reply tries again, and is told the same, whether it won or not."""
    daemon = house.daemon()
    ours, theirs = consent(house), consent(house)
    for brought, aside in ((ours, False), (theirs, True)) * 2:
        done = await daemon.renewer.plant(brought, origin="login", since="")
        assert (done.aside, done.lineage) == (aside, (await house.store.record()).lineage)
    assert len((await house.store.record()).orphans) == 1


async def test_a_login_replaces_what_died_meanwhile(house: House) -> None:
    """Another one's consent that is dead already doesn't stand in the way of one that lives."""
    daemon = house.daemon()
    await daemon.renewer.plant(consent(house), origin="login", since="")
    first = await house.store.record()
    assert first.refresh is not None
    assert await daemon.renewer.bury(first.refresh.fingerprint, reason="revoked")
    done = await daemon.renewer.plant(consent(house), origin="login", since="")
    assert not done.aside


async def test_a_call_under_way_keeps_its_lease(house: House) -> None:
    """A pair that is put aside takes nobody's lease, and the call's own pair stays in force."""
    daemon, other = house.daemon(seed=house.provider.new_grant()), house.daemon()
    await daemon.run(60)
    house.provider.add_fault(faults.latency(after=20))
    present = (await house.store.record()).access
    assert present is not None
    assert daemon.renewer.refuse(present.fingerprint)
    daemon.scheduler.wake("gmail")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 60)
        await daemon.grant.called(len(daemon.grant.calls) + 1)
        brought = consent(house)
        done = await other.renewer.plant(brought, origin="login", since="another")
        held = await house.store.load("test/gmail")
        assert held is not None
        assert done.aside
        assert held.record.attempt is not None
        assert held.lease_left > 0
    record = await house.store.record()
    assert record.generation == 2
    assert [orphan.refresh.value for orphan in record.orphans] == [brought.refresh.value]


async def test_a_login_belongs_to_the_client_that_made_it(house: House) -> None:
    """A daemon that is configured otherwise doesn't send what another client was given."""
    daemon = house.daemon()
    await daemon.renewer.plant(replace(consent(house), client_id="other"), origin="login", since="")
    await daemon.run(7200)
    assert daemon.state() is GrantState.MISCONFIGURED
    assert "belongs to client 'other'" in daemon.view.reason
    assert daemon.grant.calls == []


async def test_a_revoked_grant_is_dead_everywhere(house: House) -> None:
    """No replica sends its refresh token again, and each says who ended it."""
    first, second = house.daemon(seed=house.provider.new_grant()), house.daemon()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run, 4000)
        tasks.start_soon(second.run, 4000)
        await anyio.sleep(60)
        record = await first.renewer.reread()
        assert record is not None
        assert record.refresh is not None
        assert not await first.renewer.bury("000000000000", reason="revoked")
        assert await first.renewer.bury(record.refresh.fingerprint, reason="revoked by somebody")
    assert {first.state(), second.state()} == {GrantState.DEAD}
    assert "revoked by somebody" in second.view.reason
    assert "token-sidecar login gmail" in second.view.remedy
    assert len(first.grant.calls) + len(second.grant.calls) == 1
    assert first.of(GrantDied) == []


async def test_a_provider_that_gives_the_same_refresh_token_again(house: House) -> None:
    """It is alive, since it was given a moment ago, however often it was used before."""
    daemon = house.daemon()
    brought = consent(house)
    await daemon.renewer.plant(brought, origin="login", since="")
    assert await daemon.renewer.bury(brought.refresh.fingerprint, reason="revoked")
    dead = await house.store.record()
    done = await daemon.renewer.plant(brought, origin="login", since=dead.lineage)
    record = await house.store.record()
    assert (done.aside, record.is_dead(), record.lineage) == (False, False, done.lineage)


async def test_a_dead_grants_remedy_leads_to_its_page(house: House) -> None:
    """Where there is a console, the log, the status and the termination message have the link to the token's page."""
    page = "https://tokens.example.com/tokens/gmail"
    daemon = house.daemon(seed=house.provider.new_grant(), page=page)
    await daemon.run(60)
    house.provider.kill()
    daemon.scheduler.wake("gmail")
    await daemon.run(7200)

    assert f"consent again: {page} or token-sidecar login gmail" in daemon.of(GrantDied)[0].remedy
    assert page in daemon.view.remedy
