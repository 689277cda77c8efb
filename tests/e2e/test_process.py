"""The process itself: closed to others, alone on its state_dir, clear when it can't start, quiet when idle."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar import cli
from sidecar.errors import HumanNeeded
from tests.e2e.conftest import PATIENCE, POWERLESS, PROJECT

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeDaemon

READS_ENVIRONMENT = "import sys; open('/proc/%s/environ' % sys.argv[1], 'rb').read()"

FAILED, USAGE = 1, 2


def refused_to_start(daemon: Daemon) -> str:
    """Let it fail; returns the one line that says why."""
    daemon.launch()
    code = daemon.wait()
    assert code in {FAILED, USAGE}, (code, daemon.text())
    assert "Traceback" not in daemon.text()
    complaints = [line for line in daemon.text().splitlines() if "on ext4" not in line and line.strip()]
    return "\n".join(complaints)


@pytest.fixture
def daemon(daemon: Daemon) -> Daemon:
    """Have it start as it does with its users, since the process is what this is about."""
    daemon.from_nothing = True
    return daemon


# Closed to others


@pytest.fixture
def unprivileged(daemon: Daemon, simulator: Simulator) -> Daemon:
    """Run a daemon without privileges: root may look into every process."""
    daemon.add(simulator)
    daemon.powerless = True
    return daemon.start()


def reads_environment_of(pid: int) -> bool:
    """Tell whether a process of this user may read another's memory, for which its environment stands."""
    command = [*POWERLESS, sys.executable, "-c", READS_ENVIRONMENT, str(pid)]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_core_dumps_are_disabled(unprivileged: Daemon) -> None:
    """The limit is zero, soft and hard, so that nobody can raise it again."""
    limits = Path(f"/proc/{unprivileged.pid}/limits").read_text(encoding="ascii").splitlines()
    (core,) = [line.split() for line in limits if line.startswith("Max core file size")]
    assert core[4:6] == ["0", "0"]


def test_other_processes_of_the_same_user_cannot_look_inside(unprivileged: Daemon) -> None:
    """Not dumpable: no process of the same user may read its memory or attach to it."""
    command = [*POWERLESS, sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ordinary:
        assert ordinary.stdout is not None
        ordinary.stdout.readline()
        # What makes the refusal below mean something.
        assert reads_environment_of(ordinary.pid)
        ordinary.communicate(b"\n")
    assert not reads_environment_of(unprivileged.pid)


def test_nor_can_they_into_a_command(unprivileged: Daemon, tmp_path: Path) -> None:
    """A command that reads a refresh token is closed to others before it has it."""
    pipe = unprivileged.folder / "token"
    os.mkfifo(pipe)
    pipe.chmod(0o644)
    command = ["-m", "sidecar", "seed", "gmail", "--file", str(pipe), "--config", str(unprivileged.path)]
    with subprocess.Popen(
        [*POWERLESS, sys.executable, *command], cwd=PROJECT, stderr=subprocess.DEVNULL
    ) as seed:
        # Opening it waits for the reader, which then waits for the token.
        with pipe.open("wb"):
            assert not reads_environment_of(seed.pid)
            assert seed.poll() is None
        seed.wait(PATIENCE)


# Alone, and clear when it can't start


def test_a_second_daemon_on_the_same_state_dir_is_refused(
    daemon: Daemon, make_daemon: MakeDaemon, simulator: Simulator
) -> None:
    """It says why, touches nothing, and the first one serves on."""
    daemon.add(simulator)
    daemon.start()
    second = make_daemon()
    second.config |= {"state_dir": str(daemon.state_dir), "tokens": daemon.config["tokens"]}
    address = (daemon.state_dir / "http.json").read_bytes()

    complaint = refused_to_start(second)

    assert f"{daemon.state_dir}: a daemon runs on this state_dir already; stop it, or give each" in complaint
    assert (daemon.state_dir / "http.json").read_bytes() == address
    assert daemon.answers("/livez")
    assert daemon.control.status()
    assert len(simulator.provider.report().requests) == 1


def test_a_port_that_is_taken(daemon: Daemon, simulator: Simulator) -> None:
    """One line names the port and the remedy; nothing was sent."""
    daemon.add(simulator)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon.config["server"] = {"port": port}
        complaint = refused_to_start(daemon)
    assert f"port {port}: something else does already; set server.port" in complaint
    assert simulator.provider.report().requests == ()


def test_a_state_dir_that_cannot_be_made(daemon: Daemon, simulator: Simulator) -> None:
    """One line names the path and the remedy; nothing was sent."""
    daemon.add(simulator)
    blocker = daemon.folder / "file"
    blocker.write_text("in the way", encoding="ascii")
    daemon.config["state_dir"] = str(blocker / "state")
    complaint = refused_to_start(daemon)
    assert str(blocker / "state") in complaint
    assert "state_dir" in complaint
    assert simulator.provider.report().requests == ()


def test_a_state_dir_that_cannot_be_written(daemon: Daemon, simulator: Simulator) -> None:
    """The same where permissions are the reason."""
    daemon.add(simulator)
    daemon.powerless = True
    locked = daemon.folder.parent / f"{daemon.folder.name}-locked"
    locked.mkdir(mode=0o555)
    daemon.config["state_dir"] = str(locked)
    complaint = refused_to_start(daemon)
    assert str(locked) in complaint
    assert "can't be written" in complaint
    assert simulator.provider.report().requests == ()


def test_a_successor_takes_over_at_once(daemon: Daemon, simulator: Simulator) -> None:
    """A lock dies with its process: the successor of a killed daemon starts without waiting."""
    daemon.add(simulator)
    daemon.start()
    daemon.kill()
    daemon.start(probe="/readyz")
    assert len(simulator.provider.report().requests) == 1
    assert daemon.stop() == 0


# Quiet when idle


def wakeups(pid: int) -> dict[int, tuple[str, int]]:
    """Count the voluntary context switches of each thread: id → (name, count)."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text(encoding="utf-8")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        found[int(task.name)] = fields["Name"].strip(), int(fields["voluntary_ctxt_switches"])
    return found


def idle_wakeups(daemon: Daemon, seconds: float) -> tuple[int, dict[int, tuple[str, int]]]:
    """Watch an idle daemon; returns how often its main thread woke, and the others."""
    # The turn that our own write to the output causes, and the probes' connections, are over then.
    settled = wakeups(daemon.pid)
    quiet_since = time.monotonic()
    while time.monotonic() < quiet_since + 2.5:
        now = wakeups(daemon.pid)
        if now[daemon.pid] != settled[daemon.pid]:
            settled, quiet_since = now, time.monotonic()
        time.sleep(0.05)
    before = wakeups(daemon.pid)
    threading.Event().wait(seconds)
    after = wakeups(daemon.pid)
    woken = {
        thread: (name, count - before.get(thread, ("", 0))[1]) for thread, (name, count) in after.items()
    }
    return woken.pop(daemon.pid)[1], woken


def test_an_idle_daemon_hardly_wakes(daemon: Daemon, simulator: Simulator) -> None:
    """In 20 s its event loop wakes no more often than it may in a minute, the watcher once a second."""
    daemon.add(simulator)
    daemon.start()
    main, others = idle_wakeups(daemon, 20)
    assert main <= 6
    assert all(count <= 64 / 3 + 1 for _, count in others.values()), others


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_an_idle_daemon_hardly_wakes_in_a_minute(daemon: Daemon, simulator: Simulator) -> None:
    """Over whole minutes: at most 6 wake-ups of the event loop in each, and 64 of the watcher's thread."""
    daemon.add(simulator)
    daemon.start()
    for _ in range(max(1, int(float(os.environ.get("TOKEN_SIDECAR_SOAK_MINUTES", "1"))))):
        main, others = idle_wakeups(daemon, 60)
        assert main <= 6
        assert all(count <= 64 for _, count in others.values()), others


# Python as others run it

IMPORT_ALL = """
import importlib, pkgutil, sidecar
for module in pkgutil.walk_packages(sidecar.__path__, "sidecar."):
    if "__main__" not in module.name:
        importlib.import_module(module.name)
from sidecar.errors import InstanceRunning, SidecarError
print(SidecarError.__doc__, InstanceRunning())
"""


def test_nothing_hangs_on_docstrings_or_assertions(
    daemon: Daemon, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `python -OO` it lives, dies and explains itself as ever: no message, no help, no check is lost."""
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")

    def said(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=40
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("-c", IMPORT_ALL) == "None Instance running\n"
    assert cli.COMMANDS["healthcheck"] in said("-m", "sidecar", "healthcheck", "--help")

    daemon.add(simulator)
    daemon.start()
    assert daemon.control.refresh("gmail").refreshed
    assert said("-m", "sidecar", "healthcheck", "live", "--config", str(daemon.path)) == "ok\n"
    simulator.provider.kill()
    with pytest.raises(HumanNeeded, match="the grant is dead"):
        daemon.control.refresh("gmail")
    assert daemon.stop() == 0
