"""What a daemon makes of a store in which nothing moves."""

from __future__ import annotations

import anyio
import pytest

from sidecar.errors import StoreError
from sidecar.ledger import Ledger
from sidecar.seal import CLEAR
from sidecar.stores.memory import MemoryStore
from sidecar.tokens import Record, RefreshToken
from tests.engine.conftest import VirtualClock

KEY = "basketball-api/gmail"
RECORD = Record(lineage="first", refresh=RefreshToken("sim-rt-0123456789abcdef0123", issued_at=0.0))


class Stubborn(MemoryStore):
    """It lets itself be read, and takes nothing while it is stubborn."""

    stubborn = False

    async def _write_blob(self, key: str, blob: bytes, *, expected: str | None, lease: float) -> str:
        if self.stubborn:
            raise StoreError("not now")
        return await super()._write_blob(key, blob, expected=expected, lease=lease)


async def test_a_store_that_takes_nothing_is_no_sign_of_a_death() -> None:
    """The holder of an attempt may wait with the pair for the same store: it is given its time once writes work."""
    clock = VirtualClock()
    store = Stubborn(clock, CLEAR)
    await store.write(KEY, RECORD, expected=None)
    ledger = Ledger("gmail", KEY, store, lambda _: None, clock)
    for _ in range(20):
        await ledger.sync()
        await anyio.sleep(20)
    assert ledger.watched == pytest.approx(19 * 20)

    store.stubborn = True
    with pytest.raises(StoreError):
        await ledger.write(RECORD, lease=30)
    await ledger.sync()
    assert ledger.watched == 0
    await anyio.sleep(20)
    await ledger.sync()
    assert ledger.watched == pytest.approx(20)
