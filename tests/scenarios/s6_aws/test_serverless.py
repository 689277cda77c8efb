"""A backend's own secrets, kept fresh beside it: layout, client, death and reconnection, kills, fleets."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.testing import Rotation
from sidecar.tokens import fingerprint
from tests.e2e.conftest import EAGER, wait_until
from tests.scenarios.s6_aws.backend import CLIENT, Backend, Reconnect

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.aws.moto import Moto
    from tests.e2e.conftest import Daemon, MakeDaemon, MakeSimulator

POLL = "1"
"""Seconds that stand for the minute after which a token that needs nothing is looked at again."""
SCOPE = "openid https://mail.google.com/"
USER = "alice"


@pytest.fixture
def google(make_simulator: MakeSimulator) -> Simulator:
    """A provider as Google is to an iOS app: a public client, and refresh tokens that stay."""
    return make_simulator(client_id="ios-client", client_secret=None, rotation=Rotation.NEVER)


@pytest.fixture
def backend(aws: Moto) -> Backend:
    """A backend with its client id in its own secret; each test has a prefix of its own."""
    made = Backend(f"gmail-{secrets.token_hex(4)}/user")
    with suppress(made.secrets.exceptions.ResourceExistsException):
        made.secrets.create_secret(Name=CLIENT, SecretString="ios-client")
    return made


def connect(backend: Backend, provider: Simulator, user: str = USER) -> str:
    """Have a user consent an hour ago: what the backend keeps has expired by now; returns the refresh token."""
    refresh = provider.provider.new_grant(SCOPE)
    expired = {"access_token": f"sim-at-{secrets.token_hex(12)}", "expires_in": 3600}
    answer = {**expired, "refresh_token": refresh, "scope": SCOPE}
    backend.connected(user, answer, ago=timedelta(hours=1))
    return refresh


def configure(daemon: Daemon, backend: Backend, provider: Simulator, **store: Any) -> None:
    """Configure a daemon as the how-to shows it."""
    daemon.config |= {
        "namespace": "mail",
        "store": {"url": f"aws-secretsmanager://{backend.prefix}", **store},
    }
    daemon.config["tokens"][USER] = {
        "provider": {"token_url": provider.token_url, "auth_method": "none", "rotation": "never"},
        "client": {"id_aws_secret": CLIENT},
        "outputs": [],
    }


def kept_fresh(daemon: Daemon, backend: Backend, provider: Simulator) -> str:
    """Wait until the backend reads a token that lives, and return it."""
    found: list[str] = []

    def there() -> bool:
        with suppress(Reconnect):
            found.append(backend.access_token(USER))
        return bool(found)

    daemon.wait_until(there, "the backend reads a token that lives")
    assert provider.provider.is_live(found[0])
    return found[0]


def test_a_backend_finds_its_secret_fresh(daemon: Daemon, backend: Backend, google: Simulator) -> None:
    """Its own code reads a living token; its members, scope and creation time stay; a refresh is one version."""
    refresh = connect(backend, google)
    before = backend.stored(USER)
    with pytest.raises(Reconnect):
        backend.access_token(USER)
    configure(daemon, backend, google)
    daemon.start()
    token = kept_fresh(daemon, backend, google)
    after = backend.stored(USER)
    del after["token_sidecar"]
    changed = {"access_token", "expires_at", "expires_in"}
    assert {name: value for name, value in after.items() if name not in changed} == {
        name: value for name, value in before.items() if name not in changed
    }
    assert after["refresh_token"] == refresh
    assert after["expires_in"] == 3600
    assert backend.versions(USER) == 2
    assert daemon.stop() == 0
    daemon.start()
    assert backend.access_token(USER) == token
    assert backend.versions(USER) == 2


@pytest.mark.parametrize("delete", [True, False])
def test_a_dead_grant_is_deleted_where_that_is_asked_for(
    daemon: Daemon, backend: Backend, google: Simulator, *, delete: bool
) -> None:
    """With the policy the secret is gone, with a line in the log; without it stays. A new consent needs no restart."""
    refresh = connect(backend, google)
    configure(daemon, backend, google, **({"delete_dead": True} if delete else {}))
    verdict = {"outcome": "dead", "code": "invalid_grant"}  # at once, without asking again after a while
    daemon.config["tokens"][USER]["provider"]["errors"] = [verdict]
    daemon.change(USER, **EAGER, on_dead="report")
    daemon.start("poll", POLL)
    google.provider.kill(refresh)
    if not delete:
        daemon.wait_until(lambda: daemon.status(USER)["grant_state"] == "dead", "the grant is dead")
        assert backend.stored(USER)["refresh_token"] == refresh
        return

    def gone() -> bool:
        try:
            backend.stored(USER)
        except Reconnect:
            return True
        return False

    daemon.wait_until(gone, "the secret is deleted")
    daemon.wait_until(lambda: daemon.status(USER)["grant_state"] == "unseeded", "it is unseeded")
    [line] = daemon.lines(event="what was kept of a dead grant was deleted")
    assert (line["level"], line["token"], line["fingerprint"]) == ("warning", USER, fingerprint(refresh))
    assert line["place"] == f"the secret {backend.name(USER)}"
    connect(backend, google)
    kept_fresh(daemon, backend, google)


def test_an_answer_that_was_in_escrow_reaches_the_secret(
    daemon: Daemon, backend: Backend, make_simulator: MakeSimulator
) -> None:
    """Killed between the provider's answer and the commit, in place: the next one brings the pair home by itself."""
    rotating = make_simulator(client_id="ios-client", client_secret=None, rotation=Rotation.ALWAYS)
    refresh = connect(backend, rotating)
    configure(daemon, backend, rotating)
    daemon.config["tokens"][USER]["provider"]["rotation"] = "always"
    daemon.launch("after-escrow", "kill-first")
    assert daemon.wait() == -9
    assert (rotating.provider.uses(refresh), backend.versions(USER)) == (1, 1)
    daemon.start()
    kept_fresh(daemon, backend, rotating)
    assert (rotating.provider.uses(refresh), backend.versions(USER)) == (1, 2)


def test_a_tag_tells_another_daemon_of_the_doubt(
    make_daemon: MakeDaemon, backend: Backend, make_simulator: MakeSimulator
) -> None:
    """Killed with its request under way, and its directories gone: the next one sees the intent and waits."""
    rotating = make_simulator(client_id="ios-client", client_secret=None, rotation=Rotation.ALWAYS)
    refresh = connect(backend, rotating)
    first, second = make_daemon(), make_daemon()
    for daemon in (first, second):
        configure(daemon, backend, rotating)
        daemon.config["tokens"][USER]["provider"]["rotation"] = "always"
        daemon.change(USER, lease="3s")
    first.launch("awaiting-answer", "kill-first")
    assert first.wait() == -9
    tags = backend.secrets.describe_secret(SecretId=backend.name(USER))["Tags"]
    assert "token-sidecar:state" in {tag["Key"] for tag in tags}
    assert backend.versions(USER) == 1
    second.launch()
    second.wait_until(
        lambda: second.answers("/livez") and second.status(USER)["grant_state"] == "in_doubt",
        "it is in doubt",
    )
    assert rotating.provider.uses(refresh) == 1
    second.stop()


def test_a_fleet_publishes_to_the_secret(
    make_daemon: MakeDaemon, backend: Backend, google: Simulator, aws: Moto
) -> None:
    """With the records elsewhere the secret is an output: two daemons, one version, the backend's members kept."""
    connect(backend, google)
    kept = backend.stored(USER)
    fields = {
        "access_token": "access_token",
        "expires_at": {"name": "expires_at", "type": "iso8601_naive"},
        "expires_in": "expires_in",
    }
    output = {
        "aws_secret": {"name": backend.name(USER)},
        "format": "json",
        "fields": fields,
        "required": True,
    }
    first, second = make_daemon(), make_daemon()
    for daemon in (first, second):
        daemon.add(google, profile={"rotation": "never", "auth_method": "none"}, outputs=[output])
        daemon.change(client={"id": "ios-client"})
        daemon.config |= {"namespace": "mail", "store": f"sqlite://{first.store}"}
    first.start()
    token = backend.access_token(USER)
    assert google.provider.is_live(token)
    second.change(seed=None)
    second.start()
    assert backend.versions(USER) == 2
    after = backend.stored(USER)
    assert set(after) == set(kept)
    assert after["google_email"] == kept["google_email"]
    assert json.loads(aws.text(backend.name(USER)))["access_token"] == token
    wait_until(lambda: second.metric("output_token_expiry_timestamp_seconds") > 0, what="it is read back")
