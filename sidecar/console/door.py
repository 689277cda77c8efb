"""How the person at this machine gets in: the console leaves, in its private directory, what links are signed with."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec

from sidecar.clock import SystemClock
from sidecar.console.access import LINK
from sidecar.console.signing import Signer, new_id
from sidecar.errors import InstanceRunning, UsageError
from sidecar.state_dir import StateDir

if TYPE_CHECKING:
    from pathlib import Path

FILE = "console.json"


class Door(msgspec.Struct, frozen=True):
    """Where a console is, and the key of its links."""

    url: str
    key: bytes

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Door({self.url})"

    def link(self) -> str:
        """Make a link that lets whoever opens it in, once and for ten minutes."""
        key = Signer(self.key, SystemClock().wall).sign(LINK, new_id())
        return f"{self.url}/sign-in?{urlencode({'key': key})}"


def leave(state_dir: Path, door: Door) -> Path:
    """Write it where this user alone reads it. Raises `SidecarError`, and `OSError`."""
    # Whoever holds its lock has seen to it that the directory is private; otherwise this does.
    with suppress(InstanceRunning), StateDir(state_dir):
        pass
    path = state_dir / FILE
    temporary = path.with_name(f".{FILE}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "wb") as file:
        file.write(msgspec.json.encode(door))
    temporary.replace(path)
    return path


def find(state_dir: Path) -> Door:
    """Read what the console that runs has left. Raises `UsageError`."""
    try:
        return msgspec.json.decode((state_dir / FILE).read_bytes(), type=Door)
    except FileNotFoundError:
        raise UsageError("no console runs on this state_dir; start one: token-sidecar console") from None
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"{state_dir / FILE} can't be read ({type(error).__name__}); run it as the same user"
        ) from None
