"""What is told of a store's answers, and of who got a lease."""

from __future__ import annotations

from collections import Counter

import pytest

from sidecar.errors import Conflict
from sidecar.events import Event, LeaseSought, StoreAsked
from sidecar.tokens import Record
from tests.engine.conftest import Daemon, House


def told(daemon: Daemon, kind: type[Event]) -> Counter[str]:
    """Count events by their outcome."""
    return Counter(event.outcome for event in daemon.of(kind))


async def test_a_daemon_hears_of_its_store_once_a_minute(house: House) -> None:
    """However seldom its token is due: an alert on a store that was silent for longer than that means something."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(3600)
    assert told(daemon, StoreAsked)["success"] >= 59
    assert told(daemon, StoreAsked)["failed"] == 0


async def test_a_store_that_is_away_fails_at_each_try(house: House) -> None:
    """And answers again as soon as it is back; without it no lease is asked for."""
    daemon = house.daemon(seed=house.provider.new_grant())
    house.store.down = True
    await daemon.run(60)
    assert told(daemon, StoreAsked).keys() == {"failed"}
    assert not daemon.of(LeaseSought)

    house.store.down = False
    await daemon.run(60)
    assert told(daemon, StoreAsked)["success"] > 0
    assert told(daemon, LeaseSought) == {"taken": 1}


async def test_a_lease_that_the_store_does_not_take_is_told(house: House) -> None:
    """It could be read and not be written: no call is made, and the lease is asked for anew."""
    daemon = house.daemon(seed=house.provider.new_grant())
    writes = house.store.write

    async def refuse_attempts(key: str, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        house.store.fail_writes = int(record.attempt is not None and not told(daemon, LeaseSought))
        return await writes(key, record, expected=expected, lease=lease)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(house.store, "write", refuse_attempts)
        await daemon.run(120)
    assert told(daemon, LeaseSought) == {"failed": 1, "taken": 1}
    assert len(daemon.grant.calls) == 1


async def test_who_comes_second_is_told_so_and_was_answered(house: House) -> None:
    """A lost race is nothing that the store did wrong."""
    daemon = house.daemon(seed=house.provider.new_grant())
    writes = house.store.write

    async def be_late_once(key: str, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        if record.attempt is not None and not told(daemon, LeaseSought):
            raise Conflict
        return await writes(key, record, expected=expected, lease=lease)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(house.store, "write", be_late_once)
        await daemon.run(120)
    assert told(daemon, LeaseSought) == {"elsewhere": 1, "taken": 1}
    assert told(daemon, StoreAsked)["failed"] == 0
