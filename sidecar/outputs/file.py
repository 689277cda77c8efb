"""A file, replaced atomically; read back, judged and repaired.

Everything here is short synchronous file I/O on the event loop, see `sidecar.files`. That suits a tmpfs and
local disks; a network volume that hangs would hang the daemon with it.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from sidecar import formats
from sidecar.config.mounts import Mounts
from sidecar.errors import FormatError, OutputError
from sidecar.files import (
    Signature,
    UnfitFile,
    differs,
    directory,
    on_tmpfs,
    read_small,
    replace_file,
    set_metadata,
    signature,
    sweep,
    was_read,
)
from sidecar.outputs import encoded
from sidecar.outputs.index import Entry, Index, digest
from sidecar.ports import Finding, Foreign, Grade, Holding
from sidecar.tokens import ExpirySource, fingerprint

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.config.settings import OutputTarget
    from sidecar.formats.contents import Format
    from sidecar.ports import Output, Publication


ROOM = 4096
"""Bytes that a trial writes: more than a token usually takes."""

_NOBODY_AT_ALL = 2**32 - 1
"""The kernel's word for "leave it as it is"."""


class _Seen(NamedTuple):
    """What is in place now."""

    stat: os.stat_result | None = None
    content: bytes | None = None
    digest: str | None = None
    problem: str | None = None
    traceless: bool = False
    """Whether the look itself is no read that could be mistaken for somebody's."""


class _Made(NamedTuple):
    """Settings, and the format that follows from them."""

    target: OutputTarget
    format: Format


class _Cached(NamedTuple):
    """What was in place when its signature was this."""

    signature: Signature
    content: bytes | None
    """None: it was published by us."""
    digest: str
    traceless: bool


class _Owner(NamedTuple):
    uid: int | None
    gid: int | None


class FileOutput:
    """One file that applications read. See `Output` for the contract."""

    # One of each account of a set: what can be made anew in microseconds isn't kept.
    __slots__ = (
        "_cached",
        "_clock",
        "_index",
        "_resolved",
        "_swept",
        "_told",
        "adopt",
        "id",
        "made",
        "required",
    )

    def __init__(
        self,
        target: OutputTarget,
        file: Path,
        *,
        state_dir: Path,
        clock: Clock,
        like: Output | None = None,
    ) -> None:
        """See `sidecar.outputs.open_output`."""
        # Not resolved: the directory may be a link that is swapped, as Kubernetes does with `..data`.
        self.id = f"file:{file.absolute()}"
        self.required = target.is_required
        self.adopt = target.adopt
        made: _Made | None = like.made if isinstance(like, FileOutput) else None
        if made is None or made.target != replace(target, file=made.target.file):
            made = _Made(target, formats.for_target(target))
        self.made: _Made = made
        """What accounts have in common."""
        self._clock = clock
        self._index = Index(state_dir, self.id, swept=like is not None)
        self._swept = like is not None or sweep(self._path.parent, self._path.name)
        self._cached: _Cached | None = None
        self._resolved: _Owner | None = None
        self._told: bool | None = None
        """What was told last of whether somebody has read it since."""

    @property
    def _place(self) -> str:
        return self.id.removeprefix("file:")

    @property
    def _path(self) -> Path:
        return Path(self._place)

    @property
    def index_problem(self) -> str | None:
        """Why the index in `state_dir` could not be written; None: it is as it should be."""
        return self._index.problem

    async def publish(self, publication: Publication) -> bool:
        """See `Output.publish`."""
        content = encoded(publication, self.made.format, self.made.target, self.id)
        owner = self._owner()
        if not self._swept:
            self._swept = sweep(self._path.parent, self._path.name)
        try:
            with directory(self._path.parent) as folder:
                return self._put(folder, content, Entry.of(publication, digest(content)), owner)
        except OSError as error:
            raise OutputError(f"{self.id}: {self._explain(error)}") from error

    async def read_back(self) -> Holding:
        """See `Output.read_back`.

        Own content with the wrong mode or owner is a problem too (its readers may be locked out, or be too
        many), although its fingerprint is told. Content that is readable but not ours has a `foreign` and no
        problem. A foreign token whose expiry nobody knows is marked `ExpirySource.ASSUMED`.
        """
        return replace(self._judged(self._look()), mark=self._index.mark)

    def is_untouched(self) -> bool:
        """See `SupportsGlance`."""
        seen = self._look()
        if seen.stat is None:
            return self._index.newest is None
        own = seen.digest == self._index.newest and self._metadata_problem(seen.stat) is None
        return own and self._read_since_write(seen) == self._told

    def withdraw(self) -> str:
        """See `SupportsWithdrawal`."""
        self._cached = None
        return withdraw(self._path, self._index)

    async def diagnose(self) -> list[Finding]:
        """See `SupportsDiagnosis`: what `publish` does is done to a file of another name, which is removed."""
        folder, mounts = self._path.parent, Mounts.read()
        try:
            if mounts.is_mount_point(self._path):
                raise OSError(errno.EBUSY, "")  # noqa: TRY301 - what a rename would meet
            self._try(folder)
        except OutputError as error:
            return [Finding(Grade.FAILED, str(error))]
        except OSError as error:
            reason, _, remedy = self._reason(error).partition("; ")
            return [Finding(Grade.FAILED, reason, remedy)]
        where = f"in {folder}, which is on {mounts.kind(folder) or 'an unknown file system'}"
        done = f"a file was made, given its mode {self.made.target.mode:04o} and owner, and replaced {where}"
        return [Finding(Grade.OK, done)]

    def _try(self, folder: Path) -> None:
        """Make a file like ours, replace it, remove it. Raises what would meet ours."""
        owner, name = self._owner(), f".token-sidecar-doctor.{secrets.token_hex(8)}"
        _check_sticky(folder, self._path)
        with directory(folder) as descriptor:
            try:
                for _ in range(2):
                    content = bytes(ROOM)
                    replace_file(
                        descriptor, name, content, mode=self.made.target.mode, uid=owner.uid, gid=owner.gid
                    )
            finally:
                with suppress(OSError):
                    os.unlink(name, dir_fd=descriptor)

    def _judged(self, seen: _Seen) -> Holding:
        if seen.stat is None or seen.digest is None:
            return Holding(problem=seen.problem)
        entry = self._index.find(seen.digest)
        if entry is not None:
            problem, read = self._metadata_problem(seen.stat), self._read_since_write(seen)
            self._told = read
            return replace(entry.holding, problem=problem, read_since_write=read)
        if seen.content is None:
            # It was ours when it was read, and the index has forgotten it since.
            self._cached = None
            return self._judged(self._look())
        return self._judge_foreign(seen.content, seen.stat.st_mtime)

    def _read_since_write(self, seen: _Seen) -> bool | None:
        """Tell whether somebody has read what we published.

        Nobody is known to be there before a first read was seen: the readers' mount may keep no access times, and
        one that is read-only never does.
        """
        if seen.stat is None or not seen.traceless:
            return None
        read = was_read(seen.stat)
        self._index.read = self._index.read or read
        return read if self._index.read else None

    def _judge_foreign(self, content: bytes, written_at: float) -> Holding:
        try:
            found = self.made.format.decode(content)
        except FormatError as error:
            return Holding(problem=f"is not in the format `{self.made.format.name}`: {error}")
        access = found.access(written_at=written_at, by_receiver=True)
        if access is None:
            return Holding(problem="holds no access token")
        known = access.expiry_source is not ExpirySource.ASSUMED
        return Holding(
            fingerprint=fingerprint(access.value),
            expires_at=access.expires_at if known else None,
            foreign=Foreign(
                access=access,
                refresh=found.refresh(written_at=written_at),
                # A time ahead of the clock is no fresh write either: the clock stepped, or somebody set it.
                stable_for=abs(self._clock.wall() - written_at),
            ),
        )

    def _put(self, folder: int, content: bytes, entry: Entry, owner: _Owner) -> bool:
        if self.made.target.require_tmpfs and not on_tmpfs(self._path.parent):
            raise OutputError(
                f"{self.id}: {self._path.parent} is not on a tmpfs, and `require_tmpfs` is set; "
                "mount one there (an emptyDir with `medium: Memory`)"
            )
        seen = self._look()
        if seen.digest is not None and self._index.find(seen.digest) is not None:
            # A read that nobody has asked for yet: what is put in place now has not been read.
            self._read_since_write(seen)
        self._index.expect(entry, in_place=seen.digest)
        if seen.digest == entry.digest and seen.stat is not None:
            if not differs(seen.stat, mode=self.made.target.mode, uid=owner.uid, gid=owner.gid):
                return False
            if self._repair_metadata(folder, seen.stat, owner):
                return True
        replace_file(
            folder, self._path.name, content, mode=self.made.target.mode, uid=owner.uid, gid=owner.gid
        )
        return True

    def _repair_metadata(self, folder: int, judged: os.stat_result, owner: _Owner) -> bool:
        """Set mode and owner in place; False where that is not possible and the file has to be replaced."""
        try:
            descriptor = os.open(
                self._path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
            )
        except OSError:
            return False
        try:
            found = os.fstat(descriptor)
            if signature(found) != signature(judged):
                return False
            set_metadata(descriptor, found, mode=self.made.target.mode, uid=owner.uid, gid=owner.gid)
        except PermissionError:
            return False
        else:
            return True
        finally:
            os.close(descriptor)

    def _look(self) -> _Seen:
        """Read what is in place, unless its signature says that it is what was read before."""
        try:
            if self._cached and signature(now := os.lstat(self._place)) == self._cached.signature:
                cached = self._cached
                return _Seen(now, cached.content, cached.digest, traceless=cached.traceless)
            self._cached = None
            found = read_small(self._place, follow=False)
        except FileNotFoundError:
            return _Seen(problem="does not exist")
        except UnfitFile as unfit:
            return _Seen(problem=str(unfit))
        except OSError as error:
            return _Seen(problem=f"cannot be read: {error.strerror}")
        if not found.data:
            return _Seen(problem="is empty")
        seen = _Seen(found.stat, found.data, digest(found.data), traceless=found.traceless)
        if found.settled:
            own = self._index.find(seen.digest or "")
            # Ours says nothing that the index doesn't know.
            content, name = (found.data, seen.digest or "") if own is None else (None, own.digest)
            self._cached = _Cached(signature(found.stat), content, name, found.traceless)
        return seen

    def _metadata_problem(self, found: os.stat_result) -> str | None:
        mode = stat.S_IMODE(found.st_mode)
        if mode != self.made.target.mode:
            return f"has mode {mode:04o} instead of {self.made.target.mode:04o}"
        try:
            owner = self._owner()
        except OutputError as error:
            return str(error)
        if differs(found, mode=None, uid=owner.uid, gid=owner.gid):
            return f"belongs to {found.st_uid}:{found.st_gid} instead of {owner.uid}:{owner.gid}"
        return None

    def _owner(self) -> _Owner:
        """Look names up once: a directory service may be behind them."""
        if self._resolved is None:
            self._resolved = _Owner(
                self._number("owner", self.made.target.owner), self._number("group", self.made.target.group)
            )
        return self._resolved

    def _number(self, key: str, given: str | int | None) -> int | None:
        if given is None:
            return None
        try:
            number = int(given)
        except ValueError:
            number = self._named(key, str(given))
        if not 0 <= number < _NOBODY_AT_ALL:
            raise OutputError(f"{self.id}: {number} is no possible {key}; give a name or a number from 0 on")
        return number

    def _named(self, key: str, name: str) -> int:
        try:
            return pwd.getpwnam(name).pw_uid if key == "owner" else grp.getgrnam(name).gr_gid
        except KeyError:
            raise OutputError(
                f"{self.id}: there is no {key} `{name}` on this system; give the number"
            ) from None

    def _explain(self, error: OSError) -> str:
        return f"{self._reason(error)} (whatever was there before is still in place)"

    def _reason(self, error: OSError) -> str:
        folder = self._path.parent
        me = f"uid {os.geteuid()}, gid {os.getegid()}"
        remedies = {
            errno.ENOENT: f"{folder} does not exist; create it, or mount the volume there",
            errno.ENOTDIR: f"a part of {folder} is not a directory; correct the path",
            errno.EACCES: f"the daemon ({me}) may not create files in {folder}; "
            "let it own the directory, or set the pod's fsGroup",
            errno.EPERM: f"the daemon ({me}) may not replace the file or give it to "
            f"{self.made.target.owner}:{self.made.target.group}; run it as that owner or as a member of that group "
            "(fsGroup, supplementalGroups), or drop `owner` and `group`",
            errno.EROFS: f"{folder} is mounted read-only; mount it writable for the daemon "
            "(`readOnly: true` belongs to the application's mount)",
            errno.ENOSPC: f"no space is left in {folder}; raise the volume's size "
            "(it must hold the old and the new file at once)",
            errno.EDQUOT: f"the disk quota for {folder} is used up; raise it or free some",
            errno.EBUSY: "the file itself is a mount point (a subPath?), so it cannot be replaced; "
            "mount its directory instead",
            errno.EISDIR: "a directory of that name is in the way; remove it",
            errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
        }
        return remedies.get(error.errno or 0) or error.strerror or "could not be written"


def withdraw(path: Path, index: Index) -> str:
    """Remove a file if what it holds was published by us; see `SupportsWithdrawal`."""
    try:
        found = read_small(path, follow=False)
        if index.find(digest(found.data)) is None:
            return f"file:{path} is of an account that is gone, and is left: somebody else has written it"
        path.unlink()
    except FileNotFoundError:
        pass
    except UnfitFile as unfit:
        return f"file:{path} is of an account that is gone, and is left: it {unfit}"
    except OSError as error:
        return f"file:{path} is of an account that is gone, and can't be removed: {error.strerror}"
    index.forget()
    return ""


def _check_sticky(folder: Path, file: Path) -> None:
    """Raise what a rename would, where a directory like /tmp keeps everybody's files from everybody else."""
    place = folder.stat()
    with suppress(FileNotFoundError):
        owners = {place.st_uid, file.lstat().st_uid}
        if place.st_mode & stat.S_ISVTX and os.geteuid() not in {0, *owners}:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
