"""The units that come with the source: systemd finds no mistake in them, and little that they leave open."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sidecar.pulse import TICK
from sidecar.server.client import REFRESH_TIMEOUT
from tests.e2e.conftest import PROJECT

HOST = PROJECT / "host"
UNITS = sorted(path.name for path in [*HOST.glob("*.service"), *HOST.glob("*.timer")])
SERVICES = [name for name in UNITS if name.endswith(".service")]
ANALYZE = shutil.which("systemd-analyze")
EXPOSURE = 2.0
"""Of 10, by systemd's own reckoning. What is left is the network, the disk's root and whom files are given to."""


def settings(name: str) -> list[tuple[str, str]]:
    """Return what a unit's service section sets, in its order."""
    text = (HOST / name).read_text(encoding="utf-8").partition("[Service]")[2].partition("\n[")[0]
    return [(key, value) for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)]


def test_there_are_units() -> None:
    """A daemon's, and a timer with what it starts."""
    assert UNITS == ["token-sidecar-once.service", "token-sidecar-once.timer", "token-sidecar.service"]


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_finds_no_mistake(tmp_path: Path) -> None:
    """No unknown key, no value that it doesn't take; only the program and its user aren't here."""
    for name in UNITS:
        text = (HOST / name).read_text(encoding="utf-8")
        text = text.replace("/opt/token-sidecar/bin/token-sidecar", "/bin/true")
        text = text.replace("User=token-sidecar", "User=root").replace("Group=tokens", "Group=root")
        (tmp_path / name).write_text(text, encoding="utf-8")
    files = [str(tmp_path / name) for name in UNITS]
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", *files], capture_output=True, text=True, check=False
    )
    assert not [line for line in done.stderr.splitlines() if "token-sidecar" in line]


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_finds_no_mistake_in_a_users_unit(tmp_path: Path) -> None:
    """The same for the manager of a user's services."""
    text = (HOST / "user" / "token-sidecar.service").read_text(encoding="utf-8")
    file = tmp_path / "token-sidecar.service"
    file.write_text(text.replace("/opt/token-sidecar/bin/token-sidecar", "/bin/true"), encoding="utf-8")
    done = subprocess.run(
        [str(ANALYZE), "verify", "--user", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert not [line for line in done.stderr.splitlines() if "token-sidecar" in line]


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", SERVICES)
def test_little_is_left_open(name: str) -> None:
    """Systemd's own reckoning of what the service could do beyond its work."""
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", "--no-pager", str(HOST / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE, done.stdout


def test_both_services_are_closed_alike() -> None:
    """What one may not do, the other may not: they differ in how they run alone."""
    own = {"Type", "NotifyAccess", "ExecStart", "ExecReload", "WatchdogSec", "RestartSec", "Restart"}
    own |= {"RestartPreventExitStatus"}
    daemon, once = ([item for item in settings(name) if item[0] not in own] for name in sorted(SERVICES))
    assert daemon == once


def test_times_fit_the_daemon() -> None:
    """The watchdog waits for longer than the daemon's own tick, and the start for longer than a provider may take."""
    found = dict(settings("token-sidecar.service"))
    assert float(found["WatchdogSec"]) >= 3 * TICK
    minutes = re.fullmatch(r"(\d+)min", found["TimeoutStartSec"])
    assert minutes
    assert int(minutes[1]) * 60 > REFRESH_TIMEOUT


def test_what_was_under_way_survives_a_crash() -> None:
    """`state_dir` is kept when the service stops, and the store is on a disk."""
    found = dict(settings("token-sidecar.service"))
    assert found["RuntimeDirectoryPreserve"] == "yes"
    assert found["RuntimeDirectory"].split()[0] == found["StateDirectory"] == "token-sidecar"


def test_a_timer_comes_often_enough() -> None:
    """Between the moment when a token of an hour is due and its end lie fifteen minutes."""
    timer = configparser.ConfigParser(strict=False)
    timer.read(HOST / "token-sidecar-once.timer")
    assert timer["Timer"]["OnUnitActiveSec"] == "10min"
    assert int(timer["Timer"]["RandomizedDelaySec"]) + int(timer["Timer"]["AccuracySec"]) < 60
