"""Probes, metrics, status and control socket of a real daemon, through a token's whole life."""

from __future__ import annotations

import http.client
import json
import math
import os
import stat
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from sidecar.errors import HumanNeeded, UnknownToken
from sidecar.observers.metrics import DEFINITIONS
from sidecar.testing import fingerprint
from sidecar.tokens import AccessState, GrantState
from tests import leaks

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeSimulator

PAGES = ("/startupz", "/readyz", "/readyz/gmail", "/livez")
LIFE = 4.0
"""Seconds that an access token lives where its end is waited for."""


def probes(daemon: Daemon) -> list[int]:
    """Return the status of `/startupz`, `/readyz` and `/livez`, having looked for secrets on every page."""
    for page in (*PAGES, "/metrics", "/status"):
        assert list(leaks.in_bytes(daemon.get(page).text.encode(), page)) == []
    return [daemon.get(page).status for page in ("/startupz", "/readyz", "/livez")]


def shown(daemon: Daemon) -> tuple[str, str]:
    """Return access and grant state, after checking that status and gauges tell the same."""

    def states() -> dict[str, str]:
        view = daemon.status()
        return {"access": view["access_state"], "grant": view["grant_state"]}

    gauges: dict[str, list[AccessState | GrantState]] = {}
    before, after = None, states()
    while before != after:
        before = after
        gauges = {
            kind: [
                state for state in known if daemon.metric(f"{kind}_state", token="gmail", state=state) == 1
            ]
            for kind, known in (("access", AccessState), ("grant", GrantState))
        }
        after = states()
    assert gauges == {kind: [state] for kind, state in after.items()}
    return after["access"], after["grant"]


def die(daemon: Daemon, simulator: Simulator) -> None:
    """Have the provider end the grant, and the daemon find out."""
    simulator.provider.kill()
    with pytest.raises(HumanNeeded, match="the grant is dead"):
        daemon.control.refresh("gmail")
    assert daemon.status()["grant_state"] == GrantState.DEAD


def test_a_life(daemon: Daemon, make_simulator: MakeSimulator) -> None:
    """Before the seed, fresh, expired while the provider is down, fresh again, dead, and alive by a new consent."""
    simulator = make_simulator(access_ttl=LIFE)
    seed = daemon.add(simulator, dead_grace="1s", lease="900ms")
    daemon.config["tokens"]["gmail"].pop("seed")
    daemon.start(probe="/livez")

    assert probes(daemon) == [503, 503, 200]
    assert shown(daemon) == ("absent", "unseeded")
    told = daemon.get("/startupz").text
    assert told.startswith("gmail: ")
    assert "token-sidecar seed gmail" in told
    assert math.isnan(daemon.metric("access_token_expiry_timestamp_seconds", token="gmail"))
    assert daemon.metric("output_token_expiry_timestamp_seconds", token="gmail") == 0
    page = daemon.get("/metrics").text
    assert [name for name in DEFINITIONS if f"token_sidecar_{name}" not in page] == []

    daemon.seed(seed)
    daemon.wait_until(lambda: daemon.answers("/startupz"), "it is served")
    assert probes(daemon) == [200, 200, 200]
    assert shown(daemon) == ("fresh", "ok")
    expires_at = daemon.metric("access_token_expiry_timestamp_seconds", token="gmail")
    assert time.time() < expires_at <= time.time() + LIFE

    simulator.stop()
    daemon.wait_until(lambda: daemon.answers("/readyz", 503), "it expires")
    # It was started once: what came later is for the other probes to tell.
    assert probes(daemon) == [200, 503, 200]
    assert shown(daemon) == ("expired", "retrying")
    assert "gmail: " in daemon.get("/readyz").text
    assert "expired" in daemon.get("/readyz/gmail").text
    assert daemon.metric("output_token_expiry_timestamp_seconds", token="gmail") < time.time()

    simulator.start()
    daemon.wait_until(lambda: daemon.answers("/readyz"), "it is fresh again")
    daemon.wait_until(lambda: shown(daemon) == ("fresh", "ok"), "it is well again")
    assert probes(daemon) == [200, 200, 200]

    died_after = time.time()
    die(daemon, simulator)
    daemon.wait_until(lambda: daemon.answers("/livez", 503), "the grace is over")
    assert time.time() - died_after > 1
    told = daemon.get("/livez").text
    assert "dead for" in told
    assert "token-sidecar seed gmail" in told
    daemon.wait_until(lambda: daemon.answers("/readyz", 503), "its last token expires")
    assert probes(daemon) == [200, 503, 503]
    assert shown(daemon) == ("expired", "dead")

    daemon.seed(simulator.provider.new_grant())
    daemon.wait_until(lambda: daemon.answers("/readyz"), "it lives again")
    assert probes(daemon) == [200, 200, 200]
    assert shown(daemon)[1] == "ok"
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("on_dead", "livez", "readyz"), [("restart", 503, 503), ("unready", 200, 503), ("report", 200, 200)]
)
def test_what_a_death_does_is_chosen(
    daemon: Daemon, make_simulator: MakeSimulator, on_dead: str, livez: int, readyz: int
) -> None:
    """With the grace over and the access token expired, the probes fail as `on_dead` says; the token's own does."""
    simulator = make_simulator(access_ttl=LIFE)
    daemon.add(simulator, on_dead=on_dead, dead_grace="0s")
    daemon.start()
    die(daemon, simulator)
    daemon.wait_until(lambda: daemon.answers("/readyz/gmail", 503), "it expires")
    daemon.wait_until(
        lambda: (daemon.get("/livez").status, daemon.get("/readyz").status) == (livez, readyz),
        "the probes are as chosen",
    )
    assert shown(daemon) == ("expired", "dead")
    assert probes(daemon)[1:] == [readyz, livez]


def test_a_grant_that_was_dead_at_the_start_has_a_longer_grace(daemon: Daemon, simulator: Simulator) -> None:
    """A restart finds the death: alive for a quarter of an hour, or for the grace from its own start that is set."""
    daemon.add(simulator)
    daemon.start()
    die(daemon, simulator)
    assert daemon.stop() == 0
    calls = len(simulator.provider.report().requests)

    daemon.start(probe="/livez")
    daemon.wait_until(lambda: shown(daemon)[1] == "dead", "the store tells it")
    assert daemon.status()["found_dead"]
    assert daemon.answers("/livez")
    assert daemon.answers("/readyz")
    assert daemon.stop() == 0

    daemon.change(dead_grace="1s")
    daemon.start(probe="/readyz")
    daemon.wait_until(lambda: daemon.answers("/livez", 503), "the grace is over")
    assert json.loads(daemon.get("/status").text)["uptime"] > 1
    assert daemon.stop() == 0
    assert len(simulator.provider.report().requests) == calls


def test_a_pod_that_started_before_is_not_held_up(
    daemon: Daemon, make_simulator: MakeSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart with an expired token `/startupz` is 200 and says why; in another pod it is 503."""
    simulator = make_simulator(access_ttl=2)
    daemon.add(simulator)
    monkeypatch.setenv("POD_UID", "one")
    daemon.start()
    simulator.stop()
    daemon.wait_until(lambda: daemon.answers("/readyz", 503), "it expires")
    assert daemon.stop() == 0

    daemon.start(probe="/livez")
    assert probes(daemon) == [200, 503, 200]
    assert "this pod has started before" in daemon.get("/startupz").text
    assert "gmail: " in daemon.get("/startupz").text
    assert daemon.stop() == 0

    monkeypatch.setenv("POD_UID", "two")
    daemon.start(probe="/livez")
    assert probes(daemon) == [503, 503, 200]

    simulator.start()
    daemon.wait_until(lambda: daemon.answers("/startupz"), "it is served")


def test_the_control_socket_is_for_its_owner(daemon: Daemon, simulator: Simulator) -> None:
    """Mode 0600 in a directory with 0700; it gives the published token, the status page and what is wrong."""
    daemon.add(simulator)
    daemon.start()
    path = daemon.state_dir / "control.sock"
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(daemon.state_dir.stat().st_mode) == 0o700

    token = daemon.control.token("gmail")
    assert token.access_token == daemon.published()
    assert token.fingerprint == fingerprint(token.access_token)
    assert simulator.provider.is_live(token.access_token)
    assert daemon.control.status()["tokens"].keys() == {"gmail"}
    with pytest.raises(UnknownToken, match="the configuration has: gmail"):
        daemon.control.token("other")


def test_the_control_socket_can_be_shared(daemon: Daemon, simulator: Simulator) -> None:
    """Mode and group are the configuration's."""
    daemon.add(simulator)
    daemon.config["control"] = {"mode": "0660", "group": os.getegid()}
    daemon.start()
    found = (daemon.state_dir / "control.sock").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, os.getegid())


def test_nothing_can_be_changed_over_http(daemon: Daemon, simulator: Simulator) -> None:
    """Other methods and strange names are refused, and what the control socket can do is not there."""
    daemon.add(simulator)
    daemon.start()
    answers = {}
    for page in ("/livez", "/status", "/tokens/gmail", "/tokens/gmail/refresh", "/reload"):
        connection = http.client.HTTPConnection(urlsplit(daemon.url).netloc, timeout=20)
        connection.request("POST", page, body="{}")
        answers[page] = connection.getresponse().status
        connection.close()
    assert answers == {
        "/livez": 405,
        "/status": 405,
        "/tokens/gmail": 404,
        "/tokens/gmail/refresh": 404,
        "/reload": 404,
    }
    assert daemon.get("/readyz/other").status == 404
    assert len(simulator.provider.report().requests) == 1
    # It listens on the loopback here: a name that was made to point there is refused.
    connection = http.client.HTTPConnection(urlsplit(daemon.url).netloc, timeout=20)
    connection.request("GET", "/status", headers={"Host": "rebound.example"})
    assert connection.getresponse().status == 400
    connection.close()
