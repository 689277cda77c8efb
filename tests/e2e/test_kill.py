"""A daemon that is killed at any moment uses no refresh token twice and throws no fresh token away."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from sidecar.escrow import Stage
from sidecar.server.client import NotRunning
from sidecar.testing import faults
from tests.e2e.conftest import EAGER

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from sidecar.tokens import Record
    from tests.e2e.conftest import Daemon, MakeDaemon, MakeSimulator, Remains


def die(daemon: Daemon, point: str) -> Remains:
    """Run until it kills itself at a point of its second refresh, which is asked for because none is due."""
    daemon.start(point, "kill")
    with suppress(NotRunning):
        daemon.control.refresh("gmail")
    assert daemon.wait() == -signal.SIGKILL, daemon.text()
    return daemon.remains()


def calls(simulator: Simulator) -> int:
    """Count the requests so far."""
    return len(simulator.provider.report().requests)


def token_of(record: Record) -> str:
    """Return a record's access token."""
    assert record.access is not None
    return record.access.value


# What the crash matrix doesn't say (see test_matrix.py)


def test_a_fresh_token_outlives_the_process(daemon: Daemon, simulator: Simulator) -> None:
    """After a death before sending, the token that is still fresh is published again, and nobody is called."""
    daemon.add(simulator)
    held = die(daemon, "after-arm").records["gmail"]
    daemon.output().unlink()

    daemon.start(probe="/readyz")

    assert daemon.published() == token_of(held)
    state = daemon.status()
    assert (state["grant_state"], state["generation"], state["in_doubt_since"]) == ("ok", 1, None)
    assert daemon.stop() == 0
    assert calls(simulator) == 1


def test_doubt_is_told_from_the_first_moment(daemon: Daemon, simulator: Simulator) -> None:
    """Who died with an answer in hand starts in doubt, since when it began, and serves what still lives."""
    daemon.add(simulator)
    left = die(daemon, "before-escrow")
    assert left.entries["gmail"].stage is Stage.SENT

    daemon.start()

    assert daemon.lines(event="starting", token="gmail")[0]["grant"] == "in_doubt"
    state = daemon.status()
    assert state["grant_state"] == "in_doubt"
    assert state["in_doubt_since"] == pytest.approx(left.entries["gmail"].attempt.started_at)
    assert daemon.published() == token_of(left.records["gmail"])
    assert daemon.stop() == 0
    assert calls(simulator) == 2


@pytest.mark.parametrize(
    "point", ["before-lease", "after-arm", "after-escrow", "after-commit", "after-release"]
)
def test_death_at_the_first_use_of_a_seed(daemon: Daemon, simulator: Simulator, point: str) -> None:
    """A seed is sent once, whatever the first process had time for."""
    seed = daemon.add(simulator)
    daemon.launch(point, "kill-first")
    assert daemon.wait() == -signal.SIGKILL, daemon.text()

    daemon.start()

    state = daemon.status()
    assert (state["grant_state"], state["generation"]) == ("ok", 1)
    assert simulator.provider.is_live(daemon.published())
    assert daemon.stop() == 0
    assert (simulator.provider.uses(seed), calls(simulator)) == (1, 1)


# At random


@pytest.mark.timeout(150)
@pytest.mark.parametrize("seed", [20261120])
def test_kills_at_random_moments(make_daemon: MakeDaemon, make_simulator: MakeSimulator, seed: int) -> None:
    """Whenever it is killed, nothing is used twice but what was being sent, and nothing gained is lost."""
    rng = random.Random(seed)  # noqa: S311 - moments, no secrets
    storm(make_daemon(), make_simulator(grace=120), rng, rounds=16, tokens=6)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_kills_at_random_moments_for_long(make_daemon: MakeDaemon, make_simulator: MakeSimulator) -> None:
    """The same for as long as the soak run says, with moments that nobody chose."""
    rng = random.Random()  # noqa: S311 - moments, no secrets
    end = time.monotonic() + 60 * float(os.environ.get("TOKEN_SIDECAR_SOAK_MINUTES", "1"))
    while time.monotonic() < end:
        storm(make_daemon(), make_simulator(grace=120), rng, rounds=20, tokens=8)


def storm(daemon: Daemon, simulator: Simulator, rng: random.Random, *, rounds: int, tokens: int) -> None:
    """Kill and start again; judge what each death left, and in the end what the provider saw."""
    provider = simulator.provider
    names = [f"t{number}" for number in range(tokens)]
    for name in names:
        daemon.add(
            simulator,
            name,
            profile={"in_doubt": "replay_window", "grace": "2m"},
            refresh_at=0.0001,
            # Out of step with each other, so that one kill finds them at different points.
            min_interval=f"{rng.uniform(1, 2):.3f}s",
            lease="3s",
        )
    # Calls that take their time, so that many kills meet one.
    provider.add_fault(
        *(faults.latency(before=rng.uniform(0, 0.2), after=rng.uniform(0, 0.2)) for _ in range(2000))
    )
    gained = dict.fromkeys(names, 0)
    doubted: set[str] = set()
    daemon.start()
    for _ in range(rounds):
        # It is the moment that is random here: nothing is waited for.
        time.sleep(rng.uniform(0, 1.5))
        daemon.kill()
        left = daemon.remains()
        for name in names:
            record, entry = left.records[name], left.entries.get(name)
            generation = record.generation
            assert provider.is_live(daemon.published(name)), f"{name}: what readers have is no living token"
            if entry is not None:
                if entry.stage is Stage.SENT:
                    doubted.add(entry.attempt.fingerprint)
                if entry.stage is Stage.ANSWERED:
                    # Not committed yet, perhaps because it was killed twice before it came to that.
                    generation = entry.base.generation + 1
            assert generation >= gained[name], f"{name} lost a generation that it had"
            gained[name] = generation
        daemon.launch()
        daemon.wait_until(lambda: len(daemon.lines(event="starting")) == tokens, "it has read its escrow")
        for line in daemon.lines(event="starting"):
            entry = left.entries.get(line["token"])
            if entry is not None and entry.stage is Stage.SENT:
                assert line["grant"] == "in_doubt"

    # Each comes out of it, with the very family that it began with.
    daemon.wait_until(
        lambda: all(
            state["generation"] > gained[name] and state["grant_state"] in {"ok", "in_doubt"}
            for name in names
            for state in [daemon.status(name)]
        ),
        "all are refreshed again",
        patience=60,
    )
    assert daemon.stop() == 0
    report = provider.report()
    assert set(report.replayed) <= doubted, "a refresh token was used twice without a doubt"
    assert [family.killed for family in report.families] == [None] * tokens


# Ends that are asked for


def test_stops_within_a_second_when_idle(daemon: Daemon, simulator: Simulator) -> None:
    """SIGTERM ends an idle daemon at once, with exit code 0; the machine may be busy once or twice."""
    daemon.add(simulator)
    took = []
    for _ in range(3):
        daemon.start()
        began = time.monotonic()
        assert daemon.stop() == 0
        took.append(time.monotonic() - began)
    assert min(took) < 1.0
    assert calls(simulator) == 1


def test_sees_an_answer_home_before_it_stops(daemon: Daemon, simulator: Simulator) -> None:
    """SIGTERM during a POST: the answer is caught, committed and published first, and probes are answered."""
    daemon.add(simulator, **EAGER)
    simulator.provider.add_fault(faults.latency(before=0.5, after=0.5, skip=1))
    daemon.start()
    assert simulator.provider.wait_until(lambda: simulator.provider.report().in_flight == 1)

    daemon.signal(signal.SIGTERM)
    daemon.wait_until(lambda: "stopping on SIGTERM" in daemon.text(), "the signal has arrived")
    alive = daemon.get("/livez").status
    code = daemon.wait()

    assert (code, alive) == (0, 200)
    record = daemon.stored()
    assert (record.generation, record.attempt) == (2, None)
    assert daemon.published() == token_of(record)
    assert simulator.provider.is_live(token_of(record))
    assert calls(simulator) == 2
    assert daemon.remains().entries == {}


def test_stays_until_the_store_has_the_pair(daemon: Daemon, simulator: Simulator) -> None:
    """SIGTERM while the store is gone: the pair is published, kept, and committed when the store is back."""
    daemon.add(simulator, **EAGER)
    simulator.provider.add_fault(faults.latency(before=0.5, skip=1))
    daemon.start()
    first = daemon.published()
    assert simulator.provider.wait_until(lambda: simulator.provider.report().in_flight == 1)
    aside = daemon.store.with_suffix(".aside")
    daemon.store.rename(aside)

    daemon.signal(signal.SIGTERM)
    daemon.wait_until(lambda: daemon.published() != first, "the new token is published")
    state = daemon.status()
    assert (state["grant_state"], state["unpersisted"]) == ("unpersisted", True)
    assert daemon.metric("unpersisted_rotations") == 1
    aside.rename(daemon.store)

    assert daemon.wait() == 0
    record = daemon.stored()
    assert record.generation == 2
    assert daemon.published() == token_of(record)
    assert daemon.remains().entries == {}


def test_a_kill_while_the_store_is_gone_loses_nothing(daemon: Daemon, simulator: Simulator) -> None:
    """A pair that only escrow has outlives the process: the next one commits it."""
    daemon.add(simulator)
    simulator.provider.add_fault(faults.latency(before=0.5, skip=1))
    daemon.start()
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(daemon.control.refresh, "gmail")
        assert simulator.provider.wait_until(lambda: calls(simulator) == 2)
        aside = daemon.store.with_suffix(".aside")
        daemon.store.rename(aside)
        assert asked.result().refreshed
    state, newest = daemon.status(), daemon.published()
    assert (state["grant_state"], state["generation"]) == ("unpersisted", 2)
    assert "deleted while it was in use" in state["reason"]
    daemon.kill()
    aside.rename(daemon.store)

    daemon.start(probe="/readyz")

    daemon.wait_until(lambda: daemon.status()["grant_state"] == "ok", "it is committed")
    assert daemon.published() == newest
    assert daemon.stored().generation == 2
    assert daemon.stop() == 0
    assert simulator.provider.reused() == []
    assert calls(simulator) == 2


def test_a_kill_after_the_signal_loses_nothing(daemon: Daemon, simulator: Simulator) -> None:
    """SIGTERM and then SIGKILL, as kubelet does within two seconds: what was sent, gained and held outlives both."""
    daemon.add(simulator, **EAGER)
    simulator.provider.add_fault(faults.latency(before=0.5, skip=1))
    daemon.start()
    assert simulator.provider.wait_until(lambda: simulator.provider.report().in_flight == 1)
    aside = daemon.store.with_suffix(".aside")
    daemon.store.rename(aside)
    daemon.signal(signal.SIGTERM)
    daemon.wait_until(lambda: daemon.status()["unpersisted"], "it holds a pair that the store doesn't have")
    newest = daemon.published()
    daemon.kill()
    aside.rename(daemon.store)
    daemon.change(refresh_at=None, min_interval=None)

    daemon.start(probe="/readyz")

    daemon.wait_until(lambda: daemon.status()["grant_state"] == "ok", "it is committed")
    assert (daemon.published(), daemon.stored().generation) == (newest, 2)
    assert daemon.stop() == 0
    assert (simulator.provider.reused(), calls(simulator)) == ([], 2)
