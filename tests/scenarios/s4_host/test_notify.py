"""`Type=notify`, with a real daemon and a real socket: what systemd would get to hear."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.testing import faults
from tests.e2e.conftest import EAGER, PATIENCE

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeSimulator

PERIOD = 0.4
"""Seconds; the watchdog is fed twice in it."""
LONG = 10 * PERIOD
MORE_TIME = "EXTEND_TIMEOUT_USEC=120000000"
STALE = "2"
"""Seconds that stand for the two minutes after which a silent worker counts as hung."""


class Manager:
    """What systemd is to a service: a socket, and what came in."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self.last_sign = 0.0
        """When the watchdog was fed last."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(0)
        self._sock.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)

    def environment(self, **more: str) -> dict[str, str]:
        """Return what it sets for a service with a watchdog."""
        return {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": str(int(PERIOD * 1e6)), **more}

    def listen(self) -> list[str]:
        """Take in what came; return all of it."""
        with suppress(BlockingIOError):
            while True:
                for line in self._sock.recv(4096).decode().splitlines():
                    self.heard.append(line)
                    if line == "WATCHDOG=1":
                        self.last_sign = time.monotonic()
        return self.heard

    def has(self, line: str, times: int = 1) -> Callable[[], bool]:
        """Make a condition: that it heard this so often."""
        return lambda: self.listen().count(line) >= times

    def is_worried(self) -> bool:
        """Tell whether systemd would have killed the service."""
        self.listen()
        return time.monotonic() - self.last_sign > LONG

    def close(self) -> None:
        """Stop listening."""
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, home: Path) -> Iterator[Manager]:
    """Listen where the kernel lets systemd listen: on a path, or on a name without one."""
    address = str(home / "notify") if request.param == "path" else f"@token-sidecar-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.close()
    (home / "notify").unlink(missing_ok=True)


def test_from_start_to_end(manager: Manager, daemon: Daemon, simulator: Simulator) -> None:
    """More time, READY when every token is there, feeds of the watchdog, RELOADING, READY, STOPPING, in this order."""
    daemon.add(simulator)
    daemon.environment = manager.environment()
    simulator.provider.add_fault(faults.latency(before=1.5))
    daemon.launch()
    daemon.wait_until(lambda: len(simulator.provider.report().requests) == 1, "it waits for the provider")
    daemon.wait_until(manager.has(MORE_TIME), "it asks not to be killed meanwhile")
    assert set(manager.heard) == {MORE_TIME}, "nothing is ready before the first token is there"

    daemon.wait_until(manager.has("WATCHDOG=1", 3), "the watchdog is fed")
    assert next(line for line in manager.heard if line != MORE_TIME) == "READY=1"
    assert MORE_TIME not in manager.heard[manager.heard.index("READY=1") :]
    assert daemon.output().exists(), "whoever starts after this finds the token"
    assert "STATUS=keeps 1 token" in manager.heard

    daemon.signal(signal.SIGHUP)
    daemon.wait_until(manager.has("READY=1", 2), "it was read again")
    reloading = manager.heard.index("RELOADING=1")
    stamp = int(manager.heard[reloading + 1].removeprefix("MONOTONIC_USEC="))
    assert 0 <= time.clock_gettime(time.CLOCK_MONOTONIC) - stamp / 1e6 < PATIENCE
    assert manager.heard[reloading:].count("READY=1") == 1

    assert daemon.stop() == 0
    assert manager.listen()[-2] == "STOPPING=1"
    assert not any("sim-" in line for line in manager.heard)


@pytest.mark.parametrize("manager", ["abstract"], indirect=True)
def test_a_token_that_nobody_can_get_keeps_nobody_waiting(manager: Manager, daemon: Daemon) -> None:
    """Who needs a human is ready once that is known: the status says what is missing, and how it is given."""
    daemon.config["tokens"]["gmail"] = {
        "provider": {"token_url": "http://127.0.0.1:9/token"},
        "client": {"id": "me", "auth_method": "none"},
        "outputs": [{"file": str(daemon.output())}],
    }
    daemon.environment = manager.environment()
    daemon.launch()
    daemon.wait_until(manager.has("WATCHDOG=1"), "it is ready")
    [status] = [line for line in manager.heard if line.startswith("STATUS=")]
    assert "token-sidecar login gmail" in status
    assert daemon.stop() == 0


@pytest.mark.parametrize("manager", ["abstract"], indirect=True)
def test_a_worker_that_hangs_is_told_by_silence(
    manager: Manager, daemon: Daemon, make_simulator: MakeSimulator
) -> None:
    """The watchdog isn't fed by who is well for who is not: the event loop works, and probes are answered."""
    daemon.add(make_simulator(), **EAGER)
    daemon.environment = manager.environment()
    daemon.launch("hang", STALE)
    daemon.wait_until(manager.has("WATCHDOG=1", 3), "it works")
    daemon.wait_until(manager.is_worried, "the watchdog would strike")
    assert daemon.answers("/livez", 503)
    assert manager.heard[-1] == "STATUS=worker renewer-0 hangs"
    daemon.kill()


@pytest.mark.parametrize("manager", ["abstract"], indirect=True)
def test_a_process_that_stands_still_is_silent(
    manager: Manager, daemon: Daemon, make_simulator: MakeSimulator
) -> None:
    """No other process of ours feeds the watchdog in its stead; one that goes on makes itself heard again."""
    daemon.add(make_simulator())
    daemon.environment = manager.environment()
    daemon.launch()
    daemon.wait_until(manager.has("WATCHDOG=1", 3), "it works")
    daemon.pause()
    daemon.wait_until(manager.is_worried, "the watchdog would strike")
    fed = manager.heard.count("WATCHDOG=1")
    daemon.resume()
    daemon.wait_until(manager.has("WATCHDOG=1", fed + 2), "it goes on")
    assert daemon.stop() == 0


@pytest.mark.parametrize("manager", ["abstract"], indirect=True)
def test_a_watchdog_of_somebody_else_is_not_fed(
    manager: Manager, daemon: Daemon, make_simulator: MakeSimulator
) -> None:
    """A process that inherited the variables isn't meant; and a socket that is gone is told once, and harms nobody."""
    daemon.add(make_simulator())
    daemon.environment = manager.environment(WATCHDOG_PID="1")
    daemon.start()
    daemon.wait_until(manager.has("STATUS=keeps 1 token"), "it is ready")
    manager.close()
    daemon.signal(signal.SIGHUP)
    daemon.wait_until(lambda: complaints(daemon), "it is told")
    assert daemon.stop() == 0
    assert len(complaints(daemon)) == 1
    assert "WATCHDOG=1" not in manager.heard


def complaints(daemon: Daemon) -> list[str]:
    """Return what the daemon says of a service manager that isn't there."""
    return [line["event"] for line in daemon.lines() if "the service manager can't be told" in line["event"]]
