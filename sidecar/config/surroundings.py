"""What can't work on this machine: files that can't be read, directories that can't be written."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from sidecar.config.context import Context
from sidecar.config.contradictions import Steps, cells, outputs
from sidecar.config.mounts import IN_MEMORY, Mounts
from sidecar.config.settings import Command, OutputTarget, Settings, TokenSettings

MAX_SECRET_BYTES = 1024 * 1024


def check(settings: Settings, mounts: Mounts, context: Context) -> None:
    """Report everything that this machine, and the user that this process runs as, stand in the way of."""
    for name, token in settings.entries.items():
        _token(token, ("tokens", name), context)
    for index, path in enumerate(settings.store.encryption_keys):
        remedy = "make a key: token-sidecar store keygen FILE"
        _secret_file(path, ("store", "encryption_keys", index), remedy, context)
    for spot, cell in cells(settings):
        if cell.url_file is not None:
            _secret_file(cell.url_file, (*spot, "url_file"), "write the database's URL into it", context)
    for place, output in outputs(settings):
        if output.file is not None:
            _output(output, output.file, place, mounts, context)
    _identity(settings.control.group, grp.getgrnam, ("control", "group"), context)
    _state_dir(settings.state_dir, context)
    _store(settings, context)


def _token(token: TokenSettings, steps: Steps, context: Context) -> None:
    # Those of a set's accounts are looked at when there are accounts.
    if token.seed is not None and token.seed.file is not None and token.for_each is None:
        _seed(token.seed.file, (*steps, "seed"), context)
    if token.subject_token is not None:
        _subject_token(token.subject_token.file, (*steps, "subject_token"), context)
    for key, path in token.client.files.items():
        # A certificate is public, unless its key comes with it.
        public = key == ("id_file",) or (
            key == ("certificate_file",) and token.client.private_key_file is not None
        )
        remedy = "write the client's data into it"
        _secret_file(path, (*steps, "client", *key), remedy, context, public=public)
    for index, hook in enumerate(token.after_refresh):
        if hook.exec is not None:
            _command(hook.exec, (*steps, "after_refresh", index, "exec"), context)


def _seed(path: Path, steps: Steps, context: Context) -> None:
    status = _status(path, steps, context)
    if status is None:
        context.warning(steps, f"{path} is not there yet; the token is unseeded until it is")
    elif isinstance(status, os.stat_result) and status.st_size == 0:
        context.warning(steps, f"{path} is empty; the token is unseeded until it holds a refresh token")
    elif isinstance(status, os.stat_result):
        _private(path, status, steps, context)


def _subject_token(path: Path, steps: Steps, context: Context) -> None:
    status = _status(path, steps, context)
    if status is None:
        context.warning(steps, f"{path} is not there yet; the token can't be got until it is")
    elif isinstance(status, os.stat_result) and status.st_size == 0:
        context.warning(
            steps, f"{path} is empty; the token can't be got until it holds the token to trade in"
        )
    elif isinstance(status, os.stat_result):
        _private(path, status, steps, context)


def _secret_file(path: Path, steps: Steps, remedy: str, context: Context, *, public: bool = False) -> None:
    status = _status(path, steps, context)
    if status is None:
        context.error(steps, f"{path} does not exist; create it, or correct the path")
    elif isinstance(status, os.stat_result) and status.st_size == 0:
        context.error(steps, f"{path} is empty; {remedy}")
    elif isinstance(status, os.stat_result) and not public:
        _private(path, status, steps, context)


def _command(command: Command, steps: Steps, context: Context) -> None:
    program = Path(command.argv[0])
    if program.is_absolute() and not (program.is_file() and os.access(program, os.X_OK)):
        text = f"{program} is no program that {_who()} may run; install it, correct the path, or chmod +x it"
        context.error((*steps, "argv", 0), text)
    _identity(command.user, pwd.getpwnam, (*steps, "user"), context)


def _status(path: Path, steps: Steps, context: Context) -> os.stat_result | bool | None:
    """Look at a file that is to be read: its status; None if it is missing; False if that was reported."""
    try:
        status = path.stat()
    except FileNotFoundError:
        if context.misplaced_secret(steps):
            context.error(steps, "looks like a secret; put it into a file, and name that file here")
        elif path.parent.is_dir():
            return None
        else:
            context.error(
                steps, f"the directory {path.parent} does not exist; create it, or correct the path"
            )
        return False
    except OSError as fault:
        context.error(
            steps, f"{path} can't be reached: {fault.strerror}; {_who()} needs access to its directories"
        )
        return False
    if not stat.S_ISREG(status.st_mode):
        context.error(steps, f"{path} is {_file_type(status.st_mode)}; name a regular file")
    elif not os.access(path, os.R_OK):
        context.error(
            steps, f"{path} can't be read by {_who()}; give it read permission (chown, or chgrp and chmod)"
        )
    elif status.st_size > MAX_SECRET_BYTES:
        context.error(steps, f"{path} is larger than {MAX_SECRET_BYTES // 1024} KiB; is it the right file?")
    else:
        return status
    return False


def _private(path: Path, status: os.stat_result, steps: Steps, context: Context) -> None:
    """Warn of a secret that others can read, where its mode is ours to change.

    A file of somebody else that we read through its group is the usual way of sharing it; in a mounted Secret
    (whose files are links through `..data`) the kubelet owns the mode.
    """
    ours = status.st_uid == os.geteuid()
    open_to = 0o077 if ours else 0o007
    if status.st_mode & open_to and not (path.parent / "..data").is_symlink():
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        context.warning(
            steps, f"{path} has mode {mode}, so that others can read the secret; chmod 600 {path}"
        )


def _output(output: OutputTarget, file: Path, steps: Steps, mounts: Mounts, context: Context) -> None:
    place = (*steps, "file")
    problem = _unwritable(file.parent)
    if problem is not None:
        context.error(place, problem)
    elif file.is_dir():
        context.error(place, f"{file} is a directory; name the file in it")
    elif file.exists() and not file.is_file():
        # As root, a rename would put a file in the place of /dev/null.
        context.error(place, f"{file} is a device, pipe or socket; name a file that may be replaced")
    elif mounts.is_mount_point(file):
        text = (
            "is mounted as a single file (subPath?), which can't be replaced atomically; mount its directory"
        )
        context.error(place, f"{file} {text}")
    else:
        _in_memory(output, file.parent, steps, mounts, context)
        _shared_directory(file.parent, place, mounts, context)
    _identity(output.owner, pwd.getpwnam, (*steps, "owner"), context)
    _identity(output.group, grp.getgrnam, (*steps, "group"), context)


def _shared_directory(directory: Path, steps: Steps, mounts: Mounts, context: Context) -> None:
    """Warn of a directory in which anybody may put another token in the place of ours.

    Not of a volume's root: in a pod that is open to all containers, who are there for it.
    """
    mode = directory.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not mounts.is_mount_point(directory):
        text = f"{directory} can be written by everybody, who may replace the token; chmod o-w {directory}"
        context.warning(steps, text)


def _in_memory(output: OutputTarget, directory: Path, steps: Steps, mounts: Mounts, context: Context) -> None:
    kind = mounts.kind(directory)
    if kind is None or kind in IN_MEMORY:
        return
    text = f"{directory} is on {kind}, so that tokens reach a disk; mount a tmpfs there"
    if output.require_tmpfs:
        context.error((*steps, "file"), f"{text}, or drop `require_tmpfs`")
    else:
        context.warning((*steps, "file"), text)


def _identity(
    identity: str | int | None, find: Callable[[str], object], steps: Steps, context: Context
) -> None:
    if not isinstance(identity, str):
        return
    try:
        find(identity)
    except KeyError:
        context.error(steps, f"there is no such {steps[-1]} on this system; use a numeric id")


def _unwritable(directory: Path) -> str | None:
    """Say why no file can be made in a directory."""
    try:
        status = directory.stat()
    except FileNotFoundError:
        return f"the directory {directory} does not exist; make it: mkdir -p {directory}"
    except OSError as fault:
        return f"the directory {directory} can't be reached: {fault.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return f"{directory} is {_file_type(status.st_mode)}, not a directory"
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        return f"the directory {directory} is on a read-only file system; mount one there that can be written"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"the directory {directory} can't be written by {_who()}; give it write permission"
    return None


def _state_dir(directory: Path, context: Context) -> None:
    existing = next(_existing(directory))
    problem = _unwritable(existing)
    if problem is None:
        return
    made = "" if existing == directory else f"{directory} can't be made: "
    context.error(("state_dir",), f"{made}{problem.partition(';')[0]}; set `state_dir` to another")


def _existing(path: Path) -> Iterator[Path]:
    """Go up from a path, through what exists of it."""
    return (place for place in (path, *path.parents) if place.exists() or place == place.parent)


def _store(settings: Settings, context: Context) -> None:
    path = settings.store.sqlite_path
    if path is None or path.parent.is_relative_to(settings.state_dir):
        return
    problem = _unwritable(path.parent)
    if problem is not None:
        context.error(("store",), problem)
    elif path.is_dir():
        context.error(("store",), f"{path} is a directory; name the database file in it")
    elif path.exists() and not os.access(path, os.R_OK | os.W_OK):
        context.error(("store",), f"{path} can't be read and written by {_who()}; chown it")


def _who() -> str:
    return f"user {os.geteuid()}"


def _file_type(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a regular file" if stat.S_ISREG(mode) else "a device, pipe or socket"
