"""A human consents again, and the token reaches every consumer: two Secrets, a file, and who reads it only once."""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from sidecar.clients.kubernetes import RESTARTED_AT
from tests import forks
from tests.e2e.conftest import wait_until
from tests.kube.cluster import Rule
from tests.kube.fake import Fake

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeDaemon
    from tests.kube.cluster import Cluster, Object

SECRET, KEY = "gmail-oauth-token", "gmail-westsidebasketball.json"
SIC = "gmail-westsidebasktball.json"
"""As the second consumer spells it."""
CONSENT, CONSENT_KEY = "gmail-consent", "token.json"
APPLICATION = "pal-e-mail"
POLL = "1"
"""Seconds that stand for the minute after which everything is looked at again."""


class Ticket(NamedTuple):
    """What the ticket names: two namespaces with their Secrets, and an application that reads at its start only."""

    cluster: Cluster
    basketball: str
    mail: str

    def consent(self, simulator: Simulator) -> None:
        """Put the refresh token of a new consent where the operator's command puts it."""
        seed = json.dumps({"refresh_token": simulator.provider.new_grant()}).encode()
        change = {"data": {CONSENT_KEY: base64.b64encode(seed).decode()}}
        self.cluster.patch("secrets", self.basketball, CONSENT, change, manager="kubectl-patch")

    def read(self, namespace: str, name: str, key: str) -> str:
        """Return the access token that a consumer finds; empty: none."""
        content = self.cluster.secret_data(namespace, name).get(key)
        return str(json.loads(content)["access_token"]) if content else ""

    @property
    def everywhere(self) -> set[str]:
        """Return the access tokens that are in the Secrets."""
        return {self.read(self.basketball, SECRET, KEY), self.read(self.mail, "gmail-oauth", SIC)}

    @property
    def restarts(self) -> int:
        """Count how often the application was restarted."""
        found = self.cluster.find("deployments", self.mail, APPLICATION)
        assert found is not None
        generation: int = found["metadata"]["generation"]
        annotations = found["spec"]["template"]["metadata"].get("annotations", {})
        assert (RESTARTED_AT in annotations) == (generation > 1)
        return generation - 1


def deployment(namespace: str) -> Object:
    """Write the application."""
    labels = {"app": APPLICATION}
    containers = [{"name": "app", "image": "app:1"}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": APPLICATION, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    }


@pytest.fixture
def ticket(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticket]:
    """Make what is there before, and a service account with no more rights than the docs say."""
    ticket = Ticket(cluster, cluster.namespace(), cluster.namespace())
    cluster.make_secret(ticket.basketball, SECRET, {"other.json": b"{}", KEY: b""})
    cluster.make_secret(ticket.basketball, CONSENT)
    cluster.make_secret(ticket.mail, "gmail-oauth", {"theirs": b"\x00"})
    cluster.create(deployment(ticket.mail))
    account = cluster.account(
        ticket.basketball,
        rules=[Rule("secrets", ["get", "patch"], [SECRET]), Rule("secrets", ["get"], [CONSENT])],
    )
    elsewhere = [
        Rule("secrets", ["get", "patch"], ["gmail-oauth"]),
        Rule("deployments", ["get", "patch"], [APPLICATION]),
    ]
    cluster.allow(account, elsewhere, namespace=ticket.mail)
    monkeypatch.setenv("KUBECONFIG", str(account.kubeconfig(tmp_path / "account")))
    yield ticket
    if isinstance(cluster, Fake):
        cluster.faults.clear()


def configure(daemon: Daemon, simulator: Simulator, ticket: Ticket, **settings: Any) -> None:
    """Configure a daemon as the how-to shows it."""
    restart = {"namespace": ticket.mail, "deployment": APPLICATION}
    there = {"namespace": ticket.mail, "name": "gmail-oauth", "key": SIC}
    daemon.add(
        simulator,
        profile={"rotation": "never"},
        seed={"kubernetes_secret": {"name": CONSENT, "key": CONSENT_KEY}},
        outputs=[
            {"file": str(daemon.out / SIC), "format": "gmail-sdk"},
            {"kubernetes_secret": {"name": SECRET, "key": KEY}, "format": "gmail-sdk", "required": True},
            {"kubernetes_secret": there, "format": "gmail-sdk"},
        ],
        after_refresh=[{"rollout_restart": restart, "when": "lineage"}],
        **settings,
    )


def test_a_new_consent_reaches_every_consumer(
    ticket: Ticket, make_daemon: MakeDaemon, simulator: Simulator
) -> None:
    """One change of one Secret does it, with two replicas: other keys stay, and there is one restart."""
    first, second = make_daemon(), make_daemon()
    configure(first, simulator, ticket)
    second.config["store"] = first.config["store"]
    configure(second, simulator, ticket)
    for daemon in (first, second):
        daemon.launch("poll", POLL)
        daemon.wait_until(partial(daemon.answers, "/startupz", 503), "it runs")
    hint = f"put the refresh token under the key {CONSENT_KEY}"
    first.wait_until(lambda: hint in first.get("/startupz").text, "it says what is missing")

    ticket.consent(simulator)
    for daemon in (first, second):
        daemon.wait_until(partial(daemon.answers, "/startupz"), "/startupz is 200")
    read = [json.loads((daemon.out / SIC).read_text(encoding="utf-8")) for daemon in (first, second)]
    first.wait_until(lambda: ticket.everywhere == {read[0]["access_token"]}, "both Secrets have the token")
    assert read[0] == read[1]
    assert read[0] == json.loads(ticket.cluster.secret_data(ticket.basketball, SECRET)[KEY])
    wait_until(lambda: ticket.restarts == 1, what="the application was restarted")
    assert ticket.cluster.secret_data(ticket.basketball, SECRET)["other.json"] == b"{}"
    assert ticket.cluster.secret_data(ticket.mail, "gmail-oauth")["theirs"] == b"\x00"

    ticket.consent(simulator)
    first.wait_until(
        lambda: ticket.everywhere.isdisjoint({"", read[0]["access_token"]}), "both Secrets have a new token"
    )
    wait_until(lambda: ticket.restarts == 2, what="the application was restarted again")
    runs = {"token": "gmail", "hook": f"rollout_restart:{ticket.mail}/deployment/{APPLICATION}"}
    wait_until(
        lambda: (
            sum(daemon.metric("hook_runs_total", **runs, outcome="unneeded") for daemon in (first, second))
            == 2
        ),
        what="the other replica found both restarts done",
    )
    assert sum(daemon.metric("hook_runs_total", **runs, outcome="done") for daemon in (first, second)) == 2
    assert first.metric("hook_runs_total", **runs, outcome="failed") == 0
    expiry = first.metric(
        "output_token_expiry_timestamp_seconds", output=f"secret:{ticket.basketball}/{SECRET}/{KEY}"
    )
    assert expiry == first.status()["expires_at"]
    for daemon in (first, second):
        assert daemon.stop() == 0


def test_others_write_to_the_secret_all_the_time(
    ticket: Ticket, daemon: Daemon, simulator: Simulator
) -> None:
    """Every write of others to other keys survives, and so does every token, though each comes between the other."""
    configure(daemon, simulator, ticket, refresh_at=0.0001, min_interval="1s")
    ticket.consent(simulator)
    daemon.start("poll", POLL)
    generation = daemon.status()["generation"]

    def write(number: int) -> bool:
        change = {"data": {f"other-{number}": base64.b64encode(str(number).encode()).decode()}}
        ticket.cluster.patch("secrets", ticket.basketball, SECRET, change, manager="somebody")
        return bool(daemon.status()["generation"] >= generation + 3)

    numbers = iter(range(100_000))
    daemon.wait_until(lambda: write(next(numbers)), "three refreshes more")
    last = next(numbers) - 1
    daemon.change(refresh_at=None, min_interval=None)
    assert daemon.stop() == 0

    data = ticket.cluster.secret_data(ticket.basketball, SECRET)
    assert {key: value for key, value in data.items() if key.startswith("other-")} == {
        f"other-{number}": str(number).encode() for number in range(last + 1)
    }
    assert ticket.read(ticket.basketball, SECRET, KEY) == daemon.published_at(SIC)


def test_an_api_server_in_trouble_holds_up_nothing_near(
    ticket: Ticket, daemon: Daemon, simulator: Simulator
) -> None:
    """While it is silent the file is renewed, and probes tell what they know; afterwards all is made up for."""
    configure(daemon, simulator, ticket, refresh_at=0.0001, min_interval="1s")
    ticket.consent(simulator)
    daemon.start("poll", POLL)
    daemon.wait_until(lambda: "" not in ticket.everywhere, "both Secrets have a token")

    with ticket.cluster.silent():
        before = daemon.status()["generation"]
        place = f"secret:{ticket.basketball}/{SECRET}/{KEY}"
        daemon.wait_until(lambda: _problem(daemon, place), "the trouble is told")
        daemon.wait_until(lambda: daemon.status()["generation"] >= before + 2, "it is renewed all the same")
        assert daemon.answers("/readyz")
        assert "the API server" in _problem(daemon, place)
    published = daemon.published_at(SIC)

    daemon.wait_until(
        lambda: not _problem(daemon, place) and ticket.everywhere.isdisjoint({"", published}),
        "it is made up for",
    )
    daemon.kill()


def test_commands_and_init_containers_deliver_and_look(
    ticket: Ticket, daemon: Daemon, simulator: Simulator
) -> None:
    """`run --once` doesn't end before the Secret that isn't required has its token; `status` looks by itself."""
    configure(daemon, simulator, ticket)
    ticket.consent(simulator)
    daemon.write_config()

    def command(*arguments: str) -> str:
        done = forks.run("sidecar", *arguments, "--config", str(daemon.path), timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("run", "--once", "--wait", "30s")
    assert ticket.everywhere == {daemon.published_at(SIC)}
    assert ticket.restarts == 1

    [token] = json.loads(command("status", "--json"))["tokens"].values()
    assert [output["problem"] for output in token["outputs"]] == [None] * 3
    assert {output["fingerprint"] for output in token["outputs"]} == {token["fingerprint"]}


def _problem(daemon: Daemon, output: str) -> str:
    views = {view["output"]: view for view in daemon.status()["outputs"]}
    return views[output]["problem"] or ""
