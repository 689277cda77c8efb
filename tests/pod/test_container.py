"""The image's container: process 1, a root that can't be written, a user that nobody knows."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pod.conftest import LONG, NONROOT, VENV, User

if TYPE_CHECKING:
    from tests.pod.conftest import MakePod, MakeSimulator

pytestmark = LONG


@pytest.mark.parametrize("user", [NONROOT, User(1000680000, 0)], ids=["fixed", "arbitrary"])
def test_a_life_as_process_1(make_pod: MakePod, make_simulator: MakeSimulator, user: User) -> None:
    """On a read-only root, for any user: it serves, answers an exec probe, has no children, and ends on SIGTERM."""
    pod = make_pod()
    pod.add(make_simulator())
    container = pod.start(user)
    pod.wait_until(container, lambda: pod.answers("/readyz"), "it is ready")

    probe = container.exec("token-sidecar", "healthcheck", "live")
    assert (probe.returncode, probe.stdout.strip()) == (0, "ok"), probe.stderr
    told = container.exec("token-sidecar", "status", "--json")
    assert told.returncode == 0, told.stderr
    written = container.exec(f"{VENV}/bin/python", "-c", "open('/tmp/x', 'w')")
    assert "Read-only file system" in written.stderr
    # Another user may not look where it wrote its port, and the configuration leaves it open.
    pod.state.chmod(0o700)
    refused = container.exec("token-sidecar", "healthcheck", user=User(1000, 1000))
    assert (refused.returncode, "server.port is 0" in refused.stderr) == (1, True)
    pod.state.chmod(0o777)
    assert container.children() == []
    assert container.stop() == 0
    assert "stopping on SIGTERM" in container.text()


def test_process_1_heeds_a_signal_before_it_serves(make_pod: MakePod) -> None:
    """The kernel drops what nobody handles, for process 1; so a handler is there from the first moment on."""
    pod = make_pod()
    container = pod.start(
        command=("token-sidecar", "healthcheck", "--wait", "10m", "--url", "http://127.0.0.1:1")
    )
    pod.wait_until(container, lambda: _handles(container.pid, signal.SIGTERM), "it has a handler")

    assert container.stop() == 128 + signal.SIGTERM


def _handles(pid: int, signum: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)


def test_there_is_nothing_to_install_with(image: Path) -> None:
    """Neither a shell nor a package manager nor a compiler is in the image, in any of the usual places."""
    names = {path.name for path in image.rglob("*") if not path.is_dir()}
    unwanted = {
        "sh",
        "bash",
        "dash",
        "busybox",
        "apt",
        "apt-get",
        "dpkg",
        "pip",
        "pip3",
        "gcc",
        "cc",
        "ld",
        "perl",
    }
    assert names & unwanted == set()
    assert [path for path in image.rglob("*") if path.name in {"pip", "ensurepip", "setuptools"}] == []
