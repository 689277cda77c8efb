"""What becomes of a pod whose grant dies, as the probes tell kubelet and the termination message tells humans."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from sidecar.errors import HumanNeeded
from tests.e2e.conftest import a_seed
from tests.pod.conftest import LONG

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.pod.conftest import Container, MakePod, MakeSimulator, Pod

pytestmark = LONG
DEAD = "gmail: the grant is dead ("
REMEDY = "token-sidecar seed gmail --file"


def calls(simulator: Simulator) -> int:
    """Count the requests so far."""
    return len(simulator.provider.report().requests)


def die(pod: Pod, simulator: Simulator) -> None:
    """Have the provider end the grant, and the daemon find out."""
    simulator.provider.kill()
    with suppress(HumanNeeded):
        pod.control.refresh("gmail")
    assert pod.state_of() == "dead"


def ready(pod: Pod) -> Container:
    """Start the container, and wait until its application would be started."""
    container = pod.start()
    pod.wait_until(container, lambda: pod.answers("/startupz"), "it is started")
    says(pod, container, "")
    return container


def says(pod: Pod, container: Container, beginning: str) -> str:
    """Wait until the termination message begins so, and ends there if it is empty; returns it."""

    def told() -> bool:
        text = pod.termination.read_text(encoding="utf-8")
        return text.startswith(beginning) if beginning else not text

    pod.wait_until(container, told, f"its message is {beginning!r}")
    return pod.termination.read_text(encoding="utf-8")


@pytest.fixture
def pod(make_pod: MakePod) -> Pod:
    """Give a pod whose store outlives it."""
    pod = make_pod()
    pod.config["store"] = "sqlite:///run/store/tokens.db"
    return pod


def test_a_grant_that_dies_while_it_runs(pod: Pod, make_simulator: MakeSimulator) -> None:
    """Gauge and message first, then liveness; the restart asks nobody and serves on; a seed heals it in place."""
    simulator, other = make_simulator(), make_simulator()
    pod.add(simulator, dead_grace="10s")
    pod.add(other, "sibling")
    container = ready(pod)

    die(pod, simulator)
    told = says(pod, container, DEAD)
    assert (pod.get("/livez").status, pod.metric("grant_state", token="gmail", state="dead")) == (200, 1)
    assert REMEDY in told
    pod.wait_until(container, lambda: pod.answers("/livez", 503), "the grace is over")
    assert pod.termination.read_text() == told
    assert container.stop() == 0
    before = calls(simulator), calls(other)

    # Kubelet starts it anew, with an empty message: the grace is the long one, unless one is set.
    del pod.config["tokens"]["gmail"]["dead_grace"]
    container = pod.start()
    pod.wait_until(container, lambda: pod.answers("/readyz/sibling"), "its sibling is served")
    # What its sibling's file holds is valid before that one's first turn, which is told of until then.
    pod.wait_until(container, lambda: says(pod, container, DEAD) == told, "it says the same again")
    assert (pod.get("/livez").status, pod.metric("grant_state", token="gmail", state="dead")) == (200, 1)
    assert pod.get("/startupz").status == 200
    assert pod.control.refresh("sibling").refreshed
    assert (calls(simulator), calls(other)) == (before[0], before[1] + 1)

    pod.control.seed("gmail", a_seed(simulator.provider.new_grant()))
    pod.wait_until(container, lambda: pod.state_of() == "ok", "it lives again")
    says(pod, container, "")
    assert (pod.get("/livez").status, pod.get("/readyz").status) == (200, 200)
    assert not container.ended


def test_a_new_pod_with_a_dead_grant(pod: Pod, make_pod: MakePod, make_simulator: MakeSimulator) -> None:
    """It doesn't start, and its message says why; the old one goes on; a seed given to one is seen by the other."""
    simulator, other = make_simulator(access_ttl=3), make_simulator()
    pod.add(simulator)
    pod.add(other, "sibling")
    old = ready(pod)
    die(pod, simulator)
    before = calls(simulator)
    # What is left of the access token is served in new pods too.
    pod.wait_until(old, lambda: pod.answers("/readyz", 503), "the last token expires")

    rollout = make_pod()
    rollout.share(pod)
    new = rollout.start()
    rollout.wait_until(new, lambda: rollout.answers("/startupz", 503), "it answers")
    rollout.wait_until(new, lambda: rollout.state_of() == "dead", "it has read the store")
    said = rollout.get("/startupz").text
    assert "the grant is dead" in said
    assert REMEDY in said
    says(rollout, new, DEAD)
    rollout.wait_until(new, lambda: rollout.answers("/readyz/sibling"), "its sibling is served")
    assert {each.get("/livez").status for each in (rollout, pod)} == {200}
    assert calls(simulator) == before

    pod.control.seed("gmail", a_seed(simulator.provider.new_grant()))
    rollout.wait_until(new, lambda: rollout.answers("/startupz"), "the new pod starts")
    says(rollout, new, "")
    says(pod, old, "")
    assert not old.ended


def test_why_a_pod_does_not_start_is_in_its_message(make_pod: MakePod) -> None:
    """What waits for a human says so before kubelet gives up on it: here a token that has no seed yet."""
    pod = make_pod()
    pod.add_unreachable()
    container = pod.start()
    pod.wait_until(container, lambda: pod.answers("/startupz", 503), "it answers")
    assert REMEDY in says(pod, container, "gmail: the grant is unseeded (")
    assert container.stop() == 0
