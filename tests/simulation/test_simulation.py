"""Replicas, a store and a provider on virtual time, and everything goes wrong; see judge.py for what is promised.

A failure tells the shortest history that it could be brought down to, and how to live it again.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from tests.simulation.__main__ import figures
from tests.simulation.history import Outcome, live
from tests.simulation.plan import Disturbance, read, written
from tests.simulation.scenario import KINDS, Scenario
from tests.simulation.shrinking import report

if TYPE_CHECKING:
    from collections.abc import Callable

RENEWALS = 10_000
"""What the shares live through together, at least."""
SHARES = 6
FEWEST = 10
"""Histories in a share: the mild ones alone, with their many renewals, would leave out the rough ones."""

PROJECT = __file__.partition("/tests/")[0]


def lived(scenarios: Iterable[Scenario], *, enough: Callable[[list[Outcome]], bool]) -> list[Outcome]:
    """Live one history after another until it is enough; fails with the first that breaks a promise."""
    outcomes: list[Outcome] = []
    for scenario in scenarios:
        outcomes.append(live(scenario))
        if outcomes[-1].verdict is not None:
            pytest.fail(report(outcomes[-1]), pytrace=False)
        if enough(outcomes):
            break
    return outcomes


def renewals(outcomes: list[Outcome]) -> int:
    """Count the refreshes that succeeded at the provider."""
    return sum(outcome.renewals for outcome in outcomes)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", range(SHARES))
def test_no_trouble_breaks_a_promise(share: int, record_property: Callable[[str, object], None]) -> None:
    """Kills, outages, lost answers, new consents and the rest burn and lose no token; in peace all becomes well."""
    outcomes = lived(
        map(Scenario.of, itertools.count(1000 * share)),
        enough=lambda done: len(done) >= FEWEST and renewals(done) >= RENEWALS / SHARES,
    )
    judged = sum((outcome.judged for outcome in outcomes), start=Counter[str]())
    assert renewals(outcomes) >= RENEWALS / SHARES
    assert judged["single-use"] > 0
    assert judged["freshness"] > 10_000
    record_property("renewals", renewals(outcomes))
    record_property("histories", len(outcomes))
    record_property("faults", sum(len(outcome.plan) for outcome in outcomes))


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_provider_is_worse(kind: str) -> None:
    """The same, roughly, for each kind of provider, with wrong clocks and without."""
    scenarios = (
        Scenario(seed, kind=kind, troubled=1800.0, ttl=120.0, steps_clocks=steps)
        for seed, steps in ((1, False), (2, False), (3, True))
    )
    assert renewals(lived(scenarios, enough=lambda _: False)) > 20


@pytest.mark.timeout(300)
def test_the_history_of_a_seed(sim_seed: int) -> None:
    """The history that `--sim-seed` asks for, or a seed of no importance."""
    lived([Scenario.of(sim_seed)], enough=lambda _: True)


def test_a_history_can_be_lived_again() -> None:
    """The same seed gives the same history, to the last digit, in a process that hashes otherwise, too."""
    scenario = Scenario(7, replicas=3, troubled=900.0)
    mine = digest(scenario)
    code = (
        "from tests.simulation.test_simulation import digest\n"
        f"from tests.simulation.scenario import Scenario\nprint(digest({scenario!r}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == mine


def digest(scenario: Scenario) -> str:
    """Name a whole history."""
    return hashlib.sha256(repr(live(scenario).trace).encode()).hexdigest()


def test_a_plan_stands_for_the_dice() -> None:
    """What went wrong by the dice, written down and read back, leads through the same history."""
    scenario = Scenario(11, replicas=3, tokens=2, troubled=1200.0)
    thrown = live(scenario)
    assert len(thrown.plan) > 20
    planned = live(scenario, read(written(thrown.plan)))
    assert planned.trace == thrown.trace
    assert planned.plan == thrown.plan


def test_without_faults_all_is_well() -> None:
    """An empty plan is a dull history: one refresh after the other, and no window needed as an excuse."""
    outcome = live(Scenario(5, replicas=3, tokens=2, ttl=60.0, troubled=1800.0), plan=())
    assert outcome.verdict is None
    assert outcome.renewals == outcome.calls
    assert not outcome.excused
    assert not outcome.plan


def test_a_disturbance_can_be_written_down() -> None:
    """Each kind of disturbance is read back as it was written."""
    for text in ("host0/t1/commit#3:killed=0.1", "world@120:outage=30", "host1@7:clock=-600"):
        assert str(Disturbance.parse(text)) == text


@pytest.mark.soak
def test_no_trouble_breaks_a_promise_for_long(capsys: pytest.CaptureFixture[str]) -> None:
    """As many renewals as TOKEN_SIDECAR_SIM_RENEWALS asks for, or as fit into a quarter of the soak's minutes."""
    wanted = float(os.environ.get("TOKEN_SIDECAR_SIM_RENEWALS") or "inf")
    minutes = float(os.environ.get("TOKEN_SIDECAR_SOAK_MINUTES") or "60") / 4
    until = time.monotonic() + (60 * minutes if wanted == float("inf") else float("inf"))
    first = int(time.time())
    with capsys.disabled():
        print(f"\nsimulation: the first seed is {first}")  # noqa: T201
    outcomes = lived(
        map(Scenario.of, itertools.count(first)),
        enough=lambda done: renewals(done) >= wanted or time.monotonic() > until,
    )
    with capsys.disabled():
        print(figures(outcomes))  # noqa: T201
