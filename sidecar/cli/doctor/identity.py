"""What another user may read: tried in a child process that becomes that user, else worked out from modes."""

from __future__ import annotations

import errno
import grp
import json
import os
import pwd
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class Identity(msgspec.Struct, frozen=True):
    """A user, with the groups that its processes have."""

    uid: int
    gids: tuple[int, ...]
    """The first is the primary one."""

    def __str__(self) -> str:
        return f"{self.uid}:{','.join(map(str, self.gids))}"


class Access(msgspec.Struct, frozen=True):
    """Whether one path may be read."""

    error: int = 0
    """`errno`; 0: it may."""
    barrier: Path | None = None
    """The first directory on the way, or the file itself, whose mode is in the way."""


class AsUser(click.ParamType[Identity]):
    """`UID[:GID[,GID…]]`; names are taken too."""

    name = "UID[:GID[,GID…]]"

    def convert(
        self, value: str | Identity, param: click.Parameter | None, ctx: click.Context | None
    ) -> Identity:
        """Read it; a user without groups has those that this system knows of."""
        if isinstance(value, Identity):
            return value
        user, colon, groups = value.partition(":")
        try:
            entry = None if user.isdecimal() and colon else _entry(user)
            uid = int(user) if entry is None else entry.pw_uid
            if not colon and entry is not None:
                return Identity(uid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)))
            gids = [int(one) if one.isdecimal() else grp.getgrnam(one).gr_gid for one in groups.split(",")]
        except (KeyError, ValueError, OverflowError):
            self.fail(
                f"{value!r} is no user of this system; write its numbers, such as 2000:2000,3000", param, ctx
            )
        return Identity(uid, tuple(gids))


def _entry(user: str) -> pwd.struct_passwd:
    return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)


def look(identity: Identity, paths: Iterable[Path]) -> tuple[bool, dict[Path, Access]]:
    """Find out which paths this user may read; return whether it was tried, or else worked out.

    Call it before there are threads: it forks.
    """
    wanted = list(dict.fromkeys(paths))
    tried = _tried(identity, wanted)
    if tried is None:
        return False, {path: _computed(identity, path) for path in wanted}
    return True, {
        path: Access(code, _computed(identity, path).barrier if code else None)
        for path, code in zip(wanted, tried, strict=True)
    }


def _tried(identity: Identity, paths: list[Path]) -> list[int] | None:
    """Open each path as this user; None where we may not become it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Not one step of the interpreter's own end happens here: the parent's buffers are not ours to flush.
        status = 1
        try:
            os.close(reading)
            _become(identity)
            os.write(writing, json.dumps([_opened(path) for path in paths]).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return [int(code) for code in json.loads(answer)] if status == 0 else None


def _become(identity: Identity) -> None:
    """Raises `PermissionError`, unless it is who we are."""
    held = (os.geteuid(), os.getegid(), {*os.getgroups(), os.getegid()})
    if held != (identity.uid, identity.gids[0], {*identity.gids}):
        os.setgroups(identity.gids)
        os.setresgid(identity.gids[0], identity.gids[0], identity.gids[0])
        os.setresuid(identity.uid, identity.uid, identity.uid)


def _opened(path: Path) -> int:
    try:
        # A directory opens like a file, and a FIFO doesn't block.
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _computed(identity: Identity, path: Path) -> Access:
    """Follow a path by owners and modes. Access lists, capabilities and security modules are not seen."""
    real = Path(os.path.realpath(path))
    try:
        for place in reversed(real.parents):
            if not _allowed(identity, place.stat(), execute=True):
                return Access(errno.EACCES, place)
        if not _allowed(identity, real.stat(), execute=False):
            return Access(errno.EACCES, real)
    except OSError as error:
        return Access(error.errno or errno.EIO)
    return Access()


def _allowed(identity: Identity, found: os.stat_result, *, execute: bool) -> bool:
    if identity.uid == 0:
        return True
    wanted = stat.S_IXOTH if execute else stat.S_IROTH
    if identity.uid == found.st_uid:
        wanted <<= 6
    elif found.st_gid in identity.gids:
        wanted <<= 3
    return bool(found.st_mode & wanted)
