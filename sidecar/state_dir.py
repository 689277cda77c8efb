"""The daemon's private directory: who owns it, and the proof that nobody else does.

The instance id outlives the process, the lock does not. So a restarted daemon that gets the lock knows that the
attempts under this id are its dead predecessor's, and takes over its lease and its doubt at once.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sidecar.errors import InstanceRunning, SidecarError
from sidecar.tokens import new_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class StateDir:
    """A locked `state_dir`; a context manager that holds the lock."""

    def __init__(self, path: Path, *, group: int | None = None) -> None:
        """Touch nothing yet. `group`: id of the group that may reach the control socket in it."""
        self.path = path
        self._group = group
        self.instance = ""
        self._lock = -1

    @property
    def escrow(self) -> Path:
        """Directory of answers on their way to the store."""
        return self.path / "escrow"

    @property
    def control_socket(self) -> Path:
        """Where commands reach the daemon."""
        return self.path / "control.sock"

    def __enter__(self) -> Self:
        """Create the directory with mode 0700, lock it and learn the instance id.

        Raises `InstanceRunning`, or `SidecarError` when the directory cannot be used.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_private()
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._take_lock()
            self.instance = self._identify()
        except OSError as error:
            raise SidecarError(
                f"{self.path}: {error.strerror}; set state_dir to a directory that only the daemon may read and write"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock."""
        os.close(self._lock)

    def _make_private(self) -> None:
        if self.path.stat().st_uid == os.geteuid():
            self.path.chmod(0o700 if self._group is None else 0o710)
            if self._group is not None:
                os.chown(self.path, -1, self._group)
        elif not self.path.is_mount():
            # A volume of the pod's own belongs to root and is as private as the pod; elsewhere whoever owns this
            # directory could read what is put into it.
            raise SidecarError(
                f"{self.path}: belongs to another user; set state_dir to a directory of the daemon's own"
            )

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise InstanceRunning(
                f"{self.path}: another token-sidecar is running on this state_dir; stop it, or wait for its end"
            ) from None

    def _identify(self) -> str:
        path = self.path / "instance"
        known = path.read_text(encoding="ascii").strip() if path.exists() else ""
        if known:
            return known
        # Written whole or not at all: half an id would make the predecessor's attempts look like a stranger's.
        fresh, temporary = new_id(), self.path / ".instance.tmp"
        temporary.write_text(fresh + "\n", encoding="ascii")
        temporary.replace(path)
        return fresh


class SharedStateDir:
    """A `state_dir` whose lock several users in one process hold together: the last one releases it."""

    def __init__(self, make: Callable[[], StateDir]) -> None:
        """Touch nothing yet."""
        self._make = make
        self._users = 0
        self._state: StateDir

    def __enter__(self) -> StateDir:
        """Take the lock, unless it is held here already. Raises as `StateDir` does."""
        if not self._users:
            self._state = self._make().__enter__()
        self._users += 1
        return self._state

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock, unless somebody here still needs it."""
        self._users -= 1
        if not self._users:
            self._state.__exit__(kind, error, traceback)
