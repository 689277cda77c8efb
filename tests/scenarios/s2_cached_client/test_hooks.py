"""A process that caches its client picks up the new token, by whichever hook it is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import Daemon, MakeSimulator

APPLICATION = Path(__file__).with_name("application.py")
ACCOUNT = "westsidebasketball"
END = "import os, signal, sys; os.kill(int(open(sys.argv[1]).read()), signal.SIGTERM)"


class Application:
    """The process, and a way to ask it."""

    def __init__(self, folder: Path, resource_url: str, *, supervised: bool) -> None:
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            self.port = trial.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.pid_file = folder / "application.pid"
        more = ["supervised"] if supervised else []
        self._command = [
            *(sys.executable, str(APPLICATION), str(folder / "out"), resource_url),
            *(str(self.port), str(self.pid_file), *more),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, once there is a token."""
        self._process = subprocess.Popen(self._command, process_group=0)
        wait_until(self.mail, what="the application serves")

    def mail(self) -> dict[str, Any]:
        """Have it use its client; empty while it doesn't answer."""
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/mail", timeout=20) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found
        return {}

    def end(self) -> None:
        """End it, and who would start it anew."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def told_by(how: str, application: Application) -> list[dict[str, Any]]:
    """Write the hook as an operator would."""
    hooks: dict[str, list[dict[str, Any]]] = {
        "nobody": [],
        "http": [{"http": {"url": f"{application.url}/-/reload"}}],
        "signal": [{"signal": {"pid_file": str(application.pid_file)}}],
        "exec": [{"exec": {"argv": [sys.executable, "-I", "-c", END, str(application.pid_file)]}}],
        "signal that restarts": [{"signal": {"pid_file": str(application.pid_file), "signal": "TERM"}}],
    }
    return hooks[how]


@pytest.fixture
def applications() -> Iterator[list[Application]]:
    """End what a test started."""
    started: list[Application] = []
    yield started
    for application in started:
        application.end()


@pytest.mark.parametrize("how", ["nobody", "http", "signal", "exec", "signal that restarts"])
def test_a_cached_client_is_renewed(
    how: str, daemon: Daemon, make_simulator: MakeSimulator, applications: list[Application]
) -> None:
    """Who isn't told goes on with a dead token; who is told has the living one at once, and only then."""
    simulator = make_simulator(access_ttl=3600, kills_old_access_token=True)
    restarted = how in {"exec", "signal that restarts"}
    application = Application(daemon.folder, f"{simulator.url}/resource", supervised=restarted)
    applications.append(application)
    path = daemon.out / f"gmail-{ACCOUNT}.json"
    outputs = [{"file": str(path), "format": "gmail-sdk"}]
    daemon.add(simulator, outputs=outputs, after_refresh=told_by(how, application))
    daemon.start()
    application.start()
    before = application.mail()
    assert (before["status"], before["fingerprint"]) == (200, daemon.status()["fingerprint"])
    # Those that were told of the first token too early are told again until they hear it.
    daemon.wait_until(lambda: not any(hook["pending"] for hook in daemon.status()["hooks"]), "it was told")
    wait_until(lambda: application.mail().get("status") == 200, what="it serves with the first token")
    process = application.mail()["pid"]

    daemon.control.refresh("gmail")
    new = daemon.status()["fingerprint"]
    assert new != before["fingerprint"]

    if how == "nobody":
        assert application.mail() == {**before, "status": 401}
    else:
        daemon.wait_until(lambda: application.mail().get("fingerprint") == new, "it has the new token")
        after = application.mail()
        assert (after["status"], after["pid"] != process) == (200, restarted)
        [hook] = [hook["hook"] for hook in daemon.status()["hooks"]]
        daemon.wait_until(lambda: _done(daemon, hook) == 2, "both tokens were told of")
    assert daemon.stop() == 0


def _done(daemon: Daemon, hook: str) -> float:
    return daemon.metric("hook_runs_total", token="gmail", hook=hook, outcome="done")
