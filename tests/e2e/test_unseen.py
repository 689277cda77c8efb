"""Whoever looks at outputs on our side is not taken for the application that reads them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import forks
from tests.e2e.conftest import PATIENCE, Daemon

if TYPE_CHECKING:
    from sidecar.testing import Simulator

SECOND = 10**9
LOOKS = (
    ("status", "--json"),
    ("doctor", "--json"),
    ("check",),
    ("token", "gmail"),
    ("healthcheck", "ready"),
)
PAGES = ("/metrics", "/status", "/readyz", "/startupz")


def unread(file: Path) -> int:
    """Have a file look as if nobody had read it yet; returns what its access time is then."""
    written = file.stat().st_mtime_ns
    os.utime(file, ns=(written - SECOND, written))
    return file.stat().st_atime_ns


def run(daemon: Daemon, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a daemon's configuration."""
    arguments = ["sidecar", *command, "--config", str(daemon.path)]
    return forks.run(*arguments, timeout=3 * PATIENCE)


def test_our_commands_and_probes_leave_no_trace(daemon: Daemon, simulator: Simulator) -> None:
    """Neither while a daemon runs nor while none does; and the file that is shown as refused may be an output, too."""
    daemon.add(simulator)
    daemon.start()
    file, copy = daemon.output(), daemon.folder / "refused"
    copy.write_text("sim-at-0123456789abcdef0123", encoding="ascii")
    before = unread(file), unread(copy)
    for page in PAGES:
        assert daemon.get(page).status == 200
    for look in LOOKS:
        assert run(daemon, *look).returncode == 0, look
    refused = run(daemon, "refresh", "gmail", "--rejected-file", str(copy))
    assert "was replaced already" in refused.stdout + refused.stderr
    daemon.stop()
    for look in LOOKS[:3]:
        run(daemon, *look)
    assert (file.stat().st_atime_ns, copy.stat().st_atime_ns) == before

    file.read_bytes()
    if file.stat().st_atime_ns == before[0]:
        pytest.skip(f"{file.parent} is mounted such that no read can be seen")
