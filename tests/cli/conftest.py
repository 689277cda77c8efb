"""What the commands' tests share: a simulated provider, its configuration, the real process, a real daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.testing import ProviderConfig, Simulator
from tests import forks

Finished = subprocess.CompletedProcess[str]

START = "20s"


class Place:
    """A directory with a configuration for one token, and the provider that it names."""

    def __init__(self, root: Path, simulator: Simulator) -> None:
        self.root = root
        self.simulator = simulator
        self.provider = simulator.provider
        self.config = root / "config.yaml"
        self.output = root / "out" / "gmail.json"
        self.seed = root / "seed.json"
        self.output.parent.mkdir()
        self.private("client-secret", self.provider.config.client_secret or "")
        self.document: dict[str, Any] = {
            "state_dir": str(root / "state"),
            "store": f"sqlite://{root}/tokens.db",
            "server": {"port": 0},
            "allow_volatile_store": True,
            "tokens": {
                "gmail": {
                    "provider": {"token_url": simulator.token_url, "rotation": "always"},
                    "client": {"id": "sim-client", "secret_file": str(root / "client-secret")},
                    "outputs": [{"file": str(self.output), "format": "gmail-sdk"}],
                }
            },
        }
        self.write()

    @property
    def token(self) -> dict[str, Any]:
        """The token's settings, to be changed before `write`."""
        settings: dict[str, Any] = self.document["tokens"]["gmail"]
        return settings

    def write(self) -> None:
        """Write the configuration."""
        self.config.write_text(yaml.safe_dump(self.document), encoding="utf-8")

    def private(self, name: str, content: str) -> Path:
        """Write a file for the owner alone."""
        path = self.root / name
        path.write_text(content, encoding="utf-8")
        path.chmod(0o600)
        return path

    def new_seed(self) -> Path:
        """Consent at the provider, and write the refresh token into the seed file."""
        return self.private("seed.json", json.dumps({"refresh_token": self.provider.new_grant()}))

    def calls(self) -> int:
        """Count the requests for tokens that the provider saw."""
        return len(self.provider.report().requests)

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> Finished:
        """Run one command in a process of its own."""
        return forks.run("sidecar", *arguments, stdin=stdin, env=self.environment | environment)

    def ok(self, *arguments: str, stdin: str = "") -> str:
        """Run one command that succeeds; return what it printed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def begin(self, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
        """Start one command."""
        return forks.Popen(["sidecar", *arguments], text=True, env=self.environment, **settings)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every command."""
        return {**os.environ, "TOKEN_SIDECAR_CONFIG": str(self.config)}

    @contextmanager
    def daemon(self, *, wait_for: str = "startup") -> Iterator[subprocess.Popen[str]]:
        """Run the daemon until the block ends; begins once a probe is well."""
        with (self.root / "log").open("a", encoding="utf-8") as log:
            process = self.begin("run", stderr=log)
        try:
            done = self.run("healthcheck", wait_for, "--wait", START)
            assert done.returncode == 0, done.stderr + (self.root / "log").read_text(encoding="utf-8")
            yield process
        finally:
            process.terminate()
            assert process.wait(20) == 0


@pytest.fixture
def place() -> Iterator[Place]:
    """Make a place; its path is short, because a unix socket's path has at most 107 bytes."""
    root = Path(tempfile.mkdtemp(prefix="ts-"))
    simulator = Simulator(ProviderConfig(access_ttl=600))
    try:
        with simulator.serve():
            yield Place(root, simulator)
    finally:
        shutil.rmtree(root)


@pytest.fixture
def seeded(place: Place) -> Place:
    """Make a place whose store holds a refresh token that was not used yet."""
    place.ok("seed", "gmail", "--file", str(place.new_seed()))
    return place


@pytest.fixture
def running(seeded: Place) -> Iterator[Place]:
    """Make a place whose token is kept fresh by a daemon."""
    with seeded.daemon():
        yield seeded
