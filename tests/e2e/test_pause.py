"""A daemon that is stopped and continued (SIGSTOP, a frozen VM) loses no answer and sends nothing late."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from sidecar.testing import Fate, faults
from tests.e2e.conftest import EAGER, wait_until

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeDaemon

LEASE = {"lease": "900ms", "request_timeout": "300ms"}
LONG = 2.0
"""Seconds: twice the lease and more."""


def in_flight(simulator: Simulator) -> bool:
    """Tell whether the second request waits for its answer."""
    report = simulator.provider.report()
    return report.in_flight == 1 and len(report.requests) == 2


def let_pass(simulator: Simulator, seconds: float) -> None:
    """Return when the second request is so old: it is the passing of time that is tried here."""
    sent = simulator.provider.report().requests[1].at
    wait_until(lambda: time.time() > sent + seconds, what="time passes")


@pytest.mark.parametrize("hook", [(), ("read-limit", "1.5")], ids=["deadline", "read-limit"])
def test_an_answer_that_waited_in_the_socket_is_not_lost(
    daemon: Daemon, simulator: Simulator, hook: tuple[str, ...]
) -> None:
    """Stopped across deadline, lease and patience while the answer comes: it is caught and committed."""
    daemon.add(simulator, **EAGER, **LEASE)
    simulator.provider.add_fault(faults.latency(after=0.5, skip=1))
    daemon.start(*hook)
    assert simulator.provider.wait_until(lambda: in_flight(simulator))
    daemon.pause()
    assert simulator.provider.wait_until(
        lambda: simulator.provider.report().requests[1].fate is Fate.ANSWERED
    )
    let_pass(simulator, LONG)

    daemon.resume()

    daemon.wait_until(lambda: daemon.status()["generation"] >= 2, "the answer is committed")
    assert daemon.refreshes("in_doubt") == 0
    assert daemon.stop() == 0
    assert simulator.provider.reused() == []
    assert simulator.provider.is_live(daemon.published())


def test_an_answer_that_comes_after_a_pause_is_not_lost(daemon: Daemon, simulator: Simulator) -> None:
    """Stopped for longer than the lease while the provider works: its answer is caught all the same."""
    daemon.add(simulator, **EAGER, **LEASE)
    simulator.provider.add_fault(faults.latency(after=LONG + 0.5, skip=1))
    daemon.start()
    assert simulator.provider.wait_until(lambda: in_flight(simulator))
    daemon.pause()
    let_pass(simulator, LONG)
    assert simulator.provider.report().requests[1].fate is Fate.PENDING

    daemon.resume()

    daemon.wait_until(lambda: daemon.status()["generation"] >= 2, "the answer is committed")
    assert daemon.refreshes("in_doubt") == 0
    assert daemon.stop() == 0
    assert simulator.provider.reused() == []


def test_nothing_is_sent_on_a_lease_that_ended_meanwhile(daemon: Daemon, simulator: Simulator) -> None:
    """Stopped between lease and connection for longer than the lease: nothing is sent on the old one."""
    daemon.add(simulator, **LEASE)
    daemon.start()
    daemon.stop()
    daemon.change(**EAGER)
    daemon.start("after-arm", "stop")
    daemon.wait_until(daemon.is_paused, "it stops itself")
    attempt = daemon.stored().attempt
    assert attempt is not None
    wait_until(lambda: time.time() > attempt.started_at + LONG, what="the lease ends")
    assert len(simulator.provider.report().requests) == 1
    resumed_at = time.time()

    daemon.resume()

    daemon.wait_until(lambda: daemon.status()["generation"] >= 2, "it is refreshed on a new lease")
    assert daemon.refreshes("transient") == 1
    assert daemon.refreshes("in_doubt") == 0
    assert simulator.provider.report().requests[1].at > resumed_at
    assert daemon.stop() == 0
    assert simulator.provider.reused() == []


def test_another_daemon_keeps_its_hands_off(
    daemon: Daemon, make_daemon: MakeDaemon, simulator: Simulator
) -> None:
    """While a lease holder is stopped, a second daemon on the same store doesn't send its token again."""
    daemon.add(simulator, **EAGER, **LEASE)
    simulator.provider.add_fault(faults.latency(after=0.5, skip=1))
    daemon.start()
    assert simulator.provider.wait_until(lambda: in_flight(simulator))
    daemon.pause()
    other = make_daemon()
    other.store = daemon.store
    other.config |= {"store": daemon.config["store"], "tokens": dict(daemon.config["tokens"])}
    other.change(outputs=[{"file": str(other.output()), "format": "gmail-sdk"}])
    other.start(probe="/readyz")
    let_pass(simulator, LONG)
    other.wait_until(lambda: other.status()["grant_state"] == "in_doubt", "it sees the other's attempt")
    assert len(simulator.provider.report().requests) == 2
    assert other.stop() == 0

    daemon.resume()

    daemon.wait_until(lambda: daemon.status()["generation"] >= 2, "the answer is committed")
    assert daemon.stop() == 0
    assert simulator.provider.reused() == []
