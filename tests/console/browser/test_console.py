"""The console in a real browser, before a simulated provider and two real daemons that share a grant."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from sidecar.console import door
from sidecar.errors import HumanNeeded
from sidecar.testing.config import Consent
from tests.console.browser import chromium
from tests.e2e.conftest import PROJECT, home, make_daemon, make_simulator, names, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from sidecar.testing import Simulator
    from tests.console.browser.chromium import Visit
    from tests.console.browser.conftest import MakeVisit
    from tests.e2e.conftest import Daemon, MakeDaemon, MakeSimulator

__all__ = ["home", "make_daemon", "make_simulator", "names"]

OPERATOR = "dana@example.com"
USER_HEADER = "X-Forwarded-Email"
PROMISED = 10.0
"""Seconds from a human's consent until every replica has the new token."""


@dataclass
class Console:
    """A console that runs."""

    url: str
    link: str
    """The one-time link that it printed; empty behind a proxy."""


@dataclass
class Deployment:
    """What there is."""

    simulator: Simulator
    replicas: tuple[Daemon, Daemon]
    local: Console
    """Beside the first replica, with one-time links."""
    proxied: Console
    """Beside the second one, behind a proxy."""

    def another_link(self) -> str:
        """Make one more, as `token-sidecar console --link` does."""
        return door.find(self.replicas[0].state_dir).link()

    def kill_grant(self) -> None:
        """End the grant at the provider, and let every replica find that it is dead."""
        self.simulator.provider.kill()
        for replica in self.replicas:
            with suppress(HumanNeeded):
                replica.control.refresh("gmail")
        states = {replica.status()["grant_state"] for replica in self.replicas}
        assert states == {"dead"}

    def have_one_token(self, name: str, before: str) -> bool:
        """Tell whether both replicas publish the same token, another one than `before`, and the provider takes it."""
        first, second = (replica.published(name) for replica in self.replicas)
        return first == second != before and self.simulator.provider.is_live(first)


@pytest.fixture(scope="module")
def deployment(
    make_simulator: MakeSimulator, make_daemon: MakeDaemon, run_logs: Path
) -> Iterator[Deployment]:
    """Run all of it."""
    uris = tuple(f"http://127.0.0.1/callback/tokens/{name}" for name in ("gmail", "calendar", "mailboxes"))
    simulator = make_simulator(redirect_uris=uris)
    first, second = make_daemon(), make_daemon()
    at = simulator.url
    profile = {
        "title": "Corp <b>Mail</b>",
        "authorization_url": f"{at}/authorize",
        "revocation_url": f"{at}/revoke",
    }
    for name in ("gmail", "calendar"):
        first.add(simulator, name, profile=profile, scopes=["mail.send"])
        second.join(first, name)
    for replica in (first, second):
        replica.config["store"] = first.config["store"]
        replica.change("calendar", seed=None, required=False)
        (replica.out / "own").mkdir()
        members = {**replica.config["tokens"]["calendar"], "for_each": {"enrolment": True}}
        members["outputs"] = [{"file": str(replica.out / "own" / "{account}.json"), "format": "gmail-sdk"}]
        replica.config["tokens"]["mailboxes"] = members
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    first.config["console"] = {"port": 0}
    second.config["console"] = {
        "port": urlsplit(url).port,
        "url": url,
        "proxy": {"addresses": ["127.0.0.1"], "user_header": USER_HEADER},
        "operators": {"users": [OPERATOR]},
    }
    first.start()
    second.start()
    with running(first, run_logs) as local, running(second, run_logs, url) as proxied:
        yield Deployment(simulator, (first, second), local, proxied)


@contextmanager
def running(beside: Daemon, logs: Path, url: str = "") -> Iterator[Console]:
    """Run a console on a daemon's configuration."""
    log = logs / f"console-{beside.folder.name}.log"
    command = [sys.executable, "-m", "sidecar", "console", "--no-browser", "--config", str(beside.path)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
    link = ""

    def is_up() -> bool:
        nonlocal link
        assert process.poll() is None, log.read_text(encoding="utf-8")
        if url:
            with suppress(OSError), urlopen(f"{url}/livez") as answer:  # noqa: S310 - an address of ours
                return bool(answer.status == 200)
            return False
        found = re.search(r"(http://\S+)/sign-in\?key=\S+", log.read_text(encoding="utf-8"))
        link = found[0] if found else ""
        return bool(link)

    try:
        wait_until(is_up, what="the console answers")
        yield Console(url or link.partition("/sign-in")[0], link)
    finally:
        process.terminate()
        assert process.wait(20) == 0, log.read_text(encoding="utf-8")


@pytest.fixture
def operator(deployment: Deployment, visit: MakeVisit) -> Visit:
    """Sign in by a one-time link."""
    one = visit(deployment.local.url, deployment.simulator.url)
    one.page.goto(deployment.another_link())
    return one


def heading(page: Page) -> str:
    """Wait for a page's first heading."""
    return page.get_by_role("heading", level=1).inner_text()


def settled(page: Page) -> str:
    """Wait for what came of an action."""
    page.wait_for_url("**/results/*")
    page.get_by_role("status").wait_for()
    return heading(page)


def history(visit: Visit) -> list[str]:
    """Return what the browser's history holds."""
    session = visit.context.new_cdp_session(visit.page)
    return [entry["url"] for entry in session.send("Page.getNavigationHistory")["entries"]]


def test_a_link_signs_in_once(deployment: Deployment, visit: MakeVisit) -> None:
    """Whoever opens the printed link is in, and its key is nowhere afterwards; opened again it lets nobody in."""
    first = visit(deployment.local.url)
    first.page.goto(deployment.local.link)
    assert first.page.url == f"{deployment.local.url}/"
    assert heading(first.page) == "Tokens"
    assert not [url for url in history(first) if "key=" in url]

    second = visit(deployment.local.url)
    answer = second.page.goto(deployment.local.link)
    assert answer is not None
    assert 400 <= answer.status < 500
    assert heading(second.page) == "Sign in"
    second.page.goto(deployment.local.url)
    assert heading(second.page) == "Sign in"


def test_a_proxys_header_signs_in(deployment: Deployment, visit: MakeVisit) -> None:
    """An operator sees every token, others see none, and without the header nobody gets in."""
    seen = {}
    for user in (OPERATOR, "mallory@example.com", ""):
        window = visit(deployment.proxied.url, extra_http_headers={USER_HEADER: user} if user else {})
        window.page.goto(deployment.proxied.url)
        seen[user] = window.page.locator("body").inner_text()
    assert "gmail" in seen[OPERATOR]
    assert OPERATOR in seen[OPERATOR]
    assert "gmail" not in seen["mallory@example.com"]
    assert "gmail" not in seen[""]


@pytest.mark.usefixtures("axe")
def test_a_dead_grant_is_alive_again_after_two_clicks(
    deployment: Deployment, operator: Visit, record_property: Any
) -> None:
    """The first on our page, the second at the provider: then both replicas have the new token within ten seconds."""
    deployment.kill_grant()
    page, before = operator.page, deployment.replicas[0].published()
    page.goto(deployment.local.url)
    due = page.get_by_role("listitem").filter(has=page.get_by_role("button", name="Re-authorize gmail"))
    assert "the grant is dead" in due.inner_text()
    began = time.monotonic()
    page.get_by_role("button", name="Re-authorize gmail").click()
    assert settled(page) == "Authorized"
    wait_until(lambda: deployment.have_one_token("gmail", before), what="both replicas have the new token")
    took = time.monotonic() - began
    assert took < PROMISED
    record_property("figures", f"{took:.1f} s from the click until both replicas had the new token")
    assert not chromium.violations(page)

    page.get_by_role("link", name="Continue").click()
    assert heading(page) == "gmail"
    wait_until(lambda: page.reload() and page.get_by_text("ok", exact=True).count(), what="the page says ok")


def test_a_code_is_nowhere_afterwards(deployment: Deployment, operator: Visit) -> None:
    """It is in one request's address: not in the address bar, the history, a referrer or a page."""
    page, referrers, texts = operator.page, [], []
    page.on("request", lambda request: referrers.append(request.headers.get("referer", "")))
    page.on("domcontentloaded", lambda shown: texts.append(shown.url))
    page.goto(f"{deployment.local.url}/tokens/gmail")
    page.get_by_role("button", name="Re-authorize").click()
    settled(page)
    texts.append(page.content())
    with_code = [url for url in operator.addresses if "code=" in urlsplit(url).query]
    assert len(with_code) == 1
    code = re.search(r"[?&]code=([^&]+)", with_code[0])
    assert code is not None
    for place in (page.url, *history(operator), *referrers, *texts):
        assert code[1] not in place
        assert "code=" not in place
    assert not any("state=" in referrer for referrer in referrers)
    assert {urlsplit(url).path for url in operator.addresses if url.startswith(deployment.simulator.url)} == {
        "/authorize"
    }
    cookies = operator.context.cookies()
    assert cookies
    assert all(cookie["httpOnly"] and cookie["sameSite"] == "Lax" for cookie in cookies)


def test_a_refresh_on_request(deployment: Deployment, operator: Visit) -> None:
    """One click, and the daemon beside the console publishes a newer token."""
    page, before = operator.page, deployment.replicas[0].published()
    page.goto(f"{deployment.local.url}/tokens/gmail")
    page.get_by_role("button", name="Refresh now").click()
    assert settled(page) == "Refreshed"
    after = deployment.replicas[0].published()
    assert after != before
    assert deployment.simulator.provider.is_live(after)


def test_a_token_gets_its_first_grant(deployment: Deployment, operator: Visit) -> None:
    """A configured token that nobody has consented to yet is added with a click, and published."""
    page = operator.page
    page.goto(deployment.local.url)
    page.get_by_role("region", name="Add a token").get_by_role("button", name="Authorize calendar").click()
    assert settled(page) == "Authorized"
    wait_until(deployment.replicas[0].output("calendar").exists, what="it is published")
    assert deployment.simulator.provider.is_live(deployment.replicas[0].published("calendar"))
    page.goto(deployment.local.url)
    assert page.get_by_role("button", name="Authorize calendar", exact=True).count() == 0


def test_an_account_is_added_to_a_set(deployment: Deployment, operator: Visit) -> None:
    """An operator names it, consents, and its token is published under its name."""
    page, published = operator.page, deployment.replicas[0].output("own/bob@example.com")
    page.goto(deployment.local.url)
    page.get_by_label("Account to add to mailboxes").fill("bob@example.com")
    page.keyboard.press("Enter")
    assert settled(page) == "Authorized"
    wait_until(published.exists, what="it is published")
    page.goto(f"{deployment.local.url}/?q=BOB")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="mailboxes/bob@example.com"))
    assert "ok" in row.inner_text()
    row.get_by_role("link").click()
    assert heading(page) == "mailboxes/bob@example.com"
    assert f"file:{published}" in page.get_by_role("region", name="Outputs and hooks").inner_text()


@pytest.mark.usefixtures("axe")
def test_a_user_connects_an_account_and_takes_it_back(deployment: Deployment, visit: MakeVisit) -> None:
    """Whoever the proxy signs in sees their own services alone; connected is published, and disconnected is over."""
    window = visit(
        deployment.proxied.url, deployment.simulator.url, extra_http_headers={USER_HEADER: "ana@example.com"}
    )
    page, replica = window.page, deployment.replicas[1]
    page.goto(deployment.proxied.url)
    assert heading(page) == "Connect your account"
    assert page.get_by_text("gmail").count() == page.get_by_text("bob@example.com").count() == 0
    page.get_by_role("button", name="Connect mailboxes").click()
    assert settled(page) == "Authorized"
    wait_until(replica.output("own/ana@example.com").exists, what="it is published")
    mine = replica.published("own/ana@example.com")

    page.goto(deployment.proxied.url)
    assert page.get_by_text("connected", exact=True).count() == 1
    assert not chromium.violations(page)
    page.get_by_text("Disconnect", exact=True).first.click()
    page.get_by_role("button", name="Disconnect mailboxes").click()
    assert settled(page) == "Disconnected"
    assert not deployment.simulator.provider.is_live(mine)


def test_a_refusal_is_told(deployment: Deployment, operator: Visit) -> None:
    """What the provider said is shown as text, whatever is in it, and nothing has changed."""
    page, before = operator.page, deployment.replicas[0].published()
    page.goto(f"{deployment.local.url}/tokens/gmail")
    deployment.simulator.provider.reconfigure(consent=Consent.REFUSED)
    try:
        page.get_by_role("button", name="Re-authorize").click()
        assert settled(page) == "Not authorized"
    finally:
        deployment.simulator.provider.reconfigure(consent=Consent.GIVEN)
    assert "access_denied (the user said <no>)" in page.get_by_role("status").inner_text()
    assert page.locator("no").count() == 0
    assert deployment.replicas[0].published() == before


def test_everything_goes_without_a_mouse(deployment: Deployment, operator: Visit) -> None:
    """From the overview to a token, through a refresh and back: with Tab and Enter alone."""
    page, before = operator.page, deployment.replicas[0].published()
    page.goto(deployment.local.url)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for stop, title in (("gmail", "gmail"), ("Refresh now", "Refreshed"), ("Continue", "gmail")):
        reach(page, stop)
        page.keyboard.press("Enter")
        page.get_by_role("heading", level=1, name=title, exact=True).wait_for()
    assert deployment.replicas[0].published() != before


def reach(page: Page, name: str) -> None:
    """Press Tab until what is called so has the focus."""
    for _ in range(100):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == name:
            return
    raise AssertionError(f"no Tab leads to {name!r}")
