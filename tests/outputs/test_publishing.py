from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar import files
from sidecar.config.settings import FileMode
from sidecar.errors import ConfigError, OutputError
from sidecar.ports import Publication

if TYPE_CHECKING:
    from tests.outputs.conftest import Place

Make = Callable[..., Publication]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


def identity(path: Path) -> tuple[int, int, int]:
    """Tell one writing of a file from another."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


async def test_a_token_is_published(place: Place, make: Make) -> None:
    """The file holds the token in its format and with its mode, and nothing else is left in the directory."""
    output = place.open()
    assert output.id == f"file:{place.file}"
    assert (output.required, output.adopt) == (True, False)
    assert await output.publish(make())
    assert json.loads(place.file.read_bytes())["access_token"] == make().access.value
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o640
    assert place.leftovers() == []


def test_unchanged_content_is_not_rewritten(place: Place, make: Make) -> None:
    """The same token again touches neither the inode nor its times, in this run and after a restart."""
    output = place.open()
    place.publish(output, make())
    before = identity(place.file)
    assert not place.publish(output, make())
    assert not place.publish(place.open(), make())
    assert identity(place.file) == before


def test_only_the_generation_moved(place: Place, make: Make) -> None:
    """A provider that gave the same token again changes the index and not the file."""
    output = place.open()
    place.publish(output, make())
    before = identity(place.file)
    again = Publication(
        token="gmail", access=make().access, refresh=None, lineage="b" * 32, generation=2, scopes=()
    )
    assert not place.publish(output, again)
    assert identity(place.file) == before
    assert place.read_back(place.open()).lineage == "b" * 32


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o644, 0o666, 0o000])
def test_mode_is_repaired_in_place(place: Place, make: Make, mode: int) -> None:
    """A mode that somebody changed is set back without a new file."""
    output = place.open()
    place.publish(output, make())
    place.file.chmod(mode)
    inode = place.file.stat().st_ino
    assert place.read_back(output).problem == f"has mode {mode:04o} instead of 0640"
    assert place.publish(output, make())
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o640
    assert place.file.stat().st_ino == inode
    assert place.read_back(output).problem is None


def test_the_umask_has_no_say(place: Place, make: Make) -> None:
    """The configured mode is the mode, whatever umask the daemon was started with."""
    before = os.umask(0o077)
    try:
        place.publish(place.open(mode=FileMode(0o664)), make())
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o664


@as_root
@pytest.mark.parametrize(
    ("owner", "group", "uid", "gid"),
    [(65534, 2000, 65534, 2000), ("1234", None, 1234, 0), (None, "2000", 0, 2000), ("root", "root", 0, 0)],
)
def test_owner_and_group_are_set_and_repaired(
    place: Place, make: Make, owner: str | int | None, group: str | int | None, uid: int, gid: int
) -> None:
    """Names and numbers are honoured; what somebody changed is set back."""
    output = place.open(owner=owner, group=group)
    place.publish(output, make())
    assert (place.file.stat().st_uid, place.file.stat().st_gid) == (uid, gid)
    os.chown(place.file, 4321, 4321)
    if owner is not None:
        assert "belongs to 4321:4321 instead of" in (place.read_back(output).problem or "")
    assert place.publish(output, make())
    assert owner is None or place.file.stat().st_uid == uid
    assert group is None or place.file.stat().st_gid == gid


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"group": "no-such-group-here"}, "there is no group `no-such-group-here` on this system; give the"),
        ({"owner": "no-such-user-here"}, "there is no owner `no-such-user-here` on this system; give the"),
        ({"owner": -1}, "-1 is no possible owner"),
        ({"group": 2**32 - 1}, "4294967295 is no possible group"),
    ],
)
def test_an_owner_that_does_not_exist(place: Place, make: Make, options: dict[str, str], why: str) -> None:
    """A name that nobody has is an error with a remedy and leaves no file behind."""
    with pytest.raises(OutputError, match=why):
        place.publish(place.open(**options), make())
    assert not place.file.exists()


def test_contradictions_are_found_when_opening(place: Place) -> None:
    """An output that can't work is refused before anything runs."""
    with pytest.raises(ConfigError, match="adopt: needs"):
        place.open(adopt=True)


def test_a_token_that_its_format_cannot_carry(place: Place, make: Make) -> None:
    """The message names output and format, not the token, and the old token stays."""
    output = place.open(format="raw")
    place.publish(output, make())
    with pytest.raises(OutputError, match=r"token\.json: cannot be written as `raw`") as refused:
        place.publish(output, make(value="sim-at-with\nnewline-0123"))
    assert "sim-at" not in str(refused.value)
    assert place.file.read_text(encoding="ascii") == make().access.value


def test_a_symbolic_link_is_replaced_and_never_followed(place: Place, make: Make) -> None:
    """A planted link gets no token written through it, and is told of until it is gone."""
    victim = place.folder.parent / "victim"
    victim.write_text("precious", encoding="utf-8")
    place.file.symlink_to(victim)
    output = place.open()
    assert "symbolic link" in (place.read_back(output).problem or "")
    place.publish(output, make())
    assert victim.read_text(encoding="utf-8") == "precious"
    assert not place.file.is_symlink()
    assert place.read_back(output).problem is None


def test_a_link_planted_as_temporary_file_is_not_followed(
    place: Place, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even an attacker who guesses the random name gets nothing written through a link."""
    victim = place.folder.parent / "victim"
    victim.write_text("precious", encoding="utf-8")
    monkeypatch.setattr(files, "_temporary_name", lambda _: ".guessed")
    (place.folder / ".guessed").symlink_to(victim)
    with pytest.raises(OutputError):
        place.publish(place.open(), make())
    assert victim.read_text(encoding="utf-8") == "precious"


def test_the_directory_may_be_a_link(place: Place, make: Make) -> None:
    """Only the file itself is never followed: `/var/run` and Kubernetes' `..data` are links."""
    (place.folder.parent / "link").symlink_to(place.folder)
    output = place.open(file=place.folder.parent / "link" / "token.json")
    place.publish(output, make())
    assert place.file.is_file()
    assert place.read_back(output).lineage == "a" * 32


def test_a_hard_link_elsewhere_keeps_the_old_token(place: Place, make: Make) -> None:
    """Replacing never writes into an inode that somebody else may have linked to."""
    output = place.open()
    place.publish(output, make(1))
    os.link(place.file, place.folder.parent / "kept")
    place.publish(output, make(2))
    assert make(1).access.value in (place.folder.parent / "kept").read_text(encoding="ascii")


def test_leftovers_of_a_killed_writer_are_swept(place: Place, make: Make) -> None:
    """Old temporaries of this output go at start; young ones, other outputs' and strangers' files stay."""
    own = f".{place.file.name}.0123456789abcdef.tmp"
    young = f".{place.file.name}.fedcba9876543210.tmp"
    others = [
        ".other.json.0123456789abcdef.tmp",
        f".{place.file.name}.swp",
        ".token.json.0123.tmp",
        "notes.tmp",
    ]
    for name in [own, young, *others]:
        (place.folder / name).write_text("sim-at-leftover-0123456789", encoding="ascii")
        if name != young:
            os.utime(place.folder / name, (1, 1))
    output = place.open()
    assert place.leftovers() == sorted([young, *others])
    os.utime(place.folder / young, (time.time() - 6, time.time() - 6))
    place.publish(output, make())
    assert place.leftovers() == sorted(others)


def test_a_name_of_the_greatest_length(place: Place, make: Make) -> None:
    """The temporary name is cut to fit, and its leftovers are still recognised."""
    output = place.open(file=place.folder / ("n" * 255))
    assert place.publish(output, make())
    assert place.leftovers() == ["n" * 255]


def test_require_tmpfs(place: Place, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token isn't written to a disk when that was ruled out."""
    output = place.open(require_tmpfs=True)
    monkeypatch.setattr("sidecar.outputs.file.on_tmpfs", lambda _: False)
    with pytest.raises(OutputError, match="is not on a tmpfs, and `require_tmpfs` is set; mount one"):
        place.publish(output, make())
    assert place.leftovers() == []
    monkeypatch.setattr("sidecar.outputs.file.on_tmpfs", lambda _: True)
    assert place.publish(output, make())


def test_tmpfs_is_told_from_other_file_systems() -> None:
    """Shared memory is one; /proc is not."""
    assert files.on_tmpfs(Path("/dev/shm"))  # noqa: S108 - nothing is written there
    assert not files.on_tmpfs(Path("/proc"))


def test_nothing_is_written_outside_its_directories(place: Place, make: Make) -> None:
    """The index is private, and neither it nor its name holds a secret."""
    place.publish(place.open(), make())
    (index,) = (place.state_dir / "outputs").iterdir()
    assert stat.S_IMODE(place.state_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(index.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
    assert b"sim-" not in index.read_bytes()


def test_a_device_that_no_mount_names_is_no_tmpfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems have devices that the mount table doesn't know; those are not memory."""
    monkeypatch.setattr(os, "major", lambda _: 4095)
    assert not files.on_tmpfs(Path("/"))


@pytest.mark.parametrize("raced", [FileNotFoundError, PermissionError])
def test_a_leftover_that_cannot_be_removed(
    place: Place, make: Make, monkeypatch: pytest.MonkeyPatch, raced: type[OSError]
) -> None:
    """Somebody else swept it first, or it is another user's: neither stops the output."""
    leftover = place.folder / f".{place.file.name}.0123456789abcdef.tmp"
    leftover.touch()
    os.utime(leftover, (1, 1))

    def fail(_: Path) -> None:
        raise raced

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fail)
        output = place.open()
        assert place.publish(output, make())


def test_a_file_that_changes_while_its_mode_is_repaired(
    place: Place, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was judged is not what is there any more, so it is replaced instead."""
    output = place.open()
    place.publish(output, make())
    inode = place.file.stat().st_ino

    def meddle(*_: object, **__: object) -> bool:
        place.file.write_bytes(b"{}")
        return True

    with monkeypatch.context() as patched:
        patched.setattr("sidecar.outputs.file.differs", meddle)
        assert place.publish(output, make())
    assert place.file.stat().st_ino != inode
    assert place.read_back(output).problem is None


@pytest.mark.parametrize("step", ["fchmod", "open"])
def test_a_mode_that_cannot_be_set_in_place(
    place: Place, make: Make, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The file is replaced instead: it is another user's, or can't be opened."""
    output = place.open()
    place.publish(output, make())
    place.file.chmod(0o604)
    inode = place.file.stat().st_ino
    real = getattr(os, step)
    calls = []

    def once(*arguments: Any, **named: Any) -> Any:
        if step == "fchmod" or (named.get("dir_fd") is not None and arguments[0] == place.file.name):
            calls.append(step)
            if len(calls) == 1:
                raise PermissionError
        return real(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, step, once)
        assert place.publish(output, make())
    assert place.file.stat().st_ino != inode
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o640
