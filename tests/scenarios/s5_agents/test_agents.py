"""Scenario S5: an agent framework's Gmail toolkit runs on our files, for each user on their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.testing import Rotation
from tests.e2e.conftest import PROJECT
from tests.scenarios import google_api

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeDaemon, MakeSimulator

USERS = ("alice", "bob")
HOUR = 3600


class Agents:
    """The application under way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, do: str, **members: Any) -> tuple[str, dict[str, int]]:
        """Have something done: what the tool said, and what the toolkit did that it must not need."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **members}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                answer = json.loads(line)
                return answer["said"], answer["calls"]
        raise AssertionError(f"it ended with {self._process.wait()}")


@pytest.fixture(scope="module")
def simulator(make_simulator: MakeSimulator) -> Simulator:
    """Give a provider as Google is, whose tokens live long enough for an hour to pass."""
    return make_simulator(rotation=Rotation.NEVER, access_ttl=2 * HOUR)


@pytest.fixture(scope="module")
def daemon(make_daemon: MakeDaemon, simulator: Simulator) -> Iterator[Daemon]:
    """Give a daemon that keeps each user's token in a file of the user's name."""
    daemon = make_daemon()
    for user in USERS:
        target = {"file": str(daemon.out / f"{user}.json"), "format": "google-authorized-user"}
        daemon.add(simulator, user, profile={"rotation": "never"}, outputs=[target])
    yield daemon.start()
    assert daemon.stop() == 0


@pytest.fixture(scope="module")
def api(simulator: Simulator) -> Iterator[google_api.GmailApi]:
    """Give what stands for Google's API."""
    with google_api.serving(simulator.provider) as api:
        yield api


@pytest.fixture
def agents(daemon: Daemon, simulator: Simulator, api: google_api.GmailApi) -> Iterator[Agents]:
    """Run the application."""
    command = [sys.executable, "-m", "tests.scenarios.s5_agents.agents"]
    with subprocess.Popen(
        [*command, str(daemon.out), api.url, simulator.token_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    ) as process:
        yield Agents(process)
        process.kill()


def token_of(daemon: Daemon, user: str) -> str:
    """Return the token in a user's file."""
    document: dict[str, str] = json.loads((daemon.out / f"{user}.json").read_text(encoding="utf-8"))
    return document["token"]


def renew(daemon: Daemon, user: str) -> str:
    """Have a user's token replaced before its time; returns the one that the file holds then."""
    before = token_of(daemon, user)
    daemon.control.refresh(user)
    daemon.wait_until(lambda: token_of(daemon, user) != before, "a new token")
    return token_of(daemon, user)


def asked(simulator: Simulator) -> int:
    """Count what the provider was asked."""
    return len(simulator.provider.report().requests)


def test_each_user_has_mails_of_their_own(
    agents: Agents, daemon: Daemon, simulator: Simulator, api: google_api.GmailApi
) -> None:
    """Each run uses the token of its user, today's and the next; the toolkit never refreshes and writes nothing."""
    for user in USERS:
        before, requests = token_of(daemon, user), asked(simulator)
        files = {path: path.stat() for path in daemon.out.iterdir()}
        assert agents.ask("run", user=user) == (_sent(api), {})
        assert api.tokens[-1] == before
        assert {path: path.stat().st_mtime_ns for path in daemon.out.iterdir()} == {
            path: stat.st_mtime_ns for path, stat in files.items()
        }
        assert asked(simulator) == requests

        after = renew(daemon, user)
        assert agents.ask("run", user=user) == (_sent(api), {})
        assert api.tokens[-1] == after != before
    assert api.refused == []


def test_an_hour_later_runs_go_on(
    agents: Agents, daemon: Daemon, simulator: Simulator, api: google_api.GmailApi
) -> None:
    """When the token of the last run has expired, the next one finds another in the file."""
    [user, _] = USERS
    assert agents.ask("run", user=user) == (_sent(api), {})
    simulator.provider.reconfigure(access_ttl=4 * HOUR)
    after = renew(daemon, user)
    agents.ask("later", seconds=2 * HOUR)

    assert agents.ask("run", user=user) == (_sent(api), {})

    assert api.tokens[-1] == after


def test_a_toolkit_that_is_kept_ends_with_its_token(
    agents: Agents, daemon: Daemon, simulator: Simulator, api: google_api.GmailApi
) -> None:
    """Agno builds its client once, so a toolkit that outlives its token fails, loudly, and harms nobody.

    Should this fail one day, agno takes the new credentials over, and the how-to may say so.
    """
    [user, _] = USERS
    simulator.provider.reconfigure(access_ttl=2 * HOUR)
    renew(daemon, user)
    assert agents.ask("keep", user=user) == (_sent(api), {})
    simulator.provider.reconfigure(access_ttl=4 * HOUR)
    renew(daemon, user)
    agents.ask("later", seconds=2 * HOUR)
    mails = api.sent.total()

    said, calls = agents.ask("keep", user=user)

    assert "RefreshError" in said
    assert calls == {"refresh": 1}
    assert api.sent.total() == mails
    assert agents.ask("run", user=user) == (_sent(api), {})


def _sent(api: google_api.GmailApi) -> str:
    """What the tool says of the latest mail."""
    return json.dumps({"id": f"mail-{api.sent.total()}", "threadId": "thread"})
