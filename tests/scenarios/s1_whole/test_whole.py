"""Scenario S1 whole: two pods on one Postgres, everything that may happen to them, and every mail is sent."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import pytest
import yaml

from sidecar.server.client import NotRunning
from sidecar.testing import Rotation
from tests.e2e.conftest import EAGER, PROJECT, wait_until
from tests.kube.cluster import Rule
from tests.scenarios import google_api

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeDaemon, MakeSimulator
    from tests.kube.fake import Fake
    from tests.postgres import Server

ACCOUNT = "westsidebasketball"
SECRET, FILE = "gmail-oauth-token", f"gmail-{ACCOUNT}.json"
PAGE = PROJECT / "docs" / "howto" / "gmail-sdk-on-kubernetes.md"
NOBODY = 65534
ROOT = os.geteuid() == 0
"""Only root can run the application as somebody else; without, everything but the missing permission is tested."""
PATIENCE = 60.0

TABLE = """
CREATE TABLE oauth_tokens (
    id serial PRIMARY KEY, account varchar(100) UNIQUE NOT NULL, token_json text NOT NULL,
    updated_at timestamp DEFAULT now(), created_at timestamp DEFAULT now())
"""
"""The application's own, which has the token beside the file."""


class Pod:
    """An application beside a daemon of its own, with a volume between them."""

    def __init__(self, subject: str, daemon: Daemon, api: google_api.GmailApi) -> None:
        self.subject = subject
        self.daemon = daemon
        self._api = api
        self._application: subprocess.Popen[bytes] | None = None
        self._runs = count(1)

    def start(self, *hook: str) -> None:
        """Start the daemon, and the application once there is a token, as the sidecar's startup probe has it."""
        self.daemon.out.mkdir(exist_ok=True)
        self.daemon.out.chmod(0o755)
        self.daemon.start(*hook)
        self._told = self.daemon.log.with_suffix(f".application{next(self._runs)}")
        command = [sys.executable, "-m", "tests.scenarios.s1_whole.application"]
        arguments = [self.subject, str(self.daemon.out), self._api.url, *([str(NOBODY)] if ROOT else [])]
        with self._told.open("wb") as out:
            self._application = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                cwd=PROJECT,
                env={**os.environ, "SSL_CERT_FILE": str(_authority(self.daemon.folder))},
            )

    def end(self) -> list[dict[str, Any]]:
        """End the application; returns what it told."""
        assert self._application is not None
        self._application.communicate(timeout=PATIENCE)
        assert self._application.returncode == 0, self.text()
        return [json.loads(line) for line in self.text().splitlines()]

    def text(self) -> str:
        """Return what the application said so far."""
        return self._told.read_text(encoding="utf-8")

    def close(self) -> None:
        """End whatever still runs of it."""
        if self._application is not None:
            self._application.kill()
            self._application.communicate()

    @property
    def sent(self) -> int:
        """How many mails of it have arrived."""
        return self._api.sent[self.subject]

    def has_sent(self, number: int) -> bool:
        """Tell whether so many have arrived; it is an error if one could not be sent."""
        assert "failure" not in self.text(), self.text()
        return self.sent >= number


def _authority(folder: Path) -> Path:
    """Write one certificate authority where anybody can read it: all of them take the SDK longer than the mail."""
    authority = folder / "ca.pem"
    everybody = Path(certifi.where()).read_text(encoding="utf-8")
    end = "-----END CERTIFICATE-----"
    authority.write_text(everybody.partition(end)[0] + end, encoding="utf-8")
    authority.chmod(0o644)
    return authority


@pytest.fixture
def simulator(make_simulator: MakeSimulator) -> Simulator:
    """Give a provider with Google's life of access tokens, and refresh tokens that are replaced at each use."""
    return make_simulator(rotation=Rotation.ALWAYS, access_ttl=3600, kills_old_access_token=False)


@pytest.fixture
def pods(
    make_daemon: MakeDaemon,
    simulator: Simulator,
    server: Server,
    database: str,
    fake_cluster: Fake,
    tmp_path: Path,
) -> Iterator[Callable[[str], Pod]]:
    """Make pods with the Secret that there was before, which is the seed, and a role that may read it."""
    namespace = fake_cluster.namespace()
    fake_cluster.make_secret(namespace, SECRET, {FILE: _of_the_sdk(simulator)})
    account = fake_cluster.account(namespace, rules=[Rule("secrets", ["get"], [SECRET])])
    kubeconfig = account.kubeconfig(tmp_path / "account")

    with google_api.serving(simulator.provider) as api, ExitStack() as made:

        def make(subject: str) -> Pod:
            daemon = make_daemon()
            daemon.environment["KUBECONFIG"] = str(kubeconfig)
            configure(daemon, simulator, server.url(database))
            pod = Pod(subject, daemon, api)
            made.callback(pod.close)
            return pod

        yield make
        assert api.refused == []


def configure(daemon: Daemon, simulator: Simulator, database: str) -> None:
    """Configure the daemon as the how-to has it, with what stands for Google and for the pod's volumes."""
    [values] = re.findall(
        r"^ *```yaml\n(.*?)^ *```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    places = {"/etc/oauth": daemon.folder, "/etc/store": daemon.folder, "/run/tokens": daemon.out}
    for place, stand_in in places.items():
        values = values.replace(place, str(stand_in))
    daemon.config |= yaml.safe_load(values)["token-sidecar"]["config"]
    [output] = daemon.config["tokens"]["gmail"]["outputs"]
    output["group"] = NOBODY if ROOT else os.getgid()
    row = {"url": database, "where": {"account": ACCOUNT}, "table": "oauth_tokens", "column": "token_json"}
    daemon.change(outputs=[output, {"sql": row, "format": "gmail-sdk"}])
    daemon.change(lease="5s")
    # Google's own profile says that nothing is lost by asking again, which is so because it doesn't rotate.
    rotating = {"rotation": "always", "in_doubt": "no_replay"}
    daemon.config["providers"] = {"google": {"token_url": simulator.token_url} | rotating}
    provider = simulator.provider.config
    client = {"client_id": provider.client_id, "client_secret": provider.client_secret}
    for name, content in {"credentials.json": json.dumps({"web": client}), "url": database}.items():
        (daemon.folder / name).write_text(content, encoding="utf-8")
        (daemon.folder / name).chmod(0o600)


def _of_the_sdk(simulator: Simulator) -> bytes:
    """Write what the SDK wrote last, 29 hours ago."""
    document = {
        "access_token": "sim-at-long-since-expired",
        "expires_in": 3599,
        "refresh_token": simulator.provider.new_grant(),
        "scope": "https://www.googleapis.com/auth/gmail.send",
        "token_type": "Bearer",
        "expires_at": time.time() - 28 * 3600,
    }
    return json.dumps(document).encode()


def in_the_table(server: Server, database: str) -> dict[str, Any]:
    """Return what the application's row holds."""
    [row] = server.sql("SELECT token_json FROM oauth_tokens", database=database)
    document: dict[str, Any] = json.loads(row["token_json"])
    return document


def in_the_file(pod: Pod) -> dict[str, Any]:
    """Return what a pod's file holds."""
    document: dict[str, Any] = json.loads((pod.daemon.out / FILE).read_text(encoding="utf-8"))
    return document


def rotations(simulator: Simulator) -> int:
    """Count the refresh tokens that were replaced."""
    return sum(request.outcome == "rotated" for request in simulator.provider.report().requests)


@pytest.mark.timeout(300)
def test_every_mail_is_sent_whatever_happens(
    pods: Callable[[str], Pod], simulator: Simulator, server: Server, database: str
) -> None:
    """A daemon is killed, the database crashes, a pod is replaced; no mail fails, and nobody has to do anything."""
    server.sql(TABLE, database=database)
    first, second = pods("one"), pods("two")
    first.start("after-escrow", "kill")
    second.start()

    def mails_go_on(*pods: Pod) -> None:
        for pod, before in [(pod, pod.sent) for pod in pods]:
            wait_until(partial(pod.has_sent, before + 5), what="it sends mails", patience=PATIENCE)

    def rotation_goes_on() -> None:
        before = rotations(simulator)
        wait_until(lambda: rotations(simulator) >= before + 3, what="it is rotated on", patience=2 * PATIENCE)

    # One daemon is killed with an answer in hand that nobody else has. Its container starts again, and rotates on.
    with suppress(NotRunning):
        first.daemon.control.refresh("gmail")
    assert first.daemon.wait(patience=PATIENCE) == -signal.SIGKILL
    mails_go_on(first, second)
    first.daemon.change(**EAGER)
    first.daemon.start()
    rotation_goes_on()

    # The database crashes, and comes back.
    server.stop("immediate")
    try:
        mails_go_on(first, second)
    finally:
        server.start()
    rotation_goes_on()
    mails_go_on(first, second)

    # A pod is replaced: what its volumes held is gone.
    told = second.end()
    assert second.daemon.stop(patience=PATIENCE) == 0
    for volume in (second.daemon.out, second.daemon.state_dir):
        shutil.rmtree(volume)
    second.daemon.change(**EAGER)
    second.start()
    mails_go_on(first, second)
    rotation_goes_on()

    told += first.end() + second.end()
    second.daemon.change(refresh_at=None, min_interval=None)
    assert first.daemon.stop(patience=PATIENCE) == second.daemon.stop(patience=PATIENCE) == 0
    second.daemon.start()
    second.daemon.wait_until(lambda: in_the_table(server, database) == in_the_file(second), "the row follows")
    totals = [line for line in told if "sent" in line]
    assert [(total["failures"], total["calls"]) for total in totals] == [({}, {})] * 3
    assert sum(total["sent"] for total in totals) == first.sent + second.sent
    if ROOT:
        assert [line["may_write"] for line in told if "may_write" in line] == [False] * 3
    for pod in (first, second):
        assert [entry.name for entry in pod.daemon.out.iterdir()] == [FILE]
    second.daemon.wait_until(lambda: second.daemon.status()["grant_state"] == "ok", "all is well")
    assert second.daemon.stop(patience=PATIENCE) == 0
    # One grant for all: the Secret's refresh token was used once, and no other twice.
    report = simulator.provider.report()
    asked = {request.fingerprint for request in report.requests}
    assert report.replayed == ()
    assert len({token.family for token in report.tokens if token.fingerprint in asked}) == 1
