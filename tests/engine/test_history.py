"""What a record remembers of its last turns, and for how long."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.ports import Seeding
from sidecar.testing import faults
from sidecar.tokens import (
    CONSENT,
    HISTORY_LENGTH,
    REFRESH,
    REVOCATION,
    SEED,
    OutcomeClass,
    Record,
    RefreshToken,
    Turn,
    encode_record,
    fingerprint,
)
from tests.engine.conftest import EPOCH, STEADY, House

DONE, BUSY, DEAD = OutcomeClass.SUCCESS, OutcomeClass.TRANSIENT, OutcomeClass.DEAD


def turn(at: float, outcome: OutcomeClass, reason: str = "", *, seconds: float = 0.1) -> Turn:
    """Make a turn of a refresh."""
    return Turn(at, outcome, reason, int(at), seconds)


def told(turns: list[Turn]) -> tuple[Turn, ...]:
    """Remember one after the other."""
    record = Record(lineage="l")
    for one in turns:
        record = record.remember(one)
    return record.history


def test_a_night_of_retries_keeps_what_came_before_it() -> None:
    """A thousand refusals, each with a number of its own, leave room for the refreshes before and for the death."""
    before = [turn(at, DONE) for at in range(3)]
    retries = [
        turn(10 + at, BUSY, f"status 503, retry after {at} s", seconds=at / 1000) for at in range(1000)
    ]
    history = told([*before, *retries, turn(2000, DEAD, "invalid_grant")])

    assert len(history) == HISTORY_LENGTH
    assert (history[0].times, history[0].began, history[0].at) == (3, 0, 2)
    assert (history[1].outcome, history[1].began) == (BUSY, 10)
    assert sum(one.times for one in history if one.outcome is BUSY) == 1000
    assert history[1].duration == max(one.duration for one in retries if one.at <= history[1].at)
    assert [one.at for one in history[-3:]] == [1008, 1009, 2000]
    assert all(one.times == 1 for one in history[2:])


def test_what_changes_all_the_time_is_forgotten_from_the_start() -> None:
    """Where no two neighbours are alike the oldest goes: a record does not grow."""
    history = told([turn(at, (DONE, BUSY)[at % 2]) for at in range(100)])
    assert [one.at for one in history] == list(range(68, 100))


@given(
    st.lists(
        st.tuples(st.sampled_from(OutcomeClass), st.sampled_from(("busy 1", "busy 2", "no"))), max_size=90
    )
)
def test_a_history_is_bounded_and_in_order(outcomes: list[tuple[OutcomeClass, str]]) -> None:
    """Whatever happens, there are 32 entries at most, none overlaps another, and the newest is told as it was."""
    turns = [turn(at, *outcome) for at, outcome in enumerate(outcomes)]
    history = told(turns)
    assert len(history) <= HISTORY_LENGTH
    assert all(one.began <= one.at for one in history)
    assert all(one.at < other.began for one, other in pairwise(history))
    assert all(one.at - one.began == one.times - 1 for one in history)
    assert not turns or history[-1].at == turns[-1].at


def test_a_full_history_stays_small() -> None:
    """The longest that a history gets is a few kilobytes, whatever the store."""
    name = "0123456789ab"
    full = Turn(1.8e9 + 0.123456, BUSY, "x" * 120, 99_999, 299.999, REFRESH, name, name, name, 999, 1.8e9)
    size = len(encode_record(Record(lineage="l", history=(full,) * 32))) - len(
        encode_record(Record(lineage="l"))
    )
    assert size < 16_000


async def test_a_refresh_is_remembered_with_all_that_names_it(house: House) -> None:
    """When, by whom, how long, of which generation, and which tokens: what a look at the night needs."""
    daemon = house.daemon(seed=house.provider.new_grant())
    await daemon.run(10)
    record = await house.store.record()
    assert record.access is not None
    assert record.refresh is not None
    seeded, refreshed = record.history
    assert daemon.renewer.setup.seed is not None

    assert (seeded.what, seeded.reason, seeded.generation) == (
        SEED,
        f"from {daemon.renewer.setup.seed.id}",
        0,
    )
    assert (refreshed.what, refreshed.outcome, refreshed.generation) == (REFRESH, DONE, 1)
    assert refreshed.fingerprint == record.access.fingerprint
    assert refreshed.refresh_fingerprint == record.refresh.fingerprint
    assert seeded.refresh_fingerprint != refreshed.refresh_fingerprint
    assert EPOCH <= seeded.at <= refreshed.at <= EPOCH + 10
    assert refreshed.instance == seeded.instance == daemon.renewer._around.instance[:12]


async def test_a_failure_is_remembered_with_the_token_that_was_kept(house: House) -> None:
    """A refusal says why, and which refresh token is still held."""
    token = house.provider.new_grant()
    house.provider.add_fault(faults.status(503))
    await house.daemon(seed=token, profile=STEADY).run(2)
    failed = (await house.store.record()).history[1]
    assert (failed.what, failed.outcome, failed.generation) == (REFRESH, BUSY, 0)
    assert "503" in failed.reason
    assert (failed.fingerprint, failed.refresh_fingerprint) == ("", fingerprint(token))


@pytest.mark.parametrize(("since", "what"), [(None, SEED), ("", CONSENT)])
async def test_what_people_did_is_remembered(house: House, since: str | None, what: str) -> None:
    """A seed, a consent and a revocation are in the history beside the refreshes."""
    daemon = house.daemon()
    await daemon.run(2)
    refresh = RefreshToken(house.provider.new_grant(), EPOCH)
    await daemon.renewer.plant(Seeding(refresh), origin="command", since=since)
    await daemon.renewer.bury(refresh.fingerprint, reason="revoked by hand")
    planted, revoked = (await house.store.record()).history
    assert (planted.what, planted.outcome, planted.refresh_fingerprint) == (what, DONE, refresh.fingerprint)
    assert (revoked.what, revoked.reason, revoked.fingerprint) == (REVOCATION, "revoked by hand", "")
