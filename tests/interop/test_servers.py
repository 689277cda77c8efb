"""What the daemon and servers of others make of each other: found by issuer, rotated, lost, reused, revoked."""

from __future__ import annotations

import html
import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from joserfc import jwk

from tests import forks
from tests.e2e.conftest import login
from tests.interop.conftest import configure, generation, state

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import Daemon
    from tests.interop.conftest import Start

DJANGO, AUTHLIB = "django_server", "authlib_server"
REUSE = {"ROTATE_REFRESH_TOKEN": True, "REFRESH_TOKEN_REUSE_PROTECTION": True}
GRACE = {**REUSE, "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": 120}


@pytest.mark.parametrize("script", [DJANGO, AUTHLIB])
def test_a_grant_is_found_and_rotates(daemon: Daemon, start: Start, script: str) -> None:
    """Issuer, client and seed are all that is configured; restarts included, no refresh token is used twice."""
    server = start(script, **REUSE if script == DJANGO else {})
    configure(daemon, server)
    daemon.start()
    daemon.wait_until(lambda: generation(daemon) >= 3, "three rotations")
    assert daemon.stop() == 0
    record = daemon.stored()
    assert (record.endpoint, record.issuer) == (server.issuer.removesuffix("/realms/corp"), server.issuer)
    daemon.start()
    daemon.wait_until(lambda: generation(daemon) > record.generation, "another after a restart")
    assert state(daemon) == "ok"
    assert daemon.published().startswith("sim-at-")


def consent(url: str) -> None:
    """Do what a user does in a browser: sign in, read what is asked for, and allow it."""
    with httpx2.Client(follow_redirects=True, timeout=20) as browser:
        page = browser.get(url)
        page = browser.post(page.url, data=fields(page.text, username="alice", password="alice's own"))
        assert "Reading scope" in page.text, page.text
        page = browser.post(page.url, data=fields(page.text, allow="Authorize"))
    assert (page.status_code, "It worked" in page.text) == (200, True), page.text


def fields(form: str, **typed: str) -> dict[str, str]:
    """Fill a form in."""
    hidden = re.findall(r'<input type="hidden" name="([^"]*)"(?: value="([^"]*)")?', form)
    return {**{name: html.unescape(value) for name, value in hidden}, **typed}


def test_a_user_consents_and_takes_it_back(daemon: Daemon, start: Start) -> None:
    """Issuer and client are all that is configured: a browser brings the grant, it rotates, and it is revoked."""
    server = start(DJANGO, **REUSE)
    configure(daemon, server, seed=None, scopes=["read"], on_dead="report")
    with login(daemon.write_config()) as url:
        consent(url)
    daemon.start()
    daemon.wait_until(lambda: generation(daemon) >= 2, "two rotations")
    assert "which ends in" in sidecar(daemon, "revoke", "gmail", "--yes")
    daemon.wait_until(lambda: state(daemon) == "dead", "it is over")
    held = daemon.stored()
    assert held.refresh is not None
    refused = server.post("token/", grant_type="refresh_token", refresh_token=held.refresh.value)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


def test_a_reused_refresh_token_is_death(daemon: Daemon, start: Start) -> None:
    """A thief used the refresh token that the daemon holds: one refusal, one verdict, and a human is called."""
    server = start(DJANGO, **REUSE)
    configure(daemon, server, min_interval="1h")
    daemon.start()
    assert daemon.stop() == 0
    held = daemon.stored().refresh
    assert held is not None
    stolen = server.post("token/", grant_type="refresh_token", refresh_token=held.value)
    assert stolen.status_code == 200, stolen.text
    daemon.change(min_interval="300ms")
    daemon.launch()
    daemon.wait_until(lambda: daemon.answers("/livez") and state(daemon) == "dead", "the verdict")
    told = daemon.status()
    assert "invalid_grant" in told["reason"]
    assert "token-sidecar seed gmail" in told["remedy"]
    assert daemon.refreshes("dead") == 1


def test_an_issuer_does_not_move_a_refresh_token(daemon: Daemon, start: Start) -> None:
    """What it names now is refused with both places told, until a human moves the record there."""
    server = start(AUTHLIB)
    configure(daemon, server)
    daemon.start()
    assert daemon.stop() == 0
    here, there = server.issuer.removesuffix("/realms/corp"), "http://127.0.0.1:1"
    moved = {"token_endpoint": f"{there}/token"}
    (server.folder / "metadata.json").write_text(json.dumps(moved), encoding="utf-8")
    shutil.rmtree(daemon.state_dir)
    daemon.launch()
    daemon.wait_until(lambda: daemon.answers("/livez") and state(daemon) == "misconfigured", "it is refused")
    reason = daemon.status()["reason"]
    assert (
        f"'app' at {here}, but the configuration with the issuer {server.issuer} names 'app' at {there}"
        in reason
    )
    assert "token-sidecar store rebind gmail" in reason
    assert daemon.refreshes("transient") == 0
    assert daemon.stop() == 0
    assert f"configured: client app at {there}" in sidecar(daemon, "store", "rebind", "gmail", "--yes")
    assert daemon.stored().endpoint == there
    assert "nothing to do" in sidecar(daemon, "store", "rebind", "gmail")
    assert f"at whatever endpoint {server.issuer} names (not asked here)" in sidecar(daemon, "check")


def sidecar(daemon: Daemon, *arguments: str) -> str:
    """Run a command and return what it printed."""
    done = forks.run("sidecar", *arguments, "--config", str(daemon.path))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_lost_answer_is_had_again_within_the_grace(daemon: Daemon, start: Start) -> None:
    """The server rotated and its answer was lost: the same refresh token is sent again, and no family dies."""
    server = start(DJANGO, **GRACE)
    configure(
        daemon,
        server,
        provider={
            "issuer": server.issuer,
            "rotation": "always",
            "in_doubt": "replay_window",
            "grace": "120s",
        },
    )
    daemon.start()
    server.lose_next_answer()
    daemon.wait_until(server.lost, "an answer is lost")
    known = generation(daemon)
    daemon.wait_until(lambda: generation(daemon) >= known + 2, "it goes on")
    assert daemon.refreshes("in_doubt") == 1
    assert state(daemon) == "ok"


def test_a_revoked_refresh_token_is_death(daemon: Daemon, start: Start) -> None:
    """Revoked at the endpoint of RFC 7009, as an operator or the user does it."""
    server = start(AUTHLIB)
    configure(daemon, server, min_interval="1h")
    daemon.start()
    assert daemon.stop() == 0
    held = daemon.stored().refresh
    assert held is not None
    assert server.post("revoke", token=held.value, token_type_hint="refresh_token").status_code == 200
    daemon.change(min_interval="300ms")
    daemon.launch()
    daemon.wait_until(lambda: daemon.answers("/livez") and state(daemon) == "dead", "the verdict")
    assert "invalid_grant" in daemon.status()["reason"]


@pytest.mark.parametrize(
    ("script", "client_id"), [(DJANGO, "machine"), (AUTHLIB, "app")], ids=["django", "authlib"]
)
def test_client_credentials(daemon: Daemon, start: Start, script: str, client_id: str) -> None:
    """With a scope, again and again."""
    server = start(script)
    server.client_id = client_id
    configure(
        daemon,
        server,
        provider={"issuer": server.issuer, "grant": "client_credentials"},
        seed=None,
        scopes=["write"],
    )
    daemon.start()
    daemon.wait_until(lambda: generation(daemon) >= 2, "two tokens")
    assert json.loads(daemon.output().read_text(encoding="utf-8"))["scope"] == "write"


KEYS: dict[str, Callable[[], jwk.RSAKey | jwk.ECKey]] = {
    "RS256": lambda: jwk.RSAKey.generate_key(2048),
    "ES256": lambda: jwk.ECKey.generate_key("P-256"),
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_client_signs(daemon: Daemon, start: Start, algorithm: str) -> None:
    """With nothing configured but its key: the issuer says that it takes assertions, and checks each one for real."""
    key = KEYS[algorithm]()
    file = daemon.folder / "key.pem"
    file.write_bytes(key.as_pem(private=True))
    file.chmod(0o600)
    server = start(AUTHLIB, public_key=key.as_dict(private=False))
    server.refresh_token = server.seeds["signing"]
    configure(daemon, server, client={"id": "signing", "private_key_file": str(file)})
    daemon.start()
    daemon.wait_until(lambda: generation(daemon) >= 3, "three assertions were taken, each of them new")
    assert state(daemon) == "ok"


def test_a_token_is_traded_in_from_a_file_that_rotates(daemon: Daemon, start: Start) -> None:
    """The file may come late, and is read anew each time; the refresh token in the answer is of no interest."""
    server = start(AUTHLIB)
    subject = server.folder / "subject"
    configure(
        daemon,
        server,
        provider={"issuer": server.issuer, "grant": "token_exchange"},
        seed=None,
        audience="api",
        subject_token=str(subject),
    )
    daemon.launch()
    daemon.wait_until(
        lambda: daemon.answers("/livez") and state(daemon) == "misconfigured", "the file is missed"
    )
    assert daemon.status()["reason"].startswith(
        f"subject_token {subject}: does not exist; mount the token there"
    )
    for number in range(2):
        replacement = server.folder / "new"
        replacement.write_text(f"sim-at-0123456789abcdef-{number}", encoding="utf-8")
        replacement.replace(subject)
        known = int(daemon.status()["generation"] or 0)
        daemon.wait_until(lambda known=known: generation(daemon) >= known + 2, "tokens for it")  # type: ignore[misc]
    assert daemon.stop() == 0
    assert daemon.stored().refresh is None


def test_a_wrong_client_secret_costs_nothing(daemon: Daemon, start: Start) -> None:
    """One clear error; the grant lives on, and goes on as soon as the right secret is there."""
    server = start(DJANGO, **REUSE)
    configure(daemon, server)
    secret = daemon.folder / "gmail.secret"
    secret.write_text("sim-cs-0000000000000000", encoding="utf-8")
    daemon.launch()
    daemon.wait_until(lambda: daemon.answers("/livez") and state(daemon) == "misconfigured", "the refusal")
    assert "invalid_client" in daemon.status()["reason"]
    secret.write_text(server.secret, encoding="utf-8")
    daemon.wait_until(lambda: generation(daemon) >= 2, "it goes on")
    assert state(daemon) == "ok"


def test_wrong_scope_audience_and_issuer_cost_nothing(daemon: Daemon, start: Start) -> None:
    """Each token has one clear error of its own, and a right one beside them is not disturbed."""
    server = start(AUTHLIB)
    origin, subject = server.issuer.removesuffix("/realms/corp"), server.folder / "subject"

    def wrong(name: str, grant: str, issuer: str = server.issuer, **settings: Any) -> None:
        configure(daemon, server, name, provider={"issuer": issuer, "grant": grant}, seed=None, **settings)

    subject.write_text("sim-at-0123456789abcdef", encoding="utf-8")
    configure(daemon, server)
    wrong("scope", "client_credentials", scopes=["admin"])
    wrong("audience", "token_exchange", audience="other", subject_token=str(subject))
    wrong("nowhere", "client_credentials", origin)
    wrong("mismatch", "client_credentials", f"{server.issuer}/")
    daemon.launch()
    reasons = {
        "scope": "invalid_scope",
        "audience": "invalid_target",
        "nowhere": f"issuer {origin}: {origin}/.well-known/openid-configuration answered HTTP 404; correct issuer",
        "mismatch": f"is of another issuer, {server.issuer}; if that is yours, name it as issuer",
    }
    for name, reason in reasons.items():
        daemon.wait_until(
            lambda name=name: daemon.answers("/livez") and state(daemon, name) == "misconfigured",  # type: ignore[misc]
            f"{name} is refused",
        )
        assert reason in daemon.status(name)["reason"]
    daemon.wait_until(lambda: generation(daemon) >= 2, "the right one goes on")
