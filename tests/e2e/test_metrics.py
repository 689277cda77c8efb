"""The metrics page of a real daemon that goes through everything: what is there is what the configuration says."""

from __future__ import annotations

import http.client
import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from sidecar.ports import Seeding
from sidecar.server.wire import SeedRequest
from sidecar.testing import faults
from sidecar.tokens import OutcomeClass, RefreshToken
from tests import promtool
from tests.e2e.conftest import EAGER, PATIENCE, Daemon, MakeDaemon, MakeSimulator

if TYPE_CHECKING:
    from sidecar.testing import Simulator

Series = tuple[str, tuple[tuple[str, str], ...]]

AHEAD = 90.0
"""Seconds by which one of the providers' clocks is ahead."""
SEVERAL = 2
"""Accounts of the set that have series of their own."""
ACCOUNTS = ("a", 'b"} 1 #', "c\\n", "{d=,", "é ü", "-f", "$g`h`", "i'j;k")
"""Three times as many and more, whose names are hostile to who writes pages."""
SECRET = "sim-at-that-a-provider-wrote-into-its-error"
ERRORS = (
    faults.status(500),
    faults.status(429, retry_after=1),
    faults.error(400, "temporarily_unavailable", f'{SECRET}"}} 1'),
    faults.error(403, "slow\ndown", "x" * 500),
    faults.html(),
    faults.redirect("https://elsewhere.example/"),
    faults.reset(),
)


def series(daemon: Daemon) -> set[Series]:
    """Return names and labels of all that is on the page now."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(daemon.get("/metrics").text)
        for sample in family.samples
    }


def served(daemon: Daemon) -> int:
    """Count the accounts that have a token."""
    document = json.loads(daemon.get("/status").text)
    own: int = sum(name.startswith("people/") for name in document["tokens"])
    fresh: int = document["sets"]["people"]["others"]["access_state"].get("fresh", 0)
    return own + fresh


def plant(daemon: Daemon, simulator: Simulator, account: str) -> None:
    """Give an account its first grant."""
    daemon.control.seed(
        f"people/{account}", SeedRequest(Seeding(RefreshToken(simulator.provider.new_grant(), 1.0)))
    )


@contextmanager
def locked(daemon: Daemon) -> Iterator[None]:
    """Keep the store to ourselves."""
    with closing(sqlite3.connect(daemon.store, timeout=PATIENCE, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


@pytest.fixture(scope="module")
def sim(make_simulator: MakeSimulator) -> Simulator:
    """Give a provider."""
    return make_simulator()


@pytest.fixture(scope="module")
def away(make_simulator: MakeSimulator) -> Simulator:
    """Give another, whose clock is wrong."""
    return make_simulator(clock_skew=AHEAD)


@pytest.fixture(scope="module")
def daemon(make_daemon: MakeDaemon, sim: Simulator, away: Simulator) -> Daemon:
    """Run a daemon with files, hooks, two providers and a set, none of which has a grant yet."""
    daemon = make_daemon()
    hooks = [{"name": name, "exec": {"argv": [f"/bin/{name}"]}} for name in ("true", "false")]
    daemon.add(sim, "gmail", after_refresh=hooks, **EAGER)
    daemon.add(away, "skewed", **EAGER)
    daemon.add(sim, "people", for_each={"every": "1s", "max_series": SEVERAL}, **EAGER)
    daemon.change("people", outputs=[{"file": str(daemon.out / "people-{account}.json")}])
    daemon.config["providers"] = {
        name: {"token_url": provider.token_url, "rotation": "always"}
        for name, provider in (("sim", sim), ("away", away))
    }
    for name, profile in (("gmail", "sim"), ("skewed", "away"), ("people", "sim")):
        daemon.change(name, provider=profile)
    # Nothing is refreshed before the page was seen.
    for name in ("gmail", "skewed", "people"):
        daemon.change(name, seed=None)
    return daemon.start(probe="/livez")


@pytest.fixture(scope="module")
def first(daemon: Daemon) -> set[Series]:
    """Return what was there before anything had happened."""
    found = series(daemon)
    assert daemon.refreshes("success") == 0
    return found


def failures(daemon: Daemon) -> int:
    """Count the calls that came to nothing."""
    return sum(daemon.refreshes(outcome) for outcome in OutcomeClass if outcome is not OutcomeClass.SUCCESS)


def has_failed(daemon: Daemon, times: int) -> bool:
    """Tell whether so many calls came to nothing."""
    return failures(daemon) >= times


def comes_too_late(daemon: Daemon, sim: Simulator) -> bool:
    """Give it another grant while a call may be under way; tell whether there was one, which lost."""
    sim.provider.add_fault(faults.latency(after=1.0))
    daemon.wait_until(lambda: daemon.lease_until() is not None, "it is being refreshed")
    daemon.seed(sim.provider.new_grant())
    return daemon.metric("store_commits_total", outcome="superseded") > 0


def through_it_all(daemon: Daemon, sim: Simulator, away: Simulator) -> None:
    """Let happen whatever can."""
    wait = daemon.wait_until
    daemon.seed(sim.provider.new_grant())
    daemon.seed(away.provider.new_grant(), "skewed")
    wait(lambda: daemon.refreshes("success") > 1, "it is refreshed")
    wait(
        lambda: daemon.metric("provider_clock_skew_seconds", provider="away") > AHEAD / 2, "the skew is seen"
    )
    wait(
        lambda: daemon.metric("hook_runs_total", token="gmail", hook="false", outcome="failed") > 0,
        "hooks run",
    )

    with locked(daemon):
        wait(lambda: daemon.metric("store_operations_total", outcome="failed") > 0, "the store fails")
    daemon.path.write_text("tokens: []", encoding="utf-8")
    daemon.signal(signal.SIGHUP)
    wait(lambda: daemon.metric("config_last_reload_successful") == 0, "the configuration is refused")
    daemon.write_config()
    daemon.signal(signal.SIGHUP)
    wait(lambda: daemon.metric("config_last_reload_successful") == 1, "it is taken")

    wait(lambda: comes_too_late(daemon, sim), "a commit is superseded", patience=3 * PATIENCE)
    for number, error in enumerate(ERRORS, failures(daemon) + 1):
        sim.provider.add_fault(error)
        daemon.seed(sim.provider.new_grant())
        wait(partial(has_failed, daemon, number), "the provider's error is met")
    daemon.seed(sim.provider.new_grant())
    sim.provider.kill(reason="revoked")
    wait(lambda: daemon.refreshes("dead") > 0, "the grant dies")


def test_no_series_appears_late(daemon: Daemon, first: set[Series], sim: Simulator, away: Simulator) -> None:
    """Refreshes, failures, hooks, a skewed clock, a store that is away, reloads, late commits and a death make none."""
    through_it_all(daemon, sim, away)
    assert series(daemon) == first


def test_series_are_as_many_as_the_configuration_says(
    daemon: Daemon, first: set[Series], sim: Simulator
) -> None:
    """However many accounts there are, whatever they are called, and whatever providers answer."""
    half = 2 * SEVERAL
    for account in ACCOUNTS[:half]:
        plant(daemon, sim, account)
    daemon.wait_until(lambda: served(daemon) == half, "they are served")
    some = series(daemon)
    for account in ACCOUNTS[half:]:
        plant(daemon, sim, account)
    daemon.wait_until(lambda: served(daemon) == len(ACCOUNTS), "all are served")
    assert series(daemon) == some
    own = {f"people/{account}" for account in ACCOUNTS[:SEVERAL]}
    assert {dict(labels).get("token") for _, labels in some - first} == {*own, "people/*"}
    for labels in (dict(labels) for _, labels in some):
        assert labels.get("provider", "sim") in {"sim", "away"}
        assert labels.get("token", "gmail") in {"gmail", "skewed", "people/*", *own}


def test_the_page_passes_prometheus_own_linter(daemon: Daemon, first: set[Series]) -> None:
    """Names, types, units and help are as its conventions want them, on the page of a daemon that lived."""
    assert first
    assert promtool.complaints_about_page(daemon.get("/metrics").text) == ""


def test_the_page_is_openmetrics_to_who_asks_for_it(daemon: Daemon, first: set[Series]) -> None:
    """A strict parser reads it, with the same series, as Prometheus does that prefers it."""
    connection = http.client.HTTPConnection(urlsplit(daemon.url).netloc, timeout=PATIENCE)
    with closing(connection):
        connection.request(
            "GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        )
        answer = connection.getresponse()
        text = answer.read().decode()
    assert str(answer.getheader("Content-Type")).startswith("application/openmetrics-text")
    families = parse_openmetrics(text)  # type: ignore[no-untyped-call]
    found = {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in families
        for sample in family.samples
    }
    assert first <= found
    assert found == series(daemon)
