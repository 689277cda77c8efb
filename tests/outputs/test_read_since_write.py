"""Whether somebody has read what was written: on real mounts, by a reader of another user."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar import files
from sidecar.config.settings import FileMode
from sidecar.ports import Publication
from tests.outputs.conftest import HandClock, Place

Make = Callable[..., Publication]

NOBODY = 65534
TELLING = ("relatime", "strictatime", "relatime,lazytime", "relatime,nodiratime")
"""Options of mounts on which a read can be told."""
SILENT = ("noatime",)
MODE = FileMode(0o644)


class Volumes:
    """File systems in memory, each mounted with other options, and each once more for readers only.

    They are seen from here by way of the process in whose namespace they are.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def place(self, options: str, state_dir: Path) -> Place:
        """Make a directory for an output."""
        return Place(Path(f"/proc/{self._process.pid}/root{_mounted(options)}"), state_dir, HandClock())

    def read(self, options: str, *, read_only: bool = False) -> None:
        """Have the application read its file, as another user, in a container of its own."""
        inside = ("nsenter", "--target", str(self._process.pid), "--mount")
        somebody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        file = f"{_mounted(options)}{'.view' if read_only else ''}/token.json"
        done = subprocess.run([*inside, *somebody, "cat", file], capture_output=True, timeout=60, check=True)
        assert done.stdout


def _mounted(options: str) -> str:
    return f"/mnt/{options}"


@pytest.fixture(scope="module")
def volumes() -> Iterator[Volumes]:
    """Mount them."""
    programs = ("unshare", "nsenter", "setpriv", "mount")
    if os.geteuid() != 0 or not all(map(shutil.which, programs)):
        pytest.skip("mounting takes root's powers, and util-linux")
    steps = ["set -e", "mount -t tmpfs -o mode=755 tmpfs /mnt"]
    for options in (*TELLING, *SILENT):
        volume, view = _mounted(options), f"{_mounted(options)}.view"
        atime = options.partition(",")[0]
        steps += [f"mkdir {volume} {view}", f"mount -t tmpfs -o {options},mode=755 tmpfs {volume}"]
        steps += [f"mount --bind {volume} {view}", f"mount -o remount,bind,ro,{atime} {view}"]
    steps += ["echo mounted", "exec cat"]
    private = ("unshare", "--mount", "--propagation=private", "sh", "-c", "\n".join(steps))
    with subprocess.Popen(private, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"mounted\n":
            pytest.skip("this user may not mount anything, not even in a namespace of its own")
        yield Volumes(process)
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def somebody_else() -> Iterator[None]:
    """Be neither the owner of the file nor one with root's powers over it."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("options", TELLING)
def test_a_read_is_told_until_the_next_write(
    volumes: Volumes, tmp_path: Path, make: Make, options: str
) -> None:
    """Unknown until somebody has ever read it; then yes, no after each write, and yes again once it is read."""
    place = volumes.place(options, tmp_path)
    output = place.open(mode=MODE)
    place.publish(output, make(1))
    told = [place.read_back(output).read_since_write]
    for generation in (2, 3):
        volumes.read(options)
        told.append(place.read_back(output).read_since_write)
        place.publish(output, make(generation))
        told.append(place.read_back(output).read_since_write)
    assert told == [None, True, False, True, False]


@pytest.mark.parametrize("options", TELLING)
def test_our_own_looks_are_no_reads(volumes: Volumes, tmp_path: Path, make: Make, options: str) -> None:
    """Publishing again, reading back, repairing the mode and a restart are none of the application's doing."""
    place = volumes.place(options, tmp_path)
    output = place.open(mode=MODE)
    place.publish(output, make(1))
    volumes.read(options)
    place.publish(output, make(2))
    for _ in range(3):
        assert place.read_back(place.open(mode=MODE)).read_since_write is False
    place.publish(output, make(2))
    place.file.chmod(0o600)
    place.publish(output, make(2))
    assert place.read_back(output).read_since_write is False


@pytest.mark.parametrize("options", SILENT)
def test_a_mount_without_access_times_can_t_tell(
    volumes: Volumes, tmp_path: Path, make: Make, options: str
) -> None:
    """Nobody is accused of not reading where no read leaves a trace."""
    place = volumes.place(options, tmp_path)
    output = place.open(mode=MODE)
    for generation in (1, 2):
        place.publish(output, make(generation))
        volumes.read(options)
        assert place.read_back(output).read_since_write is None


@pytest.mark.parametrize("options", TELLING)
def test_a_read_only_mount_can_t_tell(volumes: Volumes, tmp_path: Path, make: Make, options: str) -> None:
    """Reading through one changes no access time, so that nothing is said of who reads by that way alone."""
    place = volumes.place(options, tmp_path)
    output = place.open(mode=MODE)
    for generation in (1, 2):
        place.publish(output, make(generation))
        volumes.read(options, read_only=True)
        assert place.read_back(output).read_since_write is None


def test_that_there_is_a_reader_survives_a_restart(volumes: Volumes, tmp_path: Path, make: Make) -> None:
    """Also when the read was found at the next publication only; and the output's withdrawal takes it away."""
    place = volumes.place("relatime", tmp_path)
    output = place.open(mode=MODE)
    place.publish(output, make(1))
    volumes.read("relatime")
    place.publish(output, make(2))
    again = place.open(mode=MODE)
    assert place.read_back(again).read_since_write is False
    again.withdraw()
    place.publish(again, make(3))
    assert place.read_back(place.open(mode=MODE)).read_since_write is None


def test_a_read_in_the_moment_of_the_write_is_told(place: Place, make: Make) -> None:
    """Whoever is woken by the write reads within the kernel's tick that the file was written in."""
    output = place.open()
    for generation in range(1, 30):
        place.publish(output, make(generation))
        place.file.read_bytes()
        assert place.read_back(output).read_since_write is True


def test_a_read_of_a_file_that_is_known_by_heart_is_told(
    place: Place, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A content that has settled isn't read back again, and its access time is looked at all the same."""
    monkeypatch.setattr(files, "SETTLE_NS", -(10**12))
    output = place.open()
    place.publish(output, make(1))
    assert place.read_back(output).read_since_write is None
    place.file.read_bytes()
    assert place.read_back(output).read_since_write is True


def test_a_read_by_a_clock_that_was_set_back_is_told(place: Place, make: Make) -> None:
    """The time that a read leaves may be before that of the write."""
    output = place.open()
    place.publish(output, make(1))
    written = place.file.stat().st_mtime_ns
    os.utime(place.file, ns=(written - 3600 * 10**9, written))
    assert place.read_back(output).read_since_write is True


def test_of_what_is_not_ours_nothing_is_told(place: Place, make: Make) -> None:
    """An absent file has no readers, and what an application wrote itself it need not read."""
    output = place.open(format="json")
    place.publish(output, make(1))
    place.file.read_bytes()
    assert place.read_back(output).read_since_write is True
    place.file.write_text('{"access_token": "sim-at-0123456789abcdef0123"}')
    assert place.read_back(output).read_since_write is None
    place.file.unlink()
    assert place.read_back(output).read_since_write is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_look_that_leaves_a_trace_itself_tells_nothing(place: Place, make: Make) -> None:
    """A daemon that gave the file to another user may not be allowed to look without one, and would find its own."""
    place.publish(place.open(mode=MODE), make(1))
    place.file.read_bytes()
    output = place.open(mode=MODE)
    with somebody_else():
        holding = place.read_back(output)
    assert (holding.lineage, holding.read_since_write) == (make(1).lineage, None)
    assert place.read_back(place.open(mode=MODE)).read_since_write is True
