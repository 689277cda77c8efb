"""Stores in which others leave grants, and from which dead ones are deleted where that is configured."""

from __future__ import annotations

from msgspec.structs import replace

from sidecar.errors import StoreError
from sidecar.events import Discarded, GrantDied
from sidecar.profile import ErrorRule
from sidecar.testing import Delivery, Fault
from sidecar.tokens import Death, GrantState, OutcomeClass, Record, RefreshToken, fingerprint
from tests.engine.conftest import KEY, ROTATING, FaultyStore, House

AT_ONCE = replace(ROTATING, errors=(ErrorRule(OutcomeClass.DEAD, code="invalid_grant"),))
"""Whose first verdict is final."""


class OpenStore(FaultyStore):
    """A store that others read, which deletes what is dead if it is told so."""

    deletes_dead = True
    fail_discards = 0

    async def discard(self, key: str, *, expected: str) -> str:
        if self.fail_discards:
            self.fail_discards -= 1
            raise StoreError("the discard failed")
        await self.inner.delete(key, expected=expected)
        return f"the secret {key}"


def opened(house: House) -> OpenStore:
    """Give a house such a store."""
    house.store = store = OpenStore(house.clock)
    return store


def left(house: House, value: str) -> Record:
    """Write a record as a store makes it of what somebody else left there: nobody knows for which client."""
    refresh = RefreshToken(value, house.clock.wall())
    return Record(lineage="theirs", refresh=refresh, seeds=(refresh.fingerprint,))


async def test_what_somebody_left_in_the_store_is_used(house: House) -> None:
    """A record that is bound to nobody is bound to the configured client and endpoint by its first use."""
    await house.store.edit(left(house, house.provider.new_grant()))
    daemon = house.daemon()
    await daemon.run(60)
    record = await house.store.record()
    assert (record.lineage, record.generation, daemon.state()) == ("theirs", 1, GrantState.OK)
    assert (record.client_id, record.endpoint) == (daemon.grant.id, daemon.grant.endpoint)


async def test_a_bound_record_is_not_bound_anew(house: House) -> None:
    """Half a binding is one: a refresh token that came from elsewhere is sent nowhere."""
    await house.store.edit(replace(left(house, house.provider.new_grant()), endpoint="https://other.example"))
    daemon = house.daemon()
    await daemon.run(60)
    assert daemon.grant.calls == []


async def test_a_dead_record_is_deleted_once(house: House) -> None:
    """The provider's verdict deletes it and is told of; the daemon then waits for a new one, and heals nothing."""
    store = opened(house)
    value = house.provider.new_grant()
    await store.edit(left(house, value))
    house.provider.kill()
    daemon = house.daemon(profile=AT_ONCE)
    await daemon.run(86400)
    assert await store.keys() == []
    assert len(daemon.of(GrantDied)) == 1
    [told] = daemon.of(Discarded)
    assert (told.place, told.fingerprint) == (f"the secret {KEY}", fingerprint(value))
    assert (daemon.state(), len(daemon.grant.calls)) == (GrantState.UNSEEDED, 1)
    await store.edit(left(house, house.provider.new_grant()))
    await daemon.run(3600)
    assert daemon.state() is GrantState.OK


async def test_nothing_is_deleted_without_being_told(house: House) -> None:
    """Without the policy a dead record stays where it is."""
    store = opened(house)
    store.deletes_dead = False
    await store.edit(left(house, house.provider.new_grant()))
    house.provider.kill()
    daemon = house.daemon(profile=AT_ONCE)
    await daemon.run(86400)
    assert await store.keys() == [KEY]
    assert daemon.state() is GrantState.DEAD


async def test_doubt_and_trouble_delete_nothing(house: House) -> None:
    """A provider in trouble, a lost answer, a client that is refused: the record stays, whatever is configured."""
    busy = Fault(status=503, processed=False, times=None)
    lost = Fault(delivery=Delivery.RESET, times=None)
    refused = Fault(status=401, body='{"error": "invalid_client"}', processed=False, times=None)
    for fault in (busy, lost, refused):
        store = opened(house)
        await store.edit(left(house, house.provider.new_grant()))
        house.provider.clear_faults()
        house.provider.add_fault(fault)
        await house.daemon(profile=AT_ONCE).run(7200)
        assert await store.keys() == [KEY]


async def test_a_verdict_that_nobody_asked_for_deletes_nothing(house: House) -> None:
    """A record that is dead because an old refresh token was written back may be somebody's only copy."""
    store = opened(house)
    record = left(house, house.provider.new_grant())
    assert record.refresh is not None
    await store.edit(
        replace(record, dead=Death(record.refresh.fingerprint, "", "", 0.0, "was replaced before"))
    )
    daemon = house.daemon(profile=AT_ONCE)
    await daemon.run(3600)
    assert await store.keys() == [KEY]
    assert (daemon.state(), daemon.grant.calls) == (GrantState.DEAD, [])


async def test_a_deletion_that_failed_is_made_up_for(house: House) -> None:
    """While the store takes it not, it is tried at each later turn."""
    store = opened(house)
    store.fail_discards = 3
    await store.edit(left(house, house.provider.new_grant()))
    house.provider.kill()
    daemon = house.daemon(profile=AT_ONCE)
    await daemon.run(86400)
    assert await store.keys() == []
    assert len(daemon.of(Discarded)) == 1
