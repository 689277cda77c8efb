"""What a configuration doesn't name is not imported: it would be paid for in every pod."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.footprint import filled, plain
from bench.places import PLACES

NEVER = {
    "cryptography",
    "dotenv",
    "itsdangerous",
    "jinja2",
    "joserfc",
    "jsonschema",
    "opentelemetry",
    "pygments",
    "rich",
    "sidecar.cli.render",
    "sidecar.console",
    "sidecar.deputy",
    "sidecar.testing",
}
"""What a token in a file on any of these stores doesn't need."""
STORES = {
    "sqlite": {"sqlite3", "sidecar.stores.sqlite"},
    "postgres": {"asyncpg", "sidecar.stores.postgres", "sidecar.clients.postgres"},
    "kubernetes": {"lightkube", "sidecar.stores.kubernetes", "sidecar.clients.kubernetes"},
    "aws": {"aiobotocore", "botocore", "aiohttp", "sidecar.stores.aws", "sidecar.clients.aws"},
}
"""What each store brings with it, and no other does."""


TELLING = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from sidecar.__main__ import main; main()"


@pytest.mark.parametrize("kind", STORES)
def test_a_store_brings_its_own_libraries_alone(tmp_path: Path, kind: str) -> None:
    """The daemon of one token in a file loads neither another store's libraries nor an optional part of the house."""
    with PLACES[kind]() as place:
        daemon = filled(plain(place, tmp_path / "daemon"))
        command = [sys.executable, "-c", TELLING, "run", "--once", "--wait", "40s"]
        done = subprocess.run(
            [*command, "--config", str(daemon.path)],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            env=daemon.environ,
        )

    assert done.returncode == 0, done.stderr[-2000:]
    loaded = set(done.stdout.split())
    assert loaded >= STORES[kind]
    assert not loaded & (NEVER | set().union(*STORES.values()) - STORES[kind])
