"""All secrets under a prefix, by one entry: users come, go and die while the daemon runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.conftest import EAGER
from tests.scenarios.s6_aws.backend import CLIENT, Reconnect
from tests.scenarios.s6_aws.test_serverless import POLL, backend, connect, google

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon
    from tests.scenarios.s6_aws.backend import Backend

__all__ = ["backend", "google"]


def test_users_come_and_go(daemon: Daemon, backend: Backend, google: Simulator) -> None:
    """Two users are kept fresh by one entry; a third one comes, and one whose grant dies is gone, with no restart."""
    grants = {user: connect(backend, google, user) for user in ("alice", "bob@example.com")}
    prefix, _, folder = backend.prefix.partition("/")
    daemon.config |= {
        "namespace": "mail",
        "store": {"url": f"aws-secretsmanager://{prefix}", "delete_dead": True},
    }
    verdict = {"outcome": "dead", "code": "invalid_grant"}
    daemon.config["tokens"]["gmail"] = {
        "for_each": {"store": f"{folder}/", "every": f"{POLL}s"},
        "provider": {
            "token_url": google.token_url,
            "auth_method": "none",
            "rotation": "never",
            "errors": [verdict],
        },
        "client": {"id_aws_secret": CLIENT},
        "outputs": [],
        "on_dead": "report",
        **EAGER,
    }
    daemon.start("poll", POLL)

    def fresh(user: str) -> bool:
        try:
            return google.provider.is_live(backend.access_token(user))
        except Reconnect:
            return False

    daemon.wait_until(lambda: fresh("alice") and fresh("bob@example.com"), "both users' secrets are fresh")
    connect(backend, google, "carol")
    daemon.wait_until(lambda: fresh("carol"), "the new user's secret is fresh")
    google.provider.kill(grants["alice"])

    def gone() -> bool:
        try:
            backend.stored("alice")
        except Reconnect:
            return True
        return False

    daemon.wait_until(gone, "the secret of the dead grant is deleted")
    daemon.wait_until(lambda: fresh("carol") and fresh("bob@example.com"), "the others go on")
