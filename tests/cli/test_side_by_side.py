"""Several processes around one grant: a daemon that comes, a command that is there, a console that was killed."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest
import yaml

from sidecar import config as configuration
from sidecar import rotation
from sidecar.deputy import Deputy
from sidecar.escrow import Escrow
from sidecar.testing import faults
from sidecar.tokens import fingerprint
from tests.cli.conftest import START, Place
from tests.cli.test_console import Running
from tests.cli.test_sets import until


@pytest.fixture
def console(place: Place) -> Callable[[], Running]:
    """Start a console on any port, with a seeded token."""
    place.token["provider"] |= {"authorization_url": f"{place.simulator.url}/authorize"}
    place.document["console"] = {"port": 0}
    place.write()
    place.ok("seed", "gmail", "--file", str(place.new_seed()))
    return lambda: Running(place)


def stages(place: Place) -> bytes:
    """Say how far each attempt in escrow came, a letter for each."""
    return b"".join(path.read_bytes()[:1] for path in (place.root / "state" / "escrow").glob("*.escrow"))


def killed_with_an_answer(place: Place) -> None:
    """Kill a refresh that has caught its answer, and cannot store it."""
    place.provider.add_fault(faults.latency(after=1.0))
    command = place.begin("refresh", "gmail", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: stages(place) == b"S")
    with closing(sqlite3.connect(place.root / "tokens.db", isolation_level=None)) as store:
        store.execute("BEGIN IMMEDIATE")
        until(lambda: stages(place) == b"R")
        command.send_signal(signal.SIGKILL)
        command.wait(20)
        store.execute("ROLLBACK")


@pytest.mark.parametrize("while_it_runs", [False, True], ids=["at its start", "while it runs"])
def test_a_console_brings_home_what_was_caught(
    console: Callable[[], Running], place: Place, *, while_it_runs: bool
) -> None:
    """An answer that a killed process left in escrow gets into the store without a human, and with no call."""
    running = console() if while_it_runs else None
    killed_with_an_answer(place)
    running = running or console()
    try:
        until(lambda: stages(place) == b"")
        shown = json.loads(place.run("status", "--json").stdout)["tokens"]["gmail"]
        assert (shown["grant_state"], shown["generation"]) == ("ok", 1)
        assert place.calls() == 1
    finally:
        code = running.stop()
    assert code == 0
    assert "gmail: what was caught here before is in the store now" in running.told


def test_what_is_nobodys_is_told_once_and_left(seeded: Place) -> None:
    """An answer for a token that isn't configured stays where it is, keeps nobody from ending, and fills no log."""
    escrow = Escrow(seeded.root / "state" / "escrow")
    record = rotation.intended(rotation.begun("client", "https://provider.example"), "instance", 0.0)
    assert record.attempt is not None
    escrow.prepare()
    escrow.arm("default/stranger", record, record.attempt).sent()
    told: list[str] = []

    async def recover() -> None:
        stopping = anyio.Event()
        stopping.set()
        deputy = Deputy(configuration.load(seeded.config))
        for _ in range(2):
            await deputy.recover(stopping, told.append)

    anyio.run(recover)
    assert told == ["an answer for default/stranger is kept here, but no such token is configured"]
    assert stages(seeded) == b"S"


def test_a_daemon_waits_for_a_command(seeded: Place) -> None:
    """A daemon that is started while a command has its state_dir begins when that is over, and says so meanwhile."""
    seeded.provider.add_fault(faults.latency(after=4.0))
    command = seeded.begin("refresh", "gmail", stdout=subprocess.DEVNULL)
    until(lambda: stages(seeded) == b"S")
    with seeded.daemon():
        assert command.wait(20) == 0
    log = (seeded.root / "log").read_text(encoding="utf-8")
    assert "waiting: " in log
    assert "another token-sidecar is running on this state_dir" in log
    assert seeded.calls() == 1


def elsewhere(place: Place) -> Path:
    """Write the same configuration for another state_dir."""
    path = place.root / "elsewhere.yaml"
    document = place.document | {"state_dir": str(place.root / "elsewhere")}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("daemon", [False, True], ids=["by itself", "through a daemon"])
def test_a_refresh_waits_for_another_daemons(seeded: Place, *, daemon: bool) -> None:
    """Who asks for a refresh while another daemon is at it gets what that one brings, and is told so."""
    other = elsewhere(seeded)
    seeded.ok("refresh", "gmail")
    waiting = seeded.begin("run", "-c", str(other), stderr=subprocess.DEVNULL) if daemon else None
    try:
        if daemon:
            seeded.ok("healthcheck", "startup", "--wait", START, "-c", str(other))
        seeded.provider.add_fault(faults.latency(after=4.0))
        first = seeded.begin("refresh", "gmail", stdout=subprocess.DEVNULL)
        until(lambda: stages(seeded) == b"S")
        reply = json.loads(seeded.ok("refresh", "gmail", "--json", "-c", str(other)))
        assert first.wait(20) == 0
    finally:
        if waiting is not None:
            waiting.terminate()
            waiting.wait(20)
    assert reply["refreshed"] is False
    assert "was replaced already" in reply["message"]
    assert seeded.calls() == 2


def test_a_deed_is_written_down_once(place: Place) -> None:
    """A command that works without a daemon leaves one line for what it did, under the user's id."""
    audit = place.root / "audit.jsonl"
    place.document["audit"] = {"file": str(audit)}
    place.write()
    place.ok("seed", "gmail", "--file", str(place.new_seed()))
    place.ok("refresh", "gmail")
    exported = place.ok("export", "gmail", "--format", "raw")
    lines = [json.loads(line) for line in audit.read_text(encoding="utf-8").splitlines()]
    *lines, export = lines
    assert (export["what"], export["fingerprint"]) == ("export", fingerprint(exported.strip()))
    rotation = lines.pop(1)
    assert (rotation["who"], rotation["what"], rotation["generation"]) == ("token-sidecar", "rotation", 1)
    assert [(line["what"], line["outcome"]) for line in lines] == [("seed", "done"), ("refresh", "done")]
    assert all(line["who"].startswith("uid ") for line in lines)
