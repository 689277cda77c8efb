"""What the memory store adds to the contract."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import pytest
from trio.testing import MockClock

from sidecar.stores.memory import MemoryStore
from sidecar.tokens import Record, RefreshToken

if TYPE_CHECKING:
    from tests.stores.conftest import ManualClock

RECORD = Record(lineage="x", refresh=RefreshToken(value="sim-rt-0123456789abcdef", issued_at=0))


@pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["mock clock"]
)
async def test_it_works_without_threads_in_virtual_time(clock: ManualClock) -> None:
    """No call starts a thread or lets virtual time pass, so that simulations can run on it."""
    before = (anyio.current_time(), threading.active_count())
    async with MemoryStore(clock) as store:
        version = await store.write("ns/a", RECORD, expected=None)
        await store.load("ns/a")
        await store.keys()
        await store.delete("ns/a", expected=version)
    assert before == (anyio.current_time(), threading.active_count())


async def test_its_parts_show_no_secret(clock: ManualClock) -> None:
    """What a debugger or a failed assertion shows of its insides holds no token."""
    store = MemoryStore(clock)
    await store.write("ns/a", RECORD, expected=None)
    assert "sim-" not in repr(store._rows)
    assert store.volatile
