from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.errors import OutputError
from sidecar.ports import Publication

if TYPE_CHECKING:
    from tests.outputs.conftest import Place

Make = Callable[..., Publication]

# Where tests run in parallel their worker has a thread; the children only touch files and exit.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

STEPS = ("open", "write", "fchmod", "fchown", "close", "replace")
"""Every call by which a publication touches the file system."""


def mount(*arguments: str) -> None:
    """Mount something, or skip where that isn't allowed."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode != 0:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")


@pytest.fixture
def tiny(place: Place) -> Iterator[Place]:
    """Turn the output's directory into a tmpfs of its own with room for a few pages."""
    mount("-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place.folder))
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place.folder)], check=True)  # noqa: S607


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOENT, "does not exist; create it, or mount the volume there"),
        (errno.ENOTDIR, "is not a directory; correct the path"),
        (errno.EACCES, "may not create files in .*; let it own the directory, or set the pod's fsGroup"),
        (errno.EPERM, "run it as that owner or as a member of that group"),
        (errno.EROFS, "is mounted read-only; mount it writable for the daemon"),
        (errno.ENOSPC, "no space is left in .*; raise the volume's size"),
        (errno.EDQUOT, "the disk quota for .* is used up; raise it or free some"),
        (
            errno.EBUSY,
            "is a mount point .*; mount its directory instead|cannot be replaced; mount its directory",
        ),
        (errno.EISDIR, "a directory of that name is in the way; remove it"),
        (errno.ENAMETOOLONG, "the name is too long; choose a shorter one"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("step", STEPS)
def test_any_fault_at_any_step(
    place: Place, make: Make, monkeypatch: pytest.MonkeyPatch, step: str, code: int, remedy: str
) -> None:
    """The error names the remedy, the old token stays, no temporary is left, and the next try succeeds."""
    output = place.open(group=os.getegid())
    place.publish(output, make(1))
    right = place.file.read_bytes()
    real = getattr(os, step)

    def faulty(*arguments: Any, **named: Any) -> Any:
        if step == "close":
            real(*arguments, **named)
        if step != "open" or arguments[1] & os.O_CREAT:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **named)

    with monkeypatch.context() as patched:
        if step == "fchown":
            patched.setattr("sidecar.files.differs", lambda *_, **__: True)
        patched.setattr(f"sidecar.files.os.{step}", faulty)
        with pytest.raises(OutputError, match=remedy) as refused:
            place.publish(output, make(2))
    assert "sim-" not in str(refused.value)
    assert str(refused.value).startswith(f"file:{place.file}: ")
    assert place.file.read_bytes() == right
    assert place.leftovers() == []
    assert place.read_back(output).lineage == "a" * 32
    assert place.publish(output, make(2))


def test_a_full_volume(tiny: Place, make: Make) -> None:
    """A tmpfs that can't hold old and new at once keeps the old one, and works again once there is room."""
    output = tiny.open()
    tiny.publish(output, make(1))
    right = tiny.file.read_bytes()
    ballast = tiny.folder / "ballast"
    with ballast.open("wb", buffering=0) as filling, suppress(OSError):
        while filling.write(b"x" * 4096):
            pass
    with pytest.raises(OutputError, match=r"no space is left in .*; raise the volume's size"):
        tiny.publish(output, make(2))
    assert tiny.file.read_bytes() == right
    assert tiny.leftovers() == ["ballast"]
    ballast.unlink()
    assert tiny.publish(output, make(2))


def test_a_read_only_mount(tiny: Place, make: Make) -> None:
    """The application's read-only mount, given to the daemon by mistake."""
    output = tiny.open()
    tiny.publish(output, make(1))
    right = tiny.file.read_bytes()
    mount("-o", "remount,ro", str(tiny.folder))
    with pytest.raises(OutputError, match="is mounted read-only; mount it writable for the daemon"):
        tiny.publish(output, make(2))
    assert tiny.file.read_bytes() == right
    assert not tiny.publish(output, make(1))


def test_a_single_file_mounted_over(place: Place, make: Make) -> None:
    """A subPath can't be replaced: the message says to mount the directory."""
    source = place.folder.parent / "source"
    source.write_text("{}", encoding="ascii")
    place.file.touch()
    mount("--bind", str(source), str(place.file))
    try:
        with pytest.raises(OutputError, match="mount its directory instead"):
            place.publish(place.open(), make())
        assert source.read_text(encoding="ascii") == "{}"
        assert place.leftovers() == []
    finally:
        subprocess.run(["umount", str(place.file)], check=True)  # noqa: S607


def test_a_missing_directory(place: Place, make: Make) -> None:
    """A volume that is mounted later is an error until then, and not before something is published."""
    output = place.open(file=place.folder / "later" / "token.json")
    assert place.read_back(output).problem == "does not exist"
    with pytest.raises(OutputError, match="later does not exist; create it, or mount the volume there"):
        place.publish(output, make())
    (place.folder / "later").mkdir()
    assert place.publish(output, make())


def test_a_directory_in_the_way(place: Place, make: Make) -> None:
    """It isn't removed: it may hold something."""
    place.file.mkdir()
    with pytest.raises(OutputError, match="a directory of that name is in the way; remove it"):
        place.publish(place.open(), make())
    assert place.leftovers() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_without_permission(place: Place, make: Make) -> None:
    """An ordinary user is told who it is, what it may not do and who could; nothing is left behind."""
    place.publish(place.open(), make(1))
    read, write = os.pipe()
    if os.fork() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        for options in ({}, {"file": place.folder / "free" / "token.json", "group": 4321}):
            try:
                place.publish(place.open(**options), make(2))
            except OutputError as error:
                os.write(write, f"{error}\n".encode())
        os._exit(0)
    os.close(write)
    free = place.folder / "free"
    os.wait()
    with os.fdopen(read) as said:
        first, second = said.read().splitlines()
    assert "the daemon (uid 65534, gid 65534) may not create files in" in first
    assert "does not exist" in second
    assert not free.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_file_of_somebody_else_is_replaced(place: Place, make: Make) -> None:
    """A mode that can't be set in place, because the file is another's, is repaired by a new file."""
    place.folder.chmod(0o777)
    place.publish(place.open(), make())
    place.file.chmod(0o666)
    inode = place.file.stat().st_ino
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        os._exit(0 if place.publish(place.open(), make()) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert place.file.stat().st_ino != inode
    assert place.file.stat().st_mode & 0o777 == 0o640


def _killed_at(place: Place, made: Publication, step: int) -> bool:
    """Publish in a child that dies by SIGKILL before its nth call; return whether it came that far."""
    child = os.fork()
    if child == 0:
        left = step

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return call

        output = place.open()
        for name in (*STEPS, "unlink", "fstat", "mkdir"):
            setattr(os, name, dying(getattr(os, name)))
        place.publish(output, made)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("before", [True, False], ids=["over an old one", "the first one"])
def test_sigkill_at_every_call(place: Place, make: Make, before: bool) -> None:  # noqa: FBT001
    """Wherever it strikes, old or new content is there in whole and known as ours; leftovers are swept."""
    outcomes = set()
    step = 0
    while True:
        if before:
            place.publish(place.open(), make(1))
        else:
            place.file.unlink(missing_ok=True)
        survived = not _killed_at(place, make(2), step)
        restarted = place.open()
        holding = place.read_back(restarted)
        outcomes.add(holding.fingerprint)
        if holding.fingerprint is None:
            assert not before
            assert holding.problem == "does not exist"
        else:
            assert (holding.lineage, holding.foreign, holding.problem) == ("a" * 32, None, None)
            told = {make(n).access.expires_at for n in (1, 2)}
            assert holding.expires_at in told
        leftovers = place.leftovers()
        assert len(leftovers) <= 1
        for name in leftovers:
            assert (place.folder / name).stat().st_mode & 0o077 in {0, 0o040}
            os.utime(place.folder / name, (1, 1))
        place.open()
        assert place.leftovers() == []
        if survived:
            break
        step += 1
    assert step > 10
    assert len(outcomes) == 2


def test_sigkill_at_random_moments(place: Place, make: Make) -> None:
    """A writer at full speed, killed again and again: what it leaves is whole, ours, and swept."""
    for round_ in range(30):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            output = place.open()
            generation = round_ * 1_000_000
            while True:
                generation += 1
                place.publish(output, make(generation))
                os.write(write, b".")
        os.close(write)
        for _ in range(1 + round_ * 7 % 40):
            os.read(read, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        holding = place.read_back(place.open())
        assert (holding.lineage, holding.problem, holding.foreign) == ("a" * 32, None, None)
        for name in place.leftovers():
            os.utime(place.folder / name, (1, 1))
        place.open()
        assert place.leftovers() == []


def test_leftovers_of_the_index_are_swept(place: Place, make: Make) -> None:
    """A writer killed while it wrote the index leaves nothing for good either."""
    place.publish(place.open(), make())
    (index,) = (place.state_dir / "outputs").iterdir()
    leftover = index.with_name(f".{index.name}.0123456789abcdef.tmp")
    leftover.write_bytes(b"{}")
    os.utime(leftover, (1, 1))
    place.open()
    assert list((place.state_dir / "outputs").iterdir()) == [index]
