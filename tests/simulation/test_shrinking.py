"""The simulation can fail: engines that were broken on purpose are found out, and told in a few lines."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from sidecar import ledger, renewer, rotation, schedule
from sidecar.errors import StoreError
from sidecar.renewer import Renewer
from sidecar.stores.memory import MemoryStore
from sidecar.tokens import Record
from tests.simulation.history import Outcome, live
from tests.simulation.plan import read, written
from tests.simulation.scenario import Scenario
from tests.simulation.shrinking import shrunk, told

FEW_FAULTS, FEW_LINES, FEW_SEEDS = 5, 40, 40

Break = Callable[[pytest.MonkeyPatch], None]


def compares_nothing(patch: pytest.MonkeyPatch) -> None:
    """A store that replaces whatever is there."""
    patch.setattr(MemoryStore, "_check", lambda *_: None)


def heeds_no_lease(patch: pytest.MonkeyPatch) -> None:
    """A daemon that takes every attempt for its own."""
    patch.setattr(
        Renewer, "_owns_attempt", lambda _, record: record is not None and record.attempt is not None
    )


def forgets_escrow(patch: pytest.MonkeyPatch) -> None:
    """A daemon that doesn't look for what its predecessor caught."""
    patch.setattr(Renewer, "recover", lambda _, entry: entry.slip.release())


def knows_no_doubt(patch: pytest.MonkeyPatch) -> None:
    """A daemon that takes a lost answer for a refusal."""
    patch.setattr(rotation, "doubted", lambda _: None)


def heals_nothing(patch: pytest.MonkeyPatch) -> None:
    """A daemon that believes a store that fell back."""
    patch.setattr(ledger, "rolled_back", lambda *_: False)


def trusts_a_lost_reply(patch: pytest.MonkeyPatch) -> None:
    """A daemon that takes a commit whose reply was lost for one that was not made."""
    patch.setattr(ledger, "Unwritten", StoreError)


def is_impatient(patch: pytest.MonkeyPatch) -> None:
    """A daemon that never leaves a provider alone."""
    patch.setattr(schedule, "decide", _blind_to(schedule.decide, "backoff"))


def mourns_nobody(patch: pytest.MonkeyPatch) -> None:
    """A daemon that goes on asking for a grant that is dead."""
    patch.setattr(schedule, "decide", _blind_to(schedule.decide, "dead"))


def _blind_to(real: Callable[..., schedule.Decision], field: str) -> Callable[..., schedule.Decision]:
    def decide(record: Record | None, *rest: Any) -> schedule.Decision:
        return real(replace(record, **{field: None}) if record is not None else None, *rest)

    return decide


def turns_in_circles(patch: pytest.MonkeyPatch) -> None:
    """A daemon that asks a store that is away again and again."""
    patch.setattr(renewer, "STORE_RETRY", 0.02)


def is_late(patch: pytest.MonkeyPatch) -> None:
    """A daemon that refreshes when the token has ended."""

    def due_at(record: Record, *_: Any) -> float:
        return (record.access.expires_at if record.access is not None else None) or 0.0

    patch.setattr(schedule, "due_at", due_at)


def forgets_debts(patch: pytest.MonkeyPatch) -> None:
    """A daemon that tries once to commit what it owes."""
    real = ledger.Ledger.settle

    async def settle(self: ledger.Ledger) -> None:
        try:
            await real(self)
        finally:
            self.debt = None

    patch.setattr(ledger.Ledger, "settle", settle)


class Noticed(NamedTuple):
    """How a break shows."""

    promises: set[str]
    first: int
    """The seed with which the search begins: one from which on it is short, and the history found soon shrunk."""


BROKEN: dict[Break, Noticed] = {
    compares_nothing: Noticed({"single-use", "survival"}, 1),
    heeds_no_lease: Noticed({"single-use"}, 8),
    forgets_escrow: Noticed({"single-use", "survival"}, 5),
    knows_no_doubt: Noticed({"single-use"}, 15),
    heals_nothing: Noticed({"single-use", "healing", "survival"}, 5),
    trusts_a_lost_reply: Noticed({"single-use"}, 52),
    is_impatient: Noticed({"back-off", "pace"}, 18),
    mourns_nobody: Noticed({"dead-silence"}, 12),
    turns_in_circles: Noticed({"pace"}, 1),
    is_late: Noticed({"freshness"}, 1),
    forgets_debts: Noticed({"survival", "single-use"}, 2),
}


def first_failure(first: int) -> Outcome:
    """Search for a broken promise, seed by seed."""
    for seed in count(first):
        assert seed < first + FEW_SEEDS, "nothing was noticed"
        found = live(Scenario(seed, replicas=3, ttl=60.0, troubled=1800.0, roughness=0.4))
        if found.verdict is not None:
            return found
    raise AssertionError


@pytest.mark.timeout(240)
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_engine_is_found_out(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these breaks is noticed within few histories, and comes down to few faults and few lines."""
    broken(monkeypatch)
    found = first_failure(BROKEN[broken].first)
    assert found.verdict is not None
    assert found.verdict.promise in BROKEN[broken].promises
    short = shrunk(found, seconds=40)
    assert len(short.plan) <= FEW_FAULTS, written(short.plan)
    assert len(told(short)) <= FEW_LINES
    again = live(short.scenario, read(written(short.plan)))
    assert str(again.verdict) == str(short.verdict)
