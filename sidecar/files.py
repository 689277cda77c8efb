"""Small files: read within bounds, replaced atomically, swept up after.

All of it is synchronous and short. Token files are a few kilobytes on a tmpfs, where reading or replacing one
takes tens of microseconds, less than handing it to a thread would; and no thread means that the callers run
under a virtual clock in tests.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 1 << 20
"""No file that holds a token is larger; what is larger is not read."""

SETTLE_NS = 1_000_000_000
"""Longest granularity of file times that is reckoned with (some network volumes count whole seconds)."""

UNREAD_NS = 1_000_000_000
"""By so much a new file's access time is behind the time at which it was written, until somebody reads it."""

YOUNG = 5.0
"""Seconds; a younger temporary file may belong to a writer that is at work."""

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class UnfitFile(Exception):
    """What is there is not what it should be; the message continues a sentence after the path and quotes nothing."""


class Signature(NamedTuple):
    """Changes whenever a file's content or metadata changes."""

    device: int
    inode: int
    mtime_ns: int
    ctime_ns: int
    size: int


STEM = 200
"""Bytes of a name that its temporary file has: 255 are the most, of which dot, random part and suffix take 22."""


class SmallFile(NamedTuple):
    """A file that was read in whole."""

    data: bytes
    stat: os.stat_result
    """Taken before reading: a write during the read gives another signature, so the next look reads again."""
    settled: bool
    """Whether the signature can stand for the content from now on.

    A file that was written within its file system's time granularity before it was read may be written again
    without getting another time; such a one has to be read again.
    """
    traceless: bool
    """Whether this left the access time alone. It takes the file's owner to ask for that, or CAP_FOWNER."""


def signature(found: os.stat_result) -> Signature:
    """Sum up a stat for comparison."""
    return Signature(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """Hold a directory open, so that all steps of a replacement happen in the same one."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_small(path: Path | str, *, follow: bool, dir_fd: int | None = None) -> SmallFile:
    """Read a regular file of at most `LIMIT` bytes, leaving its access time alone where that is allowed.

    `follow` says whether the last component may be a symbolic link. Raises `OSError`, or `UnfitFile` for what
    is no regular file or too large. Never blocks on a FIFO.
    """
    flags = _READ if follow else _READ | os.O_NOFOLLOW
    if not follow and stat.S_ISLNK(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode):
        raise UnfitFile("is a symbolic link, and those are never followed here")
    descriptor, traceless = open_traceless(path, flags, dir_fd=dir_fd)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UnfitFile(_kind(found))
        settled = time.time_ns() - found.st_ctime_ns > SETTLE_NS
        return SmallFile(_read_bounded(descriptor), found, settled, traceless)
    finally:
        os.close(descriptor)


def open_traceless(path: Path | str, flags: int, *, dir_fd: int | None = None) -> tuple[int, bool]:
    """Open a file such that reading leaves its access time alone, and tell whether that was allowed."""
    try:
        return os.open(path, flags | os.O_NOATIME, dir_fd=dir_fd), True
    except PermissionError:
        return os.open(path, flags, dir_fd=dir_fd), False


def _kind(found: os.stat_result) -> str:
    """Say in words what is there in place of a regular file."""
    return "is a directory" if stat.S_ISDIR(found.st_mode) else "is not a regular file"


def _read_bounded(descriptor: int) -> bytes:
    parts = []
    room = LIMIT + 1
    while room > 0 and (part := os.read(descriptor, room)):
        parts.append(part)
        room -= len(part)
    if room <= 0:
        raise UnfitFile("is larger than 1 MiB")
    return b"".join(parts)


def replace_file(
    dir_fd: int, name: str, data: bytes, *, mode: int, uid: int | None = None, gid: int | None = None
) -> None:
    """Make `name` hold `data`: whoever opens it finds the old content or the new one, in whole.

    Mode and owner are set before the new content becomes visible. A symbolic link of that name is replaced,
    not followed. On any `OSError` the old content is still there and the temporary file is gone.

    There is no fsync: it could stall every token's renewal for seconds, and these files are copies. After a
    power cut a file on a disk may be old, or empty on some file systems, until the daemon starts and repairs
    it.
    """
    temporary = _temporary_name(name)
    descriptor = os.open(temporary, _CREATE, 0o600, dir_fd=dir_fd)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            _mark_unread(descriptor)
            set_metadata(descriptor, os.fstat(descriptor), mode=mode, uid=uid, gid=gid)
        finally:
            os.close(descriptor)
        os.replace(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=dir_fd)
        raise


def _mark_unread(descriptor: int) -> None:
    """Set the access time behind, so that a first read is told however soon it comes.

    The kernel's file times move on with its ticks, of up to ten milliseconds: whoever waits for the file reads it
    within the one that it was written in, and would leave the same time as the writer.
    """
    written = os.fstat(descriptor).st_mtime_ns
    with suppress(OSError):
        os.utime(descriptor, ns=(written - UNREAD_NS, written))


def was_read(found: os.stat_result) -> bool:
    """Tell whether a file that `replace_file` made has been read since.

    By the very time that was set, not by which is later: a reader's clock may have been set back.
    """
    return found.st_atime_ns != found.st_mtime_ns - UNREAD_NS


def set_metadata(
    descriptor: int, found: os.stat_result, *, mode: int, uid: int | None, gid: int | None
) -> None:
    """Give an open file its owner and mode, calling for no permission that is not needed."""
    if differs(found, mode=None, uid=uid, gid=gid):
        os.fchown(descriptor, -1 if uid is None else uid, -1 if gid is None else gid)
    # Always: a change of owner may have cleared bits.
    os.fchmod(descriptor, mode)


def differs(found: os.stat_result, *, mode: int | None, uid: int | None, gid: int | None) -> bool:
    """Tell whether mode or owner are not as wanted; None means that any will do."""
    return (
        (mode is not None and stat.S_IMODE(found.st_mode) != mode)
        or (uid is not None and found.st_uid != uid)
        or (gid is not None and found.st_gid != gid)
    )


def sweep(folder: Path, name: str, *, any_part: str = "") -> bool:
    """Remove what killed writers of `name` left behind; return whether nothing of the kind remains.

    `any_part`: what stands for any text in `name`, for the files of many accounts.
    """
    stem = re.escape(_stem(name))
    if any_part:
        before, _, after = map(re.escape, name.partition(any_part))
        # A long name is cut off, and what comes behind that part with it.
        stem = rf"\.{before}(?:.+{after}|.{{{STEM - len(name.partition(any_part)[0])}}})"
    pattern = re.compile(stem + r"\.[0-9a-f]{16}\.tmp", re.DOTALL)
    clean = True
    try:
        with os.scandir(folder) as entries:
            leftovers = [entry for entry in entries if pattern.fullmatch(entry.name)]
    except OSError:
        return False
    for entry in leftovers:
        try:
            # In either direction: the clock may have stepped back since.
            if abs(time.time() - entry.stat(follow_symlinks=False).st_mtime) > YOUNG:
                Path(entry.path).unlink()
            else:
                clean = False
        except FileNotFoundError:
            continue
        except OSError:
            clean = False
    return clean


def _temporary_name(name: str) -> str:
    return f"{_stem(name)}.{secrets.token_hex(8)}.tmp"


def _stem(name: str) -> str:
    return "." + os.fsdecode(os.fsencode(name)[:STEM])


def on_tmpfs(path: Path) -> bool:
    """Tell whether what is written there stays in memory (tmpfs or ramfs). Raises `OSError`."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:  # noqa: PTH123
        for line in mounts:
            before, _, after = line.partition(" - ")
            if before.split(" ", 3)[2] == wanted:
                return after.split(" ", 1)[0] in {"tmpfs", "ramfs"}
    return False
