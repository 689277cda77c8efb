"""What changes under a running daemon: its outputs, seeds, client credentials and its configuration."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.errors import ConfigError, SidecarError
from sidecar.testing import faults, fingerprint
from sidecar.tokens import GrantState
from tests.e2e.conftest import EAGER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeDaemon, MakeSimulator

SOON = 6.0
"""Seconds within which a change is noticed where the kernel tells: a step of one second, and a busy machine."""

TICK = 2.0
"""Seconds that stand for the half minute after which everything is looked at again."""


def write(path: Path, content: str) -> None:
    """Write a file for its owner alone, in place."""
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)


def seed_of(simulator: Simulator) -> tuple[str, str]:
    """Return a new refresh token as a seed's content, and its fingerprint."""
    seed = simulator.provider.new_grant()
    return json.dumps({"refresh_token": seed}), fingerprint(seed)


class Projected:
    """A Secret as kubelet mounts it: files are links through `..data`, which is swapped in one step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions = 0
        folder.mkdir()

    def put(self, **files: str) -> Path:
        """Bring another version of the Secret; members are files without their suffix."""
        self._versions += 1
        version = self._folder / f"..2026_{self._versions}"
        version.mkdir()
        for name, content in files.items():
            write(version / name, content)
            link = self._folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        fresh = self._folder / "..data_tmp"
        fresh.symlink_to(version.name)
        before = self._folder / "..data"
        old = before.resolve() if before.is_symlink() else None
        fresh.rename(before)
        if old is not None:
            for path in old.iterdir():
                path.unlink()
            old.rmdir()
        return self._folder


# Outputs


def overwrite(path: Path) -> None:
    """Put something else in its place, without replacing it."""
    path.write_bytes(b"\x00 not JSON")


def swap(path: Path) -> None:
    """Rename somebody's own file over it."""
    other = path.with_name("other")
    other.write_text('{"access_token": "sim-at-somebody-elses-token"}', encoding="ascii")
    other.rename(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "truncated": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, 40),
    "overwritten": overwrite,
    "replaced": swap,
    "chmod": lambda path: path.chmod(0o666),
}


@pytest.fixture(scope="module")
def damaged(
    make_daemon: MakeDaemon, make_simulator: MakeSimulator
) -> Iterator[tuple[Daemon, Simulator, dict[str, bytes]]]:
    """Give a daemon with one output for each kind of damage, which has just been done, and what they held."""
    daemon, simulator = make_daemon(), make_simulator()
    outputs = [{"file": str(daemon.out / name), "format": "gmail-sdk"} for name in DAMAGE]
    daemon.add(simulator, outputs=outputs)
    daemon.start()
    before = {name: (daemon.out / name).read_bytes() for name in DAMAGE}
    for name, do in DAMAGE.items():
        do(daemon.out / name)
    yield daemon, simulator, before
    assert daemon.stop() == 0


@pytest.mark.parametrize("damage", DAMAGE)
def test_outputs_are_repaired(damaged: tuple[Daemon, Simulator, dict[str, bytes]], damage: str) -> None:
    """Whatever is done to a file, it soon is what it was, with its mode, and the provider isn't asked for it."""
    daemon, simulator, before = damaged
    path = daemon.out / damage
    daemon.wait_until(
        lambda: (
            path.is_file() and path.read_bytes() == before[damage] and path.stat().st_mode & 0o777 == 0o640
        ),
        "it is repaired",
        patience=SOON,
    )
    assert daemon.answers("/readyz")
    assert len(simulator.provider.report().requests) == 1


# Seeds


def test_a_seed_that_comes_later(daemon: Daemon, simulator: Simulator) -> None:
    """Without a seed the daemon runs and says what to do; as soon as there is one it begins."""
    daemon.add(simulator)
    seed = daemon.folder / "gmail.seed"
    content = seed.read_text(encoding="utf-8")
    seed.unlink()
    daemon.start(probe="/livez")
    daemon.wait_until(lambda: daemon.status()["grant_state"] == GrantState.UNSEEDED, "its first turn is over")
    assert "token-sidecar seed gmail" in daemon.get("/startupz").text

    write(seed, content)

    daemon.wait_until(lambda: daemon.answers("/startupz"), "it is served", patience=SOON)
    assert daemon.status()["grant_state"] == GrantState.OK
    assert simulator.provider.is_live(daemon.published())


def test_a_seed_that_is_mended(daemon: Daemon, simulator: Simulator) -> None:
    """One that can't be used leaves the token unseeded with the reason, until it is mended."""
    daemon.add(simulator)
    seed = daemon.folder / "gmail.seed"
    content = seed.read_text(encoding="utf-8")
    write(seed, "")
    daemon.start(probe="/livez")

    write(seed, '{"refresh_token": ')
    daemon.wait_until(lambda: str(seed) in daemon.status()["reason"], "the reason is told", patience=SOON)
    assert daemon.status()["grant_state"] == GrantState.UNSEEDED

    write(seed, content)
    daemon.wait_until(lambda: daemon.answers("/startupz"), "it is served", patience=SOON)


def test_a_changed_seed_starts_a_new_lineage(daemon: Daemon, simulator: Simulator) -> None:
    """The new refresh token is used at once; the old one, should it come back, is never sent again."""
    daemon.add(simulator)
    seed = daemon.folder / "gmail.seed"
    old = seed.read_text(encoding="utf-8")
    daemon.start()
    before = daemon.status()
    content, name = seed_of(simulator)

    write(seed, content)

    daemon.wait_until(lambda: daemon.status()["lineage"] != before["lineage"], "a new lineage", patience=SOON)
    daemon.wait_until(lambda: daemon.status()["generation"] == 1, "it is refreshed")
    daemon.wait_until(lambda: fingerprint(daemon.published()) != before["fingerprint"], "it is published")
    after = daemon.status()
    assert [request.fingerprint for request in simulator.provider.report().requests][-1] == name

    write(seed, old)
    write(daemon.folder / "unrelated", "")
    turns = len(daemon.lines())
    daemon.wait_until(lambda: len(daemon.lines()) > turns, "it was looked at", patience=SOON)
    assert daemon.status()["lineage"] == after["lineage"]
    assert len(simulator.provider.report().requests) == 2
    assert simulator.provider.reused() == []


def test_a_secret_that_kubelet_swaps(daemon: Daemon, simulator: Simulator) -> None:
    """A swap of `..data` brings a new seed, and another one a new client secret."""
    seed = daemon.add(simulator)
    secret = simulator.provider.config.client_secret or ""
    mount = Projected(daemon.folder / "secret")
    folder = mount.put(seed=seed, client=secret)
    daemon.change(
        seed=str(folder / "seed"), client={"id": "sim-client", "secret_file": str(folder / "client")}
    )
    daemon.start()
    before = daemon.status()

    renewed = simulator.provider.new_grant()
    mount.put(seed=renewed, client=secret)

    daemon.wait_until(lambda: daemon.status()["lineage"] != before["lineage"], "a new lineage", patience=SOON)
    daemon.wait_until(lambda: daemon.status()["generation"] == 1, "it is refreshed")

    changed = "sim-cs-changed-at-the-provider"
    simulator.provider.reconfigure(client_secret=changed)
    with pytest.raises(SidecarError, match="misconfigured"):
        daemon.control.refresh("gmail")
    assert daemon.status()["grant_state"] == GrantState.MISCONFIGURED
    mount.put(seed=renewed, client=changed)

    daemon.wait_until(lambda: daemon.status()["grant_state"] == GrantState.OK, "it is well", patience=SOON)
    assert daemon.status()["generation"] == 2
    assert simulator.provider.reused() == []


# Client credentials


def test_a_changed_client_secret_is_tried_at_once_and_once(daemon: Daemon, simulator: Simulator) -> None:
    """After invalid_client a changed file causes one call, however long the back-off would last; not two."""
    daemon.add(simulator)
    secret = daemon.folder / "gmail.secret"
    write(secret, "sim-cs-the-first-wrong-one")
    daemon.start(probe="/livez")
    requests = simulator.provider.report
    daemon.wait_until(lambda: daemon.status()["next_wake"] is not None, "its turn is over")
    assert daemon.refreshes("misconfigured") == 1
    assert "invalid_client" in daemon.status()["reason"]
    assert daemon.status()["next_wake"] > time.time() + SOON

    write(secret, "sim-cs-the-second-wrong-one")
    daemon.wait_until(lambda: daemon.refreshes("misconfigured") == 2, "it is tried again", patience=SOON)
    daemon.wait_until(lambda: daemon.status()["next_wake"] > time.time() + SOON, "it waits")
    assert len(requests().requests) == 2

    write(secret, simulator.provider.config.client_secret or "")
    daemon.wait_until(lambda: daemon.answers("/startupz"), "it is served", patience=SOON)
    assert [request.outcome for request in requests().requests] == ["invalid_client"] * 2 + ["rotated"]


# Where the kernel tells nothing


def test_everything_is_noticed_without_notifications(daemon: Daemon, simulator: Simulator) -> None:
    """With no inotify to be had, it says so, and each kind of change is found by looking every now and then."""
    daemon.add(simulator)
    daemon.start("deaf", str(TICK))
    daemon.wait_until(lambda: "files are only polled" in daemon.text(), "it says so")
    before, path = daemon.status(), daemon.output()
    within = 2 * TICK + SOON

    published = path.read_bytes()
    overwrite(path)
    daemon.wait_until(lambda: path.read_bytes() == published, "the output is repaired", patience=within)

    write(daemon.folder / "gmail.seed", seed_of(simulator)[0])
    daemon.wait_until(
        lambda: daemon.status()["lineage"] != before["lineage"], "a new lineage", patience=within
    )

    daemon.change(required=False)
    daemon.write_config()
    daemon.wait_until(lambda: daemon.lines(changed=["gmail"]), "it is read again", patience=within)
    assert daemon.answers("/livez")


# The configuration


class Kept:
    """What must not change of tokens that nobody touched."""

    def __init__(self, daemon: Daemon, simulator: Simulator, *names: str) -> None:
        self._daemon = daemon
        self._simulator = simulator
        self._names = names
        self._before = self._look()

    def _look(self) -> Any:
        stats = [self._daemon.output(name).stat() for name in self._names]
        states = [self._daemon.status(name) for name in self._names]
        calls = len(self._simulator.provider.report().requests)
        return (
            calls,
            [(stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats],
            [(state["lineage"], state["generation"], round(state["next_wake"], 3)) for state in states],
        )

    def check(self) -> None:
        """Assert that files, records and schedule are the same, and that nobody called their provider."""
        assert self._look() == self._before


def config_state(daemon: Daemon) -> dict[str, Any]:
    """Return what the status document tells of the configuration."""
    found: dict[str, Any] = json.loads(daemon.get("/status").text)["config"]
    return found


def gauge_is(daemon: Daemon, value: int) -> None:
    """Wait until the gauge tells how the last reload went."""
    daemon.wait_until(
        lambda: daemon.metric("config_last_reload_successful") == value, "it is read again", patience=SOON
    )


def test_only_changed_tokens_are_touched(daemon: Daemon, make_simulator: MakeSimulator) -> None:
    """One changed, one added, one removed: the others keep file, schedule and their provider's peace."""
    ours, theirs = make_simulator(), make_simulator()
    daemon.add(ours, "kept")
    daemon.add(ours, "kept-too")
    daemon.add(theirs, "changed")
    daemon.add(theirs, "removed")
    daemon.start()
    pid, kept = daemon.pid, Kept(daemon, ours, "kept", "kept-too")
    lineage = daemon.status("changed")["lineage"]

    daemon.add(theirs, "added")
    second = str(daemon.out / "second.json")
    daemon.change("changed", outputs=[{"file": second, "format": "json"}], min_validity="700s")
    removed = daemon.config["tokens"].pop("removed")
    daemon.write_config()

    daemon.wait_until(lambda: daemon.answers("/readyz/added"), "the new one is served", patience=SOON)
    assert config_state(daemon)["accepted"]
    daemon.wait_until(lambda: Path(second).exists(), "the new output is there")
    assert (daemon.status("changed")["lineage"], daemon.status("changed")["min_validity"]) == (lineage, 700)
    assert daemon.metric("min_validity_seconds", token="changed") == 700
    assert daemon.get("/readyz/removed").status == 404
    assert 'token="removed"' not in daemon.get("/metrics").text
    assert daemon.lines(changed=["added", "changed", "removed"])
    # What the new one needed: its seed's first use. A new output takes no call.
    assert len(theirs.provider.report().requests) == 3
    kept.check()

    daemon.config["tokens"]["removed"] = removed
    daemon.write_config()
    daemon.control.reload()
    daemon.wait_until(lambda: daemon.answers("/readyz/removed"), "it is back")
    assert len(theirs.provider.report().requests) == 3
    kept.check()
    assert daemon.pid == pid


def test_a_call_under_way_survives_a_reload(daemon: Daemon, simulator: Simulator) -> None:
    """A token is changed while its answer is awaited: the answer is committed, and published as it is now wanted."""
    daemon.add(simulator, **EAGER)
    simulator.provider.add_fault(faults.latency(after=2, skip=1))
    daemon.start()
    assert simulator.provider.wait_until(lambda: simulator.provider.report().in_flight == 1)

    elsewhere = daemon.out / "elsewhere"
    daemon.change(refresh_at=None, min_interval=None, outputs=[{"file": str(elsewhere), "format": "raw"}])
    daemon.write_config()
    daemon.control.reload()
    assert simulator.provider.report().in_flight == 1

    daemon.wait_until(lambda: daemon.stored().generation == 2, "the answer is committed")
    daemon.wait_until(elsewhere.exists, "the new output is there")
    daemon.wait_until(
        lambda: daemon.status()["outputs"][0]["output"] == f"file:{elsewhere}", "it is in force"
    )
    assert daemon.status()["fingerprint"] == fingerprint(elsewhere.read_text(encoding="ascii"))
    assert simulator.provider.reused() == []
    assert len(simulator.provider.report().requests) == 2


def test_a_token_removed_under_way_keeps_its_answer(daemon: Daemon, simulator: Simulator) -> None:
    """It leaves the configuration during its call: the pair is in the store all the same, for when it comes back."""
    daemon.add(simulator, "kept")
    daemon.add(simulator, "leaves", **EAGER)
    daemon.start()
    simulator.provider.add_fault(faults.latency(after=2))
    assert simulator.provider.wait_until(lambda: simulator.provider.report().in_flight == 1)
    generation = daemon.stored("leaves").generation

    leaves = daemon.config["tokens"].pop("leaves")
    daemon.write_config()
    daemon.control.reload()
    assert simulator.provider.report().in_flight == 1

    daemon.wait_until(lambda: daemon.stored("leaves").generation == generation + 1, "it is committed")
    assert daemon.stored("leaves").attempt is None

    daemon.config["tokens"]["leaves"] = leaves
    daemon.write_config()
    daemon.control.reload()
    daemon.wait_until(lambda: daemon.stored("leaves").generation > generation + 1, "it goes on")
    assert simulator.provider.reused() == []
    assert daemon.stop() == 0


@pytest.fixture(scope="module")
def steady(make_daemon: MakeDaemon, make_simulator: MakeSimulator) -> Iterator[tuple[Daemon, Simulator]]:
    """Give a daemon whose token is fresh for an hour."""
    daemon, simulator = make_daemon(), make_simulator()
    daemon.add(simulator)
    daemon.start()
    yield daemon, simulator
    assert daemon.stop() == 0


def with_keys(config: dict[str, Any]) -> None:
    """Give the same store a key."""
    key = Path(config["state_dir"]).with_name("store.key")
    key.write_text(secrets.token_hex(32), encoding="ascii")
    config["store"] = {"url": config["store"], "encryption_keys": [str(key)]}


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown-key": (lambda config: config.update(tokenz={}), "tokenz"),
    "no-token": (lambda config: config.update(tokens={}), "tokens"),
    "store": (lambda config: config.update(store="memory:"), "store: changes only at a restart"),
    "keys": (with_keys, "store: changes only at a restart"),
    "port": (lambda config: config.update(server={"port": 1}), "server: changes only at a restart"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_applied_is_refused(steady: tuple[Daemon, Simulator], name: str) -> None:
    """The reason is in log, status and the control socket's answer; the old one is in force; a mend is accepted."""
    daemon, simulator = steady
    kept, good = Kept(daemon, simulator, "gmail"), daemon.config
    change, reason = REFUSED[name]
    daemon.config = json.loads(json.dumps(good))
    change(daemon.config)
    try:
        daemon.write_config()
        with pytest.raises(ConfigError, match=reason):
            daemon.control.reload()
    finally:
        daemon.config = good

    gauge_is(daemon, 0)
    refused = config_state(daemon)
    assert not refused["accepted"]
    assert reason in "\n".join(refused["problems"])
    told = [line for line in daemon.lines(level="error") if "was refused" in line["event"]]
    assert reason in "\n".join(told[-1]["problems"])
    assert daemon.answers("/readyz")

    daemon.write_config()
    daemon.control.reload()
    gauge_is(daemon, 1)
    assert config_state(daemon)["accepted"]
    kept.check()


def test_half_a_configuration_is_refused(steady: tuple[Daemon, Simulator]) -> None:
    """A file that is being written, or was cut, changes nothing; the watcher finds it, and the mended one."""
    daemon, simulator = steady
    kept, whole = Kept(daemon, simulator, "gmail"), daemon.path.read_text(encoding="utf-8")
    write(daemon.path, whole[: len(whole) // 2])
    gauge_is(daemon, 0)
    write(daemon.path, whole)
    gauge_is(daemon, 1)
    kept.check()


def test_sighup_reads_the_configuration_again(daemon: Daemon, simulator: Simulator) -> None:
    """At once, where the kernel tells nothing and nobody looks."""
    daemon.add(simulator)
    daemon.start("deaf", "30")
    daemon.change(min_validity="900s")
    daemon.write_config()

    daemon.signal(signal.SIGHUP)

    daemon.wait_until(lambda: daemon.status()["min_validity"] == 900, "it is in force", patience=SOON)
    assert daemon.answers("/readyz")
