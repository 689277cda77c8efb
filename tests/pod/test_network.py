"""Where the probes listen, in the networks that pods have; and how they are found there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.pod.conftest import LONG, NONROOT, User

if TYPE_CHECKING:
    from tests.pod.conftest import Container, MakePod, Pod

pytestmark = LONG

FOUR, SIX = "10.0.0.5", "fd00::5"
ADD_FOUR, ADD_SIX = f"ip address add {FOUR}/32 dev lo", f"ip address add {SIX}/128 dev lo"
NO_SIX = "for each in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $each; done"
NO_FOUR = "ip address del 127.0.0.1/8 dev lo"
ANYBODY = User(1000, 1000)


class Network(NamedTuple):
    """A pod's network."""

    setup: str
    reached: tuple[str, ...]
    """The addresses at which kubelet finds the pod."""
    loopback: str


NETWORKS = {
    "dual-stack": Network(f"{ADD_FOUR}; {ADD_SIX}", (FOUR, SIX), "127.0.0.1"),
    "IPv4 alone": Network(f"{NO_SIX}; {ADD_FOUR}", (FOUR,), "127.0.0.1"),
    "IPv6 alone": Network(f"{NO_FOUR}; {ADD_SIX}", (SIX,), "[::1]"),
}


def served(make_pod: MakePod, network: Network, host: str) -> tuple[Pod, Container]:
    """Run the daemon in a network; its provider is out of reach, and that is no reason to be restarted."""
    pod = make_pod()
    pod.add_unreachable()
    pod.config["server"] = {"host": host, "port": 9640}
    container = pod.start(net=network.setup)
    pod.wait_until(
        container, lambda: container.exec("token-sidecar", "healthcheck", "live").returncode == 0, "it lives"
    )
    return pod, container


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_all_addresses_are_those_that_the_pod_has(make_pod: MakePod, network: Network) -> None:
    """`host: "::"` answers kubelet at each of the pod's addresses, and an exec probe of whatever user."""
    pod, container = served(make_pod, network, "::")

    assert [container.get(address, "/livez").status for address in network.reached] == [200] * len(
        network.reached
    )
    address = json.loads((pod.state / "http.json").read_text(encoding="utf-8"))
    assert address["url"] == f"http://{network.loopback}:9640"
    assert container.exec("token-sidecar", "healthcheck", "live", user=ANYBODY).returncode == 0

    # What it wrote is for its own user, where the directory is; its configuration is for everybody.
    pod.state.chmod(0o700)
    for user in (NONROOT, ANYBODY):
        probe = container.exec("token-sidecar", "healthcheck", "live", user=user)
        assert probe.returncode == 0, probe.stderr


def test_on_the_node_s_own_network(make_pod: MakePod) -> None:
    """With `hostNetwork`, a port that is in use ends the start, told by setting; loopback is for exec probes alone."""
    _, node = served(make_pod, NETWORKS["dual-stack"], "::")
    pod = make_pod()
    pod.add_unreachable()
    pod.config["server"] = {"host": "::", "port": 9640}
    beside = pod.start(net=node)
    assert beside.wait() == 1
    assert "cannot listen on :: port 9640: something else does already; set server.port" in beside.text()

    pod.config["server"] = {"host": "127.0.0.1", "port": 9641}
    beside = pod.start(net=node)
    pod.wait_until(
        beside, lambda: beside.exec("token-sidecar", "healthcheck", "live").returncode == 0, "it lives"
    )
    with pytest.raises(ConnectionRefusedError):
        beside.get(FOUR, "/livez", port=9641)
