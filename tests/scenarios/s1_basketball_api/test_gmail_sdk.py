"""Scenario S1: an application that builds a `GmailClient` of gmail-sdk-ldraney for each mail, unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import pytest

from sidecar.testing import Rotation
from tests.e2e.conftest import EAGER, wait_until

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeSimulator

APPLICATION = Path(__file__).with_name("application.py")
ACCOUNT = "westsidebasketball"
NOBODY = 65534
ROOT = os.geteuid() == 0
"""Only root can run the application as somebody else; without, everything but the missing permission is tested."""

ROTATIONS = 20
CALLS_OF_THE_SDK = 300
"""Seconds before the expiry from which on the SDK refreshes by itself."""


class Application:
    """The application under way, and what it told so far."""

    def __init__(self, process: subprocess.Popen[bytes], told: Path) -> None:
        self.process = process
        self._told = told

    def lines(self) -> list[dict[str, Any]]:
        """Return all that it told."""
        return [
            json.loads(line)
            for line in self._told.read_text(encoding="utf-8").splitlines(keepends=True)
            if line.endswith("\n") and line.startswith("{")
        ]

    def tokens(self) -> list[str]:
        """Return the fingerprints of the tokens that it got, in order."""
        assert self.process.poll() is None, self._told.read_text(encoding="utf-8")
        return [line["fingerprint"] for line in self.lines() if "fingerprint" in line]

    def end(self) -> dict[str, Any]:
        """Let it finish; returns its sum."""
        self.process.communicate(timeout=20)
        assert self.process.returncode == 0, self._told.read_text(encoding="utf-8")
        return self.lines()[-1]


@pytest.fixture
def secrets_dir(daemon: Daemon) -> Path:
    """Give the application's secrets_dir, which is the daemon's output directory."""
    daemon.out.chmod(0o755)
    return daemon.out


@contextmanager
def running(daemon: Daemon, secrets_dir: Path, token_url: str, resource_url: str) -> Iterator[Application]:
    """Run the application as nobody."""
    # One of the authorities: httpx reads them all anew for each client, which is most of what a mail costs here.
    end = "-----END CERTIFICATE-----\n"
    one, _, _ = Path(certifi.where()).read_text(encoding="utf-8").partition(end)
    authorities = daemon.folder / "ca.pem"
    authorities.write_text(one + end, encoding="utf-8")
    authorities.chmod(0o644)
    told = daemon.log.with_suffix(".application")
    command = [sys.executable, str(APPLICATION), str(secrets_dir), token_url, resource_url]
    with told.open("wb") as out:
        process = subprocess.Popen(
            [*command, str(NOBODY)] if ROOT else command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            # The package may lie where only root can look.
            env={**os.environ, "SSL_CERT_FILE": str(authorities)},
        )
    try:
        yield Application(process, told)
    finally:
        process.kill()
        process.communicate()


def configure(daemon: Daemon, simulator: Simulator, *, profile: str, **output: Any) -> None:
    """Configure the token as the scenario has it: Google's files, the SDK's output."""
    daemon.add(simulator)
    simulator_config = simulator.provider.config
    credentials = {
        "installed": {
            "client_id": simulator_config.client_id,
            "client_secret": simulator_config.client_secret,
            "token_uri": simulator.token_url,
        }
    }
    path = daemon.folder / "credentials.json"
    path.write_text(json.dumps(credentials), encoding="utf-8")
    path.chmod(0o600)
    daemon.config["providers"] = {
        "google": {"token_url": simulator.token_url},
        "rotating": {"extends": "google", "token_url": simulator.token_url, "rotation": "always"},
    }
    target = daemon.out / f"gmail-{ACCOUNT}.json"
    owned = {"group": NOBODY} if ROOT else {}
    daemon.change(
        provider=profile,
        client={"file": str(path)},
        outputs=[{"file": str(target), "format": "gmail-sdk", "mode": "0640"} | owned | output],
    )


def test_the_version_is_the_one_in_use() -> None:
    """It is the very version that the application runs."""
    assert version("gmail-sdk-ldraney") == "0.1.3"


@pytest.mark.timeout(240)
def test_every_mail_goes_out_over_twenty_rotations(
    daemon: Daemon, make_simulator: MakeSimulator, secrets_dir: Path
) -> None:
    """As uid 65534, each construction gets a living token; the SDK never refreshes and nothing is written by it."""
    simulator = make_simulator(rotation=Rotation.ALWAYS, access_ttl=3600, kills_old_access_token=False)
    configure(daemon, simulator, profile="rotating")
    daemon.change(**EAGER)
    daemon.start()
    path = secrets_dir / f"gmail-{ACCOUNT}.json"

    # Nobody answers there: had the SDK tried to refresh, its construction would have failed.
    with running(daemon, secrets_dir, "http://127.0.0.1:9/token", f"{simulator.url}/resource") as application:
        daemon.wait_until(
            lambda: len(application.tokens()) > ROTATIONS, f"{ROTATIONS} rotations", patience=200
        )
        total = application.end()

    if ROOT:
        assert application.lines()[0] == {"uid": NOBODY, "may_write": False}
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (0, NOBODY, 0o640)
    assert total["calls"] == {}
    assert total["constructions"] > 5 * ROTATIONS
    assert total["statuses"] == {"200": total["constructions"]}
    assert simulator.provider.report().resource_denied == 1  # the one without a token, before the first mail
    assert [entry.name for entry in secrets_dir.iterdir()] == [path.name]
    refreshes, requests = daemon.refreshes("success"), simulator.provider.report().requests
    assert len(requests) in (refreshes, refreshes + 1)
    assert simulator.provider.replayed() == []
    assert daemon.stop() == 0


def test_a_refresh_of_the_sdk_is_adopted(
    daemon: Daemon, make_simulator: MakeSimulator, secrets_dir: Path
) -> None:
    """While the daemon is away the SDK refreshes and truncates in place; the daemon takes that over, without a call."""
    life = CALLS_OF_THE_SDK + 6
    simulator = make_simulator(rotation=Rotation.NEVER, access_ttl=life)
    owned = {"owner": NOBODY} if ROOT else {}
    configure(
        daemon, simulator, profile="google", adopt=True, include_refresh_token=True, mode="0600", **owned
    )
    daemon.start()
    shutil.copy(daemon.folder / "credentials.json", secrets_dir)
    (secrets_dir / "credentials.json").chmod(0o644)
    if ROOT:
        os.chown(secrets_dir, NOBODY, NOBODY)
    path = secrets_dir / f"gmail-{ACCOUNT}.json"
    first, stored = daemon.status()["fingerprint"], daemon.stored()
    assert stored.access is not None
    assert daemon.stop() == 0
    simulator.provider.reconfigure(access_ttl=3600)

    with running(daemon, secrets_dir, simulator.token_url, f"{simulator.url}/resource") as application:
        wait_until(lambda: len(application.tokens()) >= 2, what="the SDK refreshed by itself")
        total = application.end()
    seen, written = [line for line in application.lines() if "fingerprint" in line], path.read_bytes()
    assert seen[0]["fingerprint"] == first
    assert total["calls"] == {"_load_credentials": 1, "refresh_access_token": 1, "_save_token": 1}
    adopted = seen[1]["fingerprint"]

    daemon.start()
    daemon.wait_until(lambda: daemon.status()["fingerprint"] == adopted, "it is adopted")

    record, view = daemon.stored(), daemon.status()
    assert record.access is not None
    assert (record.access.fingerprint, record.lineage) == (adopted, stored.lineage)
    assert record.access.expires_at == json.loads(written)["expires_at"]
    assert record.refresh == stored.refresh
    assert (view["grant_state"], view["outputs"][0]["fingerprint"]) == ("ok", adopted)
    assert json.loads(path.read_bytes())["access_token"] == json.loads(written)["access_token"]
    assert view["next_wake"] > time.time() + 1800
    assert len(daemon.lines(event="an application's own refresh was adopted")) == 1
    # The daemon's first and the SDK's: adoption took none.
    assert len(simulator.provider.report().requests) == 2
    assert simulator.provider.is_live(json.loads(written)["access_token"])
    assert daemon.stop() == 0
