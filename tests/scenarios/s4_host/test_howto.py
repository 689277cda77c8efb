"""The configurations of the how-to, with a daemon started as the units of this repository start it."""

from __future__ import annotations

import json
import os
import re
import socket
from typing import TYPE_CHECKING, Any

import yaml

from tests.e2e.conftest import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon

PAGE = PROJECT / "docs" / "howto" / "systemd.md"
UNIT = PROJECT / "host" / "token-sidecar.service"


def configuration(number: int, **moved: str) -> dict[str, Any]:
    """Return a configuration of the page, with its directories moved elsewhere."""
    text = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[number]
    for place, elsewhere in moved.items():
        assert place in text
        text = text.replace(place, elsewhere)
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def put_secrets(folder: Path, simulator: Simulator, *, seed: str, client: str) -> None:
    """Write what the operator brings."""
    config = simulator.provider.config
    folder.mkdir(parents=True, mode=0o700)
    documents = {
        seed: {"refresh_token": simulator.provider.new_grant()},
        client: {"installed": {"client_id": config.client_id, "client_secret": config.client_secret}},
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
        (folder / name).chmod(0o600)


def for_tests(document: dict[str, Any], simulator: Simulator) -> dict[str, Any]:
    """Put the simulator in Google's place, and take any free port."""
    return {
        **document,
        "providers": {"google": {"token_url": simulator.token_url}},
        "server": {"port": 0},
        "log": {"level": "debug", "format": "json"},
    }


def test_the_daemon_of_a_host(daemon: Daemon, simulator: Simulator) -> None:
    """Its secrets are systemd's credentials, under the names that the unit gives them, and readers share a group."""
    credentials, state = daemon.folder / "credentials", daemon.folder / "lib"
    [prefix] = re.findall(
        r"^LoadCredential=(\w+):/etc/token-sidecar/secrets$", UNIT.read_text("utf-8"), re.MULTILINE
    )
    put_secrets(credentials, simulator, seed=f"{prefix}_gmail.json", client=f"{prefix}_credentials.json")
    state.mkdir(mode=0o700)
    moved = {
        "/run/token-sidecar\n": f"{daemon.state_dir}\n",
        "/run/tokens": str(daemon.out),
        "/var/lib/token-sidecar": str(state),
        "group: tokens": f"group: {os.getgid()}",
    }
    daemon.config = for_tests(configuration(0, **moved), simulator)
    daemon.environment = {
        "CREDENTIALS_DIRECTORY": str(credentials),
        "RUNTIME_DIRECTORY": f"{daemon.state_dir}:{daemon.out}",
        "STATE_DIRECTORY": str(state),
    }
    daemon.start()

    header = (daemon.out / "gmail.header").read_text(encoding="utf-8")
    assert header == f"Authorization: Bearer {daemon.published()}"
    assert (daemon.out / "gmail.header").stat().st_mode & 0o777 == 0o640
    control = daemon.state_dir / "control.sock"
    assert (control.stat().st_mode & 0o777, daemon.state_dir.stat().st_mode & 0o777) == (0o660, 0o710)
    with socket.socket(socket.AF_UNIX) as trial:
        trial.connect(str(control))
    assert daemon.stop() == 0


def test_the_daemon_of_one_user(daemon: Daemon, simulator: Simulator) -> None:
    """Everything is found below that user's home directory, and nobody else can read any of it."""
    home = daemon.folder / "home"
    put_secrets(home / ".secrets", simulator, seed="refresh_token.json", client="gmail_credentials.json")
    daemon.state_dir = home / ".local" / "state" / "token-sidecar"
    daemon.state_dir.mkdir(parents=True)
    daemon.config = for_tests(configuration(1), simulator)
    daemon.environment = {"HOME": str(home)}
    daemon.start()

    cache = home / ".secrets" / "google_token.json"
    assert simulator.provider.is_live(json.loads(cache.read_text(encoding="utf-8"))["access_token"])
    private = [path for path in home.rglob("*") if path.is_file()]
    assert len(private) > 4
    assert not [
        path for path in private if path.stat().st_mode & 0o077 and daemon.state_dir not in path.parents
    ]
    assert daemon.state_dir.stat().st_mode & 0o777 == 0o700
    assert daemon.stop() == 0
