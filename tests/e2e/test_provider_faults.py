"""Whatever a provider answers, it ends as the decision table says, and readers keep the token they have."""

from __future__ import annotations

import math
import re
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from sidecar.testing import faults, fingerprint
from tests.e2e.conftest import EAGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.testing import Fault, Simulator
    from tests.e2e.conftest import Daemon, MakeDaemon, MakeSimulator


class Case(NamedTuple):
    """One misbehaviour, from the second request on, and what comes of it."""

    fault: Fault
    outcome: str
    state: str
    reason: str
    """Pattern of the reason in the record's history."""


FAILURES = {
    "internal-error": Case(faults.status(500), "in_doubt", "in_doubt", r"HTTP 500"),
    "bad-gateway": Case(faults.status(502, processed=True), "in_doubt", "in_doubt", r"HTTP 502"),
    "unavailable": Case(faults.status(503), "transient", "retrying", r"HTTP 503"),
    "throttled": Case(faults.status(429, retry_after=40), "transient", "retrying", r"HTTP 429"),
    "html": Case(faults.html(), "in_doubt", "in_doubt", r"HTTP 200 that is not a JSON object"),
    "truncated": Case(faults.truncated(), "in_doubt", "in_doubt", r"HTTP 200 that is not a JSON object"),
    "empty": Case(faults.empty(), "in_doubt", "in_doubt", r"HTTP 200 that is not a JSON object"),
    "huge": Case(faults.huge(), "in_doubt", "in_doubt", r"larger than 1024 KiB"),
    "half": Case(faults.half(), "in_doubt", "in_doubt", r"closed early"),
    "reset": Case(faults.reset(), "in_doubt", "in_doubt", r"reset|broke"),
    "reset-processed": Case(faults.reset(processed=True), "in_doubt", "in_doubt", r"reset|broke"),
    "close": Case(faults.close(), "in_doubt", "in_doubt", r"closed early"),
    "wrong-client": Case(
        faults.error(401, "invalid_client"), "misconfigured", "misconfigured", r"invalid_client"
    ),
    "firewall": Case(faults.status(403), "misconfigured", "misconfigured", r"HTTP 403"),
    "error-at-200": Case(faults.error_at_200("internal_error"), "in_doubt", "in_doubt", r"internal_error"),
    "refused": Case(faults.error(400, "invalid_grant"), "dead", "dead", r"invalid_grant"),
}
SUCCESSES = {
    "string": faults.expires_in("5000", times=None, skip=1),
    "zero": faults.expires_in(0, times=None, skip=1),
    "negative": faults.expires_in(-3600, times=None, skip=1),
    "absent": faults.without("expires_in", times=None, skip=1),
    "same": faults.same_token(times=None, skip=1),
}


class Trial(NamedTuple):
    """One daemon whose tokens have a provider each."""

    daemon: Daemon
    simulators: dict[str, Simulator]
    elsewhere: socket.socket
    """Listens where the redirect points to."""

    def calls(self, name: str) -> int:
        """Count the requests of a token."""
        return len(self.simulators[name].provider.report().requests)


@pytest.fixture(scope="module")
def trial(make_daemon: MakeDaemon, make_simulator: MakeSimulator) -> Iterator[Trial]:
    """Run all the misbehaviours beside each other, which must not mind each other."""
    daemon = make_daemon()
    daemon.config["max_workers"] = 64
    simulators = {}
    with socket.create_server(("127.0.0.2", 0)) as elsewhere:
        elsewhere.settimeout(0)
        address = f"http://127.0.0.2:{elsewhere.getsockname()[1]}/token"
        script = {name: case.fault for name, case in FAILURES.items()}
        script |= SUCCESSES
        script["redirect"] = faults.redirect(address, 307)
        for name, fault in script.items():
            simulators[name] = make_simulator()
            daemon.add(simulators[name], name, **EAGER)
            simulators[name].provider.add_fault(replace(fault, times=None, skip=1))
        daemon.start()
        yield Trial(daemon, simulators, elsewhere)
    daemon.close()


def the_first_is_served(trial: Trial, name: str) -> dict[str, Any]:
    """Assert that readers have the very first access token, and it is good; returns the token's status."""
    state = trial.daemon.status(name)
    published = trial.daemon.published(name)
    assert state["fingerprint"] == fingerprint(published)
    assert trial.simulators[name].provider.is_live(published)
    assert trial.daemon.get(f"/readyz/{name}").status == 200
    assert state["access_state"] == "fresh"
    return state


@pytest.mark.parametrize("name", FAILURES)
def test_failures(trial: Trial, name: str) -> None:
    """Each ends in its class, with its state and reason, and the token that is served stays."""
    daemon, case = trial.daemon, FAILURES[name]
    daemon.wait_until(lambda: daemon.refreshes(case.outcome, name) >= 1, f"{name} is judged")

    state = the_first_is_served(trial, name)

    assert (state["grant_state"], state["generation"]) == (case.state, 1)
    assert state["reason"]
    daemon.wait_until(lambda: len(daemon.stored(name).history) > 2, "the verdict is written down")
    record = daemon.stored(name)
    _seeded, _first, failed, *_ = record.history
    assert re.search(case.reason, failed.reason), failed.reason
    assert failed.outcome == case.outcome
    assert (state["in_doubt_since"] is not None) == (case.state == "in_doubt")
    assert record.refresh is not None
    if case.state == "in_doubt":
        # The profile allows no replay: nothing more is sent while the access token lives.
        assert trial.calls(name) == 2
        assert record.attempt is not None
        assert record.attempt.fingerprint == record.refresh.fingerprint


def test_retry_after_is_obeyed(trial: Trial) -> None:
    """A provider that names its own time gets it, with a little jitter on top, whoever asks."""
    daemon = trial.daemon
    daemon.wait_until(lambda: daemon.refreshes("transient", "throttled") == 1, "it is throttled")
    daemon.wait_until(lambda: daemon.stored("throttled").backoff is not None, "it is written down")
    record = daemon.stored("throttled")
    assert record.backoff is not None
    assert 40 <= record.backoff.not_before - record.history[-1].at <= 44.01
    assert record.backoff.not_before - 0.05 <= daemon.status("throttled")["next_wake"]


def test_a_huge_answer_is_not_taken_in(trial: Trial) -> None:
    """50 MB are broken off at a megabyte: they never come to be in memory."""
    daemon = trial.daemon
    daemon.wait_until(lambda: daemon.refreshes("in_doubt", "huge") == 1, "it is judged")
    status = Path(f"/proc/{daemon.pid}/status").read_text(encoding="ascii")
    peak = int(status.partition("VmHWM:")[2].split()[0])
    assert peak < 100 * 1024, f"{peak} KiB"


def test_a_redirect_is_not_followed(trial: Trial) -> None:
    """The other host gets nothing, not even a connection; the redirect is a wrong token_url."""
    daemon = trial.daemon
    daemon.wait_until(lambda: daemon.refreshes("misconfigured", "redirect") == 1, "it is judged")
    state = the_first_is_served(trial, "redirect")
    assert state["grant_state"] == "misconfigured"
    assert "redirect" in state["reason"]
    with pytest.raises(BlockingIOError):
        trial.elsewhere.accept()


def test_a_lifetime_written_as_a_string(trial: Trial) -> None:
    """A string of digits is a number."""
    daemon = trial.daemon
    daemon.wait_until(lambda: daemon.status("string")["generation"] >= 2, "it is refreshed")
    state = daemon.status("string")
    assert state["grant_state"] == "ok"
    assert state["expires_at"] - state["last_success"] == pytest.approx(5000)
    assert state["expiry_known"]


@pytest.mark.parametrize("name", ["zero", "negative"])
def test_a_token_that_is_dead_on_arrival(trial: Trial, name: str) -> None:
    """The pair is kept, the living token stays with its readers, and the provider is left alone."""
    daemon = trial.daemon
    daemon.wait_until(lambda: daemon.status(name)["generation"] == 2, "the pair is committed")
    daemon.wait_until(lambda: daemon.refreshes("success", name) == 2, "both are counted")

    state = the_first_is_served(trial, name)

    (family,) = trial.simulators[name].provider.report().families
    assert family.active_refresh_tokens == (state["refresh_fingerprint"],)
    assert state["grant_state"] == "retrying"
    assert "lives no longer than" in state["reason"]
    daemon.wait_until(lambda: daemon.stored(name).generation == 2, "the pair is in the store")
    backoff = daemon.stored(name).backoff
    assert backoff is not None
    assert backoff.not_before - backoff.since >= 15


def test_a_lifetime_that_nobody_tells(trial: Trial) -> None:
    """Half an hour is assumed, and the gauge says that nobody knows."""
    daemon = trial.daemon
    daemon.wait_until(lambda: daemon.status("absent")["generation"] >= 2, "it is refreshed")
    state = daemon.status("absent")
    assert state["grant_state"] == "ok"
    assert not state["expiry_known"]
    assert state["expires_at"] - state["last_success"] == pytest.approx(1800)
    assert math.isnan(daemon.metric("access_token_expiry_timestamp_seconds", token="absent"))
    assert trial.simulators["absent"].provider.is_live(daemon.published("absent"))


def test_the_same_token_again(trial: Trial) -> None:
    """It is asked for again at half of what it has left, and not at once."""
    daemon = trial.daemon
    daemon.wait_until(lambda: daemon.refreshes("success", "same") == 2, "it is answered")
    daemon.wait_until(lambda: daemon.status("same")["generation"] == 2, "it is committed")
    state = the_first_is_served(trial, "same")
    assert state["grant_state"] == "ok"
    assert state["next_wake"] > time.time() + 1000
    assert trial.calls("same") == 2


def test_the_token_is_served_until_it_expires(daemon: Daemon, make_simulator: MakeSimulator) -> None:
    """Ready as long as the last token lives, and unready from then on, with the reason."""
    simulator = make_simulator(access_ttl=5)
    simulator.provider.add_fault(faults.status(503, times=None, skip=1))
    daemon.add(simulator)
    daemon.start()
    first, expires_at = daemon.published(), daemon.status()["expires_at"]

    daemon.wait_until(lambda: not daemon.answers("/readyz"), "it is unready")

    assert 0 <= time.time() - expires_at < 10
    assert daemon.published() == first
    assert "expired" in daemon.get("/readyz").text
    assert daemon.status()["access_state"] == "expired"
    assert daemon.answers("/livez")


def test_an_answer_that_is_late_is_caught(daemon: Daemon, make_simulator: MakeSimulator) -> None:
    """Past its deadline a call frees its worker, keeps its lease and goes on; its answer counts as any other."""
    slow, quick = make_simulator(), make_simulator()
    daemon.config["max_workers"] = 1
    daemon.add(slow, "slow", **EAGER, lease="2s", request_timeout="1s")
    daemon.add(quick, "quick", **EAGER)
    slow.provider.add_fault(faults.latency(after=4, skip=1))
    daemon.start()
    assert slow.provider.wait_until(lambda: len(slow.provider.report().requests) == 2)
    began = len(quick.provider.report().requests)
    sent_at = slow.provider.report().requests[1].at
    leases, doubted_after = set(), []

    def observed() -> bool:
        leases.add(daemon.lease_until("slow"))
        if daemon.status("slow")["grant_state"] == "in_doubt":
            doubted_after.append(time.time() - sent_at)
        return slow.provider.report().in_flight == 0

    daemon.wait_until(observed, "the late answer")
    assert len(quick.provider.report().requests) - began >= 1
    daemon.wait_until(lambda: daemon.status("slow")["generation"] >= 2, "it is committed")
    assert len(leases - {None}) >= 4
    assert doubted_after, "who waits beyond the deadline is in doubt"
    assert doubted_after[0] > 0.5, "an answer that is not late yet is no reason to doubt"
    daemon.wait_until(lambda: daemon.status("slow")["grant_state"] == "ok", "it is well")
    assert daemon.refreshes("in_doubt", "slow") == 0
    assert daemon.stop() == 0
    assert slow.provider.reused() == []


@pytest.mark.parametrize("processed", [False, True])
def test_a_provider_that_never_answers(
    daemon: Daemon, make_simulator: MakeSimulator, *, processed: bool
) -> None:
    """In the end the wait is over: in doubt, with the token served, and nothing sent again while it lives."""
    simulator = make_simulator()
    simulator.provider.add_fault(faults.hold(processed=processed, skip=1, times=None))
    daemon.add(simulator, **EAGER, lease="900ms")
    daemon.start("read-limit", "1.5")
    first = daemon.published()

    daemon.wait_until(lambda: daemon.refreshes("in_doubt") == 1, "the wait is over")

    def told() -> bool:
        return "no whole answer within 1.5 s" in daemon.stored().history[-1].reason

    daemon.wait_until(told, "the verdict is written down")
    state = daemon.status()
    assert state["grant_state"] == "in_doubt"
    assert state["in_doubt_since"] is not None
    assert daemon.published() == first
    assert daemon.answers("/readyz")
    assert daemon.stop() == 0
    assert len(simulator.provider.report().requests) == 2


def test_a_provider_that_is_down(daemon: Daemon, simulator: Simulator) -> None:
    """Nothing was sent: the call is tried again, and works as soon as the provider does."""
    daemon.add(simulator, **EAGER)
    daemon.start()
    simulator.stop()
    daemon.wait_until(lambda: daemon.refreshes("transient") >= 1, "it is refused")
    state = daemon.status()
    assert (state["grant_state"], state["in_doubt_since"]) == ("retrying", None)
    assert "refused" in state["reason"]
    assert daemon.answers("/readyz")
    generation = state["generation"]

    simulator.start()

    daemon.wait_until(lambda: daemon.status()["generation"] > generation, "it is refreshed")
    assert daemon.stop() == 0
    assert simulator.provider.reused() == []
