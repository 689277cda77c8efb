"""Users of an agent framework connect their own accounts, and its toolkits find the files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from agno.tools.google.auth import AuthConfig
from agno.tools.google.calendar import GoogleCalendarTools
from agno.tools.google.gmail import GmailTools

from sidecar.testing import faults
from tests.console.conftest import USER_HEADER, Browser, Clock, Place, console_on
from tests.e2e.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon

URL = "https://agents.example.test"
PROMISED = 10.0
"""Seconds from the consent to the file, beyond the human's own time."""


@pytest.fixture
def daemon(daemon: Daemon, simulator: Simulator) -> Daemon:
    """A daemon with a set of tokens that nobody has connected to yet."""
    daemon.add(
        simulator,
        "google",
        profile={
            "authorization_url": f"{simulator.url}/authorize",
            "revocation_url": f"{simulator.url}/revoke",
            "rotation": "sometimes",
        },
        seed=None,
        for_each={"enrolment": True},
        outputs=[
            {
                "file": str(daemon.out / "gmail" / "{account}.json"),
                "format": "google-authorized-user",
                "scopes": GmailTools.default_scopes,
            },
            {
                "file": str(daemon.out / "calendar" / "{account}.json"),
                "format": "google-authorized-user",
                "scopes": [*GoogleCalendarTools.default_scopes, GmailTools.default_scopes[0]],
            },
        ],
    )
    daemon.change("google", seed=None)
    for toolkit in ("gmail", "calendar"):
        (daemon.out / toolkit).mkdir()
    daemon.config["console"] = {
        "url": URL,
        "proxy": {"addresses": ["127.0.0.1"], "user_header": USER_HEADER},
        "operators": {"users": ["operator@example.test"]},
    }
    simulator.provider.reconfigure(redirect_uris=(f"{URL}/callback/tokens/google",))
    return daemon


@pytest.fixture
def console(daemon: Daemon) -> Iterator[Place]:
    """Run the daemon, and a console beside it."""
    daemon.launch()
    daemon.wait_until(lambda: daemon.answers("/livez"), "it runs")
    with console_on(daemon.path, Clock(), url=URL) as place:
        yield place


def connect(browser: Browser) -> Any:
    """Go the whole way of a user; returns the last page."""
    reply = browser.post("/connect", csrf=browser.get("/accounts").csrf, set="google")
    assert reply.status == 200, reply.text
    return browser.finish(browser.back(reply.leads_to))


def credentials(path: Path) -> Any:
    """Read a file as the framework's own toolkits do; they refuse one that lacks their scopes or isn't valid."""
    kind = GmailTools if path.parent.name == "gmail" else GoogleCalendarTools
    return kind(token_path=str(path), auth=AuthConfig(interactive=False))._resolve_creds()


def test_users_connect_and_every_toolkit_has_its_file(
    console: Place, daemon: Daemon, simulator: Simulator, record_property: Any
) -> None:
    """One consent for all toolkits; the files are there within ten seconds, each user's own, and live on."""
    alice, bob = Browser(console, user="alice@example.test"), Browser(console, user="bob@example.test")
    began = time.monotonic()
    assert "starts anew from this consent" in connect(alice).text
    files = [daemon.out / toolkit / "alice@example.test.json" for toolkit in ("gmail", "calendar")]
    daemon.wait_until(lambda: all(file.exists() for file in files), "the files are there", patience=PROMISED)
    record_property("figures", f"from the click to the files: {time.monotonic() - began:.1f} s")
    connect(bob)
    theirs = daemon.out / "gmail" / "bob@example.test.json"
    daemon.wait_until(theirs.exists, "the other's is there too", patience=PROMISED)

    read = [credentials(file) for file in files]
    assert {one.token for one in read} == {read[0].token}
    assert all(simulator.provider.is_live(one.token) for one in (*read, credentials(theirs)))
    assert credentials(theirs).token != read[0].token
    [granted] = {frozenset(json.loads(file.read_text())["scopes"]) for file in files}
    assert granted == {*GmailTools.default_scopes, *GoogleCalendarTools.default_scopes}
    daemon.control.refresh("google/alice@example.test")
    wait_until(lambda: credentials(files[0]).token != read[0].token, what="a refresh reaches it")


def test_a_user_takes_their_grant_back(console: Place, daemon: Daemon, simulator: Simulator) -> None:
    """Disconnecting ends the grant at the provider, for this user and nobody else."""
    alice, bob = Browser(console, user="alice@example.test"), Browser(console, user="bob@example.test")
    for one in (alice, bob):
        connect(one)
    file = daemon.out / "gmail" / "alice@example.test.json"
    theirs = file.with_name("bob@example.test.json")
    daemon.wait_until(lambda: file.exists() and theirs.exists(), "both are connected")
    token = credentials(file).token

    reply = alice.post("/disconnect", csrf=alice.get("/accounts").csrf, set="google")

    assert "is revoked" in alice.get(reply.location).text
    assert not simulator.provider.is_live(token)
    assert simulator.provider.is_live(credentials(theirs).token)
    daemon.wait_until(
        lambda: daemon.status("google/alice@example.test")["grant_state"] == "dead", "it is dead"
    )
    assert daemon.status("google/bob@example.test")["grant_state"] == "ok"


def test_what_goes_wrong_is_told(console: Place, simulator: Simulator) -> None:
    """What the provider says instead of a consent, or of a code, is on the page as text; nothing is stored."""
    eve = Browser(console, user="eve@example.test")
    simulator.provider.add_fault(faults.error(400, "invalid_grant", "<b>no</b>"))

    page = connect(eve)

    assert "Not authorized" in page.text
    assert "<b>no" not in page.text
    assert "not connected" in eve.get("/accounts").text
