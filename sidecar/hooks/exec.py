"""Runs a program: no shell, nothing of our environment, none of our descriptors.

What the program prints is thrown away. It was started because there is a new token, and what it prints may be that
token; so no log may have it, and no test for secrets is good enough to let the rest pass.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from sidecar.errors import HookError
from sidecar.hooks.base import NearbyHook

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anyio.abc import Process

    from sidecar.config.settings import Command, HookSettings
    from sidecar.ports import Occasion

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TERMINATION_SECONDS = 2.0
"""From SIGTERM to SIGKILL, for a program that took too long."""
_REAPING_STEP = 0.02


class ExecHook(NearbyHook):
    """One program in a process group of its own, which ends as a whole. See `Hook` for the contract."""

    def __init__(
        self, settings: HookSettings, command: Command, *, token: str, state_dir: Path, files: Sequence[str]
    ) -> None:
        """See `sidecar.hooks.open_hook`."""
        super().__init__(settings, token, state_dir)
        self._command = command
        self._files = files
        self._groups: set[int] = set()
        """Process groups that may have members left; see `_reap`."""

    async def tell(self, occasion: Occasion) -> None:
        """See `NearbyHook.tell`."""
        self._reap()
        try:
            process = await anyio.open_process(
                list(self._command.argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
                **self._surroundings(occasion),
            )
        except (OSError, ValueError) as error:
            raise HookError(f"{self.id}: it can't be started: {self._reason(error)}") from None
        self._groups.add(process.pid)
        try:
            code = await process.wait()
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    await _end(process)
                self._reap()
        if code != 0:
            raise HookError(f"{self.id}: {_ending(code)}; run it by hand to see what it prints")

    def _surroundings(self, occasion: Occasion) -> dict[str, Any]:
        """Say as whom it runs and what it gets to know: names, and where the token is."""
        mark = occasion.mark
        names = {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "TOKEN_SIDECAR_TOKEN": occasion.token,
            "TOKEN_SIDECAR_LINEAGE": mark.lineage,
            "TOKEN_SIDECAR_GENERATION": str(mark.generation),
            "TOKEN_SIDECAR_OUTPUTS": "\n".join(self._files),
        }
        if self._command.user is None:
            return {"env": names}
        entry = _account(self._command.user)
        if entry is None:
            identity = int(self._command.user)
            return {"env": names, "user": identity, "group": identity, "extra_groups": []}
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        login = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
        return {"env": names | login, "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}

    def _reason(self, error: OSError | ValueError) -> str:
        match error:
            case FileNotFoundError():
                return "there is no such program (or not its interpreter); correct argv[0]"
            case PermissionError() if self._command.user is not None:
                return "permission denied; to run it as another user the daemon has to be root, or leave `user` out"
            case PermissionError():
                return "permission denied; chmod +x it"
            case OSError():
                return f"{error.strerror}; run it by hand"
            case _:
                return "there is no such user; correct `user`"

    def _reap(self) -> None:
        """Take leave of children that outlived the program, where they became ours.

        In a container this process may be the first one, to which orphans fall; anywhere else nothing is found.
        """
        for group in [*self._groups]:
            try:
                while os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is not None:
                    pass
            except ChildProcessError:
                self._groups.discard(group)


def _account(user: str | int) -> pwd.struct_passwd | None:
    """Find a user; None: a number that has no name. Raises `ValueError` for a name that nobody has."""
    try:
        return pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        if isinstance(user, int):
            return None
        raise ValueError(user) from None


async def _end(process: Process) -> None:
    """End the whole group: politely, then certainly, and wait until it is gone."""
    _kill_group(process.pid, signal.SIGTERM)
    with anyio.move_on_after(TERMINATION_SECONDS):
        await process.wait()
    _kill_group(process.pid, signal.SIGKILL)
    await process.wait()
    # Orphans of ours die a moment later, and are nobody else's to wait for.
    with anyio.move_on_after(TERMINATION_SECONDS), suppress(ChildProcessError):
        while True:
            os.waitid(os.P_PGID, process.pid, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 - it doesn't wait
            await anyio.sleep(_REAPING_STEP)


def _kill_group(group: int, signum: signal.Signals) -> None:
    # It keeps its number while it has a member, and the leader is one until it was waited for.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signum)


def _ending(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was ended by signal {-code}"
