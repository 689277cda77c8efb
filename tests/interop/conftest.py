"""Authorization servers that nobody here wrote, each in a process of its own, and the real daemon against them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote_plus

import httpx2
import pytest

from tests.e2e.conftest import EAGER, PATIENCE, PROJECT, Daemon, MakeDaemon, home, make_daemon, names
from tests.interop.serving import LOSE

__all__ = ["home", "make_daemon", "names"]


class Server:
    """A running server, and what it told about itself."""

    def __init__(self, name: str, folder: Path, options: dict[str, Any]) -> None:
        folder.mkdir()
        self.folder = folder
        self.log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.interop.{name}", str(folder), json.dumps(options)],
            # It is on loopback, where it needs no TLS.
            env={**os.environ, "AUTHLIB_INSECURE_TRANSPORT": "1"},
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )

    def ready(self) -> Self:
        """Wait until it serves."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self.folder / "log").read_text(encoding="utf-8")
        told = json.loads(line)
        self.issuer: str = told["issuer"]
        self.client_id: str = told["client_id"]
        self.secret: str = told["secret"]
        self.refresh_token: str = told["refresh_token"]
        self.seeds: dict[str, str] = told.get("seeds", {})
        return self

    def lose_next_answer(self) -> None:
        """Process the next token request, and let its answer be lost."""
        (self.folder / LOSE).touch()

    def lost(self) -> bool:
        """Tell whether that has happened."""
        return not (self.folder / LOSE).exists()

    def post(self, endpoint: str, **form: str) -> httpx2.Response:
        """Ask what somebody else may ask who knows the client's secret."""
        pair = f"{quote_plus(self.client_id)}:{quote_plus(self.secret)}"
        proof = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
        return httpx2.post(f"{self.issuer}/{endpoint}", data=form, headers=proof, timeout=PATIENCE)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self.log.close()


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers; `options` are theirs."""
    started: list[Server] = []

    def start(name: str, **options: Any) -> Server:
        started.append(Server(name, tmp_path / f"server-{len(started)}", options))
        return started[-1].ready()

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def daemon(make_daemon: MakeDaemon) -> Iterator[Daemon]:
    """Give a daemon that ends with the test."""
    made = make_daemon()
    yield made
    made.close()


def configure(daemon: Daemon, server: Server, name: str = "gmail", /, **settings: Any) -> None:
    """Configure a token of this server that is refreshed three times a second; None takes a key away."""
    secret, seed = daemon.folder / f"{name}.secret", daemon.folder / f"{name}.seed"
    for path, content in ((secret, server.secret), (seed, server.refresh_token)):
        path.write_text(content, encoding="utf-8")
        path.chmod(0o600)
    token = {
        "provider": {"issuer": server.issuer, "rotation": "always"},
        "client": {"id": server.client_id, "secret_file": str(secret)},
        "seed": str(seed),
        "outputs": [{"file": str(daemon.output(name))}],
        **EAGER,
        "min_interval": "300ms",
        **settings,
    }
    daemon.config["tokens"][name] = {key: value for key, value in token.items() if value is not None}


def generation(daemon: Daemon, name: str = "gmail") -> int:
    """Tell how often the daemon refreshed a token, in all its runs."""
    return int(daemon.status(name)["generation"])


def state(daemon: Daemon, name: str = "gmail") -> str:
    """Return how the grant stands."""
    return str(daemon.status(name)["grant_state"])
