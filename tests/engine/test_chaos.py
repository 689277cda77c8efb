"""Everything goes wrong by the dice, on virtual time; see chaos.py. A failure tells how to live it again."""

from __future__ import annotations

import itertools
import os
import time

import pytest

from tests.engine import chaos

FEW = range(3)


@pytest.mark.parametrize("kind", list(chaos.KINDS))
@pytest.mark.parametrize("seed", FEW)
def test_no_trouble_burns_or_loses_a_token(seed: int, kind: str) -> None:
    """An hour of faults, kills, outages and new consents; then an hour of peace, in which all becomes well."""
    world = chaos.run(seed, kind)
    assert world.requests > 5


@pytest.mark.parametrize("seed", FEW)
def test_wrong_clocks_burn_no_token_either(seed: int) -> None:
    """The same with wall clocks that are set forth and back, by up to ten minutes at a time."""
    chaos.run(seed, "no-replay", steps_clocks=True)


def test_a_history_can_be_lived_again() -> None:
    """The same seed gives the same history, to the hundredth of a second."""
    assert chaos.run(7, "no-replay", troubled=900).trace == chaos.run(7, "no-replay", troubled=900).trace


@pytest.mark.soak
def test_no_trouble_burns_or_loses_a_token_for_long() -> None:
    """As many histories as the time allows, from a seed that is printed."""
    seconds = 60 * float(os.environ.get("TOKEN_SIDECAR_SOAK_MINUTES", "60")) / 4
    until, first = time.monotonic() + seconds, int(time.time())
    print(f"first seed: {first}")  # noqa: T201
    for seed in itertools.count(first):
        for kind in chaos.KINDS:
            chaos.run(seed, kind, replicas=1 + seed % 5, steps_clocks=seed % 3 == 0)
            if time.monotonic() > until:
                return
