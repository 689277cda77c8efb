"""This machine: who looks, the daemon's directory, the outputs, and what the application may read."""

from __future__ import annotations

import errno
import os
import pwd
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from sidecar.cli.doctor.examination import Application, Examination, daemon_user
from sidecar.cli.doctor.lines import Check
from sidecar.clients.shared import SharedClients
from sidecar.config.contradictions import cells
from sidecar.config.mounts import Mounts
from sidecar.errors import ConfigError
from sidecar.escrow import ROOM_FOR_ANSWER, SUFFIX, UNREAD, Stage
from sidecar.outputs import open_output, open_remote_output
from sidecar.ports import SupportsDiagnosis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.cli.doctor.identity import Access, Identity
    from sidecar.cli.doctor.lines import Line
    from sidecar.config import Settings
    from sidecar.config.settings import OutputTarget
    from sidecar.ports import Output

PLENTY = 2 * ROOM_FOR_ANSWER
"""Bytes: more than the escrow takes for one answer."""


async def user(exam: Examination) -> list[Line]:
    """Say for whom the rest is true."""
    check, me, owner = Check("user"), os.geteuid(), daemon_user(exam.settings)
    if owner is None:
        return [check.ok(f"{_user(me)}; no daemon has run here yet")]
    if me == owner:
        return [check.ok(f"{_user(me)}, whose the daemon's files are")]
    seen = "may do what the daemon may not" if me == 0 else "can't see all that the daemon sees"
    text = f"{_user(me)}, and the daemon's files are {_user(owner)}'s: this one {seen}"
    return [check.warning(text, f"run it as {_user(owner)} for the daemon's own view")]


def _user(uid: int) -> str:
    try:
        return f"user {uid} ({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        return f"user {uid}"


async def state_dir(exam: Examination) -> list[Line]:
    """See that `state_dir` is private, and that an answer has room there."""
    path, mounts = exam.settings.state_dir, Mounts.read()
    check = Check("state_dir", str(path))
    try:
        found = path.stat()
    except FileNotFoundError:
        return [check.skipped("is not there yet; the daemon makes it")]
    except OSError as error:
        return [check.skipped(f"user {os.geteuid()} can't reach it: {error.strerror}", "run it as root")]
    mode = stat.S_IMODE(found.st_mode)
    allowed = 0o710 if exam.settings.control.group is not None else 0o700
    if mode & ~allowed & 0o777 and not path.is_mount():
        return [check.failed(f"has mode {mode:04o}, so that others can see into it", f"chmod 700 {path}")]
    medium = mounts.kind(path) or "an unknown file system"
    if exam.stranger:
        return [check.ok(f"is private ({mode:04o}), on {medium}")]
    try:
        _take_room(path)
    except OSError as error:
        text = f"has no room to catch an answer ({error.strerror}), so that none is asked for"
        return [check.failed(text, "free space there, or give it a larger volume")]
    private = "a volume of its own" if path.is_mount() else "private"
    return [check.ok(f"is {private} ({mode:04o}), on {medium}, with room to catch an answer")]


def _take_room(directory: Path) -> None:
    path = directory / f".doctor-{secrets.token_hex(8)}.tmp"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, PLENTY)
    finally:
        os.close(descriptor)
        path.unlink()


async def escrow(exam: Examination) -> list[Line]:
    """Count the answers that wait in escrow. They are not opened: a daemon may be writing one."""
    directory = exam.settings.state_dir / "escrow"
    check = Check("escrow", str(directory))
    try:
        # glob would pass over what may not be read.
        files = list(directory.iterdir())
        stages = [_stage(path) for path in files if path.suffix == SUFFIX]
    except FileNotFoundError:
        return [check.ok("no answer waits there")]
    except OSError as error:
        return [check.skipped(f"can't be read: {error.strerror}", "run it as the daemon's user")]
    lines, unread = [], sum(1 for path in files if path.suffix == UNREAD)
    if exam.daemon is None and Stage.ANSWERED in stages:
        text = f"{stages.count(Stage.ANSWERED)} answers wait that the store may not have"
        lines.append(
            check.warning(text, f"start the daemon, and don't lose {exam.settings.state_dir} before")
        )
    if exam.daemon is None and Stage.SENT in stages:
        text = f"{stages.count(Stage.SENT)} requests were sent whose answers nobody caught"
        lines.append(check.warning(text, "start the daemon; it knows how long to wait before the next"))
    if unread:
        text = f"{unread} answers are kept in which no token was found"
        lines.append(check.warning(text, "correct the provider's `answer`; the daemon then reads them again"))
    return lines or [check.ok("no answer waits there")]


def _stage(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(1).decode("ascii", "replace")
    except FileNotFoundError:
        return ""  # its daemon has just released it


async def outputs(exam: Examination) -> list[Line]:
    """Have each output tried out."""
    found: dict[tuple[str, int], list[Line]] = {}

    async def look(name: str, number: int, target: OutputTarget) -> None:
        found[name, number] = await _output(exam, clients, name, target)

    # At once, so that places behind a network which are away take the time of one.
    async with SharedClients() as clients, anyio.create_task_group() as tasks:
        places = [
            (name, number, target)
            for name, token in exam.settings.tokens.items()
            for number, target in enumerate(token.outputs)
        ]
        for place in places:
            tasks.start_soon(look, *place)
    return [line for name, number, _ in places for line in found[name, number]]


async def _output(exam: Examination, clients: SharedClients, name: str, target: OutputTarget) -> list[Line]:
    check = Check("output", f"{name} {target.file or ''}".strip())
    if exam.stranger:
        return [check.skipped(f"not tried: user {os.geteuid()} isn't the daemon's")]
    state_dir, clock = exam.settings.state_dir, exam.clock
    try:
        if target.file is not None:
            output: Output = open_output(target, state_dir=state_dir, clock=clock)
        else:
            output = open_remote_output(target, state_dir=state_dir, clock=clock, clients=clients)
            check = Check("output", f"{name} {output.id}")
    except ConfigError as error:
        return [check.error(error)]
    if isinstance(output, SupportsDiagnosis):
        return check.found(await output.diagnose())
    return [check.skipped("this kind of output can't be tried without publishing")]


def readable(settings: Settings) -> list[Path]:
    """List the files that an application reads."""
    outputs = (output for token in settings.tokens.values() for output in token.outputs)
    return [output.file for output in outputs if output.file is not None]


def private(settings: Settings) -> list[Path]:
    """List the files and directories that hold what no application should have."""
    return list(_private(settings))


def _private(settings: Settings) -> Iterator[Path]:
    yield settings.state_dir
    yield from settings.store.encryption_keys
    if settings.store.sqlite_path is not None:
        yield settings.store.sqlite_path
    if settings.store.url_file is not None:
        yield settings.store.url_file
    for _, cell in cells(settings):
        if cell.url_file is not None:
            yield cell.url_file
    for token in settings.tokens.values():
        if token.seed is not None and token.seed.file is not None:
            yield token.seed.file
        for steps, path in token.client.files.items():
            if steps not in {("id_file",), ("certificate_file",)}:
                yield path


async def application(exam: Examination) -> list[Line]:
    """See that the application may read its tokens, and nothing else of ours."""
    reader, check = exam.application, Check("application")
    if reader is None:
        return [check.skipped("not asked for", "name its user, to see what it may read: --as UID:GID")]
    who = f"{reader.identity} ({'tried' if reader.tried else 'worked out from owners and modes'})"
    lines = [_reading(path, reader, who) for path in dict.fromkeys(readable(exam.settings))]
    exposed = [
        path
        for path in dict.fromkeys(private(exam.settings))
        if not reader.access[path].error and reader.identity.uid != 0
    ]
    for path in exposed:
        text = f"{who} can read it, and with it what refreshes tokens"
        lines.append(
            Check("application", str(path)).warning(
                text, f"let the daemon alone read it, as another user: chmod go= {path}"
            )
        )
    if not exposed and reader.identity.uid != 0:
        lines.append(check.ok(f"{who} can read no seed, client secret, key or store"))
    return lines


def _reading(path: Path, reader: Application, who: str) -> Line:
    check, access = Check("application", str(path)), reader.access[path]
    if not access.error:
        return check.ok(f"{who} can read it")
    if access.error == errno.ENOENT:
        return check.skipped(f"is not there yet; {who} can see so")
    return check.failed(
        f"{who} can't read it: {os.strerror(access.error).lower()}{_where(path, access)}",
        _way_in(access, reader.identity),
    )


def _where(path: Path, access: Access) -> str:
    if access.barrier is None:
        return ""
    found = access.barrier.stat()
    place = "" if access.barrier == path else f" at {access.barrier}"
    return f"{place} (mode {stat.S_IMODE(found.st_mode):04o} of {found.st_uid}:{found.st_gid})"


def _way_in(access: Access, identity: Identity) -> str:
    if access.barrier is not None and access.barrier.is_dir():
        return f"let it pass: chgrp {identity.gids[0]} {access.barrier} && chmod g+x {access.barrier}"
    return (
        f'give the output `group: {identity.gids[0]}` and `mode: "0640"` (on Kubernetes also fsGroup: '
        f"{identity.gids[0]})"
    )
