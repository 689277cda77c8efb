"""Scenario S3, the cure: the grant died, and one command brings the next one to three consumers under three names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import yaml

from sidecar.clients.kubernetes import RESTARTED_AT
from sidecar.errors import SidecarError
from sidecar.testing import Rotation
from tests.e2e.conftest import PROJECT, Daemon, login
from tests.kube.cluster import Rule

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.testing import Simulator
    from tests.e2e.conftest import MakeDaemon, MakeSimulator
    from tests.kube.cluster import Cluster, Object

PAGE = PROJECT / "docs" / "howto" / "reauth-every-seven-days.md"
KEY, SIC = "gmail-westsidebasketball.json", "gmail-westsidebasktball.json"
APPLICATION = "pal-e-mail"
GMAIL = "https://www.googleapis.com/auth/gmail."
"""How the scopes of the ticket begin."""


class Ticket(NamedTuple):
    """The daemon as the how-to configures it, and its consumers."""

    daemon: Daemon
    simulator: Simulator
    cluster: Cluster
    basketball: str
    mail: str

    def tokens(self) -> list[str]:
        """Return what each consumer has."""
        contents = [
            self.cluster.secret_data(self.basketball, "gmail-oauth-token").get(KEY, b"{}"),
            self.cluster.secret_data(self.mail, "gmail-oauth").get(KEY, b"{}"),
            (self.daemon.out / SIC).read_bytes(),
        ]
        return [json.loads(content).get("access_token", "") for content in contents]

    def everything(self) -> list[Any]:
        """Return all that a command could have changed."""
        path = self.daemon.out / SIC
        return [
            self.cluster.secret(self.basketball, "gmail-oauth-token"),
            self.cluster.secret(self.mail, "gmail-oauth"),
            self.deployment(),
            (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino),
            self.daemon.stored(),
            len(self.simulator.provider.report().requests),
        ]

    def deployment(self) -> Object:
        """Return the application that reads its token at the start only."""
        found = self.cluster.find("deployments", self.mail, APPLICATION)
        assert found is not None
        return found

    def restarted(self) -> str:
        """Tell when it was restarted last; empty: never."""
        metadata = self.deployment()["spec"]["template"]["metadata"]
        return str(metadata.get("annotations", {}).get(RESTARTED_AT, ""))

    def consent(self) -> list[str]:
        """Do what the page says for every week, as the human in front of the browser; returns what was asked for."""
        with login(self.daemon.path) as url:
            page = httpx2.get(url, follow_redirects=True, timeout=20)
            assert page.status_code == 200
        [asked] = parse_qs(urlsplit(url).query)["scope"]
        return asked.split()

    def command(self, *arguments: str) -> tuple[int, str]:
        """Run one of the page's commands: its exit code, and what it prints."""
        command = [sys.executable, "-m", "sidecar", *arguments, "--config", str(self.daemon.path)]
        done = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout


@pytest.fixture
def ticket(
    cluster: Cluster,
    make_daemon: MakeDaemon,
    make_simulator: MakeSimulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ticket:
    """Make what the page takes for granted, with the rights that it names."""
    basketball, mail = cluster.namespace(), cluster.namespace()
    cluster.make_secret(basketball, "gmail-oauth-token")
    cluster.make_secret(mail, "gmail-oauth")
    labels = {"app": APPLICATION}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}}
    cluster.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": APPLICATION, "namespace": mail},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        }
    )
    account = cluster.account(basketball, rules=[Rule("secrets", ["get", "patch"], ["gmail-oauth-token"])])
    there = [
        Rule("secrets", ["get", "patch"], ["gmail-oauth"]),
        Rule("deployments", ["get", "patch"], [APPLICATION]),
    ]
    cluster.allow(account, there, namespace=mail)
    monkeypatch.setenv("KUBECONFIG", str(account.kubeconfig(tmp_path / "account")))
    simulator = make_simulator(rotation=Rotation.NEVER, access_ttl=3600)
    ticket = Ticket(make_daemon(), simulator, cluster, basketball, mail)
    configure(ticket)
    return ticket


def configure(ticket: Ticket) -> None:
    """Configure the daemon by the page's own lines, with what stands for Google and for this cluster's namespaces."""
    daemon, simulator = ticket.daemon, ticket.simulator
    page = PAGE.read_text(encoding="utf-8")
    [block] = re.findall(r"^ *```yaml\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
    for place in ("/etc/oauth", "/run/tokens"):
        block = block.replace(place, str(daemon.out if "tokens" in place else daemon.folder))
    document = yaml.safe_load(block.replace("namespace: pal-e-mail", f"namespace: {ticket.mail}"))
    daemon.config["tokens"] = document["tokens"]
    provider = simulator.provider.config
    client = {"client_id": provider.client_id, "client_secret": provider.client_secret}
    credentials = daemon.folder / "credentials.json"
    credentials.write_text(json.dumps({"installed": client}), encoding="utf-8")
    credentials.chmod(0o600)
    urls = {"token_url": simulator.token_url, "authorization_url": f"{simulator.url}/authorize"}
    daemon.config["providers"] = {"google": urls}


def test_one_command_heals_three_consumers(ticket: Ticket) -> None:
    """First consent, death, a dry run that changes nothing, and the second consent: every consumer has it each time."""
    daemon, simulator = ticket.daemon, ticket.simulator
    daemon.launch()
    daemon.wait_until(lambda: daemon.answers("/startupz", 503), "it waits for a consent")

    assert ticket.consent() == [f"{GMAIL}{scope}" for scope in ("send", "readonly", "modify", "labels")]
    daemon.wait_until(lambda: len(set(ticket.tokens())) == 1, "all three have the token")
    daemon.wait_until(ticket.restarted, "the application was restarted")
    first, restarted = daemon.published_at(SIC), ticket.restarted()
    code, told = ticket.command("status")
    assert (code, bool(re.search(r" ok +6d23h left of 7d +3 of 3 current\n", told))) == (0, True), told

    # Day seven. Google is asked twice, since a wrong clock looks the same.
    simulator.provider.kill()
    for _ in range(2):
        with pytest.raises(SidecarError):
            daemon.control.refresh("gmail")
    daemon.wait_until(lambda: daemon.status()["grant_state"] == "dead", "the grant is dead")
    code, told = ticket.command("status")
    assert (code, "token-sidecar login gmail" in told) == (3, True), told

    before = ticket.everything()
    code, told = ticket.command("login", "gmail", "--dry-run")
    assert (code, "(dead)" in told, f"{GMAIL}labels" in told) == (0, True, True), told
    assert ticket.everything() == before

    assert len(ticket.consent()) == 4

    daemon.wait_until(
        lambda: len(set(ticket.tokens())) == 1 and first not in ticket.tokens(), "all three have the next one"
    )
    assert simulator.provider.is_live(daemon.published_at(SIC))
    daemon.wait_until(lambda: ticket.restarted() > restarted, "the application was restarted again")
    code, told = ticket.command("status")
    assert (code, bool(re.search(r" ok +6d23h left of 7d +3 of 3 current\n", told))) == (0, True), told
    assert daemon.stop() == 0
    assert [path.name for path in daemon.out.iterdir()] == [SIC]
